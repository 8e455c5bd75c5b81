"""Which installation this database is of: one row, made with the database."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    table = op.create_table(
        "installation",
        sa.Column("installation_id", sa.String(length=36), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("installation_id", name=op.f("pk_installation")),
    )
    row = {"installation_id": str(uuid.uuid4()), "made_at": time.time_ns() // 1000}
    op.bulk_insert(table, [row])
