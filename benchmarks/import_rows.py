"""Import of a large file: ``python -m benchmarks.import_rows [--rows 5000000] [--json-lines]``.

Generates a file with long-tailed users and items and imports it with the real
command in a child process. The limit beside it, in the same run: rows made
beforehand, inserted into the same table by a bare `sqlite3.executemany`, which
fills all indexes row by row. Beside more than 5,000,000 rows, for which that
takes hours, it is the command's rate for the first 5,000,000 of them.

Takes about 45 bytes of disk a row for the file and 190 for the database, and 60
while an index is made, all in `TMPDIR`: 30 GB for 100,000,000.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from reckeeper import storage
from reckeeper.config import Settings

N_USERS = 200_000
N_ITEMS = 50_000
BATCH_ROWS = 80_000
FIRST_TIME = 1_500_000_000
FEW_ROWS = 5_000_000


def run(n_rows: int = FEW_ROWS, *, as_json: bool = False) -> dict[str, Any]:
    """Measure rows per second of both, and the command's peak memory."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as name:
        folder = Path(name)
        measured: dict[str, Any] = {"benchmark": "import_rows", "rows": n_rows}
        if n_rows > FEW_ROWS:
            measured["few"] = _import_rows(folder / "few", FEW_ROWS, as_json=as_json)
        measured["command"] = _import_rows(folder / "imported", n_rows, as_json=as_json)
        if n_rows <= FEW_ROWS:
            measured["bare_executemany"] = _insert_bare(folder / "bare", n_rows=n_rows)
        beside = measured.get("few") or measured["bare_executemany"]
        rate = measured["command"]["rows_per_second"]
        measured["ratio"] = round(rate / beside["rows_per_second"], 3)
        return measured


def _import_rows(folder: Path, n_rows: int, *, as_json: bool) -> dict[str, Any]:
    """Import so many rows into a new database, and take it away again.

    What was measured is told at once: a run of 100,000,000 rows may end before its summary.
    """
    folder.mkdir()
    file = folder / ("interactions.jsonl" if as_json else "interactions.csv")
    (_write_lines if as_json else _write_file)(file, n_rows)
    imported = _import_by_command(file, folder / "data", n_rows=n_rows)
    imported["file_bytes"] = file.stat().st_size
    print(f"{n_rows:,} rows: {json.dumps(imported)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder)
    return imported


def _columns(n_rows: int) -> Iterator[pa.RecordBatch]:
    """Give the rows in parts: users and items log-uniform over their ranks, times ascending."""
    draw = np.random.default_rng(0)
    users_of_ranks = pa.array([f"user-{user}" for user in draw.permutation(N_USERS).tolist()])
    items_of_ranks = pa.array([f"item-{item}" for item in draw.permutation(N_ITEMS).tolist()])
    for start in range(0, n_rows, BATCH_ROWS):
        n = min(BATCH_ROWS, n_rows - start)
        user_ranks = (N_USERS ** draw.random(n)).astype(int) - 1
        item_ranks = (N_ITEMS ** draw.random(n)).astype(int) - 1
        yield pa.RecordBatch.from_arrays(
            [
                users_of_ranks.take(pa.array(user_ranks)),
                items_of_ranks.take(pa.array(item_ranks)),
                pa.repeat("click", n),
                pa.array(FIRST_TIME + np.arange(start, start + n)),
            ],
            names=["user_id", "item_id", "interaction_type", "occurred_at"],
        )


def _write_file(path: Path, n_rows: int) -> None:
    batches = _columns(n_rows)
    first = next(batches)
    with pa.csv.CSVWriter(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


def _write_lines(path: Path, n_rows: int) -> None:
    with path.open("w") as file:
        for batch in _columns(n_rows):
            file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())


def _import_by_command(path: Path, folder: Path, *, n_rows: int) -> dict[str, Any]:
    environment = {
        **os.environ,
        "RECKEEPER_DATA_DIR": str(folder),
        "RECKEEPER_MODEL_DIR": str(folder / "models"),
    }
    command = [sys.executable, "-c", "from reckeeper.cli import main; main()"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "import", str(path), "--json"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    told = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if not told:
        raise SystemExit(f"The import ended with status {process.returncode}.")
    # A process begins with the peak of the one that started it, which is less here.
    peak_bytes = used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024
    return {
        "accepted": json.loads(told)["accepted"],
        "seconds": round(seconds, 2),
        "rows_per_second": round(n_rows / seconds),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_memory_mb": round(peak_bytes / 1e6),
        "database_bytes": (folder / "reckeeper.sqlite3").stat().st_size,
    }


def _insert_bare(folder: Path, *, n_rows: int) -> dict[str, Any]:
    """Insert the same rows in the order of the file; making the tuples is not timed."""
    settings = Settings.from_env(
        {"RECKEEPER_DATA_DIR": str(folder), "RECKEEPER_MODEL_DIR": str(folder / "models")}
    )
    storage.migrate(settings)
    connection = sqlite3.connect(folder / "reckeeper.sqlite3", isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-65536")
    connection.execute("PRAGMA wal_autocheckpoint=16384")
    seconds = 0.0
    number = 0
    for batch in _columns(n_rows):
        users, items, kinds, times = (column.to_pylist() for column in batch.columns)
        rows = [
            (f"import-0123456789abcdef-{number + row:012d}", *values, 1.0, at * 1_000_000, 1)
            for row, (*values, at) in enumerate(zip(users, items, kinds, times, strict=True))
        ]
        number += len(rows)
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO user_interactions (event_id, user_id, item_id, interaction_type, weight, "
            "occurred_at, import_id) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (event_id) DO NOTHING",
            rows,
        )
        connection.execute("COMMIT")
        seconds += time.perf_counter() - started
    indexes = connection.execute(
        "SELECT name FROM pragma_index_list('user_interactions') ORDER BY seq"
    ).fetchall()
    connection.close()
    return {
        "seconds": round(seconds, 2),
        "rows_per_second": round(n_rows / seconds),
        "indexes": ["rowid", *(name for (name,) in indexes)],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=FEW_ROWS)
    parser.add_argument("--json-lines", action="store_true", help="in place of CSV")
    options = parser.parse_args()
    measured = run(options.rows, as_json=options.json_lines)
    print(json.dumps(measured))
    command = measured["command"]
    print(
        f"{measured['rows']:,} rows by `reckeeper import`: {command['seconds']} s, "
        f"{command['rows_per_second']:,} rows/s, peak memory {command['peak_memory_mb']} MB"
    )
    if "few" in measured:
        few = measured["few"]
        print(
            f"{FEW_ROWS:,} rows in the same run: {few['rows_per_second']:,} rows/s "
            f"(ratio {measured['ratio']}), peak memory {few['peak_memory_mb']} MB."
        )
    else:
        limit = measured["bare_executemany"]
        print(
            f"bare executemany: {limit['rows_per_second']:,} rows/s (ratio {measured['ratio']}). "
            f"Both fill {', '.join(limit['indexes'])}."
        )
    if command["accepted"] != measured["rows"]:
        raise SystemExit(f"{command['accepted']:,} of {measured['rows']:,} rows were accepted.")
