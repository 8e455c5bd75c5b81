"""Child processes that need not import anything: copies of one that has.

A training's process takes two seconds to import what it needs, and hundreds of
tests start one. `Child` stands in for `subprocess.Popen` where only a job's
process is started: a process of its own, of which all else is true too.
"""

import multiprocessing
import os
import subprocess
from collections.abc import Mapping
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["reckeeper.training.child", "sklearn.decomposition"])


class Child:
    """The process of ``python -m reckeeper.training.child JOB_ID``."""

    def __init__(self, command: list[str], *, stdin: int, env: Mapping[str, str]) -> None:
        _, flag, module, job_id = command
        assert (flag, module, stdin) == ("-m", "reckeeper.training.child", subprocess.PIPE)
        read_end, self.stdin = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_run, args=(int(job_id), read_end, dict(env)))
        self._process.start()
        read_end.close()
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status; of a signal, its number below 0."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("child", timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()


def _run(job_id: int, read_end: Connection, environ: dict[str, str]) -> None:
    from reckeeper.training import child

    os.environ.clear()
    os.environ.update(environ)
    os.dup2(read_end.fileno(), 0)
    read_end.close()
    raise SystemExit(child.main(job_id))
