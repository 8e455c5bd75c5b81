"""`reckeeper status`: how an installation is, on one screen."""

import contextlib
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from reckeeper import clock
from reckeeper.cli import installation
from reckeeper.cli.terminal import AsJson, print_facts, print_json, say, size, when
from reckeeper.config import Settings
from reckeeper.errors import ReckeeperError

if TYPE_CHECKING:  # help does without them
    from reckeeper import wire

_PROBE_SECONDS = 3.0
_SEEN_ENTRIES = 1000
_LAG = re.compile(r"^reckeeper_kafka_lag_messages\{.*\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Process:
    """A process as it answers: ``ok``, ``degraded``, ``unavailable``, or ``not running``."""

    name: str
    url: str
    status: str
    problems: list[str]


@dataclass(frozen=True)
class Job:
    """A job, in short."""

    job_id: int
    kind: str
    status: str
    started_at: str

    def __str__(self) -> str:
        """Return it as a line shows it."""
        return f"{self.job_id} ({self.kind}): {self.status}, started {when(self.started_at)} UTC"


@dataclass(frozen=True)
class Disk:
    """The disk of a folder, in bytes."""

    path: str
    free: int
    total: int

    def __str__(self) -> str:
        """Return it as a line shows it."""
        return f"{size(self.free)} of {size(self.total)} free  {self.path}"


@dataclass(frozen=True)
class Facts:
    """What server or database say.

    Attributes
    ----------
    told_by : str
        ``server`` or ``database``.
    version : int or None
        The active one.
    recipe, trained_at : str or None
    quality : dict
        Figures of the active version, as it was judged.
    running_job, last_job : Job or None
    schedule, backup_schedule : str or None
    last_backup_at : str or None
    """

    told_by: str
    version: int | None
    recipe: str | None
    trained_at: str | None
    quality: dict[str, float]
    running_job: Job | None
    last_job: Job | None
    schedule: str | None
    backup_schedule: str | None
    last_backup_at: str | None


def register(app: typer.Typer) -> None:
    """Add the command `status`."""
    app.command("status")(status_command)


def status_command(as_json: AsJson = False) -> None:
    """Show processes, model, quality, lag, disk and the last backup; exit 1 unless all is well."""
    settings = installation.settings()
    processes = _processes(settings)
    is_up = processes[0].status != "not running"
    try:
        facts: Facts | None = _of_server() if is_up else _of_database(settings)
        error = None
    except ReckeeperError as exc:
        facts, error = None, exc.message
    lag = _lag(processes[1])
    disks = _disks(settings)
    known = installation.known(settings)
    # Without `up` somebody may run server and worker alone.
    needed = processes if known is not None and known.page_url else processes[:2]
    is_well = error is None and all(process.status == "ok" for process in needed)
    if as_json:
        told = facts and {**asdict(facts), "age_seconds": _age(facts.trained_at)}
        print_json(
            {
                "ok": is_well,
                "processes": [asdict(process) for process in processes],
                "error": error,
                "facts": told,
                "lag": lag,
                "disks": {name: asdict(disk) for name, disk in disks.items()},
            }
        )
    else:
        _show(processes, facts, error, lag, disks)
    if not is_well:
        raise typer.Exit(1)


def _processes(settings: Settings) -> list[Process]:
    known = installation.known(settings)
    urls = {
        "server": installation.server_url(settings),
        "worker": (known and known.worker_url) or settings.worker_url,
        "page": (known and known.page_url) or f"http://127.0.0.1:{settings.ui_port}",
    }
    return [_asked(name, url) for name, url in urls.items()]


def _asked(name: str, url: str) -> Process:
    path = "/_stcore/health" if name == "page" else "/health/ready"
    try:
        status, text = _get(url + path)
    except OSError:
        return Process(name, url, "not running", [])
    if name == "page":
        return Process(name, url, "ok" if status == 200 else "unavailable", [])
    from reckeeper import wire

    try:
        told = wire.Readiness.model_validate_json(text)
        return Process(name, url, told.status, told.problems)
    except ValueError:
        return Process(name, url, "unavailable", [f"answers with status {status}"])


def _get(url: str) -> tuple[int, str]:
    # No proxy: what stands on this machine or beside it is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_PROBE_SECONDS) as answer:
            return int(answer.status), answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode("utf-8", "replace")


def _of_server() -> Facts:
    from reckeeper.cli.terminal import client

    with client() as server:
        models, jobs, policy = server.models(), server.jobs(limit=20), server.policy()
        entries = server.audit(limit=_SEEN_ENTRIES)
    backups = (entry.at for entry in entries if entry.action == "backup")
    at = next(backups, None)
    return _facts(
        "server",
        models,
        [Job(job.job_id, job.kind, job.status, str(job.started_at)) for job in jobs.jobs],
        policy.policy,
        None if at is None else str(at),
    )


def _of_database(settings: Settings) -> Facts:
    from reckeeper import backup, policy, registry, storage, wire
    from reckeeper.cli.database import read_only

    with contextlib.closing(read_only()) as database:
        listed = registry.Registry(database, settings.model_dir).versions.all()
        models = wire.ModelList.model_validate({"models": listed}).models
        with database.read() as connection:
            stored = policy.current(connection, settings)
            jobs = storage.jobs.page(connection, limit=20, before=None)
        at = backup.last_made(database)
    return _facts(
        "database",
        models,
        [Job(job.job_id, job.kind, job.status, clock.rfc3339(job.started_at)) for job in jobs],
        stored.policy,
        None if at is None else clock.rfc3339(at),
    )


def _facts(
    told_by: str,
    models: "list[wire.Model]",
    jobs: list[Job],
    policy: "wire.Policy",
    last_backup_at: str | None,
) -> Facts:
    active = next((model for model in models if model.status == "active"), None)
    return Facts(
        told_by=told_by,
        version=None if active is None else active.version,
        recipe=None if active is None else active.recipe,
        trained_at=None if active is None else str(active.trained_on),
        quality={} if active is None else _quality(active),
        running_job=next((job for job in jobs if job.status == "running"), None),
        last_job=next((job for job in jobs if job.status != "running"), None),
        schedule=policy.schedule,
        backup_schedule=policy.backup_schedule,
        last_backup_at=last_backup_at,
    )


def _quality(model: "wire.Model") -> dict[str, float]:
    means = {name: metric.mean for name, metric in (model.metrics or {}).items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _lag(worker: Process) -> float | None:
    """Return how many messages of Kafka are still to be stored; None where nobody says."""
    if worker.status == "not running":
        return None
    with contextlib.suppress(OSError, ValueError):
        found = _LAG.findall(_get(worker.url + "/metrics")[1])
        return sum(map(float, found)) if found else None
    return None


def _disks(settings: Settings) -> dict[str, Disk]:
    disks = {}
    for name, folder in (("data", settings.data_dir), ("models", settings.model_dir)):
        if folder.is_dir():
            usage = shutil.disk_usage(folder)
            disks[name] = Disk(str(folder), usage.free, usage.total)
    return disks


def _age(at: str | None) -> float | None:
    """Return how many seconds ago a time of the API was."""
    if at is None:
        return None
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(at)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def _ago(at: str | None) -> str:
    """Return a time as people take it: ``3 days ago (2025-12-04 23:42:15 UTC)``."""
    seconds = _age(at)
    if seconds is None:
        return "never"
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago ({when(at)} UTC)"
    return f"{seconds:.0f} seconds ago ({when(at)} UTC)"


def _show(
    processes: list[Process],
    facts: Facts | None,
    error: str | None,
    lag: float | None,
    disks: dict[str, Disk],
) -> None:
    shown: list[tuple[str, object]] = [
        (process.name, f"{process.status}  {process.url}") for process in processes
    ]
    if facts is not None:
        shown += [
            ("active version", "none" if facts.version is None else _of_version(facts)),
            ("trained", None if facts.version is None else _ago(facts.trained_at)),
            ("quality", ", ".join(f"{name} {mean:.4f}" for name, mean in facts.quality.items())),
            ("running job", facts.running_job),
            ("last job", facts.last_job),
            ("retrains", facts.schedule or "not scheduled"),
            ("last backup", _ago(facts.last_backup_at)),
            ("backups", facts.backup_schedule or "not scheduled"),
        ]
    if lag is not None:
        shown.append(("lag behind Kafka", f"{lag:,.0f} messages"))
    shown += [(f"disk of {name}", disk) for name, disk in disks.items()]
    print_facts(shown)
    for process in processes:
        for problem in process.problems:
            say(f"{process.name}: {problem}")
    if error is not None:
        say(error)


def _of_version(facts: Facts) -> str:
    return f"{facts.version} ({facts.recipe})"
