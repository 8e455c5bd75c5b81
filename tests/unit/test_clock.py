"""The clock: microseconds since 1970, and what they look like."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckeeper import clock

LATEST = clock.microseconds(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))


def test_a_plain_time_is_to_the_second():
    assert clock.plain(1_764_891_735_999_999) == "2025-12-04 23:42:15"
    assert clock.plain(1_764_891_735_000_000) == "2025-12-04 23:42:15"


def test_times_are_rfc_3339():
    assert clock.rfc3339(1_764_891_735_000_042) == "2025-12-04T23:42:15.000042Z"
    assert clock.rfc3339(0) == "1970-01-01T00:00:00.000000Z"


def test_now_is_the_time_of_the_system():
    before = datetime.now(UTC)
    assert before - timedelta(microseconds=1) <= clock.utc(clock.now()) <= datetime.now(UTC)


@given(moment=st.integers(0, LATEST))
def test_a_time_comes_back_to_the_microsecond(moment):
    assert clock.microseconds(clock.utc(moment)) == moment
    assert clock.microseconds(datetime.fromisoformat(clock.rfc3339(moment))) == moment


@pytest.mark.parametrize("hours", [-12, 0, 5.5, 14])
def test_the_zone_of_a_time_is_reckoned_with(hours):
    there = datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=hours)))
    assert clock.microseconds(there) == clock.DAY - int(hours * 3600) * clock.SECOND
