"""How often something may happen in a minute, counted in memory."""

import math
import threading
import time
from collections.abc import Callable


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
            left = min(float(per_minute), left + (now - at) * per_minute / 60.0)
            is_refused = left < 1.0
            self._left[name] = (left if is_refused else left - 1.0, now)
            if len(self._left) > self._most_names:
                del self._left[next(iter(self._left))]
        return math.ceil((1.0 - left) * 60.0 / per_minute) if is_refused else 0
