"""What a policy says: when to retrain, on which interactions, what a new version must prove."""

import re
import zoneinfo
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reckeeper.policy import cron

_Decides = Literal["gate", "always", "manual"]
_Count = Annotated[int, Field(ge=1, le=10**12)]
_Hours = Annotated[float, Field(gt=0, le=1_000_000)]
_Days = Annotated[float, Field(gt=0, le=100_000)]
_UserPattern = Annotated[str, Field(min_length=1, max_length=256)]

_STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    allow_inf_nan=False,
    hide_input_in_errors=True,  # the whole policy, its secret too, would stand in tracebacks
)


class Promotion(BaseModel):
    """What decides whether a new version is activated, by what started its training.

    ``gate``: the comparison with the active version. ``always``: nobody, it
    is activated. ``manual``: a person, later.
    """

    model_config = _STRICT

    manual: Annotated[_Decides, Field(description="A retrain that a person asked for.")] = "always"
    schedule: Annotated[_Decides, Field(description="One by the schedule.")] = "gate"
    rule: Annotated[_Decides, Field(description="One by every_interactions or max_age_hours.")] = (
        "gate"
    )


class Policy(BaseModel):
    """When to retrain, on which interactions, and what a new version must prove."""

    model_config = ConfigDict(
        **_STRICT,
        json_schema_extra={
            "examples": [
                {
                    "schedule": "0 3 * * 0",
                    "timezone": "Europe/Berlin",
                    "every_interactions": 10_000,
                    "weights": {"click": 1, "watchlist_add": 2},
                }
            ]
        },
    )

    schedule: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="Cron expression, such as `0 3 * * 0` (Sundays at 3); null: never."
    )
    timezone: Annotated[str, Field(max_length=256)] = Field(
        "UTC", description="Name of the time zone in which the schedule is read."
    )
    every_interactions: _Count | None = Field(
        None, description="Retrain when so many interactions have arrived since the last retrain."
    )
    max_age_hours: _Hours | None = Field(
        None, description="Retrain when the active version is older than this."
    )
    min_minutes_between: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        0.0, description="Automatic retrains start no sooner after the previous retrain."
    )
    skip_unchanged: bool = Field(
        True,
        description="Skip an automatic retrain if nothing has changed since the last one.",
    )
    promotion: Promotion = Field(
        Promotion(), description="Who decides whether a new version is activated."
    )
    metric: Literal["ndcg@10", "recall@10", "hit_rate@10", "map@10"] = Field(
        "ndcg@10", description="The metric by which versions are compared."
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02,
        description="Share of the active version's score by which a new one may be worse.",
    )
    min_users: Annotated[int, Field(ge=2, le=10**12)] = Field(
        100, description="With fewer users to judge by, no version is rejected."
    )
    min_new_interactions: _Count = Field(
        1000,
        description="New interactions needed to compare the versions on those alone.",
    )
    min_coverage_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Share of the active version's coverage that a new one must reach."
    )
    max_fall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share by which interactions, users, items or their daily rate may fall."
    )
    weights: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[float, Field(ge=-1e6, le=1e6)]],
        Field(min_length=1, max_length=1000),
    ] = Field(
        {"click": 1.0, "watchlist_add": 2.0},
        description="Interaction types that are accepted, and the weight of each.",
    )
    half_life_days: _Days | None = Field(
        None, description="An interaction's weight halves every so many days; null: never."
    )
    window_days: _Days | None = Field(
        None, description="Train on interactions no older than so many days; null: on all."
    )
    left_out_users: Annotated[list[_UserPattern], Field(max_length=10_000)] = Field(
        [], description="Users whose interactions are left out of training; * matches anything."
    )
    max_interactions_per_user: _Count | None = Field(
        None,
        description="Train on each user's latest interactions, so many at most; null: on all.",
    )
    versions_kept: Annotated[int, Field(ge=2, le=10**12)] = Field(
        10, description="Keep so many versions; the oldest inactive ones beyond are deleted."
    )
    kept_days: _Days | None = Field(
        None,
        description="Delete inactive versions older than so many days; null: never.",
    )
    stale_after_hours: _Hours | None = Field(
        None, description="Notify the webhook when the active version is older than this."
    )
    webhook_url: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="Notified of failed jobs, rejections, promotions and a stale version."
    )
    webhook_secret: Annotated[str, Field(min_length=16, max_length=256)] | None = Field(
        None, description="Key of the signature on webhook notices.", repr=False
    )

    @field_validator("schedule")
    @classmethod
    def _comes(cls, expression: str | None) -> str | None:
        if expression is not None:
            cron.check(expression)
        return expression

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as exc:
            raise ValueError("must be a time zone's name, such as Europe/Berlin") from exc
        return name

    @field_validator("weights")
    @classmethod
    def _are_types(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
                raise ValueError(
                    f"names {name!r}: a type is written in small letters, digits and _"
                )
            if name == "watchlist_remove":
                raise ValueError(
                    "names watchlist_remove, which takes back an addition and has no weight"
                )
        if not any(weight > 0 for weight in weights.values()):
            raise ValueError("has none above 0: there would be nothing to train on")
        return weights

    @field_validator("left_out_users")
    @classmethod
    def _leaves_some(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            if re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", pattern):
                raise ValueError(f"has {pattern!r}: ids have no control characters")
            if not pattern.strip("*"):
                raise ValueError(f"has {pattern!r}, which would leave out everybody")
        return patterns

    @field_validator("webhook_url")
    @classmethod
    def _is_url(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            url = urlsplit(text)
        except ValueError as exc:
            raise ValueError(f"is no URL: {exc}") from exc
        host = url.hostname or ""
        if url.scheme not in {"http", "https"} or not re.fullmatch(r"[^\s%/]+", host):
            raise ValueError("must look like https://host/path")
        if "@" in url.netloc:
            raise ValueError(
                "has a user or password in it, which everybody would see: leave them out; the "
                "receiver recognises Reckeeper by the signature (webhook_secret)"
            )
        try:
            has_port = url.port != 0
        except ValueError:
            has_port = False
        if not has_port:
            raise ValueError("has a port that is not between 1 and 65535")
        return text

    def data(self) -> dict[str, Any]:
        """Return what decides on the interactions that are trained on, and their weights."""
        names = {"weights", "half_life_days", "window_days", "left_out_users"}
        return self.model_dump(include=names | {"max_interactions_per_user"})

    def promotion_for(self, trigger: str) -> str:
        """Return who decides on a version: ``gate``, ``always`` or ``manual``.

        Parameters
        ----------
        trigger : str
            What started the job: ``manual``, ``schedule``, ``rule``, or
            ``demo``, whose version is always activated.
        """
        who: dict[str, str] = {"demo": "always", **self.promotion.model_dump()}
        return who[trigger]
