"""The tables of the database."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from reckeeper.storage.records import (
    BIG_SERIAL,
    ID,
    VERSION,
    ApiKey,
    AuditEntry,
    Erasure,
    Import,
    Job,
    Lease,
    Notice,
    PolicyRevision,
    TimelineEntry,
    Version,
    columns_of,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

imports = Table("imports", metadata, *columns_of(Import), sqlite_autoincrement=True)

# AUTOINCREMENT: a number that an undone import has freed must not come again,
# or it would lie below the watermark of a model that has not seen it.
user_interactions = Table(
    "user_interactions",
    metadata,
    Column("id", BIG_SERIAL, primary_key=True),
    Column("event_id", ID, nullable=False, unique=True),
    Column("user_id", ID, nullable=False, index=True),
    Column("item_id", ID, nullable=False, index=True),
    Column("interaction_type", String(64), nullable=False),
    Column("weight", Float, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("import_id", BigInteger),
    sqlite_autoincrement=True,
)
# Times grow with the numbers, so a block range index of some kilobytes finds the latest.
Index(
    "ix_user_interactions_occurred_at", user_interactions.c.occurred_at, postgresql_using="brin"
).ddl_if(dialect="postgresql")

# Up to where the partitions of a topic are stored.
stream_offsets = Table(
    "stream_offsets",
    metadata,
    Column("topic", String(255), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("topic_id", String(64), nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# `revision` is that of the catalogue which changed the row last: whoever holds an older one reads
# what is newer. `search_text` is what a search looks in: title and id, folded.
items = Table(
    "items",
    metadata,
    Column("item_id", ID, primary_key=True),
    Column("title", Text),
    Column("categories", JSON, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("available", Boolean, nullable=False),
    Column("available_from", BigInteger),
    Column("available_until", BigInteger),
    Column("search_text", Text, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("import_id", BigInteger),
    Column("revision", BigInteger, nullable=False, index=True),
)

# One that has come back since stays here, with the revision that took it out.
removed_items = Table(
    "removed_items",
    metadata,
    Column("item_id", ID, primary_key=True),
    Column("revision", BigInteger, nullable=False, index=True),
)

# One row, which the migration that makes the database writes.
catalogue = Table(
    "catalogue",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
)

# A pair that was taken off stays as a row, so that a late addition with an
# earlier time does not bring it back.
watchlist = Table(
    "watchlist",
    metadata,
    Column("user_id", ID, primary_key=True),
    Column("item_id", ID, primary_key=True),
    Column("is_listed", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Whose interactions are an account's since a merge; an account is never a visitor here. What is
# still to come under a visitor's id goes to the account, so an erasure of the account takes these
# rows last, and with them what came from the visitors: that has the account's id.
user_merges = Table(
    "user_merges",
    metadata,
    Column("visitor_id", ID, primary_key=True),
    Column("user_id", ID, nullable=False, index=True),
    Column("merged_at", BigInteger, nullable=False, index=True),
)

training_jobs = Table("training_jobs", metadata, *columns_of(Job), sqlite_autoincrement=True)
Index(
    "uq_training_jobs_one_running",
    training_jobs.c.status,
    unique=True,
    sqlite_where=text("status = 'running'"),
    postgresql_where=text("status = 'running'"),
)

leases = Table("leases", metadata, *columns_of(Lease))

# A number is taken before its files are written: files of one that was taken and never
# became a version are what a process that died has left.
version_numbers = Table(
    "version_numbers",
    metadata,
    Column("version", VERSION, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger),
    Column("reserved_at", BigInteger, nullable=False),
)

models = Table("models", metadata, *columns_of(Version))
Index(
    "uq_models_one_active",
    models.c.is_active,
    unique=True,
    sqlite_where=text("is_active"),
    postgresql_where=text("is_active"),
)

timeline = Table("timeline", metadata, *columns_of(TimelineEntry), sqlite_autoincrement=True)

policies = Table("policies", metadata, *columns_of(PolicyRevision), sqlite_autoincrement=True)

notices = Table("notices", metadata, *columns_of(Notice), sqlite_autoincrement=True)

audit_log = Table("audit_log", metadata, *columns_of(AuditEntry), sqlite_autoincrement=True)

# They are revoked, never deleted: what they did stays in the trail under their names.
api_keys = Table("api_keys", metadata, *columns_of(ApiKey))
Index(
    "uq_api_keys_one_of_a_name",
    api_keys.c.name,
    unique=True,
    sqlite_where=text("revoked_at IS NULL"),
    postgresql_where=text("revoked_at IS NULL"),
)

# One row, which the migration that makes the database writes. `generation` is that of the
# interactions: who takes some of them away, or gives them to another user, raises it. `erasure_key`
# is that of the hashes in `tombstones`.
installation = Table(
    "installation",
    metadata,
    Column("installation_id", String(36), primary_key=True),
    Column("made_at", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("erasure_key", String(64)),
)

erasures = Table("erasures", metadata, *columns_of(Erasure), sqlite_autoincrement=True)

# Whose interactions are not taken where they occurred up to a moment, by keyed hash.
tombstones = Table(
    "tombstones",
    metadata,
    Column("user_hash", String(64), primary_key=True),
    Column("until", BigInteger, nullable=False),
)
