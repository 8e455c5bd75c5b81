"""All SQL: the database, its tables and its migrations.

Speaks in frozen records and Arrow batches. Each submodule has the statements
of one table, as functions of a connection, so that a caller decides what is
one transaction::

    with database.write() as connection:
        interactions.append(connection, rows)
        audit_log.insert(connection, ...)
"""

from sqlalchemy import Connection

from reckeeper.storage import (
    activity,
    api_keys,
    audit_log,
    copies,
    erasures,
    imports,
    installation,
    interactions,
    items,
    jobs,
    leases,
    lookups,
    merges,
    models,
    notices,
    policies,
    stream_offsets,
    tickets,
    timeline,
    tombstones,
    wiping,
)
from reckeeper.storage.connections import after_commit, planned, settings_of
from reckeeper.storage.engine import (
    SCHEMA_REVISION,
    Database,
    is_unreachable,
    migrate,
    open_database,
)
from reckeeper.storage.items import Item
from reckeeper.storage.records import (
    ApiKey,
    AuditEntry,
    Erasure,
    Import,
    Job,
    JobSummary,
    Lease,
    ListedVersion,
    Notice,
    PolicyRevision,
    TimelineEntry,
    Version,
    VersionSummary,
    made,
)

__all__ = [
    "SCHEMA_REVISION",
    "ApiKey",
    "AuditEntry",
    "Connection",
    "Database",
    "Erasure",
    "Import",
    "Item",
    "Job",
    "JobSummary",
    "Lease",
    "ListedVersion",
    "Notice",
    "PolicyRevision",
    "TimelineEntry",
    "Version",
    "VersionSummary",
    "activity",
    "after_commit",
    "api_keys",
    "audit_log",
    "copies",
    "erasures",
    "imports",
    "installation",
    "interactions",
    "is_unreachable",
    "items",
    "jobs",
    "leases",
    "lookups",
    "made",
    "merges",
    "migrate",
    "models",
    "notices",
    "open_database",
    "planned",
    "policies",
    "settings_of",
    "stream_offsets",
    "tickets",
    "timeline",
    "tombstones",
    "wiping",
]
