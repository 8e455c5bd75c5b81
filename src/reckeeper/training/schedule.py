"""When to retrain by itself: cron expressions, as cron means them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from reckeeper.config import Settings
from reckeeper.errors import ConfigError

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


class Schedule:
    """Calls a function whenever a cron expression says so.

    A time that passes while the process sleeps is made up for once, within
    an hour.

    Parameters
    ----------
    settings : Settings
        Of them the schedule and its time zone.
    function : callable
    """

    def __init__(self, settings: Settings, function: Callable[[], None]) -> None:
        self._scheduler = BackgroundScheduler(timezone=ZoneInfo(settings.timezone))
        trigger = _trigger(settings)
        if trigger is not None:
            self._scheduler.add_job(
                function, trigger, coalesce=True, max_instances=1, misfire_grace_time=3600
            )

    def start(self) -> None:
        """Start calling."""
        self._scheduler.start()

    def stop(self) -> None:
        """Stop calling."""
        self._scheduler.shutdown(wait=False)


def next_run(settings: Settings, *, after: datetime | None = None) -> datetime | None:
    """Return when the schedule comes next, in its time zone; None without a schedule."""
    trigger = _trigger(settings)
    if trigger is None:
        return None
    after = datetime.now(UTC) if after is None else after
    found: datetime | None = trigger.get_next_fire_time(
        None, after.astimezone(ZoneInfo(settings.timezone))
    )
    return found


def _trigger(settings: Settings) -> BaseTrigger | None:
    if settings.retrain_schedule is None:
        return None
    timezone = ZoneInfo(settings.timezone)
    try:
        trigger = _parse(settings.retrain_schedule, timezone)
        if trigger.get_next_fire_time(None, datetime.now(timezone)) is None:
            raise ValueError("it names no date that ever comes")
        return trigger
    except ValueError as exc:
        raise ConfigError(
            f"RECKEEPER_RETRAIN_SCHEDULE={settings.retrain_schedule!r} is not a cron expression: "
            f"{exc}. It has five fields: minute, hour, day of the month, month, weekday (0 or 7 "
            "is Sunday), such as `0 3 * * 0`."
        ) from exc


def _parse(expression: str, timezone: ZoneInfo) -> BaseTrigger:
    fields = _NAMED.get(expression.strip(), expression).lower().split()
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
