"""Lists of 100 for everybody: ``python -m benchmarks.batch_recommend [--users N] [--keep FOLDER]``.

The installation of `benchmarks.serving`: 100,000 users with 5 to 500 interactions, 50,000 items,
`spectral` with 256 components. *Lists*: `reckeeper recommend --all`, the whole command, from its
start to the file on disk. *Implicit*, in the same run: its batch recommend for the same histories
from as many factors, a thousand users at a time, nothing read and nothing written meanwhile. Its
factors are drawn: what they say makes no difference to the time. Each runs in a process of its own,
in turns; medians of the rounds. CPU seconds tell more than users a second where others work too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks import harness, serving
from reckeeper import snapshot, storage
from reckeeper.config import Settings

N_FACTORS = 256
LENGTH = 100
_AT_ONCE = 1_000


def run(n_users: int, *, keep: Path | None, rounds: int) -> dict[str, Any]:
    """Make all lists in turns, ours and implicit's."""
    taken: dict[str, list[dict[str, float]]] = {"lists": [], "implicit": []}
    with serving.installation(n_users, keep) as settings:
        # Its BLAS and its own threads would fight for the cores.
        environ = {**os.environ, **settings.to_env(), "OPENBLAS_NUM_THREADS": "1"}
        for _ in range(rounds):
            for name, found in taken.items():
                found.append(
                    harness.in_fresh_process("benchmarks.batch_recommend", name, environ=environ)
                )
    medians = {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in taken.items()
    }
    ratio = medians["implicit"]["cpu_ms_per_user"] / medians["lists"]["cpu_ms_per_user"]
    return {
        "benchmark": "batch_recommend",
        "users": n_users,
        "items": serving.N_ITEMS,
        "length": LENGTH,
        **medians,
        "cpu_ratio": round(ratio, 2),
    }


def lists(settings: Settings) -> dict[str, float]:
    """Run the command, and return what it took."""
    output = settings.data_dir / "lists.parquet"
    command = [Path(sys.executable).with_name("reckeeper"), "recommend", "--all", "--json"]
    command += ["--n", str(LENGTH), "--output", output]
    told: dict[str, Any] = {}

    def make() -> None:
        done = subprocess.run(command, check=True, capture_output=True)
        told.update(json.loads(done.stdout))

    return measured(make, resource.RUSAGE_CHILDREN, lambda: told["users"])


def implicit(settings: Settings) -> dict[str, float]:
    """Recommend by implicit, and return what it took."""
    from implicit.cpu.als import AlternatingLeastSquares

    database = storage.open_database(settings)
    with database.read() as connection:
        installation_id = storage.installation.id_of(connection)
    database.close()
    found = snapshot.opened(settings.model_dir, installation_id=installation_id)
    assert found is not None
    rows, bounds = found.of_users(list(found.users))
    shape = len(found.users), len(found.items)
    ones = np.ones(len(rows), dtype=np.float32)
    histories = sparse.csr_matrix((ones, rows.item_index, bounds), shape=shape)
    histories.sum_duplicates()
    random = np.random.default_rng(0)
    model = AlternatingLeastSquares(factors=N_FACTORS)
    model.user_factors, model.item_factors = (
        random.standard_normal((size, N_FACTORS), dtype=np.float32) for size in shape
    )

    def make() -> None:
        for start in range(0, shape[0], _AT_ONCE):
            users = np.arange(start, min(start + _AT_ONCE, shape[0]))
            model.recommend(users, histories[users], N=LENGTH)

    return measured(make, resource.RUSAGE_SELF, lambda: shape[0])


def measured(make: Callable[[], None], who: int, n_users: Callable[[], int]) -> dict[str, float]:
    """Make lists, and return how many a second, and what they took."""
    before, began = resource.getrusage(who), time.perf_counter()
    make()
    wall, after = time.perf_counter() - began, resource.getrusage(who)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "users_per_second": round(n_users() / wall),
        "cpu_ms_per_user": round(1e3 * cpu / n_users(), 4),
        "peak_memory_bytes": 1024 * after.ru_maxrss,
    }


if __name__ == "__main__":
    if sys.argv[1:] in (["lists"], ["implicit"]):
        work = {"lists": lists, "implicit": implicit}[sys.argv[1]]
        print(json.dumps(work(Settings.from_env())))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--users", type=int, default=serving.N_USERS)
        parser.add_argument("--keep", type=Path)
        parser.add_argument("--rounds", type=int, default=3)
        asked = parser.parse_args()
        print(json.dumps(run(asked.users, keep=asked.keep, rounds=asked.rounds)))
