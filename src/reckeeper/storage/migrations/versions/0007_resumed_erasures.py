"""An erasure can be resumed, and says which pickles were written anew."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("erasures", sa.Column("user_ids", sa.JSON(none_as_null=True), nullable=True))
    op.add_column(
        "erasures",
        sa.Column("pickles_rewritten", sa.JSON(), nullable=False, server_default=sa.text("'[]'")),
    )
