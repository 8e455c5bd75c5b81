"""Which recipe suits the data: popularity, the plain SVD and a tuned recipe on one split."""

import dataclasses
import time
from collections.abc import Callable, Mapping

from reckeeper import evaluation, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import Action, NotEnoughDataError
from reckeeper.evaluation import Quality, Split
from reckeeper.matrix import InteractionLog
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.training.pipeline import read_chosen
from reckeeper.training.report import TUNING, Comparison, MeasuredRecipe, Report
from reckeeper.training.request import FIRST_RECIPE, TUNED_RECIPE
from reckeeper.training.tuning import tune
from reckeeper.training.verdict import Difference, Metric

BASELINE = "popularity"

K = 20
"""Length of the lists that are judged."""

LEAST_USERS = 10
"""Users with something held out; a comparison on fewer says nothing."""


def run(
    database: storage.Database,
    settings: Settings,
    *,
    tune_seconds: float | None = None,
    seed: int = 0,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Compare the recipes on the stored interactions; see `compare`.

    Nothing is written: the active version stays as it is.

    Raises
    ------
    NotEnoughDataError
        There are no interactions, or too few users have several items.
    """
    report = report or _unreported
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
) -> Comparison:
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
        For split, tuning and confidence intervals.
    report : Report, optional
        Gets the result so far whenever a recipe has been measured.
    should_stop : callable, optional
        Asked while tuning: True lets it end with the best so far.

    Raises
    ------
    NotEnoughDataError
        Fewer than `LEAST_USERS` users have several items.

    Notes
    -----
    By `log` and `seed` the result is the same each time, apart from the
    seconds, and from settings that a time limit or `should_stop` decided.
    """
    report = report or _unreported
    log, _ = evaluation.canonical(log)
    if evaluation.is_timed(log):
        split = evaluation.split_user_time(log, seed=seed)
    else:
        split = evaluation.split_random(log, seed=seed)
    n_users = len(split.judged)
    if n_users < LEAST_USERS:
        raise NotEnoughDataError(
            "Recipes are compared by how they find what is held out of each user's items: that "
            f"takes at least {LEAST_USERS} users with 2 items or more each, and only {n_users} of "
            f"{len(log.users)} have them. Send or import more interactions, then ask again.",
            action=Action("send_interactions"),
        )
    measuring = _Measuring(split, seed=seed, report=report)
    measuring.add(BASELINE, {}, begin=0.05, end=0.1)
    measuring.add(*FIRST_RECIPE, begin=0.1, end=0.2)
    report(TUNING, 0.2)
    tuned = tune(
        TUNED_RECIPE,
        log.part(split.keep),
        seed=seed,
        budget_seconds=tune_seconds,
        on_progress=lambda progress: report(
            TUNING, 0.2 + 0.6 * progress.fraction, progress=progress
        ),
        should_stop=should_stop,
    )
    measuring.add(TUNED_RECIPE, tuned.settings, tune_seconds=tuned.seconds, begin=0.8, end=1.0)
    return measuring.result


class _Measuring:
    """Recipes measured on one split, the baseline first."""

    def __init__(self, split: Split, *, seed: int, report: Report) -> None:
        self._split = split
        self._seed = seed
        self._report = report
        self._baseline: Quality | None = None
        self.result = Comparison(split.kind, K)

    def add(
        self,
        recipe: str,
        settings: Mapping[str, object],
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
        quality = evaluation.measure_split(
            Ranker.of(model, self._split.train),
            self._split,
            k=K,
            on_progress=lambda done: self._report("measuring", middle + (end - middle) * done),
        )
        if self._baseline is None:
            self._baseline = quality
        versus = evaluation.compare(self._baseline, quality, seed=self._seed)
        measured = MeasuredRecipe(
            recipe=recipe,
            settings=model.settings,
            tuned=tune_seconds is not None,
            fit_seconds=round(fit_seconds, 3),
            tune_seconds=round(tune_seconds or 0.0, 3),
            metrics={
                name: Metric(figure.mean, figure.low, figure.high)
                for name, figure in quality.summary(seed=self._seed).items()
            },
            versus_popularity={
                name: Difference(paired.difference, paired.low, paired.high)
                for name, paired in versus.items()
            },
        )
        self.result = dataclasses.replace(
            self.result,
            n_users=len(quality.user_index),
            recipes=(*self.result.recipes, measured),
        )
        self._report("measuring", end, result=self.result)


def _unreported(stage: str, fraction: float, **_found: object) -> None:
    pass
