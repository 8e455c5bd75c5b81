"""The one class that every recipe is made from."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy import sparse

from reckeeper.matrix import Histories, InteractionMatrix
from reckeeper.recipes.plan import TuningRun, TuningSplit
from reckeeper.recipes.settings import RecipeSettings

if TYPE_CHECKING:
    from sklearn.decomposition import TruncatedSVD


@dataclass(frozen=True)
class Sizes:
    """What a memory estimate goes by.

    Attributes
    ----------
    n_users, n_items, n_pairs : int
        Rows, columns and stored entries of the matrix, from 0 on.
    n_threads : int
        On how many cores the kernels run.
    """

    n_users: int
    n_items: int
    n_pairs: int
    n_threads: int


@dataclass(frozen=True)
class Footprint:
    """An estimate of what a recipe holds in memory, besides the interactions.

    Attributes
    ----------
    fit_bytes : int
        While it is fitted, at most; what is left then is in it.
    model_bytes : int
        Afterwards.
    """

    fit_bytes: int
    model_bytes: int


class Recipe(abc.ABC):
    """A fitted model: an algorithm with its settings and what it learned.

    A new recipe is one file or folder with a subclass, and an entry in the
    table `recipes.RECIPES`. What must be written is abstract here; what has a
    body is right for a recipe that decomposes nothing, knows of no similar
    items, cannot say what a score is made of, and is tuned by trying a few
    settings; it is replaced where more can be said.
    `tests/contracts/test_recipes.py` holds every entry of the table to what
    stands here.

    Parameters
    ----------
    settings : RecipeSettings
        An instance of the recipe's `settings_type`.

    Attributes
    ----------
    name : str
        The recipe's name in the registry and the API.
    summary : str
        What it is, in one sentence for people.
    decomposes : bool
        Whether it is a singular value decomposition.
    is_personal : bool
        Whether scores depend on the user; if not, every row has the same, one
        without interactions too.
    settings_type : type
        The frozen dataclass of its settings; each is documented there.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    decomposes: ClassVar[bool] = False
    is_personal: ClassVar[bool] = True
    settings_type: ClassVar[type[RecipeSettings]]

    def __init__(self, settings: RecipeSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was fitted with, complete, as JSON values."""
        return dataclasses.asdict(self._settings)

    @property
    def is_ordered(self) -> bool:
        """Whether scores depend on the order of a history."""
        return False

    # Learning and scoring

    @classmethod
    @abc.abstractmethod
    def fit(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Fit to what users did; rows and columns may be empty.

        Parameters
        ----------
        interactions : InteractionMatrix
            Left as it is. A stored zero was seen and weighs nothing.
        settings : mapping
            JSON values; what is left out has its default.
        on_progress : callable, optional
            Called with the fraction done, in [0, 1], never less than before
            and 1 at the end. What it raises ends the fit.

        Raises
        ------
        NotEnoughDataError
            Fewer than two users or two items.
        DataError
            A setting is unknown or out of range, or a weight is not finite.
        """

    @classmethod
    def decide(
        cls,
        newest: Callable[[], TuningSplit | None],
        *,
        settings: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Mapping[str, Any]:
        """Find what settings leave to the data; by default nothing.

        Parameters
        ----------
        newest : callable
            Gives a split of kind ``next``, made of training data alone, or
            None where times do not tell an order.
        settings : mapping
            As for `fit`.
        on_progress : callable, optional
            Called with the fraction done; what it raises ends the check.

        Returns
        -------
        mapping
            Settings by name, in place of those that are left open.
        """
        return {}

    @classmethod
    def fit_decided(
        cls,
        interactions: InteractionMatrix,
        *,
        settings: Mapping[str, Any],
        decided: Mapping[str, Any],
        on_progress: Callable[[float], None] | None = None,
    ) -> Self:
        """Fit with what was decided; the model's settings stay as they were asked for.

        So that the next fit with them decides again.

        Parameters
        ----------
        interactions, settings, on_progress
            As for `fit`.
        decided : mapping
            As `decide` gives it.
        """
        model = cls.fit(interactions, settings={**settings, **decided}, on_progress=on_progress)
        model._settings = cls.settings_type.parse(settings, recipe=cls.name)
        return model

    @property
    def decided(self) -> dict[str, Any]:
        """What is in force of the settings that leave something to the data, as JSON values."""
        return {}

    @abc.abstractmethod
    def score(self, histories: Histories) -> np.ndarray:
        """Score all items for each history, of users known or never seen.

        Parameters
        ----------
        histories : Histories

        Returns
        -------
        ndarray of float64 or float32, shape (n, n_items)
            Finite; the caller may write to it. A personal recipe gives zeros
            where no weight is above zero or it knows nothing of the history's
            items.
        """

    def n_terms(self, histories: Histories) -> np.ndarray | None:
        """Return how many terms the scores of each history are sums of, shape (n,).

        None where they are no sums of few terms, as by default.
        """
        return None

    def sparse_score(self, histories: Histories) -> sparse.csr_array:
        """Return what `score` does, without what has no terms, for a recipe that has `n_terms`.

        Returns
        -------
        scipy.sparse.csr_array of float32 or float64, shape (n, n_items)
            A column comes once in a row.
        """
        return sparse.csr_array(self.score(histories))

    def similar(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the dense indices of the at most `n` most similar items, and how similar.

        Similarities are above zero and descend; the item itself is not among
        them. Empty where the recipe knows of none.
        """
        return np.empty(0, dtype=np.int64), np.empty(0)

    def next(self, item_index: int, *, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the dense indices of the at most `n` items likeliest to come next, and how likely.

        As `similar`, of what users do after they had the item: above zero and
        descending, without the item itself, in the recipe's own unit. Empty
        where the recipe knows no order.
        """
        return np.empty(0, dtype=np.int64), np.empty(0)

    def likeness(self, items: np.ndarray) -> np.ndarray:
        """Return how alike items are, each pair of them.

        For lists whose items should differ. What `similar` says of an item,
        divided by the similarity of the one most similar to it; of the two
        values of a pair, the larger.

        Parameters
        ----------
        items : ndarray of int, shape (m,)
            Unique dense indices.

        Returns
        -------
        ndarray of float64, shape (m, m)
            In [0, 1] and symmetric; zeros on the diagonal.

        Notes
        -----
        Takes m² cells and m questions to `similar`, so mind the number.
        """
        made = np.zeros((len(items), len(items)))
        order = np.argsort(items)
        ascending = items[order]
        for row, item in enumerate(items.tolist()):
            indices, similarities = self.similar(item, n=np.iinfo(np.int64).max)
            place = np.minimum(np.searchsorted(ascending, indices), len(items) - 1)
            is_asked = ascending[place] == indices
            values = similarities[is_asked] / similarities[:1]
            made[row, order[place[is_asked]]] = values
        return np.maximum(made, made.T)

    def contributions(self, history: Histories, items: np.ndarray) -> np.ndarray | None:
        """Say what each entry of a history adds to the scores of some items.

        Parameters
        ----------
        history : Histories
            One row.
        items : ndarray of int, shape (m,)
            Dense indices.

        Returns
        -------
        ndarray of float64, shape (nnz, m), or None
            By entry of ``history.weights``, below zero where it speaks against
            the item. A column adds up to what `score` gives, to the precision
            of the scores. None where scores are no such sums, as by default.
        """
        return None

    # Tuning

    @classmethod
    def candidates(cls, *, has_times: bool) -> Sequence[Mapping[str, Any]]:
        """Return the settings that tuning tries, the likeliest first; by default the defaults.

        Parameters
        ----------
        has_times : bool
            Whether the interactions have times.
        """
        return [{}]

    @classmethod
    def tune(cls, splits: Sequence[TuningSplit], run: TuningRun) -> None:
        """Find settings: try them on every split, and tell the run how well each did.

        By default each of the `candidates` is fitted to each split, all of
        them unless somebody sets a budget. A recipe that can share work
        between candidates, or should search, has a plan of its own.

        Parameters
        ----------
        splits : sequence of TuningSplit
            At least one.
        run : TuningRun
            Keeps what was tried; its `step` may end the tuning.
        """
        candidates = cls.candidates(has_times=splits[0].train.latest_at is not None)
        judges = [split.judge() for split in splits]
        for n_done, settings in enumerate(candidates, 1):
            complete = cls.settings_type.parse(settings, recipe=cls.name)
            run.add(
                dataclasses.asdict(complete),
                {
                    split.kind: judge.ndcg(cls.fit(split.train, settings=settings))
                    for split, judge in zip(splits, judges, strict=True)
                },
            )
            run.step(n_done / len(candidates))

    # Memory

    @classmethod
    @abc.abstractmethod
    def footprint(cls, sizes: Sizes, *, settings: Mapping[str, Any]) -> Footprint:
        """Estimate what a fit holds in memory; rather too much than too little.

        Parameters
        ----------
        sizes : Sizes
        settings : mapping
            As for `fit`.

        Raises
        ------
        DataError
            A setting is unknown or out of range.
        """

    @classmethod
    def largest_settings(cls, sizes: Sizes) -> Mapping[str, Any]:
        """Return the settings that need the most memory of those that tuning may choose."""
        return max(
            cls.candidates(has_times=True),
            key=lambda settings: cls.footprint(sizes, settings=settings).fit_bytes,
        )

    @classmethod
    def tuning_bytes(cls, sizes: Sizes, *, n_splits: int) -> int:
        """Estimate what `tune` holds at most, the splits not counted."""
        largest = cls.footprint(sizes, settings=cls.largest_settings(sizes))
        return n_splits * largest.model_bytes + largest.fit_bytes

    # Files

    @property
    def explained_variance(self) -> float:
        """Share of the variance of the matrix, in [0, 1]; 0 where nothing is decomposed."""
        return 0.0

    def to_sklearn(self) -> "TruncatedSVD | None":
        """Return the decomposition as scikit-learn's, for the pickle; None if there is none."""
        return None

    @abc.abstractmethod
    def to_export(self, trained: InteractionMatrix) -> dict[str, Any]:
        """Return what the pickle needs besides `to_sklearn` to give the same scores.

        Entries of the pickle's dict, of plain, numpy and scipy values, so that
        predicted ratings can be had where their table is too large to be in it.

        Parameters
        ----------
        trained : InteractionMatrix
            What it was fitted to: the pickle's rating matrix.
        """

    @abc.abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return what was learned, as named arrays."""

    @classmethod
    @abc.abstractmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], *, settings: Mapping[str, Any], n_items: int
    ) -> Self:
        """Make the model again from `to_arrays`; refuses what does not fit with `DataError`."""
