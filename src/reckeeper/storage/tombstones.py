"""`tombstones`: who was erased, by keyed hash, and up to when nothing of theirs is taken again.

They are asked for every interaction that comes in. So they are held in memory, and read again
where the last erasure is another one; what occurred after all of them is not even hashed.
"""

import hashlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from reckeeper.storage.tables import installation, tombstones

_Row = tuple[str, str, str, str, float, int]
_TIME = operator.itemgetter(5)


class Tombstones:
    """Those of a database, as they were after its last erasure; a `Database` has one.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._held: tuple[int, bytes, Mapping[str, int], int] = (0, b"", {}, -1)

    def spared(
        self,
        connection: sa.Connection,
        rows: Sequence[_Row],
        *,
        revision: int,
        timeless: int | None,
    ) -> Sequence[_Row]:
        """Return the rows that may be taken: those that no erasure forbids.

        Parameters
        ----------
        connection : sqlalchemy.Connection
            Asked where `revision` is not that of the last time.
        rows : sequence of tuple
        revision : int
            Number of the last erasure, 0 without any.
        timeless : int or None
            The time of rows that have none of their own. Nobody knows that they are newer than
            an erasure, so it forbids them.
        """
        if not revision:
            return rows
        held = self._held
        if held[0] != revision:
            found = everyone(connection)
            held = revision, key_of(connection), found, max(found.values(), default=-1)
            self._held = held
        _, key, until, latest = held
        if timeless is None and min(map(_TIME, rows)) > latest:
            return rows
        until_of: dict[str, int] = {}
        for row in rows:
            user_id = row[1]
            if user_id not in until_of and (row[5] <= latest or row[5] == timeless):
                until_of[user_id] = until.get(hash_of(user_id, key), -1)
        forbidden = {user_id: moment for user_id, moment in until_of.items() if moment >= 0}
        if not forbidden:
            return rows
        return [
            row
            for row in rows
            if row[1] not in forbidden or (row[5] > forbidden[row[1]] and row[5] != timeless)
        ]


def hash_of(user_id: str, key: bytes) -> str:
    """Return what stands for a user among the tombstones; without the key it tells nobody who."""
    return hashlib.blake2b(user_id.encode(), key=key, digest_size=32).hexdigest()


def key_of(connection: sa.Connection) -> bytes:
    """Return the key of the hashes."""
    return bytes.fromhex(connection.execute(sa.select(installation.c.erasure_key)).scalar_one())


def set_key(connection: sa.Connection, key: bytes) -> None:
    """Take another key; the tombstones that there are must have been made with it."""
    connection.execute(sa.update(installation).values(erasure_key=key.hex()))


def everyone(connection: sa.Connection) -> dict[str, int]:
    """Return until when nothing is taken, by the hash of each user."""
    found = connection.execute(sa.select(tombstones.c.user_hash, tombstones.c.until))
    return {row.user_hash: row.until for row in found}


def among(
    user_ids: Iterable[str], *, key: bytes, until: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """Yield those of some users who have a tombstone, and until when it holds."""
    for user_id in user_ids:
        moment = until.get(hash_of(user_id, key))
        if moment is not None:
            yield user_id, moment
