"""What the processes of one server know of each other: how each is, and who changed something."""

import contextlib
import functools
import json
import mmap
import struct
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from reckeeper.security.limits import SHARED_BYTES
from reckeeper.serving import Readiness

_CHANGES = "changes"
_COUNT = struct.Struct("=Q")
_REQUESTS = "requests"

_SEVERITIES = ("ok", "degraded", "unavailable")


class Siblings:
    """One of the processes that answer on a port, and the others.

    Each tells how it is in a file of a folder that they share, and has none
    before it takes requests and after its end. What each has changed is counted
    in memory that they share: to look there takes no time.

    Parameters
    ----------
    folder : Path
        Exists, and nobody else's.
    number : int
        Which of the processes this is; a process that replaces another has its number.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._told: Readiness | None = None
        self._noting = threading.Lock()
        self._taken_in = b""

    @classmethod
    def family(cls, folder: Path, n_processes: int) -> list["Siblings"]:
        """Return all of them, in a folder that is empty."""
        (folder / _CHANGES).write_bytes(bytes(_COUNT.size * n_processes))
        (folder / _REQUESTS).write_bytes(bytes(SHARED_BYTES))
        return [cls(folder, number) for number in range(n_processes)]

    @property
    def is_up(self) -> bool:
        """Whether the process with this number has told how it is."""
        return self._file(self._number).exists()

    def tell(self, readiness: Readiness) -> None:
        """Tell the others how this process is."""
        if readiness == self._told:
            return
        unfinished = self._folder / f"readiness-{self._number}.new"
        unfinished.write_text(json.dumps(asdict(readiness)), encoding="utf-8")
        unfinished.replace(self._file(self._number))
        self._told = readiness

    def worst(self, own: Readiness) -> Readiness:
        """Return the readiness of the process that is worst off; `own` where none is worse."""
        everybody = [own]
        for path in {*self._folder.glob("readiness-*.json")} - {self._file(self._number)}:
            with contextlib.suppress(FileNotFoundError):  # its process has just ended
                everybody.append(Readiness(**json.loads(path.read_text(encoding="utf-8"))))
        return max(everybody, key=lambda each: _SEVERITIES.index(each.status))

    def forget(self) -> None:
        """Remove what the process with this number, which has ended, told."""
        self._file(self._number).unlink(missing_ok=True)

    def note_change(self) -> None:
        """Let the others know that this process has changed what they hold in memory."""
        place = _COUNT.size * self._number
        with self._noting:
            (count,) = _COUNT.unpack_from(self._changes, place)
            _COUNT.pack_into(self._changes, place, count + 1)

    @property
    def has_news(self) -> bool:
        """Whether any of them has changed something that this process has not taken in."""
        return self._changes[:] != self._taken_in

    @contextlib.contextmanager
    def taking_in(self) -> Iterator[None]:
        """Count what was changed before the block as taken in after it."""
        before = self._changes[:]
        yield
        self._taken_in = before

    @functools.cached_property
    def _changes(self) -> mmap.mmap:
        with (self._folder / _CHANGES).open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    @functools.cached_property
    def requests(self) -> mmap.mmap:
        """The memory in which all of them count the requests of each API key."""
        with (self._folder / _REQUESTS).open("r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    def _file(self, number: int) -> Path:
        return self._folder / f"readiness-{number}.json"
