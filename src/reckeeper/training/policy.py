"""When to retrain, on which interactions, and what a new version must prove."""

import re
import threading
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from reckeeper import audit, clock, storage
from reckeeper.config import Settings
from reckeeper.errors import (
    ConfigError,
    ConflictError,
    DataError,
    ReckeeperError,
    StorageError,
)
from reckeeper.telemetry import get_logger
from reckeeper.training import cron

MASK = "***"
"""What is shown instead of a secret; storing it keeps the secret that is there."""

_FROM_ENVIRONMENT = {
    "schedule": "retrain_schedule",
    "timezone": "timezone",
    "weights": "interaction_weights",
    "versions_kept": "versions_kept",
}
"""Fields whose defaults the settings give, and which ones."""

_STOP_SECONDS = 2.0
"""How long a stop waits for a database that does not answer."""

_log = get_logger(__name__)

_UNSHOWN = {"webhook_secret", "webhook_url"}  # a refused URL may have a password in it

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
    """Who decides whether a new version serves, by what started its training.

    ``gate``: the comparison with the version that serves. ``always``: nobody,
    it serves. ``manual``: a person, later.
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
        None, description="Retrain when so many have come since the last retrain."
    )
    max_age_hours: _Hours | None = Field(
        None, description="Retrain when the active version is older."
    )
    min_minutes_between: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        0.0, description="By themselves, retrains begin no closer to the one before."
    )
    skip_unchanged: bool = Field(
        True, description="Make no version by itself from what the last one was made of."
    )
    promotion: Promotion = Field(
        Promotion(), description="Who decides whether a new version serves."
    )
    metric: Literal["ndcg@10", "recall@10", "hit_rate@10", "map@10"] = Field(
        "ndcg@10", description="By which versions are compared."
    )
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.02, description="Share of the active version's score that a new one may be worse."
    )
    min_users: Annotated[int, Field(ge=2, le=10**12)] = Field(
        100, description="With fewer users to judge by, nothing is rejected."
    )
    min_new_interactions: _Count = Field(
        1000, description="Newer ones than the active version's, to compare the two on them."
    )
    min_coverage_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="Of the active version's coverage, which a new one must reach."
    )
    max_fall: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="Share by which interactions, users, items or daily rate may fall."
    )
    weights: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[float, Field(ge=-1e6, le=1e6)]],
        Field(min_length=1, max_length=1000),
    ] = Field(
        {"click": 1.0, "watchlist_add": 2.0},
        description="Interaction types that are taken in, and what one of each weighs.",
    )
    half_life_days: _Days | None = Field(
        None, description="After so long an interaction weighs half; null: always the same."
    )
    window_days: _Days | None = Field(
        None, description="Train on interactions no older than this; null: on all."
    )
    left_out_users: Annotated[list[_UserPattern], Field(max_length=10_000)] = Field(
        [], description="Users whose interactions are not trained on; * stands for anything."
    )
    max_interactions_per_user: _Count | None = Field(
        None, description="Train on so many of each user's, the latest; null: on all."
    )
    versions_kept: Annotated[int, Field(ge=2, le=10**12)] = Field(
        10, description="The oldest inactive versions beyond are deleted."
    )
    kept_days: _Days | None = Field(
        None, description="Older inactive versions are deleted; null: none for its age."
    )
    stale_after_hours: _Hours | None = Field(
        None, description="Tell the webhook when the active version is older."
    )
    webhook_url: Annotated[str, Field(max_length=2048)] | None = Field(
        None, description="Told of failed jobs, rejections, promotions and a stale version."
    )
    webhook_secret: Annotated[str, Field(min_length=16, max_length=256)] | None = Field(
        None, description="Key of the signature on what the webhook is sent.", repr=False
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
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as exc:
            raise ValueError(f"is no URL: {exc}") from exc
        if url.scheme not in {"http", "https"} or not re.fullmatch(r"[^\s%/]+", url.host):
            raise ValueError("must look like https://host/path")
        if url.userinfo:
            raise ValueError(
                "has a user or password in it, which everybody would see: leave them out, the "
                "receiver knows Reckeeper by the signature (webhook_secret)"
            )
        if url.port is not None and not 1 <= url.port <= 65535:
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
            ``demo``, whose version always serves.
        """
        who: dict[str, str] = {"demo": "always", **self.promotion.model_dump()}
        return who[trigger]


