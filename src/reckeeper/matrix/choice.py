"""Which interactions count, and how much: what a policy lets in, and one user's history."""

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from reckeeper import clock
from reckeeper.errors import DataError
from reckeeper.matrix.log import (
    DISMISSAL,
    UNDOING,
    IdIndex,
    InteractionLog,
    InteractionMatrix,
    read_log,
    sums_of_runs,
)

_MOST_DOUBLINGS = 20.0
"""Half-lives by which an interaction newer than the model can count more: a million times."""


_ANYBODY = IdIndex([""])


def build(
    batches: Iterable[pa.RecordBatch],
    *,
    type_weights: Mapping[str, float],
    on_batch: Callable[[int], None] | None = None,
) -> InteractionMatrix:
    """Sum interactions by user and item: `read_log`, `choose`, then `InteractionLog.matrix`.

    0 × 0 without interactions. Equal interactions in any order give the same
    rows and columns.
    """
    log, _ = choose(read_log(batches, type_weights=type_weights, on_batch=on_batch))
    return log.matrix()


def choose(
    log: InteractionLog,
    *,
    half_life_days: float | None = None,
    window_days: float | None = None,
    left_out_users: Sequence[str] = (),
    max_interactions_per_user: int | None = None,
) -> tuple[InteractionLog, np.ndarray]:
    """Choose the interactions to train on, and let older ones count less.

    Dismissals that were taken back go, and what takes them back: they leave no
    trace. So do the interactions of users who are left out. Those outside the
    window, and those beyond a user's cap, weigh nothing. Among these, the ones
    whose user and item both have an interaction that is left stay as seen; the
    others go too. Then come the users and items that are left.

    Parameters
    ----------
    log : InteractionLog
        With times, if there is a half-life or a window.
    half_life_days : float, optional
        Above 0. A weight is multiplied by 2^(-age / half-life); the age counts
        to the latest interaction of all that are not left out.
    window_days : float, optional
        Above 0. How old an interaction may be to count.
    left_out_users : sequence of str
        Ids; ``*`` in them stands for any text, the empty one too.
    max_interactions_per_user : int, optional
        At least 1: so many of each user count, the latest ones. Without times,
        or of the same time, the later one in the log is the later one.

    Returns
    -------
    InteractionLog
        With its own users and items; `log` itself where all stays as it is.
    ndarray of int64, shape (n_kept,)
        Place in `log` of each interaction that stayed, ascending.

    Raises
    ------
    DataError
        There is a half-life or a window, and the log has no times.

    Notes
    -----
    O(n), with a cap O(n log n); deterministic.
    """
    times = log.occurred_at
    if times is None and (half_life_days is not None or window_days is not None):
        raise DataError(
            "A half-life and a training window need times, and these interactions have none. Set "
            "half_life_days and window_days to null, or give the interactions their times."
        )
    stays = left_in(log.users, left_out_users)[log.user_index] & ~_are_undone(log)
    counts = stays.copy()
    latest_at = int(times[stays].max()) if times is not None and stays.any() else 0
    if times is not None and window_days is not None:
        # In floating point: a long window must not overflow.
        counts &= latest_at - times.astype(np.float64) <= window_days * clock.DAY
    if max_interactions_per_user is not None:
        counts &= _are_latest(log, stays, max_interactions_per_user)
    if counts.all() and half_life_days is None:
        return log, np.arange(len(log))

    is_user, is_item = np.zeros(len(log.users), dtype=bool), np.zeros(len(log.items), dtype=bool)
    is_user[log.user_index[counts]] = True
    is_item[log.item_index[counts]] = True
    stays &= is_user[log.user_index] & is_item[log.item_index]
    kept = log.part(stays)
    weight = np.where(counts[stays], kept.weight, 0.0)
    if half_life_days is not None:
        assert kept.occurred_at is not None
        weight *= _decay(kept.occurred_at, half_life_days=half_life_days, latest_at=latest_at)
    users, user_index = _renumbered(log.users, is_user, kept.user_index)
    items, item_index = _renumbered(log.items, is_item, kept.item_index)
    chosen = InteractionLog(
        users, items, user_index, item_index, weight, kept.occurred_at, kept.listing
    )
    return chosen, np.flatnonzero(stays)


class SummedRow(NamedTuple):
    """One user's interactions, summed by item.

    Attributes
    ----------
    keys : ndarray of int64, shape (n,)
        Of the items, ascending.
    weights : ndarray of float64, shape (n,)
        None negative; 0 was seen without taste.
    latest_at : ndarray of int64, shape (n,)
        Microseconds UTC.
    """

    keys: np.ndarray
    weights: np.ndarray
    latest_at: np.ndarray


