"""How often the gate errs, and what it costs: ``python -m benchmarks.gate [--data FOLDER]``.

Errors: twice a hundred comparisons by the gate's three rules (the active
version, popularity, coverage), of models fitted to different nine tenths of one
training side. Two of the same recipe and settings,
each beside the next, are equal: a rejection is an error. One that is cut down to
a few components is worse: a rejection is right. Cost: whole training runs, from
the database to the files, and the share of them from the last interaction read
to the final fit.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import factorise, harness, quality
from reckeeper import evaluation, storage
from reckeeper.evaluation import Quality
from reckeeper.interactions import Interaction
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry
from reckeeper.training import pipeline
from reckeeper.training.verdict import found

N_COMPARED = 100
SAMPLE = 0.9


@dataclass(frozen=True)
class Model:
    """A recipe with settings, and settings that make it somewhat worse."""

    recipe: str
    settings: Mapping[str, Any]
    worse: Mapping[str, Any]


MODELS = (
    Model("svd", {"n_components": 10}, {"n_components": 2}),
    Model("spectral", {}, {"n_components": 8}),
)


def synthetic(n_drawn: int, n_users: int, n_items: int) -> InteractionLog:
    """Draw interactions as `factorise.generate` does; they come one a second, in random order."""
    pairs = factorise.generate(n_drawn, n_users, n_items).tocoo()
    order = np.random.default_rng(0).permutation(pairs.nnz)
    return InteractionLog(
        IdIndex([f"u{number:06}" for number in range(n_users)]),
        IdIndex([f"i{number:06}" for number in range(n_items)]),
        pairs.row[order].astype(np.int32),
        pairs.col[order].astype(np.int32),
        np.ones(pairs.nnz),
        1_600_000_000_000_000 + 1_000_000 * np.arange(pairs.nnz),
        np.zeros(pairs.nnz, dtype=np.int8),
    )


# ------------------------------------------------------------------ errors


def compare(log: InteractionLog, model: Model, *, n: int) -> dict[str, Any]:
    """Count the rejections of models that are equal, and of models that are worse."""
    log, _ = evaluation.canonical(log)
    split = evaluation.split_user_time(log)
    learnable = log.part(split.keep)
    draw = np.random.default_rng(0)

    def measured(settings: Mapping[str, Any]) -> Quality:
        sample = learnable.part(draw.random(len(learnable)) < SAMPLE)
        trained = sample.matrix()
        fitted = recipe_named(model.recipe).fit(trained, settings=settings)
        return evaluation.measure_split(Ranker.of(fitted, trained), split, k=policy.k)

    def is_rejected(candidate: Quality, *, seed: int) -> bool:
        mean = float(active.by_user["ndcg@10"].mean())
        paired = evaluation.compare(active, candidate, seed=seed)["ndcg@10"]
        beside_popular = evaluation.compare(popular, candidate, seed=seed)["ndcg@10"]
        return (
            found(paired, mean=mean, margin=policy.margin).standing == "worse"
            or beside_popular.high < 0
            or candidate.of_lists["coverage@10"]
            < policy.min_coverage_share * active.of_lists["coverage@10"]
        )

    policy = Policy()
    popular = evaluation.measure_split(
        Ranker.of(recipe_named("popularity").fit(split.train, settings={}), split.train),
        split,
        k=policy.k,
    )
    rejected = {"equal": 0, "worse": 0}
    lost = []
    active = measured(model.settings)
    for number in range(n):
        mean = float(active.by_user["ndcg@10"].mean())
        equal, worse = measured(model.settings), measured(model.worse)
        rejected["equal"] += is_rejected(equal, seed=number)
        rejected["worse"] += is_rejected(worse, seed=number)
        lost.append(1 - float(worse.by_user["ndcg@10"].mean()) / mean)
        active = equal
    return {
        "compared": n,
        "equal_rejected": rejected["equal"],
        "worse_rejected": rejected["worse"],
        "worse_by": round(float(np.mean(lost)), 3),
        "users": len(active.user_index),
        "ndcg@10": round(mean, 4),
    }


# ------------------------------------------------------------------ cost


def train_thrice(log: InteractionLog, model: Model) -> dict[str, Any]:
    """Train on nine tenths, in an order of chance, and serve; then train on all.

    First the gate finds a tenth newer than the active version. Then it finds
    nothing newer: once beside the same recipe and settings, and once beside
    others, which it fits as well.
    """
    log = log.part(np.random.default_rng(0).permutation(len(log)))
    with harness.installation() as settings:
        database = storage.open_database(settings)
        try:
            n_first = len(log) * 9 // 10
            _store(database, log, range(n_first))
            other = {"recipe": model.recipe, "settings": dict(model.worse)}
            ours = {"recipe": model.recipe, "settings": dict(model.settings)}
            _train(database, settings, ours)
            _store(database, log, range(n_first, len(log)))
            newer = _train(database, settings, ours)
            same = _train(database, settings, ours)
            _train(database, settings, other)
            different = _train(database, settings, ours)
        finally:
            database.close()
    return {"newer": newer, "held out, same": same, "held out, different": different}


def _store(database: storage.Database, log: InteractionLog, rows: range) -> None:
    for start in range(rows.start, rows.stop, 100_000):
        with database.write() as connection:
            storage.interactions.append(
                connection,
                [
                    Interaction(
                        f"e{row}",
                        log.users.ids[log.user_index[row]],
                        log.items.ids[log.item_index[row]],
                        "click",
                        1.0,
                        int(log.occurred_at[row]),
                    )
                    for row in range(start, min(start + 100_000, rows.stop))
                ],
            )


def _train(database: storage.Database, settings: Any, request: Mapping[str, Any]) -> dict[str, Any]:
    """Train, activate, and say what the gate took of it."""
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual", request=dict(request))
        job = storage.jobs.get(connection, job_id)
    told: list[tuple[str, float]] = []
    began = time.perf_counter()
    version = pipeline.run(
        database,
        settings,
        job=job,
        report=lambda stage, _, **__: told.append((stage, time.perf_counter())),
    )
    seconds = time.perf_counter() - began
    with database.write() as connection:
        storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED, version=version)
    registry = Registry(database, settings.model_dir)
    registry.switch.activate(registry.versions.load(version), actor="benchmark")
    read = max(at for stage, at in told if stage == "reading")
    judged = min(at for stage, at in told if stage == "fitting")
    verdict = registry.versions.describe(version).verdict
    return {
        "method": verdict["method"],
        "users": verdict["n_users"],
        "seconds": round(seconds, 2),
        "gate_seconds": round(judged - read, 2),
        "share": round((judged - read) / seconds, 3),
    }


def run(data: Path = harness.DATA, *, only: str = "", n: int = N_COMPARED) -> dict[str, Any]:
    """Count the errors and measure the cost, for both recipes on both sets."""
    harness.require_data(data)
    movielens = quality._movielens_log(data)
    tasks = {
        "errors": (
            compare,
            {"MovieLens": movielens, "4,000 x 2,000": synthetic(240_000, 4_000, 2_000)},
        ),
        "cost": (
            train_thrice,
            {"MovieLens": movielens, "20,000 x 5,000": synthetic(1_500_000, 20_000, 5_000)},
        ),
    }
    result: dict[str, Any] = {"benchmark": "gate"}
    for task, (measure, sets) in tasks.items():
        for name, log in sets.items():
            for model in MODELS:
                title = f"{task}, {name}, {model.recipe}"
                if only in title:
                    options = {"n": n} if task == "errors" else {}
                    result[title] = measure(log, model, **options)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    parser.add_argument("--only", default="", help="what to measure: titles that contain this")
    parser.add_argument("--n", type=int, default=N_COMPARED, help="comparisons of each kind")
    options = parser.parse_args()
    print(json.dumps(run(options.data, only=options.only, n=options.n)))


if __name__ == "__main__":
    main()
