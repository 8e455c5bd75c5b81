"""The installation that a command belongs to: its file in the data folder, and its server.

`up`, `migrate` and `import` write into the data folder which installation its
database is of and where its models lie, and `up` the addresses while it runs. A
command finds its models and its server there, and does not begin where that
server is of another installation.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from reckeeper.config import Settings
from reckeeper.errors import ConfigError, ReckeeperError

FILE = "installation.json"

_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Installation:
    """What the file in the data folder says.

    Attributes
    ----------
    installation_id : str
    database : str
        As people see it, without a password.
    schema : str
        The one of PostgreSQL; SQLite has none, and ignores it.
    model_dir : str
    server_url, worker_url, page_url : str or None
        None while `up` does not run.
    """

    installation_id: str
    database: str
    schema: str
    model_dir: str
    server_url: str | None = None
    worker_url: str | None = None
    page_url: str | None = None


def settings() -> Settings:
    """Return the environment's settings, with the model folder of the installation they name.

    From another folder the default would be another folder; RECKEEPER_MODEL_DIR comes first.
    """
    given = Settings.from_env()
    found = known(given)
    if found is None or "model_dir" in given.model_fields_set:
        return given
    model_dir = Path(found.model_dir)
    return given.replaced(model_dir=model_dir) if model_dir.is_dir() else given


def database_of(settings: Settings) -> str:
    """Return the name of the database that the settings mean, without a password."""
    return settings.masked_database_url or str(settings.data_dir / "reckeeper.sqlite3")


def known(settings: Settings) -> Installation | None:
    """Return what the file says; None if it is not there or speaks of another database."""
    try:
        found = Installation(**json.loads((settings.data_dir / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    place = (database_of(settings), settings.database_schema)
    return found if (found.database, found.schema) == place else None


def known_id(settings: Settings) -> str | None:
    """Return the installation's id, of its file or else of its database; None if neither says it.

    A database that is unavailable, or of another schema, says nothing.
    """
    found = known(settings)
    if found is not None:
        return found.installation_id
    if settings.is_embedded and not Path(database_of(settings)).exists():
        return None
    from reckeeper import storage

    with (
        contextlib.suppress(ReckeeperError),
        contextlib.closing(storage.open_database(settings)) as database,
        database.read() as connection,
    ):
        return storage.installation.id_of(connection)
    return None


def write(settings: Settings, installation: Installation) -> None:
    """Put the file into the data folder, whole or not at all.

    Where the database is not in the data folder, one that cannot be written is
    done without: commands then ask the server that the settings name.
    """
    file = settings.data_dir / FILE
    unfinished = file.with_name(f"{FILE}.{os.getpid()}")
    ignored = () if settings.is_embedded else (OSError,)
    with contextlib.suppress(*ignored):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(dataclasses.asdict(installation), indent=2) + "\n")
        unfinished.replace(file)


def note_id(settings: Settings, installation_id: str) -> None:
    """Write which installation the database is of; addresses of a running `up` stay."""
    found = known(settings)
    model_dir = str(settings.model_dir)
    if found is not None and found.installation_id == installation_id:
        noted = dataclasses.replace(found, model_dir=model_dir)
    else:
        place = (database_of(settings), settings.database_schema)
        noted = Installation(installation_id, *place, model_dir)
    if noted != found:
        write(settings, noted)


def server_url(settings: Settings) -> str:
    """Return where the installation's server is.

    That is the address in RECKEEPER_SERVER_URL, or else the one at which `up`
    started it, or else the one of the settings' host and port.
    """
    if "server_url" in settings.model_fields_set:
        return settings.server_url
    found = known(settings)
    return (found and found.server_url) or settings.server_url


def answering(url: str) -> str | None:
    """Return the id of the installation whose server answers at `url`; None if none does."""
    # No proxy: what stands on this machine or beside it is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health/live", timeout=_PROBE_SECONDS) as answer:
            from reckeeper.wire.headers import INSTALLATION_HEADER

            found: str | None = answer.headers[INSTALLATION_HEADER]
            return found
    except (OSError, ValueError, http.client.HTTPException):  # the last: it speaks no HTTP
        return None


def check(settings: Settings, installation_id: str | None) -> None:
    """See that a server that answers is of this installation.

    Parameters
    ----------
    settings : Settings
    installation_id : str or None
        The database's id; None if there is no database yet.

    Raises
    ------
    ConfigError
        It is of another one.
    """
    url = server_url(settings)
    there = answering(url)
    if there is None or there == installation_id:
        return
    database = database_of(settings)
    which = "belongs to another one" if installation_id else "does not exist yet"
    raise ConfigError(
        f"The server at {url} belongs to the installation {there}, and the database {database} "
        f"{which}: nothing was done. To use the installation of that server, set "
        "RECKEEPER_DATA_DIR to its data folder (or DATABASE_URL to its database). To use "
        f"{database}, give it a server of its own: set RECKEEPER_SERVER_PORT to a free port, here "
        "and for `reckeeper up`, or RECKEEPER_SERVER_URL to where its server is."
    )
