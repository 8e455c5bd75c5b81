"""Finding good settings by themselves, from the training data alone.

Candidates are judged on several folds of the training part; what a recipe tries, and in what
order, is its own plan.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reckeeper.matrix import InteractionLog
from reckeeper.recipes import TuningSplit, recipe_named
from reckeeper.training import folds
from reckeeper.wire import Drift, JsonObject

_BUDGETS = ((100_000, 120.0), (1_000_000, 400.0))
"""Interactions up to which so many seconds of CPU time are the budget."""

_LARGE, _FITS = 400.0, 5.0
"""Beyond: so many seconds, or so many final fits, whichever is more."""

_CAUTION = 1.0
"""Standard errors by which a change must pay, where a plan has no other rule: settings that are
as good stay as they are."""


@dataclass(frozen=True)
class Trial:
    """Settings that were judged.

    Attributes
    ----------
    settings : dict
        Complete, as JSON values.
    ndcg : float
        Mean of NDCG@20 over the folds.
    by_split : dict of str to float
        NDCG@20 by fold; with strong drift by leaning, over all folds.
    """

    settings: JsonObject
    ndcg: float
    by_split: dict[str, float]


@dataclass(frozen=True)
class TuningProgress:
    """How far a tuning is.

    Attributes
    ----------
    fraction : float
        In [0, 1].
    n_tried : int
    best : Trial or None
        The best so far.
    history : tuple of (int, float)
        How many were tried when there was a new best, and its NDCG.
    seconds : float
        Since the start, on the clock.
    seconds_left : float or None
        On the clock, at most; None while it cannot be told.
    """

    fraction: float
    n_tried: int
    best: Trial | None
    history: tuple[tuple[int, float], ...]
    seconds: float
    seconds_left: float | None

    def to_json(self) -> JsonObject:
        """Return what a job's row keeps of it, in JSON values.

        ``seconds_left`` counts to the end of the job there: after the tuning
        comes a fit, for which a fifth of the tuning's time is reckoned.
        """
        best, left = self.best, self.seconds_left
        return {
            "n_tried": self.n_tried,
            "ndcg": None if best is None else best.ndcg,
            "settings": None if best is None else best.settings,
            "history": [{"n_tried": n_tried, "ndcg": ndcg} for n_tried, ndcg in self.history],
            "seconds_left": None if left is None else round(left + (self.seconds + left) / 5, 1),
        }


@dataclass(frozen=True)
class Tuned:
    """What came of a tuning.

    Attributes
    ----------
    settings : dict
        The best trial's.
    best : Trial
    n_tried : int
    seconds : float
        On the clock.
    stopped : bool
        Whether it was told to stop, or ran out of its budget, before it was
        through with its plan.
    """

    settings: JsonObject
    best: Trial
    n_tried: int
    seconds: float
    stopped: bool


def tune(
    recipe: str,
    log: InteractionLog,
    *,
    drift: Drift = "none",
    seed: int = 0,
    budget_seconds: float | None = None,
    on_progress: Callable[[TuningProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tuned:
    """Find settings of a recipe that do well on several folds of the data.

    Parameters
    ----------
    recipe : str
    log : InteractionLog
        Training data alone. Of more than two million interactions, those of
        users drawn by chance.
    drift : Drift
        How far what comes is expected to lean to what is popular: ``none``,
        no further than what was. ``mild``: what is held out leans. ``strong``:
        popular items that are held out count more and more, and the settings
        are taken that lose least, on the whole and where they lose most.
    seed : int
        For folds and samples. The same seed gives the same settings as long
        as the plan is not cut short by the budget or by hand.
    budget_seconds : float, optional
        CPU time of this process, above zero, so that other load changes
        nothing. By default 120 up to 100,000 interactions, 400 up to a
        million, beyond that 400 or five final fits, whichever is more.
    on_progress : callable, optional
        Called after each trial, and between the steps of long ones. What it
        raises ends the tuning with nothing.
    should_stop : callable, optional
        Asked between trials; True ends the tuning with the best so far.

    Returns
    -------
    Tuned
        At least one candidate is always judged.

    Raises
    ------
    DataError
        There is no such recipe.
    NotEnoughDataError
        No user has two items, or fewer than two users or items.
    """
    made = recipe_named(recipe)
    part = folds.sampled(log, seed=seed)
    run = _Run(
        on_progress,
        should_stop,
        drift=drift,
        n_interactions=len(log),
        n_cut=len(part),
        budget_seconds=budget_seconds,
        newest=lambda: folds.newest(part, seed=seed),
    )
    try:
        made.tune(folds.draw(part, drift=drift, seed=seed), run)
    except _StopTuning:
        run.stopped = True
    return run.result()


class _StopTuning(Exception):
    """The budget is used up, or somebody asked to stop."""


class _Run:
    """Keeps the trials, the budget and the best so far; see `recipes.TuningRun`."""

    def __init__(
        self,
        on_progress: Callable[[TuningProgress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        *,
        drift: Drift = "none",
        n_interactions: int = 0,
        n_cut: int = 1,
        budget_seconds: float | None = None,
        newest: Callable[[], TuningSplit | None] = lambda: None,
    ) -> None:
        self._started = time.monotonic()
        self._cpu_started = time.process_time()
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._is_given = budget_seconds is not None
        self._n_interactions, self._n_cut = n_interactions, max(1, n_cut)
        self.budget_seconds = budget_seconds or _budget(n_interactions)
        self.newest = newest
        self._drift = drift
        self._fraction = 0.0
        self._weighed: list[tuple[Trial, float]] = []
        self._best: Trial | None = None
        self._best_values: Mapping[str, np.ndarray] = {}
        self._history: list[tuple[int, float]] = []
        self.n_tried = 0
        self.stopped = False

    @property
    def drift(self) -> Drift:
        return self._drift

    @property
    def seconds(self) -> float:
        return time.process_time() - self._cpu_started

    @property
    def used(self) -> float:
        return self.seconds / self.budget_seconds

    @property
    def best(self) -> Trial | None:
        return self._best

    @property
    def best_settings(self) -> Mapping[str, object] | None:
        return None if self._best is None else self._best.settings

    def expect_fit(self, seconds: float) -> None:
        """Raise the budget for large data, unless somebody has set one."""
        if not self._is_given and self._n_interactions > _BUDGETS[-1][0]:
            self.budget_seconds = max(_LARGE, _FITS * seconds * self._n_interactions / self._n_cut)

    def add(self, settings: Mapping[str, object], ndcg: Mapping[str, np.ndarray]) -> bool:
        """Take in a trial, NDCG by fold and user; return whether it is the best now.

        What comes will differ from every fold, so a loss on one counts more
        than a gain on another: the mean of the average and the smallest gain
        must be above one standard error of the average.
        """
        ndcg = _by_leaning(ndcg)
        trial = _trial(settings, _means(ndcg))
        self.n_tried += 1
        if self._best is not None:
            gains, variances = [], []
            for kind, values in ndcg.items():
                base = max(self._best.by_split[kind], 1e-9)
                difference = (values - self._best_values[kind]) / base
                gains.append(difference.mean())
                variances.append(difference.var() / len(difference))
            error = np.sqrt(np.sum(variances)) / len(gains)
            if (np.mean(gains) + np.min(gains)) / 2 <= _CAUTION * error:
                return False
        self._best_values = ndcg
        self._take(trial)
        return True

    def weigh(
        self, settings: Mapping[str, object], ndcg: Mapping[str, np.ndarray], *, pull: float
    ) -> Mapping[str, float]:
        """Take in a trial; the best is the one of the largest `worth` less its pull."""
        self.n_tried += 1
        trial = _trial(settings, self.means(ndcg))
        self._weighed.append((trial, pull))
        best, _ = max(self._weighed, key=lambda one: self.worth(one[0].by_split) - one[1])
        if best is not self._best:
            self._take(best)
        return trial.by_split

    def means(self, ndcg: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Return what NDCG by fold and user comes to by fold, or by leaning."""
        return _means(_by_leaning(ndcg))

    def worth(self, ndcg: Mapping[str, float]) -> float:
        """Return how good NDCG by fold is: 1 for the first trial, or, with strong drift, the best.

        The mean over folds of the ratio to the first trial's. With strong drift
        the ratios are to the best that was seen by each leaning, and the least
        counts as much as the mean of all: by the least alone, settings would
        win that are worse wherever it does not tell.
        """
        if self._drift == "strong":
            ratios = [
                ndcg[fold] / max(1e-9, *(trial.by_split[fold] for trial, _ in self._weighed))
                for fold in ndcg
            ]
            return float(min(ratios) + np.mean(ratios)) / 2
        first = self._weighed[0][0].by_split
        return float(np.mean([ndcg[fold] / max(1e-9, first[fold]) for fold in ndcg]))

    def settle(self, settings: Mapping[str, object], ndcg: Mapping[str, float]) -> None:
        """Make settings the best, whatever the others were worth."""
        self._take(_trial(settings, ndcg))

    def step(self, fraction: float | None = None) -> None:
        """Report how far it is, and stop where it is time to."""
        used = self.used
        self._fraction = min(1.0, max(self._fraction, fraction or 0.0, used))
        if self._on_progress is not None:
            cpu_left = max(0.0, self.budget_seconds - self.seconds)
            if fraction is not None and fraction > 0.05:
                cpu_left = min(cpu_left, self.seconds * (1 - fraction) / fraction)
            on_clock = time.monotonic() - self._started
            left = cpu_left * on_clock / max(self.seconds, 1e-3)
            self._report(self._fraction, left)
        if self.n_tried and (used >= 1 or (self._should_stop is not None and self._should_stop())):
            raise _StopTuning

    def result(self) -> Tuned:
        best = self._best
        assert best is not None
        self._report(1.0, 0.0)
        seconds = time.monotonic() - self._started
        return Tuned(best.settings, best, self.n_tried, seconds, self.stopped)

    def _take(self, trial: Trial) -> None:
        if self._best is None or self._best.by_split != trial.by_split:
            self._history.append((self.n_tried, trial.ndcg))
        self._best = trial

    def _report(self, fraction: float, seconds_left: float) -> None:
        if self._on_progress is not None:
            self._on_progress(
                TuningProgress(
                    fraction,
                    self.n_tried,
                    self._best,
                    tuple(self._history),
                    time.monotonic() - self._started,
                    seconds_left,
                )
            )


def _budget(n_interactions: int) -> float:
    for most, seconds in _BUDGETS:
        if n_interactions <= most:
            return seconds
    return _LARGE


def _means(ndcg: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {fold: float(values.mean()) for fold, values in ndcg.items()}


def _by_leaning(ndcg: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Join what folds say by leaning, if they do: all users have the same."""
    if next(iter(ndcg.values())).ndim == 1:
        return ndcg
    joined = np.concatenate(list(ndcg.values()), axis=1)
    return dict(zip(folds.STRONG, joined, strict=True))


def _trial(settings: Mapping[str, object], ndcg: Mapping[str, float]) -> Trial:
    return Trial(dict(settings), float(np.mean(list(ndcg.values()))), dict(ndcg))
