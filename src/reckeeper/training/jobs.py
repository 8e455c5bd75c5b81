"""Jobs: a row, a child process, and what becomes of what it made."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from reckeeper import artifact, audit, serving, storage
from reckeeper.config import Settings
from reckeeper.errors import (
    ConflictError,
    DataError,
    JobInterruptedError,
    NotFoundError,
    ReckeeperError,
    StorageError,
    TrainingError,
    error_of,
)
from reckeeper.registry import Registry
from reckeeper.telemetry import TRAINING_JOBS, TRAINING_SECONDS, get_logger
from reckeeper.training.pipeline import TUNING, checked_request

HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 10.0
"""A running job without a heartbeat for so long has lost its worker."""

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
    ) -> int:
        """Start a job and return its number; `wait` for its end.

        Parameters
        ----------
        trigger : str
            What starts it: ``manual``, ``schedule``, …
        actor : str
            Who, for the trail.
        kind : str
            ``retrain``: make a version that serves. ``evaluate``: measure
            which recipe suits the data, and leave all as it is.
        request : mapping, optional
            For a retrain, fields of `pipeline.RetrainRequest`.

        Raises
        ------
        DataError
            The request cannot be used; see `pipeline.checked_request`.
        JobRunningError
            One runs already.
        """
        expire_silent(self._database)
        with self._database.write() as connection:
            checked = checked_request(request or {}, active=storage.models.active(connection))
            if checked and kind == storage.jobs.EVALUATE:
                raise DataError(f"request: An evaluation takes none, not {checked}. Leave it out.")
            job_id = storage.jobs.insert(connection, trigger=trigger, kind=kind, request=checked)
            audit.record(
                connection,
                actor=actor,
                action=kind,
                subject=f"job {job_id}",
                trigger=trigger,
                request=checked,
            )
        try:
            artifact.remove_unfinished(self._settings.model_dir)
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
            self._end(
                job_id,
                storage.jobs.FAILED,
                error_code=failure.code,
                error_message=failure.message,
            )
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

    def _watch(self, job_id: int, child: "subprocess.Popen[bytes]") -> None:
        try:
            while True:
                try:
                    status = child.wait(timeout=HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if not self._beat(job_id) or self._stopping.is_set():
                        child.kill()
            self._finish(job_id, status)
        except Exception:  # noqa: BLE001
            # There is no one above to tell, and without an end in its row the job would
            # block every later one until it is found silent.
            _log.exception("job_not_finished", job_id=job_id)
            with contextlib.suppress(ReckeeperError):
                self._end(
                    job_id,
                    storage.jobs.FAILED,
                    error_code=TrainingError.code,
                    error_message="The worker failed on this job; its log has the details. "
                    "Retrain.",
                )
        finally:
            self._watchers.pop(job_id, None)
            child.kill()
            child.wait()
            if child.stdin is not None:
                child.stdin.close()

    def _beat(self, job_id: int) -> bool:
        """Tell that the job is alive; return whether it is still this worker's."""
        try:
            with self._database.write() as connection:
                return storage.jobs.update(connection, job_id, heartbeat_at=storage.now())
        except StorageError as exc:
            _log.warning("heartbeat_not_written", job_id=job_id, error=exc.message)
            return True

    def _finish(self, job_id: int, status: int) -> None:
        with self._database.read() as connection:
            job = storage.jobs.get(connection, job_id)
        assert job is not None
        if job["status"] != storage.jobs.RUNNING:
            # Found silent, and given up: another job may have run since.
            _log.warning("job_ended_by_others", job_id=job_id)
        elif self._stopping.is_set():
            self._end(
                job_id,
                storage.jobs.INTERRUPTED,
                error_code="interrupted",
                error_message="The worker was stopped while this job ran. Start another one.",
            )
        elif status == 0 and job["version"] is not None:
            try:
                self._promote(job_id, job["version"])
            except ReckeeperError as exc:
                self._end(
                    job_id,
                    storage.jobs.FAILED,
                    error_code=exc.code,
                    error_message=exc.message,
                )
        elif status == 0 and job["kind"] == storage.jobs.EVALUATE:
            self._end(job_id, storage.jobs.SUCCEEDED)
        elif job["error_code"] is not None:
            self._end(job_id, storage.jobs.FAILED)
        else:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            self._end(
                job_id,
                storage.jobs.FAILED,
                error_code="training_failed",
                error_message=f"The training process was ended {how} before it was done. If the "
                "machine ran out of memory, give it more; then retrain.",
            )

    def _promote(self, job_id: int, version: int) -> None:
        model = self._registry.load(version)
        serving.trial(model)
        with self._database.read() as connection:
            has_demo = storage.imports.demo(connection) is not None
        if model.artifact.metadata.is_demo and not has_demo:
            self._registry.delete(version, actor="worker", reason="demo data removed")
            raise TrainingError(
                "The demo data was removed while this job trained on it. Retrain on what is there."
            )
        self._registry.activate(
            model,
            actor="worker",
            reason=f"job {job_id}",
            also=lambda connection: self._set_end(connection, job_id, storage.jobs.SUCCEEDED),
        )
        self._count(job_id, storage.jobs.SUCCEEDED)
        self._registry.retain(n_versions=self._settings.versions_kept, actor="worker")

    def _end(self, job_id: int, status: str, **values: Any) -> None:
        with self._database.write() as connection:
            self._set_end(connection, job_id, status, **values)
        self._count(job_id, status)

    def _set_end(
        self, connection: storage.Connection, job_id: int, status: str, **values: Any
    ) -> None:
        if status == storage.jobs.SUCCEEDED:
            values |= {"stage": "done", "fraction": 1.0}
        if not storage.jobs.update(
            connection, job_id, status=status, finished_at=storage.now(), **values
        ):
            raise JobInterruptedError(
                f"Training job {job_id} was silent for too long and is given up: its version does "
                "not serve. Start another one."
            )

    def _count(self, job_id: int, status: str) -> None:
        with self._database.read() as connection:
            job = storage.jobs.get(connection, job_id)
        assert job is not None
        seconds = (job["finished_at"] - job["started_at"]) / 1e6
        TRAINING_JOBS.labels(status).inc()
        TRAINING_SECONDS.observe(seconds)
        _log.info(
            "job_ended",
            job_id=job_id,
            kind=job["kind"],
            status=status,
            version=job["version"],
            seconds=round(seconds, 3),
            error=job["error_message"],
        )


