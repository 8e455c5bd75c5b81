"""The life of a model: where it comes from, what served when, leases, policy, notices."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    for column in (
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("latest_at", sa.BigInteger(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("cause", sa.JSON(), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("verdict", sa.JSON(), nullable=True),
        sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("libraries", sa.JSON(), nullable=True),
        sa.Column("origin", sa.JSON(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("pinned_at", sa.BigInteger(), nullable=True),
        sa.Column("pinned_until", sa.BigInteger(), nullable=True),
    ):
        op.add_column("models", column)
    for column in (
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("cause", sa.JSON(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("estimated_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("verdict", sa.JSON(), nullable=True),
        sa.Column("promoted", sa.Boolean(), nullable=True),
    ):
        op.add_column("training_jobs", column)
    for column in (
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=True),
    ):
        op.add_column("audit_log", column)
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "version_numbers",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_version_numbers")),
    )
    op.create_table(
        "timeline",
        sa.Column("entry_id", serial, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("back_to", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("entry_id", name=op.f("pk_timeline")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "policies",
        sa.Column("revision", serial, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("policy", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_policies")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notices",
        sa.Column("notice_id", serial, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=True),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("notice_id", name=op.f("pk_notices")),
        sa.UniqueConstraint("key", name=op.f("uq_notices_key")),
        sqlite_autoincrement=True,
    )
    # What serves now has served since it was made, as far as anybody knows.
    op.execute(
        "INSERT INTO timeline (at, version, action, actor, reason, job_id) "
        "SELECT trained_at, version, 'activate', 'migrate', "
        "'served before the timeline was kept', job_id FROM models WHERE is_active"
    )
