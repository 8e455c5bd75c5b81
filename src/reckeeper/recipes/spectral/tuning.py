"""How settings of `spectral` are found: the ridge, from the defaults."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.recipes.base import Footprint, Sizes
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.spectral.factors import Factors, Weighted, most_components, weigh
from reckeeper.recipes.spectral.settings import SpectralSettings, n_neighbours

MAX_COMPONENTS = 512

_CELLS = 48_000_000
_USERS = (256, 3000)
"""Users that candidates are judged on: as many as make so many cells of scores, within limits."""

_SMALL = 10_000
"""Items up to which the collapse is timed as a whole."""

_COLLAPSE_OVERHEAD = 1.5
"""What the collapse takes, in times of its dense products."""

_RIDGES = (15.0, 30.0, 60.0, 120.0, 240.0, 7.5, 3.75)

_Key = tuple[str, float, float]
"""Weighting and two powers: what else a matrix that is kept depends on."""


def search(splits: Sequence[TuningSplit], run: TuningRun) -> None:
    """Judge the defaults, how weights enter where they differ, and a line of ridges."""
    sides = [_Side(split) for split in splits]
    settings = SpectralSettings(n_components=min(sides[0].largest, SpectralSettings().n_components))
    began = run.seconds
    for side in sides:
        side.factors(settings, on_progress=lambda _: run.step())
    if run.budget_seconds is None:
        svd_seconds = (run.seconds - began) / len(sides)
        run.expect_fit(_estimated_fit_seconds(sides[0], settings, svd_seconds=svd_seconds))

    def judge(settings: SpectralSettings) -> None:
        run.add(
            dataclasses.asdict(settings),
            {side.kind: side.judge(settings, lambda _: run.step()) for side in sides},
        )
        run.step(min(0.99, run.n_tried / (len(_RIDGES) + 2)))

    judge(settings)
    if any(np.ptp(side.weights.data[side.weights.data > 0]) > 0 for side in sides):
        judge(dataclasses.replace(settings, weighting="log"))
        judge(dataclasses.replace(settings, weighting="raw"))
    settings = SpectralSettings(**(run.best_settings or {}))
    for ridge in _RIDGES[1:]:
        judge(dataclasses.replace(settings, ridge=ridge))


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
        factors = self.factors(settings, on_progress)
        tail, gains = factors.filter(ridge=settings.ridge, n_components=settings.n_components)
        # `neighbours` are of the matrix as it was before its largest value became 1.
        scores *= np.float32(tail / factors.largest**2)
        components = factors.components[: len(gains)]
        projected = self._rows(settings, power=settings.history_power) @ components.T
        projected *= gains.astype(np.float32)
        scores += projected @ components
        uplift = factors.uplift(tail, gains, power=settings.diagonal_power)
        scores *= (item_sums**settings.popularity_power * uplift).astype(np.float32)
        return self._judge.ndcg_of_scores(scores)

    def _rows(self, settings: SpectralSettings, *, power: float) -> sparse.csr_array:
        weighted = self.weighted(settings.weighting)
        rows = weigh(self._judge.histories.weights, settings.weighting, scale=weighted.scale)
        return sparse.csr_array(rows * (weighted.item_sums**-power).astype(np.float32))


def _estimated_fit_seconds(side: _Side, settings: SpectralSettings, *, svd_seconds: float) -> float:
    """Estimate what a final fit takes, from what its decomposition took.

    The rest is the collapse: nearly all of it the product of the components
    with themselves, of which a piece is timed. In a small catalogue it is
    done, and timed as a whole.
    """
    factors = side.factors(settings)
    n_items = factors.components.shape[1]
    tail, gains = factors.filter(ridge=settings.ridge, n_components=settings.n_components)
    began = time.monotonic()
    if n_items <= _SMALL:
        linalg.item_filter(
            factors.matrix,
            components=factors.components,
            gains=gains,
            scale=np.ones(n_items),
            tail=tail,
            n_neighbours=n_neighbours(settings, n_items, with_order=False),
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
