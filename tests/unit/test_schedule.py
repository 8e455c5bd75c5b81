"""Cron expressions, as cron means them."""

import dataclasses
import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from reckeeper.errors import ConfigError
from reckeeper.training import Schedule, next_run

# 1 January 2026 is a Thursday.
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def runs(settings):
    """Return a function that gives the next runs of an expression."""

    def runs(expression, count, *, timezone="UTC", after=START):
        scheduled = dataclasses.replace(settings, retrain_schedule=expression, timezone=timezone)
        found = []
        for _ in range(count):
            after = next_run(scheduled, after=after)
            assert after.tzinfo == ZoneInfo(timezone)
            found.append(after)
            after = after.astimezone(UTC) + timedelta(microseconds=1)
        return found

    return runs


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
        "2026-03-29T01:30:00+00:00",
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
    ],
)
def test_what_is_no_expression_is_refused(settings, expression):
    broken = dataclasses.replace(settings, retrain_schedule=expression)
    for act in (next_run, lambda settings: Schedule(settings, print)):
        with pytest.raises(ConfigError) as caught:
            act(broken)
        assert caught.value.message.startswith(
            f"RECKEEPER_RETRAIN_SCHEDULE={expression!r} is not a cron expression: "
        )
        assert "0 or 7 is Sunday" in caught.value.message


def test_without_a_schedule_there_is_no_next_run(settings):
    assert next_run(settings) is None
    schedule = Schedule(settings, print)
    schedule.start()
    schedule.stop()


def test_now_counts_where_no_time_is_given(settings):
    found = next_run(dataclasses.replace(settings, retrain_schedule="* * * * *"))
    assert timedelta(0) <= found - datetime.now(UTC) + timedelta(seconds=5) < timedelta(minutes=2)


def test_a_schedule_starts_and_stops_its_thread(settings):
    before = threading.active_count()
    schedule = Schedule(dataclasses.replace(settings, retrain_schedule="0 3 * * *"), print)
    schedule.start()
    assert threading.active_count() > before
    schedule.stop()
