"""`reckeeper jobs` and `retrain`: training, and what becomes of it."""

import contextlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from reckeeper import errors
from reckeeper.cli.comparison import print_comparison
from reckeeper.cli.models import print_verdict
from reckeeper.cli.terminal import (
    AsJson,
    Before,
    DriftName,
    Limit,
    Reason,
    client,
    compact,
    group,
    parse_settings,
    print_facts,
    print_json,
    print_table,
    say,
    size,
    tuning_note,
    warn,
    when,
)

if TYPE_CHECKING:  # help does without them
    from reckeeper import wire
    from reckeeper.client import Client

_TUNING = "tuning"
"""The stage of a job that can be asked to end early."""

_JobId = Annotated[int, typer.Argument(help="Number of the job.")]


class PromoteName(StrEnum):
    """Whether a new version is activated: those of `wire.Promote`."""

    ALWAYS = "always"
    IF_NOT_WORSE = "if_not_worse"
    NEVER = "never"


def register(app: typer.Typer) -> None:
    """Add the commands `jobs` and `retrain` to the command line."""
    jobs = group(help="List, follow and end training jobs.", default="list")
    jobs.command("list")(list_jobs)
    jobs.command("show")(show)
    jobs.command("follow")(follow)
    jobs.command("finish")(finish)
    jobs.command("cancel")(cancel)
    app.add_typer(jobs, name="jobs")
    app.command("retrain")(retrain)


def list_jobs(limit: Limit = 20, before: Before = None, as_json: AsJson = False) -> None:
    """List training jobs, the latest first."""
    with client() as server:
        page = server.jobs(limit=limit, before=before)
    if as_json:
        print_json(page)
        return
    print_table(
        ("job_id", "status", "kind", "trigger", "started (UTC)", "seconds", "version", "remarks"),
        [
            (
                job.job_id,
                f"{job.stage} {job.fraction:.0%}" if _runs(job) else job.status,
                *(job.kind, job.trigger, when(job.started_at)[:16]),
                *(f"{job.seconds_elapsed:.1f}", job.version, _remarks(job)),
            )
            for job in page.jobs
        ],
    )
    if page.next_scheduled_at:
        say(f"Next scheduled: {page.next_scheduled_at} ({page.schedule})")


def show(job_id: _JobId, as_json: AsJson = False) -> None:
    """Show a job: what started it, how far it is, and what became of it."""
    with client() as server:
        job = server.job(job_id)
    if as_json:
        print_json(job)
        return
    print_facts(_facts(job))
    if job.verdict is not None:
        print_verdict(job.verdict)
    _print_evaluation(job)


def follow(
    job_id: _JobId,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each state as a line of JSON, for programs.")
    ] = False,
) -> None:
    """Show a job's progress until it ends; the exit status is 0 if it ended well.

    Ctrl-C leaves the job alone. While it tunes, Ctrl-C ends the tuning with
    the best so far.
    """
    with client() as server:
        job = _follow(server, job_id, on_state=print_json if as_json else None)
        _see_that_it_succeeded(job)
        if not as_json:
            _tell_outcome(server, job)


def finish(job_id: _JobId, as_json: AsJson = False) -> None:
    """End the tuning of a job now, with the best that it has; the job goes on."""
    with client() as server:
        job = server.finish_job(job_id)
    if as_json:
        print_json(job)
    else:
        say(f"Job {job_id} goes on with the best that its tuning has found.")


