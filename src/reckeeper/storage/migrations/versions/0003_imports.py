"""How far an import has come, who runs it, and why it failed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for name in ("without_taste", "items", "bytes_done", "bytes_total", "updated_at"):
        number = sa.Column(name, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        op.add_column("imports", number)
    nothing = sa.text("'[]'")
    op.add_column(
        "imports", sa.Column("refusals", sa.JSON(), nullable=False, server_default=nothing)
    )
    for name in ("reason", "actor", "holder", "report"):
        op.add_column("imports", sa.Column(name, sa.Text(), nullable=True))
    op.execute("UPDATE imports SET updated_at = coalesce(finished_at, started_at)")
