"""`python -m reckeeper.page`: the page, on the address and port of the settings."""

import os
import sys
from pathlib import Path

from reckeeper.config import Settings
from reckeeper.errors import ConfigError

ENTRY = Path(__file__).parent / "entry" / "Home.py"


def main() -> None:
    """Show the page until a signal ends the process."""
    os.umask(0o077)  # what is uploaded is for this user alone
    try:
        settings = Settings.from_env()
    except ConfigError as exc:
        sys.exit(exc.message)
    from streamlit.web import cli

    sys.argv = [
        *("streamlit", "run", str(ENTRY)),
        "--server.headless=true",
        f"--server.address={settings.host}",
        f"--server.port={settings.ui_port}",
        f"--server.maxUploadSize={-(-settings.page_max_upload_bytes // 2**20)}",
        "--browser.gatherUsageStats=false",
    ]
    cli.main()


if __name__ == "__main__":
    main()
