"""Alembic's scripts: the one history of the schema."""
