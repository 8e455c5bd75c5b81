"""Quality beside peers: ``python -m benchmarks.quality [--data FOLDER] [--plot FILE] [--seeds N]``.

A task for each set of the data: those with a test part as they are, and MovieLens
with the last fifth of each user's history held out, and for users whom training
never saw. Every method runs in a fresh process, so that its memory is its own, and
all are judged by the same code: all items, those of the history removed, every user
of the test part. Settings are chosen on the training part alone: by `tune`, or the
best of a grid on the first of the folds that it takes.
"""

import argparse
import dataclasses
import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from scipy import sparse

from benchmarks import harness
from reckeeper import evaluation
from reckeeper.evaluation import Quality
from reckeeper.matrix import Histories, InteractionLog, InteractionMatrix, read_log
from reckeeper.ranking import Ranker
from reckeeper.recipes import Scorer, recipe_named
from reckeeper.training import fitting, folds
from reckeeper.training.tuning import tune
from reckeeper.wire import Drift

PUBLISHED_VIDEO = {"SASRec, full softmax, tuned, on a GPU": (0.1781, 0.0811)}
PUBLISHED = {
    "LightGCN": (0.1830, 0.1554),
    "UltraGCN": (0.1862, 0.1580),
    "SimpleX": (0.1872, 0.1557),
    "BSPM": (0.1920, 0.1597),
    "GR-MC (2025; unconfirmed)": (0.2081, 0.1640),
}
"""Recall@20 and NDCG@20 on Gowalla as their authors print them, cited and not measured here."""

