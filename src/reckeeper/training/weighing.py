"""What the gate's figures mean: how a candidate stands, what speaks against it, and in words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reckeeper.evaluation import Compared, Figure, PairedDifference
from reckeeper.policy import Policy
from reckeeper.training.comparison import BASELINE
from reckeeper.training.verdict import (
    Difference,
    Finding,
    Metric,
    Segment,
    SegmentKind,
    Standing,
    Verdict,
    beside_in_words,
    found,
    metric_in_words,
)


@dataclass(frozen=True)
class MeasuredSegment:
    """How candidate and active version did on a part of the users or items."""

    by: SegmentKind
    name: str
    n_users: int
    compared: Compared = field(repr=False)


@dataclass(frozen=True)
class Measured:
    """How the candidate and what stands beside it did, on the same users.

    Attributes
    ----------
    method : str
    how : str
        How the interactions were cut.
    n_users : int
    compared : Compared
        Of ``popularity``, ``active`` and ``candidate``. Without ``active``
        where there is none, it would be the candidate, or it could not be
        measured.
    coverage_beside : float or None
        The share of all items that the active version's lists have; None
        where there is none to compare with.
    segments : tuple of MeasuredSegment
        With ``active`` where `compared` has it.
    problem : str or None
        Why the active version could not be measured.
    """

    method: Literal["new_interactions", "refit"]
    how: str
    n_users: int
    compared: Compared = field(repr=False)
    coverage_beside: float | None = None
    segments: tuple[MeasuredSegment, ...] = ()
    problem: str | None = None

    def versus(self, other: str) -> dict[str, PairedDifference] | None:
        """Return the candidate's figures less another's, None where that was not measured."""
        return self.compared.differences.get((other, "candidate"))


def weighed(verdict: Verdict, measured: Measured, *, recipe: str, policy: Policy) -> Verdict:
    """Return a verdict with what was measured, and what it means.

    Parameters
    ----------
    verdict : Verdict
        With what else speaks against the candidate.
    measured : Measured
    recipe : str
        The candidate's.
    policy : Policy
    """
    finding = _finding(measured, policy)
    verdict = dataclasses.replace(
        verdict,
        method=measured.method,
        how=measured.how,
        n_users=measured.n_users,
        n_users_needed=finding.n_users_needed,
        standing=finding.standing,
        candidate=_metrics(measured.compared, "candidate"),
        active=_metrics(measured.compared, "active"),
        popularity=_metrics(measured.compared, "popularity"),
        versus_active=_differences(measured.versus("active")),
        versus_popularity=_differences(measured.versus("popularity")),
        segments=tuple(_segment(segment, policy) for segment in measured.segments),
        warnings=verdict.warnings + (() if measured.problem is None else (measured.problem,)),
    )
    if verdict.n_users < policy.min_users:
        sentence = (
            f"Too few to tell: {verdict.n_users:,} user(s) could be judged, and the policy asks "
            f"for {policy.min_users:,}."
        )
        return dataclasses.replace(
            verdict,
            standing="too_few",
            sentence=sentence,
            warnings=(*verdict.warnings, sentence),
        )
    reasons = _reasons(verdict, measured, recipe=recipe, policy=policy)
    losses, worse_parts = _worse_parts(verdict, measured, policy)
    if _is_below_popularity(measured, policy) and _is_active_below(measured, policy):
        worse_parts += (
            f"It is worse than the same popular items for everybody, as version "
            f"{verdict.active_version} is: {_beside(measured.compared, policy.metric, BASELINE)}.",
        )
    return dataclasses.replace(
        verdict,
        sentence=_sentence(verdict, measured),
        reasons=verdict.reasons + reasons + losses,
        warnings=verdict.warnings + worse_parts,
    )


def _finding(measured: Measured, policy: Policy) -> Finding:
    versus = measured.versus("active")
    if versus is None:
        return found(None, mean=0.0, margin=policy.margin)
    return found(
        versus[policy.metric],
        mean=measured.compared.figures["active"][policy.metric].mean,
        margin=policy.margin,
        min_users=policy.min_users,
    )


def _metrics(compared: Compared, model: str) -> dict[str, Metric] | None:
    figures = compared.figures.get(model)
    return None if figures is None else {name: _metric(one) for name, one in figures.items()}


def _metric(figure: Figure) -> Metric:
    return Metric(figure.mean, figure.low, figure.high)


def _differences(versus: Mapping[str, PairedDifference] | None) -> dict[str, Difference] | None:
    if versus is None:
        return None
    return {name: Difference(one.difference, one.low, one.high) for name, one in versus.items()}


def _segment(segment: MeasuredSegment, policy: Policy) -> Segment:
    """Return a segment's figures of the metrics that are looked at."""
    names = {policy.metric, f"ndcg@{policy.k}", f"hit_rate@{policy.k}"}
    metrics = {model: _metrics(segment.compared, model) for model in ("candidate", "active")}
    candidate, active = metrics["candidate"], metrics["active"]
    assert candidate is not None
    versus = _differences(segment.compared.differences.get(("active", "candidate")))
    return Segment(
        by=segment.by,
        name=segment.name,
        n_users=segment.n_users,
        candidate={name: candidate[name] for name in sorted(names)},
        active=None if active is None else {name: active[name] for name in sorted(names)},
        versus_active=None if versus is None else {name: versus[name] for name in sorted(names)},
    )


# What speaks against the candidate


