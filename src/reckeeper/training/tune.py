"""Finding good settings by themselves, from the training data alone.

What is held out to judge settings never looks like what will come: last
month's data do not. So candidates are judged on several splits of different
kinds, and those that hold on all of them win over those that shine on one.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from reckeeper import evaluation, linalg
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import Split
from reckeeper.matrix import InteractionLog
from reckeeper.ranking import Ranker, Scorer, popularity_of, rank_scores
from reckeeper.recipes import recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.recipes.spectral import (
    Factors,
    Spectral,
    SpectralSettings,
    Weighted,
    most_components,
    n_neighbours,
    weigh,
)
from reckeeper.recipes.svd import Svd

K = 20
"""Length of the lists that candidates are judged by, as NDCG@K."""

FITS = 4.5
"""The default budget, in times that one final fit is estimated to take: an estimate that is
a tenth too high still leaves it below five."""

_SHARE = 0.1
"""Of each user's items so much is held out: little, since what fits a thinner matrix is not
what fits the whole."""

_LEANINGS = {"random": 0.0, "popular": 0.3, "very popular": 0.6}
"""Powers of popularity that held-out pairs are drawn by. What comes leans to the popular by an
amount that nobody knows beforehand: these bracket it."""

_CELLS = 48_000_000
_USERS = (256, 3000)
"""Users that candidates are judged on: as many as make so many cells of scores, within limits."""

_CAUTION = 1.0
"""Standard errors by which a change must pay: settings that are as good stay as they are."""

_MAX_COMPONENTS = 1280

_COARSE = 512
"""Components that show where to look, before a whole decomposition is made."""

_SMALL = 10_000
"""Items up to which the collapse is timed as a whole."""

_COLLAPSE_OVERHEAD = 1.5
"""What the collapse takes, in times of its dense products."""


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

    settings: dict[str, Any]
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


@dataclass(frozen=True)
class Tuned:
    """What came of a tuning.

    Attributes
    ----------
    settings : dict
        Of the best trial.
    best : Trial
    n_tried : int
    seconds : float
    stopped : bool
        Whether it was told to stop, or ran out of its budget, before it was
        through with its plan.
    """

    settings: dict[str, Any]
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
        Of splits and samples. The same seed gives the same settings as long
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
    recipe_named(recipe)
    run = _Run(budget_seconds, on_progress, should_stop)
    splits = _splits(log, seed=seed)
    try:
        _PLANS[recipe](splits, run, seed=seed)
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
        self._best: tuple[Trial, dict[str, np.ndarray]] | None = None
        self.n_tried = 0
        self.stopped = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def best(self) -> Trial | None:
        return None if self._best is None else self._best[0]

    def add(self, settings: Mapping[str, Any], ndcg: dict[str, np.ndarray]) -> bool:
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
        """Tell how far it is, and stop where it is time to."""
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


def _splits(log: InteractionLog, *, seed: int) -> list[Split]:
    splits = []
    leanings = dict(_LEANINGS)
    if log.occurred_at is not None and len(log) and np.ptp(log.occurred_at):
        splits.append(evaluation.split_user_time(log, share=_SHARE))
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


# ------------------------------------------------------------------ recipes in general


_COMPONENTS = (10, 20, 50, 5, 100, 200)
_HALF_LIVES = (None, 365.0, 90.0, 30.0, 7.0)


def _tune_svd(splits: list[Split], run: _Run, *, seed: int) -> None:
    """Fit the largest candidate on each split: the others are its leading components."""
    began = run.seconds
    models = [Svd.fit(split.train, settings={"n_components": max(_COMPONENTS)}) for split in splits]
    if run.budget_seconds is None:
        run.budget_seconds = FITS * (run.seconds - began) / len(splits)
    samples = [_sample(split, n=_USERS[1], seed=seed) for split in splits]
    for number, n_components in enumerate(_COMPONENTS):
        ndcg = {
            split.kind: _ndcg(model.leading(n_components), split, users)
            for split, model, users in zip(splits, models, samples, strict=True)
        }
        run.add({"n_components": n_components}, ndcg)
        run.step((number + 1) / len(_COMPONENTS))


def _tune_popularity(splits: list[Split], run: _Run, *, seed: int) -> None:
    """Try a few half-lives; all of them, since a fit takes no time to speak of."""
    samples = [_sample(split, n=_USERS[1], seed=seed) for split in splits]
    has_times = splits[0].train.latest_at is not None
    half_lives = _HALF_LIVES if has_times else _HALF_LIVES[:1]
    for number, half_life in enumerate(half_lives):
        settings = {"half_life_days": half_life}
        ndcg = {
            split.kind: _ndcg(Popularity.fit(split.train, settings=settings), split, users)
            for split, users in zip(splits, samples, strict=True)
        }
        run.add(settings, ndcg)
        run.step((number + 1) / len(half_lives))


def _ndcg(model: Scorer, split: Split, users: np.ndarray) -> np.ndarray:
    quality = evaluation.measure(
        Ranker.of(model, split.train),
        histories=split.histories,
        held_out=split.held_out,
        k=K,
        user_index=users,
    )
    return quality.ndcg


# ------------------------------------------------------------------ spectral


class _Side:
    """A split, and what the candidates of `spectral` share on it."""

    def __init__(self, split: Split, *, seed: int) -> None:
        self.kind = split.kind
        self.weights = split.train.weights
        n_items = self.weights.shape[1]
        self.largest = min(_MAX_COMPONENTS, most_components(self.weights.shape))
        n_users = int(np.clip(_CELLS // max(1, n_items), *_USERS))
        users = _sample(split, n=n_users, seed=seed)
        self.histories = self.weights[users]
        self.held_out = split.held_out[users]
        self._popularity = popularity_of(split.train)
        self._weighted: dict[str, Weighted] = {}
        self._neighbours: tuple[Any, np.ndarray] | None = None
        self._factors: tuple[Any, Factors] | None = None

    def weighted(self, weighting: str) -> Weighted:
        if weighting not in self._weighted:
            self._weighted = {weighting: Weighted.of(self.weights, weighting)}
        return self._weighted[weighting]

    def neighbours(self, settings: SpectralSettings) -> np.ndarray:
        """Return x D_i^-(b+c) Xᵀ D_u^-2a X, dense; the last one is kept."""
        power = round(settings.item_power + settings.history_power, 6)
        key = (settings.weighting, settings.user_power, power)
        if self._neighbours is None or self._neighbours[0] != key:
            self._neighbours = None
            weighted = self.weighted(settings.weighting)
            rows = self._rows(settings, power=power)
            users = linalg.SparseOperator(weighted.matrix) @ rows.T.toarray()
            users *= (weighted.user_sums ** (-2 * settings.user_power))[:, None].astype(np.float32)
            found = linalg.SparseOperator(weighted.matrix.T.tocsr()) @ users
            self._neighbours = key, np.ascontiguousarray(found.T)
        return self._neighbours[1]

    def factors(
        self, settings: SpectralSettings, on_progress: Callable[[float], None] | None = None
    ) -> Factors:
        """Return a decomposition that serves these settings and every smaller rank."""
        key = (settings.weighting, settings.user_power, settings.item_power)
        n_components = min(settings.n_components, self.largest)
        if (
            self._factors is None
            or self._factors[0] != key
            or len(self._factors[1].components) < n_components
        ):
            self._factors = None
            self._factors = (
                key,
                self.weighted(settings.weighting).factorise(
                    user_power=settings.user_power,
                    item_power=settings.item_power,
                    n_components=n_components,
                    on_progress=on_progress,
                ),
            )
        return self._factors[1]

    def judge(
        self, settings: SpectralSettings, on_progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Return NDCG by user."""
        item_sums = self.weighted(settings.weighting).item_sums
        scores = self.neighbours(settings) * (item_sums**-settings.item_power).astype(np.float32)
        if settings.n_components:
            factors = self.factors(settings, on_progress)
            tail, gains = factors.filter(settings)
            # `neighbours` are of the matrix as it was before its largest value became 1.
            scores *= np.float32(tail / factors.largest**2)
            if len(gains):
                components = factors.components[: len(gains)]
                projected = self._rows(settings, power=settings.history_power) @ components.T
                projected *= gains.astype(np.float32)
                scores += projected @ components
        scores *= (item_sums**settings.popularity_power).astype(np.float32)
        lists = rank_scores(scores, self.histories, k=K, popularity=self._popularity)
        return evaluation.ndcg(lists, held_out=self.held_out)

    def _rows(self, settings: SpectralSettings, *, power: float) -> sparse.csr_array:
        weighted = self.weighted(settings.weighting)
        rows = weigh(self.histories, settings.weighting, scale=weighted.scale)
        return sparse.csr_array(rows * (weighted.item_sums**-power).astype(np.float32))


