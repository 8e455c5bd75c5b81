"""Cron expressions: when they come, also on days when the clock changes."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PARTS = ("minute", "hour", "day of the month", "month", "weekday")
_MICROSECOND = timedelta(microseconds=1)


def check(expression: str) -> None:
    """Check that an expression can be read and names a time that comes.

    Raises
    ------
    ValueError
        It does not; the message says why, and how one is written.
    """
    try:
        fields = _fields(expression)
        if not _comes(fields):
            raise ValueError(_fault(fields))
    except ValueError as exc:
        raise ValueError(
            f"is not a cron expression: {exc}. It has five fields: minute, hour, day of the "
            "month, month, weekday (0 or 7 is Sunday), such as `0 3 * * 0`"
        ) from exc


def next_run(expression: str, *, timezone: str, after: datetime) -> datetime:
    """Return the first time of an expression at `after` or later.

    A time that the clock skips comes at the end of the gap, once; one that
    the clock shows twice comes the first time alone. An hour of ``*`` comes
    every hour, however the clock changes.

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
    # By UTC: times of one zone compare as the clock shows them, and repeat in autumn.
    since = after.astimezone(UTC)
    before = (since - _MICROSECOND).astimezone(ZoneInfo(timezone))
    runs = CronSim(_fields(expression), before)
    return next(run for run in runs if run.astimezone(UTC) >= since)


def last_run(
    expression: str, *, timezone: str, after: datetime, until: datetime
) -> datetime | None:
    """Return the last time of an expression later than `after` and not later than `until`.

    Parameters
    ----------
    expression, timezone
        As `next_run` takes them.
    after, until : datetime
        With a zone, any.

    Returns
    -------
    datetime or None
        In the time zone named; None if it does not come between them.
    """
    # By UTC: a sum forgets which of the two hours it is that the clock shows twice.
    found, since, last = None, after.astimezone(UTC), until.astimezone(UTC)
    while True:
        run = next_run(expression, timezone=timezone, after=since + _MICROSECOND)
        since = run.astimezone(UTC)
        if since > last:
            return found
        found = run


def _comes(fields: str) -> bool:
    """Say whether fields can be read and name a time that comes."""
    try:
        next(CronSim(fields, datetime.now(UTC)))
    except (CronSimError, StopIteration):
        return False
    return True


def _fault(fields: str) -> str:
    """Say what is wrong with fields that name no time."""
    parts = fields.split()
    for place, field in enumerate(parts):
        alone = ["*"] * len(_PARTS)
        alone[place] = field
        if not _comes(" ".join(alone)):
            return f"its {_PARTS[place]} cannot be {field!r}"
    return (
        f"it names no date that ever comes: no month {parts[3]!r} has a day {parts[2]!r}, so "
        "choose another day or month"
    )


def _fields(expression: str) -> str:
    """Return five fields as the library reads them.

    Raises
    ------
    ValueError
        There are more or fewer.
    """
    fields = _NAMED.get(expression.strip(), expression).lower().split()
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} field(s)")
    minute, hour, day, month, weekday = fields
    if hour not in {"*", "*/1"}:
        # The library takes a `*` for "whatever the clock does", also in a named hour and with
        # a step: 02:30 of `30 */2` would be skipped in spring and come twice in autumn.
        minute, hour = re.sub(r"^\*", "0-59", minute), re.sub(r"^\*", "0-23", hour)
    weekday = re.sub(r"-sun\b", "-7", weekday)  # a range may end with Sunday
    return " ".join((minute, hour, day, month, weekday))
