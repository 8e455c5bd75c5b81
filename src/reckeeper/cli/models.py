"""`reckeeper models`: the versions, and which is active."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reckeeper.cli import installation
from reckeeper.cli.actions import ACTIONS
from reckeeper.cli.terminal import (
    AsJson,
    Before,
    Limit,
    Reason,
    client,
    compact,
    group,
    print_facts,
    print_json,
    print_table,
    say,
    size,
    warn,
    when,
)
from reckeeper.errors import Action

if TYPE_CHECKING:  # help does without it
    from reckeeper import wire

_Version = Annotated[int, typer.Argument(help="Number of the version.")]


def register(app: typer.Typer) -> None:
    """Add the command `models` to the command line."""
    models = group(help="List, switch, compare, keep and move model versions.", default="list")
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("activate")(activate)
    models.command("rollback")(roll_back)
    models.command("pin")(pin)
    models.command("unpin")(unpin)
    models.command("note")(note)
    models.command("delete")(delete)
    models.command("compare")(compare)
    models.command("timeline")(timeline)
    models.command("download")(download)
    models.command("import")(import_model)
    models.command("rebuild")(rebuild)
    app.add_typer(models, name="models")


def list_models(as_json: AsJson = False) -> None:
    """List all versions, the newest first."""
    with client() as server:
        versions = server.models()
        ready = None if as_json else server.ready()
    if ready is None:
        print_json(versions)
        return
    print_table(
        (
            *("version", "status", "recipe", "ndcg", "hit_rate", "over popularity", "over active"),
            *("users", "items", "variance", "trained_on"),
            *("trigger", "remarks"),
        ),
        [
            (
                *(row.version, row.status, row.recipe, *_headline(row), row.n_users, row.n_items),
                *(row.explained_variance, row.trained_on[:16], row.trigger, _remarks(row)),
            )
            for row in versions
        ],
    )
    for problem in ready.problems:
        warn(problem)
    if ready.offer_version is not None:
        warn(Action("activate", {"version": ready.offer_version}).in_words(ACTIONS))


def show(version: _Version, as_json: AsJson = False) -> None:
    """Show a version: what it was made of, what was measured, and when it was active."""
    with client() as server:
        model = server.model(version)
    if as_json:
        print_json(model)
        return
    print_facts(_facts(model))
    if model.verdict is not None:
        print_verdict(model.verdict)
    if model.timeline:
        _print_timeline(model.timeline)


def activate(version: _Version, reason: Reason = None, as_json: AsJson = False) -> None:
    """Activate a version."""
    with client() as server:
        model = server.activate(version, reason=reason)
    if as_json:
        print_json(model)
    else:
        say(f"Version {version} is active.")


def roll_back(reason: Reason = None, as_json: AsJson = False) -> None:
    """Activate the version that was active before; again: the one before that."""
    with client() as server:
        model = server.roll_back(reason=reason)
    if as_json:
        print_json(model)
    else:
        say(f"Version {model.version} is active again.")


def pin(
    version: _Version,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="As 2026-01-31T12:00:00Z. Default: until it is unpinned."
        ),
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Keep a version: no training replaces it while it is active, and nothing deletes it."""
    with client() as server:
        model = server.pin(version, until=until, reason=reason)
    if as_json:
        print_json(model)
    elif model.pinned_until:
        say(f"Version {version} is pinned until {when(model.pinned_until)} UTC.")
    else:
        say(f"Version {version} is pinned. `reckeeper models unpin {version}` takes it back.")


def unpin(version: _Version, reason: Reason = None, as_json: AsJson = False) -> None:
    """Unpin a version."""
    with client() as server:
        model = server.unpin(version, reason=reason)
    if as_json:
        print_json(model)
    else:
        say(f"Version {version} is not pinned.")


