"""How long the command line takes to answer: ``python -m benchmarks.command_line``.

Each command several times, in a process of its own, the median of wall and of processor seconds;
beside it an interpreter that does nothing and one that imports numpy. On a machine that is busy
otherwise, only the processor seconds say something.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import harness

RECKEEPER = str(Path(sys.executable).with_name("reckeeper"))
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "--help": [RECKEEPER, "--help"],
    "--version": [RECKEEPER, "--version"],
    "models --help": [RECKEEPER, "models", "--help"],
    "models": [RECKEEPER, "models"],
    "jobs": [RECKEEPER, "jobs"],
    "policy": [RECKEEPER, "policy"],
    "audit": [RECKEEPER, "audit"],
    "imports list": [RECKEEPER, "imports", "list"],
}


class Taken(NamedTuple):
    """Seconds of one run."""

    wall: float
    processor: float


def _taken(command: list[str], environ: dict[str, str]) -> Taken:
    began, used = time.perf_counter(), _processor_seconds()
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return Taken(time.perf_counter() - began, _processor_seconds() - used)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(n_runs: int = 9) -> dict[str, object]:
    """Measure the commands against a server that runs."""
    with harness.installation() as settings:
        server = f"http://127.0.0.1:{settings.server_port}"
        with harness.process("server/server.py", settings, url=server):
            environ = {**os.environ, **settings.to_env()}
            taken = {
                name: [_taken(command, environ) for _ in range(n_runs)]
                for name, command in COMMANDS.items()
            }
    return {
        "benchmark": "command_line",
        "runs": n_runs,
        "seconds": {
            name: {
                "wall": round(statistics.median(run.wall for run in runs), 3),
                "processor": round(statistics.median(run.processor for run in runs), 3),
            }
            for name, runs in taken.items()
        },
    }


if __name__ == "__main__":
    print(json.dumps(run()))
