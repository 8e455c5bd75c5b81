"""Finding good settings by themselves, from the training data alone.

What is held out to judge settings never looks like what will come: last
month's data do not. So candidates are judged on several splits of different
kinds, and those that hold on all of them win over those that shine on one.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from reckeeper import evaluation
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import Split
from reckeeper.matrix import InteractionLog
from reckeeper.ranking import Ranker, popularity_of, rank_scores
from reckeeper.recipes import Recipe, recipe_named
from reckeeper.wire import JsonObject

K = 20
"""Length of the lists that candidates are judged by, as NDCG@K."""

FITS = 4.5
"""The default budget, in times that one final fit is estimated to take: an estimate that is
a tenth too high still leaves it below five."""

_SHARE = 0.1
"""Share of each user's items that is held out: little, since what fits a thinner matrix is not
what fits the whole."""

_LEANINGS = {"random": 0.0, "popular": 0.3, "very popular": 0.6}
"""Powers of popularity that held-out pairs are drawn by. What comes leans to the popular by an
amount that nobody knows beforehand: these bracket it."""

N_SPLITS = len(_LEANINGS)
"""On how many splits settings are judged at most."""

_CAUTION = 1.0
"""Standard errors by which a change must pay: settings that are as good stay as they are."""


@dataclass(frozen=True)
class Trial:
    """Settings that were judged.

    Attributes
    ----------
    settings : dict
        Complete, as JSON values.
    ndcg : float
        Mean of NDCG@20 over the splits.
    by_split : dict of str to float
        NDCG@20 by kind of split.
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
    seconds : float
        Since the start.
    seconds_left : float or None
        At most; None while it cannot be told.
    """

    fraction: float
    n_tried: int
    best: Trial | None
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
    seed: int = 0,
    budget_seconds: float | None = None,
    on_progress: Callable[[TuningProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Tuned:
    """Find settings of a recipe that hold on several splits of the data.

    Parameters
    ----------
    recipe : str
    log : InteractionLog
        Training data alone. Splits are random and lean to popular items, some
        more than others; with times, one holds out the end of each user's
        history.
    seed : int
        For splits and samples. The same seed gives the same settings as long
        as the plan is not cut short by the budget or by hand.
    budget_seconds : float, optional
        Above zero. By default four and a half times what one final fit takes,
        by an estimate.
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
    run = _Run(budget_seconds, on_progress, should_stop)
    splits = _splits(log, seed=seed)
    try:
        made.tune([_TuningSplit(split, seed=seed) for split in splits], run)
    except _StopTuning:
        run.stopped = True
    return run.result()


class _StopTuning(Exception):
    """The budget is used up, or somebody asked to stop."""


