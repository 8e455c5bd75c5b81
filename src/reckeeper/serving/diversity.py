"""A ranked list made more varied: maximal marginal relevance, and a cap for each category.

Whatever comes first of a list does not depend on how long it is to be, so pages fit together.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from reckeeper.serving.rules import Rules

POOL = 500
"""So many of the best items are put in another order; what ranks behind them follows as it is."""


def varied(
    scores: np.ndarray,
    *,
    n: int,
    likeness: np.ndarray | None = None,
    diversity: float = 0.0,
    categories: Sequence[Sequence[str]] = (),
    per_category: int | None = None,
) -> list[int]:
    """Choose items of a ranked list, one after the other, and return their places in it.

    The next item is the one of the pool whose (1 - d) r - d s is largest: r is
    its score, 0 for the worst of the pool and 1 for the best, and s its
    likeness to the item that is most like it among those chosen. Of equal ones
    the better ranked is next, so the best item is the first. What is not in
    the pool comes when nothing of the pool is left, in its order.

    Parameters
    ----------
    scores : ndarray of float, shape (m,)
        Best first.
    n : int
        At least 1.
    likeness : ndarray of float, shape (p, p), optional
        Of the first p items, the pool: in [0, 1], zeros on the diagonal. By
        default none is like another.
    diversity : float
        d, in [0, 1]; 0 leaves the order as it is.
    categories : sequence of sequence of str
        Of each item; needed where `per_category` is given.
    per_category : int, optional
        How many items of one category there may be, at least 1: an item comes
        in question while none of its categories is full. Default: any number.

    Returns
    -------
    list of int
        At most `n`.

    Notes
    -----
    O(n p + m). Maximal marginal relevance: Carbonell & Goldstein, SIGIR 1998.
    """
    left = _Left(len(scores), categories, per_category)
    chosen: list[int] = []
    n_pool = 0 if likeness is None or not diversity else len(likeness)
    if n_pool and likeness is not None:
        values = (1.0 - diversity) * _from_0_to_1(scores[:n_pool])
        closest = np.zeros(n_pool)
        while len(chosen) < n and left.is_left[:n_pool].any():
            gains = np.where(left.is_left[:n_pool], values - diversity * closest, -np.inf)
            best = int(gains.argmax())
            chosen.append(best)
            left.take(best)
            np.maximum(closest, likeness[best], out=closest)
    for place in range(n_pool, len(scores)):
        if len(chosen) == n:
            break
        if left.is_left[place]:
            chosen.append(place)
            left.take(place)
    return chosen


def reranked(
    ranked: Callable[[int], tuple[np.ndarray, np.ndarray]],
    rules: Rules,
    *,
    categories: Callable[[np.ndarray], list[tuple[str, ...]]],
    likeness: Callable[[np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best items in the order of `varied`, as far as the rules reach.

    Parameters
    ----------
    ranked : callable
        Returns the list of a length, shorter where there are no more items: what
        it has, and its scores, the best first.
    rules : Rules
    categories : callable
        Returns those of each item.
    likeness : callable or None
        Returns how alike items are, as `varied` takes it. Where that is None,
        or says nothing, items are as alike as their categories.

    Returns
    -------
    items, scores : ndarray
        As `ranked` gives them.
    """
    depth = max(rules.end, POOL)
    while True:
        items, scores = ranked(depth)
        of_items = categories(items)
        alike = None
        if rules.diversity:
            alike = None if likeness is None else likeness(items[:POOL])
            if alike is None or not alike.any():
                alike = likeness_of_categories(of_items[:POOL])
        chosen = varied(
            scores,
            n=rules.end,
            likeness=alike,
            diversity=rules.diversity,
            categories=of_items,
            per_category=rules.per_category,
        )
        if len(chosen) == rules.end or len(items) < depth:
            return items[chosen], scores[chosen]
        depth *= 8


def likeness_of_categories(categories: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the share of categories that items have in common, of all that either has.

    For a model that knows of no similar items.

    Returns
    -------
    ndarray of float64, shape (m, m)
        In [0, 1] and symmetric; zeros on the diagonal.
    """
    number_of: dict[str, int] = {}
    for category in (each for item in categories for each in item):
        number_of.setdefault(category, len(number_of))
    has = np.zeros((len(categories), len(number_of)))
    for row, item in enumerate(categories):
        has[row, [number_of[category] for category in item]] = 1.0
    common = has @ has.T
    n_of = has.sum(axis=1)
    shares: np.ndarray = common / np.maximum(n_of[:, None] + n_of - common, 1.0)
    np.fill_diagonal(shares, 0.0)
    return shares


class _Left:
    """Which items may still be chosen: not those that are, nor what a full category has."""

    def __init__(
        self, n: int, categories: Sequence[Sequence[str]], per_category: int | None
    ) -> None:
        self.is_left = np.ones(n, dtype=bool)
        self._per_category = per_category
        self._categories = categories
        self._n_of: Counter[str] = Counter()
        self._places_of: dict[str, list[int]] = defaultdict(list)
        if per_category is not None:
            for place, item in enumerate(categories):
                for category in item:
                    self._places_of[category].append(place)

    def take(self, place: int) -> None:
        self.is_left[place] = False
        if self._per_category is None:
            return
        for category in set(self._categories[place]):
            self._n_of[category] += 1
            if self._n_of[category] == self._per_category:
                self.is_left[self._places_of[category]] = False


def _from_0_to_1(scores: np.ndarray) -> np.ndarray:
    lowest, highest = scores[-1:].sum(), scores[:1].sum()
    if highest <= lowest:
        return np.zeros(len(scores))
    return np.asarray((scores - lowest) / (highest - lowest))
