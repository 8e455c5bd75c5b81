"""What list a history gets: scores, noise, exclusions, the best k.

The server, the check before a version is activated, the comparison of
versions, the gate and `evaluation` all take their lists from here: what is
judged is what is shown.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.errors import DataError
from reckeeper.matrix import Histories, IdIndex
from reckeeper.recipes import Recipe, Scorer

_ROUNDING = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}
"""What share of a row's largest score may be a rounding error, sums of many included."""

_ONE, _EACH = (50_000, 25), (0, 10)
"""How many items of a dense row of scores take as long as a sparse row, and as each term of it.

Of one history, and of each of many.
"""

_ROWS = 64
"""Of sparse scores at a time."""

_CELLS = 8_400_000
"""Scores that a block of histories has at most, 64 MB in double precision."""

_CELL_BYTES = 30
"""What one of them comes to while it is made and ranked."""


@dataclass(frozen=True)
class Lists:
    """What histories get, a row each, the best item first.

    Attributes
    ----------
    item_index : ndarray of int64, shape (n, k)
        Dense indices; -1 where there is no item: at the end of a list that is
        shorter, or in place of an item that the histories' ids lack.
    scores : ndarray of float64, shape (n, k)
        Scores of these items; 0 where there is none.
    is_popular : ndarray of bool, shape (n,)
        Whether a list is the popular items, and not the history's own.
    """

    item_index: np.ndarray
    scores: np.ndarray
    is_popular: np.ndarray


class HasPopularity(Protocol):
    """An interaction matrix, or an artifact that was made of one."""

    @property
    def popularity(self) -> np.ndarray:
        """How many users have each item, shape (n_items,)."""