def expire_silent(database: storage.Database) -> None:
    """Mark running jobs whose worker has gone as interrupted."""
    silent_since = storage.now() - int(SILENT_SECONDS * 1e6)
    with database.read() as connection:
        job = storage.jobs.running(connection)
    if job is not None and job["heartbeat_at"] < silent_since:
        with database.write() as connection:
            storage.jobs.interrupt_silent(connection, silent_since=silent_since)


def find_job(database: storage.Database, job_id: int) -> dict[str, Any]:
    """Return the row of a job.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    expire_silent(database)
    with database.read() as connection:
        return _found(connection, job_id)


def request_finish(database: storage.Database, job_id: int, *, actor: str) -> dict[str, Any]:
    """Ask a job that tunes to go on with the best that it has, and return its row.

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
        if job["status"] != storage.jobs.RUNNING or job["stage"] != TUNING:
            doing = (
                f"is at {job['stage']!r}"
                if job["status"] == storage.jobs.RUNNING
                else f"has ended ({job['status']})"
            )
            raise ConflictError(
                f"Job {job_id} {doing}, and tunes nothing: there is nothing to finish. GET "
                f"/jobs/{job_id} shows when its stage is {TUNING!r}."
            )
        if not job["finish_requested"]:
            storage.jobs.update(connection, job_id, finish_requested=True)
            audit.record(connection, actor=actor, action="finish_tuning", subject=f"job {job_id}")
        return _found(connection, job_id)


def _found(connection: storage.Connection, job_id: int) -> dict[str, Any]:
    job = storage.jobs.get(connection, job_id)
    if job is None:
        raise NotFoundError(f"There is no job {job_id}: GET /jobs lists those that there are.")
    return job


def job_error(job: dict[str, Any]) -> ReckeeperError:
    """Return the error that ended a job, from its row."""
    return error_of(
        job["error_code"] or "training_failed",
        job["error_message"] or "The training did not succeed.",
        details={"job_id": job["job_id"]},
    )


def describe_job(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's row as the API shows it.

    ``seconds_left`` is an estimate: what tuning says while it lasts, else from
    the fraction done and the time that it took; None while too little is known
    to tell. ``result`` is there if the row has it.
    """
    ended_at = job["finished_at"] or storage.now()
    elapsed = (ended_at - job["started_at"]) / 1e6
    left = None
    if job["status"] == storage.jobs.RUNNING:
        if job["stage"] == TUNING:
            left = (job["progress"] or {}).get("seconds_left")
        elif job["fraction"] >= 0.05:
            left = round(elapsed * (1 - job["fraction"]) / job["fraction"], 1)
    error = None
    if job["error_code"] is not None:
        error = {"code": job["error_code"], "message": job["error_message"]}
    described = {
        "job_id": job["job_id"],
        "kind": job["kind"],
        "request": job["request"],
        "status": job["status"],
        "trigger": job["trigger"],
        "stage": job["stage"],
        "fraction": job["fraction"],
        "seconds_elapsed": round(elapsed, 1),
        "seconds_left": left,
        "progress": job["progress"],
        "finish_requested": job["finish_requested"],
        "started_at": rfc3339(job["started_at"]),
        "finished_at": None if job["finished_at"] is None else rfc3339(job["finished_at"]),
        "version": job["version"],
        "peak_memory_bytes": job["peak_memory_bytes"],
        "error": error,
    }
    return described | ({"result": job["result"]} if "result" in job else {})


def rfc3339(microseconds: int) -> str:
    """Return a time as ``2025-12-04T23:42:15.123456Z``."""
    seconds, rest = divmod(microseconds, 1_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"
