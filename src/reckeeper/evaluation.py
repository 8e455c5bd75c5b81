"""How good a model is: splits of the interactions, ranking metrics, and how sure they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse

from reckeeper import linalg
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import InteractionLog, InteractionMatrix, Pairs


@dataclass(frozen=True)
class Split:
    """Interactions cut in two: what a model may learn, and what it must then find.

    Attributes
    ----------
    kind : str
        ``user_time``, ``time``, ``random``, ``popular`` or ``new``.
    train : InteractionMatrix
        With the users and items of the whole log: rows and columns may be
        empty.
    held_out : scipy.sparse.csr_array of float32, shape (n_users, n_items)
        Ones: the pairs that users wanted after the cut and of which `train`
        has nothing, not even a stored zero. To want is to have a positive
        weight in what was cut off: what was added to a watchlist and taken
        off again is not wanted.
    keep : ndarray of bool, shape (n,)
        Which interactions of the log went into `train`.
    """

    kind: str
    train: InteractionMatrix
    held_out: sparse.csr_array
    keep: np.ndarray

    @property
    def histories(self) -> sparse.csr_array:
        """What `measure` scores users from: the rows of `train`."""
        return self.train.weights


def split_user_time(log: InteractionLog, *, share: float = 0.2) -> Split:
    """Hold out the last part of each user's history.

    A user's pairs stand in the order in which they first occurred. The last
    of them are held out, and training ends for that user where the first of
    these begins: later rows of earlier pairs are left out too, since they are
    not known at that time. Other users' later rows are in training.

    Parameters
    ----------
    log : InteractionLog
        With times. Of two interactions with the same time the later one in
        the log is the later one.
    share : float
        Of each user's wanted pairs (those with a positive weight in the whole
        log), in (0, 1). Rounded, yet at least one is held out of two or more,
        and at least one is left.

    Returns
    -------
    Split
        Its kind is ``user_time``.

    Raises
    ------
    DataError
        The share is out of range, or the log has no times.

    Notes
    -----
    O(n log n); deterministic.
    """
    _check_share(share)
    in_time = np.argsort(_times(log), kind="stable")
    rank = np.empty(len(log), dtype=np.int64)
    rank[in_time] = np.arange(len(log))
    pairs = log.pairs()
    first_rank = np.full(len(pairs.user_index), len(log))
    np.minimum.at(first_rank, pairs.of_row, rank)
    held = _last_of_each_user(pairs, _wanted(log), first_rank, share=share)
    cut = np.full(len(log.users), len(log))
    np.minimum.at(cut, pairs.user_index[held], first_rank[held])
    return _split("user_time", log, pairs, held, keep=rank < cut[log.user_index])


def split_time(log: InteractionLog, *, share: float = 0.2) -> Split:
    """Hold out all that happened from one moment on.

    As in a product that retrains at that moment. Users who come after it have
    pairs held out and no history; `measure` leaves them out.

    Parameters
    ----------
    log : InteractionLog
        With times.
    share : float
        Of the interactions, in (0, 1). Interactions of the same time stay
        together, all of them after the cut where that leaves any before it.

    Returns
    -------
    Split
        Its kind is ``time``.

    Raises
    ------
    DataError
        The share is out of range, or the log has no times.
    NotEnoughDataError
        There are no two different times.

    Notes
    -----
    O(n); deterministic.
    """
    _check_share(share)
    times = _times(log)
    if not len(log) or times.min() == times.max():
        raise NotEnoughDataError(
            f"A cut in time needs interactions of two different times; the {len(log)} that there "
            "are have one. Use a random split, or give the times at which they happened."
        )
    place = min(max(len(log) - round(share * len(log)), 0), len(log) - 1)
    cut = np.partition(times, place)[place]
    if cut == times.min():
        cut = times[times > cut].min()
    return _before_and_after("time", log, keep=times < cut)


def split_at(log: InteractionLog, n_first: int) -> Split:
    """Hold out what was read after the first interactions of a log.

    As a model finds it that was trained when there were no more. Whatever
    their times say, the first rows are in training and no others. Users who
    come later have pairs held out and no history; `measure` leaves them out.

    Parameters
    ----------
    log : InteractionLog
        Times are not needed.
    n_first : int
        How many are in training, in [0, n].

    Returns
    -------
    Split
        Its kind is ``new``.

    Raises
    ------
    DataError
        There are not so many interactions.

    Notes
    -----
    O(n); deterministic.
    """
    if not 0 <= n_first <= len(log):
        raise DataError(
            f"n_first={n_first} cannot be used: give a number from 0 to {len(log)}, the number of "
            "interactions."
        )
    return _before_and_after("new", log, keep=np.arange(len(log)) < n_first)


def split_random(
    log: InteractionLog, *, share: float = 0.2, seed: int = 0, popularity_power: float = 0.0
) -> Split:
    """Hold out pairs of each user by chance, with all their interactions.

    Parameters
    ----------
    log : InteractionLog
        Times are not needed and not looked at.
    share : float
        Of each user's wanted pairs, as in `split_user_time`.
    seed : int
        Not negative. The same seed gives the same split of the same
        interactions, whatever their order in the log.
    popularity_power : float
        0 or positive. Pairs are drawn with a probability that grows with this
        power of the number of users who want the item: held-out data that
        lean to popular items, as those of the next weeks often do.

    Returns
    -------
    Split
        Its kind is ``random``, or ``popular`` with a power above 0.

    Raises
    ------
    DataError
        A parameter is out of range.

    Notes
    -----
    Draws without replacement by the Gumbel top-k trick: Kool, van Hoof &
    Welling, ICML 2019. O(n log n); deterministic.
    """
    _check_share(share)
    if not 0 <= popularity_power < np.inf:
        raise DataError(
            f"popularity_power={popularity_power} cannot be used: give a number from 0 on."
        )
    random = _random(seed)
    pairs = log.pairs()
    wanted = _wanted(log)
    popularity = np.bincount(pairs.item_index[wanted], minlength=len(log.items))
    key = random.gumbel(size=len(wanted))
    key += popularity_power * np.log(np.maximum(popularity, 1))[pairs.item_index]
    held = _last_of_each_user(pairs, wanted, key, share=share)
    kind = "popular" if popularity_power else "random"
    return _split(kind, log, pairs, held, keep=~held[pairs.of_row])


class Scorer(Protocol):
    """What `measure` asks of a model; every recipe is one."""

    def score(self, rows: sparse.csr_array) -> np.ndarray:
        """Score all items for rows of weights, shape (n, n_items) → the same, dense.

        Finite, or -inf for an item that is never to be recommended; the caller
        may write to the result.
        """
        ...


@dataclass(frozen=True)
class Quality:
    """How good the lists of a model are.

    A user's list has the k items of the highest score that the user's history
    does not have; relevant are the user's held-out items.

    Attributes
    ----------
    k : int
        Length of the lists.
    user_index : ndarray of int, shape (n,)
        The users measured, ascending.
    recall : ndarray of float64, shape (n,)
        Relevant items in the list ÷ relevant items; all are in [0, 1].
    ndcg : ndarray of float64, shape (n,)
        Sum over relevant items at rank r of 1 / log2(r + 1) ÷ the same sum of
        a list that begins with all relevant ones.
    hit_rate : ndarray of float64, shape (n,)
        1 where the list has a relevant item, else 0.
    average_precision : ndarray of float64, shape (n,)
        Sum over relevant items at rank r of the precision of the list's first
        r ÷ relevant items. Its mean is MAP@K.
    coverage : float
        Share of all items that are in at least one list, in [0, 1].
    novelty : float
        Mean over all recommended items of -log2 of the share of users who
        have the item (a positive weight), in bits, from 0 on. Items that
        nobody has count as if one user had them. 0 where nothing was
        recommended.
    """

    k: int
    user_index: np.ndarray
    recall: np.ndarray
    ndcg: np.ndarray
    hit_rate: np.ndarray
    average_precision: np.ndarray
    coverage: float
    novelty: float

    def summary(
        self, *, seed: int = 0, n_resamples: int = 1000, level: float = 0.95
    ) -> dict[str, dict[str, float]]:
        """Average over users, with bootstrap intervals.

        Parameters
        ----------
        seed : int
            Not negative.
        n_resamples : int
            Resamples of the users, at least 1.
        level : float
            Share of the resampled means that an interval holds, in (0, 1).

        Returns
        -------
        dict
            ``recall@k``, ``ndcg@k``, ``hit_rate@k``, ``map@k``: ``mean``,
            ``low`` and ``high``; ``coverage@k`` and ``novelty@k``: ``mean``
            alone, since they belong to all lists together.

        Raises
        ------
        DataError
            A parameter is out of range.

        Notes
        -----
        Percentile intervals: Efron & Tibshirani, An Introduction to the
        Bootstrap, 1993, chapter 13. Repeatable by seed; 30,000 users and
        1,000 resamples take less than a second, in O(n) memory.
        """
        by_user = self._by_user()
        intervals = _intervals(by_user, seed=seed, n_resamples=n_resamples, level=level)
        summary = {
            name: {"mean": float(values.mean()), "low": low, "high": high}
            for (name, values), (low, high) in zip(by_user.items(), intervals, strict=True)
        }
        summary[f"coverage@{self.k}"] = {"mean": self.coverage}
        summary[f"novelty@{self.k}"] = {"mean": self.novelty}
        return summary

    def _by_user(self) -> dict[str, np.ndarray]:
        return {
            f"recall@{self.k}": self.recall,
            f"ndcg@{self.k}": self.ndcg,
            f"hit_rate@{self.k}": self.hit_rate,
            f"map@{self.k}": self.average_precision,
        }


def measure(
    model: Scorer,
    *,
    histories: sparse.csr_array,
    held_out: sparse.csr_array,
    popularity: np.ndarray | None = None,
    n_users: int | None = None,
    k: int = 20,
    user_index: np.ndarray | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Quality:
    """Rank all items for users and look for what was held out.

    Measured are the users who have a history and something held out.

    Parameters
    ----------
    model : Recipe or any other Scorer
    histories : scipy.sparse.csr_array, shape (n_users, n_items)
        What users are scored from. No stored pair is recommended, with
        whatever weight.
    held_out : scipy.sparse.csr_array, shape (n_users, n_items)
        Positive entries are relevant. One that `histories` has too counts as
        relevant and cannot be found.
    popularity : ndarray of int, shape (n_items,), optional
        How many users have each item, for the novelty; counted in
        `histories`, if not given.
    n_users : int, optional
        Out of how many users `popularity` is; the number of rows of
        `histories`, if not given.
    k : int
        Length of the lists, at least 1.
    user_index : ndarray of int, optional
        Measure no others than these rows, such as a sample.
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
    Scores users in blocks, so that users × items is never held. Of equal
    scores the smaller index ranks first. Deterministic.
    """
    if k < 1:
        raise DataError(f"k={k} cannot be used: a list has at least 1 item.")
    if histories.shape != held_out.shape:
        raise DataError(
            f"histories have shape {histories.shape} and held_out {held_out.shape}: give both for "
            "the same users and items."
        )
    n_items = histories.shape[1]
    share = _share_of_users(histories, popularity, n_users)
    relevant = _positive(held_out)
    users = _to_measure(histories, relevant, user_index)
    n_relevant = np.diff(relevant.indptr)[users]
    hits = np.empty((len(users), k), dtype=bool)
    n_recommended = np.zeros(n_items, dtype=np.int64)
    for block in linalg.row_blocks(len(users), n_items):
        rows = histories[users[block]]
        scores = model.score(rows)
        # The sum of a row tells in one cheap pass; it is -inf where an item is ruled out.
        if not (scores.sum(axis=1) < np.inf).all():
            raise DataError(
                "The model gives scores that are no finite numbers: fit it again, on finite "
                "weights."
            )
        top = linalg.top_k_rows(scores, k, exclude=rows)
        hits[block] = _are_in(top, relevant[users[block]])
        n_recommended += np.bincount(top[top >= 0], minlength=n_items)
        if on_progress is not None:
            on_progress(block.stop / len(users))

    rank = np.arange(1, k + 1)
    discount = 1 / np.log2(rank + 1)
    ideal = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    precision = np.cumsum(hits, axis=1) / rank
    n_all = int(n_recommended.sum())
    return Quality(
        k=k,
        user_index=users,
        recall=hits.sum(axis=1) / n_relevant,
        ndcg=hits @ discount / ideal,
        hit_rate=np.asarray(hits.any(axis=1), dtype=np.float64),
        average_precision=(hits * precision).sum(axis=1) / n_relevant,
        coverage=float(np.count_nonzero(n_recommended) / n_items),
        novelty=float(n_recommended @ -np.log2(share) / n_all) if n_all else 0.0,
    )


def compare(
    first: Quality,
    second: Quality,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, dict[str, float]]:
    """Compare two models on the same users, pair by pair.

    Users differ more from each other than models do. Resampling the
    difference of each user leaves that out, and shows differences that two
    intervals side by side would hide.

    Parameters
    ----------
    first, second : Quality
        Of the same users, with the same k.
    seed, n_resamples, level
        As of `Quality.summary`.

    Returns
    -------
    dict
        ``recall@k``, ``ndcg@k``, ``hit_rate@k``, ``map@k``: ``difference``
        (second - first), ``low`` and ``high``. An interval without 0 says
        that the models differ.

    Raises
    ------
    DataError
        Users or k are not the same, or a parameter is out of range.

    Notes
    -----
    Repeatable by seed.
    """
    if first.k != second.k:
        raise DataError(
            f"The lists have {first.k} items here and {second.k} there: measure both with the "
            "same k."
        )
    if not np.array_equal(first.user_index, second.user_index):
        raise DataError(
            f"The {len(first.user_index)} users of the one and the {len(second.user_index)} of the "
            "other are not the same: measure both on the same users."
        )
    ours, theirs = second._by_user(), first._by_user()
    differences = {name: ours[name] - theirs[name] for name in ours}
    intervals = _intervals(differences, seed=seed, n_resamples=n_resamples, level=level)
    return {
        name: {"difference": float(values.mean()), "low": low, "high": high}
        for (name, values), (low, high) in zip(differences.items(), intervals, strict=True)
    }


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise DataError(f"share={share} cannot be used: give a number above 0 and below 1.")


def _times(log: InteractionLog) -> np.ndarray:
    if log.occurred_at is None:
        raise DataError(
            "The interactions have no times: use a random split, or give each interaction the "
            "time at which it happened."
        )
    return log.occurred_at


def _random(seed: int) -> np.random.Generator:
    if seed < 0:
        raise DataError(f"seed={seed} cannot be used: give a whole number from 0 on.")
    return np.random.default_rng(seed)


def _wanted(log: InteractionLog) -> np.ndarray:
    """Return for each of the log's pairs whether it has a positive weight in the end."""
    wanted: np.ndarray = log.matrix().weights.data > 0
    return wanted


