"""Programs that need not import anything: copies of a process that has.

A server takes a second and a half of a core to import what it needs, a command nearly as much,
and the system tests start hundreds. A copy is a process of its own with an environment, a folder,
signals and a log of its own, and runs the same file. What is special about a fresh start is tested
with fresh ones.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socketserver
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import reckeeper.training.runner  # noqa: F401  has a list of its own, and the last one counts

CAN_COPY = sys.platform == "linux"

_CONTEXT = multiprocessing.get_context("forkserver" if CAN_COPY else "spawn")
if CAN_COPY:
    _CONTEXT.set_forkserver_preload(
        ["reckeeper.api.app", "reckeeper.worker.app", "reckeeper.cli.commands", "typer.rich_utils",
         # … and what they import once they need it.
         "adbc_driver_postgresql.dbapi", "alembic.command", "alembic.context", "confluent_kafka",
         "psycopg", "pyarrow.pandas_compat", "reckeeper.tabular", "sklearn.decomposition"]
    )  # fmt: skip


class Copy:
    """A running copy, used as a `subprocess.Popen`; its output goes to one file or two."""

    def __init__(
        self,
        file: str,
        *arguments: str,
        cwd: Path,
        env: dict[str, str],
        log: Path,
        error_log: Path | None = None,
    ) -> None:
        forkserver.ensure_running()
        address = forkserver._forkserver._forkserver_address
        self._process = _CONTEXT.Process(
            target=_run, args=([file, *arguments], cwd, env, log, error_log or log, address)
        )
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status; of a signal, its number below 0."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()


# Says what a shell called, and where its output goes; ends as the copy has.
_CALLER = """#!{python} -SE
import json, os, socket, sys
here = os.getcwd(), dict(os.environ), os.getpid()
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect({address!r})
    with caller.makefile("rw") as stream:
        print(json.dumps([sys.argv[1:], *here]), file=stream, flush=True)
        sys.exit(int(stream.readline()))
"""


@contextlib.contextmanager
def command(file: Path, called: Path) -> Iterator[None]:
    """Have who calls a file, inside the block, run a copy of a Python program instead."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            arguments, cwd, env, pid = json.loads(self.rfile.readline())
            output, errors = (Path(f"/proc/{pid}/fd/{descriptor}") for descriptor in (1, 2))
            copy = Copy(str(file), *arguments, cwd=Path(cwd), env=env, log=output, error_log=errors)
            try:
                self.wfile.write(b"%d\n" % copy.wait())
            finally:
                copy.kill()

    address = str(called.with_suffix(".socket"))
    with socketserver.ThreadingUnixStreamServer(address, Handler) as server:
        called.write_text(_CALLER.format(python=sys.executable, address=address))
        called.chmod(0o755)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _run(
    argv: list[str], cwd: Path, env: dict[str, str], log: Path, error_log: Path, address: str
) -> None:
    os.setsid()
    for descriptor, path in enumerate((log, error_log), 1):
        with path.open("ab") as stream:
            os.dup2(stream.fileno(), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    # Its training processes are copies of the same process.
    server = forkserver._forkserver
    server._forkserver_address = address
    server.ensure_running = lambda: None
    if env.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
