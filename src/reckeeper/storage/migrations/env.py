"""Run by Alembic, on the connection that `storage.migrate` hands over."""

from alembic import context

from reckeeper.storage.schema import VERSION_TABLE
from reckeeper.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE[connection.dialect.name],
)
context.run_migrations()