class Ranker:
    """The lists of a model.

    An item of the history, whatever it weighs, is not listed; with `repeats`,
    those that weigh nothing are not (seen without taste). Among equal scores
    the smaller index comes first; where a personal model's are 0, and so say
    nothing, the more popular item does. A history that tells a personal model
    nothing gets the popular items: where no score of an item outside it is
    larger than the rounding error of the largest, as for users who have
    nothing that weighs, or only what nobody else has.

    Parameters
    ----------
    model : Recipe or any other Scorer
    popularity : ndarray of float64, shape (n_items,)
        How many users have each item.
    places : ndarray of int, shape (any,), optional
        The model's index of each item of the histories, -1 where it has none:
        for histories whose ids are not the model's. Lists are in the
        histories' ids too.
    repeats : bool
        Whether lists may have what the history has already, as where people
        buy the same things again.
    """

    def __init__(
        self,
        model: Scorer,
        *,
        popularity: np.ndarray,
        places: np.ndarray | None = None,
        repeats: bool = False,
    ) -> None:
        self._model = model
        self._popularity = popularity
        self._places = places
        self._repeats = repeats
        # A recipe gives every row the same; of another scorer that is not known.
        self._is_shared = isinstance(model, Recipe) and not model.is_personal

    @classmethod
    def of(cls, model: Scorer, trained: HasPopularity, *, repeats: bool = False) -> "Ranker":
        """Make the ranker of a model with the popularity in what it was trained on."""
        popularity = trained.popularity.astype(np.float64)
        return cls(model, popularity=popularity, repeats=repeats)

    @property
    def is_shared(self) -> bool:
        """Whether the model gives every history the same scores."""
        return self._is_shared

    def popular(self) -> np.ndarray:
        """Return how popular each item is: the scores of a model that gives all the same.

        Of any other, how many users have each item.
        """
        return self._shared_scores() if self._is_shared else self._popularity

    def in_ids_of(self, items: IdIndex, *, own: IdIndex) -> "Ranker":
        """Return the same for histories of other items.

        What the model does not know says nothing in a history and is in no
        list.

        Parameters
        ----------
        items : IdIndex
            The columns of the histories.
        own : IdIndex
            Those of the model.
        """
        return Ranker(
            self._model,
            popularity=self._popularity,
            places=items.places_in(own),
            repeats=self._repeats,
        )

    def rank(
        self,
        histories: Histories,
        *,
        k: int,
        listable: np.ndarray | None = None,
        unlisted: sparse.csr_array | None = None,
    ) -> Lists:
        """Give each history its list; scores are dense, so mind the number.

        Parameters
        ----------
        histories : Histories
            Of users known to the model or not.
        k : int
            At least 1.
        listable : ndarray of bool, shape (n_items,), optional
            Which items may be in a list: the others make room for the next
            best. They count in histories as before. Default: all.
        unlisted : scipy.sparse.csr_array, shape (n, n_items), optional
            Whose stored entries are not listed, in place of what `repeats` says.

        Raises
        ------
        DataError
            The model gives scores that are no numbers.
        """
        weights = histories.weights
        if unlisted is None:
            unlisted = without_taste(weights) if self._repeats else weights
        out = slice(0) if listable is None else np.flatnonzero(~listable)
        if self._places is None:
            if self._is_shared:
                return _rank_shared(_without(out, self._shared_scores()), unlisted, k=k)
            return self._rank_own(histories, unlisted, k=k, listable=listable)
        # In the histories' ids, so that equal scores stand in their order; then the model's others.
        n_items, n_own = len(self._places), len(self._popularity)
        others = np.setdiff1d(np.arange(n_own), self._places)
        places = np.concatenate([self._places, others])
        wider = (unlisted.data, unlisted.indices, unlisted.indptr)
        unlisted = sparse.csr_array(wider, shape=(len(histories), len(places)))
        if self._is_shared:
            shared = np.where(places < 0, -np.inf, self._shared_scores()[places])
            lists = _rank_shared(_without(out, shared), unlisted, k=k)
        else:
            scores = self._model.score(histories.renamed(self._places, n_items=n_own))[:, places]
            scores[:, places < 0] = -np.inf
            scores[:, out] = -np.inf
            popularity = None
            if self._model.is_personal:
                popularity = np.where(places < 0, -np.inf, self._popularity[places])
                popularity = _without(out, popularity)
            lists = rank_scores(scores, unlisted, k=k, popularity=popularity)
        return replace(lists, item_index=np.where(lists.item_index < n_items, lists.item_index, -1))

    def _rank_own(
        self,
        histories: Histories,
        unlisted: sparse.csr_array,
        *,
        k: int,
        listable: np.ndarray | None,
    ) -> Lists:
        """Give histories of the model's own items their lists."""
        out = slice(0) if listable is None else np.flatnonzero(~listable)
        popularity = _without(out, self._popularity) if self._model.is_personal else None

        def rank(part: Histories, unlisted_of_part: sparse.csr_array) -> Lists:
            scores = self._model.score(part)
            scores[:, out] = -np.inf
            return rank_scores(scores, unlisted_of_part, k=k, popularity=popularity)

        made = self._rank_few(histories, unlisted, k=k, listable=listable)
        if made is None and len(histories) == 1:
            return rank(histories, unlisted)
        if made is None:
            made = _no_lists(len(histories), k)
        rest = np.flatnonzero(made.item_index[:, 0] < 0)
        for block in linalg.row_blocks(len(rest), len(self._popularity), itemsize=8):
            rows = block if len(rest) == len(histories) else rest[block]
            others = rank(histories[rows], unlisted[rows])
            made.item_index[rows], made.scores[rows] = others.item_index, others.scores
            made.is_popular[rows] = others.is_popular
        return made

    def _rank_few(
        self,
        histories: Histories,
        unlisted: sparse.csr_array,
        *,
        k: int,
        listable: np.ndarray | None,
    ) -> Lists | None:
        """Give lists to those whose scores are sums of few terms; the others' have no items yet.

        Nor have those of which it takes all scores to tell what they get. None where nobody's are.
        """
        n, model = len(histories), self._model
        of_row, of_term = _ONE if n == 1 else _EACH
        n_spare = len(self._popularity) - of_row
        if not isinstance(model, Recipe) or n_spare <= 0 or k > len(self._popularity):
            return None
        n_terms = model.n_terms(histories)
        if n_terms is None:
            return None
        few = np.flatnonzero(of_term * n_terms <= n_spare)
        if not len(few):
            return None
        made = _no_lists(n, k)

        def rank(rows: np.ndarray) -> None:
            part = histories if len(rows) == n else histories[rows]
            unlisted_of_part = unlisted if len(rows) == n else unlisted[rows]
            scores = model.sparse_score(part)
            _check_scores(scores.data[None, :])
            top, best = linalg.top_k_stored(scores, k, exclude=unlisted_of_part, allowed=listable)
            is_told = best[:, 0] > _ROUNDING[scores.dtype] * _largest(scores)
            made.item_index[rows[is_told]], made.scores[rows[is_told]] = top[is_told], best[is_told]

        blocks = [few[start : start + _ROWS] for start in range(0, len(few), _ROWS)]
        linalg.parallel.on_threads(rank, blocks, n_threads=None)
        return made

    def _shared_scores(self) -> np.ndarray:
        """Return the scores of a model that is not personal, of all its items."""
        nobody = sparse.csr_array((1, len(self._popularity)))
        return np.asarray(self._model.score(Histories(nobody))[0])

    def in_blocks(
        self,
        histories: Histories,
        user_index: np.ndarray,
        *,
        k: int,
        listable: np.ndarray | None = None,
        unlisted: sparse.csr_array | None = None,
    ) -> Iterator[tuple[slice, Lists]]:
        """Give users their lists, a block at a time: users × items is never held.

        Parameters
        ----------
        histories : Histories
        user_index : ndarray of int, shape (n,)
            Rows of `histories`.
        k, listable : int and ndarray
            As of `rank`.
        unlisted : scipy.sparse.csr_array, optional
            As of `rank`, a row for each of `histories`.

        Yields
        ------
        slice
            Which of `user_index` these are.
        Lists
        """
        n_items = len(self._popularity)
        n_items += 0 if self._places is None else histories.weights.shape[1]
        for block in linalg.row_blocks(len(user_index), n_items, itemsize=8):
            rows = user_index[block]
            out = None if unlisted is None else unlisted[rows]
            yield block, self.rank(histories[rows], k=k, listable=listable, unlisted=out)


