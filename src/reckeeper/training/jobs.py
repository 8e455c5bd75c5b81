"""Jobs: a row, a child process, and what becomes of what it made."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import psutil

from reckeeper import audit, clock, notices, serving, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import (
    ConflictError,
    DataError,
    JobCancelledError,
    JobInterruptedError,
    JobTimeoutError,
    NotFoundError,
    PinnedError,
    ReckeeperError,
    StorageError,
    TrainingError,
    error_of,
)
from reckeeper.registry import Registry
from reckeeper.telemetry import TRAINING_JOBS, TRAINING_SECONDS, get_logger
from reckeeper.training.pipeline import TUNING, checked_request

HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.2
"""How often a worker looks whether its job is to be cancelled."""

_AGAIN_SECONDS = 1.0
"""Between two tries to write the end of a job into a database that cannot be reached."""

_OUTAGE_GRACE_SECONDS = 5.0
"""How long after an outage of the database a silent worker is not yet taken for a dead one."""

_log = get_logger(__name__)


class JobRunner:
    """Runs jobs, one at a time, each in a fresh child process.

    Parameters
    ----------
    database : storage.Database
    registry : Registry
    settings : Settings
        Handed to the child through its environment.
    """

    def __init__(self, database: storage.Database, registry: Registry, settings: Settings) -> None:
        self._database = database
        self._registry = registry
        self._settings = settings
        self._watchers: dict[int, threading.Thread] = {}
        self._stopping = threading.Event()

    def start(
        self,
        *,
        trigger: str,
        actor: str,
        kind: Literal["retrain", "evaluate"] = "retrain",
        request: Mapping[str, Any] | None = None,
        cause: Mapping[str, Any] | None = None,
        not_since: int | None = None,
    ) -> int:
        """Start a job and return its number; `wait` for its end.

        Parameters
        ----------
        trigger : str
            What starts it: ``manual``, ``schedule``, ``rule``, ``demo``.
        actor : str
            Who, for the trail.
        kind : str
            ``retrain``: make a version, which serves if the policy lets it.
            ``evaluate``: measure which recipe suits the data, and leave all
            as it is.
        request : mapping, optional
            For a retrain, fields of `pipeline.RetrainRequest`.
        cause : mapping, optional
            Which rule fired, with its numbers, in JSON values.
        not_since : int, optional
            Microseconds since 1970: a job of this trigger that has started at
            this moment or later is the one that was meant.

        Raises
        ------
        DataError
            The request cannot be used; see `pipeline.checked_request`.
        JobRunningError
            One runs already.
        ConflictError
            One has started since `not_since`.
        """
        expire_silent(self._database)
        with self._database.write() as connection:
            checked = checked_request(request or {}, active=storage.models.active(connection))
            if checked and kind == storage.jobs.EVALUATE:
                raise DataError(f"request: An evaluation takes none, not {checked}. Leave it out.")
            if not_since is not None and storage.jobs.has_started(
                connection, trigger=trigger, since=not_since
            ):
                raise ConflictError("Another worker has started the job for this time.")
            job_id = storage.jobs.insert(
                connection,
                trigger=trigger,
                actor=actor,
                kind=kind,
                request=checked,
                cause=cause,
                holder=_holder(),
            )
            audit.record(
                connection,
                actor=actor,
                action=kind,
                subject=f"job {job_id}",
                trigger=trigger,
                request=checked,
                cause=cause,
            )
        try:
            with contextlib.suppress(ReckeeperError):  # what is left over can wait
                self._registry.remove_unfinished()
            child = subprocess.Popen(
                [sys.executable, "-m", "reckeeper.training.child", str(job_id)],
                stdin=subprocess.PIPE,
                env={**os.environ, **self._settings.to_env()},
            )
        except OSError as exc:
            failure = TrainingError(
                f"The training process could not be started: {exc}. See what the machine is short "
                "of, then retrain.",
                details={"job_id": job_id},
            )
            self._fail(job_id, failure)
            raise failure from exc
        _log.info("job_started", job_id=job_id, kind=kind, trigger=trigger, pid=child.pid)
        watcher = threading.Thread(
            target=self._watch, args=(job_id, child), name=f"job-{job_id}", daemon=True
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
        with self._database.read() as connection:
            policy = policies.current(connection, self._settings).policy
        self._registry.retain(
            n_versions=policy.versions_kept, days=policy.kept_days, actor="worker"
        )

    def _watch(self, job_id: int, child: "subprocess.Popen[bytes]") -> None:
        try:
            ended = self._await(job_id, child)
            with self._kept_alive(job_id):
                self._finish_when_reached(job_id, child.wait(), ended)
        except JobInterruptedError as exc:
            _log.warning("job_ended_by_others", job_id=job_id, error=exc.message)
        except Exception:  # noqa: BLE001
            # There is no one above to tell, and without an end in its row the job would
            # block every later one until its lease lapses.
            _log.exception("job_not_finished", job_id=job_id)
            with contextlib.suppress(ReckeeperError):
                self._fail(
                    job_id,
                    TrainingError(
                        "The worker failed on this job; its log has the details. Retrain."
                    ),
                )
        finally:
            self._watchers.pop(job_id, None)
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
            with contextlib.suppress(ReckeeperError, OSError):
                self._registry.remove_unfinished()

    def _await(self, job_id: int, child: "subprocess.Popen[bytes]") -> ReckeeperError | None:
        """Wait for the child, or end it; return why it was ended."""
        deadline = time.monotonic() + self._settings.job_timeout_seconds
        next_beat = 0.0
        while True:
            try:
                child.wait(timeout=_LOOK_SECONDS)
                return None
            except subprocess.TimeoutExpired:
                pass
            ended: ReckeeperError | None = None
            if self._stopping.is_set():
                ended = JobInterruptedError(
                    "The worker was stopped while this job ran. Start another one."
                )
            elif time.monotonic() > deadline:
                ended = JobTimeoutError(
                    f"The job took longer than the {self._settings.job_timeout_seconds} seconds "
                    "that it may (RECKEEPER_JOB_TIMEOUT_SECONDS) and was ended. Train on less, "
                    "or allow more."
                )
            elif self._is_cancelled(job_id):
                ended = _cancelled(job_id)
            elif time.monotonic() >= next_beat:
                next_beat = time.monotonic() + HEARTBEAT_SECONDS
                if not self._beat(job_id, child.pid):
                    ended = _lost(job_id)
            if ended is not None:
                child.kill()
                return ended

    @contextlib.contextmanager
    def _kept_alive(self, job_id: int) -> Iterator[None]:
        """Keep a job's lease while its version is loaded and decided on, however long that is."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT_SECONDS):
                self._beat(job_id, None)

        beating = threading.Thread(target=beat, name=f"job-{job_id}-heartbeat", daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()

    def _is_cancelled(self, job_id: int) -> bool:
        try:
            with self._database.read() as connection:
                job = storage.jobs.get(connection, job_id)
        except StorageError:
            return False
        return job is not None and job.cancel_requested

    def _beat(self, job_id: int, pid: int | None) -> bool:
        """Tell that the job is alive; return whether it is still this worker's."""
        memory: int | None = None
        with contextlib.suppress(psutil.Error):
            memory = None if pid is None else psutil.Process(pid).memory_info().rss
        try:
            with self._database.write() as connection:
                storage.jobs.update(connection, job_id, memory_bytes=memory)
                return storage.jobs.beat(connection, job_id) is not None
        except StorageError as exc:
            _log.warning("heartbeat_not_written", job_id=job_id, error=exc.message)
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
                    _log.warning("job_end_not_written", job_id=job_id, error=exc.message)
                is_known = True

    def _finish(self, job_id: int, status: int, ended: ReckeeperError | None) -> None:
        with self._database.read() as connection:
            job = storage.jobs.get(connection, job_id)
            is_ours = storage.jobs.is_held(connection, job_id)
        assert job is not None
        if not is_ours:
            raise _lost(job_id)
        if ended is not None:
            if job.version is not None and not isinstance(ended, JobInterruptedError):
                self._discard(job.version, reason=f"job {job_id} was ended: {ended.code}")
            self._fail(job_id, ended)
        elif status == 0:
            try:
                if job.version is not None:
                    self._decide(job)
                else:  # an evaluation, or a retrain that found nothing new
                    is_retrain = job.kind == storage.jobs.RETRAIN
                    self._succeed(job_id, promoted=False if is_retrain else None)
            except JobInterruptedError:
                raise
            except ReckeeperError as exc:
                if storage.is_unreachable(exc):
                    raise
                if isinstance(exc, JobCancelledError) and job.version is not None:
                    self._discard(job.version, reason=f"job {job_id} was cancelled")
                self._fail(job_id, exc)
        elif job.error_code is not None:
            self._fail(
                job_id,
                error_of(job.error_code, job.error_message or ""),
                traceback=job.traceback,
            )
        elif status < 0:
            self._fail(
                job_id,
                JobInterruptedError(
                    f"The training process was ended by signal {-status} before it was done. If "
                    "the machine ran out of memory, give it more; then retrain."
                ),
            )
        else:
            self._fail(
                job_id,
                TrainingError(
                    f"The training process ended with status {status} before it was done; the "
                    "worker's log has what it said. Retrain."
                ),
            )

    def _decide(self, job: storage.Job) -> None:
        """Let a job's version serve, if the policy lets it."""
        job_id, version = job.job_id, job.version
        assert version is not None
        verdict = job.verdict or {}
        is_rejected = verdict.get("decision") == "reject"
        with self._database.read() as connection:
            policy = policies.current(connection, self._settings).policy
            before = storage.models.active_version(connection)
            has_demo = storage.imports.demo(connection) is not None
        mode = policy.promotion_for(job.trigger)
        model = self._registry.load(version)
        serving.check(model)
        if model.artifact.metadata.is_demo and not has_demo:
            self._discard(version, reason="demo data removed")
            raise TrainingError(
                "The demo data was removed while this job trained on it. Retrain on what is there."
            )
        how_to = f"To let it serve all the same: POST /models/{version}/activate."
        if mode == "manual":
            self._hold_back(
                job, f"Version {version} waits: by the policy a person decides. {how_to}"
            )
            return
        if mode == "gate" and is_rejected:
            self._hold_back(job, f"Version {version} was rejected and does not serve. {how_to}")
            return
        outcome = f"Version {version} serves."
        if is_rejected:
            outcome = f"Version {version} serves, as the policy has it for this kind of retrain."
            if before is not None:
                outcome += f" To go back to version {before}: POST /models/rollback."

        def note(connection: storage.Connection) -> None:
            active = storage.models.active_version(connection)
            if mode == "gate" and active != verdict.get("active_version", active):
                raise _OvertakenError
            self._set_succeeded(connection, job_id, promoted=True, outcome=outcome)

        try:
            self._registry.activate(
                model,
                actor=job.actor or "worker",
                reason=_why(job),
                action="promote",
                job_id=job_id,
                also=note,
            )
        except PinnedError as exc:
            self._hold_back(job, f"Version {version} does not serve: {exc.message} {how_to}")
            return
        except _OvertakenError:
            self._hold_back(
                job,
                f"Version {version} waits: since it was judged, another version was activated. "
                f"{how_to}",
            )
            return
        self._count(job_id)
        self.tidy()

    def _hold_back(self, job: storage.Job, outcome: str) -> None:
        """Keep a job's version inactive, and say why."""
        with self._database.write() as connection:
            self._set_succeeded(connection, job.job_id, promoted=False, outcome=outcome)
            if (job.verdict or {}).get("decision") == "reject":
                notices.notify(
                    connection,
                    "rejected",
                    {
                        "job_id": job.job_id,
                        "version": job.version,
                        "trigger": job.trigger,
                        "message": outcome,
                        "verdict": job.verdict,
                    },
                )
        self._count(job.job_id)
        self.tidy()

    def _discard(self, version: int, *, reason: str) -> None:
        with contextlib.suppress(ConflictError, NotFoundError):
            self._registry.delete(version, actor="worker", reason=reason)

    def _succeed(self, job_id: int, *, promoted: bool | None) -> None:
        with self._database.write() as connection:
            self._set_succeeded(connection, job_id, promoted=promoted)
        self._count(job_id)

    def _set_succeeded(
        self,
        connection: storage.Connection,
        job_id: int,
        *,
        promoted: bool | None,
        outcome: str | None = None,
    ) -> None:
        """End a job well, in the transaction of what it did."""
        job = _found(connection, job_id)
        if job.cancel_requested:
            raise _cancelled(job_id)
        values: storage.jobs.Changes = {"promoted": promoted, "stage": "done", "fraction": 1.0}
        if outcome is not None:
            assert job.version is not None
            verdict = {**(job.verdict or {}), "outcome": outcome}
            values["verdict"] = verdict
            storage.models.set_verdict(connection, job.version, verdict)
        if not storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED, **values):
            raise _lost(job_id)

    def _fail(self, job_id: int, error: ReckeeperError, *, traceback: str | None = None) -> None:
        status = _STATUS_OF_ERROR.get(error.code, storage.jobs.FAILED)
        with self._database.write() as connection:
            ended = storage.jobs.end(
                connection,
                job_id,
                status=status,
                error_code=error.code,
                error_message=error.message,
                traceback=traceback,
            )
            if not ended:
                raise _lost(job_id)
            if status != storage.jobs.CANCELLED and not self._stopping.is_set():
                notices.notify(
                    connection,
                    "job_failed",
                    {"job_id": job_id, "code": error.code, "message": error.message},
                )
        self._count(job_id)

    def _count(self, job_id: int) -> None:
        with self._database.read() as connection:
            job = storage.jobs.get(connection, job_id)
        assert job is not None
        assert job.finished_at is not None
        seconds = (job.finished_at - job.started_at) / 1e6
        TRAINING_JOBS.labels(job.status).inc()
        TRAINING_SECONDS.observe(seconds)
        _log.info(
            "job_ended",
            job_id=job_id,
            kind=job.kind,
            status=job.status,
            version=job.version,
            promoted=job.promoted,
            seconds=round(seconds, 3),
            error=job.error_message,
        )


