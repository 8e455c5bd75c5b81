"""Lists as they are answered: ranked under the rules of a request, and described."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from reckeeper import clock, telemetry
from reckeeper.catalogue import Catalogue, Shelf
from reckeeper.matrix import IdIndex
from reckeeper.ranking import Lists, Ranker
from reckeeper.registry import ActiveModel
from reckeeper.serving.diversity import reranked
from reckeeper.serving.histories import Group, Past, UserHistories
from reckeeper.serving.popular import Board, PopularItems
from reckeeper.serving.reasons import Reason, Reasons, reasons_of, without_reasons
from reckeeper.serving.rules import Rules

_NOTHING = np.empty(0, dtype=np.int64)

_numbers = itertools.count()
"""Numbers of what is loaded: the same version may be loaded again."""


class Recommendation(NamedTuple):
    """One item of a list; `title` and `attributes` come from the catalogue.

    `reasons` and `rest`, as of `Reasons`, are there where they were asked for.
    """

    rank: int
    item_id: str
    score: float
    title: str | None
    attributes: Mapping[str, Any]
    reasons: list[Reason] | None = None
    rest: float | None = None


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
    """

    user_id: str | None
    model_version: int | None
    strategy: str
    items: list[Recommendation]


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
        group: Group,
        rules: Rules,
        *,
        user_ids: Sequence[str | None],
        have_newer: Sequence[bool],
        past_of: Callable[[int], Past],
    ) -> list[Recommendations]:
        """Rank histories, and describe the items.

        Where a history tells the model nothing, the list is what is popular now.

        Parameters
        ----------
        loaded : LoadedModel
        group : Group
            A history of the version for each list.
        rules : Rules
        user_ids : sequence of str or None
        have_newer : sequence of bool
            Whether a history has more than the version saw.
        past_of : callable
            Returns a history by its place, with what the version does not know.

        Raises
        ------
        NotFoundError
            No item of the catalogue is in one of the categories.
        """
        ranked = self._varied if rules.is_reranked else _ranked
        answers = []
        for place, best in enumerate(ranked(loaded, group, rules)):
            if best is None:
                unlisted = _unlisted(loaded, past_of(place), rules)
                answer = self.from_popular(
                    loaded.board,
                    unlisted,
                    rules,
                    user_id=user_ids[place],
                    version=loaded.version,
                )
            else:
                page = best.page(rules)
                answer = self._described(
                    page.named(loaded.items.ids),
                    rules,
                    user_id=user_ids[place],
                    version=loaded.version,
                    strategy="fold_in" if have_newer[place] else "model",
                    reasons=self._reasons(loaded, past_of(place), page) if rules.explain else None,
                )
            answers.append(answer)
        return answers

    def from_past(
        self,
        loaded: LoadedModel,
        past: Past,
        rules: Rules,
        *,
        user_id: str | None,
        has_newer: bool,
    ) -> Recommendations:
        """Rank one history, as `from_histories` does."""
        (answer,) = self.from_histories(
            loaded,
            past.group,
            rules,
            user_ids=[user_id],
            have_newer=[has_newer],
            past_of=lambda _: past,
        )
        return answer

    def _varied(self, loaded: LoadedModel, group: Group, rules: Rules) -> Iterator["_Best | None"]:
        """Yield what `_ranked` does, chosen from a longer list for its variety."""

        def categories(items: np.ndarray) -> list[tuple[str, ...]]:
            return self._catalogue.categories(loaded.items.ids[item] for item in items.tolist())

        for place in range(len(group)):
            one, is_popular = group[place : place + 1], False

            def ranked(depth: int, one: Group = one) -> tuple[np.ndarray, np.ndarray]:
                nonlocal is_popular
                (best,) = _ranked(loaded, one, rules, k=depth)
                is_popular = best is None
                return (_NOTHING, _NOTHING) if best is None else (best.items, best.scores)

            likeness = loaded.model.artifact.model.likeness
            items, scores = reranked(ranked, rules, categories=categories, likeness=likeness)
            yield None if is_popular else _Best(items, scores)

    def _reasons(self, loaded: LoadedModel, past: Past, best: "_Best") -> list[Reasons]:
        return reasons_of(
            loaded.model.artifact.model,
            past.history,
            best.items,
            best.scores,
            item_ids=loaded.items.ids,
            catalogue=self._catalogue,
        )

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

        def ranked(depth: int) -> tuple[np.ndarray, np.ndarray]:
            best = ranking.best(depth, user_id=user_id, listable=listable, seen=unlisted)
            return best, np.arange(len(best), 0.0, -1.0)

        def categories(items: np.ndarray) -> list[tuple[str, ...]]:
            return self._catalogue.categories(ranking.ids[item] for item in items.tolist())

        if rules.is_reranked:
            items, _ = reranked(ranked, rules, categories=categories, likeness=None)
        else:
            items, _ = ranked(rules.end)
        page = _Best(items, ranking.scores[items]).page(rules)
        return self._described(
            page.named(ranking.ids),
            rules,
            user_id=user_id,
            version=version,
            strategy="popular",
            reasons=without_reasons(page.scores) if rules.explain else None,
        )

    def _described(
        self,
        named: Sequence[tuple[str, float]],
        rules: Rules,
        *,
        user_id: str | None,
        version: int | None,
        strategy: str,
        reasons: Sequence[Reasons] | None,
    ) -> Recommendations:
        """Return the answer with ids and scores of some items, the best first."""
        telemetry.count_list(strategy)
        described = self._catalogue.describe(item_id for item_id, _ in named)
        items = [
            Recommendation(rank, item_id, score, item.title, item.attributes)
            for rank, ((item_id, score), item) in enumerate(
                zip(named, described, strict=True), start=rules.offset + 1
            )
        ]
        if reasons is not None:
            items = [
                item._replace(reasons=why.reasons, rest=why.rest)
                for item, why in zip(items, reasons, strict=True)
            ]
        return Recommendations(
            user_id=user_id, model_version=version, strategy=strategy, items=items
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


class _ById(Protocol):
    def __getitem__(self, index: int, /) -> str: ...


class _Best(NamedTuple):
    """The items of a list by their indices, the best first."""

    items: np.ndarray
    scores: np.ndarray

    def page(self, rules: Rules) -> "_Best":
        """Return what follows the offset."""
        return _Best(self.items[rules.offset :], self.scores[rules.offset :])

    def named(self, ids: _ById) -> list[tuple[str, float]]:
        """Return ids and scores."""
        named = [ids[index] for index in self.items.tolist()]
        return list(zip(named, self.scores.tolist(), strict=True))


def _ranked(
    loaded: LoadedModel, group: Group, rules: Rules, *, k: int | None = None
) -> Iterator[_Best | None]:
    """Yield the list of each history, `k` items or as far as the rules reach.

    None where it is what is popular.
    """
    for _, lists in ranked(loaded, group, rules, k=k):
        for items, scores, is_popular in zip(
            lists.item_index, lists.scores, lists.is_popular.tolist(), strict=True
        ):
            is_item = items >= 0
            yield None if is_popular else _Best(items[is_item], scores[is_item])


def ranked(
    loaded: LoadedModel, group: Group, rules: Rules, *, k: int | None = None
) -> Iterator[tuple[slice, Lists]]:
    """Yield the lists of histories, a block at a time, the best item first.

    Parameters
    ----------
    loaded : LoadedModel
    group : Group
        At least one history.
    rules : Rules
        What is made of the best items, such as variety, is not here.
    k : int, optional
        Length of the lists. Default: as far as the rules reach.

    Yields
    ------
    slice
        Which of the histories these are.
    Lists
        Where one is popular, what it says counts for nothing: see `Answers.from_popular`.
    """
    k = k or rules.end
    histories, out = group.histories, group.out
    if rules.include_seen:
        out = group.unlisted(include_seen=True)
    listable = listed_by(rules, loaded.shelf, loaded.items.find, n_items=len(loaded.items))
    if len(histories) == 1:
        yield slice(1), loaded.ranker.rank(histories, k=k, listable=listable, unlisted=out)
        return
    yield from loaded.ranker.in_blocks(
        histories, np.arange(len(histories)), k=k, listable=listable, unlisted=out
    )


def _unlisted(loaded: LoadedModel, past: Past, rules: Rules) -> set[str]:
    """Return the items of a history that are in no list."""
    out = past.group.unlisted(include_seen=rules.include_seen)
    unknown = loaded.histories.unknown_in(past, include_seen=rules.include_seen)
    return {*unknown, *(loaded.items.ids[index] for index in out.indices.tolist())}
