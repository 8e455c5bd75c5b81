"""The tombstones outside of the database, which one that is restored from a backup lacks.

A line each in a file of the model folder, which all processes share: the installation, the key
of the hashes, a user's hash, and until when nothing of theirs is taken.
"""

import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from reckeeper import durable
from reckeeper.errors import StorageError
from reckeeper.telemetry import get_logger

FILE = "erasures.jsonl"
"""Its name in the model folder."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Line:
    """A tombstone as the file has it."""

    installation: str
    key: str
    user: str
    until: int


def lines(folder: Path, *, installation_id: str) -> list[Line]:
    """Return an installation's tombstones in a folder; lines that aren't whole are logged.

    Raises
    ------
    StorageError
        The file cannot be read.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise StorageError(
            f"{folder / FILE}, which keeps who was erased, cannot be read: {exc.strerror}. Let "
            "this user read it."
        ) from exc
    return [line for line in _parsed(text, folder) if line.installation == installation_id]


def add(folder: Path, new: Collection[Line]) -> None:
    """Add tombstones to a folder's file; they are on disk when this returns.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    if not new:
        return
    content = "".join(json.dumps(vars(line), sort_keys=True) + "\n" for line in new)
    path = folder / FILE
    try:
        durable.make_folder(folder)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            # A line that a crash has cut off must not spoil the next one.
            is_cut = (n := stream.seek(0, os.SEEK_END)) and os.pread(descriptor, 1, n - 1) != b"\n"
            os.write(descriptor, (("\n" if is_cut else "") + content).encode())
            os.fsync(descriptor)
        durable.sync_folder(folder)
    except OSError as exc:
        raise StorageError(
            f"{path}, which keeps who was erased, cannot be written: {exc.strerror}. See that the "
            "folder (RECKEEPER_MODEL_DIR) is writable and its disk is not full, then try again."
        ) from exc


def _parsed(text: str, folder: Path) -> Iterator[Line]:
    for number, content in enumerate(text.splitlines(), start=1):
        try:
            line = Line(**json.loads(content))
            kinds = [type(value) for value in vars(line).values()]
            if kinds != [str, str, str, int] or not re.fullmatch("[0-9a-f]{64}", line.key):
                raise ValueError
        except (TypeError, ValueError, RecursionError):
            _log.warning("tombstone_not_read", path=str(folder / FILE), line=number)
        else:
            yield line