class _OvertakenError(Exception):
    """What a version was judged against does not serve any more."""


_STATUS_OF_ERROR = {
    JobCancelledError.code: storage.jobs.CANCELLED,
    JobInterruptedError.code: storage.jobs.INTERRUPTED,
}


def _cancelled(job_id: int) -> JobCancelledError:
    return JobCancelledError(
        f"Training job {job_id} was cancelled; the active version serves on. Start another one "
        "when you want to."
    )


def _lost(job_id: int) -> JobInterruptedError:
    return JobInterruptedError(
        f"Training job {job_id} was silent for too long and is given up: its version does "
        "not serve. Start another one."
    )


def _why(job: storage.Job) -> str:
    """Return in words what started a job, for the timeline."""
    cause = (job.cause or {}).get("sentence")
    return f"job {job.job_id}: {cause}" if cause else f"job {job.job_id}"


def _holder(pid: int | None = None) -> str:
    """Name a process so that another on the same machine can tell whether it is gone."""
    process = psutil.Process(pid)
    started = process.create_time()
    if sys.platform == "linux":  # both move with the clock when it is set
        started -= psutil.boot_time()
    return f"{_machine()}:{process.pid}:{started:.2f}"


def _machine() -> str:
    """Name what a process number is unique in: a boot, and a container's own numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _is_gone(holder: str) -> bool:
    """Return whether a holder is a process of this machine that has ended."""
    machine, _, _ = holder.rpartition(":")
    machine, _, pid = machine.rpartition(":")
    if machine != _machine():
        return False
    try:
        is_dead = psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
        return is_dead or _holder(int(pid)) != holder
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def expire_silent(database: storage.Database) -> None:
    """Mark running jobs whose worker has gone as interrupted.

    Of a worker on another machine that is known when its lease has lapsed, of
    one on this machine at once.
    """
    with database.read() as connection:
        has_lapsed = storage.jobs.has_lapsed(connection)
        holder = storage.leases.holder(connection, storage.leases.TRAINING)
    is_gone = holder is not None and _is_gone(holder)
    has_lapsed = has_lapsed and database.seconds_reached() > _OUTAGE_GRACE_SECONDS
    if has_lapsed or is_gone:
        with database.write() as connection:
            if holder is not None and is_gone:
                storage.leases.revoke(connection, storage.leases.TRAINING, holder=holder)
            for job_id in storage.jobs.interrupt_lapsed(connection):
                notices.notify(
                    connection,
                    "job_failed",
                    {
                        "job_id": job_id,
                        "code": JobInterruptedError.code,
                        "message": "The worker ended while this job ran. Start another one.",
                    },
                )


def request_cancel(
    database: storage.Database, job_id: int, *, actor: str, reason: str | None = None
) -> storage.Job:
    """Ask the worker of a job to end it, and return it; within a second it is done.

    Asking again changes nothing.

    Raises
    ------
    NotFoundError
        There is no such job.
    ConflictError
        It has ended already.
    """
    expire_silent(database)
    with database.write() as connection:
        job = _found(connection, job_id)
        if job.status == storage.jobs.CANCELLED:
            return job
        if job.status != storage.jobs.RUNNING:
            raise ConflictError(
                f"Job {job_id} has ended already ({job.status}): there is nothing to cancel."
            )
        if not job.cancel_requested:
            storage.jobs.update(connection, job_id, cancel_requested=True)
            audit.record(
                connection, actor=actor, action="cancel", subject=f"job {job_id}", reason=reason
            )
        return _found(connection, job_id)


def find_job(database: storage.Database, job_id: int) -> storage.Job:
    """Return a job.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    expire_silent(database)
    with database.read() as connection:
        return _found(connection, job_id)


