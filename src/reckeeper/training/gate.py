"""The gate: is a candidate worse than what serves, on interactions that neither has seen?"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reckeeper import __version__, clock, evaluation, storage
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation import Quality, Split
from reckeeper.matrix import InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.registry import ActiveModel

K = 10
"""Length of the lists that are judged."""

_CELLS = 25_000_000
_USERS = (2_000, 20_000)
"""Users that are judged: as many as make so many cells of scores, within limits; of more, so many
are drawn by lot."""

BASELINE = "popularity"

_HELD_OUT = 0.2
"""Share of each user's items that is held out where there are too few newer interactions."""

_LEAST_EXPECTED = 100
"""Interactions that must be usual for a span before a fall can be told from chance."""

_WEEK = 7 * clock.DAY

_METRICS = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "HitRate", "map": "MAP"}


@dataclass(frozen=True)
class Trial:
    """What a candidate is to be judged on.

    Attributes
    ----------
    split : Split or None
        Of `log`: its kind is ``new`` where what came after the active version
        is held out. None where there is nothing to split.
    active : storage.Version or None
        The active version.
    log : InteractionLog
    """

    split: Split | None
    active: storage.Version | None
    log: InteractionLog = field(repr=False)

    @property
    def training_log(self) -> InteractionLog:
        """What may be known before the judging, such as by tuning: a copy, made at each call."""
        return self.log if self.split is None else self.log.part(self.split.keep)


def prepare(
    log: InteractionLog,
    *,
    n_seen: int,
    active: storage.Version | None,
    policy: Policy,
    seen: InteractionLog | None = None,
    seed: int = 0,
) -> Trial:
    """Decide what is held out.

    That is what came after the active version, where the policy's numbers of
    interactions and of users are reached; else a fifth of each user's items,
    by time where there are times.

    Parameters
    ----------
    log : InteractionLog
        All that the policy lets into training.
    n_seen : int
        How many of them the active version could have seen: the first ones.
    active : storage.Version or None
        The active version.
    policy : Policy
    seen : InteractionLog, optional
        What the policy would have let into training when there was no more
        than the active version has seen. By default the first `n_seen` of
        `log`: right where the policy has neither window nor cap, which would
        leave a candidate less than the active version had.
    seed : int
        Of a split without times.
    """
    n_newer = len(log) - n_seen
    if active is not None and n_seen > 0 and n_newer >= policy.min_new_interactions:
        joined = log if seen is None else _continued(seen, log.part(slice(n_seen, None)))
        split = evaluation.split_at(joined, n_seen if seen is None else len(seen))
        if len(_to_judge(split)) >= policy.min_users:
            return Trial(split, active, joined)
    if not len(log):
        return Trial(None, active, log)
    if log.occurred_at is None:
        return Trial(evaluation.split_random(log, share=_HELD_OUT, seed=seed), active, log)
    return Trial(evaluation.split_user_time(log, share=_HELD_OUT), active, log)


