"""Why an item is in a list: what the items of the history add to its score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reckeeper.catalogue import Catalogue
from reckeeper.matrix import Histories
from reckeeper.recipes import Recipe

MOST_REASONS = 10
"""Reasons that an item of a list has at most."""


@dataclass(frozen=True)
class Reason:
    """An item of the history, and what it adds to a score: below zero it speaks against."""

    item_id: str
    title: str | None
    contribution: float


@dataclass(frozen=True)
class Reasons:
    """What a score is made of; with the rest, the contributions add up to it.

    Attributes
    ----------
    reasons : list of Reason
        The `MOST_REASONS` contributions of the largest size, the largest first:
        what speaks against an item is at the end.
    rest : float
        What the others add up to.
    """

    reasons: list[Reason]
    rest: float


def reasons_of(
    model: Recipe,
    history: Histories,
    items: np.ndarray,
    scores: np.ndarray,
    *,
    item_ids: Sequence[str],
    catalogue: Catalogue,
) -> list[Reasons]:
    """Say what the scores of a list are made of, by one product for the items of the list.

    Parameters
    ----------
    model : Recipe
    history : Histories
        One row: what the list was made from.
    items : ndarray of int, shape (m,)
        Dense indices of the list.
    scores : ndarray of float, shape (m,)
    item_ids : sequence of str
        Those of the model.
    catalogue : Catalogue
        Says what the items of the history are called.

    Returns
    -------
    list of Reasons
        For each item of the list; without reasons where the model cannot say.
    """
    shares = model.contributions(history, items)
    if shares is None:
        return without_reasons(scores)
    of_history = history.weights.indices
    largest = [_largest(of_item) for of_item in shares.T]
    mentioned = sorted({item for entries in largest for item in of_history[entries].tolist()})
    described = catalogue.describe(item_ids[index] for index in mentioned)
    called = dict(zip(mentioned, described, strict=True))
    made = []
    for of_item, entries, score in zip(shares.T, largest, scores.tolist(), strict=True):
        pairs = zip(of_history[entries].tolist(), of_item[entries].tolist(), strict=True)
        listed = [Reason(item_ids[item], called[item].title, share) for item, share in pairs]
        made.append(Reasons(listed, score - sum(reason.contribution for reason in listed)))
    return made


def without_reasons(scores: np.ndarray) -> list[Reasons]:
    """Return the same for scores that follow from no history."""
    return [Reasons([], score) for score in scores.tolist()]


def _largest(shares: np.ndarray) -> np.ndarray:
    """Return the places of the largest sizes above 0, in the order of the values."""
    places = np.argsort(-np.abs(shares), kind="stable")[:MOST_REASONS]
    places = places[np.argsort(-shares[places], kind="stable")]
    return np.asarray(places[shares[places] != 0])
