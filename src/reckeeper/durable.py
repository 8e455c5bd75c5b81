"""What "on disk" means: a file and its name survive a loss of power.

A file is written under a temporary name, synced, given its own name, and its
folder synced: a reader sees the whole file or none, whenever the power fails.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDER_MODE = 0o700
"""What people did, and what stands for them, is for the user of the process alone."""


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that is there stays as it is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(FOLDER_MODE, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put new, renamed and deleted names of a folder on disk."""
    _sync(folder)


@contextlib.contextmanager
def new_file(path: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """Give a temporary path to write to; after the block the file has the name `path`.

    When the block raises, nothing is left.

    Parameters
    ----------
    path : Path
        In a folder that is there.
    mode : int
        Permissions of the file.

    Raises
    ------
    FileExistsError
        A file of that name is there: it is never replaced.
    OSError
        The file could not be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        os.link(temporary, path)  # unlike a rename it never replaces what is there
        try:
            sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_file(path: Path, *, is_alone: bool = False, mode: int = 0o600) -> Iterator[Path]:
    """Give a temporary path to write to; after the block the file takes the place of `path`.

    When the block raises, what is there stays.

    Parameters
    ----------
    path : Path
        In a folder that is there.
    is_alone : bool
        Whether the caller keeps others out. Then all use one temporary name,
        and a process that is killed leaves nothing for good.
    mode : int
        Permissions of the file.

    Raises
    ------
    OSError
        The file could not be written, or `path` is a device, a pipe or a folder.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is no regular file", str(path))
    mark = "" if is_alone else f".{secrets.token_hex(8)}"
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    try:
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def keep_to_this_user() -> None:
    """Have all files and folders that this process makes be its user's alone: 0600 and 0700."""
    os.umask(0o077)


def close_to_others(folder: Path) -> None:
    """Take what others may do with a folder away, where it belongs to this user."""
    with contextlib.suppress(OSError):
        state = folder.stat()
        if state.st_uid == os.geteuid() and stat.S_IMODE(state.st_mode) & 0o077:
            folder.chmod(FOLDER_MODE)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if sys.platform == "darwin":  # where a sync alone stops at the drive's cache
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
