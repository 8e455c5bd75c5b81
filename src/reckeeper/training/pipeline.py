"""A training run from beginning to end."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reckeeper import clock, matrix, snapshot, storage
from reckeeper import policy as policies
from reckeeper.artifact import Artifact, Metadata
from reckeeper.config import Settings
from reckeeper.errors import (
    Action,
    ArtifactError,
    ConflictError,
    JobInterruptedError,
    MemoryLimitError,
    NotEnoughDataError,
    NotFoundError,
)
from reckeeper.policy import Policy
from reckeeper.recipes import Recipe, recipe_named
from reckeeper.registry import ActiveModel, Registry
from reckeeper.telemetry import get_logger, peak_memory_bytes
from reckeeper.training import fitting, gate, memory
from reckeeper.training.report import TUNING, Report
from reckeeper.training.request import AUTOMATIC, drift_of, no_interactions, no_taste, to_train
from reckeeper.training.tuning import tune
from reckeeper.training.verdict import Verdict, metrics_to_json
from reckeeper.wire import JsonObject, RetrainRequest

_LIBRARIES = ("reckeeper", "numpy", "scipy", "scikit-learn", "safetensors")

_log = get_logger(__name__)


@dataclass(frozen=True)
class Chosen:
    """The interactions that a policy lets into training.

    Attributes
    ----------
    log : matrix.InteractionLog
    n_seen : int
        How many of them the active version could have seen: the first ones.
    seen : matrix.InteractionLog or None
        What the policy would have let in when there was no more than these;
        None where that is the first `n_seen`.
    """

    log: matrix.InteractionLog
    n_seen: int = 0
    seen: matrix.InteractionLog | None = None


def read_chosen(
    connection: storage.Connection,
    policy: Policy,
    *,
    seen_up_to: int = 0,
    on_fraction: Callable[[float], None],
    snapshot_folder: Path | None = None,
) -> Chosen:
    """Read the interactions that a policy lets into training, with the weights that it gives.

    Parameters
    ----------
    connection : storage.Connection
    policy : Policy
    seen_up_to : int
        Number of the last interaction that the active version has seen.
    on_fraction : callable
        Called with the share that is read, in [0, 1].
    snapshot_folder : Path, optional
        Where what is read is written as the snapshot.

    Raises
    ------
    NotEnoughDataError
        There are none, or none of them says that a user likes an item.
    """
    n_interactions = storage.interactions.count(connection)
    if not n_interactions:
        raise no_interactions()
    n_seen = storage.interactions.count_up_to(connection, seen_up_to) if seen_up_to else 0
    data = policy.data()
    batches = storage.interactions.read_batches(connection)
    recorder = None if snapshot_folder is None else snapshot.Recorder(batches)
    whole = matrix.read_log(
        batches if recorder is None else recorder,
        type_weights=data.pop("weights"),
        on_batch=lambda done: on_fraction(done / n_interactions),
    )
    if recorder is not None and snapshot_folder is not None:
        _write_snapshot(recorder, whole, connection, snapshot_folder)
    log, rows = matrix.choose(whole, **data)
    if not len(log):
        raise NotEnoughDataError(
            f"The policy leaves none of the {n_interactions} interactions to train on: see its "
            "left_out_users and window_days.",
            action=Action("see_policy"),
        )
    if not log.has_taste():
        raise no_taste()
    seen = None
    if n_seen and (policy.window_days or policy.max_interactions_per_user):
        seen, _ = matrix.choose(whole.part(np.arange(len(whole)) < n_seen), **data)
    return Chosen(log, int(np.searchsorted(rows, n_seen)), seen)


def _write_snapshot(
    recorder: snapshot.Recorder,
    whole: matrix.InteractionLog,
    connection: storage.Connection,
    folder: Path,
) -> None:
    """Write what was read as the snapshot; without one, histories come from the database."""
    origin = snapshot.Origin(
        installation_id=storage.installation.id_of(connection),
        generation=storage.installation.generation(connection),
        watermark=storage.interactions.last_id(connection),
        made_at=clock.now(),
    )
    try:
        recorder.write(folder, whole, origin)
    except OSError as exc:
        _log.warning("snapshot_not_written", error=str(exc))


def run(
    database: storage.Database,
    settings: Settings,
    *,
    job: storage.Job,
    report: Report,
    should_stop: Callable[[], bool] | None = None,
) -> int | None:
    """Train on all interactions and register an inactive version, with its verdict.

    Recipe and settings are those of the active version, unless the job's
    request says otherwise. What is written is written only while the job
    holds its lease.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    job : storage.Job
        The job that this run belongs to; its ``request`` as
        `checked_request` gives it.
    report : Report
        What it raises ends the run, and nothing is registered.
    should_stop : callable, optional
        Asked while tuning: True lets it end with the best so far.

    Returns
    -------
    int or None
        The new version; None when nobody watches and nothing has changed
        since the last one was trained.

    Raises
    ------
    NotEnoughDataError
        No interactions, none that says what a user likes, one user or one item.
    MemoryLimitError
        It would not fit into memory.
    ArtifactError
        The files could not be written.
    JobInterruptedError
        The job has lost its lease: another one may have run since.
    """
    registry = Registry(database, settings.model_dir)
    report("starting", 0.0)
    with database.read() as connection:
        plan = _planned(connection, settings, job)
        _check_memory("starting", 0.0, plan, _sizes(connection, plan), settings, report)
        chosen = _read(connection, plan, settings, report)
    log, stages = chosen.log, plan.stages
    sizes = len(log), len(log.users), len(log.items)
    _check_memory("reading", stages.reading, plan, sizes, settings, report)
    fingerprint = log.fingerprint()
    unchanged = _unchanged(plan, fingerprint)
    if unchanged is not None:
        report("reading", stages.reading, verdict=unchanged)
        return None

    held_out = gate.hold_out(
        log,
        n_seen=chosen.n_seen,
        active=plan.active,
        policy=plan.policy,
        seen=chosen.seen,
        tunes=plan.request.tune,
    )
    if plan.request.tune:
        plan = _tuned(plan, held_out, report, should_stop)
    verdict = _judged(plan, held_out, log, registry, report)
    del held_out  # it may be as large as what the fit needs

    report("judging", stages.judging, verdict=verdict)
    decided = _decided(plan, log, report)
    report("fitting", stages.deciding)
    interactions = log.matrix()
    latest_at = 0 if log.occurred_at is None else int(log.occurred_at.max())
    del log, chosen
    model = _fitted(plan, decided, interactions, report)

    report("writing", stages.fitting)
    version = registry.versions.reserve(job_id=job.job_id)
    metadata = _metadata(
        plan,
        version,
        interactions,
        model,
        verdict=verdict,
        fingerprint=fingerprint,
        latest_at=latest_at,
    )
    made = Artifact.of(metadata, interactions, model)
    _write(made, interactions, settings, registry, plan, report)
    return version


@dataclass(frozen=True)
class _Stages:
    """The fraction of the run that is done when a stage is."""

    reading: float
    tuning: float
    judging: float
    deciding: float
    fitting: float


_STAGES = _Stages(reading=0.35, tuning=0.35, judging=0.6, deciding=0.65, fitting=0.8)
_TUNED_STAGES = _Stages(reading=0.1, tuning=0.75, judging=0.85, deciding=0.87, fitting=0.93)


@dataclass(frozen=True)
class _Plan:
    """What a run goes by, read before it begins.

    `previous` is the version that was trained last, `accepted` the last that
    was ever active: the data are held against the latter, for of two versions
    with the same fall the second would pass.
    """

    job: storage.Job
    request: RetrainRequest
    policy: Policy
    recipe: str
    settings: Mapping[str, object]
    active: storage.Version | None
    previous: storage.Version | None
    accepted: storage.Version | None
    watermark: int
    last_erasure: int
    is_demo: bool

    @property
    def is_automatic(self) -> bool:
        """Whether nobody watches."""
        return self.job.trigger in AUTOMATIC

    @property
    def stages(self) -> _Stages:
        return _TUNED_STAGES if self.request.tune else _STAGES


def _planned(connection: storage.Connection, settings: Settings, job: storage.Job) -> _Plan:
    request = RetrainRequest.model_validate(job.request)
    active = storage.models.active(connection)
    previous = storage.models.last_trained(connection)
    accepted = storage.models.last_trained(connection, served=True) or previous
    is_demo = storage.imports.demo(connection) is not None
    if previous is not None and previous.is_demo and not is_demo:
        previous = None  # of other data
    if accepted is not None and accepted.is_demo and not is_demo:
        accepted = previous
    recipe, recipe_settings = to_train(request, active)
    return _Plan(
        job=job,
        request=request,
        policy=policies.current(connection, settings).policy,
        recipe=recipe,
        settings=recipe_settings,
        active=active,
        previous=previous,
        accepted=accepted,
        watermark=storage.interactions.last_id(connection),
        last_erasure=storage.erasures.last_that_took(connection),
        is_demo=is_demo,
    )


def _check_memory(
    stage: str,
    done: float,
    plan: _Plan,
    sizes: tuple[int, int, int],
    settings: Settings,
    report: Report,
) -> None:
    n_interactions, n_users, n_items = sizes
    needed = memory.estimate(
        plan.recipe,
        plan.settings,
        n_interactions=n_interactions,
        n_users=n_users,
        n_items=n_items,
        n_pairs=None,
        tune=plan.request.tune,
        cell_limit=settings.prediction_cell_limit,
        active=plan.active,
    )
    report(stage, done, estimated_memory_bytes=int(needed))
    memory.check(needed, settings)


def _read(
    connection: storage.Connection, plan: _Plan, settings: Settings, report: Report
) -> Chosen:
    report("reading", 0.0)
    return read_chosen(
        connection,
        plan.policy,
        seen_up_to=_seen_by(plan.active),
        on_fraction=lambda done: report("reading", plan.stages.reading * done),
        snapshot_folder=settings.model_dir,
    )


def _tuned(
    plan: _Plan,
    held_out: gate.HeldOut,
    report: Report,
    should_stop: Callable[[], bool] | None,
) -> _Plan:
    """Return the plan with settings that tuning has found, without what is held out."""
    begin, end = plan.stages.reading, plan.stages.tuning
    report(TUNING, begin)
    tuned = tune(
        plan.recipe,
        held_out.training_log,
        drift=drift_of(plan.request, plan.policy),
        budget_seconds=plan.request.tune_seconds,
        on_progress=lambda progress: report(
            TUNING, begin + (end - begin) * progress.fraction, progress=progress
        ),
        should_stop=should_stop,
    )
    return dataclasses.replace(plan, settings=tuned.settings)


def _judged(
    plan: _Plan,
    held_out: gate.HeldOut,
    log: matrix.InteractionLog,
    registry: Registry,
    report: Report,
) -> Verdict:
    begin, end = plan.stages.tuning, plan.stages.judging
    report("judging", begin)
    return gate.judge(
        gate.Candidate(plan.recipe, plan.settings, log, is_automatic=plan.is_automatic),
        held_out,
        active=_loaded(registry, plan.active),
        previous=plan.accepted,
        policy=plan.policy,
        report=lambda done: report("judging", begin + (end - begin) * done),
    )


def _decided(plan: _Plan, log: matrix.InteractionLog, report: Report) -> JsonObject:
    begin, end = plan.stages.judging, plan.stages.deciding
    return fitting.decide(
        plan.recipe,
        plan.settings,
        lambda: log,
        on_progress=lambda done: report("deciding", begin + (end - begin) * done),
    )


def _fitted(
    plan: _Plan,
    decided: JsonObject,
    interactions: matrix.InteractionMatrix,
    report: Report,
) -> Recipe:
    begin, end = plan.stages.deciding, plan.stages.fitting
    return recipe_named(plan.recipe).fit_decided(
        interactions,
        settings=plan.settings,
        decided=decided,
        on_progress=lambda done: report("fitting", begin + (end - begin) * done),
    )


def _metadata(
    plan: _Plan,
    version: int,
    interactions: matrix.InteractionMatrix,
    model: Recipe,
    *,
    verdict: Verdict,
    fingerprint: str,
    latest_at: int,
) -> Metadata:
    """Return what the files of a new version say of themselves."""
    job = plan.job
    return Metadata(
        version=version,
        recipe=plan.recipe,
        settings=model.settings,
        decided=model.decided,
        n_users=len(interactions.users),
        n_items=len(interactions.items),
        training_samples=interactions.n_interactions,
        explained_variance=model.explained_variance,
        watermark=plan.watermark,
        trained_at=clock.now(),
        seconds=max(0, clock.now() - job.started_at) / 1e6,
        trigger=job.trigger,
        is_demo=plan.is_demo,
        fingerprint=fingerprint,
        latest_at=latest_at,
        data=plan.policy.data(),
        actor=job.actor or "",
        cause=job.cause,
        metrics=metrics_to_json(verdict.candidate),
        verdict=verdict.to_json(),
        peak_memory_bytes=peak_memory_bytes() or 0,
        libraries=_libraries(),
    )


def _write(
    made: Artifact,
    trained: matrix.InteractionMatrix,
    settings: Settings,
    registry: Registry,
    plan: _Plan,
    report: Report,
) -> None:
    """Write a version's files and register it, or leave nothing of it behind."""
    version = made.metadata.version
    try:
        files = registry.store.write(made, trained, cell_limit=settings.prediction_cell_limit)
        report("registering", 0.95)
        registry.versions.register(
            dataclasses.replace(made.metadata, peak_memory_bytes=peak_memory_bytes() or 0),
            files,
            job_id=plan.job.job_id,
            also=lambda connection: _take_note(connection, plan, version),
        )
    except BaseException:
        registry.versions.discard(version)
        raise


