"""The headers of the HTTP API that are its own."""

INSTALLATION_HEADER = "X-Reckeeper-Installation"
"""In every answer: the id of the installation that the process belongs to."""
