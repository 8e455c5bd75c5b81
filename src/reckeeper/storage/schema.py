"""The schema of a database: which one it has, and whether there is room for ours."""

import sqlalchemy as sa

from reckeeper.config import Settings
from reckeeper.errors import Action, SchemaError
from reckeeper.storage.tables import metadata

VERSION_TABLE = {"sqlite": "alembic_version", "postgresql": "reckeeper_alembic_version"}
"""Where Alembic keeps the revision; in PostgreSQL others may use the same schema."""


def see_that_it_is_free(connection: sa.Connection, settings: Settings, shown: str) -> None:
    """Make the schema if it is not there; raise if it holds tables of others by our names."""
    if connection.dialect.name == "postgresql":
        schema = settings.database_schema
        if not sa.inspect(connection).has_schema(schema):
            connection.execute(sa.schema.CreateSchema(schema))
            return
        # Tables and views of every kind; they share their names with indexes and types.
        relations = sa.text(
            "SELECT relname FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace "
            "WHERE space.nspname = :schema"
        )
        names = set(connection.execute(relations, {"schema": schema}).scalars())
        where = f"schema {schema!r} of the database {shown}"
        remedy, action = (
            "Name another schema for Reckeeper (RECKEEPER_DATABASE_SCHEMA=reckeeper; it is made "
            "if need be), then migrate again. What is there can be imported.",
            Action("import_query"),
        )
    else:
        inspector = sa.inspect(connection)
        names = set(inspector.get_table_names())
        where = f"database {shown}"
        remedy = "Name another file in DATABASE_URL, then migrate again."
        action = Action("migrate")
    taken = sorted(names & set(metadata.tables))
    if taken:
        raise SchemaError(
            f"The {where} has a table {taken[0]!r} already that Reckeeper did not make: it was "
            f"left as it is. {remedy}",
            action=action,
        )


def revision_on(connection: sa.Connection, settings: Settings) -> str | None:
    """Read what Alembic has written, without it: importing it takes longer than a command."""
    # In PostgreSQL not another schema's on the search path.
    schema = settings.database_schema if connection.dialect.name == "postgresql" else None
    name = VERSION_TABLE[connection.dialect.name]
    if not sa.inspect(connection).has_table(name, schema=schema):
        return None
    versions = sa.table(name, sa.column("version_num", sa.String), schema=schema)
    return connection.execute(sa.select(versions.c.version_num)).scalar_one_or_none()
