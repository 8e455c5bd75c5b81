"""The policy, the audit trail, and whether a process can do its work."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from ..errors import Action
from .failures import with_words, without_words
from .forms import Answer, Done, JsonObject, Sent, Time, otherwise


def _of_retrain(word: object) -> object:
    """Take the words in which a retrain says the same."""
    return (
        {"if_not_worse": "gate", "never": "manual"}.get(word, word)
        if isinstance(word, str)
        else word
    )


Decides = Annotated[Literal["gate", "always", "manual"], BeforeValidator(_of_retrain)]
Drift = Literal["none", "mild", "strong"]
"""How far what users do next is expected to lean to what is popular."""

RankingMetric = Literal[
    "ndcg@10", "recall@10", "hit_rate@10", "map@10",
    "ndcg@5", "recall@5", "hit_rate@5", "map@5",
    "ndcg@20", "recall@20", "hit_rate@20", "map@20",
    "ndcg@50", "recall@50", "hit_rate@50", "map@50",
]  # fmt: skip
_Count = Annotated[int, Field(ge=1, le=10**12)]
_Hours = Annotated[float, Field(gt=0, le=1_000_000)]
_Days = Annotated[float, Field(gt=0, le=100_000)]
_Type = Annotated[str, Field(min_length=1, max_length=64)]
_UserPattern = Annotated[str, Field(min_length=1, max_length=256)]


class Promotion(Answer):
    """What decides whether a new version is activated, by what started its training.

    ``gate``: the comparison with the active version (a retrain's
    ``if_not_worse``, which is taken here too). ``always``: nobody, it is
    activated. ``manual``: a person, later (a retrain's ``never``).
    """

    manual: Decides = Field(
        default="always",
        description="A retrain that a person asked for; where this is always, the gate decides on "
        "one with another recipe, settings or tuning.",
    )
    schedule: Decides = Field(default="gate", description="One by the schedule.")
    rule: Decides = Field(
        default="gate",
        description="One by every_interactions or max_age_hours.",
    )


class Tuning(Answer):
    """How settings are looked for, where a retrain or a comparison tunes."""

    drift: Drift = Field(
        default="none",
        description="How far users' next choices are expected to lean to popular items, beyond "
        "what the interactions show: none, mild or strong.",
    )


class RecommendationPolicy(Answer):
    """What a list leaves out, and what those get of whom nothing is known: the popular items."""

    seen_types: Annotated[list[_Type], Field(max_length=1000)] | None = Field(
        default=None,
        description="An item that a user has by one of these interaction types is not recommended "
        "to them again; null: by any. Dismissed items never are.",
    )
    popularity_half_life_days: _Days | None = Field(
        default=30.0,
        description="Days in which an interaction counts half as much for what is popular; "
        "null: it counts the same for ever.",
    )
    new_items_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Share of the places in a list of popular items that new items get.",
    )
    new_items_days: _Days = Field(
        default=30.0,
        description="Days for which an item is new: from available_from on, or from when it came "
        "into the catalogue.",
    )
    daily_variation: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="How far the order of popular items differs from user to user and from day to "
        "day; 0: not at all, 1: it is drawn in proportion to popularity.",
    )


class Policy(Answer):
    """When to retrain, on which interactions, and what a new version must prove."""

    schedule: Annotated[str, Field(max_length=256)] | None = Field(
        default=None,
        description="Cron expression, such as `0 3 * * 0` (Sundays at 3); null: never.",
    )
    timezone: Annotated[str, Field(max_length=256)] = Field(
        default="UTC",
        description="Name of the time zone in which the schedule is read.",
    )
    every_interactions: _Count | None = Field(
        default=None,
        description="Retrain after this many interactions since the last retrain.",
    )
    max_age_hours: _Hours | None = Field(
        default=None,
        description="Retrain when the active version is older than this.",
    )
    min_minutes_between: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        default=0.0,
        description="Minutes that an automatic retrain waits after the previous retrain.",
    )
    skip_unchanged: bool = Field(
        default=True,
        description="Skip an automatic retrain if nothing has changed since the last one.",
    )
    promotion: Promotion = Field(
        default=Promotion(),
        description="What decides whether a new version is activated.",
    )
    tuning: Tuning = Field(
        default=Tuning(),
        description="How settings are looked for, where a retrain does not say otherwise.",
    )
    metric: RankingMetric = Field(
        default="ndcg@10",
        description="The metric by which versions and recipes are compared, at the length of list "
        "after the @.",
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.02,
        description="Share of the active version's score by which a new one may be worse.",
    )
    min_users: Annotated[int, Field(ge=2, le=10**12)] = Field(
        default=100,
        description="With fewer users to judge by, no version is rejected.",
    )
    min_new_interactions: _Count = Field(
        default=1000,
        description="New interactions needed to compare the versions on those alone.",
    )
    min_coverage_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5,
        description="Share of the active version's coverage that a new one must reach.",
    )
    max_segment_loss: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Share of its score that a new version may lose in any segment of users or "
        "items; null: any.",
    )
    min_segment_users: Annotated[int, Field(ge=2, le=10**12)] = Field(
        default=200,
        description="Segments with fewer users to judge by are not looked at.",
    )
    max_fall: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="Share by which interactions, users, items or their daily rate may fall.",
    )
    weights: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[float, Field(ge=-1e6, le=1e6)]],
        Field(min_length=1, max_length=1000),
    ] = Field(
        default={"click": 1.0, "watchlist_add": 2.0},
        description="Interaction types that are accepted, and the weight of each.",
    )
    half_life_days: _Days | None = Field(
        default=None,
        description="Days in which an interaction's weight halves; null: it stays.",
    )
    window_days: _Days | None = Field(
        default=None,
        description="Train on the interactions of this many days; null: on all.",
    )
    retention_days: _Days | None = Field(
        default=None,
        description="Delete interactions that are older than this many days, once a day; null: "
        "keep them.",
    )
    left_out_users: Annotated[list[_UserPattern], Field(max_length=10_000)] = Field(
        default=[],
        description="Users whose interactions are left out of training; * matches anything.",
    )
    max_interactions_per_user: _Count | None = Field(
        default=None,
        description="Train on at most this many of each user's latest interactions; null: on all.",
    )
    recommendations: RecommendationPolicy = Field(
        default=RecommendationPolicy(),
        description="What lists leave out, and what is popular.",
    )
    versions_kept: Annotated[int, Field(ge=2, le=10**12)] = Field(
        default=10,
        description="Keep this many versions; older inactive ones are deleted.",
    )
    kept_days: _Days | None = Field(
        default=None,
        description="Delete inactive versions older than this many days; null: never.",
    )
    backup_schedule: Annotated[str, Field(max_length=256)] | None = Field(
        default=None,
        description="Cron expression of the backups that the worker makes by itself; null: none.",
    )
    backup_folder: Annotated[str, Field(max_length=1024)] | None = Field(
        default=None,
        description="Folder on the worker's machine for them, as /backups; null: backups in the "
        "data folder.",
    )
    backup_keep: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=7,
        description="Keep this many of them; the oldest are removed once a new one was verified.",
    )
    stale_after_hours: _Hours | None = Field(
        default=None,
        description="Notify the webhook when the active version is older than this.",
    )
    webhook_url: Annotated[str, Field(max_length=2048)] | None = Field(
        default=None,
        description="Notified of failed jobs, rejections, promotions and a stale version.",
    )
    webhook_secret: str | None = Field(
        default=None,
        description="Key of the signature on webhook notices; shown as ***, and *** "
        "keeps the one that is stored.",
        repr=False,
    )


class PromotionChange(Sent, Promotion):
    """What is to decide; what is left out has its default."""

    model_config = ConfigDict(extra="forbid")


class TuningChange(Sent, Tuning):
    """How settings are to be looked for; what is left out has its default."""

    model_config = ConfigDict(extra="forbid")


class RecommendationPolicyChange(Sent, RecommendationPolicy):
    """What lists are to leave out, and what is popular; what is left out has its default."""

    model_config = ConfigDict(extra="forbid")


class PolicyChange(Sent, Policy):
    """A policy to store; a field that is left out has its default."""

    model_config = ConfigDict(extra="forbid")

    promotion: PromotionChange = PromotionChange()
    tuning: TuningChange = TuningChange()
    recommendations: RecommendationPolicyChange = RecommendationPolicyChange()


class PolicyRevision(Answer):
    """A policy with its history; revision 0 comes from the environment, and nobody stored it.

    `policy` is None where it has another form, such as that of a later release.
    """

    policy: Annotated[Policy | None, otherwise(None)]
    revision: int
    source: Literal["environment", "stored"]
    updated_at: Time | None
    actor: str | None
    reason: str | None


class PolicyAnswer(PolicyRevision, Done):
    """The policy in force."""

    policy: Policy


class PolicyHistory(Done):
    """The policies that were stored, the latest first."""

    policies: list[PolicyRevision]


class AuditEntry(Answer):
    """An entry of the audit trail."""

    entry_id: int
    at: Time
    actor: str
    action: str
    subject: str
    details: JsonObject
    hash: str | None


class AuditPage(Done):
    """Entries of the audit trail, the latest first."""

    entries: list[AuditEntry]


class AuditCheck(Done):
    """Whether the trail is whole; if not, what is wrong with it, and from which entry on."""

    ok: bool
    n_entries: int
    problem: str | None
    entry_id: int | None


class Readiness(Answer):
    """Whether a process can do its work, and what stands in the way.

    `degraded`: it answers, and something does not work. `model_version` is the version that
    answers; `offer_version` a sound one to activate when the active one is not.
    """

    status: Literal["ok", "degraded", "unavailable"]
    problems: list[str]
    model_version: int | None
    offer_version: int | None

    @property
    def _action(self) -> Action | None:
        """What to do about the first problem, where a version is offered."""
        if self.offer_version is None:
            return None
        return Action("activate", {"version": self.offer_version})

    def in_words(self) -> "Readiness":
        """Return the same as HTTP words it: the first problem ends with the route that helps."""
        if self._action is None:
            return self
        first, *others = self.problems
        return self.model_copy(update={"problems": [with_words(first, self._action), *others]})

    def withheld(self) -> "Readiness":
        """Return the same for those who may not read what stands in the way."""
        if not self.problems:
            return self
        many = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        told = f"There {'are' if len(self.problems) > 1 else 'is'} {many}: ask with an API key."
        return self.model_copy(update={"problems": [told], "offer_version": None})

    def bare(self) -> "Readiness":
        """Return what `in_words` was made from, for another surface to word."""
        if self._action is None:
            return self
        first, *others = self.problems
        return self.model_copy(update={"problems": [without_words(first, self._action), *others]})


class Liveness(Done):
    """The process runs."""