def judge(
    trial: Trial,
    *,
    recipe: str,
    settings: Mapping[str, Any],
    active: ActiveModel | None,
    previous: storage.Version | None,
    log: InteractionLog,
    policy: Policy,
    is_automatic: bool,
    data_now: Mapping[str, Any],
    report: Callable[[float], None],
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a candidate on one side of a trial, and see how it does on the other.

    On newer interactions the active version answers itself, and for the
    candidate too where the fit would give the same model. Otherwise its
    recipe and settings are fitted again, on what the candidate is fitted on;
    where they are the candidate's own there is nothing to compare, and only
    popularity is left as a measure, and the coverage that the active version
    had when it was judged in the same way.

    Parameters
    ----------
    trial : Trial
    recipe, settings
        The candidate's.
    active : ActiveModel or None
        The active version in memory; None if there is none or it cannot be
        loaded.
    previous : mapping or None
        Row of the version that was trained last.
    log : InteractionLog
        All that the candidate will be fitted on in the end.
    policy : Policy
    is_automatic : bool
        Nobody watches: a fall of the data is a reason to reject.
    data_now : mapping
        How interactions are weighed and chosen, as `Policy.data` has it.
    report : callable
        Called with the fraction done, in [0, 1]. What it raises ends it.
    seed : int
        Of the users drawn and of the confidence intervals.

    Returns
    -------
    dict
        The verdict, in JSON values. ``decision`` is ``reject`` where a
        version is active and there are ``reasons``, else ``promote``.
        ``method`` is ``new_interactions``, ``refit``, or ``none`` where
        nothing could be measured. All differences are the candidate's value
        less the other's.

    Notes
    -----
    Repeatable by seed, apart from the seconds. Data on which nothing can be
    fitted or measured is no error here: a warning says so.
    """
    began = time.perf_counter()
    data, falls = _data_beside(previous, log, policy=policy, data_now=data_now)
    verdict: dict[str, Any] = {
        "decision": "promote",
        "method": "none",
        "sentence": "",
        "reasons": falls if is_automatic else [],
        "warnings": [] if is_automatic else falls,
        "metric": policy.metric,
        "margin": policy.margin,
        "k": K,
        "n_users": 0,
        "active_version": None if trial.active is None else trial.active.version,
        "candidate": None,
        "active": None,
        "popularity": None,
        "versus_active": None,
        "versus_popularity": None,
        "data": data,
    }
    try:
        measured = _measure(trial, recipe, settings, active=active, seed=seed, report=report)
    except DataError as exc:
        verdict["sentence"] = f"Nothing could be measured. {exc.message}"
        verdict["warnings"].append(verdict["sentence"])
    else:
        verdict |= measured.numbers(seed=seed)
        if measured.problem is not None:
            verdict["warnings"].append(measured.problem)
        if measured.method == "refit" and _differ(trial.active, data_now):
            verdict["warnings"].append(
                f"Interactions are weighed or chosen otherwise than for version "
                f"{verdict['active_version']}. What that changes shows on newer interactions alone."
            )
        if verdict["n_users"] < policy.min_users:
            verdict["sentence"] = _too_few(verdict, policy.min_users)
            verdict["warnings"].append(verdict["sentence"])
        else:
            verdict["sentence"] = _sentence(verdict, measured)
            verdict["reasons"] += _reasons(verdict, measured, recipe=recipe, policy=policy)
    if trial.active is None:
        verdict["warnings"] += verdict["reasons"]
        verdict["reasons"] = []
    if verdict["reasons"]:
        verdict["decision"] = "reject"
    verdict["seconds"] = round(time.perf_counter() - began, 3)
    report(1.0)
    return verdict


# What is measured

_Make = Callable[[Callable[[float], None]], Ranker]
"""Makes a model's ranker, and reports how far it is."""


@dataclass(frozen=True)
class _Measured:
    """How the candidate and what stands beside it did, on the same users.

    Of an active version whose recipe and settings are the candidate's, fitted
    on the same interactions, `active` is None: it would be the candidate.
    `coverage` is that of the active version's lists, None if there is none
    to compare with.
    """

    method: str
    candidate: Quality
    popularity: Quality
    active: Quality | None = None
    coverage: float | None = None
    problem: str | None = None

    def numbers(self, *, seed: int) -> dict[str, Any]:
        """Return what the verdict has of this."""

        def versus(other: Quality | None) -> dict[str, Any] | None:
            return None if other is None else evaluation.compare(other, self.candidate, seed=seed)

        return {
            "method": self.method,
            "n_users": len(self.candidate.user_index),
            "candidate": self.candidate.summary(seed=seed),
            "active": None if self.active is None else self.active.summary(seed=seed),
            "popularity": self.popularity.summary(seed=seed),
            "versus_active": versus(self.active),
            "versus_popularity": versus(self.popularity),
        }


def _measure(
    trial: Trial,
    recipe: str,
    settings: Mapping[str, Any],
    *,
    active: ActiveModel | None,
    seed: int,
    report: Callable[[float], None],
) -> _Measured:
    """Fit and measure the candidate, popularity, and what is to be had of the active version.

    Raises
    ------
    DataError
        There is nobody to judge, or the candidate or popularity cannot be
        fitted or measured.
    """
    split, row = trial.split, trial.active
    if split is None:
        raise NotEnoughDataError("There are no interactions.")
    users = _to_judge(split)
    most = int(np.clip(_CELLS // max(1, len(split.train.items)), *_USERS))
    if len(users) > most:
        users = np.random.default_rng(seed).choice(users, most, replace=False)

    def fitted(name: str, of_settings: Mapping[str, Any]) -> _Make:
        return lambda tell: Ranker.of(
            recipe_named(name).fit(split.train, settings=of_settings, on_progress=tell),
            split.train,
        )

    def ready(ranker: Ranker) -> _Make:
        return lambda _: ranker

    def measured(make: _Make, step: int) -> Quality:
        ranker = make(lambda done: report((step + done / 2) / 3))
        return evaluation.measure(
            ranker,
            histories=split.histories,
            held_out=split.held_out,
            user_index=users,
            k=K,
            on_progress=lambda done: report((step + (1 + done) / 2) / 3),
        )

    if row is None:
        candidate = measured(fitted(recipe, settings), 0)
        return _Measured("refit", candidate, measured(fitted(BASELINE, {}), 1))

    is_same = _is_same(row, recipe, settings)
    is_new = split.kind == "new" and active is not None
    method = "new_interactions" if is_new else "refit"
    beside: _Make | None = None if is_same else fitted(row.recipe, row.settings)
    if active is not None and is_new:
        trained = active.artifact.matrix
        served = Ranker.of(active.artifact.model, trained)
        beside = ready(served.in_ids_of(split.train.items, own=trained.items))
    ours = fitted(recipe, settings)
    if beside is not None and is_new and is_same and _is_of(row, trial):
        ours = beside

    candidate = measured(ours, 0)
    popularity = measured(fitted(BASELINE, {}), 1)
    if beside is None:
        then = _coverage_then(row, n_users=len(users))
        return _Measured(method, candidate, popularity, coverage=then)
    try:
        quality = candidate if ours is beside else measured(beside, 2)
    except DataError as exc:
        problem = f"Version {row.version} could not be measured beside it: {exc.message}"
        return _Measured(method, candidate, popularity, problem=problem)
    return _Measured(method, candidate, popularity, quality, quality.coverage)


def _coverage_then(row: storage.Version, *, n_users: int) -> float | None:
    """Return what share of the items a version's lists had when it was judged by a refit.

    The version itself has seen what is held out now, and lists other things.
    Of more users than are judged now it tells nothing: more users have more
    lists.
    """
    verdict = row.verdict or {}
    try:
        is_alike = verdict["method"] == "refit" and verdict["n_users"] <= n_users
        return float(verdict["candidate"][f"coverage@{K}"]["mean"]) if is_alike else None
    except (KeyError, TypeError, ValueError):
        return None  # nothing was measured, or it came from elsewhere and tells other things


def _to_judge(split: Split) -> np.ndarray:
    """Return the users who have a history and something held out."""
    has_both = (np.diff(split.histories.indptr) > 0) & (np.diff(split.held_out.indptr) > 0)
    return np.flatnonzero(has_both)


def _continued(seen: InteractionLog, later: InteractionLog) -> InteractionLog:
    """Append later interactions to a log, as far as it has their users and items."""
    user, item = later.users.places_in(seen.users), later.items.places_in(seen.items)
    later = later.part((user[later.user_index] >= 0) & (item[later.item_index] >= 0))
    times = (seen.occurred_at, later.occurred_at)

    def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.concatenate([first, second.astype(first.dtype)])

    return InteractionLog(
        seen.users,
        seen.items,
        both(seen.user_index, user[later.user_index]),
        both(seen.item_index, item[later.item_index]),
        both(seen.weight, later.weight),
        None if times[0] is None or times[1] is None else both(times[0], times[1]),
        both(seen.listing, later.listing),
    )


def _is_same(row: storage.Version, recipe: str, settings: Mapping[str, Any]) -> bool:
    """Say whether a version has this recipe with these settings, once both are complete."""
    if row.recipe != recipe:
        return False
    complete = recipe_named(recipe).settings_type.parse
    try:
        return complete(row.settings, recipe=recipe) == complete(settings, recipe=recipe)
    except DataError:
        return False  # settings of another time, which the recipe no longer takes


def _is_of(row: storage.Version, trial: Trial) -> bool:
    """Say whether a version was fitted by this code to what a trial lets be known.

    Fits are repeatable: to fit its recipe and settings again gives the version.
    """
    code = row.libraries.get("reckeeper")
    return code == __version__ and row.fingerprint == trial.training_log.fingerprint()


def _differ(row: storage.Version | None, data_now: Mapping[str, Any]) -> bool:
    """Say whether a version's interactions were weighed or chosen otherwise; unknown is no."""
    return bool(row is not None and row.data and row.data != dict(data_now))


# What it means


def is_worse(difference: Mapping[str, float], *, mean: float, margin: float) -> bool:
    """Say whether a candidate is worse than another version by more than chance and a margin.

    Parameters
    ----------
    difference : mapping
        ``high`` is the upper end of the interval of the difference, candidate
        less other.
    mean : float
        The other's figure.
    margin : float
        Share of it that is allowed, in [0, 1).
    """
    return difference["high"] < -margin * mean


def _reasons(
    verdict: Mapping[str, Any], measured: _Measured, *, recipe: str, policy: Policy
) -> list[str]:
    """Return what speaks against the candidate, a sentence each."""
    version, metric = verdict["active_version"], policy.metric
    reasons = []
    if verdict["versus_active"] is not None:
        mean = verdict["active"][metric]["mean"]
        if is_worse(verdict["versus_active"][metric], mean=mean, margin=policy.margin):
            reasons.append(
                f"It is worse than version {version} by more than {policy.margin:.1%} of its "
                f"{_label(metric)}: "
                f"{_beside(verdict, 'active', f'version {version}')}."
            )
    if verdict["versus_popularity"][metric]["high"] < 0 and recipe != BASELINE:
        reasons.append(
            "It is worse than the same popular items for everybody: "
            f"{_beside(verdict, 'popularity', 'popularity')}."
        )
    ours, theirs = measured.candidate.coverage, measured.coverage
    if theirs is not None and ours < policy.min_coverage_share * theirs:
        reasons.append(
            f"Its lists have {ours:.1%} of all items, less than {policy.min_coverage_share:.0%} of "
            f"the {theirs:.1%} that those of version {version} have."
        )
    return reasons


def _sentence(verdict: Mapping[str, Any], measured: _Measured) -> str:
    """Say what was compared, on what, and how it came out."""
    version = verdict["active_version"]
    where = (
        f"on {verdict['n_users']:,} users' newer interactions"
        if measured.method == "new_interactions"
        else f"on what was held out of {verdict['n_users']:,} users' histories"
    )
    if verdict["versus_active"] is not None:
        beside = _beside(verdict, "active", f"version {version}")
        who = f"version {version}"
        if measured.method == "refit":
            who += ", fitted again on the same interactions,"
        return f"{_how(verdict)} {who} {where}: {beside}."
    beside = _beside(verdict, "popularity", "popularity")
    if version is None:
        return f"No version serves to compare it with. {where.capitalize()}: {beside}."
    if measured.problem is not None:
        return f"It could not be compared with version {version}. {where.capitalize()}: {beside}."
    return (
        f"Recipe and settings are those of version {version}, and there are too few newer "
        f"interactions to tell the two apart. {where.capitalize()}: {beside}."
    )


def _how(verdict: Mapping[str, Any]) -> str:
    difference = verdict["versus_active"][verdict["metric"]]
    mean = verdict["active"][verdict["metric"]]["mean"]
    if difference["low"] > 0:
        return "Better than"
    if is_worse(difference, mean=mean, margin=verdict["margin"]):
        return "Worse than"
    if difference["high"] < 0:
        return "Worse by less than the margin than"
    return "No worse than"


def _beside(verdict: Mapping[str, Any], other: str, name: str) -> str:
    """Return the candidate's figure beside another's, with the difference and its interval."""
    metric = verdict["metric"]
    ours, theirs = verdict["candidate"][metric]["mean"], verdict[other][metric]["mean"]
    versus = verdict[f"versus_{other}"][metric]
    digits = 3 if max(ours, theirs) >= 0.1 else 4
    against = f"{theirs:.{digits}f}" + (f" of {name}" if other == "popularity" else "")
    return (
        f"{_label(metric)} {ours:.{digits}f} against {against} (difference "
        f"{versus['difference']:+.{digits}f}, 95% interval {versus['low']:+.{digits}f} to "
        f"{versus['high']:+.{digits}f})"
    )


def _label(metric: str) -> str:
    name, _, k = metric.partition("@")
    return f"{_METRICS[name]}@{k}"


def _too_few(verdict: Mapping[str, Any], least: int) -> str:
    return (
        f"Too few to tell: {verdict['n_users']:,} user(s) could be judged, and the policy asks "
        f"for {least:,}."
    )


# What the data are beside the last version's


def _data_beside(
    previous: storage.Version | None,
    log: InteractionLog,
    *,
    policy: Policy,
    data_now: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """Return sizes and rates as the verdict has them, and a sentence for each fall.

    Sizes fall for a good reason where interactions are chosen otherwise.
    """
    before = (
        (None, None, None)
        if previous is None
        else (previous.training_samples, previous.n_users, previous.n_items)
    )
    sizes = (len(log), len(log.users), len(log.items))
    data: dict[str, Any] = {
        name: {"before": then, "now": now}
        for name, then, now in zip(("interactions", "users", "items"), before, sizes, strict=True)
    }
    data["per_day"] = {"usual": None, "recent": None}
    falls: list[str] = []
    if previous is None:
        return data, falls
    for name, size in data.items():
        if name == "per_day" or _differ(previous, data_now):
            continue
        if size["now"] < (1 - policy.max_fall) * size["before"]:
            falls.append(
                f"{name.capitalize()} fell by {1 - size['now'] / size['before']:.0%}: "
                f"{size['now']:,} now, {size['before']:,} for version {previous.version}."
            )
    rates = _rates(log, since=previous.trained_at, now=clock.now())
    if rates is not None:
        usual, recent = rates
        data["per_day"] = {"usual": round(usual, 1), "recent": round(recent, 1)}
        if recent < (1 - policy.max_fall) * usual:
            falls.append(
                f"Interactions come more slowly by {1 - recent / usual:.0%}: {recent:,.0f} a day "
                f"since version {previous.version} was trained, {usual:,.0f} at the same times "
                "of the weeks before."
            )
    return data, falls


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
