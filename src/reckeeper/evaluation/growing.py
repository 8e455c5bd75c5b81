"""Cuts at one moment whose histories grow: what a server would have answered since."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.evaluation.confidence import generator
from reckeeper.evaluation.splits import (
    Split,
    asked_once,
    check_share,
    first_times,
    moment_in_words,
    moments,
    times_of,
    wanted_pairs,
)
from reckeeper.matrix import Histories, IdIndex, InteractionLog

_MOST_OF_USER = 20
"""Later interactions of a user that are asked for, so that nobody dominates."""

_ROWS = (3_000_000, 8_000_000)
"""Interactions that the growing histories may come to: half as many as the log has, within limits.
Where all users' would be more, users are drawn."""


def split_next(
    log: InteractionLog,
    *,
    share: float = 0.2,
    seed: int = 0,
    fold: int = 0,
    repeats: bool = False,
    max_users: int | None = None,
) -> Split:
    """Ask for each later interaction, from the history just before it.

    What a server would have answered that retrained at one moment: training
    has what came before it; each later first interaction of a wanted pair is
    a question, from all of its user's interactions that are strictly
    earlier. The history grows as at the server, so that new users are asked
    from their second moment on. Of a user at most the first twenty are
    asked.

    Parameters
    ----------
    log : InteractionLog
        With times.
    share : float
        The share of first interactions of wanted pairs that are later, in
        (0, 1). Those of the same time stay together, after the cut where that
        leaves any before it.
    seed : int
        For the order of equal times and the users drawn; not negative.
    fold : int
        0 asks for the last share, 1 for the share before it, and so on; what
        comes after is in no part.
    repeats : bool
        Every later interaction with a positive weight is asked for, of pairs
        in the history too, and lists may have items of the history again: for
        shops where people buy the same things.
    max_users : int, optional
        Draw so many users at most. Where histories would come to more than
        some millions of interactions, fewer are drawn.

    Returns
    -------
    Split
        Its kind is ``next``.

    Raises
    ------
    DataError
        A parameter is out of range, or the log has no times.
    NotEnoughDataError
        There are no two different times.

    Notes
    -----
    O(n log n); deterministic.
    """
    check_share(share)
    times = times_of(log)
    asked = _wanted(log, times, repeats=repeats)
    begin, end = moments(asked.time, times, share=share, fold=fold)
    how = f"each interaction from {moment_in_words(begin)} on, from the history just before it"
    if fold:
        how = (
            f"each interaction from {moment_in_words(begin)} to {moment_in_words(end)}, from the "
            "history just before it"
        )
    asked = asked.part((asked.time >= begin) & (asked.time < end))
    split = _growing("next", how, log, times < begin, asked, seed=seed, max_users=max_users)
    return replace(split, repeats=repeats)


def split_newer(
    log: InteractionLog, is_newer: np.ndarray, *, seed: int = 0, max_users: int | None = None
) -> Split:
    """Ask for each newer interaction as `split_next` does, whatever the times of the others say.

    As a model finds it that was trained when there were no more than the
    older ones: these are in training and in every history, and of the newer
    ones those that are strictly earlier. Asked for are pairs of which the
    older ones have nothing. Without times, all newer pairs of a user are one
    question, from the older history.

    Parameters
    ----------
    log : InteractionLog
        Times are not needed.
    is_newer : ndarray of bool, shape (n,)
    seed, max_users
        As of `split_next`.

    Returns
    -------
    Split
        Its kind is ``new``.

    Raises
    ------
    DataError
        `is_newer` has another length.
    """
    if is_newer.shape != (len(log),):
        raise DataError(
            f"is_newer has shape {is_newer.shape}: give one boolean for each of the {len(log)} "
            "interactions."
        )
    pairs = log.pairs()
    held = wanted_pairs(log)
    held[pairs.of_row[~is_newer]] = False
    if log.occurred_at is None:
        how = "all newer interactions of each user, from the history before them"
        return asked_once("new", how, log, pairs, held, keep=~is_newer)
    asked = _Asked(pairs.user_index[held], pairs.item_index[held], first_times(log, pairs)[held])
    how = "each newer interaction, from the history just before it"
    return _growing("new", how, log, ~is_newer, asked, seed=seed, max_users=max_users)


