"""Training jobs, in real child processes."""

import ctypes
import dataclasses
import json
import os
import pickle
import re
import shlex
import signal
import sys
import time

import psutil
import pytest
import structlog
from tests.system.installation import hold_still
from tests.unit.small_models import stored_version

from reckeeper import clock, machine, storage, training, wire
from reckeeper import policy as policies
from reckeeper.errors import (
    Action,
    ConflictError,
    DataError,
    JobCancelledError,
    JobInterruptedError,
    JobRunningError,
    NotEnoughDataError,
    NotFoundError,
    StorageError,
)
from reckeeper.events.files import undo
from reckeeper.policy import Policy, StoredPolicy
from reckeeper.training import (
    JobRunner,
    check_taste,
    checked_request,
    child,
    describe_job,
    describe_listed,
    expire_silent,
    find_job,
    jobs,
    pipeline,
    promotion,
    request_cancel,
    request_finish,
)
from reckeeper.training import (
    runner as runners,
)
from reckeeper.training.comparison import Comparison, MadeOn, Rule
from reckeeper.training.promotion import Promotion
from reckeeper.training.request import drift_of
from reckeeper.training.tuning import Trial, TuningProgress
from reckeeper.wire import RetrainRequest


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
        found = []
        while not found:
            time.sleep(0.01)
            found = [line["pid"] for line in lines if line["event"] == "job_started"]
    return job_id, found[0]


def let_lapse(database):
    """Let the lease of the running job lapse, as it does 10 seconds after its last renewal."""
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET expires_at = 0")


def test_a_job_trains_and_activates(runner, job_of, registry, taste, settings, database):
    job_id, pid = start(runner, trigger="schedule")
    assert pid != os.getpid()
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.stage, job.fraction) == ("succeeded", "done", 1.0)
    assert (job.version, job.error_code, job.trigger) == (1, None, "schedule")
    assert job.peak_memory_bytes > 10_000_000
    assert job.finished_at > job.started_at
    described = registry.versions.describe(1)
    assert (described.status, described.job_id) == ("active", job_id)
    assert (described.trigger, described.training_samples) == ("schedule", len(taste))
    assert len(list(settings.model_dir.glob("*model*"))) == 3
    shown = describe_job(job)
    assert (shown.seconds_left, shown.error) == (None, None)
    assert shown.seconds_elapsed == pytest.approx(
        (job.finished_at - job.started_at) / 1e6, abs=0.06
    )
    assert shown.started_at.endswith("Z")
    with database.read() as connection:
        entries = storage.audit_log.latest(connection, limit=10)
    assert [(entry.action, entry.subject) for entry in reversed(entries)] == [
        ("retrain", f"job {job_id}"),
        ("promote", "model 1"),
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
        assert caught.value.details == {"job_id": job_id, "kind": "retrain"}
    runner.wait(job_id)
    again, _ = start(runner)
    runner.wait(again)
    assert [job_of(number).version for number in (job_id, again)] == [1, 2]
    assert registry.switch.active_version() == 2


def test_too_little_data_fails_and_leaves_the_active_version(
    runner, job_of, registry, taste, train, database
):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions")
    job_id, _ = start(runner)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "not_enough_data")
    assert "There are no interactions to train on" in job.error_message
    assert describe_job(job).error.model_dump() == {
        "code": "not_enough_data",
        "message": job.error_message,
        "action": {"name": "send_interactions"},
    }
    error = jobs.job_error(job)
    assert isinstance(error, NotEnoughDataError)
    assert error.details == {"job_id": job_id}
    assert error.action == Action("send_interactions")
    assert registry.switch.active_version() == 1
    assert [row.version for row in registry.versions.all()] == [1]


def test_without_any_taste_nothing_is_trained(
    runner, job_of, registry, taste, train, add, database, settings, policy
):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    policy(weights={"buy": 1.0})
    _fails_without_taste(runner, job_of, registry)
    with database.read() as connection, pytest.raises(NotEnoughDataError, match="No interaction"):
        check_taste(connection, settings)
    policy(weights={"click": 1.0})
    with database.read() as connection:
        check_taste(connection, settings)
    add(*((user, item, "dismiss", 1.0, clock.now()) for user, item in set(taste)))
    _fails_without_taste(runner, job_of, registry)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE user_interactions SET weight = 0")
    _fails_without_taste(runner, job_of, registry)
    with database.read() as connection, pytest.raises(NotEnoughDataError, match="No interaction"):
        check_taste(connection, settings)


def _fails_without_taste(runner, job_of, registry):
    job_id = runner.start(trigger="schedule", actor="schedule")
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "not_enough_data")
    assert job.error_message.startswith("No interaction says that a user likes an item")
    assert registry.switch.active_version() == 1
    assert [row.version for row in registry.versions.all()] == [1]


def test_one_user_is_too_little(train, add, settings, registry):
    add(("u", "i"), ("u", "j"))
    with pytest.raises(NotEnoughDataError, match=r"1 user\(s\) with 2 item\(s\)"):
        train()
    assert registry.versions.all() == []
    assert registry.store.versions() == set()


def test_a_killed_process_is_an_interrupted_job_and_the_next_one_runs(
    runner, job_of, registry, taste
):
    job_id, pid = start(runner)
    os.kill(pid, signal.SIGKILL)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("interrupted", "interrupted")
    assert "was ended by signal 9 before it was done" in job.error_message
    assert "If the machine ran out of memory" in job.error_message
    assert registry.versions.all() == []
    again, _ = start(runner)
    runner.wait(again)
    assert job_of(again).status == "succeeded"


