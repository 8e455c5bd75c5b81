"""How sure a mean over users is, and a difference of two."""

import numpy as np
from scipy import special

from reckeeper.errors import DataError

_CELLS = 2_000_000
"""Draws that are held at a time."""


def generator(seed: int) -> np.random.Generator:
    """Return a source of random numbers.

    Raises
    ------
    DataError
        The seed is negative.
    """
    if seed < 0:
        raise DataError(f"seed={seed} cannot be used: give a whole number from 0 on.")
    return np.random.default_rng(seed)


def intervals(
    by_user: dict[str, np.ndarray], *, seed: int, n_resamples: int, level: float
) -> list[tuple[float, float]]:
    """Return percentile intervals of means, all from the same resamples of the users.

    Parameters
    ----------
    by_user : dict of str to ndarray of float64, shape (n,)
    seed : int
        Not negative.
    n_resamples : int
        At least 1.
    level : float
        Share of the resampled means that an interval holds, in (0, 1), before
        it is widened for few users.

    Returns
    -------
    list of (float, float)
        Low and high, in the order of `by_user`.

    Raises
    ------
    DataError
        A parameter is out of range.

    Notes
    -----
    Percentiles are too narrow for few users, since a sample varies less than
    what it was drawn from: they are taken at the level that makes up for it
    (Hesterberg, "What Teachers Should Know about the Bootstrap", The American
    Statistician 69(4), 2015, section 5.1). 2,000 users, 1,000 resamples and
    20 columns take 0.05 s.
    """
    means = resampled_means(by_user, seed=seed, n_resamples=n_resamples)
    return percentiles(means, n=len(next(iter(by_user.values()))), level=level)


def resampled_means(by_user: dict[str, np.ndarray], *, seed: int, n_resamples: int) -> np.ndarray:
    """Return the means over resamples of the users: those of a difference are their difference.

    Parameters
    ----------
    by_user, seed, n_resamples
        As of `intervals`. The same users and seed give the same resamples.

    Returns
    -------
    ndarray of float64, shape (n_resamples, len(by_user))

    Raises
    ------
    DataError
        A parameter is out of range.
    """
    if n_resamples < 1:
        raise DataError(f"n_resamples={n_resamples} cannot be used: give at least 1.")
    random = generator(seed)
    values = np.column_stack(list(by_user.values()))
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    height = max(1, _CELLS // n)
    for begin in range(0, n_resamples, height):
        rows = min(height, n_resamples - begin)
        drawn = random.integers(n, size=(rows, n), dtype=np.int32)
        drawn += np.arange(0, rows * n, n, dtype=np.int32)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[begin : begin + rows] = counts.astype(np.float64) @ values / n
    return means


def percentiles(means: np.ndarray, *, n: int, level: float) -> list[tuple[float, float]]:
    """Return the interval that each column of resampled means of n users gives.

    Raises
    ------
    DataError
        The level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise DataError(f"level={level} cannot be used: give a number above 0 and below 1.")
    tail = expanded_tail(n, level=level)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def expanded_tail(n: int, *, level: float) -> float:
    """Return the share of resampled means that lies below an interval for n users."""
    if n < 2:
        return (1 - level) / 2
    t = special.stdtrit(n - 1, (1 - level) / 2)
    return float(special.ndtr(t * np.sqrt(n / (n - 1))))
