"""Lists of very many users, straight from database and model files, as the server would answer."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from reckeeper import linalg, storage
from reckeeper.catalogue import Catalogue
from reckeeper.errors import Action, NoModelError
from reckeeper.policy import PolicyWatch
from reckeeper.registry import Registry
from reckeeper.serving.live import Serving
from reckeeper.serving.newer import Newer
from reckeeper.serving.popular import PopularItems
from reckeeper.serving.rules import Rules

_AT_ONCE = 256
"""Users whose lists are made together, on one core."""

_PAGE = 10_000

_NEVER = 3_600.0
"""Pause of what follows the database: nothing is followed here."""

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
        ("model_version", pa.int64()),
    ]
)
"""The columns of the lists; a list's rows are together, the best item first."""


class BulkLists:
    """Makes lists by the version that is active at the start, on all cores, in bounded memory.

    Of what happens later, some counts and some does not: to follow it is the server's task.
    To be closed.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    policy : PolicyWatch
        One that was started.

    Raises
    ------
    NoModelError
        There is no version, or none that can be loaded.
    """

    def __init__(self, database: storage.Database, registry: Registry, policy: PolicyWatch) -> None:
        catalogue = Catalogue(database, every_seconds=_NEVER)
        catalogue.refresh()
        self._database = database
        self._popular = PopularItems(database, policy, catalogue, every_seconds=_NEVER)
        self._serving = Serving(
            database,
            registry,
            policy,
            every_seconds=_NEVER,
            catalogue=catalogue,
            newer=Newer(database, every_seconds=_NEVER),
            popular=self._popular,
        )
        self._serving.refresh()
        problem = self._serving.problem
        if self._serving.items is None:
            raise NoModelError(
                "There is no version yet to make lists with."
                if problem is None
                else problem.sentence,
                action=Action("retrain") if problem is None else problem.action,
            )
        self._item_ids = pa.array(self._serving.items.ids, pa.string())
        self._popular.start()

    def close(self) -> None:
        """Let go of what runs in the background."""
        self._popular.stop()

    @property
    def version(self) -> int:
        """The version that makes the lists."""
        assert self._serving.version is not None
        return self._serving.version

    @property
    def problem(self) -> str | None:
        """Why that is not the active version, in a sentence; None if it is."""
        return None if self._serving.problem is None else self._serving.problem.sentence

    def n_users(self) -> int:
        """Return how many users have interactions."""
        with self._database.read() as connection:
            return storage.interactions.n_users(connection)

    def users(self) -> Iterator[str]:
        """Yield the ids of all users who have interactions, some thousands at a time."""
        after = ""
        while True:
            with self._database.read() as connection:
                page = storage.interactions.user_page(connection, after=after, limit=_PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1]

    def lists(self, user_ids: Iterable[str], *, n: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the lists of users, some hundreds at a time, in their order.

        They are those of `Serving.recommend`.

        Parameters
        ----------
        user_ids : iterable of str
            Known or not; taken little by little.
        n : int
            Length of a list, at least 1.

        Yields
        ------
        int
            How many users these are.
        pyarrow.RecordBatch
            Of `SCHEMA`. Who gets no items has no rows.
        """
        ids = iter(user_ids)
        blocks = iter(lambda: list(islice(ids, _AT_ONCE)), [])
        rules = Rules(n=n)
        return linalg.parallel.in_order(lambda block: self._made(block, rules), blocks)

    def _made(self, user_ids: list[str], rules: Rules) -> tuple[int, pa.RecordBatch]:
        """Return the lists of a block, on one core."""
        items = np.full((len(user_ids), rules.n), -1, dtype=np.int64)
        scores = np.zeros(items.shape)
        popular: list[int] = []
        for block, lists in self._serving.rank_for_each(user_ids, rules):
            items[block], scores[block] = lists.item_index, lists.scores
            popular += (block.start + np.flatnonzero(lists.is_popular)).tolist()
        others: list[str] = []
        if popular:
            # What is popular may be new to the version: such lists have numbers of their own.
            items[popular] = -1
            answers = self._serving.recommend_to_each([user_ids[row] for row in popular], rules)
            for row, answer in zip(popular, answers, strict=True):
                n_listed = len(answer.items)
                items[row, :n_listed] = len(self._item_ids) + len(others) + np.arange(n_listed)
                scores[row, :n_listed] = [item.score for item in answer.items]
                others += [item.item_id for item in answer.items]
        is_item = items >= 0
        rows, ranks = np.nonzero(is_item)
        ids = pa.chunked_array([self._item_ids, pa.array(others, pa.string())])
        columns = [
            pa.array(user_ids, pa.string()).take(pa.array(rows)),
            pa.array((ranks + 1).astype(np.int32)),
            ids.take(pa.array(items[is_item])).combine_chunks(),
            pa.array(scores[is_item]),
            pa.array(np.full(len(rows), self.version)),
        ]
        return len(user_ids), pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
