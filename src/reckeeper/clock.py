"""Time as Reckeeper counts it: whole microseconds since 1970-01-01 UTC."""

import functools
import time
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
DAY = 86_400 * SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Return the present time in microseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1000


def microseconds(moment: datetime) -> int:
    """Return a time that has a zone in microseconds since 1970-01-01 UTC, exactly."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def utc(moment: int) -> datetime:
    """Return a time in microseconds since 1970 as a datetime in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=moment)


def plain(moment: int) -> str:
    """Return a time in microseconds since 1970 as ``2025-12-04 23:42:15``, UTC."""
    return datetime.fromtimestamp(moment // SECOND, UTC).isoformat(" ")[:19]


def rfc3339(moment: int) -> str:
    """Return a time in microseconds since 1970 as ``2025-12-04T23:42:15.123456Z``."""
    seconds, rest = divmod(moment, SECOND)
    return f"{_to_the_second(seconds)}.{rest:06d}Z"


@functools.lru_cache(maxsize=1024)
def _to_the_second(seconds: int) -> str:
    """Return a time in seconds since 1970 as ``2025-12-04T23:42:15``: many share one."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
