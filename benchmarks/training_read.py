"""Reading for training from PostgreSQL: ``python -m benchmarks.training_read [ROWS]``.

20 million interactions of 131,072 users with 21,845 items, made by the
database itself, read into the log that training works on. Beside it, in the
same run: the bare rows over the same way, and summed by the database (which
leaves out when things happened, so that nothing can be held out by time).
Each in a fresh process.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from benchmarks import harness
from reckeeper import matrix, storage
from reckeeper.config import Settings
from reckeeper.storage import interactions

_FILL = """
    INSERT INTO user_interactions
        (event_id, user_id, item_id, interaction_type, weight, occurred_at)
    SELECT 'e-' || n, 'user-' || (hashint4(n) & 131071),
        'item-' || ((hashint4(n * 7) & 65535)::bigint * (hashint4(n + 3) & 65535) / 65536 / 3),
        CASE WHEN n % 20 = 0 THEN 'watchlist_add' ELSE 'click' END, 1.0,
        1700000000000000 + n::bigint * 1000000
    FROM generate_series({first}, {last}) AS n
"""
_FILL_ROWS = 1_000_000
_SUMS = """
    SELECT user_id, item_id, interaction_type,
        sum(weight) AS weight, max(occurred_at) AS occurred_at
    FROM user_interactions GROUP BY user_id, item_id, interaction_type
"""


def _batches(connection: storage.Connection, way: str) -> Iterator[pa.RecordBatch]:
    if way == "sums":
        yield from interactions._arrow_batches(connection, _SUMS, 100_000)
    else:
        yield from interactions.read_batches(connection)


def read(way: str) -> dict[str, Any]:
    """Read in this process by one way: ``log``, ``rows``, ``sums``."""
    database = storage.open_database(Settings.from_env())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.perf_counter()
    with database.read() as connection:
        found = _batches(connection, way)
        if way == "rows":
            n_rows = sum(batch.num_rows for batch in found)
        else:
            n_rows = len(matrix.read_log(found, type_weights={"click": 1, "watchlist_add": 2}))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": n_rows,
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak,
        "memory_before_bytes": before,
    }


def run(n_rows: int = 20_000_000) -> dict[str, Any]:
    """Fill a table, then read it by each way."""
    from tests.services import PostgreSQL

    with (
        PostgreSQL() as cluster,
        harness.installation(DATABASE_URL=cluster.create("bench")) as settings,
    ):
        database = storage.open_database(settings)
        for first in range(1, n_rows + 1, _FILL_ROWS):
            with database.write() as connection:
                last = min(first + _FILL_ROWS - 1, n_rows)
                connection.exec_driver_sql(_FILL.format(first=first, last=last).replace("%", "%%"))
        with cluster.connect("bench") as connection:
            connection.execute("VACUUM ANALYZE user_interactions")
            size = connection.execute(
                "SELECT pg_table_size('user_interactions'), pg_indexes_size('user_interactions')"
            ).fetchone()
        assert size is not None
        database.close()
        results: dict[str, Any] = {
            "benchmark": "training_read",
            "table_bytes": size[0],
            "indexes_bytes": size[1],
        }
        for way in ("log", "rows", "sums"):
            results[way] = harness.in_fresh_process(
                "benchmarks.training_read", way, environ=settings.to_env()
            )
    return results


if __name__ == "__main__":
    if sys.argv[1:] and not sys.argv[1].isdecimal():
        print(json.dumps(read(sys.argv[1])))
    else:
        print(json.dumps(run(*map(int, sys.argv[1:]))))
