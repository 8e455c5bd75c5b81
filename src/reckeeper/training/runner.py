"""Running jobs: a child process each, its heartbeat, and whoever watches both."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import psutil

from reckeeper import storage, wire
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    JobInterruptedError,
    JobTimeoutError,
    ReckeeperError,
    StorageError,
    TrainingError,
)
from reckeeper.periodic import Periodic
from reckeeper.registry import Registry
from reckeeper.serving import Serving
from reckeeper.telemetry import get_logger
from reckeeper.training import child, jobs, keeper
from reckeeper.training.promotion import Promotion

HEARTBEAT_SECONDS = 1.0
"""How often a worker renews the lease of its job."""

_AGAIN_SECONDS = 1.0
"""Between two tries to write the end of a job into a database that cannot be reached."""

# To import what a training needs takes seconds: on Linux a job's process is the copy of one
# that has, started with the worker's first job. (macOS crashes in a copy whose BLAS was used.)
if sys.platform == "linux":
    _PROCESSES = multiprocessing.get_context("forkserver")
    _PROCESSES.set_forkserver_preload(
        ["reckeeper.training.child", "reckeeper.training.keeper", "sklearn.decomposition"]
    )
else:
    _PROCESSES = multiprocessing.get_context("spawn")

_log = get_logger(__name__)


class JobRunner:
    """Runs jobs, one at a time, each in a fresh child process.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    settings : Settings
        Handed to the child.
    served : Serving, optional
        What this process serves; it takes over the model that was checked.
    """

    def __init__(
        self,
        database: storage.Database,
        registry: Registry,
        settings: Settings,
        *,
        served: Serving | None = None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._watchers: dict[int, threading.Thread] = {}
        self._stopping = threading.Event()
        self._promotion = Promotion(database, registry, settings, served=served)

    def start(
        self,
        *,
        trigger: str,
        actor: str,
        kind: Literal["retrain", "evaluate"] = "retrain",
        request: Mapping[str, object] | None = None,
        cause: wire.Cause | None = None,
        not_since: int | None = None,
        ticket: str | None = None,
    ) -> int:
        """Start a job and return its number; `wait` for its end.

        Parameters
        ----------
        trigger : str
            What starts it: ``manual``, ``schedule``, ``rule``, ``demo``.
        actor : str
            Who, for the trail.
        kind : str
            ``retrain``: make a version, which is activated if the policy lets it.
            ``evaluate``: measure which recipe suits the data, and leave all
            as it is.
        request : mapping, optional
            For a retrain, fields of `wire.RetrainRequest`.
        cause : wire.Cause, optional
            Which rule fired, with its numbers.
        not_since : int, optional
            Microseconds since 1970: a job of this trigger that has started at
            this moment or later is the one that was meant.
        ticket : str, optional
            What whoever asks can take back for as long as it was not used.

        Raises
        ------
        DataError
            The request cannot be used; see `request.checked_request`.
        JobRunningError
            One runs already.
        ConflictError
            One has started since `not_since`, or the ticket is not valid.
        """
        job_id = jobs.start(
            self._database,
            trigger=trigger,
            actor=actor,
            kind=kind,
            request=request,
            cause=cause,
            not_since=not_since,
            ticket=ticket,
        )
        with contextlib.suppress(ReckeeperError):  # what is left over can wait
            self._registry.recovery.remove_unfinished()
        watcher = threading.Thread(
            target=self._watch, args=(job_id, kind, trigger), name=f"job-{job_id}", daemon=True
        )
        self._watchers[job_id] = watcher
        watcher.start()
        return job_id

    def wait(self, job_id: int) -> None:
        """Wait until a job of this process has ended, whatever way."""
        watcher = self._watchers.get(job_id)
        if watcher is not None:
            watcher.join()

    def stop(self, *, wait: bool = True) -> None:
        """End a running child; its job becomes interrupted."""
        self._stopping.set()
        for watcher in list(self._watchers.values()) if wait else ():
            watcher.join()

    def tidy(self) -> None:
        """Delete the versions that the policy does not keep."""
        self._promotion.tidy()

    def _watch(self, job_id: int, kind: str, trigger: str) -> None:
        started = contextlib.ExitStack()
        try:
            with self._kept_alive(job_id):  # a worker's first takes seconds
                process = self._started(job_id, started)
            _log.info("job_started", job_id=job_id, kind=kind, trigger=trigger, pid=process.pid)
            ended = self._await(job_id, process)
            with self._kept_alive(job_id):
                status = process.wait(None)
                assert status is not None
                self._finish_when_reached(job_id, status, ended)
        except JobInterruptedError as exc:
            _log.warning("job_ended_by_others", job_id=job_id, error=exc.in_full)
        except TrainingError as exc:
            with contextlib.suppress(ReckeeperError):
                self._fail(job_id, self._stopped() or exc)
        except Exception as exc:  # noqa: BLE001
            # There is no one above to tell, and without an end in its row the job would
            # block every later one until its lease lapses.
            reason: ReckeeperError | None = self._stopped()
            if reason is None:
                _log.exception("job_not_finished", job_id=job_id)
                told = "The worker failed on this job; its log has the details. Retrain."
                reason = TrainingError(told)
            else:  # a signal to all processes at once ends a child in the middle of its start
                _log.warning("job_stopped", job_id=job_id, error=repr(exc))
            with contextlib.suppress(ReckeeperError):
                self._fail(job_id, reason)
        finally:
            self._watchers.pop(job_id, None)
            started.close()
            with contextlib.suppress(ReckeeperError, OSError):
                self._registry.recovery.remove_unfinished()

    def _started(self, job_id: int, started: contextlib.ExitStack) -> "_Child":
        """Start the process of a job, and the one that keeps its lease; `started` ends both."""

        def start(name: str, target: Callable[..., None], *arguments: object) -> "_Child":
            process = _Child(name, target, job_id, self._settings, *arguments)
            started.callback(process.end)
            return process

        try:
            process = start(f"job-{job_id}", child.run)
            start(f"job-{job_id}-lease", keeper.run, os.getpid())
        except OSError as exc:
            raise TrainingError(
                f"The training process could not be started: {exc}. See what the machine is short "
                "of, then retrain.",
                action=Action("retrain"),
            ) from exc
        return process

    def _await(self, job_id: int, process: "_Child") -> ReckeeperError | None:
        """Wait for the child, or end it; return why it was ended."""
        deadline = time.monotonic() + self._settings.job_timeout_seconds
        next_beat = 0.0
        while True:
            if process.wait(self._settings.poll_seconds) is not None:
                return None
            ended: ReckeeperError | None = None
            if self._stopping.is_set():
                ended = self._stopped()
            elif time.monotonic() > deadline:
                ended = JobTimeoutError(
                    f"The job took longer than the {self._settings.job_timeout_seconds} seconds "
                    "that it may (RECKEEPER_JOB_TIMEOUT_SECONDS) and was ended. Train on less, "
                    "or allow more."
                )
            elif self._is_cancelled(job_id):
                ended = jobs.cancelled(job_id)
            elif time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_SECONDS
                if not self._beat(job_id, process.pid):
                    ended = jobs.lost(job_id)
            if ended is not None:
                process.kill()
                return ended

    def _stopped(self) -> JobInterruptedError | None:
        """Return why a job ends where this worker is being stopped; None where it is not."""
        if not self._stopping.is_set():
            return None
        return JobInterruptedError("The worker was stopped while this job ran. Start another one.")

    @contextlib.contextmanager
    def _kept_alive(self, job_id: int) -> Iterator[None]:
        """Keep a job's lease while its version is loaded and decided on, however long that is."""
        with Periodic(
            lambda: self._beat(job_id, None),
            name=f"job-{job_id}-heartbeat",
            every_seconds=HEARTBEAT_SECONDS,
        ):
            yield

    def _is_cancelled(self, job_id: int) -> bool:
        try:
            with self._database.read() as connection:
                job = storage.jobs.get(connection, job_id)
        except StorageError:
            return False
        return job is not None and job.cancel_requested

    def _beat(self, job_id: int, pid: int | None) -> bool:
        """Report that the job is alive; return whether it is still this worker's."""
        memory: int | None = None
        with contextlib.suppress(psutil.Error):
            memory = None if pid is None else psutil.Process(pid).memory_info().rss
        try:
            with self._database.write() as connection:
                storage.jobs.update(connection, job_id, memory_bytes=memory)
                return storage.jobs.beat(connection, job_id) is not None
        except StorageError as exc:
            _log.warning("heartbeat_not_written", job_id=job_id, error=exc.in_full)
            return True

    def _finish_when_reached(self, job_id: int, status: int, ended: ReckeeperError | None) -> None:
        """Finish a job, again and again while the database cannot be reached."""
        is_known = False
        while True:
            try:
                self._finish(job_id, status, ended)
                return
            except StorageError as exc:
                if not storage.is_unreachable(exc) or self._stopping.wait(_AGAIN_SECONDS):
                    raise
                if not is_known:
                    _log.warning("job_end_not_written", job_id=job_id, error=exc.in_full)
                is_known = True

    def _finish(self, job_id: int, status: int, ended: ReckeeperError | None) -> None:
        """Write the end of a job whose child has ended, by itself or by this worker."""
        with self._database.read() as connection:
            job = storage.jobs.get(connection, job_id)
            is_ours = storage.jobs.is_held(connection, job_id)
        assert job is not None
        if not is_ours:
            raise jobs.lost(job_id)
        if ended is not None:
            if not isinstance(ended, JobInterruptedError):
                self._promotion.discard(job, reason=f"job {job_id} was ended: {ended.code}")
            self._fail(job_id, ended)
        elif status != 0:
            self._fail(job_id, _failure(job, status), traceback=job.traceback)
        else:
            try:
                self._promotion.settle(job)
            except JobInterruptedError:
                raise
            except ReckeeperError as exc:
                if storage.is_unreachable(exc):
                    raise
                self._fail(job_id, exc)

    def _fail(self, job_id: int, error: ReckeeperError, *, traceback: str | None = None) -> None:
        told = self._settings.without_folders(error.message)
        if told != error.message:
            _log.warning("job_failed", job_id=job_id, error=error.in_full)
            error.message = told
        jobs.fail(
            self._database,
            job_id,
            error,
            traceback=traceback,
            notify=not self._stopping.is_set(),
        )


class _Child:
    """A process that ends with this one, however this one ends: it gets the end of a pipe."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        read_end, self._kept_open = _PROCESSES.Pipe(duplex=False)
        with read_end:
            self._process = _PROCESSES.Process(
                target=target, args=(*arguments, read_end), name=name
            )
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, timeout_seconds: float | None) -> int | None:
        """Return the exit status, below 0 the signal's number; None after the timeout."""
        self._process.join(timeout_seconds)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        """End it, if it still runs, and let go of all that it held."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._kept_open.close()


def _failure(job: storage.Job, status: int) -> ReckeeperError:
    """Return why a child ended with a status that is not 0: by its row, or by the status."""
    if job.error_code is not None:
        return jobs.job_error(job)
    if status < 0:
        return JobInterruptedError(
            f"The training process was ended by signal {-status} before it was done. If "
            "the machine ran out of memory, give it more; then retrain.",
            action=Action("retrain"),
        )
    if status == child.OUT_OF_MEMORY:
        return TrainingError(
            "The training ran out of memory. Give the worker more, or train on less."
        )
    return TrainingError(
        f"The training process ended with status {status} before it was done; the "
        "worker's log has what it said. Retrain.",
        action=Action("retrain"),
    )
