"""What a recipe's tuning plan works with; `training` makes them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reckeeper.matrix import Histories, InteractionMatrix

if TYPE_CHECKING:
    from reckeeper.recipes.base import Recipe


class Judge(Protocol):
    """Users of a split, on whom settings are judged by the lists that they would get.

    Attributes
    ----------
    histories : Histories
        What these users are scored from.
    """

    histories: Histories

    def ndcg(self, model: "Recipe") -> np.ndarray:
        """Return a model's NDCG@20 by user, shape (n,)."""
        ...

    def ndcg_of_scores(self, scores: np.ndarray) -> np.ndarray:
        """Return the same of a personal model's scores, shape (n, n_items), which it overwrites."""
        ...


class TuningSplit(Protocol):
    """A part of the training data to learn from, and users to judge by the rest.

    Attributes
    ----------
    kind : str
        Its name among the splits.
    train : InteractionMatrix
    """

    kind: str
    train: InteractionMatrix

    def judge(self, *, n_users: int = 3000) -> Judge:
        """Choose at most so many users to judge by; the same each time."""
        ...


class TuningRun(Protocol):
    """Keeps the trials, the clock and the best so far."""

    budget_seconds: float | None

    @property
    def seconds(self) -> float:
        """Since the start."""
        ...

    @property
    def n_tried(self) -> int:
        """How many settings were tried."""
        ...

    @property
    def best_settings(self) -> Mapping[str, Any] | None:
        """The best so far, complete; None before the first."""
        ...

    def best_ndcg(self, kind: str) -> float:
        """Return how well the best did on a split, on average."""
        ...

    def add(self, settings: Mapping[str, Any], ndcg: Mapping[str, np.ndarray]) -> bool:
        """Take in a trial, NDCG by split and user; return whether it is the best now."""
        ...

    def expect_fit(self, seconds: float) -> None:
        """Set the budget by what a final fit is estimated to take, unless somebody has set it."""
        ...

    def step(self, fraction: float | None = None) -> None:
        """Report the fraction of the plan that is done, and stop where it is time to."""
        ...
