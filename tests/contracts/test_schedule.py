"""Cron expressions, as cron means them; when a policy starts a retrain by itself."""

import re
import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import structlog
from tests.unit.small_models import stored_version

from reckeeper import clock, policy, storage
from reckeeper.errors import ConfigError, JobRunningError, MemoryLimitError
from reckeeper.policy import cron
from reckeeper.training import Schedule, describe_job

# 1 January 2026 is a Thursday.
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000


def at(clock):
    """Return a UTC time of that day in microseconds since 1970."""
    moment = datetime.fromisoformat(f"2026-01-01T{clock}+00:00")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.fixture
def runs():
    """Return a function that gives the next runs of an expression."""

    def runs(expression, count, *, timezone="UTC", after=START):
        found = []
        for _ in range(count):
            after = policy.next_run(expression, timezone=timezone, after=after)
            assert after.tzinfo == ZoneInfo(timezone)
            found.append(after)
            after = after.astimezone(UTC) + timedelta(microseconds=1)
        return found

    return runs


class Starts(list):
    """What a schedule starts: (trigger, cause, not_since); `error` is raised instead."""

    error = None

    def __call__(self, trigger, cause, not_since):
        if self.error is not None:
            raise self.error
        self.append((trigger, cause.model_dump(), not_since))

    @property
    def rules(self):
        return [cause["rule"] for _, cause, _ in self]


@pytest.fixture
def starts():
    return Starts()


@pytest.fixture
def schedule(database, settings, starts):
    """Return a schedule that is looked at by hand."""
    return Schedule(database, settings, starts)


@pytest.fixture
def store(database, settings):
    """Return a function that stores a policy of the fields given."""
    return lambda **content: policy.store(database, settings, content, actor="test")


@pytest.fixture
def retrained(database):
    """Return a function that adds a retrain that begins and ends now."""

    def retrained(status="succeeded", *, kind="retrain"):
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger="manual", kind=kind)
            storage.jobs.end(connection, job_id, status=status)
            return storage.jobs.get(connection, job_id)

    return retrained


@pytest.fixture
def serve(database):
    """Return a function that makes the row of a version that serves."""

    def serve(version=1, *, trained_at, watermark=0):
        row = stored_version(version, trained_at=trained_at, watermark=watermark)
        with database.write() as connection:
            storage.models.insert(connection, row)
            storage.models.set_active(connection, version)

    return serve


