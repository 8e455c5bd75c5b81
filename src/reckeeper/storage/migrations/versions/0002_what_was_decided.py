"""What the data decided of a version's settings."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    nothing = sa.text("'{}'")
    op.add_column("models", sa.Column("decided", sa.JSON(), nullable=False, server_default=nothing))
