"""`reckeeper check`: whether database, model files and audit trail hold together."""

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import typer

from reckeeper.cli import installation
from reckeeper.cli.terminal import AsJson, print_json, say
from reckeeper.config import Settings

if TYPE_CHECKING:
    from reckeeper import storage


def register(app: typer.Typer) -> None:
    """Add the command `check`."""
    app.command("check")(check)


@dataclasses.dataclass(frozen=True)
class _Part:
    name: str
    findings: list[str]


def check(as_json: AsJson = False) -> None:
    """Do database, model files and audit trail hold together?

    Reads all of them without a server, and changes nothing. The exit status is 0 if
    all do, and 1 if not.
    """
    from reckeeper import errors, storage, telemetry

    telemetry.configure_logging("cli")
    settings = installation.settings()
    parts = []
    with contextlib.closing(storage.open_database(settings)) as database:
        for name, look in (("database", _database), ("models", _models), ("audit trail", _audit)):
            try:
                findings = look(database, settings)
            except errors.ReckeeperError as exc:  # of a malformed database
                findings = [exc.message]
            parts.append(_Part(name, findings))
            if not as_json:
                _show(parts[-1])
    is_ok = not any(part.findings for part in parts)
    if as_json:
        print_json({"ok": is_ok, "parts": [dataclasses.asdict(part) for part in parts]})
    raise typer.Exit(0 if is_ok else 1)


def _show(part: _Part) -> None:
    if not part.findings:
        say(f"{part.name}: whole.")
    for finding in part.findings:
        typer.secho(f"{part.name}: {finding}", fg="red", err=True)


def _database(database: "storage.Database", _settings: Settings) -> list[str]:
    found = database.look_through(seconds=None)
    if not found.findings:
        return []
    return [*found.findings, *filter(None, [database.problem])]


def _models(database: "storage.Database", settings: Settings) -> list[str]:
    from reckeeper import registry
    from reckeeper.errors import ReckeeperError

    versions = registry.Registry(database, settings.model_dir).versions
    findings = []
    for model in versions.all():
        try:
            versions.load(model.version)
        except ReckeeperError as exc:
            findings.append(f"version {model.version}: {exc.message}")
    return findings


def _audit(database: "storage.Database", settings: Settings) -> list[str]:
    from reckeeper import audit

    problem = audit.verify(database, settings).problem
    return [] if problem is None else [problem]
