"""How settings of `spectral` are found: a search along one setting after the other."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.recipes.base import Footprint, Sizes
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.spectral.factors import Factors, Weighted, most_components, weigh
from reckeeper.recipes.spectral.settings import SpectralSettings, n_neighbours

MAX_COMPONENTS = 1280

_CELLS = 48_000_000
_USERS = (256, 3000)
"""Users that candidates are judged on: as many as make so many cells of scores, within limits."""

_COARSE = 512
"""Components that show where to look, before a whole decomposition is made."""

_SMALL = 10_000
"""Items up to which the collapse is timed as a whole."""

_COLLAPSE_OVERHEAD = 1.5
"""What the collapse takes, in times of its dense products."""


_GRIDS: dict[str, tuple[Any, ...]] = {
    "user_power": (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8),
    "item_power": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8),
    "history_power": (0.0, 0.2, 0.35, 0.5, 0.65, 0.8),
    "popularity_power": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "mixing": (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    "spectral_power": (0.0, 0.25, 0.5, 1.0, 2.0),
    "ridge": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
}

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

_Key = tuple[str, float, float]
"""Weighting and two powers: what else a matrix that is kept depends on."""

_USED_BY = {"mixing": "sum", "spectral_power": "sum", "ridge": "ridge"}


def search(splits: Sequence[TuningSplit], run: TuningRun) -> None:
    """Search one coordinate after the other, those that matter most first.

    One start is the symmetric normalisation, every power one half; the other,
    which dense data want, the linear autoencoder of the plain matrix.
    """
    sides = [_Side(split) for split in splits]
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
        run.expect_fit(_estimated_fit_seconds(sides[0], full, svd_seconds=svd_seconds))
    search.change(n_components=largest)
    for name in _ORDER:
        search.climb(name)


class _Side:
    """A split, and what the candidates of `spectral` share on it."""

    def __init__(self, split: TuningSplit) -> None:
        self.kind = split.kind
        self.weights = split.train.weights
        n_items = self.weights.shape[1]
        self.largest = min(MAX_COMPONENTS, most_components(self.weights.shape))
        n_users = int(np.clip(_CELLS // max(1, n_items), *_USERS))
        self._judge = split.judge(n_users=n_users)
        self._weighted: dict[str, Weighted] = {}
        self._neighbours: tuple[_Key, np.ndarray] | None = None
        self._factors: tuple[_Key, Factors] | None = None

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
        """Return a decomposition that does for these settings and every smaller rank."""
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
        return self._judge.ndcg_of_scores(scores)

    def _rows(self, settings: SpectralSettings, *, power: float) -> sparse.csr_array:
        weighted = self.weighted(settings.weighting)
        rows = weigh(self._judge.histories, settings.weighting, scale=weighted.scale)
        return sparse.csr_array(rows * (weighted.item_sums**-power).astype(np.float32))


class _Search:
    """Judges candidates on all sides, and climbs along one setting at a time."""

    _PLANNED = 40
    """Candidates that a whole search comes to, about; for the fraction done."""

    def __init__(self, sides: list[_Side], run: TuningRun) -> None:
        self._sides = sides
        self._run = run
        self._judged: set[SpectralSettings] = set()

    @property
    def best(self) -> SpectralSettings:
        best = self._run.best_settings
        return _START if best is None else SpectralSettings(**best)

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
        side = self._sides[0]
        return float(side.judge(settings).mean()) > self._run.best_ndcg(side.kind)

    def climb(self, name: str, **values: Any) -> None:
        """Go along the grid of a setting, down or else up, as long as it gets better.

        `values` are set with it; the place to start from is judged first. A
        setting that the filter does not use is left alone.
        """
        start = dataclasses.replace(self.best, **values)
        if _USED_BY.get(name, start.filter) != start.filter:
            return
        grid = _GRIDS[name]
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


def bytes_needed(sizes: Sizes, largest: Footprint, *, n_splits: int) -> int:
    """Return what the search holds at most, or the fit that follows, the splits not counted.

    Parameters
    ----------
    sizes : Sizes
    largest : Footprint
        What the most components that the search takes hold.
    n_splits : int
    """
    least, most = _USERS
    n_judged = min(most, max(least, _CELLS // max(1, sizes.n_items)), sizes.n_users)
    scores = 4 * n_judged * sizes.n_items
    components = 4 * MAX_COMPONENTS * sizes.n_items
    of_each = 16 * sizes.n_pairs + scores + min(components, largest.model_bytes)
    # What judged users share with all others, dense; or scores, made and ranked.
    judging = max(4 * n_judged * (sizes.n_users + 2 * sizes.n_items), 4 * scores)
    return n_splits * of_each + max(largest.fit_bytes, judging + 16 * sizes.n_pairs)
