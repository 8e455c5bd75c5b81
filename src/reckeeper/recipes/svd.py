"""`svd`: the truncated singular value decomposition of the interaction matrix.

scikit-learn is imported where it fits and exports: a process that only serves
starts a second sooner without it, and in half the memory.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError, NotEnoughDataError

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD


@dataclass(frozen=True, kw_only=True)
class SvdSettings:
    """Settings of `Svd`.

    Attributes
    ----------
    n_components : int
        Singular vectors asked for, at least 1. A matrix that has fewer gives
        min(n_users, n_items) - 1, at least 1.
    """

    n_components: int = 10

    def __post_init__(self) -> None:
        if type(self.n_components) is not int or self.n_components < 1:
            raise DataError(
                f"n_components must be a whole number from 1 on, not {self.n_components!r}."
            )


class Svd:
    """The rank-k approximation R V Vᵀ of a matrix R of users × items.

    Since a user's scores are a product with the user's own row, a row that
    training never saw is scored by the same formula.

    Parameters
    ----------
    settings : SvdSettings
    components : ndarray of float64, shape (k, n_items)
        Right singular vectors, one a row, signs as scikit-learn turns them.
    singular_values : ndarray of float64, shape (k,)
        In descending order.
    explained_variance_ratio : ndarray of float64, shape (k,)
        As scikit-learn's; zeros where R has no variance.
    """

    name: ClassVar[str] = "svd"
    decomposes: ClassVar[bool] = True

    def __init__(
        self,
        settings: SvdSettings,
        *,
        components: np.ndarray,
        singular_values: np.ndarray,
        explained_variance_ratio: np.ndarray,
    ) -> None:
        self._settings = settings
        self.components = components
        self.singular_values = singular_values
        self.explained_variance_ratio = explained_variance_ratio

    @classmethod
    def fit(cls, weights: sparse.csr_array, *, settings: Mapping[str, Any]) -> Self:
        """Decompose exactly (ARPACK, to machine precision), in double precision.

        Parameters
        ----------
        weights : scipy.sparse.csr_array, shape (n_users, n_items)
            Finite.
        settings : mapping
            Fields of `SvdSettings`.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range.

        Notes
        -----
        Deterministic: ARPACK starts from a seeded vector.
        """
        from sklearn.decomposition import TruncatedSVD

        parsed = _parse(settings)
        n_users, n_items = weights.shape
        if n_users < 2 or n_items < 2:
            raise NotEnoughDataError(
                f"A decomposition needs at least 2 users and 2 items; there are interactions of "
                f"{n_users} user(s) with {n_items} item(s). Send more interactions, then retrain."
            )
        rank = max(1, min(parsed.n_components, n_users - 1, n_items - 1))
        if not weights.data.any():
            return cls(
                parsed,
                components=np.eye(rank, n_items),
                singular_values=np.zeros(rank),
                explained_variance_ratio=np.zeros(rank),
            )
        svd = TruncatedSVD(n_components=rank, algorithm="arpack", random_state=0)
        # Where all users are alike, scikit-learn divides rounding errors by zero.
        with np.errstate(divide="ignore", invalid="ignore"):
            svd.fit(sparse.csr_matrix(weights))
        varies = (weights.max(axis=0).toarray() != weights.min(axis=0).toarray()).any()
        return cls(
            parsed,
            components=svd.components_,
            singular_values=svd.singular_values_,
            explained_variance_ratio=svd.explained_variance_ratio_ if varies else np.zeros(rank),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was fitted with."""
        return dataclasses.asdict(self._settings)

    @property
    def explained_variance(self) -> float:
        """Sum of the explained variance ratios, in [0, 1]."""
        return float(np.clip(self.explained_variance_ratio.sum(), 0.0, 1.0))

    def score(self, rows: sparse.csr_array) -> np.ndarray:
        """Return R V Vᵀ for rows R.

        Parameters
        ----------
        rows : scipy.sparse.csr_array, shape (n, n_items)
            Weights, of users known or not.

        Returns
        -------
        ndarray of float64, shape (n, n_items)
        """
        return np.asarray((rows @ self.components.T) @ self.components)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return components, singular values and explained variance ratios."""
        return {
            "components": self.components,
            "singular_values": self.singular_values,
            "explained_variance_ratio": self.explained_variance_ratio,
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`.

        Raises
        ------
        DataError
            An array is missing, or its shape, type or values cannot be.
        """
        parsed = _parse(settings)
        try:
            components, values, ratio = (
                arrays[name]
                for name in ("components", "singular_values", "explained_variance_ratio")
            )
        except KeyError as exc:
            raise DataError(f"The array {exc} is missing.") from exc
        rank = len(values)
        if components.shape != (rank, n_items) or values.shape != (rank,) or ratio.shape != (rank,):
            raise DataError(
                f"Shapes do not fit: components {components.shape}, singular values "
                f"{values.shape}, ratios {ratio.shape}, {n_items} items."
            )
        for name in ("components", "singular_values", "explained_variance_ratio"):
            array = arrays[name]
            if array.dtype != np.float64 or not np.isfinite(array).all():
                raise DataError(f"The array {name} is not of finite float64 numbers.")
        return cls(
            parsed, components=components, singular_values=values, explained_variance_ratio=ratio
        )

    def to_sklearn(self) -> "TruncatedSVD":
        """Return an equal, fitted `sklearn.decomposition.TruncatedSVD`."""
        from sklearn.decomposition import TruncatedSVD

        svd = TruncatedSVD(n_components=len(self.singular_values), algorithm="arpack")
        svd.components_ = self.components
        svd.singular_values_ = self.singular_values
        svd.explained_variance_ratio_ = self.explained_variance_ratio
        svd.n_features_in_ = self.components.shape[1]
        return svd


def _parse(settings: Mapping[str, Any]) -> SvdSettings:
    known = {field.name for field in dataclasses.fields(SvdSettings)}
    if unknown := sorted(set(settings) - known):
        raise DataError(
            f"The recipe svd has no setting {unknown[0]!r}: it has {', '.join(sorted(known))}."
        )
    return SvdSettings(**settings)