class _Run:
    """Keeps the trials, the clock and the best so far."""

    def __init__(
        self,
        budget_seconds: float | None,
        on_progress: Callable[[TuningProgress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._started = time.monotonic()
        self.budget_seconds = budget_seconds
        self._on_progress = on_progress
        self._should_stop = should_stop
        self._fraction = 0.0
        self._best: tuple[Trial, Mapping[str, np.ndarray]] | None = None
        self.n_tried = 0
        self.stopped = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def best(self) -> Trial | None:
        return None if self._best is None else self._best[0]

    @property
    def best_settings(self) -> Mapping[str, object] | None:
        return None if self.best is None else self.best.settings

    def best_ndcg(self, kind: str) -> float:
        return 0.0 if self.best is None else self.best.by_split[kind]

    def expect_fit(self, seconds: float) -> None:
        """Set the default budget, unless somebody has set one."""
        if self.budget_seconds is None:
            self.budget_seconds = FITS * seconds

    def add(self, settings: Mapping[str, object], ndcg: Mapping[str, np.ndarray]) -> bool:
        """Take in a trial, NDCG by split and user; return whether it is the best now.

        What comes will differ from every split, so a loss on one counts more
        than a gain on another: the mean of the average and the smallest gain
        must be above one standard error of the average.
        """
        by_split = {kind: float(values.mean()) for kind, values in ndcg.items()}
        trial = Trial(dict(settings), float(np.mean(list(by_split.values()))), by_split)
        self.n_tried += 1
        if self._best is not None:
            before, values_before = self._best
            gains, variances = [], []
            for kind, values in ndcg.items():
                base = max(before.by_split[kind], 1e-9)
                difference = (values - values_before[kind]) / base
                gains.append(difference.mean())
                variances.append(difference.var() / len(difference))
            error = np.sqrt(np.sum(variances)) / len(gains)
            if (np.mean(gains) + np.min(gains)) / 2 <= _CAUTION * error:
                return False
        self._best = trial, ndcg
        return True

    def step(self, fraction: float | None = None) -> None:
        """Report how far it is, and stop where it is time to."""
        used = self.seconds / self.budget_seconds if self.budget_seconds else 0.0
        self._fraction = min(1.0, max(self._fraction, fraction or 0.0, used))
        if self._on_progress is not None:
            left = None
            if self.budget_seconds is not None:
                left = max(0.0, self.budget_seconds - self.seconds)
                if fraction is not None and fraction > 0.05:
                    left = min(left, self.seconds * (1 - fraction) / fraction)
            self._on_progress(
                TuningProgress(self._fraction, self.n_tried, self.best, self.seconds, left)
            )
        if self.n_tried and (used >= 1 or (self._should_stop is not None and self._should_stop())):
            raise _StopTuning

    def result(self) -> Tuned:
        best = self.best
        assert best is not None
        if self._on_progress is not None:
            self._on_progress(TuningProgress(1.0, self.n_tried, best, self.seconds, 0.0))
        return Tuned(best.settings, best, self.n_tried, self.seconds, self.stopped)


class _Judge:
    """Users of a split, on whom settings are judged; see `recipes.Judge`."""

    def __init__(self, split: Split, users: np.ndarray) -> None:
        self._split = split
        self._users = users
        self.histories = split.histories[users]

    def ndcg(self, model: Recipe) -> np.ndarray:
        quality = evaluation.measure_split(
            Ranker.of(model, self._split.train), self._split, k=K, user_index=self._users
        )
        return quality.by_user[f"ndcg@{K}"]

    def ndcg_of_scores(self, scores: np.ndarray) -> np.ndarray:
        popularity = popularity_of(self._split.train)
        lists = rank_scores(scores, self.histories.weights, k=K, popularity=popularity)
        return evaluation.ndcg(lists, held_out=self._split.held_out[self._users])


class _TuningSplit:
    """A split as a recipe's plan takes it; see `recipes.TuningSplit`."""

    def __init__(self, split: Split, *, seed: int) -> None:
        self.kind = split.kind
        self.train = split.train
        self._split = split
        self._seed = seed

    def judge(self, *, n_users: int = 3000) -> _Judge:
        return _Judge(self._split, _sample(self._split, n=n_users, seed=self._seed))


def _splits(log: InteractionLog, *, seed: int) -> list[Split]:
    # By what there is to learn alone: what is held out must not steer the draws.
    log, _ = evaluation.canonical(log)
    splits = []
    leanings = dict(_LEANINGS)
    if evaluation.is_timed(log):
        splits.append(evaluation.split_user_time(log, share=_SHARE, seed=seed))
        del leanings["popular"]
    for number, (kind, power) in enumerate(leanings.items()):
        split = evaluation.split_random(
            log, share=_SHARE, seed=seed + number, popularity_power=power
        )
        splits.append(dataclasses.replace(split, kind=kind))
    usable = [split for split in splits if split.held_out.nnz]
    if not usable:
        raise NotEnoughDataError(
            "Settings cannot be judged: no user has interactions with two items, of which one "
            "could be held out. Send more interactions, or retrain without tuning."
        )
    return usable


def _sample(split: Split, *, n: int, seed: int) -> np.ndarray:
    """Return users who have a history and something held out, at most n, ascending."""
    train = split.train.weights
    positive = np.bincount(
        np.repeat(np.arange(train.shape[0]), np.diff(train.indptr)), weights=train.data > 0,
        minlength=train.shape[0],
    )  # fmt: skip
    users = np.flatnonzero((positive > 0) & (np.diff(split.held_out.indptr) > 0))
    if len(users) > n:
        users = np.sort(np.random.default_rng(seed).choice(users, n, replace=False))
    return users
