"""Interactions cut in two: what a model may learn, and what it must then find."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation.confidence import generator
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
        With times. Where two interactions have the same time, the one that
        comes later in the log is the later one.
    share : float
        The share of each user's wanted pairs (those with a positive weight in the whole
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
        The share of interactions, in (0, 1). Interactions of the same time stay
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
        The share of each user's wanted pairs, as in `split_user_time`.
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
    random = generator(seed)
    pairs = log.pairs()
    wanted = _wanted(log)
    popularity = np.bincount(pairs.item_index[wanted], minlength=len(log.items))
    key = random.gumbel(size=len(wanted))
    key += popularity_power * np.log(np.maximum(popularity, 1))[pairs.item_index]
    held = _last_of_each_user(pairs, wanted, key, share=share)
    kind = "popular" if popularity_power else "random"
    return _split(kind, log, pairs, held, keep=~held[pairs.of_row])


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