def request_finish(database: storage.Database, job_id: int, *, actor: str) -> storage.Job:
    """Ask a job that tunes to go on with the best that it has, and return it.

    Asking again changes nothing.

    Raises
    ------
    NotFoundError
        There is no such job.
    ConflictError
        It is not tuning, or no more.
    """
    expire_silent(database)
    with database.write() as connection:
        job = _found(connection, job_id)
        if job.status != storage.jobs.RUNNING or job.stage != TUNING:
            doing = (
                f"is at {job.stage!r}"
                if job.status == storage.jobs.RUNNING
                else f"has ended ({job.status})"
            )
            raise ConflictError(
                f"Job {job_id} {doing}, and tunes nothing: there is nothing to finish. GET "
                f"/jobs/{job_id} shows when its stage is {TUNING!r}."
            )
        if not job.finish_requested:
            storage.jobs.update(connection, job_id, finish_requested=True)
            audit.record(connection, actor=actor, action="finish_tuning", subject=f"job {job_id}")
        return _found(connection, job_id)


def _found(connection: storage.Connection, job_id: int) -> storage.Job:
    job = storage.jobs.get(connection, job_id)
    if job is None:
        raise NotFoundError(f"There is no job {job_id}: GET /jobs lists those that there are.")
    return job


def job_error(job: storage.JobSummary) -> ReckeeperError:
    """Return the error that ended a job."""
    return error_of(
        job.error_code or "training_failed",
        job.error_message or "The training did not succeed.",
        details={"job_id": job.job_id},
    )


