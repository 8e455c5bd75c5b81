"""PostgreSQL's drivers, which the extra `postgres` brings: only this module imports them."""

import hashlib
from collections.abc import Iterator
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi
import psycopg
import pyarrow as pa
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo

from reckeeper.config import Settings
from reckeeper.storage.connections import settings_of
from reckeeper.storage.engine import BUSY_TIMEOUT_SECONDS

ERRORS = (psycopg.Error, adbc_driver_manager.Error)
"""What the drivers raise."""

# SQLSTATE: those that speak of the whole connection.
_LOST = ("08", "57P")


def is_lost(reason: object) -> bool:
    """Return whether a driver's error says that the connection is gone, or was never made."""
    if isinstance(reason, psycopg.OperationalError) and reason.sqlstate is None:
        return True
    return isinstance(reason, ERRORS) and (reason.sqlstate or "").startswith(_LOST)


def make_engine(url: sa.URL, settings: Settings, *, n_processes: int = 1) -> sa.Engine:
    """Make the engine of a database: what its connections and transactions begin with.

    It has up to 20, and of several processes that do the same each its share, but 4 at least.
    """
    n_kept = max(2, 10 // n_processes)
    engine = sa.create_engine(
        url,
        pool_size=n_kept,
        max_overflow=n_kept,
        pool_pre_ping=True,  # a database that was started again costs nobody a request
        connect_args={
            "connect_timeout": 5,
            # A peer that vanished without a word is noticed in half a minute.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
            "application_name": "reckeeper",
            **url.query,
        },
    )
    # Two installations in two schemas of one database do not wait for each other.
    name = f"reckeeper {settings.database_schema}".encode()
    lock = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
    # A writer that is stopped in the middle would keep all others out for ever.
    begin = (
        f"SELECT set_config('idle_in_transaction_session_timeout', '{BUSY_TIMEOUT_SECONDS}s', true)"
        f", pg_advisory_xact_lock({lock})"
    )

    def on_connect(dbapi_connection: psycopg.Connection[Any], _record: Any) -> None:
        with dbapi_connection.cursor() as cursor:
            for setting, value in (
                ("search_path", f'"{settings.database_schema}"'),
                ("lock_timeout", f"{BUSY_TIMEOUT_SECONDS}s"),
                # Readers compute between two statements, training's for minutes.
                ("idle_in_transaction_session_timeout", "0"),
                ("timezone", "UTC"),
            ):
                cursor.execute("SELECT set_config(%s, %s, false)", (setting, value))
        dbapi_connection.commit()

    def on_begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("reckeeper_writes", False):
            connection.exec_driver_sql(begin)

    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", on_begin)
    return engine


def arrow_batches(
    connection: sa.Connection, query: str, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Run a query in the snapshot of `connection`, and give its rows, so many at a time.

    Arrow's own driver reads them, several times as fast as row by row.
    """
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]
    target = make_conninfo("", **info.get_parameters(), password=info.password)
    snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
    schema = settings_of(connection).database_schema
    with adbc_driver_postgresql.dbapi.connect(target) as reader, reader.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        cursor.execute(f'SET LOCAL search_path TO "{schema}"')
        cursor.execute(query)
        for batch in cursor.fetch_record_batch():
            for start in range(0, batch.num_rows, batch_rows):
                yield batch.slice(start, batch_rows)
