"""A training run from beginning to end."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reckeeper import artifact, clock, matrix, storage
from reckeeper import policy as policies
from reckeeper.artifact import Artifact, Metadata
from reckeeper.config import Settings
from reckeeper.errors import (
    ArtifactError,
    DataError,
    JobInterruptedError,
    NotEnoughDataError,
    NotFoundError,
)
from reckeeper.policy import Policy
from reckeeper.recipes import recipe_named
from reckeeper.registry import ActiveModel, Registry
from reckeeper.telemetry import get_logger, peak_memory_bytes
from reckeeper.training import gate, memory
from reckeeper.training.tune import TuningProgress, tune

FIRST_RECIPE: tuple[str, dict[str, Any]] = ("svd", {"n_components": 10})
"""Recipe and settings while no version is active."""

TUNED_RECIPE = "spectral"
"""What is tuned where nobody names a recipe."""

TUNING = "tuning"
"""The stage in which a job can be asked to finish."""

AUTOMATIC = {"schedule", "rule"}
"""Triggers of retrains that nobody watches."""

_LISTED = "GET /recipes lists all recipes and their settings."
_LIBRARIES = ("reckeeper", "numpy", "scipy", "scikit-learn", "safetensors")

_log = get_logger(__name__)


class Report(Protocol):
    """Where a run tells how far it is; what it raises ends the run."""

    def __call__(
        self,
        stage: str,
        fraction: float,
        *,
        progress: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
        estimated_memory_bytes: int | None = None,
        verdict: Mapping[str, Any] | None = None,
    ) -> None:
        """Take note.

        Parameters
        ----------
        stage : str
        fraction : float
            Of the whole run, in [0, 1].
        progress : mapping, optional
            What tuning has found so far, in JSON values; see `tuning_progress`.
        result : mapping, optional
            What an evaluation has measured so far, in JSON values.
        estimated_memory_bytes : int, optional
            What the run will need.
        verdict : mapping, optional
            Of the gate; see `gate.judge`.
        """
        ...


class RetrainRequest(BaseModel):
    """What a new version is to be trained with; what is left out is as in the active version."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [
                {"recipe": "svd", "settings": {"n_components": 20}},
                {"tune": True, "tune_seconds": 60},
            ]
        },
    )

    recipe: str | None = Field(
        None,
        description="GET /recipes lists them. Default: the active version's; spectral with tune.",
    )
    settings: dict[str, Any] | None = Field(
        None,
        description="Of the recipe; what is left out has its default. Without any: those of the "
        "active version where the recipe is the same, else the defaults.",
    )
    tune: bool = Field(
        False, description="Find the settings by how well they do on what is held out."
    )
    tune_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = Field(
        None, description="How long to tune. Default: just under five times what one fit takes."
    )


