"""Interactions cut in two: what a model may learn, and what it must then find.

Random choices go by the place of users and pairs: on a log that is `canonical` they are the same
for the same interactions, whatever their order and ids.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from reckeeper import clock
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation.confidence import generator
from reckeeper.matrix import Histories, InteractionLog, InteractionMatrix, Pairs

_MOST_LOOKED_AT = 2_000_000
"""Interactions that tell whether times do."""


@dataclass(frozen=True)
class Split:
    """Interactions cut in two: what a model may learn, and the questions that follow.

    A question is a history and the items to be found from it. A user has
    one, or in ``next`` and ``new`` one for each later interaction.

    Attributes
    ----------
    kind : str
        ``next``, ``new``, ``user_time``, ``time``, ``random`` or ``popular``.
    how : str
        What is held out, in words: "the last fifth of each user's
        interactions, by time".
    train : InteractionMatrix
        With the users and items of the whole log: rows and columns may be
        empty.
    histories : Histories
        A row for each question: what is known of the user at that moment, in
        order where there are times; rows may be empty.
    held_out : scipy.sparse.csr_array of float32, shape (n_questions, n_items)
        Ones: what is to be found. Wanted pairs alone, those with a positive
        weight over all their interactions: what was added to a watchlist and
        taken off again is not wanted, and what was seen without taste never
        is.
    user_index : ndarray of int32, shape (n_questions,)
        Whose question it is: a row of `train`. Users are the unit of every
        interval.
    keep : ndarray of bool, shape (n,)
        Which interactions of the log went into `train`.
    repeats : bool
        Whether lists may have items of the history again, and the questions
        ask for them.
    """

    kind: str
    how: str
    train: InteractionMatrix = field(repr=False)
    histories: Histories = field(repr=False)
    held_out: sparse.csr_array = field(repr=False)
    user_index: np.ndarray = field(repr=False)
    keep: np.ndarray = field(repr=False)
    repeats: bool = False

    @property
    def judged(self) -> np.ndarray:
        """The users with a question that has a history and something to find, ascending."""
        has_both = (self.histories.lengths > 0) & (np.diff(self.held_out.indptr) > 0)
        return np.unique(self.user_index[has_both])


def is_timed(log: InteractionLog) -> bool:
    """Say whether times tell the order of what users did.

    They do where more than half of the users with two wanted pairs or more
    can be ordered; one cannot of whose pairs more than half began at the
    same time. A file without times has one time for all. Large logs
    are judged by a part of their users, one in so many.
    """
    if log.occurred_at is None:
        return False
    step = max(1, len(log) // _MOST_LOOKED_AT)
    if step > 1:
        log = log.part(log.user_index % step == 0)
    pairs = log.pairs()
    _, user, time = _in_time(pairs, wanted_pairs(log), first_times(log, pairs), random=generator(0))
    several = np.bincount(user, minlength=len(log.users)) > 1
    tied = _are_tied(user, time, n_users=len(log.users))
    return bool(2 * np.count_nonzero(several & ~tied) > np.count_nonzero(several))


def split_user_time(
    log: InteractionLog, *, share: float = 0.2, seed: int = 0, fold: int = 0, least: int = 2
) -> Split:
    """Hold out the last part of each user's history.

    A user's pairs stand in the order in which they first occurred; of equal
    times, in a random one. The last of them are held out, and training ends
    for that user where the first of these begins: later rows of earlier
    pairs are left out too, since they are not known at that time. Other
    users' later rows are in training.

    A user of whose pairs more than half began at the same time has a random
    part held out, with all its rows: most of the order would be chance.

    Parameters
    ----------
    log : InteractionLog
        With times.
    share : float
        The share of each user's wanted pairs (those with a positive weight in the whole
        log), in (0, 1). Rounded, yet at least one is held out of two or more,
        and at least one is left.
    seed : int
        For what is random; not negative.
    fold : int
        0 for the last part, 1 for the part before it, and so on: what comes
        after is in no part. Of users with too few pairs nothing is held out.
    least : int
        Users with fewer wanted pairs stay whole; 2 or more.

    Returns
    -------
    Split
        Its kind is ``user_time``.

    Raises
    ------
    DataError
        A parameter is out of range, or the log has no times.

    Notes
    -----
    O(n log n); deterministic.
    """
    check_share(share)
    random = generator(seed)
    times, n_users = times_of(log), len(log.users)
    pairs = log.pairs()
    first = first_times(log, pairs)
    order, user, time = _in_time(pairs, wanted_pairs(log), first, random=random)
    tied = _are_tied(user, time, n_users=n_users)
    slots = np.flatnonzero(tied[user])
    order[slots] = order[slots[np.lexsort((random.random(len(slots)), user[slots]))]]
    held, is_later = _last_of_each_user(
        order, user, n_pairs=len(first), n_users=n_users, share=share, fold=fold, least=least
    )
    cut = np.full(n_users, np.iinfo(np.int64).max)
    np.minimum.at(cut, pairs.user_index[held], first[held])
    cut[tied] = np.iinfo(np.int64).max
    cut_of_row = cut[log.user_index]
    keep = (times < cut_of_row) | ((times == cut_of_row) & ~is_later[pairs.of_row])
    keep &= ~held[pairs.of_row]

    how = f"{_the_last(share, fold)} of each user's interactions, by time"
    several = np.bincount(user, minlength=n_users) > 1
    n_tied = int(np.count_nonzero(tied & several))
    if n_tied:
        how += (
            f"; a random {_share_in_words(share)} for {n_tied:,} of "
            f"{np.count_nonzero(several):,} users, who have most of them at one time"
        )
    return asked_once("user_time", how, log, pairs, held, keep=keep)


def split_time(log: InteractionLog, *, share: float = 0.2, fold: int = 0) -> Split:
    """Hold out all that happened from one moment on, asked for from the history at that moment.

    As for lists that are made once, such as a mailing. Users who come later
    have pairs held out and no history; `measure` leaves them out.

    Parameters
    ----------
    log : InteractionLog
        With times.
    share : float
        The share of interactions, in (0, 1). Interactions of the same time stay
        together, all of them after the cut where that leaves any before it.
    fold : int
        As of `split_next`.

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
    check_share(share)
    times = times_of(log)
    begin, end = moments(times, times, share=share, fold=fold)
    pairs = log.pairs()
    first = first_times(log, pairs)
    held = wanted_pairs(log) & (first >= begin) & (first < end)
    how = f"all interactions from {moment_in_words(begin)} on, from the history at that moment"
    if fold:
        how = (
            f"all interactions from {moment_in_words(begin)} to {moment_in_words(end)}, from the "
            "history at the first moment"
        )
    return asked_once("time", how, log, pairs, held, keep=times < begin)


