"""What the gate has found of a version, and what became of it: one record, one JSON form."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from reckeeper import clock
from reckeeper.errors import Action, DataError
from reckeeper.evaluation import PairedDifference
from reckeeper.training.drift import Drift
from reckeeper.wire import JsonObject, Promote

_NAMES = {"ndcg": "NDCG", "recall": "Recall", "hit_rate": "HitRate", "map": "MAP"}

Decision = Literal["promote", "reject", "unchanged"]
Method = Literal["new_interactions", "refit", "none"]
Standing = Literal["better", "no_worse", "slightly_worse", "worse", "too_few", "not_compared"]
PromotionBasis = Literal["request", "policy", "plain", "changed", "unattended", "demo"]
SegmentKind = Literal["history_length", "popularity"]
Disposition = Literal["activated", "rejected", "waits", "overtaken", "pinned"]


@dataclass(frozen=True)
class Metric:
    """A metric's mean over users, with its 95% interval; without one where it is of all lists."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """The candidate's mean less another's on the same users, with its 95% interval."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Segment:
    """How candidate and active version did on a part of the users or of the items.

    Attributes
    ----------
    by : str
        ``history_length``: questions by the pairs in the user's history.
        ``popularity``: what is to be found by how many users have it, a third
        of what all have for each segment.
    name : str
        ``1-4``, ``5-19``, ``20-99``, ``100+``; ``head``, ``middle``, ``tail``.
    n_users : int
        With such a question.
    candidate, active : mapping of str to Metric
        The policy's metric, NDCG and hit rate; `active` is None as in the
        verdict.
    versus_active : mapping of str to Difference, or None
    """

    by: SegmentKind
    name: str
    n_users: int
    candidate: Mapping[str, Metric]
    active: Mapping[str, Metric] | None = None
    versus_active: Mapping[str, Difference] | None = None


@dataclass(frozen=True)
class PromotionRule:
    """What decides whether a version is activated, and why that applies; see `wire`."""

    promote: Promote
    because: PromotionBasis


@dataclass(frozen=True)
class Finding:
    """What a paired difference says of a candidate beside another.

    Attributes
    ----------
    standing : str
    n_users_needed : int or None
        Users that it takes to find a loss of twice the margin in 90 of 100
        cases; None where nothing was compared, or no number suffices.
    """

    standing: Standing
    n_users_needed: int | None


def found(
    versus: PairedDifference | None, *, mean: float, margin: float, min_users: int = 2
) -> Finding:
    """Say how a candidate stands beside another, and whether there were users enough to tell.

    The one rule of the gate and of the comparison of recipes. With the paired
    difference's standard deviation s over n users, the other's mean v and the
    margin m, a loss of 2·m·v is found in at least 90 of 100 cases when
    n ≥ ((2.576 + 1.282)·s / (m·v))². With fewer users a candidate may still
    be ``better`` (the whole 99% interval above 0) or ``worse`` (all of it
    below -m·v), for that is found; if it is neither, it is ``too_few`` to
    tell, and not ``no_worse``.

    Parameters
    ----------
    versus : PairedDifference or None
        The candidate's less the other's, or None where nothing was compared.
    mean : float
        The other's figure, from 0 on.
    margin : float
        Share of it that the candidate may be worse by, in [0, 1). At 0 no
        number of users shows that a candidate is no worse, unless both are
        alike for every user.
    min_users : int
        With fewer, nothing is told from the interval either.

    Returns
    -------
    Finding
        ``slightly_worse`` is below 0 by more than chance, and not surely by
        more than the margin.
    """
    if versus is None:
        return Finding("not_compared", None)
    needed = _n_users_needed(versus, mean=mean, margin=margin)
    if needed is not None:
        needed = max(needed, min_users)
    if versus.n < min_users:
        return Finding("too_few", needed)
    if versus.is_above(0.0):
        return Finding("better", needed)
    if versus.is_below(-margin * mean):
        return Finding("worse", needed)
    if needed is None or versus.n < needed:
        return Finding("too_few", needed)
    return Finding("slightly_worse" if versus.is_below(0.0) else "no_worse", needed)


def _n_users_needed(versus: PairedDifference, *, mean: float, margin: float) -> int | None:
    if mean > 0 and margin > 0:
        return versus.n_users_needed(mean=mean, margin=margin)
    # Beside a figure of 0 there is no loss to find; with no margin one may be as small as it likes.
    return 2 if versus.sd == 0 or not mean > 0 else None


def _microseconds(moment: object) -> object:
    if not isinstance(moment, str):
        return moment
    return clock.microseconds(datetime.fromisoformat(moment))


