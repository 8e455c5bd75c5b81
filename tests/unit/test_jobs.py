"""Training jobs, in real child processes."""

import dataclasses
import os
import re
import signal

import pytest
import structlog

from reckeeper import storage
from reckeeper.errors import (
    JobInterruptedError,
    JobRunningError,
    NotEnoughDataError,
    StorageError,
)
from reckeeper.training import JobRunner, describe_job, expire_silent, jobs


@pytest.fixture
def runner(database, registry, settings):
    runner = JobRunner(database, registry, settings)
    yield runner
    runner.stop()


@pytest.fixture
def job_of(database):
    def get(job_id):
        with database.read() as connection:
            return storage.jobs.get(connection, job_id)

    return get


def start(runner, *, trigger="manual"):
    """Start a job; return its number and the id of its process."""
    with structlog.testing.capture_logs() as lines:
        job_id = runner.start(trigger=trigger, actor="test")
    (pid,) = (line["pid"] for line in lines if line["event"] == "job_started")
    return job_id, pid


def test_a_job_trains_and_activates(runner, job_of, registry, taste, settings, database):
    job_id, pid = start(runner, trigger="schedule")
    assert pid != os.getpid()
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job["status"], job["stage"], job["fraction"]) == ("succeeded", "done", 1.0)
    assert (job["version"], job["error_code"], job["trigger"]) == (1, None, "schedule")
    assert job["peak_memory_bytes"] > 10_000_000
    assert job["finished_at"] > job["started_at"]
    described = registry.version(1)
    assert (described["status"], described["job_id"]) == ("active", job_id)
    assert (described["trigger"], described["training_samples"]) == ("schedule", len(taste))
    assert len(list(settings.model_dir.iterdir())) == 3
    shown = describe_job(job)
    assert (shown["seconds_left"], shown["error"]) == (None, None)
    assert shown["seconds_elapsed"] == pytest.approx(
        (job["finished_at"] - job["started_at"]) / 1e6, abs=0.06
    )
    assert shown["started_at"].endswith("Z")
    with database.read() as connection:
        entries = storage.audit_log.latest(connection, limit=10)
    assert [(entry["action"], entry["subject"]) for entry in reversed(entries)] == [
        ("retrain", f"job {job_id}"),
        ("activate", "model 1"),
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_second_job_is_refused_while_one_runs_and_runs_after_it(
    runner, job_of, registry, taste, database, settings
):
    job_id, _ = start(runner)
    for other in (runner, JobRunner(database, registry, settings)):
        with pytest.raises(JobRunningError, match=f"Training job {job_id} runs already") as caught:
            other.start(trigger="manual", actor="test")
        assert caught.value.details == {"job_id": job_id}
    runner.wait(job_id)
    again, _ = start(runner)
    runner.wait(again)
    assert [job_of(number)["version"] for number in (job_id, again)] == [1, 2]
    assert registry.active_version() == 2


def test_too_little_data_fails_and_leaves_the_active_version(
    runner, job_of, registry, taste, train, database
):
    registry.activate(registry.load(train()), actor="test")
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions")
    job_id, _ = start(runner)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "not_enough_data")
    assert "There are no interactions to train on" in job["error_message"]
    assert describe_job(job)["error"] == {
        "code": "not_enough_data",
        "message": job["error_message"],
    }
    error = jobs.job_error(job)
    assert isinstance(error, NotEnoughDataError)
    assert error.details == {"job_id": job_id}
    assert registry.active_version() == 1
    assert [row["version"] for row in registry.versions()] == [1]


def test_one_user_is_too_little(train, add, settings, registry):
    add(("u", "i"), ("u", "j"))
    with pytest.raises(NotEnoughDataError, match=r"1 user\(s\) with 2 item\(s\)"):
        train()
    assert registry.versions() == []
    assert not settings.model_dir.exists()


def test_a_killed_process_is_a_failed_job_and_the_next_one_runs(runner, job_of, registry, taste):
    job_id, pid = start(runner)
    os.kill(pid, signal.SIGKILL)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "training_failed")
    assert "was ended by signal 9 before it was done" in job["error_message"]
    assert "If the machine ran out of memory" in job["error_message"]
    assert registry.versions() == []
    again, _ = start(runner)
    runner.wait(again)
    assert job_of(again)["status"] == "succeeded"


def test_an_error_that_nobody_foresaw_is_in_the_jobs_row(runner, job_of, database, taste):
    job_id, _ = start(runner)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE models RENAME TO away")
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "storage_failed")
    assert "no such table: models" in job["error_message"]