def checked_request(
    request: Mapping[str, Any], *, active: storage.Version | None
) -> dict[str, Any]:
    """Return a valid request for a retrain in its shortest form.

    Settings and tuning are for a recipe, and the form names it: which
    version is active may change until the run begins.

    Parameters
    ----------
    request : mapping
        Fields of `RetrainRequest`.
    active : storage.Version or None
        The active version.

    Raises
    ------
    DataError
        A field is unknown, of the wrong type or out of range, there is no
        such recipe or setting, or fields exclude each other; the message
        begins with the field, and ``details`` has it.
    """
    try:
        parsed = RetrainRequest.model_validate(request)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part)[:64] for part in first["loc"]) or "request"
        known = ", ".join(RetrainRequest.model_fields)
        raise _refused(
            field, f"{first['msg']}. A retrain takes {known}; /docs shows examples."
        ) from exc
    shortest = parsed.model_dump(exclude_defaults=True)
    if not shortest:
        return shortest
    name = parsed.recipe
    if name is None:
        name = TUNED_RECIPE if parsed.tune else _basis(active)[0]
    try:
        recipe = recipe_named(name)
    except DataError as exc:
        raise _refused("recipe", f"{exc.message} {_LISTED}") from exc
    if parsed.tune and parsed.settings is not None:
        raise _refused("settings", "Tuning is to find them. Leave out either settings or tune.")
    if parsed.tune_seconds is not None and not parsed.tune:
        raise _refused("tune_seconds", 'This is for tuning alone. Send "tune": true with it.')
    if parsed.settings is not None:
        try:
            recipe.settings_type.parse(parsed.settings, recipe=name)
        except DataError as exc:
            raise _refused("settings", f"{exc.message} {_LISTED}") from exc
    if parsed.tune or parsed.settings is not None:
        shortest["recipe"] = name
    return shortest


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

    Raises
    ------
    NotEnoughDataError
        There are none.
    """
    n_interactions = storage.interactions.count(connection)
    if not n_interactions:
        raise NotEnoughDataError(
            "There are no interactions to train on. Send some (POST /user_interactions) or "
            "import a file (`reckeeper import FILE`), then retrain."
        )
    n_seen = storage.interactions.count_up_to(connection, seen_up_to) if seen_up_to else 0
    data = policy.data()
    whole = matrix.read_log(
        storage.interactions.read_batches(connection),
        type_weights=data.pop("weights"),
        on_batch=lambda done: on_fraction(done / n_interactions),
    )
    log, rows = matrix.choose(whole, **data)
    if not len(log):
        raise NotEnoughDataError(
            f"The policy leaves none of the {n_interactions} interactions to train on: see its "
            "left_out_users and window_days (GET /policy)."
        )
    if not (log.weight > 0).any():
        raise NotEnoughDataError(
            f"By the policy none of the {len(log)} interactions weighs anything: see its weights "
            "(GET /policy)."
        )
    seen = None
    if n_seen and (policy.window_days or policy.max_interactions_per_user):
        seen, _ = matrix.choose(whole.part(np.arange(len(whole)) < n_seen), **data)
    return Chosen(log, int(np.searchsorted(rows, n_seen)), seen)


def tuning_progress(progress: TuningProgress) -> dict[str, Any]:
    """Return what tuning has found so far as a job's row keeps it.

    ``seconds_left`` counts to the end of the job: after the tuning comes a
    fit, for which a fifth of the tuning's time is reckoned.
    """
    best, left = progress.best, progress.seconds_left
    return {
        "n_tried": progress.n_tried,
        "ndcg": None if best is None else best.ndcg,
        "settings": None if best is None else best.settings,
        "seconds_left": None if left is None else round(left + (progress.seconds + left) / 5, 1),
    }


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
        No interactions, one user or one item.
    MemoryLimitError
        It would not fit into memory.
    ArtifactError
        The files could not be written.
    JobInterruptedError
        The job has lost its lease: another one may have run since.
    """
    registry = Registry(database, settings.model_dir)
    request = RetrainRequest.model_validate(job.request)
    is_automatic = job.trigger in AUTOMATIC
    stages = _TUNED_STAGES if request.tune else _STAGES

    report("starting", 0.0)
    with database.read() as connection:
        policy = policies.current(connection, settings).policy
        active = storage.models.active(connection)
        previous = storage.models.last_trained(connection)
        # Not the last one alone: of two with the same fall the second would pass.
        accepted = storage.models.last_trained(connection, served=True) or previous
        watermark = storage.interactions.last_id(connection)
        is_demo = storage.imports.demo(connection) is not None
        if previous is not None and previous.is_demo and not is_demo:
            previous = None  # of other data
        if accepted is not None and accepted.is_demo and not is_demo:
            accepted = previous
        name, recipe_settings = _chosen(request, active)

        def check_memory(
            stage: str, done: float, n_interactions: int, n_users: int, n_items: int
        ) -> None:
            needed = memory.estimate(
                name,
                recipe_settings,
                n_interactions=n_interactions,
                n_users=n_users,
                n_items=n_items,
                n_pairs=None,
                tune=request.tune,
                cell_limit=settings.prediction_cell_limit,
                active=active,
            )
            report(stage, done, estimated_memory_bytes=int(needed))
            memory.check(needed, settings)

        check_memory("starting", 0.0, *_sizes(connection, previous))
        report("reading", 0.0)
        chosen = read_chosen(
            connection,
            policy,
            seen_up_to=_seen_by(active),
            on_fraction=lambda done: report("reading", stages.reading * done),
        )
    log = chosen.log
    check_memory("reading", stages.reading, len(log), len(log.users), len(log.items))
    fingerprint = log.fingerprint()
    if is_automatic and policy.skip_unchanged and not request.tune:
        same = _unchanged(previous, fingerprint, name, recipe_settings, policy)
        if same is not None:
            report("reading", stages.reading, verdict=same)
            return None

    trial = gate.prepare(
        log,
        n_seen=chosen.n_seen,
        active=active,
        policy=policy,
        seen=chosen.seen,
    )
    if request.tune:
        report(TUNING, stages.reading)
        tuned = tune(
            name,
            trial.training_log,
            budget_seconds=request.tune_seconds,
            on_progress=lambda progress: report(
                TUNING,
                stages.reading + (stages.tuning - stages.reading) * progress.fraction,
                progress=tuning_progress(progress),
            ),
            should_stop=should_stop,
        )
        recipe_settings = tuned.settings

    report("judging", stages.tuning)
    verdict = gate.judge(
        trial,
        recipe=name,
        settings=recipe_settings,
        active=_loaded(registry, active),
        previous=accepted,
        log=log,
        policy=policy,
        is_automatic=is_automatic,
        data_now=policy.data(),
        report=lambda done: report(
            "judging", stages.tuning + (stages.judging - stages.tuning) * done
        ),
    )
    del trial  # it may be as large as what the fit needs

    report("fitting", stages.judging, verdict=verdict)
    interactions = log.matrix()
    latest_at = 0 if log.occurred_at is None else int(log.occurred_at.max())
    del log, chosen
    model = recipe_named(name).fit(
        interactions,
        settings=recipe_settings,
        on_progress=lambda done: report(
            "fitting", stages.judging + (stages.fitting - stages.judging) * done
        ),
    )

    report("writing", stages.fitting)
    version = registry.reserve(job_id=job.job_id)
    metadata = Metadata(
        version=version,
        recipe=name,
        settings=model.settings,
        n_users=len(interactions.users),
        n_items=len(interactions.items),
        training_samples=interactions.n_interactions,
        explained_variance=model.explained_variance,
        watermark=watermark,
        trained_at=clock.now(),
        seconds=(clock.now() - job.started_at) / 1e6,
        trigger=job.trigger,
        is_demo=is_demo,
        fingerprint=fingerprint,
        latest_at=latest_at,
        data=policy.data(),
        actor=job.actor or "",
        cause=job.cause,
        metrics=verdict["candidate"],
        verdict=verdict,
        peak_memory_bytes=peak_memory_bytes() or 0,
        libraries=_libraries(),
    )
    try:
        files = artifact.write(
            Artifact(metadata, interactions, model),
            settings.model_dir,
            cell_limit=settings.prediction_cell_limit,
        )
        report("registering", 0.95)
        metadata = dataclasses.replace(metadata, peak_memory_bytes=peak_memory_bytes() or 0)
        registry.register(
            metadata,
            files,
            job_id=job.job_id,
            also=lambda connection: _take_note(connection, job.job_id, version),
        )
    except BaseException:
        registry.discard(version)
        raise
    return version


