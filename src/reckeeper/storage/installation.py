"""`installation`: one row, the id of the installation that the database is of.

The migration that makes the database writes it.
"""

import sqlalchemy as sa

from reckeeper.storage.tables import installation


def id_of(connection: sa.Connection) -> str:
    """Return the id of the installation, a UUID."""
    found: str = connection.execute(sa.select(installation.c.installation_id)).scalar_one()
    return found
