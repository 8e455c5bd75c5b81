"""The collapse of `spectral`'s W: ``python -m benchmarks.collapse``.

Recall of the exact 200 entries largest by absolute value, on 1,000 rows drawn, with
the seconds and the peak memory of the collapse alone: on Gowalla and on generated
matrices with long tails and planted tastes, the last of a million items. Beside it
a whole fit on Gowalla and `implicit`'s ALS, in turns in one process; and one of
20 million interactions, with order.
"""

import argparse
import json
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks import factorise, harness
from reckeeper import linalg
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import Sizes, recipe_named
from reckeeper.recipes.spectral.factors import Weighted
from reckeeper.recipes.spectral.parts import Plain, collapsed
from reckeeper.recipes.spectral.settings import SpectralSettings

N_NEIGHBOURS = 200
N_ROWS = 1_000


@dataclass(frozen=True)
class Case:
    """Directions taken, and what is drawn: (pairs, users, items), or None for Gowalla."""

    n_components: int
    generated: tuple[int, int, int] | None = None


CASES = {
    "Gowalla, 256 components": Case(256),
    "5 million, 40,000 items, 256 components": Case(256, (6_000_000, 100_000, 40_000)),
    "5 million, 100,000 items, 128 components": Case(128, (5_500_000, 200_000, 100_000)),
    "6 million, 300,000 items, 64 components": Case(64, (6_300_000, 300_000, 300_000)),
    "20 million, 1,000,000 items, 64 components": Case(64, (21_000_000, 1_000_000, 1_000_000)),
}
WHOLE_FIT = "Gowalla, whole fit"
LARGE_FIT = "20 million, 100,000 items, 128 components, with order, whole fit"
LARGE = Case(128, (24_000_000, 138_000, 100_000))


def parts_of(case: Case, data: Path) -> Plain:
    """Decompose and filter, with the defaults of `spectral`."""
    matrix = factorise.generate(*case.generated) if case.generated else factorise.gowalla(data)
    settings = SpectralSettings(n_components=case.n_components)
    weighted = Weighted.of(matrix.astype(np.float64), settings.weighting)
    factors = weighted.factorise(
        user_power=settings.user_power,
        item_power=settings.item_power,
        n_components=case.n_components,
    )
    return Plain.of(weighted, factors, settings)


