"""The gate: is a candidate worse than the active version, on interactions that neither has seen?"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from reckeeper import __version__, clock, evaluation, storage
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation import Quality, Split
from reckeeper.matrix import InteractionLog
from reckeeper.policy import Policy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.registry import ActiveModel
from reckeeper.training import drift
from reckeeper.training.verdict import Difference, Metric, Standing, Verdict, metric_in_words

_CELLS = 25_000_000
_USERS = (2_000, 20_000)
"""Users that are judged: as many as make so many cells of scores, within limits. Where there are
more, so many are drawn at random."""

BASELINE = "popularity"

_HELD_OUT = 0.2
"""Share of each user's items that is held out where there are too few newer interactions."""


@dataclass(frozen=True)
class HeldOut:
    """What a candidate is to be judged on, and what it may learn from.

    Attributes
    ----------
    split : Split or None
        The split of `log`; its kind is ``new`` where what came after the active version
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


@dataclass(frozen=True)
class Candidate:
    """A model that is to be fitted, and is judged before.

    Attributes
    ----------
    recipe : str
    settings : dict
    log : InteractionLog
        All that it will be fitted on in the end.
    is_automatic : bool
        Nobody watches: a fall of the data is a reason to reject.
    """

    recipe: str
    settings: Mapping[str, object]
    log: InteractionLog = field(repr=False)
    is_automatic: bool


def hold_out(
    log: InteractionLog,
    *,
    n_seen: int,
    active: storage.Version | None,
    policy: Policy,
    seen: InteractionLog | None = None,
    seed: int = 0,
) -> HeldOut:
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
        For what is drawn at random.
    """
    n_newer = len(log) - n_seen
    if active is not None and n_seen > 0 and n_newer >= policy.min_new_interactions:
        joined = log if seen is None else _continued(seen, log.part(slice(n_seen, None)))
        is_newer = np.arange(len(joined)) >= (n_seen if seen is None else len(seen))
        joined, places = evaluation.canonical(joined, is_newer=is_newer)
        split = evaluation.split_newer(joined, is_newer[places], seed=seed)
        if len(split.judged) >= policy.min_users:
            return HeldOut(split, active, joined)
    if not len(log):
        return HeldOut(None, active, log)
    log, _ = evaluation.canonical(log)
    if evaluation.is_timed(log):
        split = evaluation.split_user_time(log, share=_HELD_OUT, seed=seed)
    else:
        split = evaluation.split_random(log, share=_HELD_OUT, seed=seed)
    return HeldOut(split, active, log)


def judge(
    candidate: Candidate,
    held_out: HeldOut,
    *,
    active: ActiveModel | None,
    previous: storage.Version | None,
    policy: Policy,
    report: Callable[[float], None],
    seed: int = 0,
) -> Verdict:
    """Fit a candidate without what is held out, and see how it finds that.

    On newer interactions the active version answers itself, and for the
    candidate too where the fit would give the same model. Otherwise its
    recipe and settings are fitted again, on what the candidate is fitted on;
    where they are the candidate's own there is nothing to compare, and only
    popularity is left as a measure, and the coverage that the active version
    had when it was judged in the same way.

    Parameters
    ----------
    candidate : Candidate
    held_out : HeldOut
    active : ActiveModel or None
        The active version in memory; None if there is none or it cannot be
        loaded.
    previous : storage.Version or None
        The version that was trained last.
    policy : Policy
    report : callable
        Called with the fraction done, in [0, 1]. What it raises ends it.
    seed : int
        For the users drawn and the confidence intervals.

    Notes
    -----
    Repeatable by seed, apart from the seconds. Data on which nothing can be
    fitted or measured is no error here: a warning says so.
    """
    began = time.perf_counter()
    data, falls = drift.since(previous, candidate.log, policy=policy)
    verdict = Verdict(
        decision="promote",
        standing="not_compared",
        sentence="",
        decided_at=0,
        reasons=falls if candidate.is_automatic else (),
        warnings=() if candidate.is_automatic else falls,
        metric=policy.metric,
        margin=policy.margin,
        k=policy.k,
        active_version=None if held_out.active is None else held_out.active.version,
        data=data,
    )
    try:
        measured = _measure(
            candidate, held_out, active=active, k=policy.k, seed=seed, report=report
        )
    except DataError as exc:
        verdict = _doubtful(verdict, f"Nothing could be measured. {exc.message}")
    else:
        verdict = measured.into(verdict, seed=seed)
        if measured.method == "refit" and drift.differ(held_out.active, policy):
            verdict = _with_warning(
                verdict,
                f"Interactions are weighed or chosen otherwise than for version "
                f"{verdict.active_version}. What that changes shows on newer interactions alone.",
            )
        verdict = _weigh(verdict, measured, recipe=candidate.recipe, policy=policy)
    if held_out.active is None:
        verdict = dataclasses.replace(
            verdict, reasons=(), warnings=verdict.warnings + verdict.reasons
        )
    report(1.0)
    return dataclasses.replace(
        verdict,
        decision="reject" if verdict.reasons else "promote",
        seconds=round(time.perf_counter() - began, 3),
        decided_at=clock.now(),
    )


