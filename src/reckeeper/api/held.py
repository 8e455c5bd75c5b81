"""Folders for what a request sends or is given: bounded in number, and gone with their process."""

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reckeeper import errors

MOST_FOLDERS = 8
"""Of one kind that there are at a time, for all processes of a server."""

_LOCK = ".lock"


@contextlib.contextmanager
def folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a new folder, which goes with the block; who holds it keeps it from being cleared.

    Parameters
    ----------
    parent : Path
        Made if need be.
    prefix : str
        Of its name: its kind.

    Raises
    ------
    UnavailableError
        There are `MOST_FOLDERS` already.
    OSError
        Nothing can be written there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in parent.glob(f"{prefix}*/{_LOCK}")) >= MOST_FOLDERS:
        raise errors.UnavailableError(
            f"{MOST_FOLDERS} files are being taken in or given out already, and each takes room: "
            "try again when one of them is done."
        )
    with contextlib.ExitStack() as stack:
        made = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        lock = stack.enter_context((made / _LOCK).open("wb"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield made


def remove_leftovers(parent: Path, prefix: str) -> None:
    """Delete what processes that were killed have left: nobody holds it."""
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), (left / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