_GRIDS_OF_SPECTRAL: dict[str, tuple[Any, ...]] = {
    "user_power": (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8),
    "item_power": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8),
    "history_power": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8),
    "popularity_power": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "mixing": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "spectral_power": (0.0, 0.25, 0.5, 1.0, 2.0),
    "ridge": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}


def _tune_spectral(splits: list[Split], run: _Run, *, seed: int) -> None:
    """Search one coordinate after the other, those that matter most first.

    One start is the symmetric normalisation, every power one half; the other,
    which dense data want, the linear autoencoder of the plain matrix.
    """
    sides = [_Side(split, seed=seed) for split in splits]
    search = _Search(sides, run)
    largest = sides[0].largest

    search.judge(_START)
    if any(np.ptp(side.weights.data[side.weights.data > 0]) > 0 for side in sides):
        search.change(weighting="log")
        search.change(weighting="raw")
    rank = min(largest, _COARSE)
    plain = dataclasses.replace(_PLAIN, weighting=search.best.weighting, n_components=rank)
    if search.promises(plain):
        search.climb("ridge", **dataclasses.asdict(plain))
    # How users with long histories count matters most, and shows on the components alone.
    search.climb("user_power", n_components=rank, mixing=0.5)

    full = dataclasses.replace(search.best, n_components=largest)
    began = run.seconds
    for side in sides:
        side.factors(full, on_progress=lambda _: run.step())
    if run.budget_seconds is None:
        svd_seconds = (run.seconds - began) / len(sides)
        run.budget_seconds = FITS * _estimated_fit_seconds(sides[0], full, svd_seconds=svd_seconds)
    search.change(n_components=largest)
    for name in _ORDER:
        search.climb(name)