OURS = "spectral, tuned"
N_RUNS = 3


Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What may be trained on; what a model sees of each user judged, and what it must find."""

    log: InteractionLog
    histories: Histories
    held_out: sparse.csr_array


@dataclass(frozen=True)
class Method:
    """How a model is fitted, and the settings among which a validation split chooses."""

    fit: Callable[[InteractionMatrix, Settings], Scorer]
    grid: tuple[Settings, ...] = ({},)
    own_recipe: str | None = None
    tuned_recipe: str | None = None
    drift: Drift = "none"


# ------------------------------------------------------------------ tasks


def given(name: str, data: Path) -> Task:
    """Give a set as it was split by others, with its weights and times where it has any."""
    train, test = (pq.read_table(data / name / part) for part in ("train.parquet", "test.parquet"))
    columns = train.column_names
    log = _log(
        train["user_id"],
        train["item_id"],
        weight=train["weight"] if "weight" in columns else None,
        seconds=_seconds(train["timestamp"]) if "timestamp" in columns else None,
    )
    rows, columns = (
        np.array([index.find(str(one)) for one in test[name].to_pylist()])
        for index, name in ((log.users, "user_id"), (log.items, "item_id"))
    )
    known = log.matrix()
    return Task(log, known.histories, _pairs(rows, columns, shape=known.weights.shape))


def movielens(data: Path) -> Task:
    """Give MovieLens without the last fifth of each history; equal times are as in the file."""
    log = _movielens_log(data)
    n_of_user = np.bincount(log.user_index, minlength=len(log.users))
    in_time = np.lexsort((np.arange(len(log)), log.occurred_at, log.user_index))
    place = np.empty(len(log), dtype=np.int64)
    place[in_time] = np.arange(len(log)) - np.repeat(np.cumsum(n_of_user) - n_of_user, n_of_user)
    asked = place >= n_of_user[log.user_index] - np.rint(0.2 * n_of_user)[log.user_index]
    kept = _part(log, ~asked)
    shown = kept.matrix()
    held_out = _pairs(log.user_index[asked], log.item_index[asked], shape=shown.weights.shape)
    return Task(kept, shown.histories, held_out)


def movielens_new_users(data: Path) -> Task:
    """Give MovieLens without a fifth of its users, who show the first half of their histories."""
    log = _movielens_log(data)
    n_users = len(log.users)
    is_new = np.zeros(n_users, dtype=bool)
    is_new[np.random.default_rng(0).permutation(n_users)[: n_users // 5]] = True
    counts = np.bincount(log.user_index, minlength=n_users)
    in_time = np.lexsort((log.item_index, log.occurred_at, log.user_index))
    place = np.empty(len(in_time), dtype=np.int64)
    place[in_time] = np.arange(len(in_time)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_shown = place < (counts // 2)[log.user_index]
    of_new = is_new[log.user_index]
    asked = of_new & ~is_shown
    shown = log.matrix(of_new & is_shown)
    held_out = _pairs(log.user_index[asked], log.item_index[asked], shape=shown.weights.shape)
    return Task(_part(log, ~of_new), shown.histories, held_out)


def _movielens_log(data: Path) -> InteractionLog:
    """Read ratings of 4 and more; the lower ones, which an import stores as seen, are left out."""
    ratings = pyarrow.csv.read_csv(data / "ml-latest-small" / "ratings.csv")
    liked = ratings.filter(pc.greater_equal(ratings["rating"], 4.0))
    return _log(liked["userId"], liked["movieId"], seconds=liked["timestamp"])


def _seconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(times.cast(pa.timestamp("s")), pa.int64())


def _log(
    users: pa.ChunkedArray,
    items: pa.ChunkedArray,
    *,
    weight: pa.ChunkedArray | None = None,
    seconds: pa.ChunkedArray | None = None,
) -> InteractionLog:
    columns = {
        "user_id": users.cast(pa.string()),
        "item_id": items.cast(pa.string()),
        "interaction_type": pa.array(["click"] * len(users)),
        "weight": np.ones(len(users)) if weight is None else weight.cast(pa.float64()),
    }
    if seconds is not None:
        columns["occurred_at"] = pc.multiply(seconds.cast(pa.int64()), 1_000_000)
    return read_log(pa.table(columns).combine_chunks().to_batches(), type_weights={"click": 1.0})


def _part(log: InteractionLog, kept: np.ndarray) -> InteractionLog:
    """Keep some rows of a log, and all its ids."""
    rows = {
        field.name: value[kept]
        for field in dataclasses.fields(log)
        if isinstance(value := getattr(log, field.name), np.ndarray)
    }
    return dataclasses.replace(log, **rows)


def _pairs(rows: np.ndarray, columns: np.ndarray, *, shape: tuple[int, int]) -> sparse.csr_array:
    ones = np.ones(len(rows), dtype=np.float32)
    pairs = sparse.coo_array((ones, (rows, columns)), shape=shape).tocsr()
    pairs.data[:] = 1
    return pairs


# ------------------------------------------------------------------ peers


@dataclass(frozen=True)
class ItemWeights:
    """Scores r·W with W items × items, dense or sparse."""

    weights: Any
    is_personal: ClassVar[bool] = False  # its scores are taken as they are

    def score(self, histories: Histories) -> np.ndarray:
        scores = histories.weights @ self.weights
        return scores.toarray() if sparse.issparse(scores) else scores


@dataclass(frozen=True)
class Projection:
    """Scores r·VᵀV with V components × items."""

    components: np.ndarray
    is_personal: ClassVar[bool] = False  # its scores are taken as they are

    def score(self, histories: Histories) -> np.ndarray:
        return (histories.weights @ self.components.T) @ self.components


@dataclass(frozen=True)
class UserFactors:
    """Scores known users by their own factors; weights are each user's number (see `_judge`)."""

    users: np.ndarray
    items: np.ndarray
    is_personal: ClassVar[bool] = False  # its scores are taken as they are

    def score(self, histories: Histories) -> np.ndarray:
        weights = histories.weights
        number = weights.data[weights.indptr[:-1]].astype(np.int64)
        return self.users[number] @ self.items.T


@dataclass(frozen=True)
class AlsFoldIn:
    """Scores users by factors that implicit's ALS solves for from their histories."""

    model: Any
    is_personal: ClassVar[bool] = False  # its scores are taken as they are

    def score(self, histories: Histories) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        weights = sparse.csr_matrix(histories.weights, dtype=np.float32)
        with threadpool_limits(1, "blas"):
            users = self.model.recalculate_user(np.arange(len(histories)), weights)
        return users @ self.model.item_factors.T


def _fit_implicit(kind: type, interactions: InteractionMatrix, **settings: Any) -> Any:
    from implicit.utils import ParameterWarning
    from threadpoolctl import threadpool_limits

    # implicit has threads of its own, and asks for BLAS to have one.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        # Its cosine hands itself a COO matrix, and says so.
        warnings.simplefilter("ignore", ParameterWarning)
        model = kind(**settings)
        model.fit(_liked(interactions), show_progress=False)
    return model


