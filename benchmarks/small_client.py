"""Size and import time of `reckeeper-client`: ``python -m benchmarks.small_client``.

Its wheel is built and installed into an environment of its own with what it needs, from the
package index. Megabytes are of everything there but pip, compiled files too. Beside its import an
interpreter that does nothing, and the same client as a part of the whole; on a machine that is
busy otherwise, only the processor seconds say something.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import harness


def run(n_runs: int = 9) -> dict[str, object]:
    """Build, install and import the client."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-bench-") as name:
        folder = Path(name)
        python = _installed(folder)
        commands = {
            "python": [str(python), "-c", "pass"],
            "import reckeeper_client": [str(python), "-c", "import reckeeper_client"],
            "import reckeeper.client": [sys.executable, "-c", "import reckeeper.client"],
        }
        for command in commands.values():  # compiles what is imported
            harness.taken(command, dict(os.environ))
        return {
            "benchmark": "small_client",
            "runs": n_runs,
            "megabytes": round(_size(folder / "environment") / 1e6, 1),
            "seconds": {
                name: harness.median_taken(
                    [harness.taken(command, dict(os.environ)) for _ in range(n_runs)]
                )
                for name, command in commands.items()
            },
        }


def _installed(folder: Path) -> Path:
    """Return the interpreter of an environment that has the client."""
    client = harness.CHECKOUT / "client"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, client],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--compile", wheel], check=True)
    return python


def _size(environment: Path) -> int:
    (packages,) = environment.glob("lib/python*/site-packages")
    return sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())


if __name__ == "__main__":
    print(json.dumps(run()))
