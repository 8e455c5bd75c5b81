"""What a process does again and again: one thread that never dies and never fails in silence."""

import threading
from collections.abc import Callable
from typing import Self

from reckeeper.errors import ReckeeperError
from reckeeper.telemetry import get_logger

STOP_SECONDS = 2.0
"""How long a stop waits by default for a call that hangs."""

_log = get_logger(__name__)


class Periodic:
    """Calls a function every so often, in a thread of its own, until it is stopped.

    Whatever the function raises is logged, kept as the `problem` until a call
    succeeds, and does not end the thread.

    Parameters
    ----------
    function : callable
        Called without arguments; what it returns is not used.
    name : str
        Name of the thread, and in the log.
    every_seconds : float
        Pause between the end of a call and the next one.
    """

    def __init__(self, function: Callable[[], object], *, name: str, every_seconds: float) -> None:
        self._function = function
        self._name = name
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """What the last call failed with, in a sentence; None if it succeeded."""
        return self._problem

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def start(self) -> None:
        """Call the function for the first time at once, and again and again from then on."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float | None = STOP_SECONDS) -> None:
        """Make no further call, and wait for the one under way.

        Parameters
        ----------
        timeout_seconds : float or None
            How long to wait at most; None: until it is done.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop(timeout_seconds=None)

    def _run(self) -> None:
        while True:
            try:
                self._function()
                self._problem = None
            except ReckeeperError as exc:
                if self._problem != exc.message:
                    _log.warning("periodic_failed", name=self._name, error=exc.in_full)
                self._problem = exc.message
            except Exception as exc:  # noqa: BLE001
                # This thread must not die: nobody would do its work from then on.
                _log.exception("periodic_failed", name=self._name)
                self._problem = (
                    f"The thread {self._name} fails ({type(exc).__name__}); the log has the "
                    "details. It tries again by itself."
                )
            if self._stopping.wait(self._every_seconds):
                return
