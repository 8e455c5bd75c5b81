"""Times on the clock of a place, as times in UTC."""

import datetime
import zoneinfo
from typing import NamedTuple

import numpy as np

from reckeeper import clock
from reckeeper.errors import DataError

_FIRST, _LAST = -2_208_988_800_000_000, 7_258_118_400_000_000
"""1900 and 2200: what lies beyond is refused anyway."""

_MINUTE = 60_000_000
_EPOCH = datetime.datetime(1970, 1, 1)


class OnClock(NamedTuple):
    """Microseconds UTC; which times the clock shows twice, and which never."""

    times: np.ndarray
    is_twice: np.ndarray
    is_never: np.ndarray


def zone_named(name: str) -> zoneinfo.ZoneInfo:
    """Return a time zone.

    Raises
    ------
    DataError
        There is none of this name.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as exc:
        raise DataError(
            f"The time zone {name!r} is not known: write a name such as Europe/Berlin."
        ) from exc


def in_utc(local: np.ndarray, zone: zoneinfo.ZoneInfo) -> OnClock:
    """Return times that a clock shows as times in UTC; of two that look alike, the first.

    Parameters
    ----------
    local : array of int64
        Microseconds from 1970 on, as the clock shows them.
    zone : ZoneInfo
        Where it hangs.
    """
    offsets = np.zeros(len(local), dtype=np.int64)
    is_twice = np.zeros(len(local), dtype=bool)
    is_never = np.zeros(len(local), dtype=bool)
    within = np.flatnonzero((local >= _FIRST) & (local < _LAST))
    days, day_of = np.unique(local[within] // clock.DAY, return_inverse=True)
    edges = {day: _offset(day * clock.DAY, zone) for day in {*days.tolist(), *(days + 1).tolist()}}
    steady = np.array([edges[day] == edges[day + 1] for day in days.tolist()], dtype=bool)
    of_day = np.array([edges[day][0] for day in days.tolist()], dtype=np.int64)
    offsets[within] = of_day[day_of]
    for row in within[~steady[day_of]].tolist():
        earlier, later = _offset(int(local[row]), zone)
        offsets[row] = earlier
        is_twice[row] = earlier > later
        is_never[row] = earlier < later
    return OnClock(local - offsets, is_twice, is_never)


def _offset(local: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """Return how far the clock is ahead of UTC, by the first and the second time it shows this."""
    moment = _EPOCH + datetime.timedelta(microseconds=local)
    first, second = (zone.utcoffset(moment.replace(fold=fold)) for fold in (0, 1))
    return _micros(first), _micros(second)


def _micros(offset: datetime.timedelta | None) -> int:
    return 0 if offset is None else offset // datetime.timedelta(microseconds=1)
