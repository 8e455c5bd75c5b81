"""`installation`: one row, the id of the installation and the generation of its interactions.

The migration that makes the database writes it.
"""

import sqlalchemy as sa

from reckeeper.storage.tables import installation


def id_of(connection: sa.Connection) -> str:
    """Return the id of the installation, a UUID."""
    found: str = connection.execute(sa.select(installation.c.installation_id)).scalar_one()
    return found


def generation(connection: sa.Connection) -> int:
    """Return the generation of the interactions: it grows where some go, or change their user."""
    found: int = connection.execute(sa.select(installation.c.generation)).scalar_one()
    return found


def raise_generation(connection: sa.Connection) -> None:
    """Begin another generation, in the transaction that takes interactions away."""
    connection.execute(sa.update(installation).values(generation=installation.c.generation + 1))


def touch(connection: sa.Connection) -> None:
    """Write the row as it is: whether anything can be written."""
    connection.execute(sa.update(installation).values(generation=installation.c.generation))
