"""How settings of `spectral` are found: line searches on what candidates share, then order."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.matrix import InteractionMatrix
from reckeeper.recipes.base import Footprint, Recipe, Sizes
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.spectral.factors import Factors, Weighted, most_components
from reckeeper.recipes.spectral.lines import Axis, climb
from reckeeper.recipes.spectral.parts import BLOCK_BYTES, DENSE_ROWS, through
from reckeeper.recipes.spectral.settings import SpectralSettings
from reckeeper.recipes.spectral.tuning_order import search_order
from reckeeper.recipes.weighting import weigh

MAX_COMPONENTS = 512

_CELLS = 100_000
_MOST_CELLS = 40_000_000
_USERS = (500, 10_000)
"""Users of each fold that candidates are judged on: as many as make so many cells of scores for
each second of the budget, within limits. Few tell settings apart by chance more than by worth."""

_STRONG, _USUAL_FOLDS = 2.5, 3
"""Times so many where drift is strong, on so many folds or as many in all on fewer: popular items
that are held out are few, and decide much."""

_KEPT = (2, 64 << 20)
"""Decompositions that are kept of each fold: that of the best and that of the candidate, or as
many as come to so many bytes."""

_FIT_COST = 3
"""What a fit comes to, in times of its decomposition."""

_PULL = 0.001
"""What a squared unit of distance from the defaults costs, as a share of NDCG."""

_PAYS = 0.001
"""Share of NDCG for which more components are taken."""

_PLANNED = 170
"""Candidates that a whole search comes to, about; for the fraction done."""

_JUDGED_FOLDS = 3
"""Folds on which the best are judged once more, at most."""

_PLAIN_SHARE = 0.65
_JUDGED_SHARE = 0.75
"""Shares of the budget after which the search, and judging with the cut matrix, leave the rest."""


Weighting = Literal["binary", "log", "raw"]

_AXES = (
    Axis(-4.0, 14.0, 1.5, 1.0),
    Axis(-0.2, 1.0, 0.15, 0.15),
    Axis(-0.2, 0.9, 0.15, 0.15),
    Axis(-0.3, 0.5, 0.1, 0.15),
    Axis(-0.6, 0.6, 0.1, 0.15),
)
_RIDGE, _USER, _ITEM, _HISTORY, _POPULARITY = range(5)
"""The logarithm of the ridge to base 2, a, b, c - b and d - b."""

_SWEEP = (_RIDGE, _POPULARITY, _USER, _ITEM, _RIDGE, _HISTORY)
_FIRST_SWEEP = (_ITEM, _RIDGE, _POPULARITY)
_LAST_SWEEP = (_RIDGE, _POPULARITY, _RIDGE)
"""What finds about as much as each leaning could have; the last takes no other decomposition."""

_FEW = 128
"""Components that the coarse search takes."""

_COMPONENTS = (32, 48, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class _Point:
    """Settings of the plain part, as the search moves among them: a place on each axis."""

    places: tuple[float, ...]
    n_components: int
    weighting: Weighting = "binary"

    def at(self, axis: int, place: float) -> "_Point":
        """Return the point at another place on one axis."""
        places = (*self.places[:axis], place, *self.places[axis + 1 :])
        return dataclasses.replace(self, places=places)

    def settings(self) -> SpectralSettings:
        """Return settings, rounded so that people can read them."""
        ridge, user, item, history, popularity = self.places
        return SpectralSettings(
            ridge=float(f"{2**ridge:.3g}"),
            user_power=round(user, 3),
            item_power=round(item, 3),
            history_power=round(item + history, 3),
            popularity_power=round(item + popularity, 3),
            n_components=self.n_components,
            weighting=self.weighting,
        )

    def pull(self) -> float:
        """Return what the distance from the defaults costs, as a share of NDCG."""
        units = [
            (place - default) / axis.unit
            for place, default, axis in zip(self.places, _DEFAULT.places, _AXES, strict=True)
        ]
        return _PULL * (sum(unit**2 for unit in units) + (self.weighting != _DEFAULT.weighting))


def _point(*, ridge: float, a: float, b: float, c: float, d: float) -> _Point:
    n_components = SpectralSettings().n_components
    return _Point((math.log2(ridge), a, b, c - b, d - b), n_components)


_DEFAULT = _point(ridge=15.0, a=0.25, b=0.15, c=0.15, d=0.05)
_STARTS = (
    _DEFAULT,
    _point(ridge=15.0, a=0.0, b=0.0, c=0.0, d=-0.05),
    _point(ridge=500.0, a=0.5, b=0.5, c=0.5, d=0.2),
)


class Fit(Protocol):
    """Fits a model; that of the recipe."""

    def __call__(
        self, interactions: InteractionMatrix, *, settings: Mapping[str, object]
    ) -> Recipe:
        """Fit to some interactions."""
        ...


class _Enough(Exception):
    """The plain search has had its share of the budget."""


def search(splits: Sequence[TuningSplit], run: TuningRun, fit: Fit) -> None:
    """Find the plain part on the folds, then what order adds on what came last.

    Parameters
    ----------
    splits : sequence of TuningSplit
        The folds.
    run : TuningRun
    fit : Fit
    """
    cells = min(_CELLS * run.budget_seconds, _MOST_CELLS)
    if run.drift == "strong":
        cells *= _STRONG * max(1.0, _USUAL_FOLDS / len(splits))
    plain = _Search([_Side(split, cells=int(cells)) for split in splits], run)
    with contextlib.suppress(_Enough):
        plain.go()
    best = plain.judge_again(fit)
    newest = run.newest()
    if newest is not None:
        settings = search_order(newest, best.settings(), run)
        run.settle(dataclasses.asdict(settings), plain.ndcg(best))


class _Side:
    """A fold, and what the candidates share on it."""

    def __init__(self, split: TuningSplit, *, cells: int) -> None:
        self.kind = split.kind
        self.train = split.train
        self.weights = split.train.weights
        n_items = self.weights.shape[1]
        self.largest = min(MAX_COMPONENTS, most_components(self.weights.shape))
        n_users = int(np.clip(cells // max(1, n_items), *_USERS))
        self.judge = split.judge(n_users=n_users)
        self._weighted: dict[str, Weighted] = {}
        self._factors: dict[tuple[str, float, float], Factors] = {}
        self._shared: tuple[object, np.ndarray, np.ndarray] | None = None

    def weighted(self, weighting: str) -> Weighted:
        if weighting not in self._weighted:
            self._weighted = {weighting: Weighted.of(self.weights, weighting)}
        return self._weighted[weighting]

    def factors(self, settings: SpectralSettings) -> Factors:
        """Return a decomposition that does for these settings and every smaller rank."""
        key = (settings.weighting, settings.user_power, settings.item_power)
        n_components = min(settings.n_components, self.largest)
        found = self._factors.pop(key, None)
        if found is None or len(found.components) < n_components:
            least, most_bytes = _KEPT
            n_kept = most_bytes // (4 * max(1, n_components * self.weights.shape[1]))
            while len(self._factors) >= max(least, n_kept):
                del self._factors[next(iter(self._factors))]
            found = self.weighted(settings.weighting).factorise(
                user_power=settings.user_power,
                item_power=settings.item_power,
                n_components=n_components,
            )
        self._factors[key] = found
        return found

    def shared(self, settings: SpectralSettings, factors: Factors) -> tuple[np.ndarray, np.ndarray]:
        """Return the histories' products with AᵀA and with the components; the last are kept.

        They are of the powers a, b and c alone, shape (n, n_items) and (n, k).
        """
        key = (settings.weighting, settings.user_power, settings.item_power, settings.history_power)
        if (
            self._shared is None
            or self._shared[0] != key
            or self._shared[2].shape[1] != len(factors.components)
        ):
            self._shared = None
            weighted = self.weighted(settings.weighting)
            rows = weigh(self.judge.histories.weights, settings.weighting, scale=weighted.scale)
            scale = (weighted.item_sums**-settings.history_power).astype(np.float32)
            rows = sparse.csr_array(rows * scale)
            projected = linalg.SparseOperator(rows) @ np.ascontiguousarray(factors.components.T)
            self._shared = key, through(rows, factors.matrix), projected
        return self._shared[1:]

    def measure(self, settings: SpectralSettings) -> np.ndarray:
        """Return NDCG by user, of the whole matrix: without cutting it, and never making it.

        What the matrix lacks on its diagonal is of items of the history,
        which no list has.
        """
        factors = self.factors(settings)
        tail, gains = factors.filter(ridge=settings.ridge, n_components=settings.n_components)
        products, projected = self.shared(settings, factors)
        item_sums = self.weighted(settings.weighting).item_sums
        scale = item_sums**settings.popularity_power
        scale *= factors.uplift(tail, gains, power=settings.diagonal_power)
        right = factors.components[: len(gains)] * scale.astype(np.float32)
        gains, tails = gains.astype(np.float32), (tail * scale).astype(np.float32)

        def scores(rows: slice) -> np.ndarray:
            of_rows = np.asarray((projected[rows, : len(gains)] * gains) @ right)
            if tail:
                of_rows += products[rows] * tails
            return of_rows

        return self.judge.ndcg_of_scores(scores)


class _Search:
    """Judges candidates on all folds, and goes along one axis at a time."""

    def __init__(self, sides: list[_Side], run: TuningRun) -> None:
        self._sides = sides
        self._run = run
        self._judged: dict[_Point, Mapping[str, float]] = {}
        self._value = run.worth
        largest = min(side.largest for side in sides)
        self._components = [k for k in _COMPONENTS if k < largest] + [largest]
        weights = [side.weights.data for side in sides]
        self._weights_differ = any(np.ptp(data[data > 0]) > 0 for data in weights)

    def go(self) -> None:
        """Search from three starts, and along every axis from the best."""
        began = self._run.seconds
        self._sides[0].factors(_DEFAULT.settings())
        self._run.expect_fit(_FIT_COST * (self._run.seconds - began))
        few, usual = (min(k, self._components[-1]) for k in (_FEW, _DEFAULT.n_components))
        self._judge(dataclasses.replace(_DEFAULT, n_components=usual))
        for start in _STARTS:
            self._line(dataclasses.replace(start, n_components=few), _RIDGE, 1.0)
        if self._run.drift == "strong":
            # What each leaning could have must be known before it can be said what is lost.
            first, *_, last = next(iter(self._judged.values()))
            for leaning, axes in ((first, _FIRST_SWEEP), (last, _LAST_SWEEP)):
                self._value = functools.partial(self._on_one, name=leaning)
                self._sweep(1.0, axes, n_components=few)
            self._value = self._run.worth
        self._sweep(1.0)
        if self._weights_differ:
            self._line(dataclasses.replace(self._best(), weighting="log"), _RIDGE, 1.0)
        self._judge(dataclasses.replace(self._best(), n_components=usual))
        self._choose_components()
        self._sweep(0.5)
        self._choose_components()
        self._sweep(0.25)

    def judge_again(self, fit: Fit) -> _Point:
        """Judge the best three by what a fit makes of them, and take the best of those.

        On one fold after the other, as far as there is time.
        """
        best = sorted(self._judged, key=self._of, reverse=True)[:3]
        ndcg: dict[_Point, dict[str, np.ndarray]] = {point: {} for point in best}
        began, seconds = self._run.used, 0.0
        sides = self._sides[:_JUDGED_FOLDS]
        for n_done, side in enumerate(sides):
            if self._run.used + seconds > _JUDGED_SHARE:
                break
            for point in best:
                model = fit(side.train, settings=dataclasses.asdict(point.settings()))
                ndcg[point][side.kind] = side.judge.ndcg(model)
                self._run.step(min(0.95, self._run.n_tried / _PLANNED))
            seconds = (self._run.used - began) / (n_done + 1)
        found = best[0]
        if ndcg[found]:
            means = {point: self._run.means(ndcg[point]) for point in best}
            found = max(best, key=lambda point: self._run.worth(means[point]) - point.pull())
        self._run.settle(dataclasses.asdict(found.settings()), self._judged[found])
        return found

    def ndcg(self, point: _Point) -> Mapping[str, float]:
        """Return the means of what was judged."""
        return self._judged[point]

    def _best(self, *, n_components: int | None = None) -> _Point:
        points = [one for one in self._judged if n_components in (None, one.n_components)]
        return max(points, key=self._of)

    def _of(self, point: _Point) -> float:
        return self._value(self._judged[point]) - point.pull()

    def _on_one(self, ndcg: Mapping[str, float], *, name: str) -> float:
        first = next(iter(self._judged.values()))
        return ndcg[name] / max(first[name], 1e-9)

    def _sweep(
        self,
        fineness: float,
        axes: Sequence[int] = _SWEEP,
        *,
        n_components: int | None = None,
    ) -> None:
        for axis in axes:
            self._line(self._best(n_components=n_components), axis, fineness)

    def _line(self, start: _Point, axis: int, fineness: float) -> None:
        def value(place: float) -> float:
            point = start.at(axis, place)
            self._judge(point)
            return self._of(point)

        climb(value, start.places[axis], _AXES[axis], fineness)

    def _choose_components(self) -> None:
        """Take more components while they pay, or fewer where they cost nothing."""
        best = self._best()
        place = self._components.index(best.n_components)
        here, pays = best, False
        for k in self._components[place + 1 :]:
            more = dataclasses.replace(best, n_components=k)
            self._judge(more)
            if self._of(more) <= self._of(here) + _PAYS:
                break
            here, pays = more, True
        if not pays:
            for k in reversed(self._components[:place]):
                fewer = dataclasses.replace(best, n_components=k)
                self._judge(fewer)
                if self._of(fewer) < self._of(here):
                    break
                here = fewer

    def _judge(self, point: _Point) -> None:
        if point in self._judged:
            return
        settings = point.settings()
        ndcg: dict[str, np.ndarray] = {}

        def measure(side: _Side) -> None:
            ndcg[side.kind] = side.measure(settings)

        linalg.parallel.on_own_cores(measure, self._sides, report=lambda _: self._run.step())
        ndcg = {side.kind: ndcg[side.kind] for side in self._sides}
        self._judged[point] = self._run.weigh(dataclasses.asdict(settings), ndcg, pull=point.pull())
        self._run.step(min(0.95, self._run.n_tried / _PLANNED))
        if self._run.used > _PLAIN_SHARE:
            raise _Enough


def bytes_needed(sizes: Sizes, largest: Footprint, *, n_splits: int) -> int:
    """Return what the search holds at most, or the fits that follow, the splits not counted.

    Parameters
    ----------
    sizes : Sizes
    largest : Footprint
        What the most components that the search takes hold.
    n_splits : int
    """
    least, most = _USERS
    n_judged = min(
        most, max(least, int(_STRONG * _MOST_CELLS) // max(1, sizes.n_items)), sizes.n_users
    )
    scores = 4 * n_judged * sizes.n_items
    n_components = min(MAX_COMPONENTS, sizes.n_users, sizes.n_items)
    decomposition = 4 * n_components * (sizes.n_items + n_judged) + 8 * sizes.n_pairs
    n_kept, kept_bytes = _KEPT
    # Their matrices come to as much again; there are no more of them than candidates.
    kept = max(n_kept * decomposition, min(2 * kept_bytes, _PLANNED * decomposition))
    of_each = 16 * sizes.n_pairs + scores + kept
    # Products and scores while they are made and ranked, and the dense half of a product.
    at_once = 4 * min(scores, BLOCK_BYTES) + 4 * DENSE_ROWS * sizes.n_users * sizes.n_threads
    judging = min(n_splits, sizes.n_threads) * at_once
    return n_splits * of_each + max(largest.fit_bytes, judging + 16 * sizes.n_pairs)
