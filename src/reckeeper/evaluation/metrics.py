"""How good the lists of a model are: ranking metrics, by user."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation.confidence import intervals
from reckeeper.evaluation.splits import Split
from reckeeper.matrix import Histories
from reckeeper.ranking import Lists, Ranker


@dataclass(frozen=True)
class Figure:
    """A mean over users with its interval; without one where it is of all lists together."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Quality:
    """How good the lists of a model are.

    Each question has a list of the best items, and items that are relevant:
    those held out. A user's figure is the mean over the user's questions.

    Attributes
    ----------
    ks : tuple of int
        Lengths of the lists, ascending: one ranking gives all.
    question_user : ndarray of int, shape (n,)
        Whose each question is.
    found : ndarray of int32, shape (n, max(ks))
        The relevant item at each rank, -1 where there is none.
    held_out : scipy.sparse.csr_array, shape (n, n_items)
        The relevant items.
    n_relevant : ndarray of int, shape (n,)
        How many they are, with those of which no model can know.
    history_length : ndarray of int, shape (n,)
        Pairs in the history of each question.
    of_lists : dict of str to float
        By name and k, such as ``coverage@10``: ``coverage``, the share of all items that are in
        at least one list; ``novelty``, the mean over all recommended items of
        -log2 of the share of users who have the item (a positive weight), in
        bits, where items that nobody has count as if one user had them;
        ``gini``, the Gini coefficient of how often each item is recommended,
        0 where all are alike, towards 1 where few have all;
        ``popularity_lift``, the mean number of users of what is recommended ÷
        the same of what is in the histories, means over lists, then users.
        0 where nothing was recommended. Empty for a part of the questions.
    """

    ks: tuple[int, ...]
    question_user: np.ndarray = field(repr=False)
    found: np.ndarray = field(repr=False)
    held_out: sparse.csr_array = field(repr=False)
    n_relevant: np.ndarray = field(repr=False)
    history_length: np.ndarray = field(repr=False)
    of_lists: dict[str, float] = field(default_factory=dict)

    @functools.cached_property
    def user_index(self) -> np.ndarray:
        """The users measured, ascending."""
        return np.unique(self.question_user)

    @functools.cached_property
    def by_user(self) -> dict[str, np.ndarray]:
        """What each user has: arrays of float64 of shape (n_users,), all in [0, 1].

        By name and k: ``recall`` (relevant items in the list ÷ relevant items),
        ``ndcg`` (sum over relevant items at rank r of 1 / log2(r + 1) ÷ the same sum
        of a list that begins with all relevant ones), ``hit_rate`` (1 where the
        list has a relevant item), ``map`` (sum over relevant items at rank r of
        the precision of the list's first r ÷ relevant items), ``precision``
        (relevant items in the list ÷ k), ``mrr`` (1 ÷ the rank of the first
        relevant item) and ``without_hit`` (1 for a user none of whose lists
        has one).
        """
        _, user, n_questions = np.unique(
            self.question_user, return_inverse=True, return_counts=True
        )
        return {
            name: np.bincount(user, weights=values) / n_questions
            if not name.startswith("without_hit")
            else np.asarray(np.bincount(user, weights=values) == n_questions, dtype=np.float64)
            for k in self.ks
            for name, values in self._by_question(k).items()
        }

    def _by_question(self, k: int) -> dict[str, np.ndarray]:
        hits = self.found[:, :k] >= 0
        n_hits = hits.sum(axis=1)
        precision = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
        first = hits.argmax(axis=1) + 1
        is_hit = n_hits > 0
        return {
            f"recall@{k}": n_hits / self.n_relevant,
            f"ndcg@{k}": _ndcg(hits, self.n_relevant),
            f"hit_rate@{k}": is_hit.astype(np.float64),
            f"map@{k}": (hits * precision).sum(axis=1) / self.n_relevant,
            f"precision@{k}": n_hits / k,
            f"mrr@{k}": np.where(is_hit, 1 / first, 0.0),
            f"without_hit@{k}": (~is_hit).astype(np.float64),
        }

    def summary(
        self, *, seed: int = 0, n_resamples: int = 1000, level: float = 0.95
    ) -> dict[str, Figure]:
        """Average over users, with bootstrap intervals.

        Parameters
        ----------
        seed : int
            Not negative.
        n_resamples : int
            Resamples of the users, at least 1.
        level : float
            As of `intervals`, in (0, 1).

        Returns
        -------
        dict of str to Figure
            What `by_user` has with its interval, then `of_lists` without.

        Raises
        ------
        DataError
            A parameter is out of range.

        Notes
        -----
        Percentile intervals: Efron & Tibshirani, An Introduction to the
        Bootstrap, 1993, chapter 13; users are resampled with all their
        questions. Repeatable by seed.
        """
        ranges = intervals(self.by_user, seed=seed, n_resamples=n_resamples, level=level)
        figures = {
            name: Figure(float(values.mean()), low, high)
            for (name, values), (low, high) in zip(self.by_user.items(), ranges, strict=True)
        }
        return figures | {name: Figure(value) for name, value in self.of_lists.items()}

    def part(self, which: np.ndarray) -> "Quality":
        """Return the quality of some of the questions, given as booleans or places."""
        return replace(
            self,
            question_user=self.question_user[which],
            found=self.found[which],
            held_out=self.held_out[which],
            n_relevant=self.n_relevant[which],
            history_length=self.history_length[which],
            of_lists={},
        )

    def on_items(self, which: np.ndarray) -> "Quality":
        """Return how some items are found: as if no others were relevant.

        Parameters
        ----------
        which : ndarray of bool, shape (n_items,)

        Returns
        -------
        Quality
            Of the questions that ask for one of these items; ranks are those
            in the lists of all items.
        """
        held_out = self.held_out.copy()
        held_out.data = which[held_out.indices].astype(held_out.dtype)
        held_out.eliminate_zeros()
        n_relevant = np.diff(held_out.indptr)
        found = np.where((self.found >= 0) & which[self.found], self.found, -1)
        whole = replace(self, found=found, held_out=held_out, n_relevant=n_relevant)
        return whole.part(n_relevant > 0)


