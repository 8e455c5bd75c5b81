"""Streams: how far each partition is stored; and what PostgreSQL needs besides."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "stream_offsets",
        sa.Column("topic", sa.String(length=255), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("topic_id", sa.String(length=64), nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", name=op.f("pk_stream_offsets")),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    # Before this revision no table was in PostgreSQL: all of them are empty here.
    for table, column in (
        ("user_interactions", "event_id"),
        ("user_interactions", "user_id"),
        ("user_interactions", "item_id"),
        ("items", "item_id"),
        ("watchlist", "user_id"),
        ("watchlist", "item_id"),
    ):
        op.alter_column(table, column, type_=sa.String(length=256, collation="C"))
    for table in ("models", "timeline", "training_jobs", "version_numbers"):
        op.alter_column(table, "version", type_=sa.BigInteger())
    op.create_index(
        op.f("ix_user_interactions_occurred_at"),
        "user_interactions",
        ["occurred_at"],
        unique=False,
        postgresql_using="brin",
    )