def test_an_error_that_nobody_foresaw_is_in_the_jobs_row(runner, job_of, database, taste):
    job_id, _ = start(runner)
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE models RENAME TO away")
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "storage_failed")
    # What PostgreSQL says is for the log alone: it may name users and databases.
    assert re.search("no such table: models|did not do what was asked", job.error_message)


def test_stopping_interrupts_the_job(runner, job_of, registry, taste, settings):
    job_id, pid = start(runner)
    gives_way = min(psutil.Process().nice() + child.NICENESS, 19)
    while psutil.Process(pid).nice() != gives_way:
        time.sleep(0.001)
    hold_still(pid, settings.data_dir)  # so that it cannot come to its end by itself
    runner.stop()
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("interrupted", "interrupted")
    assert "Start another one" in job.error_message
    assert isinstance(jobs.job_error(job), JobInterruptedError)
    assert registry.switch.active_version() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("failure", [EOFError, BrokenPipeError])
def test_a_stop_in_the_middle_of_a_start_interrupts_too(
    runner, job_of, taste, monkeypatch, failure
):
    """As when a signal goes to all processes at once, which `up` and a terminal do."""

    def stop(*arguments, **options):
        runner.stop(wait=False)
        raise failure

    monkeypatch.setattr(runners, "_Child", stop)
    job_id = runner.start(trigger="manual", actor="test")
    runner.wait(job_id)
    assert job_of(job_id).status == "interrupted"
    assert "Start another one" in job_of(job_id).error_message


def test_a_job_that_somebody_else_ended_does_not_serve(runner, job_of, registry, taste, database):
    """A worker that slept for long: its job was given up, and perhaps another has run."""
    job_id, pid = start(runner)
    let_lapse(database)
    with database.write() as connection:
        assert storage.jobs.interrupt_lapsed(connection) == [job_id]
    runner.wait(job_id)
    assert job_of(job_id).status == "interrupted"
    assert registry.switch.active_version() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_version_of_a_job_that_was_given_up_is_not_promoted(
    runner, registry, taste, train, job_of
):
    version = train()  # its job has ended
    (job_id,) = (row.job_id for row in registry.versions.all())
    with pytest.raises(JobInterruptedError, match="was silent for too long"):
        runner._finish(job_id, 0, None)
    assert job_of(job_id).status == "succeeded"
    assert registry.versions.describe(version).status == "inactive"


