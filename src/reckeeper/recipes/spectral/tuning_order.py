"""How order is tuned: on what came last alone, and kept only where it surely helps."""

import dataclasses
import functools
import math

import numpy as np

from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.spectral.deciding import COMPONENTS, surely_positive
from reckeeper.recipes.spectral.factors import Weighted
from reckeeper.recipes.spectral.lines import Axis, climb
from reckeeper.recipes.spectral.parts import Plain, Uncut, ordered_part
from reckeeper.recipes.spectral.settings import DEFAULT_ORDER, SpectralSettings

_CELLS = 16_000_000
_USERS = (200, 1000)
"""Users of whom what came last is asked for: as many as make so many cells of one score each,
within limits. Each comes to some questions."""

_AXES = (Axis(-1.0, 6.0, 1.0, 1.0), Axis(-4.0, 2.0, 1.0, 1.0), Axis(-0.2, 0.8, 0.2, 0.2))
_RECENCY, _ORDER, _POPULARITY = range(3)
"""Logarithms of recency and order to base 2, and the power of popularity."""

_LINES = ((_RECENCY, 1.0), (_ORDER, 1.0), (_POPULARITY, 1.0), (_ORDER, 0.5))

_MOST_STEPS = 2
"""Along a line: a dozen candidates come to much, each scored for every question."""

_PULL = 0.001
"""What a squared step from the defaults costs, as a share of NDCG."""

_LAST = 0.97
"""The share of the budget after which the best so far is taken."""

_Places = tuple[float, float, float]


def search_order(split: TuningSplit, plain: SpectralSettings, run: TuningRun) -> SpectralSettings:
    """Return settings with the order that helps, or 0 where none surely does.

    Where the budget leaves no time to try one, null: a fit's own check decides.

    Parameters
    ----------
    split : TuningSplit
        Of kind ``next``. Of anything else recency and order are not to be
        learned: where what is held out is not what came next, they lose.
    plain : SpectralSettings
        Those of the plain part.
    run : TuningRun
    """
    tried = _Tried(split, plain, run)
    default = SpectralSettings()
    start = (math.log2(default.recency), math.log2(DEFAULT_ORDER), default.order_popularity)
    best = start
    for axis, fineness in _LINES:
        if run.used > _LAST:
            break
        value = functools.partial(tried.value_at, best, axis)
        climb(value, best[axis], _AXES[axis], fineness, most_steps=_MOST_STEPS)
        best = tried.best
    if not tried.n_tried:
        return dataclasses.replace(plain, order=None)
    if surely_positive(tried.gains(best)):
        return tried.settings(best)
    return dataclasses.replace(plain, order=0.0)


class _Tried:
    """What was tried of recency and order, beside the plain part on the same questions."""

    def __init__(self, split: TuningSplit, plain: SpectralSettings, run: TuningRun) -> None:
        self._plain = plain
        self._run = run
        self._histories = split.train.histories
        self._weighted = Weighted.of(split.train.weights, plain.weighting)
        self._factors = self._weighted.factorise(
            user_power=plain.user_power,
            item_power=plain.item_power,
            n_components=min(plain.n_components, COMPONENTS),
        )
        coarse = dataclasses.replace(plain, n_components=len(self._factors.components))
        self._parts = Plain.of(self._weighted, self._factors, coarse)
        n_users = int(np.clip(_CELLS // max(1, self._parts.n_items), *_USERS))
        self._judge = split.judge(n_users=n_users)
        self._scorer = Uncut.of(plain, self._weighted, self._parts)
        self._without = self._judge.ndcg(self._scorer)
        self._ndcg: dict[_Places, np.ndarray] = {}

    @property
    def n_tried(self) -> int:
        return len(self._ndcg)

    @property
    def best(self) -> _Places:
        return max(self._ndcg, key=self._of)

    def settings(self, places: _Places) -> SpectralSettings:
        recency, order, popularity = places
        return dataclasses.replace(
            self._plain,
            recency=float(f"{2**recency:.3g}"),
            order=float(f"{2**order:.3g}"),
            order_popularity=round(popularity, 3),
        )

    def gains(self, places: _Places) -> np.ndarray:
        """Return by how much each user's NDCG is above that of the plain part."""
        gains: np.ndarray = self._ndcg[places] - self._without
        return gains

    def value_at(self, start: _Places, axis: int, place: float) -> float:
        """Judge a place on an axis if it was not judged yet; return its share of plain NDCG."""
        first, second, third = (place if axis == number else at for number, at in enumerate(start))
        places = first, second, third
        if places not in self._ndcg:
            settings = self.settings(places)
            ordered = ordered_part(
                settings, self._histories, self._weighted, self._factors, self._parts
            )
            self._ndcg[places] = self._judge.ndcg(self._scorer.with_order(settings, ordered))
            self._run.n_tried += 1
            self._run.step()
        return self._of(places)

    def _of(self, places: _Places) -> float:
        start = next(iter(self._ndcg))
        squared = sum(
            ((place - default) / axis.unit) ** 2
            for place, default, axis in zip(places, start, _AXES, strict=True)
        )
        return float(self._ndcg[places].mean() / max(self._without.mean(), 1e-9)) - _PULL * squared