def sum_row(
    keys: np.ndarray,
    *,
    weight: np.ndarray,
    occurred_at: np.ndarray,
    listing: np.ndarray | None,
    latest_at: int | None = None,
    half_life_days: float | None = None,
    window_days: float | None = None,
    max_interactions_per_user: int | None = None,
) -> SummedRow:
    """Sum one user's interactions as `choose` and `InteractionLog.matrix` do in training.

    Parameters
    ----------
    keys : ndarray of int64, shape (n,)
        Any number for each item; the interactions are in the order of the table.
    weight, occurred_at, listing : ndarray, shape (n,)
        As of `InteractionLog`; of a listing, None is none.
    latest_at : int, optional
        Microseconds UTC: the time to which ages count, that of the latest
        interaction that the model was trained on; the latest of these, if not
        given. Newer ones count more than one, up to a million times.
    half_life_days, window_days, max_interactions_per_user : optional
        As of `choose`.
    """
    order = keys.argsort(kind="stable")
    by_key = keys[order]
    starts = _starts(by_key)
    log: InteractionLog | None = None  # where some interactions change what others weigh
    stays: np.ndarray | slice = slice(None)
    if listing is None and max_interactions_per_user is not None:
        listing = np.zeros(len(keys), dtype=np.int8)
    if listing is not None and (listing.any() or max_interactions_per_user is not None):
        item_index = np.empty(len(keys), dtype=np.int32)
        item_index[order] = np.repeat(
            np.arange(len(starts), dtype=np.int32), np.diff(starts, append=len(keys))
        )
        items, user_index = IdIndex.of_number(len(starts)), np.zeros(len(keys), dtype=np.int32)
        log = InteractionLog(_ANYBODY, items, user_index, item_index, weight, occurred_at, listing)
        stays = ~_are_undone(log)
        order = order[stays[order]]
        by_key = keys[order]
        starts = _starts(by_key)
    if half_life_days is not None or window_days is not None or max_interactions_per_user:
        if latest_at is None:
            latest_at = int(occurred_at[stays].max(initial=0))
        weight = weight.copy()
        if window_days is not None:
            age = latest_at - occurred_at.astype(np.float64)
            weight[age > window_days * clock.DAY] = 0.0
        if log is not None and max_interactions_per_user is not None:
            assert isinstance(stays, np.ndarray)
            weight[~_are_latest(log, stays, max_interactions_per_user)] = 0.0
        if half_life_days is not None:
            weight *= _decay(occurred_at, half_life_days=half_life_days, latest_at=latest_at)
    if log is None:
        weights, times = sums_of_runs(weight[order], occurred_at[order], starts)
    else:
        weights, times = dataclasses.replace(log, weight=weight).sums(order, starts)
    assert times is not None
    return SummedRow(by_key[starts], weights, times)


def _starts(ascending: np.ndarray) -> np.ndarray:
    """Return where each distinct value begins."""
    is_first = np.ones(len(ascending), dtype=bool)
    np.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    return is_first.nonzero()[0]


def _decay(occurred_at: np.ndarray, *, half_life_days: float, latest_at: int) -> np.ndarray:
    """Return what a weight is multiplied by: 1 at `latest_at`, a half a half-life before."""
    # In floating point: neither a difference nor a short half-life must overflow.
    newer_days = (occurred_at.astype(np.float64) - latest_at) / clock.DAY
    return np.asarray(np.exp2(np.minimum(newer_days / half_life_days, _MOST_DOUBLINGS)))


def _are_undone(log: InteractionLog) -> np.ndarray:
    """Say which interactions take dismissals back, or are dismissals that are taken back."""
    undone: np.ndarray = log.listing == UNDOING
    if undone.any():
        rows = np.flatnonzero(undone | (log.listing == DISMISSAL))
        pair = log.user_index[rows].astype(np.int64) * len(log.items) + log.item_index[rows]
        pairs, pair_code = np.unique(pair, return_inverse=True)
        times = np.zeros(len(rows)) if log.occurred_at is None else log.occurred_at[rows]
        undone_until = np.full(len(pairs), -1, dtype=times.dtype)
        is_undoing = undone[rows]
        np.maximum.at(undone_until, pair_code[is_undoing], times[is_undoing])
        undone[rows] |= times <= undone_until[pair_code]
    return undone


def left_in(users: IdIndex, patterns: Sequence[str]) -> np.ndarray:
    """Say which users no pattern leaves out; see `choose`. Shape (n_users,), bool."""
    stays = np.ones(len(users), dtype=bool)
    for pattern in patterns:
        if "*" not in pattern:
            index = users.find(pattern)
            stays[[] if index is None else [index]] = False
            continue
        # Ids that begin alike stand together: most patterns need no look at the others.
        begin = pattern.partition("*")[0]
        first = bisect.bisect_left(users.ids, begin)
        end = bisect.bisect_right(users.ids, begin, key=lambda text: text[: len(begin)])
        for index in range(first, end):
            stays[index] &= not _matches(users.ids[index], pattern)
    return stays


def _matches(text: str, pattern: str) -> bool:
    """Say whether a text is like a pattern with ``*``; linear, whatever the pattern."""
    first, *middle, last = pattern.split("*")
    place, end = len(first), len(text) - len(last)
    if place > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        place = text.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True


def _are_latest(log: InteractionLog, among: np.ndarray, n: int) -> np.ndarray:
    """Say which interactions are one of the n latest of their user among some."""
    rows = np.flatnonzero(among)
    if log.occurred_at is not None:
        rows = rows[np.argsort(log.occurred_at[rows], kind="stable")]
    rows = rows[np.argsort(log.user_index[rows], kind="stable")]
    n_of_user = np.bincount(log.user_index[rows], minlength=len(log.users))
    n_later = np.repeat(np.cumsum(n_of_user), n_of_user) - 1 - np.arange(len(rows))
    is_latest = np.zeros(len(log), dtype=bool)
    is_latest[rows[n_later < n]] = True
    return is_latest


def _renumbered(ids: IdIndex, stays: np.ndarray, index: np.ndarray) -> tuple[IdIndex, np.ndarray]:
    """Leave out ids, and give the indices of those that stay."""
    left = IdIndex([name for name, is_left in zip(ids.ids, stays, strict=True) if is_left])
    return left, (np.cumsum(stays, dtype=np.int32) - np.int32(1))[index]