def _liked(interactions: InteractionMatrix) -> sparse.csr_matrix:
    """Return ones where there is taste: peers take no weights."""
    ones = sparse.csr_matrix(interactions.weights, dtype=np.float32, copy=True)
    ones.data = (ones.data > 0).astype(np.float32)
    ones.eliminate_zeros()
    return ones


def als(
    interactions: InteractionMatrix, settings: Settings, *, fold_in: bool = False
) -> UserFactors | AlsFoldIn:
    """Fit `implicit`'s alternating least squares."""
    from implicit.als import AlternatingLeastSquares

    model = _fit_implicit(
        AlternatingLeastSquares, interactions, iterations=15, random_state=0, **settings
    )
    return AlsFoldIn(model) if fold_in else UserFactors(model.user_factors, model.item_factors)


def bpr(interactions: InteractionMatrix, settings: Settings) -> UserFactors:
    """Fit `implicit`'s Bayesian personalised ranking."""
    from implicit.bpr import BayesianPersonalizedRanking

    model = _fit_implicit(BayesianPersonalizedRanking, interactions, random_state=0, **settings)
    return UserFactors(model.user_factors, model.item_factors)


def cosine(interactions: InteractionMatrix, settings: Settings) -> ItemWeights:
    """Fit `implicit`'s item-item cosine."""
    from implicit.nearest_neighbours import CosineRecommender

    model = _fit_implicit(CosineRecommender, interactions, **settings)
    return ItemWeights(sparse.csr_array(model.similarity))


def truncated_svd(interactions: InteractionMatrix, settings: Settings) -> Projection:
    """Fit scikit-learn's `TruncatedSVD` with its own solver."""
    from sklearn.decomposition import TruncatedSVD

    model = TruncatedSVD(random_state=0, **settings)
    model.fit(sparse.csr_matrix(interactions.weights, dtype=np.float32))
    return Projection(model.components_)


def ease(interactions: InteractionMatrix, settings: Settings) -> ItemWeights:
    """Fit EASE: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019."""
    liked = _liked(interactions)
    gram = (liked.T @ liked).toarray()
    gram[np.diag_indices_from(gram)] += settings["ridge"]
    inverse = np.linalg.inv(gram)
    item_weights = inverse / -np.diag(inverse)
    np.fill_diagonal(item_weights, 0.0)
    return ItemWeights(item_weights)


def rp3beta(interactions: InteractionMatrix, settings: Settings) -> ItemWeights:
    """Fit RP3beta: Paudel et al., "Updatable, accurate, diverse, and scalable", TiiS 2017."""
    liked = _liked(interactions)
    n_of_user, n_of_item = (np.maximum(np.diff(one.indptr), 1) for one in (liked, liked.tocsc()))
    to_item = sparse.diags_array(1 / n_of_user, dtype=np.float32) @ liked
    to_user = sparse.diags_array(1 / n_of_item, dtype=np.float32) @ liked.T
    to_item.data **= settings["alpha"]
    to_user.data **= settings["alpha"]
    walks = sparse.csr_array(to_user @ to_item)
    walks.setdiag(0.0)
    walks.data *= (n_of_item ** -settings["beta"])[walks.indices].astype(np.float32)
    return ItemWeights(_largest_of_rows(walks, settings["n_neighbours"]))


def _largest_of_rows(matrix: sparse.csr_array, n: int) -> sparse.csr_array:
    kept = np.zeros(matrix.nnz, dtype=bool)
    for begin, end in itertools.pairwise(matrix.indptr.tolist()):
        row = matrix.data[begin:end]
        kept[begin:end] = row >= np.partition(row, -n)[-n] if len(row) > n else True
    matrix.data[~kept] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _recipe(name: str, interactions: InteractionMatrix, settings: Settings) -> Scorer:
    return recipe_named(name).fit(interactions, settings=settings)


def _ours(name: str, **settings: Any) -> Method:
    return Method(partial(_recipe, name), (settings,), own_recipe=name)


def _tuned(name: str, *, drift: Drift = "none") -> Method:
    return Method(partial(_recipe, name), tuned_recipe=name, drift=drift)


def _grid(**choices: tuple[Any, ...]) -> tuple[Settings, ...]:
    grid: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        grid = [{**settings, name: value} for settings in grid for value in values]
    return tuple(grid)


