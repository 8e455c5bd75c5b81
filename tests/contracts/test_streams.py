"""The feed of jobs: one reader for all who follow."""

import asyncio
import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reckeeper import storage, training
from reckeeper.api import job_feed
from reckeeper.errors import UnavailableError


def run(coroutine):
    """Run it in a thread: tests of the page leave a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


@pytest.fixture
def job(database):
    """Start a job that nobody runs, and return its row."""
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    return training.find_job(database, job_id)


class CountedFeed(job_feed.JobFeed):
    """Counts how often it reads, and what for."""

    def __init__(self, database):
        super().__init__(database, every_seconds=0.05)
        self.reads = []

    def _read(self, job_ids):
        self.reads.append(list(job_ids))
        return super()._read(job_ids)


def change(database, job, **values):
    with database.write() as connection:
        assert storage.jobs.update(connection, job.job_id, **values)


def end(database, job):
    with database.write() as connection:
        assert storage.jobs.end(connection, job.job_id, status="succeeded", fraction=1.0)


def fraction_of(event):
    name, data = event.decode().removesuffix("\n\n").split("\n")
    assert name == "event: job"
    return json.loads(data.removeprefix("data: "))["fraction"]


def test_all_who_follow_share_one_reader_and_get_the_end(database, job):
    async def follow():
        feed = CountedFeed(database)
        async with feed.running():
            followers = [feed.stream(job) for _ in range(50)]
            assert {fraction_of(await anext(events)) for events in followers} == {0.0}
            waiting = asyncio.create_task(feed.ended(job))
            change(database, job, fraction=0.5)
            assert {fraction_of(await anext(events)) for events in followers} == {0.5}
            end(database, job)
            for events in followers:
                assert fraction_of(await anext(events)) == 1.0
                assert await anext(events) == b"event: end\ndata: {}\n\n"
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
            assert (await waiting).status == "succeeded"
            assert {tuple(read) for read in feed.reads} == {(job.job_id,)}
            assert not feed._followed
            assert feed._n_streams == 0

    run(follow())


def test_who_is_slow_misses_states_and_never_the_last(database, job):
    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        async with feed.running():
            slow, quick = feed.stream(job), feed.stream(job)
            await anext(slow)
            await anext(quick)
            for fraction in (0.2, 0.4, 0.6):
                change(database, job, fraction=fraction)
                assert fraction_of(await anext(quick)) == fraction
            assert fraction_of(await anext(slow)) == 0.6
            change(database, job, fraction=0.8)
            assert fraction_of(await anext(quick)) == 0.8
            end(database, job)
            assert fraction_of(await anext(quick)) == 1.0
            assert fraction_of(await anext(slow)) == 1.0
            for events in (slow, quick):
                assert [event async for event in events] == [b"event: end\ndata: {}\n\n"]

    run(follow())


def test_nothing_is_read_while_nobody_follows(database, job):
    async def follow():
        feed = CountedFeed(database)
        async with feed.running():
            gone = feed.stream(job)
            await anext(gone)
            while not feed.reads:
                await asyncio.sleep(0)
            await gone.aclose()
            assert not feed._followed
            while feed._wanted.is_set():
                await asyncio.sleep(0.01)
            n_reads = len(feed.reads)
            again = feed.stream(job)
            assert fraction_of(await anext(again)) == 0.0
            change(database, job, fraction=0.3)
            assert fraction_of(await anext(again)) == 0.3
            assert len(feed.reads) > n_reads
            await again.aclose()

    run(follow())


def test_a_job_that_has_ended_is_told_without_reading(database, job):
    end(database, job)

    async def follow():
        feed = CountedFeed(database)
        async with feed.running():
            ended = training.find_job(database, job.job_id)
            events = [event async for event in feed.stream(ended)]
            assert (fraction_of(events[0]), len(events)) == (1.0, 2)
            assert await feed.ended(ended) == ended
            assert not feed.reads

    run(follow())


def test_a_silent_stream_says_that_it_is_still_there(database, job, monkeypatch):
    monkeypatch.setattr(job_feed, "_SILENT_SECONDS", 0.01)
    monkeypatch.setattr(job_feed, "_LOOK_SECONDS", 0.01)

    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        async with feed.running(), contextlib.aclosing(feed.stream(job)) as events:
            await anext(events)
            assert await anext(events) == b": still here\n\n"

    run(follow())


def test_a_stream_that_may_not_go_on_ends_without_another_word(database, job, monkeypatch):
    monkeypatch.setattr(job_feed, "_LOOK_SECONDS", 0.01)
    allowed = [True]

    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        stream = feed.stream(job, may_go_on=lambda: bool(allowed))
        async with feed.running(), contextlib.aclosing(stream) as events:
            await anext(events)
            allowed.clear()
            assert [event async for event in events] == []

    run(follow())


def test_at_the_end_of_the_process_streams_end_and_who_waits_goes_on(database, job):
    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        async with feed.running():
            waiting = asyncio.create_task(feed.ended(job))
            idle, blocked = feed.stream(job), feed.stream(job)
            await anext(idle)
            await anext(blocked)
            rest = asyncio.create_task(anext(idle, None))
            await asyncio.sleep(0)
            feed.end_streams()
            assert await rest is None
            for events in (idle, blocked):
                assert [event async for event in events] == []
            assert not waiting.done()
            end(database, job)
            assert (await waiting).status == "succeeded"

    run(follow())


def test_nothing_is_read_after_the_end(database, job):
    class SlowFeed(job_feed.JobFeed):
        has_begun = has_ended = False

        def _read(self, job_ids):
            self.has_begun = True
            time.sleep(0.2)
            rows = super()._read(job_ids)
            self.has_ended = True
            return rows

    async def follow():
        feed = SlowFeed(database, every_seconds=0.05)
        async with feed.running(), contextlib.aclosing(feed.stream(job)) as events:
            await anext(events)
            while not feed.has_begun:
                await asyncio.sleep(0)
        assert feed.has_ended

    run(follow())


def test_the_end_does_not_wait_for_ever_for_a_database_that_hangs(database, job, monkeypatch):
    monkeypatch.setattr(job_feed.serving, "STOP_SECONDS", 0.05)
    has_begun, goes_on = threading.Event(), threading.Event()

    class HangingFeed(job_feed.JobFeed):
        def _read(self, job_ids):
            has_begun.set()
            goes_on.wait()
            return []

    async def follow():
        feed = HangingFeed(database, every_seconds=0.05)
        async with feed.running(), contextlib.aclosing(feed.stream(job)) as events:
            await anext(events)
            while not has_begun.is_set():
                await asyncio.sleep(0)
        goes_on.set()

    run(follow())


def test_reading_that_fails_is_tried_again(database, job):
    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        async with feed.running():
            events = feed.stream(job)
            await anext(events)
            with database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE training_jobs RENAME TO elsewhere")
            while feed.problem is None:
                await asyncio.sleep(0.01)
            with database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO training_jobs")
            end(database, job)
            assert fraction_of(await anext(events)) == 1.0

    run(follow())


def test_streams_beyond_half_of_the_files_are_refused(database, job, monkeypatch):
    monkeypatch.setattr(job_feed.resource, "getrlimit", lambda _: (4, 4))

    async def follow():
        feed = job_feed.JobFeed(database, every_seconds=0.05)
        async with feed.running():
            opened = [feed.stream(job) for _ in range(2)]
            for events in opened:
                await anext(events)
            with pytest.raises(UnavailableError, match="2 streams are open"):
                feed.stream(job)
            await opened[0].aclose()
            await anext(feed.stream(job))

    run(follow())