def _last_of_each_user(
    pairs: Pairs, wanted: np.ndarray, key: np.ndarray, *, share: float
) -> np.ndarray:
    """Choose the share of each user's wanted pairs that has the largest keys."""
    candidates = np.flatnonzero(wanted)
    user = pairs.user_index[candidates].astype(np.int64)
    # By user, then by key: half the time of a sort by both.
    rank = np.empty(len(candidates), dtype=np.int64)
    rank[np.argsort(key[candidates], kind="stable")] = np.arange(len(candidates))
    candidates = candidates[np.argsort(user * len(candidates) + rank)]
    n_wanted = np.bincount(user)
    n_held = np.clip(np.rint(share * n_wanted).astype(np.int64), 1, np.maximum(n_wanted - 1, 0))
    first_held = np.cumsum(n_wanted) - n_held
    held = np.zeros(len(wanted), dtype=bool)
    held[candidates[np.arange(len(candidates)) >= first_held[user]]] = True
    return held


def _before_and_after(kind: str, log: InteractionLog, *, keep: np.ndarray) -> Split:
    """Hold out the pairs that the rest wants and of which the kept rows have nothing."""
    pairs = log.pairs()
    is_known, is_later = np.zeros((2, len(pairs.user_index)), dtype=bool)
    is_known[pairs.of_row[keep]] = True
    is_later[pairs.of_row[~keep]] = True
    # The pairs of a matrix stand in the order of the log's pairs.
    held = is_later
    held[is_later] = log.matrix(~keep).weights.data > 0
    return _split(kind, log, pairs, held & ~is_known, keep=keep)