@pytest.fixture
def notices(database):
    """Return a function that gives the payloads of all notices."""

    def notices():
        with database.read() as connection:
            rows = [storage.notices.get(connection, number) for number in range(1, 10)]
        return [(row.event, row.payload) for row in rows if row is not None]

    return notices


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 3 * * *", ["01-02 03:00", "01-03 03:00"]),
        ("*/20 * * * *", ["01-01 12:00", "01-01 12:20", "01-01 12:40", "01-01 13:00"]),
        ("5,50 9-10 * * *", ["01-02 09:05", "01-02 09:50", "01-02 10:05", "01-02 10:50"]),
        ("  0   3  *  *  * ", ["01-02 03:00"]),
        # Weekdays: 0 and 7 are Sunday.
        ("0 3 * * 0", ["01-04 03:00", "01-11 03:00"]),
        ("0 3 * * 7", ["01-04 03:00", "01-11 03:00"]),
        ("0 3 * * sun", ["01-04 03:00", "01-11 03:00"]),
        ("0 3 * * SUN", ["01-04 03:00", "01-11 03:00"]),
        ("0 3 * * 1", ["01-05 03:00", "01-12 03:00"]),
        ("0 3 * * 6", ["01-03 03:00", "01-10 03:00"]),
        ("0 3 * * 1-5", ["01-02 03:00", "01-05 03:00", "01-06 03:00", "01-07 03:00"]),
        ("0 3 * * mon-fri", ["01-02 03:00", "01-05 03:00"]),
        ("0 3 * * 0,3", ["01-04 03:00", "01-07 03:00", "01-11 03:00"]),
        ("0 3 * * 5-7", ["01-02 03:00", "01-03 03:00", "01-04 03:00", "01-09 03:00"]),
        ("0 3 * * fri-sun", ["01-02 03:00", "01-03 03:00", "01-04 03:00", "01-09 03:00"]),
        ("0 3 * * 0-7", ["01-02 03:00", "01-03 03:00", "01-04 03:00"]),
        # Every second weekday, from Sunday on.
        ("0 3 * * */2", ["01-03 03:00", "01-04 03:00", "01-06 03:00", "01-08 03:00"]),
        ("0 3 * * 1-5/2", ["01-02 03:00", "01-05 03:00", "01-07 03:00", "01-09 03:00"]),
        # Days and months.
        ("30 6 15 * *", ["01-15 06:30", "02-15 06:30"]),
        ("0 0 29 2 *", ["2028-02-29 00:00"]),
        ("0 0 1 jan,jul *", ["07-01 00:00", "2027-01-01 00:00"]),
        ("0 0 31 * *", ["01-31 00:00", "03-31 00:00", "05-31 00:00"]),
        # Day and weekday both given: either.
        ("0 0 13 * 5", ["01-02 00:00", "01-09 00:00", "01-13 00:00", "01-16 00:00"]),
        # One of them begins with a star: both.
        ("0 0 */2 * 0", ["01-11 00:00", "01-25 00:00", "02-01 00:00"]),
        ("0 0 4 * */2", ["01-04 00:00", "04-04 00:00", "06-04 00:00"]),
        # Names of whole expressions.
        ("@hourly", ["01-01 12:00", "01-01 13:00"]),
        ("@daily", ["01-02 00:00", "01-03 00:00"]),
        ("@midnight", ["01-02 00:00"]),
        ("@weekly", ["01-04 00:00", "01-11 00:00"]),
        ("@monthly", ["02-01 00:00", "03-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00"]),
    ],
)
def test_next_runs(runs, expression, expected):
    whole = [text if text.startswith("20") else f"2026-{text}" for text in expected]
    found = [f"{moment:%Y-%m-%d %H:%M}" for moment in runs(expression, len(expected))]
    assert found == whole


def test_times_are_those_of_the_time_zone(runs):
    (found,) = runs("0 3 * * 0", 1, timezone="Europe/Berlin")
    assert found.isoformat() == "2026-01-04T03:00:00+01:00"
    (found,) = runs("0 3 * * 0", 1, timezone="America/Los_Angeles")
    assert found.isoformat() == "2026-01-04T03:00:00-08:00"


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        # At midnight the clock is put forward by an hour, or in the night: at the end of the gap.
        ("@daily", "America/Havana", "2026-03-07T12:00-05:00", "2026-03-08T01:00-04:00"),
        ("@daily", "America/Havana", "2026-03-08T02:00-04:00", "2026-03-09T00:00-04:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00"),
        ("15 2 * * 0", "America/New_York", "2026-03-08T00:00-05:00", "2026-03-08T03:00-04:00"),
        # Several times in the gap come once.
        ("0,30 2 * * *", "Europe/Berlin", "2026-03-29T03:00:01+02:00", "2026-03-30T02:00+02:00"),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", "2026-03-29T03:00+02:00"),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-29T03:01+02:00", "2026-03-30T02:00+02:00"),
        ("*/20 2 * * *", "Europe/Berlin", "2026-10-25T02:41+02:00", "2026-10-26T02:00+01:00"),
        ("*/20 * * * *", "Europe/Berlin", "2026-03-29T01:41+01:00", "2026-03-29T03:00+02:00"),
        ("30 */2 * * *", "Europe/Berlin", "2026-03-29T00:31+01:00", "2026-03-29T03:00+02:00"),
        ("30 */2 * * *", "Europe/Berlin", "2026-10-25T02:31+02:00", "2026-10-25T04:30+01:00"),
        ("30 */1 * * *", "Europe/Berlin", "2026-10-25T02:31+02:00", "2026-10-25T02:30+01:00"),
        # At three it is put back by an hour.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00+02:00", "2026-10-25T02:30+02:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:31+02:00", "2026-10-26T02:30+01:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:10+01:00", "2026-10-26T02:30+01:00"),
        ("30 * * * *", "Europe/Berlin", "2026-10-25T02:31+02:00", "2026-10-25T02:30+01:00"),
    ],
)
def test_a_named_hour_comes_once_a_day(expression, zone, after, expected):
    found = policy.next_run(expression, timezone=zone, after=datetime.fromisoformat(after))
    assert found.astimezone(UTC) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("until", ["2026-10-25T02:20+01:00", "2026-10-25T02:00+01:00"])
