"""What was measured of a version, and what the gate thinks of it."""

from typing import Literal

from pydantic import Field

from .forms import Answer, JsonObject, Time, is_none


class Metric(Answer):
    """A metric; one that is a mean over users has the bounds of its confidence interval."""

    mean: float
    low: float | None = Field(default=None, exclude_if=is_none)
    high: float | None = Field(default=None, exclude_if=is_none)


class Difference(Answer):
    """The difference of two means over the same users, and its confidence interval."""

    difference: float
    low: float
    high: float


Promote = Literal["always", "if_not_worse", "never"]


class AppliedPromotion(Answer):
    """What decided whether a version is activated, and why that applied.

    `promote` is ``always``, ``if_not_worse`` (unless the gate rejects it) or
    ``never`` (a person activates it). `because`: ``request``, the retrain
    asked for it; ``policy`` says so; ``plain`` or ``changed``, a retrain by
    hand with the active version's recipe and settings, or with others or
    tuning; ``unattended``, one by schedule or rule; ``demo``.
    """

    promote: Promote
    because: Literal["request", "policy", "plain", "changed", "unattended", "demo"]


class Segment(Answer):
    """How candidate and active version did on a part of the users or of the items.

    `by` is ``history_length``, of the user when asked (``1-4``, ``5-19``,
    ``20-99`` or ``100+`` items), or ``popularity``, of what is to be found
    (``head``, ``middle`` or ``tail``, each a third of what all users have).
    """

    by: Literal["history_length", "popularity"]
    name: str
    n_users: int
    candidate: dict[str, Metric]
    active: dict[str, Metric] | None
    versus_active: dict[str, Difference] | None


class Versus(Answer):
    """A metric less that of popularity, and less that of the version that was active before.

    None where that was not measured.
    """

    popularity: Difference | None
    active: Difference | None


class VerdictSummary(Answer):
    """What the gate thinks of a version, in short, and what became of it.

    `standing` is how it did beside the active version: ``slightly_worse`` is
    within the policy's margin, ``too_few`` to tell from the users that there
    are, ``not_compared`` beside popularity alone or nothing. `disposition` is what became of the
    version, once that is decided, and `outcome` the same as a sentence.
    """

    decision: Literal["promote", "reject", "unchanged"]
    standing: (
        Literal["better", "no_worse", "slightly_worse", "worse", "too_few", "not_compared"] | None
    ) = Field(default=None, exclude_if=is_none)
    sentence: str
    disposition: Literal["activated", "rejected", "waits", "overtaken", "pinned"] | None = Field(
        default=None, exclude_if=is_none
    )
    outcome: str | None = Field(default=None, exclude_if=is_none)
    headline: dict[str, Versus] | None = Field(
        default=None,
        exclude_if=is_none,
        description="NDCG and hit rate beside popularity and the version before.",
    )
    active_version: int | None = Field(
        default=None, description="The version that was active before."
    )


class DataChange(Answer):
    """A size of the data at the version before, None where there was none, and now."""

    before: int | None
    now: int


class DailyRate(Answer):
    """Interactions a day: as usual, and of late; None where too little is known."""

    usual: float | None
    recent: float | None


class DataChanges(Answer):
    """How the data has changed since the version before."""

    interactions: DataChange
    users: DataChange
    items: DataChange
    per_day: DailyRate


class Verdict(VerdictSummary):
    """What the gate thinks of a version, and what it measured.

    `reasons` speak against the version, `warnings` do not decide. `candidate`,
    `active` and `popularity` have the metrics of each by name, ``ndcg@10`` for
    one; `versus_active` and `versus_popularity` are the candidate's less theirs.
    `how` says how the interactions were cut, `n_users_needed` how many users it
    takes to find a loss of twice the margin in 90 of 100 cases (None where
    nothing was compared, or no number suffices), `segments` how parts of the
    users and items fare. With the `method` ``none`` nothing could be measured, and they are None.
    `action` is what a person may do about the version: its ``name``, and what
    it is about.
    """

    decided_at: Time
    method: Literal["new_interactions", "refit", "none"]
    reasons: list[str]
    warnings: list[str]
    metric: str
    margin: float
    k: int
    how: str = ""
    n_users: int
    n_users_needed: int | None = None
    candidate: dict[str, Metric] | None
    active: dict[str, Metric] | None
    popularity: dict[str, Metric] | None
    versus_active: dict[str, Difference] | None
    versus_popularity: dict[str, Difference] | None
    segments: list[Segment] = Field(default=[])
    data: DataChanges | None
    seconds: float
    promotion: AppliedPromotion | None = Field(default=None, exclude_if=is_none)
    action: JsonObject | None = Field(default=None, exclude_if=is_none)
