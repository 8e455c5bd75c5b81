"""What is to be known of how an import was read."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    nothing = sa.text("'[]'")
    op.add_column("imports", sa.Column("notes", sa.JSON(), nullable=False, server_default=nothing))
