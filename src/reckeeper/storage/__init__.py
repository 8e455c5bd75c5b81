"""All SQL: the database, its tables and its migrations.

Speaks in rows (plain dicts, named tuples) and Arrow batches. Each submodule
has the statements of one table, as functions of a connection, so that a
caller decides what is one transaction::

    with database.write() as connection:
        interactions.append(connection, rows)
        audit_log.insert(connection, ...)
"""

from sqlalchemy import Connection

from reckeeper.storage import audit_log, imports, interactions, items, jobs, models
from reckeeper.storage.engine import SCHEMA_REVISION, Database, migrate, now, open_database
from reckeeper.storage.interactions import Interaction
from reckeeper.storage.items import Item

__all__ = [
    "SCHEMA_REVISION",
    "Connection",
    "Database",
    "Interaction",
    "Item",
    "audit_log",
    "imports",
    "interactions",
    "items",
    "jobs",
    "migrate",
    "models",
    "now",
    "open_database",
]
