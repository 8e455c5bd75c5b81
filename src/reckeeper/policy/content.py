"""What a policy says: when to retrain, on which interactions, what a new version must prove."""

import re
import zoneinfo
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from reckeeper import wire
from reckeeper.errors import alternatives
from reckeeper.interactions import WITHOUT_WEIGHT
from reckeeper.policy import cron

_STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    allow_inf_nan=False,
    hide_input_in_errors=True,  # the whole policy, its secret too, would stand in tracebacks
)


class Promotion(wire.Promotion):
    """What decides whether a new version is activated, checked strictly."""

    model_config = _STRICT


class Tuning(wire.Tuning):
    """How settings are looked for, checked strictly."""

    model_config = _STRICT


class RecommendationPolicy(wire.RecommendationPolicy):
    """What lists leave out, and what is popular, checked strictly."""

    model_config = _STRICT


class Policy(wire.Policy):
    """A policy as it is stored: the fields of `wire.Policy`, checked strictly."""

    model_config = _STRICT

    webhook_secret: Annotated[str, Field(min_length=16, max_length=256)] | None = Field(
        default=None, repr=False
    )
    promotion: Promotion = Promotion()
    tuning: Tuning = Tuning()
    recommendations: RecommendationPolicy = RecommendationPolicy()

    @field_validator("schedule", "backup_schedule")
    @classmethod
    def _comes(cls, expression: str | None) -> str | None:
        if expression is not None:
            cron.check(expression)
        return expression

    @field_validator("backup_folder")
    @classmethod
    def _is_whole_path(cls, folder: str | None) -> str | None:
        if folder is not None and not re.fullmatch(r"/[^\x00-\x1f\x7f]*", folder):
            raise ValueError("must be the whole path of a folder, such as /backups")
        return folder

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
            if name in WITHOUT_WEIGHT:
                raise ValueError(f"names {name}, which {WITHOUT_WEIGHT[name]} and has no weight")
        if not any(weight > 0 for weight in weights.values()):
            raise ValueError("has none above 0: there would be nothing to train on")
        return weights

    @field_validator("recommendations")
    @classmethod
    def _knows_types(
        cls, lists: RecommendationPolicy, checked: ValidationInfo
    ) -> RecommendationPolicy:
        weights = checked.data.get("weights")
        for name in lists.seen_types or []:
            if weights is not None and name not in weights:
                raise ValueError(
                    f"has seen_types with {name!r}, which weights does not name"
                    f"{alternatives(name, weights)}"
                )
        return lists

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
        if control := re.search("[\x00-\x1f\x7f]", text):
            raise ValueError(f"is no URL: it has the character {control[0]!r}")
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
        if port := re.search(r":([^:\]]+)$", url.netloc):
            if not re.fullmatch("[0-9]+", port[1]):
                raise ValueError(f"is no URL: its port is {port[1]!r}")
            if not 1 <= int(port[1]) <= 65535:
                raise ValueError("has a port that is not between 1 and 65535")
        return text

    @property
    def k(self) -> int:
        """Length of the lists that are judged: that of `metric`."""
        return int(self.metric.partition("@")[2])

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
