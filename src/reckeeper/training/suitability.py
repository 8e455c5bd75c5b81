"""Which recipe suits the data: popularity, the plain SVD and a tuned recipe on one split."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reckeeper import evaluation, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import Quality, Split
from reckeeper.matrix import InteractionLog
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.training.pipeline import (
    FIRST_RECIPE,
    TUNED_RECIPE,
    TUNING,
    Report,
    read_chosen,
    tuning_progress,
)
from reckeeper.training.tune import tune

BASELINE = "popularity"

K = 20
"""Length of the lists that are judged."""

LEAST_USERS = 10
"""Users with something held out; of fewer, a comparison says nothing."""


def run(
    database: storage.Database,
    settings: Settings,
    *,
    tune_seconds: float | None = None,
    seed: int = 0,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Compare the recipes on the stored interactions; see `compare`.

    Nothing is written: the active version stays as it is.

    Raises
    ------
    NotEnoughDataError
        There are no interactions, or too few users have several items.
    """
    report = report or _tell_nobody
    report("reading", 0.0)
    with database.read() as connection:
        policy = policies.current(connection, settings).policy
        log = read_chosen(
            connection, policy, on_fraction=lambda done: report("reading", 0.05 * done)
        ).log
    return compare(
        log, tune_seconds=tune_seconds, seed=seed, report=report, should_stop=should_stop
    )


def compare(
    log: InteractionLog,
    *,
    tune_seconds: float | None = None,
    seed: int = 0,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Measure `popularity`, `svd` as the first model has it, and `spectral`, tuned.

    The last fifth of each user's items is held out, by time where there are
    times, else at random. Fits and tuning see the rest alone; all recipes are
    measured on the same users, over all items.

    Parameters
    ----------
    log : InteractionLog
    tune_seconds : float, optional
        How long to tune; by default what `tune` takes.
    seed : int
        Of split, tuning and confidence intervals.
    report : Report, optional
        Gets the result so far whenever a recipe has been measured.
    should_stop : callable, optional
        Asked while tuning: True lets it end with the best so far.

    Returns
    -------
    dict
        JSON values: ``split``, ``k``, ``n_users`` (those measured) and
        ``recipes``, a list of ``recipe``, ``settings``, ``tuned``,
        ``fit_seconds``, ``tune_seconds``, ``metrics``
        (`evaluation.Quality.summary`) and ``versus_popularity``
        (`evaluation.compare`).

    Raises
    ------
    NotEnoughDataError
        Fewer than `LEAST_USERS` users have several items.

    Notes
    -----
    By `log` and `seed` the result is the same each time, apart from the
    seconds, and from settings that a time limit or `should_stop` decided.
    """
    report = report or _tell_nobody
    if log.occurred_at is None:
        split = evaluation.split_random(log, seed=seed)
    else:
        split = evaluation.split_user_time(log)
    is_measured = (np.diff(split.histories.indptr) > 0) & (np.diff(split.held_out.indptr) > 0)
    n_users = int(np.count_nonzero(is_measured))
    if n_users < LEAST_USERS:
        raise NotEnoughDataError(
            "Recipes are compared by how they find what is held out of each user's items: that "
            f"takes at least {LEAST_USERS} users with 2 items or more each, and of the "
            f"{len(log.users)} there are {n_users} have them. Send more interactions (POST "
            "/user_interactions, or `reckeeper import FILE`), then ask again."
        )
    comparison = _Comparison(split, seed=seed, report=report)
    comparison.add(BASELINE, {}, begin=0.05, end=0.1)
    comparison.add(*FIRST_RECIPE, begin=0.1, end=0.2)
    report(TUNING, 0.2)
    tuned = tune(
        TUNED_RECIPE,
        log.part(split.keep),
        seed=seed,
        budget_seconds=tune_seconds,
        on_progress=lambda progress: report(
            TUNING, 0.2 + 0.6 * progress.fraction, progress=tuning_progress(progress)
        ),
        should_stop=should_stop,
    )
    comparison.add(TUNED_RECIPE, tuned.settings, tune_seconds=tuned.seconds, begin=0.8, end=1.0)
    return comparison.result


class _Comparison:
    """Recipes measured on one split, the baseline first."""

    def __init__(self, split: Split, *, seed: int, report: Report) -> None:
        self._split = split
        self._seed = seed
        self._report = report
        self._baseline: Quality | None = None
        self.result: dict[str, Any] = {"split": split.kind, "k": K, "n_users": 0, "recipes": []}

    def add(
        self,
        recipe: str,
        settings: Mapping[str, Any],
        *,
        tune_seconds: float | None = None,
        begin: float,
        end: float,
    ) -> None:
        """Fit and measure a recipe, and report the result with it."""
        middle = (begin + end) / 2
        self._report("fitting", begin)
        began = time.perf_counter()
        model = recipe_named(recipe).fit(
            self._split.train,
            settings=settings,
            on_progress=lambda done: self._report("fitting", begin + (middle - begin) * done),
        )
        fit_seconds = time.perf_counter() - began
        self._report("measuring", middle)
        quality = evaluation.measure(
            Ranker.of(model, self._split.train),
            histories=self._split.histories,
            held_out=self._split.held_out,
            k=K,
            on_progress=lambda done: self._report("measuring", middle + (end - middle) * done),
        )
        if self._baseline is None:
            self._baseline = quality
            self.result["n_users"] = len(quality.user_index)
        self.result["recipes"].append(
            {
                "recipe": recipe,
                "settings": model.settings,
                "tuned": tune_seconds is not None,
                "fit_seconds": round(fit_seconds, 3),
                "tune_seconds": round(tune_seconds or 0.0, 3),
                "metrics": quality.summary(seed=self._seed),
                "versus_popularity": evaluation.compare(self._baseline, quality, seed=self._seed),
            }
        )
        self._report("measuring", end, result=self.result)


def _tell_nobody(stage: str, fraction: float, **_found: Any) -> None:
    pass
