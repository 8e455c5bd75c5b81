"""Models of others, fitted and judged beside the recipes: ALS and item-kNN of `implicit`, EASE.

Each with the settings that its authors give as defaults; none is tuned. `implicit` comes with the
extra ``reckeeper[peers]``.
"""

import abc
import importlib.util
import warnings
from typing import Any, ClassVar

import numpy as np
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from reckeeper.errors import DataError
from reckeeper.matrix import Histories, InteractionMatrix

Settings = dict[str, float | int]


class Peer(abc.ABC):
    """A model of others; a `recipes.Scorer`, and what it is called.

    It learns from what is liked, 1 where a pair weighs above zero, and
    scores every history from itself, as recipes do.

    Attributes
    ----------
    name : str
    settings : dict
        What it is fitted with.
    needs_implicit : bool
    is_personal : bool
    """

    name: ClassVar[str]
    settings: ClassVar[Settings]
    needs_implicit: ClassVar[bool] = True
    is_personal: ClassVar[bool] = True

    def __init__(self, trained: InteractionMatrix) -> None:
        # implicit's own threads and those of BLAS would wait for each other.
        limit = 1 if self.needs_implicit else None
        with threadpool_limits(limit, "blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its input's sparse format, which it converts
            self._fit(_liked(trained.weights))

    @abc.abstractmethod
    def _fit(self, liked: sparse.csr_matrix) -> None:
        """Learn from users × items of ones."""

    @abc.abstractmethod
    def score(self, histories: Histories) -> np.ndarray:
        """Score all items for each history, shape (n, n_items)."""


class ImplicitALS(Peer):
    """Alternating least squares: Hu, Koren & Volinsky, ICDM 2008."""

    name = "implicit-als"
    settings: ClassVar[Settings] = {"factors": 100, "regularization": 0.01, "iterations": 15}

    def _fit(self, liked: sparse.csr_matrix) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        self._model: Any = AlternatingLeastSquares(random_state=0, **self.settings)
        self._model.fit(liked, show_progress=False)

    def score(self, histories: Histories) -> np.ndarray:
        """See `Peer.score`."""
        with threadpool_limits(1, "blas"):
            users = self._model.recalculate_user(
                np.arange(len(histories)), _liked(histories.weights)
            )
        scores: np.ndarray = users @ self._model.item_factors.T
        return scores


class ImplicitKNN(Peer):
    """Cosine of items, the nearest of each."""

    name = "implicit-knn"
    settings: ClassVar[Settings] = {"K": 100}

    def _fit(self, liked: sparse.csr_matrix) -> None:
        from implicit.nearest_neighbours import CosineRecommender

        model: Any = CosineRecommender(**self.settings)
        model.fit(liked, show_progress=False)
        self._similar = sparse.csr_array(model.similarity)

    def score(self, histories: Histories) -> np.ndarray:
        """See `Peer.score`."""
        scores: np.ndarray = (sparse.csr_array(_liked(histories.weights)) @ self._similar).toarray()
        return scores


class EASE(Peer):
    """Embarrassingly shallow autoencoder: Steck, WWW 2019. Dense, items × items."""

    name = "ease"
    settings: ClassVar[Settings] = {"ridge": 500}
    needs_implicit = False

    def _fit(self, liked: sparse.csr_matrix) -> None:
        self._items = np.flatnonzero(np.diff(liked.tocsc().indptr))
        known = liked[:, self._items]
        gram = (known.T @ known).toarray()
        gram[np.diag_indices_from(gram)] += self.settings["ridge"]
        factor, _ = linalg.lapack.spotrf(gram, lower=True, overwrite_a=True)
        inverse, _ = linalg.lapack.spotri(factor, lower=True, overwrite_c=True)
        weights = np.tril(inverse) + np.tril(inverse, -1).T
        weights /= -np.diag(weights).copy()
        np.fill_diagonal(weights, 0.0)
        self._weights = weights

    def score(self, histories: Histories) -> np.ndarray:
        """See `Peer.score`."""
        scores = np.zeros(histories.weights.shape, dtype=np.float32)
        scores[:, self._items] = _liked(histories.weights)[:, self._items] @ self._weights
        return scores

    @staticmethod
    def fit_bytes(n_items: int) -> int:
        """Return what a fit holds at most: the Gram matrix, its inverse, and halves of that."""
        return 4 * 4 * n_items**2


PEERS: tuple[type[Peer], ...] = (ImplicitALS, ImplicitKNN, EASE)


def check_installed() -> None:
    """See that `implicit` is there.

    Raises
    ------
    DataError
        It is not; the message names the extra that brings it.
    """
    if importlib.util.find_spec("implicit") is None:
        raise DataError(
            "The peers need the package implicit, which is not installed: "
            "pip install 'reckeeper[peers]' brings it."
        )


def _liked(rows: sparse.csr_array) -> sparse.csr_matrix:
    """Return ones where there is taste, in the form that `implicit` takes."""
    ones = sparse.csr_matrix(rows, dtype=np.float32, copy=True)  # zeros are dropped in place
    ones.data = np.asarray(ones.data > 0, dtype=np.float32)
    ones.eliminate_zeros()
    return ones
