"""What the processes of one server know of each other: whether each can do its work."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

from reckeeper.serving import Readiness

_SEVERITIES = ("ok", "degraded", "unavailable")


class Siblings:
    """One of the processes that answer on a port, and the others.

    Each tells in a file of a folder that they share, and has none before it
    takes requests and after its end.

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

    def _file(self, number: int) -> Path:
        return self._folder / f"readiness-{number}.json"
