"""How often something may happen in a minute, counted in memory."""

import hashlib
import math
import struct
import threading
import time
from collections.abc import Callable
from mmap import mmap

_ENTRY = struct.Struct("=Qdd")  # whose it is, how many were left, and when that was
_N_ENTRIES, _N_TRIED = 4096, 8

SHARED_BYTES = _N_ENTRIES * _ENTRY.size
"""Size of the memory that `SharedLimits` takes; all zeros at first."""


class Limits:
    """So many a minute for each name: all at once, or one after the other.

    Parameters
    ----------
    most_names : int
        So many are remembered; of more, those that have been heard of least lately are forgotten.
    clock : callable
        Seconds that never go back.
    """

    def __init__(
        self, *, most_names: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_names = most_names
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}
        """By name: how many were left, and when that was; in the order of the latter."""

    def take(self, name: str, *, per_minute: int) -> int:
        """Count one more, and return 0; or else in how many seconds one more may come.

        What is refused isn't counted.
        """
        now = self._clock()
        with self._lock:
            left, at = self._left.pop(name, (float(per_minute), now))
            left, seconds = _taken(left, now - at, per_minute)
            self._left[name] = (left, now)
            if len(self._left) > self._most_names:
                del self._left[next(iter(self._left))]
        return seconds


class SharedLimits:
    """The same for several processes, in memory that they share.

    Two that count in the same microsecond may let one through too many. Of thousands of names, one
    may be forgotten for another.

    Parameters
    ----------
    memory : mmap.mmap
        `SHARED_BYTES` of it.
    clock : callable
        Seconds that never go back, the same for all processes.
    """

    def __init__(self, memory: mmap, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = memory
        self._clock = clock
        self._lock = threading.Lock()

    def take(self, name: str, *, per_minute: int) -> int:
        """Count one more, as `Limits.take` does."""
        whose = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1
        now = self._clock()
        with self._lock:
            place = self._place(whose)
            found, left, at = _ENTRY.unpack_from(self._memory, place)
            if found != whose:
                left, at = float(per_minute), now
            left, seconds = _taken(left, now - at, per_minute)
            _ENTRY.pack_into(self._memory, place, whose, left, now)
        return seconds

    def _place(self, whose: int) -> int:
        """Return the place of an entry, or one for it: a free one if it can be."""
        places = [(whose + number) % _N_ENTRIES * _ENTRY.size for number in range(_N_TRIED)]
        for wanted in (whose, 0):
            for place in places:
                if _ENTRY.unpack_from(self._memory, place)[0] == wanted:
                    return place
        return places[0]


def _taken(left: float, seconds: float, per_minute: int) -> tuple[float, int]:
    """Return how many are left after one more, and after how many seconds that one may come."""
    left = min(float(per_minute), left + max(0.0, seconds) * per_minute / 60.0)
    if left < 1.0:
        return left, math.ceil((1.0 - left) * 60.0 / per_minute)
    return left - 1.0, 0
