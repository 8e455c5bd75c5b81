"""Seconds of ``reckeeper evaluate`` on a file: ``python -m benchmarks.evaluate [FILE] [--n 1e6]``.

Without a file, N interactions of 40 groups of taste with popular items are made: N / 30 users and
N / 50 items, a year of times. The command runs in a process of its own with popularity, svd and
default spectral; beside the seconds on the clock it reports those of the CPU, which say more where
others use the machine, the most memory held, and the share of each stage.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_GROUPS = 40


def write_events(path: Path, n: int, *, seed: int = 0) -> None:
    """Write N interactions to a Parquet file."""
    random = np.random.default_rng(seed)
    n_users, n_items = max(n // 30, 50), max(n // 50, 50)
    activity = random.pareto(1.5, n_users) + 0.2
    user = random.choice(n_users, n, p=activity / activity.sum())
    own = random.random(n) < 0.7
    group = np.where(own, user % _GROUPS, random.integers(_GROUPS, size=n))
    place = np.minimum((n_items // _GROUPS) * random.random(n) ** 2.5, n_items // _GROUPS - 1)
    item = place.astype(np.int64) * _GROUPS + group
    seconds = 1_700_000_000 + np.sort(random.integers(0, 365 * 86_400, n))
    pq.write_table(pa.table({"user_id": user, "item_id": item, "timestamp": seconds}), path)


def measure(path: Path, arguments: Sequence[str]) -> dict[str, object]:
    """Run the command, and return what it took."""
    program = [sys.executable, "-c", "from reckeeper.cli import main; main()"]
    command = [*program, "evaluate", str(path), "--json", *arguments]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen(command, stdout=said, stderr=told)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
        said.seek(0)
        told.seek(0)
        stages = re.findall(r"^(.+): ([\d.]+) s$", told.read(), re.MULTILINE)
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {status}")
        report = json.loads(said.read())
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(report["peak_memory_bytes"] / 1e6),
        "n_interactions": report["n_interactions"],
        "n_test_users": report["n_test_users"],
        "n_questions": report["n_questions"],
        "stages": {name: f"{float(took) / seconds:.0%}" for name, took in stages},
    }


def run(
    file: Path | None = None, *, n: int = 1_000_000, arguments: Sequence[str] = ()
) -> dict[str, object]:
    """Measure on a file, or on one that is made."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        path = file or Path(folder) / "events.parquet"
        if file is None:
            write_events(path, n)
        return {"benchmark": "evaluate", **measure(path, arguments)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--n", type=float, default=1e6)
    given, others = parser.parse_known_args()
    print(json.dumps(run(given.file, n=int(given.n), arguments=others), indent=2))