# What is measured

_Make = Callable[[Callable[[float], None]], Ranker]
"""Makes a model's ranker, and reports how far it is."""


@dataclass(frozen=True)
class _Measured:
    """How the candidate and what stands beside it did, on the same users.

    `active` is None where the active version's recipe and settings are the
    candidate's, fitted on the same interactions: it would be the candidate.
    `coverage` is that of the active version's lists, None if there is none
    to compare with.
    """

    method: Literal["new_interactions", "refit"]
    candidate: Quality
    popularity: Quality
    active: Quality | None = None
    coverage: float | None = None
    problem: str | None = None

    def into(self, verdict: Verdict, *, seed: int) -> Verdict:
        """Return a verdict with what was measured."""

        def summary(quality: Quality | None) -> dict[str, Metric] | None:
            if quality is None:
                return None
            return {
                name: Metric(figure.mean, figure.low, figure.high)
                for name, figure in quality.summary(seed=seed).items()
            }

        def versus(other: Quality | None) -> dict[str, Difference] | None:
            if other is None:
                return None
            compared = evaluation.compare(other, self.candidate, seed=seed)
            return {
                name: Difference(paired.difference, paired.low, paired.high)
                for name, paired in compared.items()
            }

        measured = dataclasses.replace(
            verdict,
            method=self.method,
            n_users=len(self.candidate.user_index),
            candidate=summary(self.candidate),
            active=summary(self.active),
            popularity=summary(self.popularity),
            versus_active=versus(self.active),
            versus_popularity=versus(self.popularity),
        )
        return measured if self.problem is None else _with_warning(measured, self.problem)