def _reasons(
    verdict: Verdict, measured: Measured, *, recipe: str, policy: Policy
) -> tuple[str, ...]:
    """Return what speaks against the candidate as a whole, a sentence each."""
    version = verdict.active_version
    reasons = []
    if verdict.standing == "worse":
        reasons.append(
            f"It is worse than version {version} by more than {policy.margin:.1%} of its "
            f"{metric_in_words(policy.metric)}: {_beside(measured.compared, policy.metric)}."
        )
    is_below = _is_below_popularity(measured, policy) and recipe != BASELINE
    if is_below and not _is_active_below(measured, policy):
        reasons.append(
            "It is worse than the same popular items for everybody: "
            f"{_beside(measured.compared, policy.metric, BASELINE)}."
        )
    coverage = f"coverage@{policy.k}"
    ours, theirs = measured.compared.figures["candidate"][coverage].mean, measured.coverage_beside
    if theirs is not None and ours < policy.min_coverage_share * theirs:
        reasons.append(
            f"Its lists have {ours:.1%} of all items, less than {policy.min_coverage_share:.0%} of "
            f"the {theirs:.1%} that those of version {version} have."
        )
    return tuple(reasons)


def _is_below_popularity(measured: Measured, policy: Policy) -> bool:
    versus = measured.versus(BASELINE)
    return versus is not None and versus[policy.metric].is_below(0.0)


def _is_active_below(measured: Measured, policy: Policy) -> bool:
    """Say whether the active version too finds less: to keep it then would better nothing."""
    figures = measured.compared.figures
    active, popular = figures.get("active"), figures.get(BASELINE)
    if active is None or popular is None:
        return False
    return active[policy.metric].mean < popular[policy.metric].mean


def _worse_parts(
    verdict: Verdict, measured: Measured, policy: Policy
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which segments lose more than the policy lets them, and which else are worse.

    The latter are named where the candidate as a whole is not worse.
    """
    reasons, warnings = [], []
    for segment in measured.segments:
        versus = segment.compared.differences.get(("active", "candidate"))
        if versus is None or segment.n_users < policy.min_segment_users:
            continue

        def is_worse(
            margin: float,
            versus: PairedDifference = versus[policy.metric],
            mean: float = segment.compared.figures["active"][policy.metric].mean,
        ) -> bool:
            return found(versus, mean=mean, margin=margin).standing == "worse"

        beside = _beside(segment.compared, policy.metric)
        where = f"for {_SEGMENTS[segment.by, segment.name]} ({segment.n_users:,} users): {beside}."
        if policy.max_segment_loss is not None and is_worse(policy.max_segment_loss):
            reasons.append(
                f"It is worse than version {verdict.active_version} by more than "
                f"{policy.max_segment_loss:.1%} {where}"
            )
        elif verdict.standing != "worse" and is_worse(policy.margin):
            warnings.append(f"It is worse than version {verdict.active_version} {where}")
    return tuple(reasons), tuple(warnings)


# In words

_SEGMENTS: Mapping[tuple[SegmentKind, str], str] = {
    ("history_length", "1-4"): "users with 1 to 4 items in their history",
    ("history_length", "5-19"): "users with 5 to 19 items in their history",
    ("history_length", "20-99"): "users with 20 to 99 items in their history",
    ("history_length", "100+"): "users with 100 items or more in their history",
    ("popularity", "head"): "the most popular items",
    ("popularity", "middle"): "items of middling popularity",
    ("popularity", "tail"): "the least popular items",
}

_HOW: Mapping[Standing, str] = {
    "better": "Better than",
    "no_worse": "No worse than",
    "slightly_worse": "Worse by less than the margin than",
    "worse": "Worse than",
    "too_few": "Too few to tell beside",
}


def _sentence(verdict: Verdict, measured: Measured) -> str:
    """Say what was compared, on what, and how it came out."""
    version = verdict.active_version
    where = (
        f"on {verdict.n_users:,} users' newer interactions"
        if verdict.method == "new_interactions"
        else f"on what was held out of {verdict.n_users:,} users' histories"
    )
    asked = f" Asked for: {verdict.how}."
    if verdict.standing in _HOW:
        other = f"version {version}"
        if verdict.method == "refit":
            other += ", fitted again on the same interactions,"
        beside = _beside(measured.compared, verdict.metric)
        needed = _users_needed(verdict) if verdict.standing == "too_few" else ""
        return f"{_HOW[verdict.standing]} {other} {where}: {beside}.{needed}{asked}"
    beside = _beside(measured.compared, verdict.metric, BASELINE)
    found = f"{where.capitalize()}: {beside}.{asked}"
    if version is None:
        return f"No version is active to compare it with. {found}"
    if measured.problem is not None:
        return f"It could not be compared with version {version}. {found}"
    if verdict.method == "new_interactions":
        return (
            f"Not compared: without the newer interactions, its recipe and settings give version "
            f"{version} itself. {found}"
        )
    return (
        f"Recipe and settings are those of version {version}, and there are too few newer "
        f"interactions to tell the two apart. {found}"
    )


def _users_needed(verdict: Verdict) -> str:
    if verdict.n_users_needed is None:
        return " With a margin of 0, no number of users shows that it is no worse."
    return f" To find a loss of {2 * verdict.margin:.1%} takes {verdict.n_users_needed:,} users."


def _beside(compared: Compared, metric: str, other: str = "active") -> str:
    """Return the candidate's figure beside another's, with the difference and its interval."""
    ours, theirs = (compared.figures[model][metric].mean for model in ("candidate", other))
    difference = compared.differences[other, "candidate"][metric]
    of_other = "" if other == "active" else f" of {other}"
    return beside_in_words(metric, ours, theirs, difference, of_other=of_other)
