"""What the benchmarks share: an installation in a temporary folder, and its processes."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from reckeeper import storage
from reckeeper.config import Settings

CHECKOUT = Path(__file__).parents[1]


@contextlib.contextmanager
def installation(**environ: str) -> Iterator[Settings]:
    """Give the settings of an empty, migrated installation on free ports; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        settings = Settings.from_env(
            {
                "RECKEEPER_DATA_DIR": f"{folder}/data",
                "RECKEEPER_MODEL_DIR": f"{folder}/models",
                "RECKEEPER_SERVER_PORT": str(free_port()),
                "RECKEEPER_WORKER_PORT": str(free_port()),
                "RECKEEPER_UI_PORT": str(free_port()),
                "RECKEEPER_DEMO": "0",
                **environ,
            }
        )
        storage.migrate(settings)
        yield settings


@contextlib.contextmanager
def process(script: str, settings: Settings, *, url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run an entry file until the block ends; it answers at `url` when the block begins."""
    with (settings.data_dir / f"{Path(script).stem}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, script],
            cwd=CHECKOUT,
            env={**os.environ, **settings.to_env()},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(f"{url}/health/live", child)
        yield child
    finally:
        child.terminate()
        child.wait()


def wait_for(url: str, child: "subprocess.Popen[bytes]", *, seconds: float = 60) -> None:
    """Wait until a URL answers."""
    ends = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError) as exc:
            if child.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{url} does not answer") from exc
            time.sleep(0.05)


def free_port() -> int:
    """Return a port on which nobody listens at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def memory_bytes(pid: int) -> int:
    """Return the most memory that a process has held so far (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} tells no VmHWM")