def split_random(
    log: InteractionLog,
    *,
    share: float = 0.2,
    seed: int = 0,
    popularity_power: float = 0.0,
    least: int = 2,
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
    least : int
        As of `split_user_time`.

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
    check_share(share)
    if not 0 <= popularity_power < np.inf:
        raise DataError(
            f"popularity_power={popularity_power} cannot be used: give a number from 0 on."
        )
    random = generator(seed)
    pairs = log.pairs()
    wanted = wanted_pairs(log)
    popularity = np.bincount(pairs.item_index[wanted], minlength=len(log.items))
    key = random.gumbel(size=len(wanted))
    if popularity_power:
        key += popularity_power * np.log(np.maximum(popularity, 1))[pairs.item_index]
    order, user = _by_user(pairs, wanted, key, n_users=len(log.users))
    held, _ = _last_of_each_user(
        order, user, n_pairs=len(wanted), n_users=len(log.users), share=share, fold=0, least=least
    )
    how = f"a random {_share_in_words(share)} of each user's interactions"
    if popularity_power:
        how += ", popular items more often"
    elif log.occurred_at is None:
        how += ": they carry no times"
    elif len(log) and np.ptp(log.occurred_at) == 0:
        how += ": they all carry one time"
    kind = "popular" if popularity_power else "random"
    return asked_once(kind, how, log, pairs, held, keep=~held[pairs.of_row])


def check_share(share: float) -> None:
    """Refuse a share outside (0, 1) with a DataError."""
    if not 0 < share < 1:
        raise DataError(f"share={share} cannot be used: give a number above 0 and below 1.")


def times_of(log: InteractionLog) -> np.ndarray:
    """Return the times of a log, or raise a DataError where there are none."""
    if log.occurred_at is None:
        raise DataError(
            "The interactions have no times: use a random split, or give each interaction the "
            "time at which it happened."
        )
    return log.occurred_at


def _share_in_words(share: float) -> str:
    return {0.1: "tenth", 0.2: "fifth", 0.25: "quarter", 0.5: "half"}.get(share, f"{share:.0%}")


def _the_last(share: float, fold: int) -> str:
    return f"the last {_share_in_words(share)}" + (f" but {fold}" if fold else "")


def moment_in_words(time: int) -> str:
    """Return a time as people read it: ``2024-05-01 12:00 UTC``."""
    return f"{clock.utc(time):%Y-%m-%d %H:%M} UTC"


def moments(asked: np.ndarray, times: np.ndarray, *, share: float, fold: int) -> tuple[int, int]:
    """Return where the last share of some times begins, or a share before it, and where it ends.

    Parameters
    ----------
    asked : ndarray of int64
        Times of what is to be held out.
    times : ndarray of int64
        Those of all interactions: some must lie before the cut.
    """
    if not len(asked) or times.min() == times.max():
        raise NotEnoughDataError(
            f"A cut in time needs interactions of two different times; the {len(times)} that there "
            "are have one. Use a random split, or give the times at which they happened."
        )
    ordered = np.sort(asked)
    n = len(ordered)

    def begin(fold: int) -> int:
        place = min(max(n - round((fold + 1) * share * n), 0), n - 1)
        moment = int(ordered[place])
        return int(times[times > moment].min()) if moment == times.min() else moment

    end = begin(fold - 1) if fold else int(np.iinfo(np.int64).max)
    moment = begin(fold)
    if (fold and (fold + 1) * share > 1) or moment >= end:
        raise NotEnoughDataError(
            f"There is no fifth number {fold} before the last one: the interactions have too few "
            "different times."
        )
    return moment, end


def wanted_pairs(log: InteractionLog) -> np.ndarray:
    """Return for each of the log's pairs whether it has a positive weight in the end."""
    wanted: np.ndarray = log.matrix().weights.data > 0
    return wanted


def first_times(log: InteractionLog, pairs: Pairs) -> np.ndarray:
    """Return the time of each pair's first interaction."""
    first = np.full(len(pairs.user_index), np.iinfo(np.int64).max)
    np.minimum.at(first, pairs.of_row, times_of(log))
    return first


def _by_user(
    pairs: Pairs, wanted: np.ndarray, key: np.ndarray, *, n_users: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the wanted pairs by user, then key, and their users."""
    places = np.flatnonzero(wanted).astype(np.int32)
    places = places[np.argsort(key[places])]
    n = len(places)
    # A stable counting sort by user; see `InteractionLog.by_pair`.
    columns = sparse.csc_array(
        (places, pairs.user_index[places], np.arange(n + 1, dtype=np.int32)), shape=(n_users, n)
    )
    order = columns.tocsr().data
    return order, pairs.user_index[order]


def _in_time(
    pairs: Pairs, wanted: np.ndarray, first: np.ndarray, *, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the places of the wanted pairs by user and time, equal times at random.

    Returns
    -------
    ndarray of int32, shape (n_wanted,)
    ndarray of int32, shape (n_wanted,)
        Their users, ascending.
    ndarray of int64, shape (n_wanted,)
        Their times.
    """
    n_users = int(pairs.user_index.max(initial=-1)) + 1
    order, user = _by_user(pairs, wanted, first, n_users=n_users)
    time = first[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    run = np.cumsum(is_new)
    slots = np.flatnonzero(~is_new | ~np.append(is_new[1:], True))
    # An unstable sort has left equal ones in any order: sorted by place before they are shuffled.
    sorted_slots = slots[np.lexsort((order[slots], run[slots]))]
    shuffled = np.lexsort((random.random(len(slots)), run[slots]))
    order[slots] = order[sorted_slots][shuffled]
    return order, user, time


def _are_tied(user: np.ndarray, time: np.ndarray, *, n_users: int) -> np.ndarray:
    """Say of each user whether more than half of the pairs, by user and time, share one time."""
    n_of_user = np.bincount(user, minlength=n_users)
    begins = np.cumsum(n_of_user) - n_of_user
    # A time that more than half share has the middle place.
    middle = np.minimum(begins + n_of_user // 2, max(len(time) - 1, 0))
    shares = time == time[middle[user]] if len(time) else np.zeros(0, dtype=bool)
    tied: np.ndarray = 2 * np.bincount(user[shares], minlength=n_users) > n_of_user
    return tied


def _last_of_each_user(
    order: np.ndarray,
    user: np.ndarray,
    *,
    n_pairs: int,
    n_users: int,
    share: float,
    fold: int,
    least: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the share of each user's pairs that comes last, or one before it.

    Parameters
    ----------
    order, user : ndarray of int32, shape (n_wanted,)
        As of `_by_user`.

    Returns
    -------
    held, is_later : ndarray of bool, shape (n_pairs,)
        Which are chosen; which are chosen or come after those.
    """
    n_wanted = np.bincount(user, minlength=n_users)
    n_held = np.clip(np.rint(share * n_wanted).astype(np.int64), 1, np.maximum(n_wanted - 1, 0))
    ends = np.cumsum(n_wanted)
    has_part = n_wanted > (fold + 1) * n_held if fold else n_wanted > 1
    n_held[~has_part | (n_wanted < least)] = 0
    from_end = ends[user] - np.arange(len(order))
    is_chosen_or_later = from_end <= (fold + 1) * n_held[user]
    is_later = np.zeros(n_pairs, dtype=bool)
    is_later[order[is_chosen_or_later]] = True
    held = np.zeros(n_pairs, dtype=bool)
    held[order[is_chosen_or_later & (from_end > fold * n_held[user])]] = True
    return held, is_later


def asked_once(
    kind: str, how: str, log: InteractionLog, pairs: Pairs, held: np.ndarray, *, keep: np.ndarray
) -> Split:
    """Ask each user once for the pairs held out, from the row in training."""
    shape = len(log.users), len(log.items)
    indptr = np.zeros(shape[0] + 1, dtype=np.int32)
    np.cumsum(np.bincount(pairs.user_index[held], minlength=shape[0]), out=indptr[1:])
    ones = np.ones(indptr[-1], dtype=np.float32)
    held_out = sparse.csr_array((ones, pairs.item_index[held], indptr), shape=shape)
    train = log.matrix(keep)
    everybody = np.arange(shape[0], dtype=np.int32)
    return Split(kind, how, train, train.histories, held_out, everybody, keep)
