"""Several models on the same users, pair by pair."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reckeeper.errors import DataError
from reckeeper.evaluation.confidence import percentiles, resampled_means
from reckeeper.evaluation.metrics import Figure, Quality

_Z_INTERVAL, _Z_POWER = 2.576, 1.282
"""Standard normal quantiles of a 99% interval, and of 90 of 100 cases."""


@dataclass(frozen=True)
class PairedDifference:
    """The mean over users of one model's figure less another's, with its interval.

    Attributes
    ----------
    difference, low, high : float
    sd : float
        Standard deviation of the users' differences.
    n : int
        Users.
    """

    difference: float
    low: float
    high: float
    sd: float
    n: int

    def n_users_needed(self, *, mean: float, margin: float) -> int:
        """Return how many users it takes to find a loss of twice a margin in 90 of 100 cases.

        With the whole 99% interval below the margin taken as the finding, that
        is ((2.576 + 1.282) · sd / (margin · mean))², rounded up. At least 2.

        Parameters
        ----------
        mean : float
            The other model's figure, above 0.
        margin : float
            Share of it, above 0.

        Raises
        ------
        DataError
            Mean or margin is not above 0: no number of users suffices.
        """
        if not mean > 0 or not margin > 0:
            raise DataError(
                f"mean={mean} and margin={margin} ask for no number of users: give both above 0."
            )
        needed = ((_Z_INTERVAL + _Z_POWER) * self.sd / (margin * mean)) ** 2
        return max(2, math.ceil(needed))

    def is_below(self, limit: float) -> bool:
        """Say whether the whole interval lies below a limit, and so does a 99% one by ``sd``.

        What decides should seldom err: the 95% interval knows the chance of
        the users, and not that of the two fits.
        """
        return max(self.high, self.difference + self._half()) < limit

    def is_above(self, limit: float) -> bool:
        """Say whether both intervals lie above a limit."""
        return min(self.low, self.difference - self._half()) > limit

    def _half(self) -> float:
        return _Z_INTERVAL * self.sd / math.sqrt(self.n)


@dataclass(frozen=True)
class Compared:
    """Several models on the same users.

    Attributes
    ----------
    figures : dict
        What `Quality.summary` gives, by the model's name.
    differences : dict
        By the names of two models, in the order in which they were given: the
        second's less the first's, by the names of `Quality.by_user`.
    """

    figures: dict[str, dict[str, Figure]]
    differences: dict[tuple[str, str], dict[str, PairedDifference]]


def compare(
    first: Quality,
    second: Quality,
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, PairedDifference]:
    """Compare two models on the same users, pair by pair.

    Users differ more from each other than models do. Resampling the
    difference of each user leaves that out, and shows differences that two
    intervals side by side would hide.

    Parameters
    ----------
    first, second : Quality
        Both of the same questions, with the same k.
    seed, n_resamples, level
        As of `Quality.summary`.

    Returns
    -------
    dict of str to PairedDifference
        By the names of `Quality.by_user`: second - first. An interval without
        0 says that the models differ.

    Raises
    ------
    DataError
        Questions or k are not the same, or a parameter is out of range.

    Notes
    -----
    Repeatable by seed.
    """
    both = {"first": first, "second": second}
    found = compare_all(both, seed=seed, n_resamples=n_resamples, level=level)
    return found.differences["first", "second"]


def compare_all(
    qualities: Mapping[str, Quality],
    *,
    seed: int = 0,
    n_resamples: int = 1000,
    level: float = 0.95,
) -> Compared:
    """Summarise several models, and compare each with each, from the same resamples of the users.

    Parameters
    ----------
    qualities : mapping of str to Quality
        By a name for each model; at least one. All of the same questions,
        with the same k.
    seed, n_resamples, level
        As of `Quality.summary`, which gives the same figures.

    Raises
    ------
    DataError
        Questions or k are not the same, or a parameter is out of range.

    Notes
    -----
    Repeatable by seed; costs little more than one summary.
    """
    first = next(iter(qualities.values()))
    for quality in qualities.values():
        _see_that_they_match(first, quality)
    names = list(first.by_user)
    columns = {
        f"{name} of {model}": values
        for model, quality in qualities.items()
        for name, values in quality.by_user.items()
    }
    n = len(first.user_index)
    means = resampled_means(columns, seed=seed, n_resamples=n_resamples)
    of_model = dict(zip(qualities, np.split(means, len(qualities), axis=1), strict=True))
    figures = {
        model: {
            name: Figure(float(quality.by_user[name].mean()), low, high)
            for name, (low, high) in zip(
                names, percentiles(of_model[model], n=n, level=level), strict=True
            )
        }
        | {name: Figure(value) for name, value in quality.of_lists.items()}
        for model, quality in qualities.items()
    }
    differences = {}
    for one, other in itertools.combinations(qualities, 2):
        ranges = percentiles(of_model[other] - of_model[one], n=n, level=level)
        differences[one, other] = {
            name: _paired(qualities[other].by_user[name] - qualities[one].by_user[name], *bounds)
            for name, bounds in zip(names, ranges, strict=True)
        }
    return Compared(figures, differences)


def _paired(values: np.ndarray, low: float, high: float) -> PairedDifference:
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return PairedDifference(float(values.mean()), low, high, sd=sd, n=len(values))


def _see_that_they_match(first: Quality, second: Quality) -> None:
    if first.ks != second.ks:
        here, there = (", ".join(map(str, quality.ks)) for quality in (first, second))
        raise DataError(
            f"The lists have {here} items here and {there} there: measure both with the same k."
        )
    if not np.array_equal(first.question_user, second.question_user):
        raise DataError(
            f"The {len(first.user_index)} users of the one and the {len(second.user_index)} of the "
            "other are not the same: measure both on the same users."
        )
