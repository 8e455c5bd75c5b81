"""The processes of a server and the one that has started them, and who comes after whom."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from reckeeper import telemetry

_FILE = "server.pid"
_ORPHAN_SECONDS = 30.0
"""How long processes answer whose parent was killed, if nobody comes after them."""

_log = telemetry.get_logger("server")


class Family:
    """A parent and its children; made by the parent, which its children are copies of.

    Parameters
    ----------
    folder : Path
        Where it is noted who is up.
    supervisor : int or None
        The process that replaces the parent if it dies; None: nobody does.

    Attributes
    ----------
    was_killed : bool
        Whether the parent before was killed: its children may be answering still.
    """

    def __init__(self, folder: Path, supervisor: int | None) -> None:
        self._file = folder / _FILE
        self._supervisor = supervisor
        self._parent = os.getpid()
        self._orphaned_at: float | None = None
        before = self._noted()
        self.was_killed = (
            supervisor is not None and before is not None and not psutil.pid_exists(before)
        )

    def note_up(self) -> None:
        """Note that all of this family answer: children of another one end."""
        if self._supervisor is None:
            return
        unfinished = self._file.with_name(f".{_FILE}.{self._parent}")
        try:
            unfinished.write_text(str(self._parent), encoding="ascii")
            unfinished.replace(self._file)
        except OSError as exc:  # a full disk: those before end by themselves
            _log.warning("server_not_noted", error=str(exc))

    def end(self) -> None:
        """Take the note away: the family has ended in order."""
        if self._noted() == self._parent:
            self._file.unlink(missing_ok=True)

    def end_without_parent(self) -> None:
        """End this child if its parent is gone, and nobody is to come, or another family is up."""
        if os.getppid() == self._parent:
            return
        now = time.monotonic()
        if self._orphaned_at is None:
            self._orphaned_at = now
            _log.error("server_parent_ended", pid=self._parent)
        goes_on = (
            self._supervisor is not None
            and psutil.pid_exists(self._supervisor)
            and self._noted() == self._parent
            and now - self._orphaned_at < _ORPHAN_SECONDS
        )
        if not goes_on:
            os.kill(os.getpid(), signal.SIGTERM)

    def _noted(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self._file.read_text(encoding="ascii"))
        return None