def describe_job(job: storage.JobSummary) -> dict[str, Any]:
    """Return a job as the API shows it.

    ``seconds_left`` is an estimate: what tuning says while it lasts, else from
    the fraction done and the time that it took; None while too little is known
    to tell. ``result`` is there for a whole `storage.Job`.
    """
    ended_at = job.finished_at or clock.now()
    elapsed = (ended_at - job.started_at) / 1e6
    left = None
    if job.status == storage.jobs.RUNNING:
        if job.stage == TUNING:
            left = (job.progress or {}).get("seconds_left")
        elif job.fraction >= 0.05:
            left = round(elapsed * (1 - job.fraction) / job.fraction, 1)
    error = None
    if job.error_code is not None:
        error = {"code": job.error_code, "message": job.error_message}
    described = {
        "job_id": job.job_id,
        "kind": job.kind,
        "request": job.request,
        "status": job.status,
        "trigger": job.trigger,
        "actor": job.actor,
        "cause": job.cause,
        "stage": job.stage,
        "fraction": job.fraction,
        "seconds_elapsed": round(elapsed, 1),
        "seconds_left": left,
        "progress": job.progress,
        "finish_requested": job.finish_requested,
        "cancel_requested": job.cancel_requested,
        "started_at": clock.rfc3339(job.started_at),
        "finished_at": None if job.finished_at is None else clock.rfc3339(job.finished_at),
        "version": job.version,
        "promoted": job.promoted,
        "verdict": job.verdict,
        "memory_bytes": job.memory_bytes,
        "estimated_memory_bytes": job.estimated_memory_bytes,
        "peak_memory_bytes": job.peak_memory_bytes,
        "error": error,
    }
    return described | ({"result": job.result} if isinstance(job, storage.Job) else {})