_MOVIELENS_ALS = _grid(
    factors=(16, 32, 64, 128), regularization=(1.0, 10.0, 30.0, 100.0), alpha=(1.0, 5.0, 20.0)
)
_MOVIELENS_METHODS = {
    "popularity": _ours("popularity"),
    "svd, tuned": _tuned("svd"),
    "implicit item-item cosine": Method(cosine, _grid(K=(20, 100, 500, 2000, 6000))),
    "EASE": Method(ease, _grid(ridge=(50, 100, 200, 400, 800))),
    OURS: _tuned("spectral"),
}

_GIVEN_METHODS = {
    "popularity": _ours("popularity"),
    "implicit item-item cosine": Method(cosine, _grid(K=(20, 100, 500))),
    "implicit ALS": Method(
        als, _grid(factors=(64, 128), regularization=(1.0, 10.0, 50.0), alpha=(1.0, 10.0))
    ),
    "RP3beta": Method(
        rp3beta, _grid(alpha=(0.6, 0.8, 1.0), beta=(0.2, 0.4, 0.6), n_neighbours=(300,))
    ),
    "spectral, defaults": _ours("spectral"),
    OURS: _tuned("spectral"),
}
_EASE = {"EASE": Method(ease, _grid(ridge=(50, 100, 200, 400, 800)))}
"""Where its dense matrix fits: up to some 20,000 items."""

TASKS: dict[str, tuple[Callable[[Path], Task], dict[str, Method]]] = {
    "gowalla": (
        partial(given, "gowalla"),
        {
            "popularity": _ours("popularity"),
            "svd, tuned": _tuned("svd"),
            "scikit-learn TruncatedSVD": Method(truncated_svd, _grid(n_components=(256,))),
            "implicit item-item cosine": Method(cosine, _grid(K=(20, 100, 400, 1600))),
            "RP3beta": _GIVEN_METHODS["RP3beta"],
            "implicit BPR": Method(
                bpr,
                _grid(factors=(128,), learning_rate=(0.01, 0.05), iterations=(100, 300)),
            ),
            "implicit ALS": Method(als, _grid(factors=(128,), alpha=(10.0,))),
            "spectral, fast": _ours("spectral", n_components=0),
            "spectral, defaults": _ours("spectral"),
            OURS: _tuned("spectral"),
            "spectral, tuned for mild drift": _tuned("spectral", drift="mild"),
            "spectral, tuned for strong drift": _tuned("spectral", drift="strong"),
        },
    ),
    **{
        name: (partial(given, name), {**_GIVEN_METHODS, **_EASE})
        for name in ("steam", "anime", "retailrocket", "citeulike")
    },
    "video": (partial(given, "video"), _GIVEN_METHODS),
    "movielens": (
        movielens,
        {**_MOVIELENS_METHODS, "implicit ALS": Method(als, _MOVIELENS_ALS)},
    ),
    "movielens_new_users": (
        movielens_new_users,
        {**_MOVIELENS_METHODS, "implicit ALS": Method(partial(als, fold_in=True), _MOVIELENS_ALS)},
    ),
}


# ------------------------------------------------------------------ measuring


def _judge(model: Scorer, asked: Task | evaluation.Split) -> Quality:
    histories, known = asked.histories, asked.histories.weights
    popularity = np.bincount(known.indices[known.data > 0], minlength=known.shape[1])
    if isinstance(model, UserFactors):
        number = np.repeat(np.arange(len(histories), dtype=np.float64), histories.lengths)
        entries = (number, known.indices, known.indptr)
        histories = Histories(sparse.csr_array(entries, shape=known.shape))
    ranker = Ranker(model, popularity=popularity.astype(np.float64))
    return evaluation.measure(ranker, histories=histories, held_out=asked.held_out, k=(10, 20))


def _choose(method: Method, log: InteractionLog) -> Settings:
    """Choose settings from the training part alone: by `tune`, or the best NDCG@20 of a grid."""
    if method.tuned_recipe is not None:
        return tune(method.tuned_recipe, log, drift=method.drift).settings
    if method.own_recipe is not None:
        (settings,) = method.grid
        return {**settings, **fitting.decide(method.own_recipe, settings, lambda: log)}
    if len(method.grid) == 1:
        return method.grid[0]
    split = folds.draw(folds.sampled(log, seed=0), drift="none", seed=0)[0].split

    def ndcg(settings: Settings) -> float:
        model = method.fit(split.train, settings)
        return float(_judge(model, split).by_user["ndcg@20"].mean())

    return max(method.grid, key=ndcg)