def _measure(
    candidate: Candidate,
    held_out: HeldOut,
    *,
    active: ActiveModel | None,
    k: int,
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
    split, row = held_out.split, held_out.active
    if split is None:
        raise NotEnoughDataError("There are no interactions.")
    measured = _Measuring(split, k=k, seed=seed, report=report)
    ours = measured.fitted(candidate.recipe, candidate.settings)
    popular = measured.fitted(BASELINE, {})
    if row is None:
        return _Measured("refit", measured(ours, 0), measured(popular, 1))

    is_same = _is_same(row, candidate)
    beside = None if is_same else measured.fitted(row.recipe, row.settings)
    method: Literal["new_interactions", "refit"] = "refit"
    if active is not None and split.kind == "new":
        method = "new_interactions"
        beside = measured.loaded(active)
        if is_same and _is_of(row, held_out):
            ours = beside

    quality, popularity = measured(ours, 0), measured(popular, 1)
    if beside is None:
        then = _coverage_then(row, k=k, n_users=len(measured.users))
        return _Measured(method, quality, popularity, coverage=then)
    try:
        theirs = quality if ours is beside else measured(beside, 2)
    except DataError as exc:
        problem = f"Version {row.version} could not be measured beside it: {exc.message}"
        return _Measured(method, quality, popularity, problem=problem)
    return _Measured(method, quality, popularity, theirs, theirs.of_lists[f"coverage@{k}"])


class _Measuring:
    """Measures models on one split, all on the same users, and reports how far it is."""

    def __init__(self, split: Split, *, k: int, seed: int, report: Callable[[float], None]) -> None:
        self._split = split
        self._k = k
        self._report = report
        self.users = split.judged
        most = int(np.clip(_CELLS // max(1, len(split.train.items)), *_USERS))
        if len(self.users) > most:
            self.users = np.random.default_rng(seed).choice(self.users, most, replace=False)

    def fitted(self, recipe: str, settings: Mapping[str, object]) -> _Make:
        """Return what fits a recipe without what is held out."""
        train = self._split.train
        return lambda tell: Ranker.of(
            recipe_named(recipe).fit(train, settings=settings, on_progress=tell), train
        )

    def loaded(self, active: ActiveModel) -> _Make:
        """Return what gives a version as it is in memory, which may know other items."""
        trained = active.artifact.matrix
        ranker = Ranker.of(active.artifact.model, trained)
        known = ranker.in_ids_of(self._split.train.items, own=trained.items)
        return lambda _: known

    def __call__(self, make: _Make, step: int) -> Quality:
        """Make a model and measure it, as one of three steps."""
        ranker = make(lambda done: self._report((step + done / 2) / 3))
        return evaluation.measure_split(
            ranker,
            self._split,
            user_index=self.users,
            k=self._k,
            on_progress=lambda done: self._report((step + (1 + done) / 2) / 3),
        )


def _coverage_then(row: storage.Version, *, k: int, n_users: int) -> float | None:
    """Return what share of the items a version's lists had when it was judged by a refit.

    The version itself has seen what is held out now, and lists other things.
    Where more users were judged than are now, it says nothing: more users have
    more lists.
    """
    try:
        verdict = Verdict.from_json(row.verdict or {})
    except DataError:
        return None  # nothing was judged, or it came from elsewhere and has another form
    if verdict.method != "refit" or verdict.n_users > n_users or verdict.candidate is None:
        return None
    coverage = verdict.candidate.get(f"coverage@{k}")
    return None if coverage is None else coverage.mean


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


def _is_same(row: storage.Version, candidate: Candidate) -> bool:
    """Say whether a version has the candidate's recipe and settings, once both are complete."""
    recipe = candidate.recipe
    if row.recipe != recipe:
        return False
    complete = recipe_named(recipe).settings_type.parse
    try:
        return complete(row.settings, recipe=recipe) == complete(candidate.settings, recipe=recipe)
    except DataError:
        return False  # settings of another time, which the recipe no longer takes


def _is_of(row: storage.Version, held_out: HeldOut) -> bool:
    """Say whether a version was fitted by this code to what is not held out.

    Fits are repeatable: to fit its recipe and settings again gives the version.
    """
    code: str | None = row.libraries.get("reckeeper")
    return code == __version__ and row.fingerprint == held_out.training_log.fingerprint()


# What it means


def is_worse(difference: Difference, *, mean: float, margin: float) -> bool:
    """Say whether a candidate is worse than another version by more than chance and a margin.

    Parameters
    ----------
    difference : Difference
    mean : float
        The other's figure.
    margin : float
        Share of it that is allowed, in [0, 1).
    """
    return difference.high < -margin * mean


def _with_warning(verdict: Verdict, warning: str) -> Verdict:
    return dataclasses.replace(verdict, warnings=(*verdict.warnings, warning))


def _doubtful(verdict: Verdict, sentence: str) -> Verdict:
    """Return a verdict that says why there is none."""
    return _with_warning(dataclasses.replace(verdict, sentence=sentence), sentence)


def _weigh(verdict: Verdict, measured: _Measured, *, recipe: str, policy: Policy) -> Verdict:
    """Return a verdict with what its figures mean."""
    if verdict.n_users < policy.min_users:
        return _doubtful(
            verdict,
            f"Too few to tell: {verdict.n_users:,} user(s) could be judged, and the policy asks "
            f"for {policy.min_users:,}.",
        )
    verdict = dataclasses.replace(verdict, standing=_standing(verdict))
    reasons = _reasons(verdict, measured, recipe=recipe, policy=policy)
    return dataclasses.replace(
        verdict, sentence=_sentence(verdict, measured), reasons=verdict.reasons + reasons
    )


def _standing(verdict: Verdict) -> Standing:
    if verdict.versus_active is None or verdict.active is None:
        return "not_compared"
    difference = verdict.versus_active[verdict.metric]
    if difference.low > 0:
        return "better"
    mean = verdict.active[verdict.metric].mean
    if is_worse(difference, mean=mean, margin=verdict.margin):
        return "worse"
    return "slightly_worse" if difference.high < 0 else "no_worse"


def _reasons(
    verdict: Verdict, measured: _Measured, *, recipe: str, policy: Policy
) -> tuple[str, ...]:
    """Return what speaks against the candidate, a sentence each."""
    version = verdict.active_version
    reasons = []
    if verdict.standing == "worse":
        reasons.append(
            f"It is worse than version {version} by more than {policy.margin:.1%} of its "
            f"{metric_in_words(policy.metric)}: {_beside_active(verdict)}."
        )
    versus = verdict.versus_popularity
    if versus is not None and versus[policy.metric].high < 0 and recipe != BASELINE:
        reasons.append(
            f"It is worse than the same popular items for everybody: {_beside_popularity(verdict)}."
        )
    ours, theirs = measured.candidate.of_lists[f"coverage@{policy.k}"], measured.coverage
    if theirs is not None and ours < policy.min_coverage_share * theirs:
        reasons.append(
            f"Its lists have {ours:.1%} of all items, less than {policy.min_coverage_share:.0%} of "
            f"the {theirs:.1%} that those of version {version} have."
        )
    return tuple(reasons)


_HOW: Mapping[Standing, str] = {
    "better": "Better than",
    "no_worse": "No worse than",
    "slightly_worse": "Worse by less than the margin than",
    "worse": "Worse than",
}


def _sentence(verdict: Verdict, measured: _Measured) -> str:
    """Say what was compared, on what, and how it came out."""
    version = verdict.active_version
    where = (
        f"on {verdict.n_users:,} users' newer interactions"
        if verdict.method == "new_interactions"
        else f"on what was held out of {verdict.n_users:,} users' histories"
    )
    if verdict.standing in _HOW:
        other = f"version {version}"
        if verdict.method == "refit":
            other += ", fitted again on the same interactions,"
        return f"{_HOW[verdict.standing]} {other} {where}: {_beside_active(verdict)}."
    found = f"{where.capitalize()}: {_beside_popularity(verdict)}."
    if version is None:
        return f"No version is active to compare it with. {found}"
    if measured.problem is not None:
        return f"It could not be compared with version {version}. {found}"
    return (
        f"Recipe and settings are those of version {version}, and there are too few newer "
        f"interactions to tell the two apart. {found}"
    )


def _beside_active(verdict: Verdict) -> str:
    return _beside(verdict, verdict.active, verdict.versus_active)


def _beside_popularity(verdict: Verdict) -> str:
    return _beside(verdict, verdict.popularity, verdict.versus_popularity, " of popularity")


def _beside(
    verdict: Verdict,
    other: Mapping[str, Metric] | None,
    versus: Mapping[str, Difference] | None,
    of_other: str = "",
) -> str:
    """Return the candidate's figure beside another's, with the difference and its interval."""
    assert verdict.candidate is not None
    assert other is not None
    assert versus is not None
    ours, theirs = verdict.candidate[verdict.metric].mean, other[verdict.metric].mean
    difference = versus[verdict.metric]
    digits = 3 if max(ours, theirs) >= 0.1 else 4
    return (
        f"{metric_in_words(verdict.metric)} {ours:.{digits}f} against {theirs:.{digits}f}"
        f"{of_other} (difference {difference.difference:+.{digits}f}, 95% interval "
        f"{difference.low:+.{digits}f} to {difference.high:+.{digits}f})"
    )
