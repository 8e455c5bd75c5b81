"""What judging costs beside training: ``python -m benchmarks.judging [--pairs N]``.

A retrain without newer interactions is judged by a refit: the interactions are put in canonical
order and cut, and the candidate is fitted on what came before. This measures it beside the fit on
everything, each in a fresh process on the same log of 20 million interactions: the
seconds of the CPU and of the clock, and the most memory held. Reading the interactions from the
database, which a training does first, takes far longer (``benchmarks.training_read``), and
is left out.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.gate import synthetic
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.policy import Policy
from reckeeper.recipes import recipe_named
from reckeeper.training.gate import Candidate, hold_out, judge

DRAWN, N_USERS, N_ITEMS = 26_300_000, 138_000, 27_000
"""20 million distinct pairs come of these; fewer are drawn of fewer users and items."""

_COLUMNS = ("user_index", "item_index", "weight", "occurred_at", "listing")


def write_log(folder: Path, n_drawn: int) -> None:
    """Write a generated log, a file a column."""
    share = (n_drawn / DRAWN) ** 0.5
    log = synthetic(n_drawn, int(N_USERS * share), int(N_ITEMS * share))
    for name in _COLUMNS:
        np.save(folder / f"{name}.npy", getattr(log, name))
    sizes = {"n_users": len(log.users), "n_items": len(log.items)}
    (folder / "sizes.json").write_text(json.dumps(sizes))


def read_log(folder: Path) -> InteractionLog:
    """Read what `write_log` wrote."""
    sizes = json.loads((folder / "sizes.json").read_text())
    users = IdIndex([f"u{number:06}" for number in range(sizes["n_users"])])
    items = IdIndex([f"i{number:06}" for number in range(sizes["n_items"])])
    return InteractionLog(users, items, *(np.load(folder / f"{name}.npy") for name in _COLUMNS))


def measure(folder: Path, recipe: str, work: str) -> dict[str, Any]:
    """Fit on everything, or judge, in this process."""
    log = read_log(folder)
    began, used = time.perf_counter(), time.process_time()
    result: dict[str, Any] = {"interactions": len(log)}
    if work == "fit":
        recipe_named(recipe).fit(log.matrix(), settings={})
    else:
        policy = Policy()
        held_out = hold_out(log, n_seen=0, active=None, policy=policy)
        verdict = judge(
            Candidate(recipe, {}, log, is_automatic=False),
            held_out,
            active=None,
            previous=None,
            policy=policy,
            report=lambda _: None,
        )
        result |= {"users": verdict.n_users, "how": verdict.how}
    return result | {
        "cpu_seconds": round(time.process_time() - used, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def run(n_drawn: int = DRAWN) -> dict[str, Any]:
    """Measure fit and judging of both recipes."""
    result: dict[str, Any] = {"benchmark": "judging"}
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        write_log(Path(folder), n_drawn)
        for recipe in ("svd", "spectral"):
            fit, judging = (
                harness.in_fresh_process("benchmarks.judging", "--in", folder, recipe, work)
                for work in ("fit", "judge")
            )
            share = judging["cpu_seconds"] / (fit["cpu_seconds"] + judging["cpu_seconds"])
            result[recipe] = {"fit": fit, "judging": judging, "share": round(share, 2)}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=DRAWN, help="interactions drawn")
    parser.add_argument("--in", nargs=3, dest="within", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        where, which, what = options.within
        print(json.dumps(measure(Path(where), which, what)))
    else:
        print(json.dumps(run(options.pairs)))
