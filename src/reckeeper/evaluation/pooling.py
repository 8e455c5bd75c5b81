"""Which cut suits a log, and several of them where one judges few users."""

from collections.abc import Callable

import numpy as np

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation.growing import split_next
from reckeeper.evaluation.splits import (
    Split,
    is_timed,
    split_random,
    split_time,
    split_user_time,
)
from reckeeper.matrix import InteractionLog

POOL_BELOW = 2_000
"""With fewer judged users than these, several cuts are pooled."""

LEAST_JUDGED = 10
"""Users without whom a cut is not worth its name."""

_RANDOM_CUTS = 5
_TIME_CUTS = 3


def pooled_default(
    log: InteractionLog,
    *,
    seed: int = 0,
    below: int = POOL_BELOW,
    repeats: bool = False,
    max_users: int | None = None,
) -> tuple[Split, ...]:
    """Cut a log in the fairest way that judges somebody; see `pooled_splits`.

    By ``next`` where it `is_timed`, else ``random``. Where ``next`` judges
    fewer than `LEAST_JUDGED` users, as of data that are days old, the last
    fifth of each user's, ``user_time``, if that judges more.
    """
    if not is_timed(log) and not repeats:
        return pooled_splits(log, "random", seed=seed, below=below)
    splits = pooled_splits(
        log, "next", seed=seed, below=below, repeats=repeats, max_users=max_users
    )
    if repeats or _n_judged(splits) >= LEAST_JUDGED:
        return splits
    by_user = pooled_splits(log, "user_time", seed=seed, below=below)
    return by_user if _n_judged(by_user) > _n_judged(splits) else splits


def _n_judged(splits: tuple[Split, ...]) -> int:
    return len(np.unique(np.concatenate([split.judged for split in splits])))


def pooled_splits(
    log: InteractionLog,
    kind: str,
    *,
    seed: int = 0,
    below: int = POOL_BELOW,
    repeats: bool = False,
    max_users: int | None = None,
) -> tuple[Split, ...]:
    """Cut a log in one way, several times where one cut judges few users.

    One cut of a small data set says little. Random cuts differ by seed; cuts
    in time hold out the last fifth and the fifths before it, and each is
    fitted on what came before it. `pool` joins what is measured on them, and
    users stay the unit.

    Parameters
    ----------
    log : InteractionLog
    kind : str
        ``next``, ``user_time``, ``time`` or ``random``.
    seed : int
        That of the first cut.
    below : int
        With so many judged users one cut is enough, and with nine tenths of
        `max_users`.
    repeats, max_users
        As of `split_next`, and for ``next`` alone.

    Returns
    -------
    tuple of Split
        One, or 5 random ones, or up to 3 in time: those with anybody to
        judge. The first is there in any case.

    Raises
    ------
    DataError
        The kind is none of these, or the log has no times and it needs them.
    NotEnoughDataError
        It needs two different times, and there is one.
    """
    makers: dict[str, Callable[[int], Split]] = {
        "next": lambda fold: split_next(
            log, seed=seed, fold=fold, repeats=repeats, max_users=max_users
        ),
        "user_time": lambda fold: split_user_time(log, seed=seed, fold=fold),
        "time": lambda fold: split_time(log, fold=fold),
        "random": lambda fold: split_random(log, seed=seed + fold),
    }
    if kind not in makers or (repeats and kind != "next"):
        raise DataError(
            f"Interactions cannot be cut by {kind!r}{' with repeats' if repeats else ''}: give one "
            f"of {', '.join(makers)}; repeats are asked for by next alone."
        )
    splits = [makers[kind](0)]
    # A few of those drawn have nothing to be judged by, though there are users enough.
    enough = below if max_users is None or kind != "next" else min(below, 0.9 * max_users)
    if len(splits[0].judged) >= enough:
        return tuple(splits)
    for fold in range(1, _RANDOM_CUTS if kind == "random" else _TIME_CUTS):
        try:
            split = makers[kind](fold)
        except NotEnoughDataError:
            break
        if len(split.judged):
            splits.append(split)
    return tuple(splits)


def how_pooled(splits: tuple[Split, ...]) -> str:
    """Say how several cuts of `pooled_splits` were made, as `Split.how` says it of one."""
    first = splits[0]
    n_more = len(splits) - 1
    if not n_more:
        return first.how
    if first.kind == "random":
        return f"{first.how}; {len(splits)} such cuts, pooled by user"
    before = "the fifth before it" if n_more == 1 else f"the {n_more} fifths before it"
    return f"{first.how}; {before} likewise, pooled by user"