def _split(
    kind: str, log: InteractionLog, pairs: Pairs, held: np.ndarray, *, keep: np.ndarray
) -> Split:
    shape = len(log.users), len(log.items)
    indptr = np.zeros(shape[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(pairs.user_index[held], minlength=shape[0]), out=indptr[1:])
    ones = np.ones(indptr[-1], dtype=np.float32)
    held_out = sparse.csr_array((ones, pairs.item_index[held], indptr), shape=shape)
    return Split(kind, log.matrix(keep), held_out, keep)


def _share_of_users(
    histories: sparse.csr_array, popularity: np.ndarray | None, n_users: int | None
) -> np.ndarray:
    """Return the share of users who have each item, in (0, 1]."""
    n_items = histories.shape[1]
    n_users = histories.shape[0] if n_users is None else n_users
    if popularity is None:
        popularity = np.bincount(histories.indices[histories.data > 0], minlength=n_items)
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
    return np.asarray(np.maximum(popularity, 1) / max(n_users, 1))


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
    histories: sparse.csr_array, relevant: sparse.csr_array, user_index: np.ndarray | None
) -> np.ndarray:
    can_be_measured = (np.diff(histories.indptr) > 0) & (np.diff(relevant.indptr) > 0)
    if user_index is not None:
        asked = np.unique(user_index)
        if len(asked) and not 0 <= asked[0] <= asked[-1] < histories.shape[0]:
            raise DataError(
                f"user_index reaches from {asked[0]} to {asked[-1]}: give rows from 0 to "
                f"{histories.shape[0] - 1}."
            )
        is_asked = np.zeros(histories.shape[0], dtype=bool)
        is_asked[asked] = True
        can_be_measured &= is_asked
    users = np.flatnonzero(can_be_measured)
    if not len(users):
        raise NotEnoughDataError(
            "There is nobody to measure: no user has both a history and an item that was held "
            "out. Send more interactions, or hold out another share."
        )
    return users


def _are_in(top: np.ndarray, relevant: sparse.csr_array) -> np.ndarray:
    """Return where lists, filled up with -1, have relevant items."""
    n_items = relevant.shape[1]
    row = np.repeat(np.arange(len(top)), np.diff(relevant.indptr))
    wanted = row * n_items + relevant.indices
    listed = np.arange(len(top))[:, None] * n_items + top
    place = np.minimum(np.searchsorted(wanted, listed), len(wanted) - 1)
    found: np.ndarray = (wanted[place] == listed) & (top >= 0)
    return found


def _intervals(
    by_user: dict[str, np.ndarray], *, seed: int, n_resamples: int, level: float
) -> list[tuple[float, float]]:
    """Return percentile intervals of means, all from the same resamples of the users."""
    if n_resamples < 1:
        raise DataError(f"n_resamples={n_resamples} cannot be used: give at least 1.")
    if not 0 < level < 1:
        raise DataError(f"level={level} cannot be used: give a number above 0 and below 1.")
    random = _random(seed)
    values = np.column_stack(list(by_user.values()))
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for mean in means:
        drawn = np.bincount(random.integers(n, size=n, dtype=np.int32), minlength=n)
        mean[:] = drawn @ values / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