def cancel(job_id: _JobId, reason: Reason = None, as_json: AsJson = False) -> None:
    """Ask a running job to end; the active version stays."""
    with client() as server:
        job = server.cancel_job(job_id, reason=reason)
    if as_json:
        print_json(job)
    elif _runs(job):
        say(f"Job {job_id} is asked to end. `reckeeper jobs follow {job_id}` waits until it has.")
    else:
        say(f"Job {job_id} is {job.status}.")


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
        float | None,
        typer.Option(help="CPU time to tune for. Default: 120 to 400, with much data more."),
    ] = None,
    drift: Annotated[
        DriftName | None,
        typer.Option(
            help="How far users' next choices lean to popular items, for tuning. Default: what "
            "the policy says."
        ),
    ] = None,
    promote: Annotated[
        PromoteName | None,
        typer.Option(
            help="Activate the new version: default always with the active version's recipe and "
            "settings, else if_not_worse; or what the policy says."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a new version on the latest interactions, and wait until it is done.

    Recipe and settings are those of the active version, unless others are given.
    Ctrl-C leaves; the job goes on.
    """
    settings = parse_settings(pairs) if pairs else None
    with client() as server:
        try:
            job_id = server.start_retrain(
                recipe=recipe,
                settings=settings,
                tune=tune,
                tune_seconds=tune_seconds,
                drift=None if drift is None else drift.value,
                promote=None if promote is None else promote.value,
            ).job_id
        except errors.JobRunningError as exc:
            match exc.details:
                # Only a plain retrain would do what that one does.
                case {"job_id": int(job_id), "kind": "retrain"} if not (
                    recipe or pairs or tune or drift or promote
                ):
                    pass
                case _:
                    raise
            typer.echo(f"Job {job_id} runs already: waiting for that one.", err=True)
        job = _follow(server, job_id)
        _see_that_it_succeeded(job)
        if as_json:
            version = job.version
            made = None if version is None else server.model(version)
            print_json({"job": job, "model": made})
        else:
            _tell_outcome(server, job)
        _warn_of_verdict(job)


def _follow(
    server: "Client", job_id: int, *, on_state: "Callable[[wire.Job], None] | None" = None
) -> "wire.Job":
    """Show a job until it has ended, and return it; `on_state` gets its states instead."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    is_silent = on_state is not None or not console.is_terminal
    asked_to_finish = False
    job: wire.Job | None = None
    with Progress(*columns, console=console, transient=True, disable=is_silent) as progress:
        task = progress.add_task(f"Job {job_id}", total=1.0, note="")
        while job is None or _runs(job):
            try:
                for job in server.follow_job(job_id):
                    if on_state is not None:
                        on_state(job)
                    progress.update(
                        task,
                        completed=job.fraction,
                        description=f"Job {job_id}: {job.stage}",
                        note=_note(job),
                    )
            except KeyboardInterrupt:
                if asked_to_finish or job is None or job.stage != _TUNING:
                    console.print(
                        f"Job {job_id} goes on: `reckeeper jobs follow {job_id}` shows it again, "
                        f"`reckeeper jobs cancel {job_id}` ends it.",
                        highlight=False,
                        soft_wrap=True,
                    )
                    raise typer.Exit(130) from None
                asked_to_finish = True
                with contextlib.suppress(errors.ConflictError):  # it is past that just now
                    server.finish_job(job_id)
                console.print("Tuning ends with the best so far. Ctrl-C again leaves.")
    return job


def _see_that_it_succeeded(job: "wire.ListedJob") -> None:
    if job.status != "succeeded":
        if job.error is not None:
            raise job.error.to_error()
        raise errors.TrainingError(f"Job {job.job_id} did not succeed ({job.status}).")


def _tell_outcome(server: "Client", job: "wire.Job") -> None:
    """Say on stdout what a job that succeeded has made."""
    version = job.version
    if job.kind == "evaluate":
        _print_evaluation(job)
    elif version is None:
        sentence = f" {job.verdict.sentence}" if job.verdict else ""
        say(f"Job {job.job_id} made no version.{sentence}")
    else:
        made = server.model(version)
        say(
            f"Model retrained in {made.seconds:.1f}s - {made.training_samples} samples, "
            f"{made.explained_variance} variance explained. Version {version} "
            + ("is active." if job.promoted else "was not promoted and is not active.")
        )


def _warn_of_verdict(job: "wire.ListedJob") -> None:
    """Say on stderr what speaks against the version that a job has made, and what to do."""
    version, verdict = job.version, job.verdict
    if version is None or verdict is None:
        return
    if verdict.decision == "reject":
        against = verdict.reasons or [verdict.sentence]
        warn(" ".join([f"The gate speaks against version {version}.", *against]))
    for warning in verdict.warnings:
        warn(warning)
    if not job.promoted:
        if verdict.outcome and verdict.decision != "reject":
            warn(verdict.outcome)
        warn(f"`reckeeper models activate {version}` activates it all the same.")
    elif verdict.decision == "reject":
        warn("`reckeeper models rollback` brings back the version that was active before.")


def _print_evaluation(job: "wire.Job") -> None:
    if job.result is not None:
        print_comparison(job.result)


def _facts(job: "wire.ListedJob") -> Iterator[tuple[str, Any]]:
    yield "job", job.job_id
    yield "kind", job.kind
    yield "status", job.status
    if _runs(job):
        yield "stage", f"{job.stage}, {job.fraction:.0%} done"
        yield "note", _note(job)
    yield "trigger", ", by ".join(filter(None, (job.trigger, job.actor)))
    yield "cause", job.cause and job.cause.sentence
    yield "request", compact(job.request.model_dump())
    yield "started (UTC)", when(job.started_at)
    yield "ended (UTC)", when(job.finished_at)
    yield "took", f"{job.seconds_elapsed:.1f} s"
    yield "memory estimated", size(job.estimated_memory_bytes)
    yield "memory at most", size(job.peak_memory_bytes)
    yield "version", job.version
    yield "promoted", {True: "yes", False: "no", None: None}[job.promoted]
    if job.error is not None:
        yield "error", job.error.message


def _remarks(job: "wire.ListedJob") -> str:
    if job.error is not None:
        return job.error.message
    if job.cancel_requested and _runs(job):
        return "is asked to end"
    if job.promoted is False:
        return "not promoted" if job.version is not None else "nothing new"
    return ""


def _note(job: "wire.ListedJob") -> str:
    if job.stage == _TUNING and job.progress is not None:
        parts = [tuning_note(job.progress)]
    elif job.seconds_left is not None:
        parts = [f"about {job.seconds_left:.0f} s left"]
    else:
        parts = []
    return ", ".join(filter(None, [*parts, size(job.memory_bytes)]))


def _runs(job: "wire.ListedJob") -> bool:
    return job.status == "running"
