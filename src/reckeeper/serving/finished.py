"""Lists that were made, kept while what they were made of is as it was."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

MOST_BYTES = 64 << 20
"""What all bodies come to at most; the one that was asked for least lately goes first."""

_ENTRY_BYTES = 400
"""What an entry costs beside its body."""


class FinishedList(NamedTuple):
    """The body of an answer, and how the list was made."""

    body: bytes
    strategy: str


class ListState(NamedTuple):
    """What a list was made of.

    Attributes
    ----------
    own : hashable
        What any list depends on.
    popular : int
        Number of what was popular, on which lists of popular items depend.
    """

    own: Hashable
    popular: int

    def holds(self, finished: FinishedList, now: "ListState") -> bool:
        """Say whether a list that was made in this state is as it would be made now."""
        return self.own == now.own and (
            finished.strategy != "popular" or self.popular == now.popular
        )


class FinishedLists:
    """Lists by what was asked for, each with the state that it was made in.

    Safe to share between threads.

    Parameters
    ----------
    most_bytes : int
    """

    def __init__(self, *, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[Hashable, tuple[ListState, FinishedList]] = OrderedDict()
        self._n_bytes = 0
        self._changing = threading.Lock()

    def get(self, asked: Hashable, state: ListState) -> FinishedList | None:
        """Return what was made in this state, or None."""
        with self._changing:
            found = self._held.get(asked)
            if found is None:
                return None
            made_in, finished = found
            if not made_in.holds(finished, state):
                self._remove(asked)
                return None
            self._held.move_to_end(asked)
            return finished

    def put(self, asked: Hashable, state: ListState, finished: FinishedList) -> None:
        """Keep what was made in a state, which was taken before it was made."""
        with self._changing:
            if asked in self._held:
                self._remove(asked)
            self._held[asked] = state, finished
            self._n_bytes += len(finished.body) + _ENTRY_BYTES
            while self._n_bytes > self._most_bytes:
                self._remove(next(iter(self._held)))

    def clear(self) -> None:
        """Forget all lists."""
        with self._changing:
            self._held.clear()
            self._n_bytes = 0

    def _remove(self, asked: Hashable) -> None:
        _, finished = self._held.pop(asked)
        self._n_bytes -= len(finished.body) + _ENTRY_BYTES
