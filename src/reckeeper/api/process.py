"""The server as a process, or as several: what `server/server.py` runs."""

import signal
import sys
import tempfile
from pathlib import Path

from reckeeper import config, durable, errors


def main(*, is_supervised: bool = False) -> None:
    """Serve until a signal ends the process; settings come from the environment.

    Under a supervisor even one process is a copy of this one, which replaces it in less than a
    second when it dies; where this one dies, those that answer go on until there are others.
    """
    durable.keep_to_this_user()
    try:
        settings = config.Settings.from_env()
    except errors.ConfigError as exc:
        from reckeeper.api import app

        sys.exit(app.refused(exc))
    if settings.server_processes == 1 and not is_supervised:
        from reckeeper.api import app

        sys.exit(app.serve(settings))
    with tempfile.TemporaryDirectory(prefix="reckeeper-server-") as folder:
        config.share_metrics(Path(folder))
        from reckeeper.api import prefork

        status = prefork.serve(settings, Path(folder), is_supervised=is_supervised)
    if status < 0:
        signal.raise_signal(-status)
    sys.exit(status)
