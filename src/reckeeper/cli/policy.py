"""`reckeeper policy`: when to retrain, on what, and what a new version must prove."""

import copy
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from reckeeper.cli.terminal import (
    AsJson,
    Before,
    Reason,
    client,
    compact,
    group,
    print_json,
    print_table,
    say,
    warn,
    when,
)
from reckeeper.errors import DataError, StorageError

if TYPE_CHECKING:  # help does without them
    from reckeeper import wire
    from reckeeper.client import Client


def register(app: typer.Typer) -> None:
    """Add the command `policy` to the command line."""
    policy = group(help="When to retrain, and what a new version must prove.", default="show")
    policy.command("show")(show)
    policy.command("set")(set_fields)
    policy.command("edit")(edit)
    policy.command("history")(history)
    app.add_typer(policy, name="policy")


def show(as_json: AsJson = False) -> None:
    """Show the policy in force."""
    with client() as server:
        revision = server.policy()
    _print_revision(revision, as_json=as_json)


def set_fields(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...",
            help="As margin=0.05, promotion.schedule=manual, schedule='0 3 * * 0'; null clears.",
        ),
    ],
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Change fields of the policy; the others stay."""
    from reckeeper import wire

    with client() as server:
        before = _in_force(server)
        policy = wire.Policy() if before is None else before.policy
        after = _stored(server, changed(policy.model_dump(), pairs), before, reason)
    _tell_change(before, after, as_json=as_json)


def edit(reason: Reason = None, as_json: AsJson = False) -> None:
    """Change the policy in an editor: VISUAL, EDITOR or vi."""
    with client() as server:
        before = server.policy()
        now = before.policy.model_dump()
        text = json.dumps(now, indent=2, ensure_ascii=False) + "\n"
        after: wire.PolicyAnswer | None = None
        while after is None:
            text = _edited(text)
            try:
                policy = _parsed(text)
                after = before if policy == now else _stored(server, policy, before, reason)
            except DataError as exc:
                warn(exc.message)
                if not typer.confirm("Edit it again?", default=True, err=True):
                    raise typer.Exit(2) from None
    _tell_change(before, after, as_json=as_json)


def history(
    limit: Annotated[int, typer.Option(min=1, max=999, help="How many to list.")] = 20,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List the policies that were stored and what each changed, the latest first."""
    with client() as server:
        # One more: what the last one on the page changed shows beside the one before it.
        revisions = server.policy_history(limit=limit + 1, before=before)
    if as_json:
        print_json(revisions[:limit])
        return
    earlier: list[wire.PolicyRevision | None] = [*revisions[1:], None]
    print_table(
        ("revision", "at (UTC)", "by", "changed", "why"),
        [
            (
                *(row.revision, when(row.updated_at), row.actor),
                "the first" if other is None else _changes(other.policy, row.policy),
                row.reason,
            )
            for row, other in list(zip(revisions, earlier, strict=True))[:limit]
        ],
    )


