"""What the commands that work straight at the database share: opening it, making it."""

import contextlib
from typing import TYPE_CHECKING

from reckeeper.cli import installation
from reckeeper.cli.terminal import warn
from reckeeper.config import Settings
from reckeeper.errors import SchemaError

if TYPE_CHECKING:  # the help of a command does without SQL
    from reckeeper import storage


def read_only() -> "storage.Database":
    """Open the database of the settings for a command that changes nothing.

    Raises
    ------
    SchemaError
        There is no database, or it has another schema.
    """
    from reckeeper import storage, telemetry

    telemetry.configure_logging("cli")
    return storage.open_database(installation.settings())


def opened(settings: Settings) -> "storage.Database":
    """Open the database for a command that changes something.

    Raises
    ------
    ConfigError
        The installation's server answers, and is of another installation.
    SchemaError
        There is no database, or it has another schema.
    """
    from reckeeper import storage, telemetry

    telemetry.configure_logging("cli")
    database = storage.open_database(settings)
    try:
        installation.check(settings, _id_of(database))
    except BaseException:
        database.close()
        raise
    return database


def migrate(settings: Settings) -> str | None:
    """Make the database or bring it to this release's schema; return the one it had before."""
    from reckeeper import storage

    before = storage.migrate(settings)
    note_installation(settings)
    return before


def note_installation(settings: Settings) -> None:
    """Write into the data folder which installation its database is of."""
    from reckeeper import storage

    with contextlib.closing(storage.open_database(settings)) as database:
        installation.note_id(settings, _id_of(database))


def made_or_opened(settings: Settings) -> "storage.Database":
    """Open the database as `opened` does; make it where there is none, and say so on stderr.

    Raises
    ------
    ConfigError
        The installation's server answers, and is of another installation;
        nothing was made.
    """
    try:
        return opened(settings)
    except SchemaError:
        installation.check(settings, None)
    if migrate(settings) is None:
        warn(f"A new installation was made: {installation.database_of(settings)}.")
    return opened(settings)


def _id_of(database: "storage.Database") -> str:
    from reckeeper import storage

    with database.read() as connection:
        return storage.installation.id_of(connection)