def test_a_silent_job_expires(runner, job_of, database, taste):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    expire_silent(database)
    assert job_of(job_id).status == "running"
    let_lapse(database)
    again, _ = start(runner)
    assert job_of(job_id).status == "interrupted"
    runner.wait(again)
    assert job_of(again).status == "succeeded"


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
sys.stdin.readline()
"""


def test_the_process_of_a_job_ends_with_its_worker(
    database, taste, start_python, wait_until, settings
):
    worker = start_python(WORKER)
    lines = (re.sub(r"\x1b\[\d*m", "", line) for line in worker.stdout)
    pid = next(int(found[1]) for line in lines if (found := re.search(r"pid=(\d+)", line)))
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
    runner = JobRunner(database, registry, settings.replaced(versions_kept=2))
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert [row.version for row in registry.versions.all()] == [4, 3]
    runner.stop()


def test_time_left_is_estimated():
    fields = {
        "job_id": 1, "status": "running", "trigger": "manual", "stage": "fitting", "fraction": 0.25,
        "started_at": clock.now() - 10_000_000, "finished_at": None, "version": None,
        "peak_memory_bytes": None, "error_code": None, "error_message": None, "kind": "retrain",
        "request": {}, "progress": None, "finish_requested": False, "actor": "api", "cause": None,
        "cancel_requested": False, "promoted": None, "verdict": None, "memory_bytes": None,
        "estimated_memory_bytes": None, "fence": 1, "watermark": 0, "heartbeat_at": 0,
        "traceback": None, "error_action": None,
    }  # fmt: skip
    job = storage.JobSummary(**fields)
    shown = describe_listed(job)
    tuning = storage.Job(**{**fields, "stage": "tuning"}, result=None)
    found = {"n_tried": 3, "ndcg": 0.1, "settings": {}, "seconds_left": 70.5}
    assert describe_job(tuning).seconds_left is None  # nothing says how long it takes
    assert describe_job(tuning).result is None
    shown_tuning = describe_job(dataclasses.replace(tuning, progress=found))
    told = found | {"history": []}  # it has come since
    assert (shown_tuning.seconds_left, shown_tuning.progress.model_dump()) == (70.5, told)
    ended = dataclasses.replace(tuning, status="failed", progress=found, finished_at=clock.now())
    assert describe_job(ended).seconds_left is None
    assert shown.seconds_left == pytest.approx(30.0, abs=0.5)
    assert shown.seconds_elapsed == pytest.approx(10.0, abs=0.2)
    assert shown.finished_at is None
    assert describe_listed(dataclasses.replace(job, fraction=0.01)).seconds_left is None


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
    monkeypatch.setattr(runners, "HEARTBEAT_SECONDS", 0.05)
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert missed == [job_id]
    assert job_of(job_id).status == "succeeded"


def test_a_worker_that_fails_on_a_job_says_so(runner, job_of, taste, monkeypatch):
    def fail(version):
        raise MemoryError

    monkeypatch.setattr(runner._registry.versions, "load", fail)
    job_id, _ = start(runner)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "training_failed")
    assert "its log has the details" in job.error_message


# Tickets


def test_a_ticket_starts_one_job_and_none_once_it_is_withdrawn(runner, job_of, database, taste):
    withdrawn = training.offer(database)
    assert training.withdraw(database, withdrawn) is None
    ticket = training.offer(database)
    job_id = runner.start(trigger="manual", actor="test", ticket=ticket)
    runner.wait(job_id)
    assert job_of(job_id).status == "succeeded"
    for name in (withdrawn, ticket, "ticket-" + 24 * "0", "training", ""):
        with pytest.raises(ConflictError, match="has given up waiting, so it is not started"):
            runner.start(trigger="manual", actor="test", ticket=name)
    assert job_of(job_id + 1) is None
    assert training.withdraw(database, ticket).job_id == job_id
    assert training.withdraw(database, ticket) is None
    again = runner.start(trigger="manual", actor="test")  # whoever asks the worker itself has none
    runner.wait(again)
    assert job_of(again).status == "succeeded"


def test_a_ticket_lapses_and_goes(database, taste, monkeypatch):
    monkeypatch.setattr(jobs, "_TICKET_SECONDS", -1.0)
    ticket = training.offer(database)
    with pytest.raises(ConflictError, match="has given up waiting"):
        jobs.start(database, trigger="manual", actor="test", ticket=ticket)
    training.offer(database)
    with database.read() as connection:
        names = connection.exec_driver_sql("SELECT name FROM leases").scalars()
        assert sum(name.startswith("ticket-") for name in names) == 1


# How a job ends


@pytest.fixture
def held(runner, taste, settings):
    """Start a job and hold its process still; gives its number."""
    job_id, pid = start(runner)
    hold_still(pid, settings.data_dir)
    return job_id


def test_a_cancelled_job_ends_and_leaves_nothing_behind(
    runner, held, job_of, database, registry, settings
):
    assert request_cancel(database, held, actor="test", reason="wrong data").cancel_requested
    assert request_cancel(database, held, actor="test").cancel_requested
    runner.wait(held)
    job = job_of(held)
    assert (job.status, job.error_code, job.version) == ("cancelled", "cancelled", None)
    assert isinstance(jobs.job_error(job), JobCancelledError)
    assert registry.versions.all() == []
    assert not list(settings.model_dir.glob("*model*"))
    assert request_cancel(database, held, actor="test").status == "cancelled"
    with database.read() as connection:
        entries = storage.audit_log.latest(connection, limit=9)
    assert [json.loads(entry.details) for entry in entries if entry.action == "cancel"] == [
        {"reason": "wrong data"}
    ]
    again, _ = start(runner)
    runner.wait(again)
    assert job_of(again).status == "succeeded"
    with pytest.raises(ConflictError, match=r"has ended already \(succeeded\)"):
        request_cancel(database, again, actor="test")
    with pytest.raises(NotFoundError, match="no job 99"):
        request_cancel(database, 99, actor="test")


def test_a_job_that_is_cancelled_at_the_last_moment_does_not_serve(
    runner, job_of, registry, taste, database, settings, monkeypatch
):
    check = promotion.serving.check

    def cancel_first(model):
        request_cancel(database, 1, actor="test")
        check(model)

    monkeypatch.setattr(promotion.serving, "check", cancel_first)
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert job_of(job_id).status == "cancelled"
    assert (registry.switch.active_version(), registry.versions.all()) == (None, [])
    assert not list(settings.model_dir.glob("model-*"))


def test_a_version_that_loads_for_longer_than_a_lease_serves(
    runner, job_of, registry, taste, database, monkeypatch
):
    monkeypatch.setattr(storage.jobs, "LEASE_SECONDS", 2.0)
    load = registry.versions.load

    def slowly(version):
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            expire_silent(database)
            time.sleep(0.1)
        return load(version)

    monkeypatch.setattr(registry.versions, "load", slowly)
    assert run(runner, job_of).promoted
    assert registry.switch.active_version() == 1


# Shortens the lease, and waits for whoever renews it.
RENEWED = """
import time
from reckeeper import clock, storage
from reckeeper.config import Settings

database = storage.open_database(Settings.from_env())
with database.write() as connection:
    connection.exec_driver_sql(f"UPDATE leases SET expires_at = {clock.now() + 3 * clock.SECOND}")
ends = time.monotonic() + 20
is_kept = False
while not is_kept and time.monotonic() < ends:
    with database.read() as connection:
        is_kept = storage.leases.lapses_at(connection, "training") > clock.now() + 5 * clock.SECOND
        assert not storage.jobs.has_lapsed(connection)
