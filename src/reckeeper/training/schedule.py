"""When to retrain without being asked: the policy's schedule and its policy."""

import dataclasses
from collections.abc import Callable

from reckeeper import clock, notices, storage
from reckeeper import policy as policies
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError
from reckeeper.periodic import Periodic
from reckeeper.policy import Policy
from reckeeper.telemetry import get_logger
from reckeeper.training.jobs import expire_silent
from reckeeper.wire import Cause

RULES_SECONDS = 5.0
"""How often the rules are looked at; the clock and the policy are every fourth `poll_seconds`."""

TIDY_SECONDS = 3600.0
MISSED_SECONDS = 3600.0
"""A time that has passed while the process slept is made up for within this."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 6 * 3600.0
"""How long rules wait after a retrain that failed: doubling, up to the longest."""

_SEEN_JOBS = 20
_UNBOUNDED = 2**62
_FAILED = {storage.jobs.FAILED, storage.jobs.INTERRUPTED}
_log = get_logger(__name__)

Start = Callable[[str, Cause, int | None], None]
"""Starts a retrain, of a trigger, a cause and `not_since`; see `JobRunner.start`."""


class Schedule:
    """Starts retrains as the policy in force asks for them.

    A thread looks at the policy in the database every second, so that one that
    is stored takes effect at once. What it starts:

    - With the trigger ``schedule``, whenever the cron expression says so. A
      time that passes while the process sleeps is made up for once, within an
      hour. A time that passes while another job runs is left out.
    - With the trigger ``rule``, when enough interactions have come, or the
      active version is too old, counted from the last retrain: one that was
      rejected, or found nothing changed, is not started again at once. One
      that failed does not count, and is tried again after a minute, then two,
      and so on up to six hours.

    Both keep the policy's minimum time between two.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        The policy while none is stored.
    start : callable
        Is given the trigger, the cause as JSON values, and ``not_since``:
        microseconds since 1970 from which on no job of this trigger may have
        started, so that of two processes with the same cause one starts it.
        Raises a `ReckeeperError` where no job can be started, which is logged.
    tidy : callable, optional
        Called when the thread starts, and every hour.

    Raises
    ------
    ConfigError
        The settings make no policy.
    """

    def __init__(
        self,
        database: storage.Database,
        settings: Settings,
        start: Start,
        *,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        policies.first(settings)
        self._database = database
        self._settings = settings
        self._start = start
        self._tidy = tidy
        self._revision: int | None = None
        self._followed: tuple[str | None, str] | None = None
        self._looked_at = 0
        self._rules_at = 0
        self._tidy_at = 0
        self._paused_until = 0
        self._n_refused = 0
        self._looking = Periodic(
            lambda: self.look(clock.now()), name="schedule", every_seconds=4 * settings.poll_seconds
        )

    @property
    def problem(self) -> str | None:
        """Why the last look failed, in a sentence; None if it succeeded."""
        return self._looking.problem

    def start(self) -> None:
        """Follow the policy until `stop`; times before now do not count."""
        self._looking.start()

    def stop(self) -> None:
        """Start nothing more."""
        self._looking.stop(timeout_seconds=None)

    def look(self, now: int) -> None:
        """Start what is due.

        Parameters
        ----------
        now : int
            Microseconds since 1970. Where it is less than at the look before, the clock was set
            back, and what was to come by it counts from now on.

        Raises
        ------
        StorageError
            The database did not answer.
        """
        if now < self._looked_at:
            back = round((self._looked_at - now) / 1e6, 1)
            _log.warning("clock_set_back", seconds=back)
            self._looked_at = self._rules_at = self._tidy_at = self._paused_until = now
        with self._database.read() as connection:
            stored = policies.current(connection, self._settings)
        if stored.revision != self._revision:
            self._revision = stored.revision
            self._rules_at, self._paused_until, self._n_refused = now, 0, 0
        self._look_at_cron(stored.policy, now)
        if now >= self._rules_at:
            self._rules_at = now + _microseconds(RULES_SECONDS)
            self._look_at_rules(stored.policy, now)
            self._look_at_age(stored.policy, now)
        if self._tidy is not None and now >= self._tidy_at:
            self._tidy_at = now + _microseconds(TIDY_SECONDS)
            self._tidy()

    def _look_at_cron(self, policy: Policy, now: int) -> None:
        since, self._looked_at = self._looked_at, now
        if self._followed != (policy.schedule, policy.timezone):
            self._followed = (policy.schedule, policy.timezone)
            return  # its times count from now on
        if policy.schedule is None:
            return
        due = policies.last_run(
            policy.schedule,
            timezone=policy.timezone,
            after=clock.utc(max(since, now - _microseconds(MISSED_SECONDS))),
            until=clock.utc(now),
        )
        if due is None:
            return
        due_at = clock.microseconds(due)
        with self._database.read() as connection:
            last = _last_retrain(connection, now)
        cause = Cause(
            rule="schedule",
            expression=policy.schedule,
            due_at=clock.rfc3339(due_at),
            sentence=f"Scheduled by {policy.schedule} ({policy.timezone}).",
        )
        if _is_too_soon(policy, last, now):
            _log.info(
                "scheduled_retrain_left_out",
                cause=cause.model_dump(),
                min_minutes_between=policy.min_minutes_between,
            )
        else:
            self._try("schedule", cause, not_since=due_at)

    def _look_at_rules(self, policy: Policy, now: int) -> None:
        if policy.every_interactions is None and policy.max_age_hours is None:
            return
        if now < self._paused_until:
            return
        expire_silent(self._database)
        with self._database.read() as connection:
            if storage.jobs.running(connection) is not None:
                return
            last = _last_retrain(connection, now)
            if _is_too_soon(policy, last, now):
                return
            counted, n_failed = last, 0
            if last is not None and last.status in _FAILED:
                counted, n_failed = _last_not_failed(connection)
                assert last.finished_at is not None
                if now < last.finished_at + _pause(n_failed):
                    return
            cause = _cause(connection, policy, counted, now)
        not_since = 0 if last is None else last.started_at + 1
        if cause is None or self._try("rule", cause, not_since=not_since):
            self._n_refused = 0
        else:
            self._n_refused += 1
            self._paused_until = now + _pause(self._n_refused)

    def _look_at_age(self, policy: Policy, now: int) -> None:
        if policy.stale_after_hours is None or policy.webhook_url is None:
            return
        with self._database.read() as connection:
            active = storage.models.active(connection)
            if active is None:
                return
            age_hours = _hours(now - active.trained_at)
            key = f"stale:{active.version}"
            if age_hours <= policy.stale_after_hours or storage.notices.has(connection, key):
                return
        age_hours = round(age_hours, 2)
        with self._database.write() as connection:
            notices.notify(
                connection,
                "stale",
                {
                    "version": active.version,
                    "trained_at": clock.rfc3339(active.trained_at),
                    "age_hours": age_hours,
                    "threshold": policy.stale_after_hours,
                    "message": f"Version {active.version} is active and {age_hours:,} hours "
                    f"old: more than {policy.stale_after_hours:,}, after which it counts as stale.",
                },
                key=key,
            )
        _log.warning("model_stale", version=active.version, age_hours=age_hours)

    def _try(self, trigger: str, cause: Cause, *, not_since: int) -> bool:
        try:
            self._start(trigger, cause, not_since)
        except ReckeeperError as exc:
            told = cause.model_dump()
            _log.warning("retrain_not_started", trigger=trigger, cause=told, error=exc.in_full)
            return False
        return True


def _is_too_soon(policy: Policy, last: storage.JobSummary | None, now: int) -> bool:
    pause = _microseconds(60 * policy.min_minutes_between)
    return last is not None and now < last.started_at + pause


def _last_retrain(connection: storage.Connection, now: int) -> storage.JobSummary | None:
    """Return the last retrain; one by a clock that ran ahead began and ended long ago."""
    last = storage.jobs.last_retrain(connection)
    if last is None or not storage.jobs.is_of_the_future(last.started_at, now):
        return last
    return dataclasses.replace(last, started_at=0, finished_at=0 if last.finished_at else None)


def _last_not_failed(connection: storage.Connection) -> tuple[storage.JobSummary | None, int]:
    """Return the last retrain that did not fail, and how many have failed since."""
    n_failed = 0
    for job in storage.jobs.page(connection, limit=_SEEN_JOBS, before=None):
        if job.kind == storage.jobs.RETRAIN:
            if job.status not in _FAILED:
                return job, n_failed
            n_failed += 1
    return None, n_failed


def _cause(
    connection: storage.Connection, policy: Policy, last: storage.JobSummary | None, now: int
) -> Cause | None:
    """Return which rule asks for a retrain, counted from the last one, or None."""
    active = storage.models.active(connection)
    threshold = policy.every_interactions
    if threshold is not None:
        watermark = None if last is None else last.watermark
        if watermark is None:
            watermark = 0 if active is None else active.watermark
        # To the threshold it costs little at each look; the rest is counted once.
        n = storage.interactions.count_after(connection, watermark, at_most=threshold)
        if n >= threshold:
            n = storage.interactions.count_after(connection, watermark, at_most=_UNBOUNDED)
            return Cause(
                rule="every_interactions",
                n=n,
                threshold=threshold,
                sentence=f"{n:,} new interactions since the last retrain; the policy asks for "
                f"one every {threshold:,}.",
            )
    if policy.max_age_hours is not None and active is not None:
        started_at = 0 if last is None else last.started_at
        trained_at = active.trained_at
        if storage.jobs.is_of_the_future(trained_at, now):
            trained_at = 0  # nobody knows how old it is
        if _hours(now - max(trained_at, started_at)) > policy.max_age_hours:
            age_hours = round(max(0.0, _hours(now - active.trained_at)), 2)
            return Cause(
                rule="max_age",
                age_hours=age_hours,
                threshold=policy.max_age_hours,
                sentence=f"Version {active.version} is {age_hours:,} hours old; the policy "
                f"asks for a retrain after {policy.max_age_hours:,}.",
            )
    return None


def _pause(n_failed: int) -> int:
    doublings = min(n_failed - 1, 30)
    return _microseconds(min(FIRST_PAUSE_SECONDS * 2**doublings, LONGEST_PAUSE_SECONDS))


def _hours(microseconds: int) -> float:
    return microseconds / 3.6e9


def _microseconds(seconds: float) -> int:
    return int(seconds * 1e6)