def rank_scores(
    scores: np.ndarray, unlisted: sparse.csr_array, *, k: int, popularity: np.ndarray | None
) -> Lists:
    """Make the lists that belong to scores; see `Ranker`.

    Parameters
    ----------
    scores : ndarray of float32 or float64, shape (n, n_items)
        As of `Scorer.score`; overwritten.
    unlisted : scipy.sparse.csr_array, shape (n, n_items)
        Stored entries are not listed: the histories.
    k : int
        At least 1.
    popularity : ndarray of float, shape (n_items,), or None
        What is listed where scores are noise, and the order of items whose
        score is 0; None takes scores as they are.

    Raises
    ------
    DataError
        Scores are no numbers.
    """
    n = len(scores)
    if n == 1 and popularity is not None:
        told = _rank_told(scores[0], unlisted.indices, k=k)
        if told is not None:
            return told
    _check_scores(scores)
    row_of = 0 if n == 1 else np.repeat(np.arange(n), np.diff(unlisted.indptr))
    seen_scores = scores[row_of, unlisted.indices]
    top = linalg.top_k_rows(scores, k, exclude=unlisted)
    found = top >= 0
    best = np.zeros(top.shape)
    best[found] = scores[np.nonzero(found)[0], top[found]]
    if popularity is None:
        return Lists(top, best, np.ones(n, dtype=bool))

    # What is best is at most the largest of all: nearly every row is told by this alone.
    largest_seen = np.abs(seen_scores[seen_scores > -np.inf]).max(initial=0)
    is_popular = found[:, 0] & (best[:, 0] <= _ROUNDING[scores.dtype] * largest_seen)
    if (best[:, -1] > 0).all() and not is_popular.any():
        return Lists(top, best, is_popular)
    for row in np.flatnonzero(is_popular).tolist():
        entries = slice(int(unlisted.indptr[row]), int(unlisted.indptr[row + 1]))
        seen = unlisted.indices[entries]
        scores[row, seen] = seen_scores[entries]
        is_popular[row] = is_noise(scores[row], seen=seen)
    zeros = found & (best == 0) & ~is_popular[:, None]
    for row in np.flatnonzero(zeros.any(axis=1)).tolist():
        is_zero = scores[row] == 0
        is_zero[unlisted.indices[unlisted.indptr[row] : unlisted.indptr[row + 1]]] = False
        n_shown = int(np.count_nonzero(zeros[row]))
        top[row, zeros[row]] = linalg.top_k(popularity, n_shown, exclude=np.flatnonzero(~is_zero))
    rows = np.flatnonzero(is_popular)
    if len(rows):
        top[rows] = linalg.top_k_shared(popularity, k, exclude=unlisted[rows])
        best[rows] = np.where(top[rows] >= 0, popularity[top[rows]], 0.0)
    return Lists(top, best, is_popular)