def _wanted(log: InteractionLog, times: np.ndarray, *, repeats: bool) -> "_Asked":
    """Return the first interaction of each wanted pair, or all that weigh something."""
    wanted = wanted_pairs(log)
    pairs = log.pairs()
    if repeats:
        rows = np.flatnonzero(wanted[pairs.of_row] & (log.weight > 0))
        return _Asked(log.user_index[rows], log.item_index[rows], times[rows]).unique()
    first = first_times(log, pairs)[wanted]
    return _Asked(pairs.user_index[wanted], pairs.item_index[wanted], first)


@dataclass(frozen=True)
class _Asked:
    """Interactions that are asked for."""

    user_index: np.ndarray
    item_index: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.time)

    def part(self, which: np.ndarray) -> "_Asked":
        return _Asked(self.user_index[which], self.item_index[which], self.time[which])

    def unique(self) -> "_Asked":
        """Return each interaction of a user and an item at one time once."""
        order = np.lexsort((self.time, self.item_index, self.user_index))
        one = self.part(order)
        is_new = np.ones(len(one), dtype=bool)
        for column in (one.user_index, one.item_index, one.time):
            is_new[1:] &= column[1:] == column[:-1]
        is_new[1:] = ~is_new[1:]
        return one.part(is_new)


def _growing(
    kind: str,
    how: str,
    log: InteractionLog,
    keep: np.ndarray,
    asked: _Asked,
    *,
    seed: int,
    max_users: int | None,
) -> Split:
    """Ask for each interaction from the user's kept rows and the others that are strictly earlier.

    The rows of a history are copied into a log in which each question is a
    user, and summed as ever: removals and clipping are those of the server.
    """
    random = generator(seed)
    # What is kept is in every history, as if it were earlier than all.
    time_of_row = np.where(keep, np.iinfo(np.int64).min, times_of(log))
    earliest = np.full(len(log.users), np.iinfo(np.int64).max)
    np.minimum.at(earliest, log.user_index, time_of_row)
    asked = asked.part(asked.time > earliest[asked.user_index])
    order = np.lexsort((random.random(len(asked)), asked.time, asked.user_index))
    n_asked = np.bincount(asked.user_index, minlength=len(log.users))
    begins = np.cumsum(n_asked) - n_asked
    is_first = np.arange(len(asked)) - begins[asked.user_index[order]] < _MOST_OF_USER
    asked = asked.part(order[is_first])

    n_asked = np.minimum(n_asked, _MOST_OF_USER)
    users = np.flatnonzero(n_asked)
    n_copied = n_asked[users] @ np.bincount(log.user_index, minlength=len(log.users))[users]
    most = len(users) if max_users is None else max_users
    most_rows = int(np.clip(len(log) // 2, *_ROWS))
    if n_copied > most_rows:
        most = min(most, max(1, len(users) * most_rows // int(n_copied)))
    if most < len(users):
        users = random.choice(users, most, replace=False)
    is_drawn = np.zeros(len(log.users), dtype=bool)
    is_drawn[users] = True
    asked = asked.part(is_drawn[asked.user_index])

    histories = _histories(log, time_of_row, np.flatnonzero(is_drawn[log.user_index]), asked)
    del time_of_row, order, is_first  # of large data, before the most is held
    ones = np.ones(len(asked), dtype=np.float32)
    held_out = sparse.csr_array(
        (ones, asked.item_index, np.arange(len(asked) + 1, dtype=np.int32)),
        shape=histories.weights.shape,
    )
    return Split(kind, how, log.matrix(keep), histories, held_out, asked.user_index, keep)


def _histories(
    log: InteractionLog, time_of_row: np.ndarray, rows: np.ndarray, asked: _Asked
) -> Histories:
    """Sum for each question the rows of its user that are earlier than it."""
    rows = rows[np.lexsort((time_of_row[rows], log.user_index[rows]))]
    distinct, rank = np.unique(np.concatenate([time_of_row[rows], asked.time]), return_inverse=True)

    def place(user_index: np.ndarray, rank: np.ndarray) -> np.ndarray:
        places: np.ndarray = user_index.astype(np.int64) * len(distinct) + rank
        return places

    places = place(log.user_index[rows], rank[: len(rows)])
    begin = np.searchsorted(places, place(asked.user_index, np.zeros(1, dtype=np.int64)))
    length = np.searchsorted(places, place(asked.user_index, rank[len(rows) :])) - begin
    question = np.repeat(np.arange(len(asked), dtype=np.int32), length)
    within = np.arange(len(question)) - np.repeat(np.cumsum(length) - length, length)
    copied = log.part(rows[np.repeat(begin, length) + within])
    numbered = IdIndex([f"{number:09}" for number in range(len(asked))])
    return replace(copied, users=numbered, user_index=question).matrix().histories