def _take_note(connection: storage.Connection, plan: _Plan, version: int) -> None:
    """Let the job's row name its version, in the transaction that registers it."""
    job_id = plan.job.job_id
    if storage.erasures.last_that_took(connection) != plan.last_erasure:
        raise ConflictError(
            f"Somebody was erased while training job {job_id} ran on their interactions: its "
            f"version {version} is not kept. Retrain.",
            action=Action("retrain"),
        )
    if not storage.jobs.update(connection, job_id, version=version):
        raise JobInterruptedError(
            f"Training job {job_id} has lost its lease, and its version {version} is not kept: "
            "another job may have run since."
        )


def _seen_by(active: storage.Version | None) -> int:
    """Return the number of the last interaction that the active version has seen, 0 if unknown.

    What an imported version has seen may have come here in any order.
    """
    return 0 if active is None or active.job_id is None else int(active.watermark)


def _sizes(connection: storage.Connection, plan: _Plan) -> tuple[int, int, int]:
    """Return the numbers of interactions, users and items, the last two from the last version.

    Counting them again takes as long as reading them, which comes next and
    gives the exact figures.
    """
    previous = plan.previous
    if previous is None:
        return storage.interactions.sizes(connection)
    n_interactions = storage.interactions.count(connection)
    growth = max(1.0, n_interactions / max(1, previous.training_samples))
    return n_interactions, int(previous.n_users * growth), int(previous.n_items * growth)


