"""Cron expressions, as cron means them."""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


_BY_THE_CLOCK = UTC
"""Stands for a clock on the wall: it has no offset that changes."""


def check(expression: str) -> None:
    """Check that an expression can be read and names a time that comes.

    Raises
    ------
    ValueError
        It does not; the message says why, and how one is written.
    """
    try:
        trigger = _parse(expression, _BY_THE_CLOCK)
        if trigger.get_next_fire_time(None, datetime.now(UTC)) is None:
            raise ValueError("it names no date that ever comes")
    except ValueError as exc:
        raise ValueError(
            f"is not a cron expression: {exc}. It has five fields: minute, hour, day of the "
            "month, month, weekday (0 or 7 is Sunday), such as `0 3 * * 0`"
        ) from exc


def next_time(expression: str, *, timezone: str, after: datetime) -> datetime:
    """Return the first time of an expression at `after` or later.

    As cron does it, an hour that is named comes once a day: what the clock
    leaves out when it is put forward comes by as much later, and what it
    shows a second time when it is put back does not come again.

    Parameters
    ----------
    expression : str
        One that passes `check`.
    timezone : str
        Name of the zone in which it is read.
    after : datetime
        With a zone, any.

    Returns
    -------
    datetime
        In the time zone named.
    """
    zone = ZoneInfo(timezone)
    here = after.astimezone(zone)
    if _fields(expression)[1].startswith("*"):
        found: datetime = _parse(expression, zone).get_next_fire_time(None, here)
        return found
    trigger = _parse(expression, _BY_THE_CLOCK)
    shown: datetime = here.replace(tzinfo=_BY_THE_CLOCK)
    while True:
        shown = trigger.get_next_fire_time(None, shown)
        # By UTC: times of one zone compare as the clock shows them.
        moment = shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if moment >= after.astimezone(UTC):
            return moment.astimezone(zone)
        shown += timedelta(minutes=1)


def _fields(expression: str) -> list[str]:
    return _NAMED.get(expression.strip(), expression).lower().split()


def _parse(expression: str, timezone: tzinfo) -> BaseTrigger:
    fields = _fields(expression)
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} field(s)")
    minute, hour, day, month, weekday = fields

    def trigger(*, day: str, weekday: str) -> CronTrigger:
        return CronTrigger(
            minute=minute,
            hour=hour,
            day=day,
            month=month,
            day_of_week=weekday,
            timezone=timezone,
        )

    weekdays = _weekdays(weekday)
    # crontab(5): if both the day and the weekday are restricted, either may match.
    if not day.startswith("*") and not weekday.startswith("*"):
        return OrTrigger([trigger(day=day, weekday="*"), trigger(day="*", weekday=weekdays)])
    return trigger(day=day, weekday=weekdays)


def _weekdays(field: str) -> str:
    """Return a weekday field by names: the library's own numbers begin on Monday."""
    if field == "*":
        return field
    chosen: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", part)
        if match is None:
            raise ValueError(f"{part!r} is not a weekday")
        first, last, step = match.groups()
        if first == "*" and last is None:
            start, stop = 0, 6
        else:
            start = _weekday(first)
            stop = _weekday(last) if last else 6 if step else start
            if last and stop < start and stop == 0:
                stop = 7
        if stop < start or step == "0":
            raise ValueError(f"{part!r} is not a range of weekdays")
        chosen.update(number % 7 for number in range(start, stop + 1, int(step or 1)))
    return ",".join(_WEEKDAYS[number] for number in sorted(chosen))


def _weekday(name: str) -> int:
    if name in _WEEKDAYS:
        return _WEEKDAYS.index(name)
    if re.fullmatch("[0-7]", name):
        return int(name)
    raise ValueError(f"{name!r} is not a weekday")