_ORDER = (
    "spectral_power",
    "ridge",
    "mixing",
    "history_power",
    "popularity_power",
    "item_power",
    "user_power",
)
_PLAIN = SpectralSettings(
    user_power=0.0,
    item_power=0.0,
    history_power=0.0,
    popularity_power=0.0,
    filter="ridge",
    ridge=0.03,
)
_START = SpectralSettings(
    n_components=0,
    user_power=0.5,
    item_power=0.5,
    history_power=0.5,
    popularity_power=0.5,
    filter="sum",
    mixing=1.0,
    spectral_power=0.5,
)


class _Search:
    """Judges candidates on all sides, and climbs along one setting at a time."""

    _PLANNED = 40
    """Candidates that a whole search comes to, about; for the fraction done."""

    def __init__(self, sides: list[_Side], run: _Run) -> None:
        self._sides = sides
        self._run = run
        self._judged: set[SpectralSettings] = set()

    @property
    def best(self) -> SpectralSettings:
        best = self._run.best
        return _START if best is None else SpectralSettings(**best.settings)

    def judge(self, settings: SpectralSettings) -> bool:
        """Judge settings that were not judged yet; return whether they are the best now."""
        if settings in self._judged:
            return False
        self._judged.add(settings)
        ndcg = {
            side.kind: side.judge(settings, on_progress=lambda _: self._run.step())
            for side in self._sides
        }
        is_better = self._run.add(dataclasses.asdict(settings), ndcg)
        self._run.step(min(0.99, self._run.n_tried / self._PLANNED))
        return is_better

    def change(self, **values: Any) -> bool:
        """Judge the best settings with some values changed."""
        return self.judge(dataclasses.replace(self.best, **values))

    def promises(self, settings: SpectralSettings) -> bool:
        """Look at the first side alone, whether settings might be the best."""
        best = self._run.best
        side = self._sides[0]
        return best is None or float(side.judge(settings).mean()) > best.by_split[side.kind]

    def climb(self, name: str, **values: Any) -> None:
        """Go along the grid of a setting, down or else up, as long as it gets better.

        `values` are set with it; the place to start from is judged first. A
        setting that the filter does not use is left alone.
        """
        start = dataclasses.replace(self.best, **values)
        if _USED_BY.get(name, start.filter) != start.filter:
            return
        grid = _GRIDS_OF_SPECTRAL[name]
        self.judge(start)
        at = int(np.argmin([abs(value - getattr(start, name)) for value in grid]))
        for direction in (-1, 1):
            place = at + direction
            while 0 <= place < len(grid) and self.judge(
                dataclasses.replace(start, **{name: grid[place]})
            ):
                place += direction
            if place != at + direction:
                return


_USED_BY = {"mixing": "sum", "spectral_power": "sum", "ridge": "ridge"}


def _estimated_fit_seconds(side: _Side, settings: SpectralSettings, *, svd_seconds: float) -> float:
    """Estimate what a final fit takes, from what its decomposition took.

    The rest is the collapse: nearly all of it the product of the components
    with themselves, of which a piece is timed. In a small catalogue it is
    done, and timed as a whole.
    """
    factors = side.factors(settings)
    n_items = factors.components.shape[1]
    tail, gains = factors.filter(settings)
    began = time.monotonic()
    if n_items <= _SMALL:
        linalg.item_filter(
            factors.matrix,
            components=factors.components,
            gains=gains,
            scale=np.ones(n_items),
            tail=tail,
            n_neighbours=n_neighbours(settings, n_items),
        )
        return svd_seconds + time.monotonic() - began
    piece = np.ascontiguousarray(factors.components[:, :512].T)
    _ = piece @ factors.components
    seconds = time.monotonic() - began
    return float(svd_seconds + _COLLAPSE_OVERHEAD * seconds * n_items / len(piece) / 2)


_PLANS = {
    Spectral.name: _tune_spectral,
    Svd.name: _tune_svd,
    Popularity.name: _tune_popularity,
}
