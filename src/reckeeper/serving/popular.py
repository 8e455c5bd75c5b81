"""The most popular items of the table, for a process that has no version to answer from."""

import itertools
import threading
import time
from collections.abc import Callable, Collection

from reckeeper import matrix, storage
from reckeeper.policy import PolicyWatch

N_LATEST = 200_000
"""How many interactions are counted, the latest: an answer must not wait for a large table."""

KEPT_SECONDS = 5.0
"""How long a count is kept before the table is counted again."""


class PopularItems:
    """How many users have each item, counted at most every few seconds.

    Parameters
    ----------
    policy : PolicyWatch
        Asked for the interaction types that weigh something.
    """

    def __init__(self, policy: PolicyWatch) -> None:
        self._policy = policy
        self._counting = threading.Lock()
        self._counted: list[tuple[str, float]] | None = None
        self._counted_at = 0.0

    def best(
        self,
        connection: storage.Connection,
        seen: Collection[str],
        *,
        n: int,
        listable: Callable[[str], bool],
    ) -> list[tuple[str, float]]:
        """Return up to `n` items that may be listed and were not seen, with their numbers of users.

        The most popular come first; among equals, the smaller id.
        """
        left = (
            (item_id, n_users)
            for item_id, n_users in self._all(connection)
            if item_id not in seen and listable(item_id)
        )
        return list(itertools.islice(left, n))

    def seen_by(self, connection: storage.Connection, user_id: str) -> set[str]:
        """Return the items that a user has seen, liked or not."""
        history = storage.interactions.of_user(connection, user_id)
        seen = matrix.build([history], type_weights=self._policy.weights()).items.ids
        return set(seen)

    def _all(self, connection: storage.Connection) -> list[tuple[str, float]]:
        counted = self._counted
        # Who comes while another counts takes the last count, if there is one.
        if not self._is_fresh() and self._counting.acquire(blocking=counted is None):
            try:
                if not self._is_fresh():
                    self._counted = self._count(connection)
                    self._counted_at = time.monotonic()
            finally:
                self._counting.release()
        assert self._counted is not None
        return self._counted

    def _is_fresh(self) -> bool:
        return self._counted is not None and time.monotonic() - self._counted_at < KEPT_SECONDS

    def _count(self, connection: storage.Connection) -> list[tuple[str, float]]:
        weighing = [name for name, weight in self._policy.weights().items() if weight > 0]
        return storage.interactions.most_popular(connection, weighing, among=N_LATEST)
