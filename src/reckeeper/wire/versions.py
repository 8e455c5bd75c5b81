"""Versions: what they are, what was active when, and two of them compared."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, AwareDatetime, BeforeValidator, Field

from .forms import (
    Answer,
    Done,
    JsonObject,
    Percentage,
    PlainTime,
    Request,
    Time,
    is_none,
    or_none,
    otherwise,
)
from .verdicts import Metric, Verdict, VerdictSummary

MAX_NOTE_CHARACTERS = 10_000
MAX_REASON_CHARACTERS = 1000


class Cause(Answer):
    """The rule that started a job, with its numbers, and the same as a sentence."""

    rule: Literal["schedule", "every_interactions", "max_age"]
    sentence: str
    expression: str | None = Field(default=None, exclude_if=is_none)
    due_at: Time | None = Field(default=None, exclude_if=is_none)
    n: int | None = Field(default=None, exclude_if=is_none)
    age_hours: float | None = Field(default=None, exclude_if=is_none)
    threshold: float | None = Field(default=None, exclude_if=is_none)


class TrainingData(Answer):
    """How the interactions that a version was trained on were weighed and chosen."""

    weights: dict[str, float] = Field(default={})
    half_life_days: float | None = None
    window_days: float | None = None
    left_out_users: list[str] = Field(default=[])
    max_interactions_per_user: int | None = None


class TimelineEntry(Answer):
    """What was active from `at` until `until`, None while it is; no `version`: nothing was."""

    entry_id: int
    at: Time
    until: Time | None
    version: int | None
    action: str
    actor: str
    reason: str | None
    job_id: int | None


class TimelinePage(Done):
    """What was active when, the latest first; `rollback_version` is what a roll back activates."""

    timeline: list[TimelineEntry]
    rollback_version: int | None = Field(
        description="The version that POST /models/rollback activates; null: there is none."
    )


class Origin(Answer):
    """Where an imported version comes from, and when it was active there."""

    version: int
    sha256: str
    trained_at: Time
    timeline: Annotated[list[TimelineEntry], otherwise([])]
    imported_at: Time


class ModelFile(Answer):
    """A file of a version."""

    name: str
    bytes: int = Field(validation_alias=AliasChoices("bytes", "n_bytes"))
    sha256: str


_Metrics = Annotated[dict[str, Metric] | None, otherwise(None)]


class _AnyModel(Answer):
    """What both a list and an answer by itself show; `served`: it was active at some time."""

    name: str
    path: str
    type: str
    status: Literal["active", "inactive"]
    n_users: int
    n_items: int
    explained_variance: Percentage
    trained_on: PlainTime = Field(validation_alias=AliasChoices("trained_at", "trained_on"))
    version: int
    recipe: str
    settings: JsonObject
    decided: Annotated[JsonObject, otherwise({})]
    training_samples: int
    seconds: float
    trigger: str
    job_id: int | None
    is_demo: bool
    note: str | None
    pinned: bool
    pinned_until: Time | None
    metrics: _Metrics
    served: bool


class Model(_AnyModel):
    """A version, as ``GET /models`` lists it."""

    verdict: Annotated[VerdictSummary | None, otherwise(None)]


class ModelDetails(_AnyModel):
    """A version with all that is known of it."""

    verdict: Annotated[Verdict | None, otherwise(None)]
    fingerprint: str
    watermark: int
    latest_at: Annotated[Time | None, or_none]
    data: Annotated[TrainingData, otherwise(TrainingData())]
    actor: Annotated[str | None, or_none]
    cause: Annotated[Cause | None, otherwise(None)]
    peak_memory_bytes: int
    libraries: Annotated[dict[str, str], otherwise({})]
    origin: Annotated[Origin | None, otherwise(None)]
    files: list[ModelFile]
    timeline: list[TimelineEntry]


class ModelList(Done):
    """All versions, the newest first."""

    models: list[Model]


class ModelAnswer(Done):
    """One version."""

    model: ModelDetails


class Deletion(Done):
    """A version that was deleted."""

    version: int


class Explanation(Request):
    """Why something is done, for the audit trail; it may be left out."""

    reason: Annotated[str, Field(max_length=MAX_REASON_CHARACTERS)] | None = Field(
        default=None, examples=["version 2 lost coverage"]
    )


class ModelChange(Request):
    """A note that people write on a version; null removes it."""

    note: Annotated[str, Field(max_length=MAX_NOTE_CHARACTERS)] | None = Field(
        examples=["the one before the sale"]
    )


def only_text(value: object) -> object:
    """Refuse what is no time as text."""
    # Pydantic would read a number as seconds or milliseconds, by its size.
    if not isinstance(value, datetime) and not (
        isinstance(value, str) and re.match(r"\d{4}-\d.*T", value)
    ):
        raise ValueError("must be a time as 2026-01-31T12:00:00Z")
    return value


def to_come(moment: datetime) -> datetime:
    """Refuse what is past."""
    if not datetime.now(UTC) < moment < datetime(9999, 1, 1, tzinfo=UTC):
        raise ValueError("must lie in the future, and before the year 9999")
    return moment


class Pin(Explanation):
    """Until when a version is pinned, and why; both may be left out."""

    until: Annotated[AwareDatetime, BeforeValidator(only_text), AfterValidator(to_come)] | None = (
        Field(default=None, examples=["2126-01-31T12:00:00Z"])
    )


class ComparedModel(Answer):
    """One of two versions that are compared."""

    version: int
    recipe: str
    settings: JsonObject
    data: Annotated[TrainingData, otherwise(TrainingData())]
    training_samples: int
    n_users: int
    n_items: int
    explained_variance: Percentage
    metrics: _Metrics


class SettingDifference(Answer):
    """A setting that two versions have differently; None where a recipe has no such setting."""

    name: str
    first: Any
    second: Any


class ChangedUser(Answer):
    """A user, the share of the list that both versions give, and both lists of item ids."""

    user_id: str
    overlap: float
    first: list[str]
    second: list[str]


class ExposureChange(Answer):
    """An item, and the share of the sampled users' lists that it is in with each version."""

    item_id: str
    first: float
    second: float


class Exposure(Answer):
    """The items that gain and lose most."""

    gained: list[ExposureChange]
    lost: list[ExposureChange]


class Pair(Answer):
    """A number of each of two versions."""

    first: float
    second: float


class KnownUsers(Answer):
    """How many users two versions both know, and how many only one of them."""

    both: int
    only_first: int
    only_second: int


class Comparison(Done):
    """Two versions side by side, and what a sample of `n_users` users would see of each.

    `overlap` is the mean share of a user's list of `k` items that both give.
    Without a user whom both know it is None, and so are the two after it.
    """

    sentence: str
    users: KnownUsers
    first: ComparedModel
    second: ComparedModel
    settings: list[SettingDifference]
    k: int
    n_users: int
    overlap: Metric | None
    most_changed: list[ChangedUser]
    exposure: Exposure
    coverage: Pair | None
    popularity: Pair | None
