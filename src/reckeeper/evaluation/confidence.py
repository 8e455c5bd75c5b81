"""How sure a mean over users is, and a difference of two."""

import numpy as np

from reckeeper.errors import DataError


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
        Share of the resampled means that an interval holds, in (0, 1).

    Returns
    -------
    list of (float, float)
        Low and high, in the order of `by_user`.

    Raises
    ------
    DataError
        A parameter is out of range.
    """
    if n_resamples < 1:
        raise DataError(f"n_resamples={n_resamples} cannot be used: give at least 1.")
    if not 0 < level < 1:
        raise DataError(f"level={level} cannot be used: give a number above 0 and below 1.")
    random = generator(seed)
    values = np.column_stack(list(by_user.values()))
    n = len(values)
    means = np.empty((n_resamples, values.shape[1]))
    for mean in means:
        drawn = np.bincount(random.integers(n, size=n, dtype=np.int32), minlength=n)
        mean[:] = drawn @ values / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