@dataclass(frozen=True)
class StoredPolicy:
    """A policy and where it comes from.

    Attributes
    ----------
    policy : Policy
    revision : int
        Grows with each that is stored; 0 for the environment's.
    source : str
        ``environment`` or ``stored``.
    at : int or None
        When it was stored, in microseconds since 1970; None for the environment's.
    actor, reason : str or None
        Who stored it, and why.
    """

    policy: Policy
    revision: int
    source: Literal["environment", "stored"]
    at: int | None = None
    actor: str | None = None
    reason: str | None = None


class PolicyWatch:
    """The policy that rules, kept in memory: whoever asks waits for no database.

    Safe to share between threads. While the database does not answer, what was
    read last rules on.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    every_seconds : float
        How often it is read: so late a change may be seen.

    Attributes
    ----------
    is_reading : bool
        Whether the last reading went well.
    """

    def __init__(
        self, database: storage.Database, settings: Settings, *, every_seconds: float = 0.5
    ) -> None:
        self._database = database
        self._settings = settings
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_reading = True
        self._read: StoredPolicy | ReckeeperError | None = None

    def start(self) -> None:
        """Read the policy, and again and again until `stop`."""
        self._refresh()
        self._thread = threading.Thread(target=self._follow, name="policy", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread that `start` began."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def current(self) -> StoredPolicy:
        """Return the policy that rules, or did a moment ago.

        Raises
        ------
        ConfigError, StorageError
            None could be read yet, or the one that is there cannot be used.
        """
        assert self._read is not None, "start it first"
        if isinstance(self._read, ReckeeperError):
            raise self._read
        return self._read

    def _refresh(self) -> None:
        try:
            with self._database.read() as connection:
                self._read = current(connection, self._settings)
            self.is_reading = True
        except ReckeeperError as exc:
            if self.is_reading:
                _log.warning("policy_not_read", error=exc.message)
            self.is_reading = False
            if not isinstance(self._read, StoredPolicy):
                self._read = exc

    def _follow(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            self._refresh()


def first(settings: Settings) -> StoredPolicy:
    """Return the policy of the environment, which rules until one is stored.

    Raises
    ------
    ConfigError
        A setting makes no policy, such as a schedule that never comes; the
        message names its variable.
    """
    try:
        policy = Policy.model_validate(_defaults(settings))
    except ValidationError as exc:
        field, reason = _first_error(exc)
        setting = _FROM_ENVIRONMENT[field.partition(".")[0]]
        (env,) = (known.env for known in Settings.variables() if known.field == setting)
        raise ConfigError(f"{env}={reason}. Correct it or unset it.") from exc
    return StoredPolicy(policy, 0, "environment")


def current(connection: storage.Connection, settings: Settings) -> StoredPolicy:
    """Return the policy that rules: the last that was stored, or else the environment's.

    Raises
    ------
    ConfigError
        None is stored, and the environment's cannot be used.
    StorageError
        The one that is stored cannot be used, such as one of a later release.
    """
    row = storage.policies.latest(connection)
    if row is None:
        return first(settings)
    try:
        policy = Policy.model_validate(row["policy"])
    except ValidationError as exc:
        field, reason = _first_error(exc)
        raise StorageError(
            f"The stored policy (revision {row['revision']}) cannot be used: {field}: {reason}. "
            "Store another (PUT /policy)."
        ) from exc
    return StoredPolicy(policy, row["revision"], "stored", row["at"], row["actor"], row["reason"])


def store(
    database: storage.Database,
    settings: Settings,
    content: Mapping[str, Any],
    *,
    actor: str,
    reason: str | None = None,
    if_revision: int | None = None,
) -> StoredPolicy:
    """Store a policy, which rules from now on.

    One that is equal to the stored one changes and writes nothing.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        Of them the defaults of schedule, time zone, weights and versions kept.
    content : mapping
        Fields of `Policy`; each that is left out has its default. `MASK` as
        ``webhook_secret`` keeps the secret that is stored.
    actor : str
        Who, for the trail.
    reason : str, optional
        Why, for the trail.
    if_revision : int, optional
        Store only if this is the revision that rules.

    Raises
    ------
    DataError
        A field is unknown, of the wrong type or out of range; the message
        begins with the field, and ``details`` has it. Nothing was stored.
    ConflictError
        Another revision rules than `if_revision`; ``details`` has it.
    """
    if not isinstance(content, Mapping):
        raise _refused("policy", f"must be an object, not {type(content).__name__}")
    with database.write() as connection:
        row = storage.policies.latest(connection)
        rules = 0 if row is None else row["revision"]
        if if_revision not in {None, rules}:
            raise ConflictError(
                f"Revision {rules} of the policy rules, not {if_revision}: somebody else has "
                "changed it. See what rules now (GET /policy), then store yours again.",
                details={"revision": rules},
            )
        before = first(settings).policy.model_dump() if row is None else row["policy"]
        after = _checked({**_defaults(settings), **content}, kept_secret=_secret(before))
        if row is None or after != before:
            revision = storage.policies.insert(connection, policy=after, actor=actor, reason=reason)
            changed = [name for name in after if after[name] != before.get(name)]
            audit.record(
                connection,
                actor=actor,
                action="policy",
                subject=f"policy {revision}",
                before={name: _masked(before).get(name) for name in changed},
                after={name: _masked(after)[name] for name in changed},
                reason=reason,
            )
        return current(connection, settings)


def describe(stored: StoredPolicy) -> dict[str, Any]:
    """Return a policy as the API shows it, its secret masked."""
    return _described({**vars(stored), "policy": stored.policy.model_dump()}, stored.source)


def history(
    connection: storage.Connection, *, limit: int, before: int | None = None
) -> list[dict[str, Any]]:
    """Return up to `limit` stored policies with revisions below `before`, the latest first.

    Each is as `describe` shows one.
    """
    rows = storage.policies.page(connection, limit=limit, before=before)
    return [_described(row, "stored") for row in rows]


def _described(row: Mapping[str, Any], source: str) -> dict[str, Any]:
    return {
        "policy": _masked(row["policy"]),
        "revision": row["revision"],
        "source": source,
        "updated_at": None if row["at"] is None else clock.rfc3339(row["at"]),
        "actor": row["actor"],
        "reason": row["reason"],
    }


def _masked(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {**policy, "webhook_secret": None if _secret(policy) is None else MASK}


def _secret(policy: Mapping[str, Any]) -> str | None:
    secret: str | None = policy.get("webhook_secret")
    return secret


def _defaults(settings: Settings) -> dict[str, Any]:
    """Return the fields that the environment gives."""
    given = {field: getattr(settings, name) for field, name in _FROM_ENVIRONMENT.items()}
    return {**given, "weights": dict(settings.interaction_weights)}


def _checked(content: dict[str, Any], *, kept_secret: str | None) -> dict[str, Any]:
    if content.get("webhook_secret") == MASK:
        if kept_secret is None:
            raise _refused("webhook_secret", f"none is stored that {MASK} could keep")
        content["webhook_secret"] = kept_secret
    try:
        return Policy.model_validate(content).model_dump()
    except ValidationError as exc:
        raise _refused(*_first_error(exc)) from exc


def _refused(field: str, reason: str) -> DataError:
    return DataError(
        f"{field}: {reason}. Nothing was stored: correct it; GET /policy shows what rules.",
        details={"field": field},
    )


def _first_error(exc: ValidationError) -> tuple[str, str]:
    """Return the field that is wrong, and how: its value, where that may be shown, and why."""
    error = exc.errors(include_url=False)[0]
    path = [str(part)[:64] for part in error["loc"] if part != "[key]"]
    if not path:
        return "policy", "an object with text of valid Unicode as its keys is needed"
    field = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = Promotion if path[0] == "promotion" else Policy
        return field, f"there is no such field; there are {', '.join(known.model_fields)}"
    if error["type"] == "value_error":
        reason = str(error["ctx"]["error"])
    else:
        reason = re.sub(r"^\w+ should ", "must ", error["msg"])
        reason = re.sub(r"a valid dictionary.*", "an object", reason)
    if path[0] in _UNSHOWN:
        return field, reason
    value = repr(error["input"])
    return field, f"{value if len(value) <= 80 else value[:79] + '…'} {reason}"