def changed(policy: Mapping[str, Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Return a policy with the fields changed that ``key=value`` pairs name.

    A value is read as JSON where it is JSON and the field is not text, else as
    text; ``null`` clears the field. ``promotion.schedule=gate`` changes one
    entry of a field that has several, and ``weights.view=null`` takes it away;
    an entry that may be null, as a half-life, is null then.

    Raises
    ------
    DataError
        A pair has no ``=``, names a field twice, or an entry of a field that
        has none.
    """
    result = copy.deepcopy(dict(policy))
    keys = set()
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise DataError(f"{pair!r} is not of the form KEY=VALUE, as in margin=0.05.")
        if key in keys:
            raise DataError(f"{key} is given twice: leave one out.")
        keys.add(key)
        field, dot, name = key.partition(".")
        value = _value(field, text)
        if not dot:
            result[field] = value
            continue
        entries = result.get(field)
        if not isinstance(entries, dict):
            raise DataError(f"{key}: {field!r} has no entries of its own; set {field}=VALUE.")
        if value is None and not _may_be_null(field, name):
            entries.pop(name, None)
        else:
            entries[name] = value
    return result


def _in_force(server: "Client") -> "wire.PolicyAnswer | None":
    """Return the policy in force, or None if it cannot be used: another one takes its place."""
    try:
        return server.policy()
    except StorageError as exc:
        if exc.action is None or exc.action.name != "change_policy":
            raise
        warn(f"{exc.message} A field that is not named here gets its default.")
        return None


def _stored(
    server: "Client",
    policy: Mapping[str, Any],
    before: "wire.PolicyAnswer | None",
    reason: str | None,
) -> "wire.PolicyAnswer":
    # As it is: the server says which field cannot be used.
    revision = None if before is None else before.revision
    return server.set_policy(policy, if_revision=revision, reason=reason)


def _value(field: str, text: str) -> Any:
    from reckeeper import wire

    schema = wire.Policy.model_json_schema()["properties"].get(field, {})
    kinds = {part.get("type") for part in schema.get("anyOf", [schema])}
    if "string" in kinds and text != "null":
        return text  # a secret of digits is no number
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _may_be_null(field: str, name: str) -> bool:
    """Say whether null is a value of an entry, and does not take it away."""
    from reckeeper import wire

    part = wire.Policy.model_fields.get(field)
    known: Mapping[str, Any] = getattr(part and part.annotation, "model_fields", {})
    return name in known and type(None) in get_args(known[name].annotation)


def _parsed(text: str) -> dict[str, Any]:
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"This is not JSON: {exc}. Correct that line.") from exc
    if not isinstance(policy, dict):
        raise DataError("The policy must be a JSON object, in braces.")
    return policy


def _edited(text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.json"
        path.write_text(text, encoding="utf-8")
        # The shell takes an editor with arguments apart, as people write it: "code --wait".
        command = '${VISUAL:-${EDITOR:-vi}} "$0"'
        status = subprocess.run(["/bin/sh", "-c", command, path], check=False).returncode
        if status:
            raise DataError(
                f"The editor ended with status {status}, and nothing was changed. Set EDITOR to "
                "one that runs here, or use `reckeeper policy set`."
            )
        return path.read_text(encoding="utf-8")


def _print_revision(revision: "wire.PolicyAnswer", *, as_json: bool) -> None:
    if as_json:
        print_json(revision)
        return
    from reckeeper import wire

    fields = wire.Policy.model_fields
    print_table(
        ("field", "value", "meaning"),
        [
            (
                name,
                "" if value is None else compact(value),
                fields[name].description if name in fields else "",
            )
            for name, value in revision.policy.model_dump().items()
        ],
    )
    if revision.source == "environment":
        say("It comes from the environment, until `reckeeper policy set` stores one.")
    else:
        why = f": {revision.reason}" if revision.reason else ""
        say(
            f"Revision {revision.revision}, stored {when(revision.updated_at)} UTC by "
            f"{revision.actor}{why}"
        )


def _tell_change(
    before: "wire.PolicyAnswer | None", after: "wire.PolicyAnswer", *, as_json: bool
) -> None:
    if as_json:
        print_json(after)
    elif before is None:
        say(f"Revision {after.revision} is in force now.")
    elif after.revision == before.revision:
        say(f"Nothing is changed: revision {after.revision} stays in force.")
    else:
        changes = _changes(before.policy, after.policy)
        say(f"Revision {after.revision} is in force now{f': {changes}' if changes else ''}.")


def _changes(before: "wire.Policy | None", after: "wire.Policy | None") -> str:
    if before is None or after is None:
        return "not known: one has the form of another release"
    was, now = before.model_dump(), after.model_dump()
    return "; ".join(
        f"{name} from {compact(was[name])} to {compact(value)}"
        for name, value in now.items()
        if value != was[name]
    )
