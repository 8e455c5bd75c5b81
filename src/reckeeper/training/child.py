"""What the process of one job does.

Started by `JobRunner`, which holds the other end of a pipe: when that closes,
the worker is gone, and this process ends at once.
"""

import _thread
import contextlib
import mmap
import os
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import NoReturn, Unpack

from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import JobInterruptedError, ReckeeperError, StorageError
from reckeeper.telemetry import configure_logging, get_logger, peak_memory_bytes
from reckeeper.training import pipeline, recipe_comparison
from reckeeper.training.comparison import Comparison
from reckeeper.training.tuning import TuningProgress
from reckeeper.training.verdict import Verdict

_log = get_logger(__name__)
NICENESS = 10
"""What the process of a job adds to its niceness: those who wait for an answer come first."""

OUT_OF_MEMORY = 3
"""Exit status where there is no more memory, which may be too little to write a row."""

_LITTLE_BYTES = 16 << 20
"""Where so much is not to be had, memory has run out."""

_REPORT_SECONDS = 0.2
_OUTAGE_SECONDS = 60.0
"""How long a training waits for a database that cannot be reached before it fails."""


class _NotOursError(Exception):
    """The job does not run any more, or has lost its lease."""


def run(job_id: int, settings: Settings, worker: Connection) -> NoReturn:
    """Be the process of a job: exit with its status, or with the worker.

    Parameters
    ----------
    job_id : int
    settings : Settings
    worker : multiprocessing.connection.Connection
        Nothing is ever sent; its end is the worker's.
    """
    configure_logging("training")
    os.nice(NICENESS)
    try:
        # A `Thread` that gets no memory to begin with is waited for without end.
        _thread.start_new_thread(_end_with, (worker,))
        status = main(job_id, settings)
    except Exception as exc:
        if not _is_of_memory(exc):
            raise
        with contextlib.suppress(MemoryError):
            _log.exception("training_out_of_memory", job_id=job_id)
        status = OUT_OF_MEMORY
    sys.exit(status)


def _is_of_memory(exc: Exception) -> bool:
    """Say whether memory ran out, which libraries call by many names: a disk, a thread, a map."""
    if isinstance(exc, MemoryError):
        return True
    try:
        mmap.mmap(-1, _LITTLE_BYTES).close()
    except OSError:
        return True
    return False


def main(job_id: int, settings: Settings) -> int:
    """Do what a job is for and leave the outcome in its row; return the exit status."""
    database = storage.open_database(settings)
    progress = _Progress(database, job_id)
    try:
        with database.read() as connection:
            job = storage.jobs.get(connection, job_id)
        if job is None or job.status != storage.jobs.RUNNING:
            raise _NotOursError
        if job.kind == storage.jobs.EVALUATE:
            recipe_comparison.run(
                database, settings, report=progress.report, should_stop=progress.should_stop
            )
            return 0
        version = pipeline.run(
            database,
            settings,
            job=job,
            report=progress.report,
            should_stop=progress.should_stop,
        )
    except (_NotOursError, JobInterruptedError):
        _log.warning("job_ended_by_others", job_id=job_id)
        return 1
    except ReckeeperError as exc:
        _log.warning("job_failed", job_id=job_id, error=exc.in_full)
        progress.save(
            error_code=exc.code,
            error_message=settings.without_folders(exc.message),
            error_action=None if exc.action is None else exc.action.to_json(),
        )
        return 1
    except Exception as exc:
        if _is_of_memory(exc):
            raise
        # The row is where people look: whatever it was, it must say so.
        _log.exception("training_failed", job_id=job_id)
        progress.save(
            error_code="training_failed",
            error_message=f"The training failed: {type(exc).__name__}: {exc}. "
            "The worker's log has the details.",
            traceback=traceback.format_exc(),
        )
        return 1
    if version is not None:
        with contextlib.suppress(StorageError):  # it is registered, and that is what counts
            progress.save(stage="loading", fraction=0.97)
    return 0


class _Progress:
    """Writes how far the job is into its row, and reads whether tuning is to end.

    Either a few times a second at most; what tuning found before the stage
    changed, and every result, are always written.
    """

    def __init__(self, database: storage.Database, job_id: int) -> None:
        self._database = database
        self._job_id = job_id
        self._stage = ""
        self._written = 0.0
        self._held_back: storage.jobs.Changes = {}
        self._asked = 0.0
        self._finish_requested = False

    def report(
        self,
        stage: str,
        fraction: float,
        *,
        progress: TuningProgress | None = None,
        result: Comparison | None = None,
        estimated_memory_bytes: int | None = None,
        verdict: Verdict | None = None,
    ) -> None:
        told = self._held_back
        if progress is not None:
            told |= storage.jobs.Changes(progress=progress.to_json())
        if result is not None:
            told |= storage.jobs.Changes(result=result.to_json())
        if verdict is not None:
            told |= storage.jobs.Changes(verdict=verdict.to_json())
        if estimated_memory_bytes is not None:
            told |= storage.jobs.Changes(estimated_memory_bytes=estimated_memory_bytes)
        is_soon = time.monotonic() - self._written < _REPORT_SECONDS
        if stage == self._stage and is_soon and not told.keys() - {"progress"}:
            return
        self._held_back = {}
        self._stage, self._written = stage, time.monotonic()
        self.save(**(told | storage.jobs.Changes(stage=stage, fraction=fraction)))

    def should_stop(self) -> bool:
        if not self._finish_requested and time.monotonic() - self._asked >= _REPORT_SECONDS:
            self._asked = time.monotonic()
            job = self._database.retrying(
                lambda connection: storage.jobs.get(connection, self._job_id),
                seconds=_OUTAGE_SECONDS,
            )
            self._finish_requested = job is not None and job.finish_requested
        return self._finish_requested

    def save(self, **changes: Unpack[storage.jobs.Changes]) -> None:
        changes |= storage.jobs.Changes(peak_memory_bytes=peak_memory_bytes())

        def update(connection: storage.Connection) -> bool:
            return storage.jobs.update(connection, self._job_id, **changes)

        if not self._database.retrying(update, seconds=_OUTAGE_SECONDS):
            raise _NotOursError


def _end_with(worker: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        worker.recv_bytes()
    os._exit(1)
