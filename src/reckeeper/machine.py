"""What the machine has left for this process, and which of its processes live."""

import os
import resource
import socket
import sys
from pathlib import Path

import psutil

_MOST_FILES = 16_384


def free_memory(*, root: Path = Path("/")) -> int:
    """Return how many bytes are free.

    That is the least of what the machine has left and what each control
    group of this process, version 1 or 2, leaves of its limit; files that
    the system has cached count as free.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    return max(0, min([psutil.virtual_memory().available, *_left_by_groups(root)]))


def human_bytes(n_bytes: int) -> str:
    """Return a number of bytes in words."""
    if n_bytes < 50_000_000:
        return f"{n_bytes / 1e6:.1f} MB"
    return f"{n_bytes / 1e9:.1f} GB"


def open_files() -> int:
    """Let this process have as many files open as the system lets it, within reason; say how many.

    A soft limit is what programs get that use `select`, which no file above 1023 suits.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def process_name(pid: int | None = None) -> str:
    """Name a process so that another on the same machine can tell whether it is gone."""
    process = psutil.Process(pid)
    started = process.create_time()
    if sys.platform == "linux":  # both move with the clock when it is set
        started -= psutil.boot_time()
    return f"{_machine()}:{process.pid}:{started:.2f}"


def is_of_here(name: str) -> bool:
    """Return whether a name is that of a process of this machine, living or not."""
    return _parts(name)[0] == _machine()


def is_gone(name: str) -> bool:
    """Return whether a name is that of a process of this machine that has ended."""
    if not is_of_here(name):
        return False
    _, pid = _parts(name)
    try:
        is_dead = psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
        return is_dead or process_name(int(pid)) != name
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _parts(name: str) -> tuple[str, str]:
    """Return what names the machine, and the number of the process."""
    machine, _, _ = name.rpartition(":")
    machine, _, pid = machine.rpartition(":")
    return machine, pid


def _machine() -> str:
    """Name what a process number is unique in: a boot, and a container's own numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _left_by_groups(root: Path) -> list[int]:
    """Return what each control group that has a limit leaves of it."""
    left = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # In a container the path may be the host's: its own groups then start at the mount.
        place = Path(path.lstrip("/"))
        for group in (mount / place, *(mount / parent for parent in place.parents)):
            left += _left_by_group(group, *names)
    return left


def _left_by_group(group: Path, limit_name: str, usage_name: str, prefix: str) -> list[int]:
    limit, usage = (next(iter(_lines(group / name)), "") for name in (limit_name, usage_name))
    if not (limit.isdecimal() and usage.isdecimal()):
        return []  # no such group, or no limit: "max"
    stat = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
    return [int(limit) - int(usage) + int(stat.get(f"{prefix}inactive_file", 0))]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