def _take_note(connection: storage.Connection, job_id: int, version: int) -> None:
    """Let the job's row name its version, in the transaction that registers it."""
    if not storage.jobs.update(connection, job_id, version=version):
        raise JobInterruptedError(
            f"Training job {job_id} has lost its lease, and its version {version} is not kept: "
            "another job may have run since."
        )


@dataclass(frozen=True)
class _Stages:
    """The fraction of the run that is done when a stage is."""

    reading: float
    tuning: float
    judging: float
    fitting: float


_STAGES = _Stages(reading=0.35, tuning=0.35, judging=0.6, fitting=0.8)
_TUNED_STAGES = _Stages(reading=0.1, tuning=0.75, judging=0.85, fitting=0.93)


def _seen_by(active: storage.Version | None) -> int:
    """Return the number of the last interaction that the active version has seen, 0 if unknown.

    What a version of elsewhere has seen may have come here in any order.
    """
    return 0 if active is None or active.job_id is None else active.watermark


def _sizes(
    connection: storage.Connection, previous: storage.Version | None
) -> tuple[int, int, int]:
    """Return the numbers of interactions, users and items, the last two from the last version.

    Counting them anew takes as long as reading them, which comes next and
    gives the exact figures.
    """
    if previous is None:
        return storage.interactions.sizes(connection)
    n_interactions = storage.interactions.count(connection)
    growth = max(1.0, n_interactions / max(1, previous.training_samples))
    return n_interactions, int(previous.n_users * growth), int(previous.n_items * growth)


def _unchanged(
    previous: storage.Version | None,
    fingerprint: str,
    recipe: str,
    settings: Mapping[str, Any],
    policy: Policy,
) -> dict[str, Any] | None:
    """Return a verdict that nothing has changed since the last version, or None if it has.

    One whose job was cut off before it was decided on is as good as none.
    """
    if previous is None or "outcome" not in (previous.verdict or {}):
        return None
    is_same = (previous.fingerprint, previous.recipe, previous.data) == (
        fingerprint,
        recipe,
        policy.data(),
    )
    complete = recipe_named(recipe).settings_type.parse(settings, recipe=recipe)
    if not is_same or previous.settings != dataclasses.asdict(complete):
        return None
    return {
        "decision": "unchanged",
        "sentence": f"Nothing has changed since version {previous.version} was trained: the "
        f"same {previous.training_samples:,} interactions, recipe and settings.",
    }


def _loaded(registry: Registry, active: storage.Version | None) -> ActiveModel | None:
    """Load the active version to be judged; one that cannot be loaded serves nobody."""
    if active is None:
        return None
    try:
        return registry.load(active.version)
    except (ArtifactError, NotFoundError) as exc:
        _log.warning("active_model_not_judged", version=active.version, error=exc.message)
        return None


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in _LIBRARIES
    }


def _basis(active: storage.Version | None) -> tuple[str, dict[str, Any]]:
    return (active.recipe, active.settings) if active else FIRST_RECIPE


def _chosen(request: RetrainRequest, active: storage.Version | None) -> tuple[str, dict[str, Any]]:
    """Return the recipe and the settings to train with."""
    name, settings = _basis(active)
    if request.recipe not in {None, name}:
        assert request.recipe is not None
        name, settings = request.recipe, {}
    return name, settings if request.settings is None else request.settings


def _refused(field: str, message: str) -> DataError:
    return DataError(f"{field}: {message}", details={"field": field})
