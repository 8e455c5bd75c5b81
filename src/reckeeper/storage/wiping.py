"""Nothing of what was deleted stays in the files of an SQLite database.

Deleted rows and freed pages are overwritten with zeros (`PRAGMA secure_delete`). Two things stay
behind: pages in the write-ahead log, until it is emptied, and what a page was split from, in the
part of the page that is not in use. The first is emptied; for the second the file is searched, and
written anew where something is found.
"""

import contextlib
import mmap
import sqlite3
import struct
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from reckeeper.storage.engine import BUSY_TIMEOUT_SECONDS, Database

REWRITTEN_BYTES = 256 * 1024**2
"""Up to this size a file is written anew by itself: others who write wait for some seconds."""

_WAIT_MILLISECONDS = 200
_TRIES = 5
_PAUSE_SECONDS = 0.2
_LEAST_BYTES = 4
"""What is shorter is found everywhere."""

_HEADS = {2: 12, 5: 12, 10: 8, 13: 8}
"""By the kind of a page of a tree, the length of its head."""


@dataclass(frozen=True)
class Wiped:
    """What became of the files of a database.

    Attributes
    ----------
    log_is_empty : bool
        False while somebody reads what was there before.
    is_clean : bool
        False where the part of a page that is not in use still has something.
    """

    log_is_empty: bool
    is_clean: bool


def wipe(database: Database, texts: Collection[str] = (), *, rewrites: bool = False) -> Wiped:
    """Empty the log of a database, and see that its file has texts nowhere but in rows.

    Parameters
    ----------
    database : Database
        PostgreSQL's is left to itself.
    texts : collection of str
        Those of fewer than four bytes are not looked for.
    rewrites : bool
        Write the file anew in any case, however large it is: nobody else can write meanwhile.

    Raises
    ------
    StorageError
        The file could not be written anew: its disk is full, say.
    """
    path = database.sqlite_file
    if path is None:
        return Wiped(True, True)
    is_empty = _empty_log(database)
    needles = [text.encode() for text in texts if len(text.encode()) >= _LEAST_BYTES]
    is_clean = not _has_remnants(path, needles)
    if rewrites or (not is_clean and path.stat().st_size <= REWRITTEN_BYTES):
        with database.raw() as connection:
            connection.execute("VACUUM")
        is_empty = _empty_log(database)
        is_clean = not _has_remnants(path, needles)
    return Wiped(is_empty, is_clean)


def _empty_log(database: Database) -> bool:
    """Work the log into the file and empty it, unless somebody reads what is older."""
    with database.raw() as connection:
        # Whoever writes waits for this, and so it waits for readers only in short turns.
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_MILLISECONDS}")
        try:
            for last in range(_TRIES):
                with contextlib.suppress(sqlite3.OperationalError):
                    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    if not is_busy:
                        return True
                if last < _TRIES - 1:
                    time.sleep(_PAUSE_SECONDS)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_SECONDS}")
    return False


def _has_remnants(path: Path, needles: Collection[bytes]) -> bool:
    if not needles or not path.stat().st_size:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        size = int.from_bytes(file[16:18], "big")
        size = 65536 if size == 1 else size
        for needle in needles:
            for place in _places(file, needle):
                number, offset = divmod(place, size)
                page = file[number * size : (number + 1) * size]
                if not _is_in_use(page, offset, len(needle), head=100 if number == 0 else 0):
                    return True
    return False


def _places(file: mmap.mmap, needle: bytes) -> Iterator[int]:
    place = file.find(needle)
    while place >= 0:
        yield place
        place = file.find(needle, place + 1)


def _is_in_use(page: bytes, offset: int, length: int, *, head: int) -> bool:
    """Say whether some bytes of a page may be those of a row."""
    kind = page[head]
    if kind not in _HEADS:
        return False  # free, or the rest of a row that is longer than a page
    free, n_cells, begin = struct.unpack_from(">HHH", page, head + 1)
    begin = begin or 65536
    if head + _HEADS[kind] + 2 * n_cells <= offset < begin:
        return False
    while free:
        after, size = struct.unpack_from(">HH", page, free)
        if free <= offset < free + size or offset <= free < offset + length:
            return False
        if after <= free:
            break
        free = after
    return True
