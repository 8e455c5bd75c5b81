"""What the benchmarks share: an installation in a temporary folder, and its processes."""

import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reckeeper import storage, telemetry
from reckeeper.config import Settings

CHECKOUT = Path(__file__).parents[1]
DATA = CHECKOUT.parent / "shared" / "data"
"""Folder of the data sets, if they lie beside the checkout; ``--data`` names another."""


@contextlib.contextmanager
def installation(**environ: str) -> Iterator[Settings]:
    """Give the settings of an empty, migrated installation on free ports; removed at the end."""
    telemetry.configure_logging("benchmark")
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        settings = Settings.from_env(
            {
                "RECKEEPER_DATA_DIR": f"{folder}/data",
                "RECKEEPER_MODEL_DIR": f"{folder}/models",
                "RECKEEPER_SERVER_PORT": str(free_port()),
                "RECKEEPER_WORKER_PORT": str(free_port()),
                "RECKEEPER_UI_PORT": str(free_port()),
                "RECKEEPER_DEMO": "0",
                "RECKEEPER_SERVER_PROCESSES": "1",
                **environ,
            }
        )
        settings.data_dir.mkdir(parents=True, exist_ok=True)
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


def require_data(folder: Path) -> None:
    """End with a word of what to do, if the data sets are not in a folder."""
    for name in ("gowalla", "ml-latest-small"):
        if not (folder / name).is_dir():
            raise SystemExit(f"{folder} has no folder {name}: name the one that has, with --data.")


def in_fresh_process(
    module: str, *arguments: str, environ: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a module as a script in a process of its own; return the JSON object it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def median_seconds(work: Callable[[], Any], *, n_runs: int) -> tuple[float, Any]:
    """Do a piece of work several times; return the median time and the last result."""
    seconds = []
    result = None
    for _ in range(n_runs):
        result = None  # what the last run made is given back before the next
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result


class Taken(NamedTuple):
    """Seconds of one run."""

    wall: float
    processor: float


def taken(command: list[str], environ: dict[str, str]) -> Taken:
    """Run a command to its end, and return what it took."""
    began, used = time.perf_counter(), _processor_seconds()
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return Taken(time.perf_counter() - began, _processor_seconds() - used)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median_taken(runs: list[Taken]) -> dict[str, float]:
    """Return the medians of several runs."""
    return {
        "wall": round(statistics.median(run.wall for run in runs), 3),
        "processor": round(statistics.median(run.processor for run in runs), 3),
    }
