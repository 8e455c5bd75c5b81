"""The SVD kernel beside scikit-learn's ``randomized_svd``: ``python -m benchmarks.factorise``.

Each kernel runs in a fresh process on the same matrix, several times; the
captured energy ‖AV‖² of its right vectors V, orthonormalised again, says how good
they are. Cases: Gowalla, normalised as `spectral` does by default, and generated
matrices with long tails and planted tastes.
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import linalg as dense
from scipy import sparse

from benchmarks import harness

N_TASTES = 200


@dataclass(frozen=True)
class Case:
    """A matrix, and what is asked of it.

    The tolerance is the loosest, of those tried, at which our kernel captures as
    much as scikit-learn's. `generated` is (pairs drawn, users, items) or None.
    """

    n_components: int
    tolerance: float
    n_runs: int = 3
    generated: tuple[int, int, int] | None = None
    beside: bool = True


CASES = {
    "20 million, 64 components": Case(64, 0.02, generated=(26_300_000, 138_000, 27_000)),
    "100 million, 64 components": Case(
        64, 0.02, 1, (115_700_000, 1_000_000, 100_000), beside=False
    ),
    "Gowalla, 256 components": Case(256, 0.02),
    "Gowalla, 512 components": Case(512, 0.02),
}


def gowalla(data: Path) -> sparse.csr_array:
    """Give Gowalla's training part, users × items, ones."""
    harness.require_data(data)
    table = pq.read_table(data / "gowalla" / "train.parquet")
    users, items = (table[name].to_numpy() for name in ("user_id", "item_id"))
    ones = np.ones(len(users), dtype=np.float32)
    return sparse.coo_array((ones, (users, items))).tocsr()


def generate(n_drawn: int, n_users: int, n_items: int, *, seed: int = 0) -> sparse.csr_array:
    """Draw interactions: activity log-normal, popularity Zipf-like, and tastes behind both.

    Every item belongs to one of 200 tastes, some more common than others, and
    every user has three; half of the interactions come from these, by popularity
    within the taste, and the others from all items. Pairs drawn twice count once.
    """
    draw = np.random.default_rng(seed)
    activity = draw.lognormal(sigma=1.0, size=n_users)
    counts = np.maximum(1, np.round(activity * (n_drawn / activity.sum()))).astype(np.int64)
    tastes = _popular(draw.random((n_users, 3)), N_TASTES)
    item_of_rank = draw.permutation(n_items).astype(np.int32)
    parts, lengths = [], []
    for start in range(0, n_users, 50_000):
        count = counts[start : start + 50_000]
        user = np.repeat(np.arange(len(count)), count)
        rank = _popular(draw.random(len(user)), n_items)
        taste = tastes[start + user, draw.integers(3, size=len(user))]
        # The items of a taste are every 200th in the order of popularity.
        of_taste = np.minimum(rank - rank % N_TASTES + taste, n_items - 1)
        rank = np.where(draw.random(len(user)) < 0.5, of_taste, rank)
        pairs = np.sort(user * n_items + item_of_rank[rank])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        parts.append((pairs % n_items).astype(np.int32))
        lengths.append(np.bincount(pairs // n_items, minlength=len(count)))
    indices = np.concatenate(parts)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
    ones = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_array((ones, indices, indptr), shape=(n_users, n_items))


def _popular(uniform: np.ndarray, n_items: int) -> np.ndarray:
    """Turn uniform draws into ranks with probability falling about as (rank + 50)^-0.9."""
    low, high = 50**0.1, (n_items + 50) ** 0.1
    return ((low + uniform * (high - low)) ** 10 - 50).astype(np.int64).clip(0, n_items - 1)


def normalised(matrix: sparse.csr_array) -> sparse.csr_array:
    """Divide by the square roots of the degrees of user and item; overwrites `matrix`."""
    n_of_user = np.diff(matrix.indptr)
    n_of_item = np.bincount(matrix.indices, minlength=matrix.shape[1])
    matrix.data *= np.repeat(np.maximum(n_of_user, 1) ** -0.5, n_of_user).astype(np.float32)
    matrix.data *= (np.maximum(n_of_item, 1) ** -0.5).astype(np.float32)[matrix.indices]
    return matrix


def energy(matrix: sparse.csr_array, components: np.ndarray) -> float:
    """Return ‖AV‖² for an orthonormal basis V of the components' rows, in double precision."""
    basis, _ = dense.qr(components.T.astype(np.float64), mode="economic", overwrite_a=True)
    blocks = (matrix[start : start + 20_000] for start in range(0, matrix.shape[0], 20_000))
    return sum(float(np.square(block @ basis).sum()) for block in blocks)


def ours(matrix: sparse.csr_array, case: Case) -> np.ndarray:
    from reckeeper.linalg import truncated_svd

    return truncated_svd(matrix, case.n_components, tolerance=case.tolerance, seed=0).components


def scikit_learn(matrix: sparse.csr_array, case: Case) -> np.ndarray:
    from sklearn.utils.extmath import randomized_svd

    return randomized_svd(sparse.csr_matrix(matrix), case.n_components, random_state=0)[2]


KERNELS = {"ours": ours, "scikit-learn": scikit_learn}


def measure(case: Case, kernel: str, folder: Path) -> dict[str, Any]:
    """Run a kernel in this process on the matrix that lies in `folder`."""
    data, indices, indptr = (
        np.load(folder / f"{name}.npy") for name in ("data", "indices", "indptr")
    )
    n_items = int(np.load(folder / "n_items.npy"))
    matrix = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, n_items))
    seconds, components = harness.median_seconds(
        lambda: KERNELS[kernel](matrix, case), n_runs=case.n_runs
    )
    peak = harness.memory_bytes(os.getpid())
    return {
        "seconds": round(seconds, 2),
        "energy": energy(matrix, components),
        "peak_memory_bytes": peak,
    }


def run_case(name: str, data: Path) -> dict[str, Any]:
    """Measure the kernels on one matrix, each in a fresh process."""
    case = CASES[name]
    matrix = normalised(generate(*case.generated) if case.generated else gowalla(data))
    result: dict[str, Any] = {"shape": matrix.shape, "nnz": matrix.nnz}
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        for part in ("data", "indices", "indptr"):
            np.save(f"{folder}/{part}.npy", getattr(matrix, part))
        np.save(f"{folder}/n_items.npy", matrix.shape[1])
        del matrix
        for kernel in KERNELS if case.beside else ["ours"]:
            result[kernel] = harness.in_fresh_process(
                "benchmarks.factorise", "--child", name, kernel, folder
            )
    if case.beside:
        mine, theirs = result["ours"], result["scikit-learn"]
        result["times_as_fast"] = round(theirs["seconds"] / mine["seconds"], 2)
        result["energy_ratio"] = round(mine["energy"] / theirs["energy"], 6)
    return result


def run(data: Path = harness.DATA) -> dict[str, Any]:
    """Measure all cases."""
    return {"benchmark": "factorise", **{name: run_case(name, data) for name in CASES}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, kernel, folder = options.child
        print(json.dumps(measure(CASES[name], kernel, Path(folder))))
        return
    for name in CASES:
        if options.only in name:
            result = run_case(name, options.data)
            print(json.dumps({"benchmark": "factorise", name: result}), flush=True)


if __name__ == "__main__":
    main()
