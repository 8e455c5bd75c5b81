"""How the data have drifted since the last version: their sizes, and how fast they come."""

from dataclasses import dataclass

import numpy as np

from reckeeper import clock, storage
from reckeeper.matrix import InteractionLog
from reckeeper.policy import Policy

_LEAST_EXPECTED = 100
"""Interactions that must be usual for a span before a fall can be told from chance."""

_WEEK = 7 * clock.DAY


@dataclass(frozen=True)
class Change:
    """A number at the last version and now; `before` is None where there is no last version."""

    before: int | None
    now: int


@dataclass(frozen=True)
class PerDay:
    """Interactions a day, usually and of late; None where too few are usual to tell."""

    usual: float | None = None
    recent: float | None = None


@dataclass(frozen=True)
class Drift:
    """What has become of the data since the last version was trained."""

    interactions: Change
    users: Change
    items: Change
    per_day: PerDay


def since(
    previous: storage.Version | None,
    log: InteractionLog,
    *,
    policy: Policy,
) -> tuple[Drift, tuple[str, ...]]:
    """Compare what is to be trained on with what a version was trained on.

    Parameters
    ----------
    previous : storage.Version or None
        That version.
    log : InteractionLog
    policy : Policy
        Its `max_fall` is the largest share by which a number may fall.

    Returns
    -------
    Drift
    tuple of str
        A sentence for each fall that is larger than the policy allows. Sizes
        fall for a good reason where interactions are chosen otherwise.
    """
    if previous is None:
        users, items = len(log.users), len(log.items)
        return Drift(Change(None, len(log)), Change(None, users), Change(None, items), PerDay()), ()
    sizes = {
        "interactions": (previous.training_samples, len(log)),
        "users": (previous.n_users, len(log.users)),
        "items": (previous.n_items, len(log.items)),
    }
    falls = []
    for name, (before, now) in () if differ(previous, policy) else sizes.items():
        if now < (1 - policy.max_fall) * before:
            falls.append(
                f"{name.capitalize()} fell by {1 - now / before:.0%}: "
                f"{now:,} now, {before:,} for version {previous.version}."
            )
    per_day = PerDay()
    rates = _rates(log, since=previous.trained_at, now=clock.now())
    if rates is not None:
        usual, recent = rates
        per_day = PerDay(round(usual, 1), round(recent, 1))
        if recent < (1 - policy.max_fall) * usual:
            falls.append(
                f"Interactions come more slowly by {1 - recent / usual:.0%}: {recent:,.0f} a day "
                f"since version {previous.version} was trained, {usual:,.0f} at the same times "
                "of the weeks before."
            )
    changes = {name: Change(before, now) for name, (before, now) in sizes.items()}
    return Drift(**changes, per_day=per_day), tuple(falls)


def differ(version: storage.Version | None, policy: Policy) -> bool:
    """Say whether a version's interactions were weighed or chosen otherwise; unknown is no."""
    return bool(version is not None and version.data and version.data != policy.data())


def _rates(log: InteractionLog, *, since: int, now: int) -> tuple[float, float] | None:
    """Return the usual number of interactions a day and the recent one.

    Recent is the time since a moment, at most a week; usual are the same
    hours and weekdays of the up to four weeks before, so that neither a night
    nor a weekend is a fall. None where too few would be usual to tell.
    """
    times = log.occurred_at
    begin = max(since, now - _WEEK)
    if times is None or not len(times) or begin >= now:
        return None
    counts = [
        np.count_nonzero((times >= begin - shift) & (times < now - shift))
        for shift in range(0, 5 * _WEEK, _WEEK)
        if begin - shift >= times.min()
    ]
    if len(counts) < 2:
        return None
    expected = float(np.mean(counts[1:]))
    if expected < _LEAST_EXPECTED:
        return None
    days = (now - begin) / clock.DAY
    return expected / days, float(counts[0]) / days