def _action(told: object) -> object:
    return Action.from_json(told) if isinstance(told, Mapping) and "name" in told else told


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate has found of a candidate, and what became of it.

    Attributes
    ----------
    decision : str
        ``reject`` where a version is active and there are `reasons`, else
        ``promote``; ``unchanged`` where nothing was trained, for nothing has
        changed.
    standing : str
        Beside the active version: ``better``, ``no_worse``,
        ``slightly_worse`` (within the margin) or ``worse``; ``too_few`` where
        the users are too few to tell, ``not_compared`` where nothing stands
        beside it but popularity, or nothing was measured. See `found`.
    sentence : str
        What was compared, on what, and how it came out.
    decided_at : int
        Microseconds since 1970.
    method : str
        ``new_interactions``, ``refit``, or ``none`` where nothing could be
        measured.
    reasons, warnings : tuple of str
        Sentences: what speaks against it, and what else is to be known.
    metric : str
        The policy's, such as ``ndcg@10``; `margin` is the share of it that a
        candidate may be worse by, `k` the length of the lists.
    how : str
        How the interactions were cut, in words; empty where nothing was
        measured.
    n_users : int
        Users judged.
    n_users_needed : int or None
        Users that it takes to tell; see `Finding`.
    active_version : int or None
        What was active at the time.
    candidate, active, popularity : mapping of str to Metric, or None
        By metric; None what was not measured.
    versus_active, versus_popularity : mapping of str to Difference, or None
        The candidate's values less the other's.
    segments : tuple of Segment
        Parts of the users and items.
    data : Drift or None
        The data beside those of the last version.
    seconds : float
        That judging took.
    promotion : PromotionRule or None
        What decided on `disposition`; None before.
    disposition : str or None
        What became of the version: ``activated`` (despite a rejection too,
        where the policy has it so), ``rejected``, ``waits`` (by the policy a
        person decides), ``overtaken`` (another version was activated since it
        was judged), ``pinned`` (the active one is); None before that is decided.
    outcome : str or None
        The same as a sentence.
    action : Action or None
        What a person may do about it.
    """

    decision: Decision
    standing: Standing
    sentence: str
    decided_at: Annotated[int, BeforeValidator(_microseconds)]
    method: Method = "none"
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    metric: str
    margin: float
    k: int
    how: str = ""
    n_users: int = 0
    n_users_needed: int | None = None
    active_version: int | None
    candidate: Mapping[str, Metric] | None = None
    active: Mapping[str, Metric] | None = None
    popularity: Mapping[str, Metric] | None = None
    versus_active: Mapping[str, Difference] | None = None
    versus_popularity: Mapping[str, Difference] | None = None
    segments: tuple[Segment, ...] = ()
    data: Drift | None = None
    seconds: float = 0.0
    promotion: PromotionRule | None = None
    disposition: Disposition | None = None
    outcome: str | None = None
    action: Annotated[Action | None, BeforeValidator(_action)] = None

    def with_outcome(
        self,
        promotion: PromotionRule,
        disposition: Disposition,
        outcome: str,
        action: Action | None = None,
    ) -> Self:
        """Return the verdict with what became of the version, and by which rule."""
        return dataclasses.replace(
            self, promotion=promotion, disposition=disposition, outcome=outcome, action=action
        )

    def to_json(self) -> JsonObject:
        """Return the verdict in JSON values, as the database, the files and the API have it.

        What became of the version is left out until it is decided.
        """
        told = dataclasses.asdict(self) | {
            "decided_at": clock.rfc3339(self.decided_at),
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "candidate": metrics_to_json(self.candidate),
            "active": metrics_to_json(self.active),
            "popularity": metrics_to_json(self.popularity),
            "segments": [_segment_to_json(segment) for segment in self.segments],
            "headline": self._headline(),
            "action": None if self.action is None else self.action.to_json(),
        }
        undecided = (
            {"promotion", "disposition", "outcome", "action"} if self.disposition is None else set()
        )
        return {name: value for name, value in told.items() if name not in undecided}

    def _headline(self) -> JsonObject:
        """Return how NDCG and hit rate stand beside popularity and the version before."""

        def versus(side: Mapping[str, Difference] | None, metric: str) -> JsonObject | None:
            found = None if side is None else side.get(metric)
            return None if found is None else dataclasses.asdict(found)

        return {
            metric: {
                "popularity": versus(self.versus_popularity, metric),
                "active": versus(self.versus_active, metric),
            }
            for metric in (f"ndcg@{self.k}", f"hit_rate@{self.k}")
        }

    @classmethod
    def from_json(cls, told: Mapping[str, object]) -> "Verdict":
        """Return the verdict that `to_json` gave.

        Raises
        ------
        DataError
            It is none: it came from elsewhere.
        """
        try:
            return _ADAPTER.validate_python(dict(told))
        except ValidationError as exc:
            raise DataError(f"What is told of a version is no verdict: {exc}") from exc


_ADAPTER = TypeAdapter(Verdict)


def _segment_to_json(segment: Segment) -> JsonObject:
    return dataclasses.asdict(segment) | {
        "candidate": metrics_to_json(segment.candidate),
        "active": metrics_to_json(segment.active),
    }


def metric_in_words(metric: str) -> str:
    """Return a metric as people know it, ``NDCG@10`` for ``ndcg@10``."""
    name, _, k = metric.partition("@")
    return f"{_NAMES[name]}@{k}"


def beside_in_words(
    metric: str,
    ours: float,
    theirs: float,
    versus: Difference | PairedDifference,
    *,
    of_other: str = "",
) -> str:
    """Return a figure beside another's, with the difference and its interval."""
    digits = 3 if max(ours, theirs) >= 0.1 else 4
    return (
        f"{metric_in_words(metric)} {ours:.{digits}f} against {theirs:.{digits}f}{of_other} "
        f"(difference {versus.difference:+.{digits}f}, 95% interval {versus.low:+.{digits}f} to "
        f"{versus.high:+.{digits}f})"
    )


def metrics_to_json(metrics: Mapping[str, Metric] | None) -> JsonObject | None:
    """Return metrics in JSON values; an interval that there is not is left out."""
    if metrics is None:
        return None
    return {
        name: {end: value for end, value in dataclasses.asdict(metric).items() if value is not None}
        for name, metric in metrics.items()
    }
