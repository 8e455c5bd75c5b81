"""What is like an item, and what people take after it: from the model, or from the catalogue."""

import contextlib
import dataclasses
import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from reckeeper import catalogue, clock, linalg, storage
from reckeeper.catalogue import Catalogue
from reckeeper.errors import NotFoundError
from reckeeper.recipes import Recipe
from reckeeper.serving.answers import LoadedModel, Recommendation, listed_by
from reckeeper.serving.popular import Board, Ranking
from reckeeper.serving.rules import Kind, Rules
from reckeeper.telemetry import SIMILAR_LISTS

Strategy = Literal["model", "categories", "popular"]

_Named = list[tuple[str, float]]
"""Ids and scores, the best first."""


class _Ask(Protocol):
    def __call__(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Similar:
    """Items that are like others, or that people take after them.

    Attributes
    ----------
    item_ids : list of str
        The others.
    kind : str
        What the list has: what is alike also where nothing is known to come next.
    model_version : int or None
        The version that answered; None where there is none yet.
    strategy : str
        ``model``: from what people do with the items. ``categories``: they
        share categories with them. ``popular``: the most popular items, since
        nothing is known that is like them.
    items : list of Recommendation
        Best first, without the others.
    request_id : str
        Names this answer.
    generated_at : int
        Microseconds since 1970-01-01 UTC.
    """

    item_ids: list[str]
    kind: Kind
    model_version: int | None
    strategy: Strategy
    items: list[Recommendation]
    request_id: str
    generated_at: int

    @property
    def item_id(self) -> str:
        """The first of the others."""
        return self.item_ids[0]


class SimilarItems:
    """Similar items: from a model, from the catalogue, or what is popular.

    Parameters
    ----------
    database : storage.Database
        Asked for items that the model does not know.
    kept : Catalogue
    """

    def __init__(self, database: storage.Database, kept: Catalogue) -> None:
        self._database = database
        self._catalogue = kept

    def find(
        self,
        loaded: LoadedModel | None,
        board: Board,
        item_ids: Sequence[str],
        *,
        kind: Kind,
        rules: Rules,
    ) -> Similar:
        """Find what is like some items together, or what people take after them.

        Where the model knows none of them, or nothing like them that may be
        listed, these are the items that share categories with them, and where
        there is none, the most popular.

        Parameters
        ----------
        loaded : LoadedModel or None
            None where there is no version yet.
        board : Board
            What is popular.
        item_ids : sequence of str
            At least one; of several, those that nobody knows are passed over.
        kind : str
        rules : Rules
            What they say of a user makes no difference.

        Raises
        ------
        NotFoundError
            Nobody knows any of the items, or no item has a category that is asked for.
        """
        unique = list(dict.fromkeys(item_ids))
        rules = dataclasses.replace(rules, exclude=rules.exclude | set(unique))
        known: list[int] = []
        if loaded is not None:
            places = map(loaded.items.find, unique)
            known = [place for place in places if place is not None]
        if not known:
            self._check(unique)
        answered: Kind = "alike"
        strategy: Strategy = "model"
        named: _Named = []
        if loaded is not None and known:
            n_items = len(loaded.items)
            answered, found, scores = by_model(
                loaded.model.artifact.model,
                known,
                kind=kind,
                n=rules.end,
                n_items=n_items,
                listable=listed_by(rules, loaded.shelf, loaded.items.find, n_items=n_items),
            )
            ids = [loaded.items.ids[index] for index in found.tolist()]
            named = list(zip(ids, scores.tolist(), strict=True))
        if not named:
            strategy, named = "categories", self._akin(board.ranking, unique, rules)
        if not named:
            strategy, named = "popular", _most_popular(board.ranking, rules)
        items = self._described(named[rules.offset :], rules)
        SIMILAR_LISTS.labels(answered, strategy).inc()
        return Similar(
            item_ids=unique,
            kind=answered,
            model_version=None if loaded is None else loaded.version,
            strategy=strategy,
            items=items,
            request_id=str(uuid.uuid4()),
            generated_at=clock.now(),
        )

    def _check(self, item_ids: Sequence[str]) -> None:
        """Refuse items of which neither the catalogue nor an interaction knows any."""
        *others, last = item_ids
        with self._database.read() as connection:
            for item_id in others:
                with contextlib.suppress(NotFoundError):
                    catalogue.find(connection, item_id)
                    return
            catalogue.find(connection, last)

    def _akin(self, ranking: Ranking, item_ids: Sequence[str], rules: Rules) -> _Named:
        def popularity(item_id: str) -> float:
            index = ranking.ids.find(item_id)
            return 0.0 if index is None else float(ranking.scores[index])

        akin = self._catalogue.akin(self._catalogue.categories(item_ids))
        places = {item_id: place for place, (item_id, _) in enumerate(akin)}
        shelf = self._catalogue.shelf(list(places), places.get)
        listed = listed_by(rules, shelf, places.get, n_items=len(places))
        if listed is not None:
            akin = list(itertools.compress(akin, listed.tolist()))
        return by_categories(akin, n=rules.end, popularity=popularity)

    def _described(self, named: _Named, rules: Rules) -> list[Recommendation]:
        described = self._catalogue.describe(item_id for item_id, _ in named)
        return [
            Recommendation(rank, item_id, score, said.title, said.attributes)
            for rank, ((item_id, score), said) in enumerate(
                zip(named, described, strict=True), start=rules.offset + 1
            )
        ]


def _most_popular(ranking: Ranking, rules: Rules) -> _Named:
    listable = listed_by(rules, ranking.shelf, ranking.ids.find, n_items=len(ranking.ids))
    best = ranking.best(rules.end, user_id=None, listable=listable, seen=())
    ids = [ranking.ids[index] for index in best.tolist()]
    return list(zip(ids, ranking.scores[best].tolist(), strict=True))


def by_model(
    model: Recipe,
    items: Sequence[int],
    *,
    kind: Kind,
    n: int,
    n_items: int,
    listable: np.ndarray | None,
) -> tuple[Kind, np.ndarray, np.ndarray]:
    """Return what a model knows to be like some items together, or to come next.

    Parameters
    ----------
    model : Recipe
    items : sequence of int
        Dense indices, at least one; none of them is returned.
    kind : str
        Where nothing comes next, what is alike is returned.
    n : int
        At most so many.
    n_items : int
        Of the model.
    listable : ndarray of bool, shape (n_items,), or None
        Which items may be returned; None: all.

    Returns
    -------
    kind : str
        What is returned.
    found : ndarray of int64, shape (m,)
        Dense indices, the best first; of equal ones the smaller.
    scores : ndarray of float64, shape (m,)
        Above zero: what `Recipe.similar` or `Recipe.next` says, added up over `items`.
    """
    if kind == "next":
        found, scores = _added_up(model.next, items, n=n, n_items=n_items, listable=listable)
        if len(found):
            return "next", found, scores
    return "alike", *_added_up(model.similar, items, n=n, n_items=n_items, listable=listable)


def _added_up(
    ask: _Ask, items: Sequence[int], *, n: int, n_items: int, listable: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.zeros(n_items)
    for item in items:
        found, values = ask(item, n=n_items)
        scores[found] += values
    if listable is not None:
        scores[~listable] = 0.0
    scores[items] = 0.0
    best = linalg.top_k(scores, n, exclude=np.flatnonzero(scores <= 0))
    return best, scores[best]


def by_categories(
    akin: Iterable[tuple[str, float]], *, n: int, popularity: Callable[[str], float]
) -> list[tuple[str, float]]:
    """Return the items that share most categories, of equal ones the most popular.

    Parameters
    ----------
    akin : iterable of (str, float)
        As of `Catalogue.akin`.
    n : int
        At most so many.
    popularity : callable
        Says how popular an item is.

    Returns
    -------
    list of (str, float)
        Ids, and how much they share, the best first; among equals the smaller id.
    """
    items_of: dict[float, list[str]] = {}
    for item_id, share in akin:
        items_of.setdefault(share, []).append(item_id)
    best: list[tuple[str, float]] = []
    for share in sorted(items_of, reverse=True):
        if len(best) >= n:
            break
        in_order = sorted(items_of[share], key=lambda each: (-popularity(each), each))
        best += [(item_id, share) for item_id in in_order]
    return best[:n]