def test_stopping_interrupts_the_job(runner, job_of, registry, taste):
    job_id, pid = start(runner)
    os.kill(pid, signal.SIGSTOP)  # so that it cannot come to its end by itself
    runner.stop()
    job = job_of(job_id)
    assert (job["status"], job["error_code"]) == ("interrupted", "interrupted")
    assert "Start another one" in job["error_message"]
    assert isinstance(jobs.job_error(job), JobInterruptedError)
    assert registry.active_version() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_job_that_somebody_else_ended_does_not_serve(runner, job_of, registry, taste, database):
    """A worker that slept for long: its job was given up, and perhaps another has run."""
    job_id, pid = start(runner)
    with database.write() as connection:
        interrupted = storage.jobs.interrupt_silent(connection, silent_since=storage.now() + 1)
    assert interrupted == [job_id]
    runner.wait(job_id)
    assert job_of(job_id)["status"] == "interrupted"
    assert registry.active_version() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_version_of_a_job_that_was_given_up_is_not_promoted(
    runner, registry, taste, train, job_of
):
    version = train()  # its job has ended
    (job_id,) = (row["job_id"] for row in registry.versions())
    with structlog.testing.capture_logs():
        runner._finish(job_id, 0)
    assert job_of(job_id)["status"] == "succeeded"
    assert registry.version(version)["status"] == "inactive"


def test_a_silent_job_expires(runner, job_of, database, taste):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    expire_silent(database)
    assert job_of(job_id)["status"] == "running"
    silence = int((jobs.SILENT_SECONDS + 1) * 1e6)
    with database.write() as connection:
        storage.jobs.update(connection, job_id, heartbeat_at=storage.now() - silence)
    again, _ = start(runner)
    assert job_of(job_id)["status"] == "interrupted"
    runner.wait(again)
    assert job_of(again)["status"] == "succeeded"


WORKER = """
import sys
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.registry import Registry
from reckeeper.training import JobRunner

settings = Settings.from_env()
database = storage.open_database(settings)
runner = JobRunner(database, Registry(database, settings.model_dir), settings)
runner.start(trigger="manual", actor="test")
print("started", flush=True)
sys.stdin.readline()
"""


def test_the_process_of_a_job_ends_with_its_worker(
    database, taste, start_python, wait_until, settings
):
    worker = start_python(WORKER)
    said = "".join(iter(worker.stdout.readline, "started\n"))
    without_colours = re.sub(r"\x1b\[\d*m", "", said)
    pid = int(re.search(r"pid=(\d+)", without_colours)[1])
    os.kill(pid, 0)
    worker.kill()

    def is_gone():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone)


def test_old_versions_go_when_a_job_is_done(database, registry, settings, taste, train, job_of):
    for _ in range(3):
        train()
    runner = JobRunner(database, registry, dataclasses.replace(settings, versions_kept=2))
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert [row["version"] for row in registry.versions()] == [4, 3]
    runner.stop()


def test_time_left_is_estimated():
    job = {
        "job_id": 1, "status": "running", "trigger": "manual", "stage": "fitting", "fraction": 0.25,
        "started_at": storage.now() - 10_000_000, "finished_at": None, "version": None,
        "peak_memory_bytes": None, "error_code": None, "error_message": None,
    }  # fmt: skip
    shown = describe_job(job)
    assert shown["seconds_left"] == pytest.approx(30.0, abs=0.5)
    assert shown["seconds_elapsed"] == pytest.approx(10.0, abs=0.2)
    assert shown["finished_at"] is None
    assert describe_job({**job, "fraction": 0.01})["seconds_left"] is None


def test_times_are_rfc_3339():
    assert jobs.rfc3339(1_764_891_735_000_042) == "2025-12-04T23:42:15.000042Z"
    assert jobs.rfc3339(0) == "1970-01-01T00:00:00.000000Z"


def test_a_heartbeat_that_cannot_be_written_ends_nothing(
    runner, job_of, taste, monkeypatch, database
):
    update = storage.jobs.update
    missed = []

    def fail_once(connection, job_id, **values):
        if "heartbeat_at" in values and not missed:
            missed.append(job_id)
            raise StorageError("The database is locked.")
        return update(connection, job_id, **values)

    monkeypatch.setattr(storage.jobs, "update", fail_once)
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.05)
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert missed == [job_id]
    assert job_of(job_id)["status"] == "succeeded"


def test_a_worker_that_fails_on_a_job_says_so(runner, job_of, taste, monkeypatch):
    def fail(version):
        raise MemoryError

    monkeypatch.setattr(runner._registry, "load", fail)
    job_id, _ = start(runner)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job["status"], job["error_code"]) == ("failed", "training_failed")
    assert "its log has the details" in job["error_message"]
