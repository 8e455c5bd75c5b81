"""Erasures of people: their receipts, what stops what was erased from coming back, its key."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
VERSION = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("erasure_id", SERIAL, nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("erased_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("interactions", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.JSON(), nullable=False),
        sa.Column("shaped_versions", sa.JSON(), nullable=False),
        sa.Column("pickles_deleted", sa.JSON(), nullable=False),
        sa.Column("pickles_left", sa.JSON(), nullable=False),
        sa.Column("is_wiped", sa.Boolean(), nullable=False),
        sa.Column("remains", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("version", VERSION, nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("signature", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasures")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tombstones",
        sa.Column("user_hash", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_hash", name=op.f("pk_tombstones")),
    )
    op.add_column("installation", sa.Column("erasure_key", sa.String(64), nullable=True))
    op.execute(f"UPDATE installation SET erasure_key = '{secrets.token_hex(32)}'")
    op.add_column("models", sa.Column("pickle_erased_at", sa.BigInteger(), nullable=True))
