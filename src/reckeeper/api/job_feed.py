"""Jobs as they change: one reader of the database, and everybody who follows a job."""

import asyncio
import contextlib
import functools
import resource
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from reckeeper import serving, storage, telemetry, training
from reckeeper.errors import Action, ReckeeperError, UnavailableError

_SILENT_SECONDS = 15.0
_LOOK_SECONDS = 2.0
"""How often a stream looks whether it may go on where there is nothing to tell."""

_END = b"event: end\ndata: {}\n\n"
_STILL_HERE = b": still here\n\n"
_log = telemetry.get_logger("server")


@dataclass(frozen=True, eq=False)
class JobState:
    """A job as it was at a moment; see `training.describe_job`."""

    row: storage.Job
    today: training.Today | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the job runs no more."""
        return self.row.status != storage.jobs.RUNNING

    @functools.cached_property
    def event(self) -> bytes:
        """The state as a server-sent event; written once for all who follow the job."""
        job = training.describe_job(self.row, today=self.today)
        return f"event: job\ndata: {job.model_dump_json()}\n\n".encode()


@dataclass(eq=False)
class _Followed:
    state: JobState
    n_followers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobFeed:
    """Follows jobs: however many ask for a job, its row is read once in a while.

    A follower keeps no thread and no connection to the database, and only the latest state: a
    slow one misses those between.

    Parameters
    ----------
    database : storage.Database
    every_seconds : float
        How often the rows are read.

    Attributes
    ----------
    problem : str or None
        Why the last reading failed, in a sentence; None if it succeeded.
    """

    def __init__(self, database: storage.Database, *, every_seconds: float) -> None:
        self._database = database
        self._every_seconds = every_seconds
        self._followed: dict[int, _Followed] = {}
        self._wanted = asyncio.Event()
        self._in_thread = asyncio.Lock()
        self.problem: str | None = None
        self._is_ending = False
        self._n_streams = 0
        # Each stream is an open file, and other requests need some too.
        n_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_streams = 2**20 if n_files == resource.RLIM_INFINITY else n_files // 2

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read within the block; its end waits, not for long, for a reading to end."""
        reader = asyncio.create_task(self._read_on())
        try:
            yield
        finally:
            # To cancel the task would not end its thread, which uses the database.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(serving.STOP_SECONDS), self._in_thread:
                    reader.cancel()
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    def end_streams(self) -> None:
        """End all streams; those that wait for a job's end still get it."""
        self._is_ending = True
        for followed in self._followed.values():
            followed.wake()

    async def ended(self, row: storage.Job) -> storage.Job:
        """Wait until a job has ended, and return it.

        Parameters
        ----------
        row : storage.Job
            The job, as it was just read.
        """
        async with contextlib.aclosing(self._states(JobState(row))) as states:
            async for state in states:
                row = row if state is None else state.row
        return row

    def stream(
        self,
        row: storage.Job,
        *,
        today: training.Today | None = None,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> AsyncGenerator[bytes, None]:
        """Return a job's states as server-sent events: ``job``, …, and ``end`` after the last.

        Once `may_go_on` says no, there is nothing more.

        Raises
        ------
        UnavailableError
            So many streams are open that this one would leave too few files for the rest.
        """
        if self._n_streams >= self._most_streams:
            raise UnavailableError(
                f"{self._n_streams} streams are open, and this process has files for no more. Ask "
                "for the job now and then instead, or raise the limit on open files.",
                action=Action("see_job", {"job_id": row.job_id}),
            )
        return self._events(JobState(row, today), may_go_on)

    async def _events(
        self, given: JobState, may_go_on: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        self._n_streams += 1
        try:
            async with contextlib.aclosing(self._states(given)) as states:
                told_at = time.monotonic()
                async for state in states:
                    if not may_go_on():
                        return
                    if state is not None or time.monotonic() - told_at >= _SILENT_SECONDS:
                        yield _STILL_HERE if state is None else state.event
                        told_at = time.monotonic()
                    if self._is_ending:
                        return
            yield _END
        finally:
            self._n_streams -= 1

    async def _states(self, given: JobState) -> AsyncGenerator[JobState | None, None]:
        """Yield the states of a job up to its end; None where there is nothing new to tell."""
        if given.has_ended:
            yield given
            return
        followed = self._followed.setdefault(given.row.job_id, _Followed(given))
        followed.n_followers += 1
        self._wanted.set()
        try:
            told = followed.state
            yield told
            while not told.has_ended:
                changed = followed.changed
                if followed.state is not told:
                    told = followed.state
                    yield told
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await changed.wait()
                if followed.state is told:
                    yield None
        finally:
            followed.n_followers -= 1
            if not followed.n_followers:
                del self._followed[given.row.job_id]

    async def _read_on(self) -> None:
        while True:
            await self._wanted.wait()
            if not self._followed:
                self.problem = None
                self._wanted.clear()
                continue
            try:
                async with self._in_thread:
                    rows = await run_in_threadpool(self._read, list(self._followed))
            except Exception as exc:  # noqa: BLE001
                # Without this task everybody who waits would wait for ever.
                is_known = isinstance(exc, ReckeeperError)
                if self.problem is None:
                    _log.error("jobs_not_read", error=str(exc), exc_info=None if is_known else exc)
                reason = str(exc) if is_known else f"{type(exc).__name__}; the log has the details."
                self.problem = f"Running jobs cannot be read: whoever waits for one waits. {reason}"
            else:
                self.problem = None
                for row in rows:
                    followed = self._followed.get(row.job_id)
                    if followed is not None and followed.state.row != row:
                        followed.state = JobState(row)
                        followed.wake()
            await asyncio.sleep(self._every_seconds)

    def _read(self, job_ids: Iterable[int]) -> list[storage.Job]:
        training.expire_silent(self._database)
        with self._database.read() as connection:
            found = (storage.jobs.get(connection, job_id) for job_id in job_ids)
            return [row for row in found if row is not None]