def _unchanged(plan: _Plan, fingerprint: str) -> Verdict | None:
    """Return a verdict that nothing has changed since the last version, or None if it has.

    Only a retrain that nobody watches is left out so. A last version whose job
    was cut off before it was decided on is as good as none.
    """
    previous, policy = plan.previous, plan.policy
    if not plan.is_automatic or not policy.skip_unchanged or plan.request.tune:
        return None
    if previous is None or "outcome" not in (previous.verdict or {}):
        return None
    is_same = (previous.fingerprint, previous.recipe, previous.data) == (
        fingerprint,
        plan.recipe,
        policy.data(),
    )
    complete = recipe_named(plan.recipe).settings_type.parse(plan.settings, recipe=plan.recipe)
    if not is_same or previous.settings != dataclasses.asdict(complete):
        return None
    return Verdict(
        decision="unchanged",
        standing="not_compared",
        sentence=f"Nothing has changed since version {previous.version} was trained: the "
        f"same {previous.training_samples:,} interactions, recipe and settings.",
        decided_at=clock.now(),
        metric=policy.metric,
        margin=policy.margin,
        k=policy.k,
        active_version=None if plan.active is None else plan.active.version,
    )


def _loaded(registry: Registry, active: storage.Version | None) -> ActiveModel | None:
    """Load the active version to be judged; None if it cannot be loaded."""
    if active is None:
        return None
    try:
        return registry.versions.load(active.version)
    except (ArtifactError, MemoryLimitError, NotFoundError) as exc:
        _log.warning("active_model_not_judged", version=active.version, error=exc.in_full)
        return None


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _LIBRARIES
    }