def pool(qualities: Sequence[Quality]) -> Quality:
    """Join what was measured on several cuts of one log; a user has the questions of all.

    Parameters
    ----------
    qualities : sequence of Quality
        With the same k and items, at least one. `of_lists` are averaged.

    Raises
    ------
    DataError
        There is none, or k differs.
    """
    if len({quality.ks for quality in qualities}) != 1:
        raise DataError(f"{len(qualities)} results cannot be pooled: give some of the same k.")
    if len(qualities) == 1:
        return qualities[0]
    held_out = sparse.csr_array(sparse.vstack([one.held_out for one in qualities]))
    names = [name for name in qualities[0].of_lists if all(name in q.of_lists for q in qualities)]
    return Quality(
        ks=qualities[0].ks,
        question_user=np.concatenate([one.question_user for one in qualities]),
        found=np.concatenate([one.found for one in qualities]),
        held_out=held_out,
        n_relevant=np.concatenate([one.n_relevant for one in qualities]),
        history_length=np.concatenate([one.history_length for one in qualities]),
        of_lists={
            name: float(np.mean([one.of_lists[name] for one in qualities])) for name in names
        },
    )


def measure_split(
    ranker: Ranker,
    split: Split,
    *,
    k: int | Sequence[int] = 20,
    user_index: np.ndarray | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Quality:
    """Ask a model the questions of a split; see `measure`.

    Parameters
    ----------
    ranker : Ranker
        It lists items of the history again where the split asks for
        repeats, if it was made so.
    split : Split
    k, user_index, on_progress
        As of `measure`.
    """
    return measure(
        ranker,
        histories=split.histories,
        held_out=split.held_out,
        question_user=split.user_index,
        popularity=split.train.popularity,
        n_users=split.train.weights.shape[0],
        k=k,
        user_index=user_index,
        on_progress=on_progress,
    )


def measure(
    ranker: Ranker,
    *,
    histories: Histories,
    held_out: sparse.csr_array,
    question_user: np.ndarray | None = None,
    n_unfindable: np.ndarray | None = None,
    popularity: np.ndarray | None = None,
    n_users: int | None = None,
    k: int | Sequence[int] = 20,
    user_index: np.ndarray | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Quality:
    """Give each question its list and look for what was held out.

    Measured are the questions that have a history and something held out.

    Parameters
    ----------
    ranker : Ranker
    histories : Histories
        What questions are scored from. No stored pair is recommended, with
        whatever weight, unless the ranker repeats.
    held_out : scipy.sparse.csr_array, shape (n, n_items)
        Positive entries are relevant. One that `histories` has too counts as
        relevant and cannot be found, unless the ranker repeats.
    question_user : ndarray of int, shape (n,), optional
        Whose question each row is; by default each is of a user of its own.
    n_unfindable : ndarray of int, shape (n,), optional
        How many items are relevant besides, of which no model can know.
    popularity : ndarray of int, shape (n_items,), optional
        How many users have each item, for novelty and popularity lift;
        counted in `histories`, if not given.
    n_users : int, optional
        Out of how many users `popularity` is; the number of rows of
        `histories`, if not given.
    k : int or sequence of int
        Lengths of the lists, at least 1.
    user_index : ndarray of int, optional
        Measure no other users than these, such as a sample.
    on_progress : callable, optional
        Called with the fraction done, in [0, 1]. What it raises ends it.

    Returns
    -------
    Quality

    Raises
    ------
    DataError
        Shapes differ, a parameter is out of range, or the model gives scores
        that are no numbers.
    NotEnoughDataError
        There is nobody to measure.

    Notes
    -----
    Ranks questions in blocks, so that users × items is never held.
    Deterministic.
    """
    ks = tuple(sorted({k} if isinstance(k, int) else set(k)))
    if not ks or ks[0] < 1:
        raise DataError(f"k={k} cannot be used: a list has at least 1 item.")
    known = histories.weights
    if known.shape != held_out.shape:
        raise DataError(
            f"histories have shape {known.shape} and held_out {held_out.shape}: give both for "
            "the same users and items."
        )
    if question_user is None:
        question_user = np.arange(len(histories))
    popularity, share = _popularity(known, popularity, n_users)
    relevant = _positive(held_out)
    n_relevant = np.diff(relevant.indptr)
    if n_unfindable is not None:
        n_relevant = n_relevant + n_unfindable
    asked = _to_measure(known, n_relevant, question_user, user_index)
    relevant = relevant[asked]
    found = np.empty((len(asked), ks[-1]), dtype=np.int32)
    exposure = _Exposure(ks, popularity, n_lists=len(asked))
    for block, lists in ranker.in_blocks(histories, asked, k=ks[-1]):
        top = lists.item_index
        found[block] = np.where(_are_in(top, relevant[block]), top, -1)
        exposure.add(block, top)
        if on_progress is not None:
            on_progress(block.stop / len(asked))
    return Quality(
        ks=ks,
        question_user=question_user[asked],
        found=found,
        held_out=relevant,
        n_relevant=n_relevant[asked],
        history_length=histories.lengths[asked],
        of_lists=exposure.figures(known[asked], question_user[asked], share),
    )


class _Exposure:
    """How often each item is recommended, for each k."""

    def __init__(self, ks: tuple[int, ...], popularity: np.ndarray, *, n_lists: int) -> None:
        self._popularity = popularity
        self._n_of_item = {k: np.zeros(len(popularity), dtype=np.int64) for k in ks}
        self._mean_popularity = {k: np.full(n_lists, np.nan) for k in ks}

    def add(self, block: slice, top: np.ndarray) -> None:
        is_item = top >= 0
        popularity = np.where(is_item, self._popularity[top], 0)
        for k, n_of_item in self._n_of_item.items():
            listed = top[:, :k]
            n_of_item += np.bincount(listed[is_item[:, :k]], minlength=len(n_of_item))
            n = is_item[:, :k].sum(axis=1)
            total = popularity[:, :k].sum(axis=1)
            self._mean_popularity[k][block] = np.where(n > 0, total / np.maximum(n, 1), np.nan)

    def figures(
        self, known: sparse.csr_array, user: np.ndarray, share: np.ndarray
    ) -> dict[str, float]:
        taste = known.data > 0
        row = np.repeat(np.arange(known.shape[0]), np.diff(known.indptr))[taste]
        n = np.bincount(row, minlength=known.shape[0])
        total = np.bincount(row, weights=self._popularity[known.indices[taste]], minlength=len(n))
        before = _mean_over_users(np.where(n > 0, total / np.maximum(n, 1), np.nan), user)
        figures: dict[str, float] = {}
        for k, n_of_item in self._n_of_item.items():
            n_all = int(n_of_item.sum())
            lift = _mean_over_users(self._mean_popularity[k], user) / before if before else 0.0
            figures |= {
                f"coverage@{k}": float(np.count_nonzero(n_of_item) / max(len(n_of_item), 1)),
                f"novelty@{k}": float(n_of_item @ -np.log2(share) / n_all) if n_all else 0.0,
                f"gini@{k}": _gini(n_of_item),
                f"popularity_lift@{k}": lift,
            }
        return figures


def _mean_over_users(of_list: np.ndarray, user: np.ndarray) -> float:
    """Average over each user's lists, then over users; nan is left out, and 0 if all is."""
    is_there = np.isfinite(of_list)
    if not is_there.any():
        return 0.0
    _, user, n = np.unique(user[is_there], return_inverse=True, return_counts=True)
    return float((np.bincount(user, weights=of_list[is_there]) / n).mean())


def _gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient: the mean difference of two items ÷ twice the mean."""
    n, total = len(counts), int(counts.sum())
    if not total:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts) / (n * total))


def ndcg(
    lists: Lists, *, held_out: sparse.csr_array, item_worth: np.ndarray | None = None
) -> np.ndarray:
    """Return the NDCG of lists that are there, as `Quality` has it.

    Parameters
    ----------
    lists : Lists
        The lists of n users.
    held_out : scipy.sparse.csr_array, shape (n, n_items)
        Positive entries are relevant; each user has one at least.
    item_worth : ndarray of float64, shape (n_items,), optional
        How much it counts to find each item. The list that begins with all
        relevant ones is taken with 1 for each, so that NDCG may be above 1.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    relevant = _positive(held_out)
    gains = _are_in(lists.item_index, relevant)
    if item_worth is not None:
        gains = gains * item_worth[lists.item_index]
    return _ndcg(gains, np.diff(relevant.indptr))


def _ndcg(gains: np.ndarray, n_relevant: np.ndarray) -> np.ndarray:
    k = gains.shape[1]
    discount = 1 / np.log2(np.arange(1, k + 1) + 1)
    return np.asarray(gains @ discount / np.cumsum(discount)[np.minimum(n_relevant, k) - 1])


def _popularity(
    known: sparse.csr_array, popularity: np.ndarray | None, n_users: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many users have each item, and what share of them, in (0, 1]."""
    n_items = known.shape[1]
    n_users = known.shape[0] if n_users is None else n_users
    if popularity is None:
        popularity = np.bincount(known.indices[known.data > 0], minlength=n_items)
    elif popularity.shape != (n_items,):
        raise DataError(
            f"popularity has shape {popularity.shape}: give one number for each of the "
            f"{n_items} items."
        )
    if popularity.max(initial=0) > n_users:
        raise DataError(
            f"popularity says that {popularity.max()} of {n_users} users have an item: give as "
            "n_users how many users it was counted on."
        )
    return popularity, np.asarray(np.maximum(popularity, 1) / max(n_users, 1))


def _positive(held_out: sparse.csr_array) -> sparse.csr_array:
    """Return the relevant pairs, each once and in order; `held_out` stays as it is."""
    if held_out.has_canonical_format and (held_out.data > 0).all():
        return held_out
    relevant = held_out.copy()
    relevant.sum_duplicates()
    relevant.data = np.where(relevant.data > 0, relevant.data, 0)
    relevant.eliminate_zeros()
    return relevant


def _to_measure(
    known: sparse.csr_array,
    n_relevant: np.ndarray,
    question_user: np.ndarray,
    user_index: np.ndarray | None,
) -> np.ndarray:
    can_be_measured = (np.diff(known.indptr) > 0) & (n_relevant > 0)
    if user_index is not None:
        largest = int(question_user.max(initial=-1))
        if len(user_index) and not 0 <= user_index.min() <= user_index.max() <= largest:
            raise DataError(
                f"user_index reaches from {user_index.min()} to {user_index.max()}: give rows from "
                f"0 to {largest}."
            )
        can_be_measured &= np.isin(question_user, user_index)
    asked = np.flatnonzero(can_be_measured)
    if not len(asked):
        raise NotEnoughDataError(
            "There is nobody to measure: no user has both a history and an item that was held "
            "out. Send more interactions, or hold out another share."
        )
    return asked


def _are_in(top: np.ndarray, relevant: sparse.csr_array) -> np.ndarray:
    """Return where lists, filled up with -1, have relevant items."""
    n_items = relevant.shape[1]
    row = np.repeat(np.arange(len(top)), np.diff(relevant.indptr))
    wanted = row * n_items + relevant.indices
    listed = np.arange(len(top))[:, None] * n_items + top
    # The -1, past the end, is where what is larger than all is looked for.
    found: np.ndarray = np.append(wanted, -1)[np.searchsorted(wanted, listed)] == listed
    return found & (top >= 0)
