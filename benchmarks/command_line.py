"""How long the command line takes to answer: ``python -m benchmarks.command_line``.

Each command several times, in a process of its own, the median of wall and of processor seconds;
beside it an interpreter that does nothing and one that imports numpy. On a machine that is busy
otherwise, only the processor seconds say something.
"""

import json
import os
import sys
from pathlib import Path

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


def run(n_runs: int = 9) -> dict[str, object]:
    """Measure the commands against a server that runs."""
    with harness.installation() as settings:
        server = f"http://127.0.0.1:{settings.server_port}"
        with harness.process("server/server.py", settings, url=server):
            environ = {**os.environ, **settings.to_env()}
            taken = {
                name: [harness.taken(command, environ) for _ in range(n_runs)]
                for name, command in COMMANDS.items()
            }
    return {
        "benchmark": "command_line",
        "runs": n_runs,
        "seconds": {name: harness.median_taken(runs) for name, runs in taken.items()},
    }


if __name__ == "__main__":
    print(json.dumps(run()))
