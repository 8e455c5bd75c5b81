"""Lists as they are answered: ranked under the rules of a request, and described."""

import itertools
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reckeeper import clock
from reckeeper.catalogue import Catalogue, Shelf
from reckeeper.matrix import Histories, IdIndex
from reckeeper.ranking import Lists, Ranker, without_taste
from reckeeper.registry import ActiveModel
from reckeeper.serving.histories import Past, UserHistories
from reckeeper.serving.popular import Board, PopularItems
from reckeeper.serving.rules import Rules
from reckeeper.telemetry import RECOMMENDATIONS

_numbers = itertools.count()
"""Numbers of what is loaded: the same version may be loaded again."""


@dataclass(frozen=True)
class Recommendation:
    """One item of a list; `title` and `attributes` come from the catalogue."""

    rank: int
    item_id: str
    score: float
    title: str | None
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Recommendations:
    """A list for a user, or for a history that a request gives.

    Attributes
    ----------
    user_id : str or None
    model_version : int or None
        The version that answered; None where there is none yet.
    strategy : str
        ``model``: from the user's row as it was trained. ``fold_in``: from
        that row and interactions that are newer than the model, or from the
        history given. ``popular``:
        the most popular items, since nothing is known about the user, the
        recipe gives everybody the same, or there is no version yet.
    items : list of Recommendation
        Best first; ranks go on where the page before ends.
    request_id : str
        Names this answer.
    generated_at : int
        Microseconds since 1970-01-01 UTC.
    """

    user_id: str | None
    model_version: int | None
    strategy: str
    items: list[Recommendation]
    request_id: str
    generated_at: int


@dataclass(frozen=True)
class LoadedModel:
    """A version in memory, with what its lists need.

    Attributes
    ----------
    model : ActiveModel
    histories : UserHistories
    ranker : Ranker
    shelf : Shelf
        The catalogue in the order of its items.
    board : Board
        What is popular among its items and those that came later.
    number : int
        Its own, also where the same version is loaded again.
    """

    model: ActiveModel
    histories: UserHistories
    ranker: Ranker
    shelf: Shelf
    board: Board
    number: int

    @classmethod
    def of(
        cls,
        model: ActiveModel,
        catalogue: Catalogue,
        histories: UserHistories,
        popular: PopularItems,
    ) -> "LoadedModel":
        """Prepare a model that was read."""
        artifact = model.artifact
        ranker = Ranker.of(artifact.model, artifact)
        shelf = catalogue.shelf(artifact.items.ids, artifact.items.find)
        board = popular.board(artifact.items, ranker.popular(), is_whole=ranker.is_shared)
        return cls(model, histories, ranker, shelf, board, next(_numbers))

    @property
    def version(self) -> int:
        """Its number among the versions."""
        return self.model.version

    @property
    def items(self) -> IdIndex:
        """Its items."""
        return self.model.artifact.items


