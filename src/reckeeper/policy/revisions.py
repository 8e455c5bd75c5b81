"""The policies that were stored, and the one in force."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from reckeeper import audit, clock, security, storage, wire
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    ConfigError,
    ConflictError,
    DataError,
    StorageError,
    alternatives,
)
from reckeeper.policy.content import Policy, Promotion, RecommendationPolicy, Tuning

MASK = "***"
"""What is shown instead of a secret; storing it keeps the secret that is there."""

_FROM_ENVIRONMENT = {
    "schedule": "retrain_schedule",
    "timezone": "timezone",
    "weights": "interaction_weights",
    "versions_kept": "versions_kept",
}
"""Fields whose defaults the settings give, and which ones."""

_Shown = TypeVar("_Shown", bound=wire.PolicyRevision)

_UNSHOWN = {"webhook_secret", "webhook_url"}  # a refused URL may have a password in it


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
        The person or program that stored it, and why.
    """

    policy: Policy
    revision: int
    source: Literal["environment", "stored"]
    at: int | None = None
    actor: str | None = None
    reason: str | None = None


def first(settings: Settings) -> StoredPolicy:
    """Return the policy of the environment, in force until one is stored.

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
    """Return the policy in force: the last that was stored, or else the environment's.

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
        policy = Policy.model_validate(row.policy)
    except ValidationError as exc:
        field, reason = _first_error(exc)
        raise StorageError(
            f"The stored policy (revision {row.revision}) cannot be used: {field}: {reason}. "
            "Store another.",
            action=Action("change_policy"),
        ) from exc
    return StoredPolicy(policy, row.revision, "stored", row.at, row.actor, row.reason)


def store(
    database: storage.Database,
    settings: Settings,
    content: Mapping[str, Any],
    *,
    actor: str,
    reason: str | None = None,
    if_revision: int | None = None,
    see_that_may_change: Callable[[Sequence[str]], None] = lambda _: None,
) -> StoredPolicy:
    """Store a policy, which is in force from now on.

    One that is equal to the stored one changes and writes nothing.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
        They give the defaults of schedule, time zone, weights and versions kept.
    content : mapping
        Fields of `Policy`; each that is left out has its default. `MASK` as
        ``webhook_secret`` keeps the secret that is stored.
    actor : str
        Who, for the trail.
    reason : str, optional
        Why, for the trail.
    if_revision : int, optional
        Store only if this is the revision in force.
    see_that_may_change : callable, optional
        Is given the names of the fields that change; what it raises, this does.

    Raises
    ------
    DataError
        A field is unknown, of the wrong type or out of range, or the webhook
        leads to an internal address; the message begins with the field, and
        ``details`` has it. Nothing was stored.
    ConflictError
        Another revision than `if_revision` is in force; ``details`` has it.
    """
    if not isinstance(content, Mapping):
        raise _refused("policy", f"must be an object, not {type(content).__name__}")
    _check_receiver(settings, content.get("webhook_url"))  # while nobody waits for the database
    with database.write() as connection:
        row = storage.policies.latest(connection)
        in_force = 0 if row is None else row.revision
        if if_revision not in {None, in_force}:
            raise ConflictError(
                f"Revision {in_force} of the policy is in force, not {if_revision}: somebody else "
                "has changed it. Look at it, then store yours again.",
                details={"revision": in_force},
                action=Action("see_policy"),
            )
        before = first(settings).policy.model_dump() if row is None else row.policy
        after = _checked({**_defaults(settings), **content}, kept_secret=_secret(before))
        if row is None or after != before:
            changed = [name for name in after if after[name] != before.get(name)]
            see_that_may_change(changed)
            revision = storage.policies.insert(connection, policy=after, actor=actor, reason=reason)
            audit.record(
                connection,
                actor=actor,
                action="policy",
                subject=f"policy {revision}",
                before={name: _told(connection, before).get(name) for name in changed},
                after={name: _told(connection, after)[name] for name in changed},
                reason=reason,
            )
        return current(connection, settings)


def describe(stored: StoredPolicy) -> wire.PolicyAnswer:
    """Return a policy as the API shows it, its secret masked."""
    return _described(wire.PolicyAnswer, stored, stored.policy.model_dump(), stored.source)


def history(
    connection: storage.Connection, *, limit: int, before: int | None = None
) -> list[wire.PolicyRevision]:
    """Return up to `limit` stored policies with revisions below `before`, the latest first."""
    rows = storage.policies.page(connection, limit=limit, before=before)
    return [_described(wire.PolicyRevision, row, row.policy, "stored") for row in rows]


def _described(
    kind: type[_Shown],
    row: StoredPolicy | storage.PolicyRevision,
    policy: Mapping[str, Any],
    source: str,
) -> _Shown:
    return kind.model_validate(
        {
            "policy": _masked(policy),
            "revision": row.revision,
            "source": source,
            "updated_at": None if row.at is None else clock.rfc3339(row.at),
            "actor": row.actor,
            "reason": row.reason,
        }
    )


def _masked(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {**policy, "webhook_secret": None if _secret(policy) is None else MASK}


def _told(connection: storage.Connection, policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy as the trail has it, from which nothing is ever erased: it names nobody."""
    left_out = [
        each if "*" in each else f"user {audit.pseudonym(connection, each)}"
        for each in policy.get("left_out_users", [])
    ]
    return {**_masked(policy), "left_out_users": left_out}


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


def _check_receiver(settings: Settings, url: object) -> None:
    """Refuse a webhook that leads to an internal address; what is no URL is told elsewhere."""
    if isinstance(url, str):
        try:
            security.Receivers(settings).check(url)
        except DataError as exc:
            raise _refused("webhook_url", exc.message.removesuffix(".")) from exc


def _refused(field: str, reason: str) -> DataError:
    return DataError(
        f"{field}: {reason}. Nothing was stored: correct it and store it again.",
        details={"field": field},
        action=Action("see_policy"),
    )


def _first_error(exc: ValidationError) -> tuple[str, str]:
    """Return the field that is wrong, and how: its value, where that may be shown, and why."""
    error = exc.errors(include_url=False)[0]
    path = [str(part)[:64] for part in error["loc"] if part != "[key]"]
    if not path:
        return "policy", "an object with text of valid Unicode as its keys is needed"
    field = ".".join(path)
    if error["type"] == "extra_forbidden":
        of_part = {
            "promotion": Promotion.model_fields,
            "tuning": Tuning.model_fields,
            "recommendations": RecommendationPolicy.model_fields,
        }
        known = of_part.get(path[0], Policy.model_fields)
        return field, f"there is no such field{alternatives(path[-1], known)}"
    if error["type"] == "value_error":
        reason = str(error["ctx"]["error"])
    else:
        reason = re.sub(r"^\w+ should ", "must ", error["msg"])
        reason = re.sub(r"a valid dictionary.*", "an object", reason)
    if path[0] in _UNSHOWN:
        return field, reason
    value = repr(error["input"])
    return field, f"{value if len(value) <= 80 else value[:79] + '…'} {reason}"