def note(
    version: _Version,
    text: Annotated[str | None, typer.Argument(help="Up to 10,000 characters.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the note.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a note on a version, in place of the one that it has."""
    if (text is None) != clear:
        raise typer.BadParameter("Give either the text of the note or --clear.")
    with client() as server:
        model = server.set_note(version, text)
    if as_json:
        print_json(model)
    else:
        say(f"Version {version} has {'no note' if clear else 'this note'} now.")


def delete(
    version: _Version,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete an inactive version with its files; on a terminal it asks first."""
    if sys.stdin.isatty() and not yes:
        typer.confirm(f"Delete version {version} and its files for good?", abort=True, err=True)
    with client() as server:
        answer = server.delete_model(version, reason=reason)
    if as_json:
        print_json(answer)
    else:
        say(f"Version {version} is deleted.")


def compare(
    version: _Version,
    other: Annotated[int, typer.Argument(help="Number of the version to compare it with.")],
    k: Annotated[int, typer.Option("--k", help="Length of the lists.")] = 10,
    users: Annotated[int, typer.Option(help="How many users to sample.")] = 2000,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: what they are, and what users would see of each."""
    with client() as server:
        answer = server.compare(version, other, k=k, users=users)
    if as_json:
        print_json(answer)
    else:
        _print_comparison(answer)


def timeline(limit: Limit = 20, before: Before = None, as_json: AsJson = False) -> None:
    """List what was active when, who switched, and why; the latest first."""
    with client() as server:
        entries = server.timeline(limit=limit, before=before).timeline
    if as_json:
        print_json(entries)
    else:
        _print_timeline(entries)


def download(
    version: _Version,
    file: Annotated[
        Path | None, typer.Argument(help="File or folder to write to. Default: this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version to a file that `models import` takes in on another installation."""
    path = file or Path()
    if path.is_dir():
        path /= f"reckeeper-model-{version:06d}.zip"
    with client() as server:
        server.download(version, path)
    if as_json:
        print_json({"version": version, "path": str(path), "bytes": path.stat().st_size})
    else:
        say(f"Version {version} is in {path} ({size(path.stat().st_size)}).")


def import_model(
    file: Annotated[Path, typer.Argument(help="A file that `models download` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Take in a version that was downloaded, here or elsewhere; it is not active yet."""
    with client() as server:
        model = server.import_model(file)
    if as_json:
        print_json(model)
        return
    version = model.version
    say(f"{file} is version {version} now. `reckeeper models activate {version}` activates it.")


def rebuild(as_json: AsJson = False) -> None:
    """Take in model files that the database does not know; needs no server.

    Such files are in the model folder and its folder unknown/ after the
    database was lost, or restored from a backup older than they. Into a database
    that `reckeeper migrate` has just made again, the version that was active
    before comes back as active; otherwise the versions added stay inactive
    until you activate them.
    """
    from reckeeper.cli.database import opened
    from reckeeper.registry import Registry

    settings = installation.settings()
    with contextlib.closing(opened(settings)) as database:
        registry = Registry(database, settings.model_dir)
        rebuilt = registry.recovery.rebuild()
        active = registry.switch.active_version() if rebuilt else None
        found = registry.recovery.take_in_unknown(
            actor="cli", cell_limit=settings.prediction_cell_limit
        )
    taken_in = rebuilt + [file.version for file in found if file.version is not None]
    refused = [file for file in found if file.version is None]
    if as_json:
        shown = [{"file": file.file, "error": file.error} for file in refused]
        print_json({"taken_in": taken_in, "refused": shown, "active": active})
        return
    for version in rebuilt:
        say(f"Version {version} was added{' and is active' if version == active else ''}.")
    for file in found:
        if file.version is not None:
            say(f"Version {file.version} was added, from {file.file}.")
    for file in refused:
        warn(f"{file.file} was not added: {file.error}")
    if not taken_in and not refused:
        say(f"The database knows every model file in {settings.model_dir}.")
    elif found and taken_in:
        say("`reckeeper models activate VERSION` activates one.")


# What people see

STANDINGS = {
    "better": "better",
    "no_worse": "no worse",
    "slightly_worse": "slightly worse",
    "worse": "worse",
    "too_few": "too few to tell",
    "not_compared": "not compared",
}
_SEGMENTS = {"history_length": "items in history", "popularity": "item popularity"}


def print_verdict(verdict: "wire.Verdict") -> None:
    """Print what the gate thinks of a version, and what it measured."""
    standing = "" if verdict.standing is None else f", {STANDINGS[verdict.standing]}"
    say(f"Gate: {verdict.decision}{standing}. {verdict.sentence}")
    for reason in verdict.reasons:
        say(f"Against it: {reason}")
    for warning in verdict.warnings:
        say(f"Note: {warning}")
    if verdict.outcome:
        say(verdict.outcome)
    if verdict.promotion is not None:
        say(f"Promotion: {verdict.promotion.promote} ({verdict.promotion.because}).")
    if not verdict.candidate:
        return
    sides = {
        name: side
        for name, side in (
            ("candidate", verdict.candidate),
            ("active", verdict.active),
            ("popularity", verdict.popularity),
        )
        if side
    }
    differences = {
        f"over {name}": side
        for name, side in (
            ("active", verdict.versus_active),
            ("popularity", verdict.versus_popularity),
        )
        if side
    }
    print_table(
        ("", *sides, *differences),
        [
            (
                metric,
                *(_with_interval(side.get(metric)) for side in sides.values()),
                *(_with_interval(side.get(metric)) for side in differences.values()),
            )
            for metric in verdict.candidate
        ],
        title=f"{verdict.n_users:,} users; ±: half of the 95% interval",
    )
    if verdict.segments:
        _print_segments(verdict)


def _print_segments(verdict: "wire.Verdict") -> None:
    metric = verdict.metric
    print_table(
        ("segment", "", "users", "candidate", "active", "over active"),
        [
            (
                *(_SEGMENTS[segment.by], segment.name, f"{segment.n_users:,}"),
                _with_interval(segment.candidate.get(metric)),
                _with_interval((segment.active or {}).get(metric)),
                _with_interval((segment.versus_active or {}).get(metric)),
            )
            for segment in verdict.segments
        ],
        title=f"{metric} by segment",
    )


def _headline(row: "wire.Model") -> Iterator[str]:
    """Yield NDCG and hit rate, and how NDCG stands beside popularity and the version before."""
    metrics = row.metrics or {}
    names = [
        next((m for m in metrics if m.startswith(name)), "") for name in ("ndcg@", "hit_rate@")
    ]
    yield from (_with_interval(metrics.get(name)) for name in names)
    headline = None if row.verdict is None else row.verdict.headline
    versus = (headline or {}).get(names[0])
    yield _with_interval(None if versus is None else versus.popularity)
    yield _with_interval(None if versus is None else versus.active)


def _remarks(row: "wire.Model") -> str:
    parts = []
    if row.pinned:
        until = when(row.pinned_until)
        parts.append(f"pinned until {until}" if until else "pinned")
    if row.verdict is not None and row.verdict.decision == "reject":
        parts.append("gate: reject")
    if row.note:
        parts.append(row.note.partition("\n")[0])
    return "; ".join(parts)


def _chosen(data: "wire.TrainingData") -> str:
    return compact({name: value for name, value in data.model_dump().items() if value})


def _facts(model: "wire.ModelDetails") -> Iterator[tuple[str, Any]]:
    yield "version", model.version
    yield "status", model.status
    if model.pinned:
        yield "pinned", f"until {when(model.pinned_until) or 'it is unpinned'}"
    yield "recipe", model.recipe
    yield "settings", compact(model.settings)
    yield "decided from the data", compact(model.decided) if model.decided else None
    yield (
        "trained on",
        f"{model.training_samples:,} interactions, {model.n_users:,} users, "
        f"{model.n_items:,} items",
    )
    yield "latest interaction (UTC)", when(model.latest_at)
    yield "chosen and weighed by", _chosen(model.data)
    yield "fingerprint", model.fingerprint
    yield "explained variance", model.explained_variance
    yield "trained (UTC)", model.trained_on
    yield "trigger", ", by ".join(filter(None, (model.trigger, model.actor)))
    yield "cause", model.cause and model.cause.sentence
    yield "job", model.job_id
    yield "took", f"{model.seconds:.1f} s"
    yield "peak memory", size(model.peak_memory_bytes)
    yield "libraries", compact(model.libraries)
    for metric, measured in (model.metrics or {}).items():
        yield metric, _with_interval(measured)
    if model.origin is not None:
        origin = model.origin
        yield "imported (UTC)", f"{when(origin.imported_at)}, version {origin.version} there"
    for file in model.files:
        yield "file", f"{file.name}, {size(file.bytes)}, SHA-256 {file.sha256}"
    yield "note", model.note


def _print_timeline(entries: Sequence["wire.TimelineEntry"]) -> None:
    print_table(
        ("from (UTC)", "until (UTC)", "version", "action", "by", "why"),
        [
            (
                when(entry.at),
                when(entry.until),
                "none" if entry.version is None else entry.version,
                *(entry.action, entry.actor, entry.reason),
            )
            for entry in entries
        ],
        title="Active",
    )


def _print_comparison(found: "wire.Comparison") -> None:
    first, second = found.first, found.second
    names = f"version {first.version}", f"version {second.version}"
    print_table(("", *names), list(_sides(found)))
    if found.overlap is None:
        say("The two versions have no user in common: there are no lists to compare.")
        return
    say(
        f"{found.n_users:,} sampled users find {found.overlap.mean:.1%} of their lists of "
        f"{found.k} the same in both (95% interval {found.overlap.low:.1%} to "
        f"{found.overlap.high:.1%})."
    )
    if found.most_changed:
        print_table(
            ("user", "the same", *names),
            [
                (user.user_id, f"{user.overlap:.0%}", ", ".join(user.first), ", ".join(user.second))
                for user in found.most_changed
            ],
            title="Users whose lists change most",
        )
    for which, items in (("gained", found.exposure.gained), ("lost", found.exposure.lost)):
        if items:
            print_table(
                ("item", *names),
                [(item.item_id, f"{item.first:.1%}", f"{item.second:.1%}") for item in items],
                title=f"Share of lists of the items that have {which} most",
            )


def _sides(found: "wire.Comparison") -> Iterator[tuple[str, str, str]]:
    """Yield what the two versions are: a name, and what each has."""
    first, second = found.first, found.second
    yield "recipe", first.recipe, second.recipe
    yield "interactions", f"{first.training_samples:,}", f"{second.training_samples:,}"
    yield "chosen and weighed by", _chosen(first.data), _chosen(second.data)
    for setting in found.settings:
        yield setting.name, compact(setting.first), compact(setting.second)
    left, right = first.metrics or {}, second.metrics or {}
    for metric in dict.fromkeys([*left, *right]):
        yield metric, _with_interval(left.get(metric)), _with_interval(right.get(metric))
    for name, pair in (("coverage", found.coverage), ("popularity", found.popularity)):
        if pair is not None:
            yield f"{name} of the lists", f"{pair.first:.1%}", f"{pair.second:.1%}"


def _with_interval(measured: "wire.Metric | wire.Difference | None") -> str:
    from reckeeper import wire

    if measured is None:
        return ""
    if isinstance(measured, wire.Difference):
        text = f"{measured.difference:+.4f}"
    else:
        text = f"{measured.mean:.4f}"
    if measured.low is None or measured.high is None:
        return text
    return f"{text} ±{(measured.high - measured.low) / 2:.4f}"