def test_the_last_time_of_every_hour_is_found_while_the_clock_shows_it_twice(until):
    found = policy.last_run(
        "0 * * * *",
        timezone="Europe/Berlin",
        after=datetime.fromisoformat("2026-10-25T02:30+02:00"),
        until=datetime.fromisoformat(until),
    )
    assert found.astimezone(UTC) == datetime.fromisoformat("2026-10-25T02:00+01:00")


def test_the_hour_stays_when_the_clock_is_put_forward(runs):
    found = runs(
        "0 3 * * *", 3, timezone="Europe/Berlin", after=datetime(2026, 3, 27, 12, tzinfo=UTC)
    )
    assert [moment.isoformat() for moment in found] == [
        "2026-03-28T03:00:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T03:00:00+02:00",
    ]


def test_the_hour_stays_when_the_clock_is_put_back(runs):
    after = datetime(2026, 10, 24, 12, tzinfo=UTC)
    found = runs("0 4 * * *", 3, timezone="Europe/Berlin", after=after)
    assert [moment.isoformat() for moment in found] == [
        "2026-10-25T04:00:00+01:00",
        "2026-10-26T04:00:00+01:00",
        "2026-10-27T04:00:00+01:00",
    ]


def test_an_hour_that_the_day_skips_does_not_lose_the_run(runs):
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    found = runs("30 2 * * *", 2, timezone="Europe/Berlin", after=after)
    assert [moment.astimezone(UTC).isoformat() for moment in found] == [
        "2026-03-29T01:00:00+00:00",
        "2026-03-30T00:30:00+00:00",
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "sundays",
        "* * * *",
        "* * * * * *",
        "@reboot",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "* * * * -1",
        "* * * * sunday",
        "* * * * sat-mon",
        "* * * * 5-1",
        "* * * * 1-",
        "* * * * *-3",
        "* * * * mon,",
        "* * * * 1/0",
        "* * * * */0",
        "* * * * */x",
        "*/0 * * * *",
        "30-10 * * * *",
        "a * * * *",
        "1,,2 * * * *",
        "0 0 31 2 *",
    ],
)
def test_what_is_no_expression_is_refused(database, settings, expression):
    with pytest.raises(ValueError, match=r"^is not a cron expression: .*0 or 7 is Sunday"):
        cron.check(expression)
    broken = settings.replaced(retrain_schedule=expression)
    with pytest.raises(ConfigError) as caught:
        Schedule(database, broken, print)
    assert caught.value.message.startswith(
        f"RECKEEPER_RETRAIN_SCHEDULE={expression!r} is not a cron expression: "
    )


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("0 0 31 feb,4 *", "no month 'feb,4' has a day '31', so choose another day or month."),
        ("0 0 30 2 *", "it names no date that ever comes: no month '2' has a day '30', so"),
        ("0 24 * * *", "its hour cannot be '24'."),
        ("0 0 * * 1-8", "its weekday cannot be '1-8'."),
        ("0 0 * *", "it has 4 field(s)."),
    ],
)
def test_a_refused_expression_is_refused_with_what_is_wrong(expression, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        cron.check(expression)


def test_a_time_of_the_schedule_starts_a_retrain_once(schedule, starts, store):
    store(schedule="*/20 * * * *", timezone="Europe/Berlin")
    for moment in ("12:05:00", "12:19:59.999999"):
        schedule.look(at(moment))
    assert starts == []
    for moment in ("12:20:00.3", "12:20:01", "12:39:59"):
        schedule.look(at(moment))
    cause = {
        "rule": "schedule",
        "expression": "*/20 * * * *",
        "due_at": "2026-01-01T12:20:00.000000Z",
        "sentence": "Scheduled by */20 * * * * (Europe/Berlin).",
    }
    assert starts == [("schedule", cause, at("12:20:00"))]
    schedule.look(at("12:40:00"))
    schedule.look(at("12:40:00.000001"))
    assert [not_since for _, _, not_since in starts] == [at("12:20:00"), at("12:40:00")]


def test_the_schedule_is_read_in_its_time_zone(schedule, starts, store):
    store(schedule="0 14 * * *", timezone="Europe/Berlin")
    schedule.look(at("12:59:59"))
    schedule.look(at("13:00:00"))
    assert [not_since for _, _, not_since in starts] == [at("13:00:00")]


def test_the_schedule_of_the_environment_rules_until_a_policy_is_stored(
    database, settings, starts, store
):
    set_ = settings.replaced(retrain_schedule="@hourly")
    schedule = Schedule(database, set_, starts)
    schedule.look(at("12:05:00"))
    schedule.look(at("13:00:01"))
    assert starts.rules == ["schedule"]
    store(schedule=None)
    schedule.look(at("14:00:01"))
    assert starts.rules == ["schedule"]


def test_times_that_were_slept_through_are_made_up_for_once(schedule, starts, store):
    store(schedule="*/20 * * * *")
    schedule.look(at("12:05:00"))
    schedule.look(at("15:30:00"))
    assert [not_since for _, _, not_since in starts] == [at("15:20:00")]


@pytest.mark.parametrize(("woken", "n"), [("14:00:00.5", 1), ("14:01:01", 0)])
def test_a_time_that_was_slept_through_is_made_up_for_within_an_hour(
    schedule, starts, store, woken, n
):
    store(schedule="1 13 * * *")
    schedule.look(at("12:05:00"))
    schedule.look(at(woken))
    assert len(starts) == n


def test_a_new_schedule_takes_effect_at_once_and_from_now_on(schedule, starts, store):
    schedule.look(at("12:05:00"))
    store(schedule="7,12 * * * *")
    schedule.look(at("12:10:00"))
    assert starts == []
    schedule.look(at("12:12:01"))
    assert [not_since for _, _, not_since in starts] == [at("12:12:00")]


def test_another_change_of_the_policy_loses_no_time(schedule, starts, store):
    store(schedule="20 * * * *")
    schedule.look(at("12:19:59"))
    store(schedule="20 * * * *", margin=0.5)
    schedule.look(at("12:20:00.5"))
    assert len(starts) == 1


def test_a_scheduled_retrain_keeps_the_time_between_two(schedule, starts, store, retrained):
    store(schedule="* * * * *", min_minutes_between=30)
    began = retrained().started_at
    schedule.look(began)
    with structlog.testing.capture_logs() as lines:
        schedule.look(began + 29 * MINUTE)
    assert starts == []
    assert [line["event"] for line in lines] == ["scheduled_retrain_left_out"]
    schedule.look(began + 30 * MINUTE + MINUTE)
    assert len(starts) == 1


def test_a_retrain_that_cannot_start_is_logged_and_the_next_is_tried(schedule, starts, store):
    store(schedule="*/20 * * * *")
    schedule.look(at("12:05:00"))
    starts.error = JobRunningError("One runs.")
    with structlog.testing.capture_logs() as lines:
        schedule.look(at("12:20:01"))
    assert [(line["event"], line["error"]) for line in lines] == [
        ("retrain_not_started", "One runs.")
    ]
    starts.error = None
    schedule.look(at("12:21:00"))
    schedule.look(at("12:40:01"))
    assert len(starts) == 1


def test_enough_new_interactions_start_a_retrain(schedule, starts, store, add, retrained):
    store(every_interactions=3)
    now = clock.now()
    add(("u1", "i1"), ("u1", "i2"))
    schedule.look(now)
    assert starts == []
    add(("u1", "i3"), ("u1", "i4"))
    schedule.look(now + SECOND)  # rules are looked at every five seconds
    assert starts == []
    schedule.look(now + 5 * SECOND)
    cause = {
        "rule": "every_interactions",
        "n": 4,
        "threshold": 3,
        "sentence": "4 new interactions since the last retrain; the policy asks for one every 3.",
    }
    assert starts == [("rule", cause, 0)]
    began = retrained().started_at
    add(("u2", "i1"), ("u2", "i2"))
    schedule.look(began + 10 * SECOND)
    assert len(starts) == 1
    add(("u2", "i3"))
    schedule.look(began + 15 * SECOND)
    assert [(cause["n"], not_since) for _, cause, not_since in starts[1:]] == [(3, began + 1)]


def test_without_a_retrain_interactions_count_from_the_version_that_serves(
    schedule, starts, store, add, serve
):
    store(every_interactions=2)
    add(("u1", "i1"), ("u1", "i2"), ("u1", "i3"))
    now = clock.now()
    serve(trained_at=now, watermark=2)
    schedule.look(now)
    assert starts == []
    add(("u1", "i4"))
    schedule.look(now + 5 * SECOND)
    assert [cause["n"] for _, cause, _ in starts] == [2]


def test_an_old_version_starts_a_retrain(schedule, starts, store, serve):
    store(max_age_hours=24)
    now = clock.now()
    schedule.look(now)  # there is none that could be old
    serve(3, trained_at=now - DAY)
    schedule.look(now + 5 * SECOND)
    cause = {
        "rule": "max_age",
        "age_hours": 24.0,
        "threshold": 24.0,
        "sentence": "Version 3 is 24.0 hours old; the policy asks for a retrain after 24.0.",
    }
    assert starts == [("rule", cause, 0)]


def test_a_retrain_that_made_nothing_new_is_not_started_again_at_once(
    schedule, starts, store, serve, retrained
):
    store(max_age_hours=24)
    serve(trained_at=clock.now() - 2 * DAY)
    began = retrained().started_at
    schedule.look(began + 23 * HOUR)
    assert starts == []
    schedule.look(began + 24 * HOUR + SECOND)
    assert [cause["age_hours"] for _, cause, _ in starts] == [pytest.approx(72, abs=0.1)]


def test_rules_keep_the_time_between_two(schedule, starts, store, add, retrained):
    store(every_interactions=1, min_minutes_between=30)
    began = retrained().started_at
    add(("u1", "i1"))
    schedule.look(began + 29 * MINUTE)
    assert starts == []
    schedule.look(began + 30 * MINUTE)
    assert starts.rules == ["every_interactions"]


def test_an_evaluation_is_no_retrain(schedule, starts, store, add, retrained):
    store(every_interactions=2, min_minutes_between=30)
    add(("u1", "i1"), ("u1", "i2"))
    ended = retrained(kind="evaluate").finished_at
    schedule.look(ended)
    assert starts.rules == ["every_interactions"]


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_after_a_failure_rules_wait_longer_each_time(
    database, settings, starts, store, add, retrained, status
):
    store(every_interactions=1, max_age_hours=1)
    add(("u1", "i1"))
    for n_failed, minutes in enumerate((1, 2, 4), start=1):
        retrained("failed", kind="evaluate")  # is none of them
        ended = retrained(status).finished_at
        Schedule(database, settings, starts).look(ended + minutes * MINUTE - 1)
        assert len(starts) == n_failed - 1
        Schedule(database, settings, starts).look(ended + minutes * MINUTE)
        assert starts.rules == ["every_interactions"] * n_failed


def test_after_many_failures_rules_wait_six_hours(schedule, starts, store, add, retrained):
    store(every_interactions=1)
    add(("u1", "i1"))
    ended = [retrained("failed").finished_at for _ in range(25)][-1]
    schedule.look(ended + 6 * HOUR - 1)
    assert starts == []
    schedule.look(ended + 6 * HOUR + 5 * SECOND)
    assert starts.rules == ["every_interactions"]


def test_a_retrain_that_was_cancelled_counts(schedule, starts, store, add, retrained):
    store(every_interactions=1)
    add(("u1", "i1"))
    ended = retrained("cancelled").finished_at
    schedule.look(ended + HOUR)
    assert starts == []


def test_rules_wait_for_a_job_that_runs(schedule, starts, store, add, database):
    store(every_interactions=1)
    add(("u1", "i1"))
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual", kind="evaluate")
    now = clock.now()
    schedule.look(now)
    assert starts == []
    with database.write() as connection:
        storage.jobs.end(connection, job_id, status="succeeded")
    schedule.look(now + 5 * SECOND)
    assert starts.rules == ["every_interactions"]


def test_a_retrain_that_lost_its_worker_has_failed(schedule, starts, store, add, database):
    store(every_interactions=1)
    add(("u1", "i1"))
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
        fence = storage.jobs.get(connection, job_id).fence
        storage.leases.release(connection, storage.leases.TRAINING, fence=fence)
    now = clock.now()
    schedule.look(now)
    with database.read() as connection:
        assert storage.jobs.get(connection, job_id).status == "interrupted"
    schedule.look(now + MINUTE - SECOND)
    assert starts == []
    schedule.look(now + MINUTE + 5 * SECOND)
    assert starts.rules == ["every_interactions"]


def test_a_rule_that_waits_holds_up_no_stale_notice(schedule, starts, store, add, serve, notices):
    store(every_interactions=1, stale_after_hours=1, webhook_url="http://hooks.invalid/")
    add(("u1", "i1"))
    now = clock.now()
    serve(trained_at=now - HOUR)
    starts.error = MemoryLimitError("Too large.")
    schedule.look(now)
    assert notices() == []
    schedule.look(now + 5 * SECOND)
    assert [event for event, _ in notices()] == ["stale"]


def test_a_rule_that_cannot_start_a_retrain_waits_longer_each_time(schedule, starts, store, add):
    store(every_interactions=1)
    add(("u1", "i1"))
    now = clock.now()
    starts.error = MemoryLimitError("Too large.")
    with structlog.testing.capture_logs() as lines:
        for seconds in (0, 54, 60, 174, 180, 240):
            schedule.look(now + seconds * SECOND)
    assert [line["event"] for line in lines] == ["retrain_not_started"] * 3
    starts.error = None
    schedule.look(now + 300 * SECOND)
    assert starts == []
    store(every_interactions=1, margin=0.5)  # whoever changed something need not wait
    schedule.look(now + 301 * SECOND)
    assert starts.rules == ["every_interactions"]


def test_a_stale_version_is_told_once(schedule, store, serve, notices, starts):
    store(stale_after_hours=24, webhook_url="http://hooks.invalid/")
    now = clock.now()
    serve(3, trained_at=now - DAY)
    schedule.look(now)
    assert notices() == []
    for hours in (1, 2, 3):
        schedule.look(now + hours * HOUR)
    payload = {
        "version": 3,
        "trained_at": clock.rfc3339(now - DAY),
        "age_hours": 25.0,
        "threshold": 24.0,
        "message": "Version 3 is active and 25.0 hours old: more than 24.0, after which it "
        "counts as stale.",
    }
    assert notices() == [("stale", payload)]
    serve(4, trained_at=now)
    schedule.look(now + DAY)
    schedule.look(now + DAY + HOUR)
    assert [payload["version"] for _, payload in notices()] == [3, 4]
    assert starts == []


def test_without_a_webhook_nobody_is_told_of_a_stale_version(schedule, store, serve, notices):
    store(stale_after_hours=24)
    now = clock.now()
    serve(3, trained_at=now - 2 * DAY)
    schedule.look(now)
    assert notices() == []
    store(stale_after_hours=24, webhook_url="http://hooks.invalid/")
    schedule.look(now + SECOND)
    assert len(notices()) == 1


def test_it_is_tidied_up_every_hour(database, settings, starts):
    tidied = []
    schedule = Schedule(database, settings, starts, tidy=lambda: tidied.append(None))
    now = clock.now()
    for later in (0, SECOND, HOUR - 1, HOUR, HOUR + SECOND, 2 * HOUR):
        schedule.look(now + later)
    assert len(tidied) == 3


def test_a_schedule_follows_the_policy_in_its_thread(
    database, settings, starts, store, add, wait_until
):
    def fail():
        raise RuntimeError("nobody thought of this")

    add(("u1", "i1"))
    with database.write() as connection:
        storage.policies.insert(connection, policy={"mood": 5}, actor="later", reason=None)
    before = threading.active_count()
    schedule = Schedule(database, settings, starts, tidy=fail)
    with structlog.testing.capture_logs() as lines:
        schedule.start()
        wait_until(lambda: "mood" in (schedule.problem or ""))
        store(margin=0.5)
        wait_until(lambda: "RuntimeError" in (schedule.problem or ""))
        store(every_interactions=1)
        wait_until(lambda: starts.rules == ["every_interactions"])
        wait_until(lambda: schedule.problem is None)
        schedule.stop()
    failures = [line for line in lines if line["event"] == "periodic_failed"]
    assert [line["log_level"] for line in failures] == ["warning", "error"]
    assert threading.active_count() == before
    schedule.stop()


def test_a_schedule_that_was_not_started_can_be_stopped(schedule):
    schedule.stop()


# A clock that ran ahead and was set right


@pytest.mark.fault(
    "The clock jumps ahead by hours and is set right",
    seen="`clock_set_back` in the log",
    kept="everything",
    heals="by itself: times of the schedule count by the clock as it is",
)
def test_the_schedule_goes_on_when_the_clock_is_set_back(schedule, starts, store):
    store(schedule="*/20 * * * *")
    with structlog.testing.capture_logs() as logged:
        for moment in ("12:05:00", "23:05:00", "12:06:00", "12:20:01"):
            schedule.look(at(moment))
    assert [not_since for _, _, not_since in starts][-1] == at("12:20:00")
    assert [line["event"] for line in logged].count("clock_set_back") == 1


@pytest.mark.fault(
    "A retrain was begun by a clock that ran ahead",
    seen="nothing",
    kept="everything",
    heals="by itself: it counts as one of long ago",
)
def test_a_start_that_lies_in_the_future_holds_up_no_rule(
    database, schedule, starts, store, retrained, serve
):
    now = clock.now()
    serve(trained_at=now + 9 * HOUR)
    job = retrained()
    with database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE training_jobs SET started_at = {now + 8 * HOUR}, "
            f"finished_at = {now + 9 * HOUR} WHERE job_id = {job.job_id}"
        )
    store(max_age_hours=24, min_minutes_between=60)
    schedule.look(now)
    assert starts.rules == ["max_age"]


def test_a_job_of_the_future_is_not_the_one_that_was_meant(database, retrained):
    job, now = retrained(), clock.now()
    with database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE training_jobs SET started_at = {now + HOUR} WHERE job_id = {job.job_id}"
        )
        assert not storage.jobs.has_started(connection, trigger="manual", since=now)


def test_no_seconds_are_negative(database, retrained):
    job = retrained()
    with database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE training_jobs SET started_at = {clock.now() + HOUR} "
            f"WHERE job_id = {job.job_id}"
        )
        moved = storage.jobs.get(connection, job.job_id)
    assert describe_job(moved).seconds_elapsed == 0