def recall(found: sparse.csr_array, parts: Plain) -> dict[str, float]:
    """Say how many of the exact largest entries of some rows were found.

    Of entries equal to the last of the exact ones any counts.
    """
    n = found.shape[1]
    rows = np.sort(np.random.default_rng(0).choice(n, size=min(n, N_ROWS), replace=False))
    columns = parts.matrix.T.tocsr()
    shares = []
    for block in np.array_split(rows, max(1, len(rows) * n // 25_000_000)):
        exact = (columns[block] @ parts.matrix).toarray()
        exact *= (parts.tail * parts.row_scale[block])[:, None] * parts.column_scale
        exact += parts.left[:, block].T @ parts.right
        exact[np.arange(len(block)), block] = 0.0
        sizes = np.abs(exact)
        for row, of_row in zip(block, sizes, strict=True):
            wanted = min(N_NEIGHBOURS, int(np.count_nonzero(of_row)))
            if wanted:
                border = np.partition(of_row, n - wanted)[n - wanted] * (1 - 1e-4)
                kept = found.indices[found.indptr[row] : found.indptr[row + 1]]
                shares.append(int((of_row[kept] >= border).sum()) / wanted)
    return {"mean": round(float(np.mean(shares)), 4), "least": round(float(np.min(shares)), 3)}


def measure(name: str, data: Path) -> dict[str, Any]:
    """Collapse one case in this process."""
    parts = parts_of(CASES[name], data)
    before = harness.memory_bytes(os.getpid())
    began, cpu_began = time.perf_counter(), time.process_time()
    found = collapsed(parts, None, n_neighbours=N_NEIGHBOURS)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    peak = harness.memory_bytes(os.getpid())
    needed = linalg.collapse.bytes_needed(
        n_rows=parts.matrix.shape[0],
        n_columns=parts.n_items,
        n_entries=parts.matrix.nnz,
        n_components=len(parts.left),
        n_neighbours=N_NEIGHBOURS,
        n_threads=linalg.parallel.n_cores(),
    )
    return {
        "n_items": parts.n_items,
        "nnz": parts.matrix.nnz,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "recall": recall(found, parts),
        "peak_memory_bytes": peak,
        "peak_memory_bytes_before": before,
        "bytes_needed": needed,
    }


def in_drawn_order(matrix: sparse.csr_array) -> InteractionMatrix:
    """Give pairs times, drawn and all of them different: neither source has any."""
    users, items = (IdIndex([f"{index:06}" for index in range(length)]) for length in matrix.shape)
    drawn = np.random.default_rng(0).permutation(matrix.nnz).astype(np.int64)
    return InteractionMatrix(
        users, items, matrix.astype(np.float64), matrix.nnz, latest_at=drawn * 1_000_000
    )


def large_fit() -> dict[str, Any]:
    """Fit `spectral` with order once; the peak counts from where the interactions are there."""
    assert LARGE.generated is not None
    interactions = in_drawn_order(factorise.generate(*LARGE.generated))
    n_users, n_items = interactions.weights.shape
    settings = {"n_components": LARGE.n_components, "order": 0.5}
    Path("/proc/self/clear_refs").write_text("5")
    before = harness.memory_bytes(os.getpid())
    began, cpu_began = time.perf_counter(), time.process_time()
    recipe_named("spectral").fit(interactions, settings=settings)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    sizes = Sizes(n_users, n_items, interactions.weights.nnz, linalg.parallel.n_cores())
    return {
        "nnz": interactions.weights.nnz,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_memory_bytes": harness.memory_bytes(os.getpid()),
        "peak_memory_bytes_before": before,
        "footprint": recipe_named("spectral").footprint(sizes, settings=settings).fit_bytes,
    }


def whole_fit(data: Path, n_runs: int = 3) -> dict[str, Any]:
    """Fit `implicit`'s ALS and `spectral`, without order and with, in turns; the medians."""
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    matrix = factorise.gowalla(data)
    interactions = in_drawn_order(matrix)

    def spectral(order: float) -> None:
        settings = {"order": order, "n_neighbours": N_NEIGHBOURS}
        recipe_named("spectral").fit(interactions, settings=settings)

    def als() -> None:
        with threadpool_limits(1, "blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = AlternatingLeastSquares(factors=128, iterations=15, alpha=10, random_state=0)
            model.fit(sparse.csr_matrix(matrix), show_progress=False)

    methods = {
        "implicit ALS": als,
        "spectral": lambda: spectral(0.0),
        "spectral, with order": lambda: spectral(0.5),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for _ in range(n_runs):
        for name, fit in methods.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            fit()
            taken[name].append((time.perf_counter() - began, time.process_time() - cpu_began))
    medians = {name: np.median(np.array(pairs), axis=0) for name, pairs in taken.items()}
    return {
        name: {
            "seconds": round(float(median[0]), 2),
            "cpu_seconds": round(float(median[1]), 2),
            "seconds_to_als": round(float(median[0] / medians["implicit ALS"][0]), 2),
            "cpu_seconds_to_als": round(float(median[1] / medians["implicit ALS"][1]), 2),
        }
        for name, median in medians.items()
    } | {"peak_memory_bytes": harness.memory_bytes(os.getpid())}


def run_case(name: str, data: Path) -> dict[str, Any]:
    """Measure one case in a fresh process."""
    return harness.in_fresh_process("benchmarks.collapse", "--child", name, "--data", str(data))


def run(data: Path = harness.DATA) -> dict[str, Any]:
    """Measure all cases."""
    names = [*CASES, WHOLE_FIT, LARGE_FIT]
    return {"benchmark": "collapse", **{name: run_case(name, data) for name in names}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        fits = {WHOLE_FIT: lambda: whole_fit(options.data), LARGE_FIT: large_fit}
        run_child = fits.get(options.child, lambda: measure(options.child, options.data))
        print(json.dumps(run_child()))
        return
    for name in [*CASES, WHOLE_FIT, LARGE_FIT]:
        if options.only in name:
            result = run_case(name, options.data)
            print(json.dumps({"benchmark": "collapse", name: result}), flush=True)


if __name__ == "__main__":
    main()