def measure(task_name: str, method_name: str, data: Path, *, per_user: Path) -> dict[str, Any]:
    """Choose, fit and judge one method in this process; `per_user` gets each user's figures."""
    load, methods = TASKS[task_name]
    method, task = methods[method_name], load(data)
    began = time.perf_counter()
    settings = _choose(method, task.log)
    tune_seconds = time.perf_counter() - began
    interactions = task.log.matrix()
    fit_seconds, model = harness.median_seconds(
        lambda: method.fit(interactions, settings), n_runs=N_RUNS
    )
    quality = _judge(model, task)
    _write_quality(per_user, quality)
    chosen = method.tuned_recipe is not None or len(method.grid) > 1
    return {
        "settings": dict(settings),
        "fit_seconds": round(fit_seconds, 2),
        "tune_seconds": round(tune_seconds, 1) if chosen else None,
        "peak_memory_bytes": harness.memory_bytes(os.getpid()),
        "n_test_users": len(quality.user_index),
        # Novelty would count popularity on the users judged, which are not always all.
        "metrics": {
            name: {
                end: value for end, value in dataclasses.asdict(figure).items() if value is not None
            }
            for name, figure in quality.summary().items()
            if not name.startswith("novelty")
        },
    }


_COLUMNS = ("question_user", "found", "n_relevant", "history_length")


def _write_quality(path: Path, quality: Quality) -> None:
    columns = {name: getattr(quality, name) for name in _COLUMNS}
    wanted = quality.held_out
    np.savez(path, **columns, data=wanted.data, indices=wanted.indices, indptr=wanted.indptr,
             shape=wanted.shape, ks=quality.ks)  # fmt: skip


def _read_quality(path: Path) -> Quality:
    with np.load(path) as arrays:
        entries = arrays["data"], arrays["indices"], arrays["indptr"]
        return Quality(
            **{name: arrays[name] for name in _COLUMNS},
            ks=tuple(arrays["ks"].tolist()),
            held_out=sparse.csr_array(entries, shape=tuple(arrays["shape"].tolist())),
        )


def run_task(
    name: str, data: Path, *, wanted: Callable[[str], bool] = lambda method: True
) -> dict[str, Any]:
    """Measure the methods of a task, each in a fresh process, and compare ours with the best."""
    harness.require_data(data)
    load = os.getloadavg()[0]
    rows: dict[str, Any] = {}
    qualities: dict[str, Quality] = {}
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        per_user = Path(folder) / "quality.npz"
        for method in filter(wanted, TASKS[name][1]):
            arguments = ("--child", name, method, str(per_user), "--data", str(data))
            rows[method] = harness.in_fresh_process("benchmarks.quality", *arguments)
            qualities[method] = _read_quality(per_user)
    others = {
        method: quality.by_user["ndcg@20"].mean()
        for method, quality in qualities.items()
        if not method.startswith("spectral")
    }
    result: dict[str, Any] = {"load_at_start": load, "methods": rows}
    if OURS in qualities and others:
        best = max(others, key=others.__getitem__)
        difference = evaluation.compare(qualities[best], qualities[OURS])
        result["ours_minus_best_other"] = {
            "best_other": best,
            **{name: dataclasses.asdict(paired) for name, paired in difference.items()},
        }
    return result


def run(data: Path = harness.DATA, *, plot: Path | None = None) -> dict[str, Any]:
    """Measure all methods on all tasks."""
    results: dict[str, Any] = {"benchmark": "quality"}
    results |= {name: run_task(name, data) for name in TASKS}
    if plot is not None:
        draw(results["gowalla"]["methods"], plot)
    return results


def seeds(name: str, data: Path, *, n: int) -> dict[str, Any]:
    """Tune with several seeds, and judge what each chose on folds that none of them has seen."""
    log = TASKS[name][0](data).log
    drawn = folds.draw(folds.sampled(log, seed=n), drift="none", seed=1000)
    judges = [(fold, fold.judge()) for fold in drawn]
    chosen, means = [], []
    for seed in range(n):
        settings = tune("spectral", log, seed=seed).settings
        plain = {**settings, "order": 0.0}
        ndcg = [
            judge.ndcg(recipe_named("spectral").fit(fold.train, settings=plain))
            for fold, judge in judges
        ]
        chosen.append(settings)
        means.append(float(np.mean([values.mean() for values in ndcg])))
    return {"settings": chosen, "ndcg@20": means, "spread": max(means) / min(means) - 1}


