"""The headers of the HTTP API that are its own."""

INSTALLATION_HEADER = "X-Reckeeper-Installation"
"""In every answer: the id of the installation that the process belongs to."""

CALLER_HEADER = "X-Reckeeper-Caller"
"""From the server to the worker: who is proven to ask; of anybody else it says nothing."""

TICKET_HEADER = "X-Reckeeper-Ticket"
"""From the server to the worker: a job may start as long as the server has not given up."""
