"""The tables. Times are microseconds since 1970-01-01 UTC."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers only a column of type INTEGER by itself.
_Serial = BigInteger().with_variant(Integer(), "sqlite")
_JsonOrNull = JSON(none_as_null=True)
# A request may ask for any number; SQLite's integers hold it.
_Version = Integer().with_variant(BigInteger(), "postgresql")
# Compared byte by byte, as in SQLite: the order of no language, and faster.
_Id = String(256).with_variant(String(256, collation="C"), "postgresql")

imports = Table(
    "imports",
    metadata,
    Column("import_id", _Serial, primary_key=True),
    Column("source", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("is_demo", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("first_id", BigInteger),
    Column("last_id", BigInteger),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    sqlite_autoincrement=True,
)

# AUTOINCREMENT: a number that an undone import has freed must not come again,
# or it would lie below the watermark of a model that has not seen it.
user_interactions = Table(
    "user_interactions",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("event_id", _Id, nullable=False, unique=True),
    Column("user_id", _Id, nullable=False, index=True),
    Column("item_id", _Id, nullable=False),
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

items = Table(
    "items",
    metadata,
    Column("item_id", _Id, primary_key=True),
    Column("title", Text),
    Column("attributes", JSON, nullable=False),
    Column("import_id", BigInteger),
)

# A pair that was taken off stays as a row, so that a late addition with an
# earlier time does not bring it back.
watchlist = Table(
    "watchlist",
    metadata,
    Column("user_id", _Id, primary_key=True),
    Column("item_id", _Id, primary_key=True),
    Column("is_listed", Boolean, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# `kind`: see `jobs`. `request`: what was asked for. `progress`: what tuning has found so far.
# `result`: what an evaluation has measured so far. `finish_requested`: tuning is to end with
# the best that it has. `cause`: the rule that fired, with its numbers. `fence`: number of the
# lease that it holds. `watermark`: the last interaction when it started.
training_jobs = Table(
    "training_jobs",
    metadata,
    Column("job_id", _Serial, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("trigger", String(64), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("fraction", Float, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("heartbeat_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("version", _Version),
    Column("peak_memory_bytes", BigInteger),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("kind", String(16), nullable=False, server_default="retrain"),
    Column("request", JSON, nullable=False, server_default=text("'{}'")),
    Column("progress", _JsonOrNull),
    Column("result", _JsonOrNull),
    Column("finish_requested", Boolean, nullable=False, server_default=false()),
    Column("actor", Text),
    Column("cause", _JsonOrNull),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Column("watermark", BigInteger),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("estimated_memory_bytes", BigInteger),
    Column("memory_bytes", BigInteger),
    Column("verdict", _JsonOrNull),
    Column("promoted", Boolean),
    sqlite_autoincrement=True,
)
Index(
    "uq_training_jobs_one_running",
    training_jobs.c.status,
    unique=True,
    sqlite_where=text("status = 'running'"),
    postgresql_where=text("status = 'running'"),
)

# One row a thing that only one process may do at a time. `fence` grows with each holder.
leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

# A number is taken before its files are written: files of one that was taken and never
# became a version are what a process that died has left.
version_numbers = Table(
    "version_numbers",
    metadata,
    Column("version", _Version, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger),
    Column("reserved_at", BigInteger, nullable=False),
)

# `fingerprint`, `latest_at`: of the interactions that went in. `data`: how they were weighed
# and chosen. `actor`, `cause`: who or what asked for it, and why. `origin`: where an imported
# one comes from.
models = Table(
    "models",
    metadata,
    Column("version", _Version, primary_key=True, autoincrement=False),
    Column("is_active", Boolean, nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("n_users", BigInteger, nullable=False),
    Column("n_items", BigInteger, nullable=False),
    Column("training_samples", BigInteger, nullable=False),
    Column("explained_variance", Float, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("trained_at", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("trigger", String(64), nullable=False),
    Column("job_id", BigInteger, ForeignKey("training_jobs.job_id")),
    Column("is_demo", Boolean, nullable=False),
    Column("native_bytes", BigInteger, nullable=False),
    Column("native_sha256", String(64), nullable=False),
    Column("pickle_bytes", BigInteger, nullable=False),
    Column("pickle_sha256", String(64), nullable=False),
    Column("deleted_at", BigInteger),
    Column("fingerprint", String(64)),
    Column("latest_at", BigInteger),
    Column("data", _JsonOrNull),
    Column("actor", Text),
    Column("cause", _JsonOrNull),
    Column("metrics", _JsonOrNull),
    Column("verdict", _JsonOrNull),
    Column("peak_memory_bytes", BigInteger),
    Column("libraries", _JsonOrNull),
    Column("origin", _JsonOrNull),
    Column("note", Text),
    Column("pinned_at", BigInteger),
    Column("pinned_until", BigInteger),
)
Index(
    "uq_models_one_active",
    models.c.is_active,
    unique=True,
    sqlite_where=text("is_active"),
    postgresql_where=text("is_active"),
)

# What served from when on; None: nothing. `back_to`: the entry that a roll back leads to.
timeline = Table(
    "timeline",
    metadata,
    Column("entry_id", _Serial, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("version", _Version),
    Column("action", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("job_id", BigInteger),
    Column("back_to", BigInteger),
    sqlite_autoincrement=True,
)

policies = Table(
    "policies",
    metadata,
    Column("revision", _Serial, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("policy", JSON, nullable=False),
    sqlite_autoincrement=True,
)

# What a webhook is told. `key`: of several with one key the first stands. Without a
# `next_attempt_at` nothing is left to do: it was delivered, or given up.
notices = Table(
    "notices",
    metadata,
    Column("notice_id", _Serial, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("key", String(128), unique=True),
    Column("payload", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", BigInteger),
    Column("delivered_at", BigInteger),
    Column("last_error", Text),
    sqlite_autoincrement=True,
)

installation = Table(
    "installation",
    metadata,
    Column("installation_id", String(36), primary_key=True),
    Column("made_at", BigInteger, nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_id", _Serial, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Column("previous_hash", String(64)),
    Column("hash", String(64)),
    sqlite_autoincrement=True,
)