class Answers:
    """Makes lists of what a model says of histories, and of what is popular.

    Parameters
    ----------
    catalogue : Catalogue
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def from_histories(
        self,
        loaded: LoadedModel,
        pasts: Sequence[tuple[Past, bool]],
        rules: Rules,
        *,
        user_ids: Sequence[str | None],
    ) -> list[Recommendations]:
        """Rank histories, and describe the items.

        Where a history tells the model nothing, the list is what is popular now.

        Parameters
        ----------
        loaded : LoadedModel
        pasts : sequence of (Past, bool)
            For each list a history of the version, and whether it has more than the version saw.
        rules : Rules
        user_ids : sequence of str or None

        Raises
        ------
        NotFoundError
            No item of the catalogue is in one of the categories.
        """
        answers = []
        for block, lists in _ranked(loaded, [past.history for past, _ in pasts], rules):
            for row, place in enumerate(range(*block.indices(len(pasts)))):
                past, has_newer = pasts[place]
                user_id = user_ids[place]
                if lists.is_popular[row]:
                    unlisted = _unlisted(loaded, past, rules)
                    answer = self.from_popular(
                        loaded.board, unlisted, rules, user_id=user_id, version=loaded.version
                    )
                else:
                    items, scores = lists.item_index[row], lists.scores[row]
                    answer = self._described(
                        _named(items[items >= 0], scores[items >= 0], loaded.items.ids, rules),
                        rules,
                        user_id=user_id,
                        version=loaded.version,
                        strategy="fold_in" if has_newer else "model",
                    )
                answers.append(answer)
        return answers

    def from_popular(
        self,
        board: Board,
        unlisted: Collection[str],
        rules: Rules,
        *,
        user_id: str | None,
        version: int | None = None,
    ) -> Recommendations:
        """Answer with what is popular.

        Parameters
        ----------
        board : Board
        unlisted : collection of str
            Items of the user's history that are not in the list.
        rules : Rules
        user_id : str or None
        version : int, optional
            The version that answers.

        Raises
        ------
        NotFoundError
            No item of the catalogue is in one of the categories.
        """
        ranking = board.ranking
        listable = listed_by(rules, ranking.shelf, ranking.ids.find, n_items=len(ranking.ids))
        best = ranking.best(rules.end, user_id=user_id, listable=listable, seen=unlisted)
        named = _named(best, ranking.scores[best], ranking.ids, rules)
        return self._described(named, rules, user_id=user_id, version=version, strategy="popular")

    def _described(
        self,
        named: Sequence[tuple[str, float]],
        rules: Rules,
        *,
        user_id: str | None,
        version: int | None,
        strategy: str,
    ) -> Recommendations:
        """Return the answer with ids and scores of some items, the best first."""
        RECOMMENDATIONS.labels(strategy).inc()
        described = self._catalogue.describe(item_id for item_id, _ in named)
        return Recommendations(
            user_id=user_id,
            model_version=version,
            strategy=strategy,
            items=[
                Recommendation(rank, item_id, score, item.title, item.attributes)
                for rank, ((item_id, score), item) in enumerate(
                    zip(named, described, strict=True), start=rules.offset + 1
                )
            ],
            request_id=str(uuid.uuid4()),
            generated_at=clock.now(),
        )


def listed_by(
    rules: Rules, shelf: Shelf, find: Callable[[str], int | None], *, n_items: int
) -> np.ndarray | None:
    """Return a mask of the items of a shelf that rules let into a list now; None: all.

    Parameters
    ----------
    rules : Rules
    shelf : Shelf
    find : callable
        Returns the index of an id on the shelf, None where it is not there.
    n_items : int
        How many are on the shelf.

    Raises
    ------
    NotFoundError
        No item of the catalogue is in one of the categories.
    """

    def indices(item_ids: Collection[str]) -> list[int]:
        return [index for index in map(find, item_ids) if index is not None]

    mask = shelf.listable(rules.categories, rules.where, moment=clock.now())
    if rules.allow is not None:
        allowed = np.zeros(n_items, dtype=bool)
        allowed[indices(rules.allow)] = True
        mask = allowed if mask is None else allowed & mask
    if rules.exclude:
        mask = np.ones(n_items, dtype=bool) if mask is None else mask.copy()
        mask[indices(rules.exclude)] = False
    return mask


def _ranked(
    loaded: LoadedModel, histories: Sequence[Histories], rules: Rules
) -> Iterator[tuple[slice, Lists]]:
    """Yield the lists of histories, a block at a time, the best item first."""
    n_items = len(loaded.items)
    listable = listed_by(rules, loaded.shelf, loaded.items.find, n_items=n_items)
    one = histories[0]
    if len(histories) == 1:
        out = without_taste(one.weights) if rules.include_seen else None
        yield slice(1), loaded.ranker.rank(one, k=rules.end, listable=listable, unlisted=out)
        return
    stacked = Histories.stacked(histories, n_items=n_items)
    out = without_taste(stacked.weights) if rules.include_seen else None
    yield from loaded.ranker.in_blocks(
        stacked, np.arange(len(stacked)), k=rules.end, listable=listable, unlisted=out
    )


def _unlisted(loaded: LoadedModel, past: Past, rules: Rules) -> set[str]:
    """Return the items of a history that are in no list."""
    weights = past.history.weights
    out = without_taste(weights) if rules.include_seen else weights
    unknown = loaded.histories.unknown_in(past, include_seen=rules.include_seen)
    return {*unknown, *(loaded.items.ids[index] for index in out.indices.tolist())}


class _ById(Protocol):
    def __getitem__(self, index: int, /) -> str: ...


def _named(
    items: np.ndarray, scores: np.ndarray, ids: "_ById", rules: Rules
) -> list[tuple[str, float]]:
    """Return ids and scores of a list from the offset on."""
    named = [ids[index] for index in items[rules.offset :].tolist()]
    return list(zip(named, scores[rules.offset :].tolist(), strict=True))
