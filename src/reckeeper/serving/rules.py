"""What a request asks of its list."""

from dataclasses import dataclass
from typing import Literal

from reckeeper.catalogue import Condition

MAX_LENGTH = 1_000
"""Items of one list."""

MAX_OFFSET = 10_000
"""Items of the same list that a request may pass over."""

MAX_NAMED = 10_000
"""Items that a request may exclude, or allow."""

MAX_CATEGORIES = 100
"""Categories that a request may name."""

Kind = Literal["alike", "next"]
"""What is asked for of items: what goes together with them, or what comes after them."""


@dataclass(frozen=True)
class Rules:
    """What a request asks of its list: all of it holds before the list is cut.

    So `n` items come back whenever so many are left. Whatever is asked for, items that are not
    available, and those that the user has dismissed or seen without taste, are in no list.

    Attributes
    ----------
    n : int
        Length of the list, 1 to `MAX_LENGTH`.
    offset : int
        How many of the best items are passed over, 0 to `MAX_OFFSET`: what follows is the next
        page of the same list.
    exclude : frozenset of str
        Items that are in no list; ids that nobody knows are passed over.
    allow : frozenset of str, or None
        The only items that may be in it; None: all.
    categories : frozenset of str
        Its items have any of these; empty: whatever they have.
    where : tuple of Condition
        What their attributes must be, each of the conditions; in the order of their names.
    include_seen : bool
        Whether what the user has seen may be in it, as where people buy the same again.
    per_category : int or None
        How many items of one category it may have, at least 1; None: any number.
    diversity : float
        0 to 1: how much the likeness of items counts against them; 0: not at all.
    explain : bool
        Whether each item says what speaks for it and against it.
    version : int or None
        The version to answer from; None: the active one.
    """

    n: int = 10
    offset: int = 0
    exclude: frozenset[str] = frozenset()
    allow: frozenset[str] | None = None
    categories: frozenset[str] = frozenset()
    where: tuple[Condition, ...] = ()
    include_seen: bool = False
    per_category: int | None = None
    diversity: float = 0.0
    explain: bool = False
    version: int | None = None

    @property
    def end(self) -> int:
        """How many of the best items the list reaches to."""
        return self.offset + self.n

    @property
    def is_reranked(self) -> bool:
        """Whether the best items are not simply those of the largest scores."""
        return self.diversity > 0 or self.per_category is not None
