"""Jobs of several kinds, with what was asked for, what tuning has found, and a result."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for column in (
        sa.Column("kind", sa.String(length=16), server_default="retrain", nullable=False),
        sa.Column("request", sa.JSON(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("finish_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
    ):
        op.add_column("training_jobs", column)
