"""How often the gate errs, and what it costs: ``python -m benchmarks.gate [--data FOLDER]``.

Errors: on every set in the data folder, with times and without, of 200, 1,000
and 5,000 of its users, by the gate's own way: the cuts of `hold_out`, pooled by
user, and the rule of `weighed` with the policy's defaults.

A/A: models of the same recipe and settings, fitted to different nine tenths of
what may be learned, are equal: a rejection is an error. Users are drawn
`N_SAMPLES` times, on each sample `N_FITS` models are fitted, and each is judged
beside each other one.

A/B: a candidate that loses twice the margin, exactly. It is one of these models
beside another, and each item that it found goes missing from its list with the
probability of twice the margin: NDCG is a sum over the items found, so this
takes that share of it, for each user, by expectation. What chance and the two
fits leave over or short of the loss is added to all users' differences as one
constant: over the users at hand the mean difference then is -2 * margin * the
other's NDCG. They are the population, for which that loss is true; from them
users are drawn with replacement, as many as there are, and judged by `found`,
the one rule of the gate. It is counted how often the loss is found ("worse")
where the users suffice by the finding's own `n_users_needed`, how often "too
few" stands where they do not, and what is neither: "no worse" or "better",
untruths both. "At the number needed" judges draws of as many users as the
formula asks for with the population's standard deviation, where these are at
most `MOST_DRAWN`; this shows the formula's worth on a set that has fewer.

Cost: whole training runs, from the database to the files, and the share of them
from the last interaction read to the final fit.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import factorise, harness, quality
from reckeeper import evaluation, storage
from reckeeper.evaluation import PairedDifference, Quality
from reckeeper.evaluation.confidence import intervals
from reckeeper.interactions import Interaction
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry
from reckeeper.training import pipeline
from reckeeper.training.comparison import BASELINE
from reckeeper.training.gate import HeldOut, hold_out
from reckeeper.training.verdict import Finding, Verdict, found
from reckeeper.training.weighing import Measured, weighed

SAMPLE = 0.9
SIZES = (200, 1_000, 5_000)
N_SAMPLES, N_FITS = 5, 5
N_LOSSES = 100
N_THINNED = 4
MOST_DRAWN = 20_000
UNTIMED = ("anime", "citeulike", "gowalla", "retailrocket", "steam")


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


def sets(data: Path) -> dict[str, Callable[[], InteractionLog]]:
    """Return how to read each set: those that have times also without them."""
    movielens = functools.partial(quality._movielens_log, data)

    def without_times(log: InteractionLog) -> InteractionLog:
        return dataclasses.replace(log, occurred_at=None)

    def untimed(name: str) -> InteractionLog:
        parts = [pq.read_table(data / name / f"{part}.parquet") for part in ("train", "test")]
        table = pa.concat_tables([part.select(["user_id", "item_id"]) for part in parts])
        return quality._log(table["user_id"], table["item_id"])

    def video() -> InteractionLog:
        table = pq.read_table(data / "video" / "train.parquet")
        seconds = table["timestamp"].cast(pa.timestamp("s")).cast(pa.int64())
        return quality._log(table["user_id"], table["item_id"], seconds=seconds)

    return {
        "ml-latest-small, times": movielens,
        "ml-latest-small, no times": lambda: without_times(movielens()),
        "video, times": video,
        "video, no times": lambda: without_times(video()),
        **{f"{name}, no times": functools.partial(untimed, name) for name in UNTIMED},
    }


def of_users(log: InteractionLog, n_users: int, *, seed: int) -> InteractionLog:
    """Draw some users of a log, with their interactions and no other ids."""
    drawn = np.random.default_rng(seed).permutation(len(log.users))[:n_users]
    part = log.part(np.isin(log.user_index, drawn))
    users, user_index = np.unique(part.user_index, return_inverse=True)
    items, item_index = np.unique(part.item_index, return_inverse=True)
    return dataclasses.replace(
        part,
        users=IdIndex([log.users.ids[place] for place in users]),
        items=IdIndex([log.items.ids[place] for place in items]),
        user_index=user_index.astype(np.int32),
        item_index=item_index.astype(np.int32),
    )


@dataclass(frozen=True)
class Judged:
    """Equal models, and popularity, on the same users of one sample."""

    held_out: HeldOut
    models: tuple[Quality, ...]
    popular: Quality


def judged(log: InteractionLog, model: Model, *, policy: Policy, seed: int) -> Judged:
    """Fit equal models to different nine tenths of what the gate leaves to learn, and measure."""
    held_out = hold_out(log, n_seen=0, active=None, policy=policy, seed=seed)
    draw = np.random.default_rng(seed)
    users = held_out.users(policy, seed=seed)

    def measured(recipe: str, settings: Mapping[str, Any], share: float) -> Quality:
        qualities = []
        for split in held_out.splits:
            known = held_out.log.part(split.keep)
            trained = known.part(draw.random(len(known)) < share).matrix()
            ranker = Ranker.of(recipe_named(recipe).fit(trained, settings=settings), trained)
            asked = np.intersect1d(users, split.judged)
            qualities.append(evaluation.measure_split(ranker, split, user_index=asked, k=policy.k))
        return evaluation.pool(qualities)

    models = tuple(measured(model.recipe, model.settings, SAMPLE) for _ in range(N_FITS))
    return Judged(held_out, models, measured(BASELINE, {}, 1.0))


def verdict_of(
    recipe: str,
    active: Quality,
    candidate: Quality,
    popular: Quality,
    *,
    how: str,
    policy: Policy,
    seed: int,
) -> Verdict:
    """Weigh a candidate beside the active version, as the gate does."""
    models = {BASELINE: popular, "active": active, "candidate": candidate}
    n_users = len(active.user_index)
    measured = Measured(
        "refit",
        how,
        n_users,
        evaluation.compare_all(models, seed=seed),
        active.of_lists[f"coverage@{policy.k}"],
    )
    verdict = Verdict(
        decision="promote",
        standing="not_compared",
        sentence="",
        decided_at=0,
        metric=policy.metric,
        margin=policy.margin,
        k=policy.k,
        active_version=1,
    )
    return weighed(verdict, measured, recipe=recipe, policy=policy)


def thinned(quality: Quality, share: float, *, draw: np.random.Generator) -> Quality:
    """Return the quality of lists of which each item found is missing with some probability."""
    is_missing = draw.random(quality.found.shape) < share
    return dataclasses.replace(quality, found=np.where(is_missing, -1, quality.found))


def compare(log: InteractionLog, model: Model, n_users: int, *, n_at_needed: int) -> dict[str, Any]:
    """Count the rejections of equal models, and how a loss of twice the margin is found."""
    policy = Policy()
    samples = [
        judged(of_users(log, n_users, seed=seed), model, policy=policy, seed=seed)
        for seed in range(N_SAMPLES)
    ]
    populations = losing(samples, policy)
    return {
        "cut": evaluation.how_pooled(samples[0].held_out.splits),
        "users": round(float(np.mean([len(one.popular.user_index) for one in samples]))),
        policy.metric: round(
            float(np.mean([m.by_user[policy.metric].mean() for s in samples for m in s.models])), 4
        ),
        "equal": _equal(samples, model, policy),
        "loses": _loses(populations, policy, n=N_LOSSES),
        "loses, at the number needed": _loses(populations, policy, n=n_at_needed, at_needed=True),
        "needed": round(float(np.median([one.needed(policy) for one in populations] or [0]))),
    }


def _equal(samples: list[Judged], model: Model, policy: Policy) -> dict[str, int]:
    """Judge each model beside each other of its sample."""
    counts = {"compared": 0, "rejected": 0, "found worse": 0, "too few": 0}
    for sample in samples:
        for seed, (active, candidate) in enumerate(itertools.permutations(sample.models, 2)):
            verdict = verdict_of(
                model.recipe, active, candidate, sample.popular, how="", policy=policy, seed=seed
            )
            counts["compared"] += 1
            counts["rejected"] += bool(verdict.reasons)
            counts["found worse"] += verdict.standing == "worse"
            counts["too few"] += verdict.standing == "too_few"
    return counts


@dataclass(frozen=True)
class Losing:
    """A population for which a loss of twice the margin is true.

    Attributes
    ----------
    active : ndarray of float64, shape (n_users,)
        What each user has of the active version.
    differences : ndarray of float64, shape (N_THINNED, n_users)
        The candidate's less that, for each of some thinnings of its lists.
    """

    active: np.ndarray
    differences: np.ndarray

    def needed(self, policy: Policy) -> int:
        """Return how many users find the loss, by the formula and the whole population."""
        paired = PairedDifference(0.0, 0.0, 0.0, float(self.differences.std()), self.active.size)
        return paired.n_users_needed(mean=float(self.active.mean()), margin=policy.margin)

    def finding(self, n_users: int, policy: Policy, *, draw: np.random.Generator) -> Finding:
        """Draw users, and judge the candidate on them."""
        users = draw.integers(self.active.size, size=n_users)
        drawn = self.differences[draw.integers(N_THINNED, size=n_users), users]
        seed = int(draw.integers(2**31))
        ((low, high),) = intervals({"drawn": drawn}, seed=seed, n_resamples=1000, level=0.95)
        sd = float(drawn.std(ddof=1))
        return found(
            PairedDifference(float(drawn.mean()), low, high, sd, n_users),
            mean=float(self.active[users].mean()),
            margin=policy.margin,
            min_users=policy.min_users,
        )


def losing(samples: list[Judged], policy: Policy) -> list[Losing]:
    """Return a population for each model of each sample beside the next; see the top."""
    draw = np.random.default_rng(0)
    populations = []
    for sample in samples:
        for number, model in enumerate(sample.models):
            active = model.by_user[policy.metric]
            if not active.any():
                continue
            candidate = sample.models[number - 1]
            differences = np.stack(
                [
                    thinned(candidate, 2 * policy.margin, draw=draw).by_user[policy.metric] - active
                    for _ in range(N_THINNED)
                ]
            )
            differences -= differences.mean() + 2 * policy.margin * active.mean()
            populations.append(Losing(active, differences))
    return populations


def _loses(
    populations: list[Losing], policy: Policy, *, n: int, at_needed: bool = False
) -> dict[str, int]:
    """Judge candidates that lose twice the margin."""
    counts = {"users": 0, "enough": 0, "found": 0, "not enough": 0, "too few": 0}
    counts |= {"found all the same": 0, "untrue": 0}
    draw = np.random.default_rng(0)
    sizes = []
    for number in range(n if populations else 0):
        population = populations[number % len(populations)]
        size = population.needed(policy) if at_needed else population.active.size
        if at_needed and size > MOST_DRAWN:
            continue
        sizes.append(size)
        finding = population.finding(size, policy, draw=draw)
        needed = finding.n_users_needed
        # At the number needed, half of the draws fall a little short by their own deviation.
        is_enough = at_needed or (needed is not None and size >= needed)
        is_found = finding.standing == "worse"
        counts["enough" if is_enough else "not enough"] += 1
        counts["found"] += is_enough and is_found
        counts["found all the same"] += not is_enough and is_found
        counts["too few"] += not is_enough and finding.standing == "too_few"
        counts["untrue"] += finding.standing in ("better", "no_worse")
    counts["users"] = round(float(np.mean(sizes))) if sizes else 0
    return counts


def table(results: Mapping[str, Any]) -> str:
    """Return the errors as a Markdown table."""
    lines = [
        "| data, recipe | users judged | NDCG@10 | equal, rejected (found worse) | "
        "loses, users suffice: found | users do not suffice: too few, found | untrue | "
        "users needed (median) | at the number needed: found |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, row in results.items():
        if not title.startswith("errors, "):
            continue
        equal, loses, needed = (
            row[name] for name in ("equal", "loses", "loses, at the number needed")
        )
        lines.append(
            f"| {title.removeprefix('errors, ')} | {row['users']:,} | {row['ndcg@10']} | "
            f"{equal['rejected']} of {equal['compared']} ({equal['found worse']}) | "
            f"{loses['found']} of {loses['enough']} | "
            f"{loses['too few']}, {loses['found all the same']} of {loses['not enough']} | "
            f"{loses['untrue']} | {row['needed']:,} | {needed['found']} of {needed['enough']} |"
        )
    return "\n".join(lines)


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


def run(
    data: Path = harness.DATA,
    *,
    only: str = "",
    n_at_needed: int = N_LOSSES,
    table_to: Path | None = None,
) -> dict[str, Any]:
    """Count the errors and measure the cost, for both recipes on all sets.

    Parameters
    ----------
    only : str
        What to measure: titles that contain this.
    n_at_needed : int
        Draws at the number of users needed: a tenth of a second each for 3,000 users.
    table_to : Path, optional
        Where the table of errors goes, written again after each row.
    """
    harness.require_data(data)
    result: dict[str, Any] = {"benchmark": "gate"}
    for n_users, (name, read), model in itertools.product(SIZES, sets(data).items(), MODELS):
        title = f"errors, {name}, {n_users:,} users, {model.recipe}"
        if only not in title:
            continue
        log = read()
        if n_users > SIZES[0] and len(log.users) <= max(s for s in SIZES if s < n_users):
            continue
        began = time.perf_counter()
        result[title] = compare(log, model, n_users, n_at_needed=n_at_needed)
        result[title]["seconds"] = round(time.perf_counter() - began, 1)
        if table_to is not None:
            table_to.write_text(table(result) + "\n")
    of_cost = {
        "MovieLens": lambda: quality._movielens_log(data),
        "20,000 x 5,000": lambda: synthetic(1_500_000, 20_000, 5_000),
    }
    for (name, read), model in itertools.product(of_cost.items(), MODELS):
        title = f"cost, {name}, {model.recipe}"
        if only in title:
            result[title] = train_thrice(read(), model)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=harness.DATA)
    parser.add_argument("--only", default="", help="what to measure: titles that contain this")
    parser.add_argument(
        "--at-needed", type=int, default=N_LOSSES, help="draws at the number of users needed"
    )
    parser.add_argument("--table", type=Path, help="file for the table of errors, in Markdown")
    options = parser.parse_args()
    print(
        json.dumps(
            run(
                options.data,
                only=options.only,
                n_at_needed=options.at_needed,
                table_to=options.table,
            )
        )
    )


if __name__ == "__main__":
    main()