assert is_kept
"""


@pytest.mark.fault(
    "A worker is too busy to renew the lease of its job",
    seen="nothing",
    kept="its job",
    heals="nothing is broken",
)
def test_a_worker_that_is_too_busy_to_renew_its_lease_keeps_its_job(
    runner, job_of, taste, settings, monkeypatch
):
    monkeypatch.setattr(runners, "HEARTBEAT_SECONDS", 60.0)  # it is in no write meanwhile
    job_id, pid = start(runner)
    hold_still(pid, settings.data_dir)
    environ = {"PYTHONPATH": "src", "PATH": "/usr/bin:/bin", **settings.to_env()}
    variables = [f"{name}={value}" for name, value in environ.items()]
    command = shlex.join(["env", "-i", *variables, sys.executable, "-c", RENEWED])
    # A call by `PyDLL` holds the interpreter: no other thread of this process runs.
    assert ctypes.PyDLL(None).system(command.encode()) == 0
    os.kill(pid, signal.SIGCONT)
    runner.wait(job_id)
    assert job_of(job_id).status == "succeeded"


def test_a_version_that_was_judged_beside_another_waits(
    runner, job_of, registry, taste, train, monkeypatch
):
    for _ in range(2):
        registry.switch.activate(registry.versions.load(train()), actor="test")
    check = promotion.serving.check

    def roll_back_first(model):
        registry.switch.roll_back(registry.versions.load(1), actor="anna", reason="2 is bad")
        check(model)

    monkeypatch.setattr(promotion.serving, "check", roll_back_first)
    job = run(runner, job_of, trigger="rule")
    assert (job.promoted, registry.switch.active_version()) == (False, 1)
    assert "since it was judged, another version was activated" in job.verdict["outcome"]
    assert job.verdict["disposition"] == "overtaken"
    assert job.verdict["action"] == {"name": "activate", "version": job.version}


def test_a_fall_of_the_data_is_rejected_until_somebody_accepts_it(
    runner, job_of, registry, add, policy, database
):
    add(*((f"u{user}", f"i{(user + item) % 30}") for user in range(60) for item in range(12)))
    assert run(runner, job_of, trigger="schedule").promoted
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions WHERE user_id > 'u3'")
    for number in range(2):
        add(("u1", f"new{number}"))
        job = run(runner, job_of, trigger="schedule")
        assert (job.promoted, job.verdict["decision"]) == (False, "reject")
        assert any("fell by" in reason for reason in job.verdict["reasons"])
    registry.switch.activate(registry.versions.load(job.version), actor="anna")
    add(("u1", "new9"))
    assert run(runner, job_of, trigger="schedule").promoted


def test_the_webhook_is_told_of_a_worker_that_died(database):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="schedule")
    let_lapse(database)
    expire_silent(database)
    with database.read() as connection:
        notice = storage.notices.first_due(connection)
    assert (notice.event, notice.payload["job_id"]) == ("job_failed", job_id)
    assert notice.payload["code"] == "interrupted"


@pytest.mark.fault(
    "The clock is set while a worker trains",
    seen="nothing",
    kept="its job",
    heals="nothing is broken",
)
def test_a_worker_is_not_gone_because_the_clock_was_set(monkeypatch):
    holder = machine.process_name()
    create_time, boot_time = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 3)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot_time() + 3)
    assert not machine.is_gone(holder)


def test_leftovers_that_cannot_be_removed_stop_no_job(runner, job_of, registry, taste, monkeypatch):
    def fail():
        raise StorageError("The database is locked.")

    monkeypatch.setattr(registry.recovery, "remove_unfinished", fail)
    assert run(runner, job_of).promoted


@pytest.mark.fault(
    "A training hangs",
    seen="the job fails after `RECKEEPER_JOB_TIMEOUT_SECONDS`, and says so",
    kept="versions and files, as they were",
    heals="the next retrain works",
)
def test_a_job_that_takes_too_long_is_ended(database, registry, settings, taste, job_of):
    runner = JobRunner(database, registry, settings.replaced(job_timeout_seconds=1))
    job_id, pid = start(runner)
    hold_still(pid, settings.data_dir)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "timed_out")
    assert "longer than the 1 seconds" in job.error_message
    with database.read() as connection:
        notice = storage.notices.first_due(connection)
    assert (notice.event, notice.payload["code"]) == ("job_failed", "timed_out")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_job_that_would_not_fit_is_refused_with_the_numbers(
    database, registry, settings, taste, job_of
):
    small = settings.replaced(training_memory_bytes=1_000_000)
    runner = JobRunner(database, registry, small)
    job_id, _ = start(runner)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code, job.stage) == (
        "failed", "not_enough_memory", "starting",
    )  # fmt: skip
    assert job.estimated_memory_bytes > 1_000_000
    assert "RECKEEPER_TRAINING_MEMORY_BYTES allows 1.0 MB" in job.error_message


@pytest.mark.fault(
    "Two workers have schedules that are due at the same moment",
    seen="one retrain",
    kept="everything",
    heals="nothing is broken",
)
def test_of_two_that_mean_the_same_moment_one_starts(runner, database, taste):
    due_at = clock.now()
    job_id = runner.start(trigger="schedule", actor="schedule", not_since=due_at)
    runner.wait(job_id)
    with pytest.raises(ConflictError, match="Another worker has started"):
        runner.start(trigger="schedule", actor="schedule", not_since=due_at)
    runner.wait(runner.start(trigger="manual", actor="test", not_since=due_at))


# Who decides


@pytest.fixture
def policy(database, settings):
    """Return a function that stores a policy with these fields."""

    def put(**fields):
        with database.read() as connection:
            current = policies.current(connection, settings).policy.model_dump()
        policies.store(database, settings, {**current, **fields}, actor="test")

    return put


def run(runner, job_of, *, trigger="manual", request=None):
    job_id = runner.start(trigger=trigger, actor="test", request=request)
    runner.wait(job_id)
    job = job_of(job_id)
    assert job.status == "succeeded", job
    return job


@pytest.fixture
def rejecting(monkeypatch):
    """Let the gate reject every version, once it is trained."""
    settle = Promotion.settle

    def reject_first(self, job):
        verdict = {**job.verdict, "decision": "reject", "reasons": ["It is worse."]}
        settle(self, dataclasses.replace(job, verdict=verdict))

    monkeypatch.setattr(Promotion, "settle", reject_first)


@pytest.mark.parametrize(("trigger", "serves"), [("manual", True), ("schedule", False)])
def test_a_worse_version_serves_only_if_somebody_watches(
    runner, job_of, registry, taste, train, rejecting, database, trigger, serves
):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    job = run(runner, job_of, trigger=trigger)
    assert (job.promoted, job.version) == (serves, 2)
    assert registry.switch.active_version() == (2 if serves else 1)
    verdict = job.verdict
    way_out = {"name": "roll_back"} if serves else {"name": "activate", "version": 2}
    assert verdict["action"] == way_out
    assert verdict["disposition"] == ("activated" if serves else "rejected")
    assert f"Version 2 {'is active' if serves else 'was rejected'}" in verdict["outcome"]
    assert registry.versions.describe(2).verdict == verdict
    with database.read() as connection:
        told = connection.exec_driver_sql("SELECT event FROM notices").scalars().all()
    assert ("rejected" in told) is not serves
    if not serves:
        registry.switch.activate(registry.versions.load(2), actor="test", reason="I know better")
        with database.read() as connection:
            (entry,) = storage.audit_log.latest(connection, limit=1)
        assert (entry.action, json.loads(entry.details)["reason"]) == ("override", "I know better")


OTHER = {"recipe": "popularity"}


@pytest.mark.parametrize(
    ("trigger", "request_", "rule", "serves"),
    [
        ("manual", {}, ("always", "plain"), True),
        ("manual", {"recipe": "svd"}, ("always", "plain"), True),
        ("manual", OTHER, ("if_not_worse", "changed"), False),
        ("manual", {"settings": {"n_components": 2}}, ("if_not_worse", "changed"), False),
        ("manual", {"tune": True}, ("if_not_worse", "changed"), False),
        ("manual", {"promote": "if_not_worse"}, ("if_not_worse", "request"), False),
        ("manual", OTHER | {"promote": "always"}, ("always", "request"), True),
        ("manual", {"promote": "never"}, ("never", "request"), False),
        ("schedule", {}, ("if_not_worse", "unattended"), False),
    ],
)
def test_which_rule_promotes_a_rejected_version_and_why(
    runner, job_of, registry, taste, train, rejecting, trigger, request_, rule, serves
):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    job = run(runner, job_of, trigger=trigger, request=request_)
    assert tuple(job.verdict["promotion"].values()) == rule
    assert list(job.verdict["promotion"]) == ["promote", "because"]
    assert job.promoted is serves
    disposition = "waits" if rule[0] == "never" else "rejected"
    assert job.verdict["disposition"] == ("activated" if serves else disposition)
    answer = registry.versions.retrain_answer(2, job_id=job.job_id, promoted=job.promoted)
    assert answer.promotion == job.verdict["promotion"]


@pytest.mark.parametrize("request_", [{}, OTHER])
def test_what_could_not_be_told_is_promoted_unless_it_is_another_that_nobody_watches(
    runner, job_of, registry, taste, train, policy, request_
):
    policy(skip_unchanged=False)
    registry.switch.activate(registry.versions.load(train()), actor="test")
    attended = run(runner, job_of, request=request_)
    assert attended.verdict["standing"] in {"too_few", "not_compared"}
    assert attended.promoted
    registry.switch.activate(registry.versions.load(1), actor="test")
    unattended = run(runner, job_of, trigger="rule", request=request_)
    assert unattended.verdict["standing"] in {"too_few", "not_compared"}
    assert unattended.verdict["promotion"]["because"] == "unattended"
    assert unattended.promoted is (not request_)
    if request_:
        assert unattended.verdict["disposition"] == "waits"
        assert "whether it is worse could not be told" in unattended.verdict["outcome"]


def test_by_policy_a_person_decides(runner, job_of, registry, taste, policy):
    policy(promotion={"manual": "manual", "schedule": "gate", "rule": "gate"})
    job = run(runner, job_of)
    assert (job.promoted, registry.switch.active_version()) == (False, None)
    assert "waits: by the policy a person decides" in job.verdict["outcome"]
    assert job.verdict["disposition"] == "waits"
    assert job.verdict["action"] == {"name": "activate", "version": 1}


def test_a_pinned_version_stays_whatever_is_trained(runner, job_of, registry, taste, train):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    registry.versions.pin(1, actor="test")
    job = run(runner, job_of)
    assert (job.promoted, registry.switch.active_version()) == (False, 1)
    assert "Version 1 is active and pinned" in job.verdict["outcome"]
    assert job.verdict["disposition"] == "pinned"
    assert job.verdict["action"] == {"name": "activate", "version": 2}
    registry.versions.unpin(1, actor="test")
    assert run(runner, job_of).promoted
    assert registry.switch.active_version() == 3


def test_nothing_is_trained_unwatched_when_nothing_has_changed(
    runner, job_of, registry, taste, add, policy
):
    first = run(runner, job_of, trigger="schedule")
    assert first.promoted
    again = run(runner, job_of, trigger="rule")
    assert (again.version, again.promoted) == (None, False)
    assert again.verdict["decision"] == "unchanged"
    assert "Nothing has changed since version 1" in again.verdict["sentence"]
    assert run(runner, job_of).version == 2  # by hand it is trained all the same
    add(("u03", "i1"))
    assert run(runner, job_of, trigger="schedule").version == 3
    policy(half_life_days=30.0)
    assert run(runner, job_of, trigger="schedule").version == 4
    policy(half_life_days=30.0, skip_unchanged=False)
    assert run(runner, job_of, trigger="schedule").version == 5


def test_the_policy_decides_what_goes_in(runner, job_of, registry, taste, policy):
    policy(left_out_users=["u0*"], weights={"click": 3.0})
    made = registry.versions.describe(run(runner, job_of).version)
    assert made.n_users == 2
    assert made.data["left_out_users"] == ["u0*"]
    assert made.data["weights"] == {"click": 3.0}
    with registry.store.pickle(made.version).open("rb") as stream:
        weights = pickle.load(stream)["rating_matrix"].data
    assert set(weights.tolist()) <= {3.0 * n for n in range(1, 9)}
    policy(left_out_users=["u*"])
    job_id, _ = start(runner)
    runner.wait(job_id)
    assert "The policy leaves none of the" in job_of(job_id).error_message


def test_everything_that_is_known_of_a_version_is_kept(runner, job_of, registry, taste):
    cause = {"rule": "every_interactions", "n": 7, "threshold": 5, "sentence": "7 new ones came."}
    job_id = runner.start(trigger="rule", actor="schedule", cause=wire.Cause(**cause))
    runner.wait(job_id)
    made = registry.versions.describe(1)
    assert (made.cause, made.actor, made.trigger) == (cause, "schedule", "rule")
    assert len(made.fingerprint) == 32
    assert made.watermark == len(taste)
    assert made.peak_memory_bytes > 10_000_000
    assert {"python", "numpy", "reckeeper"} <= made.libraries.keys()
    assert made.verdict["outcome"] == "Version 1 is active."
    assert (made.verdict["disposition"], made.verdict["action"]) == ("activated", None)
    (entry,) = registry.switch.timeline(limit=9)
    assert (entry.version, entry.action, entry.job_id) == (1, "promote", job_id)
    assert entry.reason == f"job {job_id}: 7 new ones came."
    written = registry.versions.load(1).artifact.metadata
    assert (written.cause, written.fingerprint) == (cause, made.fingerprint)


# What a retrain may be asked for

SVD = {"recipe": "svd", "settings": {"n_components": 3}}


@pytest.mark.parametrize(
    ("request_", "shortest"),
    [
        ({}, {}),
        ({"recipe": None, "settings": None, "tune": False, "tune_seconds": None}, {}),
        ({"recipe": "popularity"}, {"recipe": "popularity"}),
        ({"settings": {"n_components": 7}}, {"recipe": "svd", "settings": {"n_components": 7}}),
        ({"settings": {}}, {"recipe": "svd", "settings": {}}),
        (
            {"recipe": "svd", "tune": True, "tune_seconds": 60},
            {"recipe": "svd", "tune": True, "tune_seconds": 60.0},
        ),
        (
            {"tune": True, "tuning": {"drift": "strong"}},
            {"recipe": "spectral", "tune": True, "tuning": {"drift": "strong"}},
        ),
    ],
    ids=str,
)
def test_a_request_is_kept_in_its_shortest_form(request_, shortest):
    assert checked_request(request_, active=None) == shortest


def test_settings_are_for_the_recipe_of_the_active_version():
    active = stored_version(recipe="popularity", settings={"half_life_days": 3.0})
    asked = {"settings": {"half_life_days": 30}}
    assert checked_request(asked, active=active) == {"recipe": "popularity", **asked}
    with pytest.raises(DataError, match="svd has no setting 'half_life_days'"):
        checked_request(asked, active=None)


@pytest.mark.parametrize(
    ("request_", "field", "said"),
    [
        ({"recipe": "magic"}, "recipe", "no recipe 'magic': use one of svd"),
        ({"recipe": 7}, "recipe", "valid string"),
        ({"recipe": "svd", "settings": {"rank": 3}}, "settings", "no setting 'rank'"),
        ({"settings": {"n_components": 0}}, "settings", "n_components must be"),
        ({"settings": {"n_components": "10"}}, "settings", "not '10'"),
        ({"settings": [1]}, "settings", "valid dictionary"),
        ({"tune": 1}, "tune", "valid boolean"),
        ({"tune": "yes"}, "tune", "valid boolean"),
        ({"recipe": "svd", "tune": True, "settings": {}}, "settings", "Leave out either"),
        ({"tune_seconds": 5}, "tune_seconds", "for tuning alone"),
        ({"tuning": {"drift": "mild"}}, "tuning", "for tuning alone"),
        ({"tune": True, "tuning": {"drift": "wild"}}, "tuning.drift", "'none', 'mild'"),
        ({"tune": True, "tuning": {"lean": "mild"}}, "tuning.lean", ""),
        ({"recipe": "svd", "tune": True, "tune_seconds": 0}, "tune_seconds", "greater than 0"),
        ({"recipe": "svd", "tune": True, "tune_seconds": 86_401}, "tune_seconds", "86400"),
        ({"recipe": "svd", "tune": True, "tune_seconds": "5"}, "tune_seconds", "valid number"),
        ({"recipe": "svd", "tune": True, "tune_seconds": float("nan")}, "tune_seconds", ""),
        ({"recipe": "svd", "tune": True, "tune_seconds": float("inf")}, "tune_seconds", ""),
        ({"tuna": True}, "tuna", "there are recipe, settings, tune, tune_seconds"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_used_is_refused_and_nothing_written(
    runner, database, request_, field, said
):
    with pytest.raises(DataError, match=f"^{field}: .*{said}") as caught:
        runner.start(trigger="manual", actor="test", request=request_)
    assert caught.value.details == {"field": field}
    with database.read() as connection:
        assert storage.jobs.page(connection, limit=9, before=None) == []
        assert storage.audit_log.latest(connection, limit=9) == []


def test_an_evaluation_takes_no_request(runner, database):
    with pytest.raises(DataError, match="An evaluation takes none"):
        runner.start(trigger="manual", actor="test", kind="evaluate", request=SVD)
    with database.read() as connection:
        assert storage.jobs.running(connection) is None


@pytest.fixture
def retrain(database, settings, registry):
    """Return a function that trains by a request in this process; its version becomes active."""

    def run(request, *, report=lambda *stage, **found: None, should_stop=None):
        with database.write() as connection:
            active = storage.models.active(connection)
            asked = checked_request(request, active=active)
            job_id = storage.jobs.insert(connection, trigger="manual", request=asked)
            job = storage.jobs.get(connection, job_id)
        version = pipeline.run(database, settings, job=job, report=report, should_stop=should_stop)
        with database.write() as connection:
            storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED)
        registry.switch.activate(registry.versions.load(version), actor="test")
        made = registry.versions.describe(version)
        return made.recipe, made.settings

    return run


def test_recipe_and_settings_come_from_the_request_else_from_the_active_version(retrain, taste):
    assert retrain({}) == ("svd", {"n_components": 10, "weighting": "raw"})
    assert retrain({"settings": {"n_components": 3}}) == (
        "svd",
        {"n_components": 3, "weighting": "raw"},
    )
    assert retrain({}) == ("svd", {"n_components": 3, "weighting": "raw"})
    assert retrain({"recipe": "svd"}) == ("svd", {"n_components": 3, "weighting": "raw"})
    assert retrain({"recipe": "svd", "settings": {}}) == (
        "svd",
        {"n_components": 10, "weighting": "raw"},
    )
    assert retrain({"recipe": "popularity"}) == ("popularity", {"half_life_days": None})
    weekly = {"half_life_days": 7}
    assert retrain({"settings": weekly}) == ("popularity", {"half_life_days": 7.0})
    assert retrain({}) == ("popularity", {"half_life_days": 7.0})
    assert retrain({"recipe": "svd"}) == ("svd", {"n_components": 10, "weighting": "raw"})


def test_the_progress_of_a_run_never_goes_back(retrain, taste):
    told = []
    retrain({}, report=lambda stage, fraction, **found: told.append((stage, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 0.95)
    assert list(dict.fromkeys(stage for stage, _ in told)) == [
        "starting", "reading", "judging", "fitting", "writing", "registering",
    ]  # fmt: skip


def test_a_job_trains_what_was_asked_for(runner, job_of, registry, taste, database):
    job_id = runner.start(trigger="manual", actor="test", request=SVD)
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.kind, job.request) == ("succeeded", "retrain", SVD)
    made = registry.versions.describe(job.version)
    settings = SVD["settings"] | {"weighting": "raw"}
    assert (made.status, made.recipe, made.settings) == ("active", SVD["recipe"], settings)
    with database.read() as connection:
        (asked,) = [
            entry
            for entry in storage.audit_log.latest(connection, limit=9)
            if entry.action == "retrain"
        ]
    assert asked.subject == f"job {job_id}"
    assert json.loads(asked.details) == {"trigger": "manual", "request": SVD, "cause": None}


# Tuning and comparing


def test_what_tuning_finds_is_used_and_kept_by_later_retrains(retrain, taste, job_of):
    told = []
    made = retrain(
        {"tune": True, "tune_seconds": 1},
        report=lambda stage, fraction, **found: told.append((stage, fraction, found)),
    )
    fractions = [fraction for _, fraction, _ in told]
    assert fractions == sorted(fractions)
    # Where the search did not come as far as order, that is decided after it.
    assert list(dict.fromkeys(stage for stage, _, _ in told if stage != "deciding")) == [
        "starting", "reading", "tuning", "judging", "fitting", "writing", "registering",
    ]  # fmt: skip
    found = [more["progress"] for _, _, more in told if "progress" in more]
    assert job_of(1).request == {"recipe": "spectral", "tune": True, "tune_seconds": 1.0}
    assert found[-1].n_tried >= 1
    assert 0 <= found[-1].best.ndcg <= 1
    assert made == ("spectral", found[-1].best.settings)
    assert retrain({}) == made
    recipe, settings = retrain({"recipe": "svd", "tune": True, "tune_seconds": 1})
    assert recipe == "svd"
    assert retrain({}) == ("svd", settings)


def test_an_evaluation_makes_no_version(runner, job_of, registry, taste, train):
    registry.switch.activate(registry.versions.load(train()), actor="test")
    before = registry.versions.all()
    job_id = runner.start(trigger="manual", actor="test", kind="evaluate")
    with pytest.raises(JobRunningError, match="compares the recipes") as caught:
        runner.start(trigger="manual", actor="test")
    assert caught.value.details == {"job_id": job_id, "kind": "evaluate"}
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.kind, job.stage) == ("succeeded", "evaluate", "done"), job
    assert (job.version, job.request, job.fraction) == (None, {}, 1.0)
    assert [row["recipe"] for row in job.result["recipes"]] == ["popularity", "svd", "spectral"]
    assert registry.versions.all() == before


def test_a_comparison_says_when_it_no_longer_holds(runner, database, settings, job_of, taste, add):
    """New interactions, another policy, another active version, and data that is gone."""
    job_id = runner.start(trigger="manual", actor="test", kind="evaluate")
    runner.wait(job_id)

    def told():
        job = job_of(job_id)
        shown = describe_job(job, today=training.today(database, settings, job)).result
        return shown.state, [change.code for change in shown.changes], len(shown.recipes)

    assert told() == ("current", [], 3)
    result = describe_job(job_of(job_id)).result
    assert (result.k, result.metric, result.policy_revision) == (10, "ndcg@10", 0)
    assert result.made_on.n_interactions == len(taste)
    assert result.advice.sentence.endswith("12 users were judged, and the policy asks for 100.")
    add(("u00", "i1"))
    assert told()[0] == "current"
    add(*(("u00", f"i{item}") for item in range(9)))
    assert told() == ("out_of_date", ["new_interactions"], 3)
    policies.store(database, settings, {"metric": "recall@10"}, actor="test")
    assert told() == ("out_of_date", ["policy_changed", "new_interactions"], 3)
    policies.store(database, settings, {"schedule": "0 3 * * *"}, actor="test")
    assert told() == ("out_of_date", ["new_interactions"], 3)


def test_a_comparison_on_an_import_that_was_undone_is_gone(
    runner, database, settings, job_of, taste, add
):
    with database.write() as connection:
        empty, undone = (
            storage.imports.begin(connection, source=name, fingerprint=name)
            for name in ("empty.csv", "new.csv")
        )
    add(*((f"u{n % 12:02}", f"x{n % 7}") for n in range(60)), import_id=undone)
    job_id = runner.start(trigger="manual", actor="test", kind="evaluate")
    runner.wait(job_id)

    def result():
        job = job_of(job_id)
        return describe_job(job, today=training.today(database, settings, job)).result

    assert result().state == "current"
    undo(database, empty, actor="test")  # it had no rows
    assert result().state == "current"
    undo(database, undone, actor="test")
    assert (result().state, result().recipes, result().advice) == ("gone", [], None)
    assert result().changes[0].sentence == (
        f"The data that it was made on are gone: import {undone} (new.csv) was undone."
    )


def test_an_evaluation_of_too_little_fails(runner, job_of, add):
    add(*((f"u{user}", f"i{item}") for user in range(5) for item in range(3)))
    job_id = runner.start(trigger="manual", actor="test", kind="evaluate")
    runner.wait(job_id)
    job = job_of(job_id)
    assert (job.status, job.error_code) == ("failed", "not_enough_data")
    assert "at least 10 users" in job.error_message
    assert job.result is None


@pytest.fixture
def row(database):
    """Return a function that makes a running job at a stage, and returns its number."""

    def make(stage):
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger="manual")
            storage.jobs.update(connection, job_id, stage=stage)
        return job_id

    return make


def test_tuning_is_asked_to_finish_once(database, row):
    job_id = row("tuning")
    progress = child._Progress(database, job_id)
    assert not progress.should_stop()
    for _ in range(2):
        assert request_finish(database, job_id, actor="test").finish_requested is True
    assert child._Progress(database, job_id).should_stop()
    with database.read() as connection:
        (entry,) = storage.audit_log.latest(connection, limit=9)
    assert (entry.action, entry.subject) == ("finish_tuning", f"job {job_id}")


def test_where_nothing_is_tuned_nothing_can_be_finished(database, row):
    with pytest.raises(NotFoundError, match="no job 1"):
        request_finish(database, 1, actor="test")
    job_id = row("fitting")
    with pytest.raises(ConflictError, match=f"Job {job_id} is at 'fitting', and tunes nothing"):
        request_finish(database, job_id, actor="test")
    with database.write() as connection:
        storage.jobs.update(connection, job_id, stage="tuning", status=storage.jobs.FAILED)
    with pytest.raises(ConflictError, match=r"has ended \(failed\)"):
        request_finish(database, job_id, actor="test")
    assert find_job(database, job_id).finish_requested is False
    with database.read() as connection:
        assert storage.audit_log.latest(connection, limit=9) == []


def test_of_reports_in_quick_succession_no_result_is_lost(database, row, job_of, monkeypatch):
    monkeypatch.setattr(child, "_REPORT_SECONDS", 3600.0)
    job_id = row("starting")
    progress = child._Progress(database, job_id)
    first, second = (
        TuningProgress(0.1 * n, n, Trial({}, 0.2, {}), ((1, 0.2),), seconds=1.0, seconds_left=None)
        for n in (1, 2)
    )
    made_on, rule = MadeOn(9, 3, 3, None), Rule.of(StoredPolicy(Policy(), 0, "environment"))
    one, two = (
        Comparison("random", "at random", 10, made_on, rule, n_users=n_users) for n_users in (1, 2)
    )
    progress.report("tuning", 0.1, progress=first)
    progress.report("tuning", 0.2, progress=second)
    job = job_of(job_id)
    assert (job.stage, job.fraction, job.progress) == ("tuning", 0.1, first.to_json())
    progress.report("fitting", 0.5)
    job = job_of(job_id)
    assert (job.stage, job.fraction, job.progress) == ("fitting", 0.5, second.to_json())
    assert first.to_json()["n_tried"] == 1
    progress.report("fitting", 0.6, result=one)
    progress.report("fitting", 0.7, result=two)
    job = job_of(job_id)
    assert (job.fraction, job.result) == (0.7, two.to_json())
    assert job.progress["n_tried"] == 2


@pytest.mark.parametrize(
    ("asked", "by_policy", "drift"),
    [
        ({}, {}, "none"),
        ({}, {"tuning": {"drift": "mild"}}, "mild"),
        ({"tuning": {"drift": "strong"}}, {"tuning": {"drift": "mild"}}, "strong"),
        ({"tuning": {"drift": "none"}}, {"tuning": {"drift": "mild"}}, "none"),
        ({"tuning": {}}, {"tuning": {"drift": "mild"}}, "mild"),
    ],
    ids=str,
)
def test_the_drift_is_that_of_the_request_else_of_the_policy(asked, by_policy, drift):
    request = RetrainRequest.model_validate({"tune": True, **asked})
    assert drift_of(request, Policy.model_validate(by_policy)) == drift
