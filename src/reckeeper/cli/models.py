"""`reckeeper retrain`, `models` and `jobs`: what the server's API does, on a terminal."""

import contextlib
import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from reckeeper import errors
from reckeeper.cli.evaluate import parse_settings, tuning_note
from reckeeper.client import Client, Job
from reckeeper.config import Settings
from reckeeper.training.pipeline import TUNING

_POLL_SECONDS = 0.2

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    models = typer.Typer(no_args_is_help=True, help="List and activate model versions.")
    models.command("list")(list_models)
    models.command("activate")(activate)
    app.add_typer(models, name="models")
    app.command("jobs")(list_jobs)
    app.command("retrain")(retrain)


def list_models(as_json: AsJson = False) -> None:
    """List all versions, the newest first."""
    with _client() as client:
        versions = client.models()
    if as_json:
        typer.echo(json.dumps(versions))
        return
    columns = ("status", "n_users", "n_items", "explained_variance", "trained_on", "trigger")
    _print_table("version", columns, [dict(version) for version in versions])


def activate(
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    reason: Annotated[str | None, typer.Option(help="Kept in the audit trail.")] = None,
) -> None:
    """Let a version serve."""
    with _client() as client:
        client.activate(version, reason=reason)
    typer.echo(f"Version {version} is active.")


def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20, as_json: AsJson = False
) -> None:
    """List training jobs, the latest first."""
    with _client() as client:
        page = client.jobs(limit=limit)
    if as_json:
        typer.echo(json.dumps(page))
        return
    rows = [
        {
            **job,
            "started (UTC)": job["started_at"][:16].replace("T", " "),
            "seconds": f"{job['seconds_elapsed']:.1f}",
            "error": job["error"]["message"] if job["error"] else "",
        }
        for job in page["jobs"]
    ]
    columns = ("status", "trigger", "stage", "started (UTC)", "seconds", "version", "error")
    _print_table("job_id", columns, rows)
    if page["next_scheduled_at"]:
        typer.echo(f"Next scheduled: {page['next_scheduled_at']} ({page['schedule']})")


def retrain(
    recipe: Annotated[
        str | None, typer.Option(help="Default: that of the active version; spectral with --tune.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe; repeatable."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the settings. Ctrl-C takes the best so far.")
    ] = False,
    tune_seconds: Annotated[
        float | None, typer.Option(help="Default: just under five times what one fit takes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a new version on the latest interactions, and wait until it serves.

    Recipe and settings are those of the active version, unless others are given.
    """
    settings = parse_settings(pairs) if pairs else None
    with _client() as client:
        try:
            job_id = client.start_retrain(
                recipe=recipe, settings=settings, tune=tune, tune_seconds=tune_seconds
            )["job_id"]
        except errors.JobRunningError as exc:
            details = exc.details or {}
            # Only a plain retrain would do what that one does.
            if details.get("kind") == "evaluate" or recipe or pairs or tune:
                raise
            job_id = details["job_id"]
            typer.echo(f"Job {job_id} runs already: waiting for that one.", err=True)
        job = _follow(client, job_id)
        if job["status"] != "succeeded":
            error = job["error"] or {
                "code": "training_failed",
                "message": "The job did not end well.",
            }
            raise errors.error_of(error["code"], error["message"])
        version = job["version"]
        assert version is not None
        made = client.model(version)
    if as_json:
        typer.echo(json.dumps({"job": job, "model": made}))
        return
    typer.echo(
        f"Model retrained in {made['seconds']:.1f}s - {made['training_samples']} samples, "
        f"{made['explained_variance']} variance explained. Version {version} is active."
    )


def _follow(client: Client, job_id: int) -> Job:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = Console(stderr=True)
    asked_to_finish = False
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"Job {job_id}", total=1.0, left="")
        job = client.job(job_id)
        while job["status"] == "running":
            progress.update(
                task,
                completed=job["fraction"],
                description=f"Job {job_id}: {job['stage']}",
                left=_left(job),
            )
            try:
                time.sleep(_POLL_SECONDS)
                job = client.job(job_id)
            except KeyboardInterrupt:
                if job["stage"] != TUNING or asked_to_finish:
                    raise
                asked_to_finish = True
                with contextlib.suppress(errors.ConflictError):  # it is past that just now
                    client.finish_job(job_id)
                console.print("Tuning ends with the best so far. Ctrl-C again leaves.")
        return job


def _left(job: Job) -> str:
    if job["stage"] == TUNING and job["progress"] is not None:
        return tuning_note(job["progress"])
    return "" if job["seconds_left"] is None else f"about {job['seconds_left']:.0f} s left"


def _client() -> Client:
    return Client(Settings.from_env().server_url)


def _print_table(key: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    table = Table(key, *columns)
    for row in rows:
        values = (row[name] for name in (key, *columns))
        table.add_row(*("" if value is None else str(value) for value in values))
    Console().print(table)