# ------------------------------------------------------------------ showing


def draw(rows: Mapping[str, Any], path: Path) -> None:
    """Draw quality on Gowalla against the time of a fit; published figures are lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for method, row in sorted(rows.items(), key=lambda item: _negative_ndcg(item[1])):
        marker = "*" if method.startswith("spectral") else "o"
        ndcg = row["metrics"]["ndcg@20"]["mean"]
        axes.plot(row["fit_seconds"], ndcg, marker, markersize=9, label=f"{method} {ndcg:.4f}")
    low, high = axes.get_ylim()
    label_at = 0.0
    for name, (_, ndcg) in sorted(PUBLISHED.items(), key=lambda item: item[1][1]):
        axes.axhline(ndcg, color="0.75", linewidth=0.8, linestyle="--", zorder=0)
        label_at = max(ndcg, label_at + (high - low) / 25)  # names stay apart where lines do not
        axes.annotate(
            f"{name} {ndcg:.4f}", (1, label_at), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color="0.35",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel(f"seconds to fit, {os.cpu_count()} cores")
    axes.set_ylabel("NDCG@20, whole test set")
    axes.set_title("Gowalla: measured (points), published by others (lines)", fontsize=10)
    axes.legend(fontsize=8, loc="center left")
    figure.savefig(path, dpi=110)


def _negative_ndcg(row: Mapping[str, Any]) -> float:
    return -float(row["metrics"]["ndcg@20"]["mean"])


def markdown(task: Mapping[str, Any]) -> str:
    """Write a task's rows as a table, best first, and below it what was chosen."""
    lines = [
        "| method | Recall@20 | NDCG@20 | fit, s | ÷ ALS | settings chosen in, s | peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    als_seconds = task["methods"].get("implicit ALS", {}).get("fit_seconds")
    chosen = [""]

    def shown(row: Mapping[str, Any], metric: str) -> str:
        return "{mean:.4f} ({low:.4f}–{high:.4f})".format(**row["metrics"][metric])

    for method, row in sorted(task["methods"].items(), key=lambda item: _negative_ndcg(item[1])):
        of_als = f"{row['fit_seconds'] / als_seconds:.2f}" if als_seconds else ""
        lines.append(
            f"| {method} | {shown(row, 'recall@20')} | {shown(row, 'ndcg@20')} | "
            f"{row['fit_seconds']:.2f} | {of_als} | {row['tune_seconds'] or ''} | "
            f"{row['peak_memory_bytes'] / 1e6:.0f} MB |"
        )
        if row["settings"]:
            settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
            chosen.append(f"- {method}: {settings}")
    if versus := task.get("ours_minus_best_other"):
        chosen.append(
            f"- {OURS}, minus {versus['best_other']}, user by user, NDCG@20: "
            "{difference:+.4f} ({low:+.4f} to {high:+.4f})".format(**versus["ndcg@20"])
        )
    return "\n".join(lines + chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    parser.add_argument("--task", choices=TASKS, help="measure this one only")
    parser.add_argument("--only", nargs="+", default=[""], help="methods with this in their names")
    parser.add_argument("--plot", type=Path, help="draw Gowalla's figures into this file")
    parser.add_argument(
        "--seeds", type=int, help="tune with so many seeds, and print how far they disagree"
    )
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        task, method, per_user = options.child
        print(json.dumps(measure(task, method, options.data, per_user=Path(per_user))))
        return

    def wanted(method: str) -> bool:
        return any(part in method for part in options.only)

    for name in [options.task] if options.task else TASKS:
        if options.seeds:
            print(json.dumps({"seeds": name, **seeds(name, options.data, n=options.seeds)}))
            continue
        result = run_task(name, options.data, wanted=wanted)
        print(json.dumps({"benchmark": "quality", name: result}), flush=True)
        print(f"\n{name}:\n\n{markdown(result)}\n", flush=True)
        if name == "gowalla" and options.plot is not None:
            draw(result["methods"], options.plot)


if __name__ == "__main__":
    main()