def _rank_told(scores: np.ndarray, seen: np.ndarray, *, k: int) -> Lists | None:
    """Make the list of one history where the k best scores say enough; None, as it was, if not.

    Nearly every history's do: they are numbers, above zero, and more than noise.
    """
    if k > len(scores):
        return None
    seen_scores = scores[seen]
    scores[seen] = -np.inf
    top, best, largest = linalg.top_k_of_one(scores, k)
    largest_seen = np.maximum.reduce(np.abs(seen_scores), initial=0)
    if largest_seen == np.inf:  # some of them are out
        largest_seen = np.abs(seen_scores[seen_scores > -np.inf]).max(initial=0)
    # What is no number fails these.
    if (
        len(top) == k
        and best[-1] > 0
        and largest < np.inf
        and _ROUNDING[scores.dtype] * largest_seen < best[0]
    ):
        return Lists(top[None, :], best[None, :].astype(np.float64), np.zeros(1, dtype=bool))
    scores[seen] = seen_scores
    return None


def _rank_shared(scores: np.ndarray, unlisted: sparse.csr_array, *, k: int) -> Lists:
    """Make the lists that belong to scores, shape (n_items,), which all histories share."""
    _check_scores(scores[None, :])
    top = linalg.top_k_shared(scores, k, exclude=unlisted)
    best = np.where(top >= 0, scores[top], 0.0).astype(np.float64)
    return Lists(top, best, np.ones(len(top), dtype=bool))


def _no_lists(n: int, k: int) -> Lists:
    """Return lists without items."""
    return Lists(np.full((n, k), -1, dtype=np.int64), np.zeros((n, k)), np.zeros(n, dtype=bool))


def _check_scores(scores: np.ndarray) -> None:
    # The largest of a row tells in one cheap pass; what is no number counts as the largest.
    if not (scores.max(axis=1, initial=-np.inf) < np.inf).all():
        raise DataError(
            "The model gives scores that are no finite numbers: fit it again, on finite weights."
        )


def is_noise(scores: np.ndarray, *, seen: np.ndarray) -> bool:
    """Say whether scores tell nothing of the items outside a history.

    Parameters
    ----------
    scores : ndarray of float32 or float64, shape (n_items,)
        Of those that are -inf nothing is said.
    seen : ndarray of int, shape (m,)
        Dense indices of the history's items.

    Returns
    -------
    bool
        Whether no score of an unseen item is larger than the rounding error
        of the row's largest. False where there is no such item.
    """
    sizes = np.where(scores > -np.inf, np.abs(scores), -1)
    largest = np.delete(sizes, seen).max(initial=-1)
    return bool(0 <= largest <= _ROUNDING[scores.dtype] * sizes.max())


def bytes_needed(*, n_users: int, n_items: int) -> int:
    """Return what is held at most while so many users get their lists in blocks."""
    return _CELL_BYTES * min(_CELLS, n_users * n_items)


def _largest(scores: sparse.csr_array) -> np.ndarray:
    """Return the largest absolute value of each row, 0 of an empty one, shape (n,)."""
    largest = np.zeros(scores.shape[0], dtype=scores.dtype)
    is_full = np.diff(scores.indptr) > 0
    if is_full.any():
        starts = scores.indptr[:-1][is_full]
        largest[is_full] = np.maximum.reduceat(np.abs(scores.data), starts)
    return largest


def _without(out: np.ndarray | slice, values: np.ndarray) -> np.ndarray:
    """Return one value an item, with some items ruled out; not to be written to."""
    if isinstance(out, slice):  # of none
        return values
    left = values.copy()
    left[out] = -np.inf
    return left


def without_taste(weights: sparse.csr_array) -> sparse.csr_array:
    """Return the entries that weigh nothing."""
    return entries_where(weights, weights.data <= 0)


def entries_where(weights: sparse.csr_array, is_in: np.ndarray) -> sparse.csr_array:
    """Return some of the stored entries, by a mask in the order of ``weights.data``."""
    n_before = np.concatenate([[0], np.cumsum(is_in)])
    entries = (weights.data[is_in], weights.indices[is_in], n_before[weights.indptr])
    return sparse.csr_array(entries, shape=weights.shape)
