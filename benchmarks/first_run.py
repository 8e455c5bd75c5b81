"""The first and the second ``make run``: ``python -m benchmarks.first_run``.

A clone of this checkout's last commit in a new folder, without pip's cache;
from the command to the line that prints the addresses.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import harness


def _until_healthy(checkout: Path, environ: dict[str, str]) -> float:
    began = time.perf_counter()
    child = subprocess.Popen(
        ["make", "run"],
        cwd=checkout,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        if line.startswith("Ctrl-C stops all"):
            break
    seconds = time.perf_counter() - began
    child.send_signal(signal.SIGTERM)
    child.communicate()
    if not said or not said[-1].startswith("Ctrl-C"):
        raise RuntimeError("".join(said))
    return seconds


def _n_bytes(folder: Path) -> int:
    found = (path.lstat() for path in folder.rglob("*"))
    return sum(status.st_blocks * 512 for status in found)


def run() -> dict[str, object]:
    """Measure both runs and the size of what the first installed."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as folder:
        checkout = Path(folder) / "reckeeper"
        subprocess.run(
            ["git", "clone", "--quiet", str(harness.CHECKOUT), str(checkout)], check=True
        )
        environ = {
            **{name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"},
            "PIP_NO_CACHE_DIR": "1",
            "RECKEEPER_SERVER_PORT": str(harness.free_port()),
            "RECKEEPER_WORKER_PORT": str(harness.free_port()),
            "RECKEEPER_UI_PORT": str(harness.free_port()),
        }
        first = _until_healthy(checkout, environ)
        return {
            "benchmark": "first_run",
            "first_seconds": round(first, 1),
            "second_seconds": round(_until_healthy(checkout, environ), 1),
            "installed_bytes": _n_bytes(checkout / ".venv"),
        }


if __name__ == "__main__":
    print(json.dumps(run()))
