"""What a recipe's tuning plan works with; `training` makes them."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np

from reckeeper.matrix import Histories, InteractionMatrix


class Scorer(Protocol):
    """What a list takes of a model; every recipe is one."""

    @property
    def is_personal(self) -> bool:
        """Whether scores depend on the history; if not, they are taken as they are."""
        ...

    def score(self, histories: Histories) -> np.ndarray:
        """Score all items for each history, shape (n, n_items).

        Finite, or -inf for an item that is never to be listed; the caller may
        write to the result.
        """
        ...


class Judge(Protocol):
    """Users of a split, on whom settings are judged by the lists that they would get.

    Attributes
    ----------
    histories : Histories
        What these users are scored from: one row each, in a split of kind
        ``next`` one for each question.
    """

    histories: Histories

    def ndcg(self, model: Scorer) -> np.ndarray:
        """Return a model's NDCG@20 by user, shape (n_users,).

        With strong drift of shape (n_leanings, n_users): as often as what is
        found would be asked for if what comes leaned to popular items so far.
        """
        ...

    def ndcg_of_scores(self, scores: Callable[[slice], np.ndarray]) -> np.ndarray:
        """Return the same of a personal model's scores.

        They are asked for some of the histories at a time, shape
        (n, n_items), and overwritten.
        """
        ...


class TuningSplit(Protocol):
    """A part of the training data to learn from, and users to judge by the rest.

    Attributes
    ----------
    kind : str
        Its name among the splits; ``next`` where histories grow.
    train : InteractionMatrix
    """

    kind: str
    train: InteractionMatrix

    def judge(self, *, n_users: int = 3000) -> Judge:
        """Choose at most so many users to judge by; the same each time."""
        ...


class TuningRun(Protocol):
    """Keeps the trials, the budget and the best so far.

    Attributes
    ----------
    n_tried : int
        How many settings were tried; a plan adds those that no split judges.
    budget_seconds : float
        CPU time.
    """

    n_tried: int
    budget_seconds: float

    @property
    def drift(self) -> Literal["none", "mild", "strong"]:
        """How far what comes is expected to lean to what is popular."""
        ...

    @property
    def seconds(self) -> float:
        """CPU time since the start."""
        ...

    @property
    def used(self) -> float:
        """The share of the budget that is used up."""
        ...

    @property
    def best_settings(self) -> Mapping[str, Any] | None:
        """The best so far, complete; None before the first."""
        ...

    def newest(self) -> TuningSplit | None:
        """Return a split of kind ``next``: what came last, each from the history before it.

        None where times do not tell an order.
        """
        ...

    def add(self, settings: Mapping[str, Any], ndcg: Mapping[str, np.ndarray]) -> bool:
        """Take in a trial, NDCG by split and user; return whether it is the best now.

        It is where its gain is above what chance gives.
        """
        ...

    def weigh(
        self, settings: Mapping[str, Any], ndcg: Mapping[str, np.ndarray], *, pull: float
    ) -> Mapping[str, float]:
        """Take in a trial of a plan that pulls to its defaults, and return its `means`.

        The best is that of the largest `worth` less its pull.
        """
        ...

    def means(self, ndcg: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Return means over users by split, or with strong drift by leaning, least first."""
        ...

    def worth(self, ndcg: Mapping[str, float]) -> float:
        """Return how good such means are, about 1; what they are a share of may change."""
        ...

    def settle(self, settings: Mapping[str, Any], ndcg: Mapping[str, float]) -> None:
        """Make settings, of such means, the best, whatever the others were worth."""
        ...

    def expect_fit(self, seconds: float) -> None:
        """Take in how much CPU time a fit to a split takes: large data get a budget by it."""
        ...

    def step(self, fraction: float | None = None) -> None:
        """Report the fraction of the plan that is done, and stop where it is time to."""
        ...
