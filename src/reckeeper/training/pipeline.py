"""A training run from beginning to end."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reckeeper import artifact, matrix, storage
from reckeeper.artifact import Artifact, Metadata
from reckeeper.config import Settings
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry
from reckeeper.training.tune import TuningProgress, tune

FIRST_RECIPE: tuple[str, dict[str, Any]] = ("svd", {"n_components": 10})
"""Recipe and settings while no version is active."""

TUNED_RECIPE = "spectral"
"""What is tuned where nobody names a recipe."""

TUNING = "tuning"
"""The stage in which a job can be asked to finish."""

_LISTED = "GET /recipes lists all recipes and their settings."


class Report(Protocol):
    """Where a run tells how far it is; what it raises ends the run."""

    def __call__(
        self,
        stage: str,
        fraction: float,
        *,
        progress: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
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
    request: Mapping[str, Any], *, active: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a valid request for a retrain in its shortest form.

    Settings and tuning are for a recipe, and the form names it: which
    version is active may change until the run begins.

    Parameters
    ----------
    request : mapping
        Fields of `RetrainRequest`.
    active : mapping or None
        Row of the active version.

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


def read_log(
    connection: storage.Connection,
    settings: Settings,
    *,
    on_fraction: Callable[[float], None],
) -> matrix.InteractionLog:
    """Read all interactions.

    Parameters
    ----------
    connection : storage.Connection
    settings : Settings
        Of them the weights of the interaction types.
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
    return matrix.read_log(
        storage.interactions.read_batches(connection),
        type_weights=settings.interaction_weights,
        on_batch=lambda done: on_fraction(done / n_interactions),
    )


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
    job: Mapping[str, Any],
    report: Report,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Train on all interactions and register an inactive version.

    Recipe and settings are those of the active version, unless the job's
    request says otherwise.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    job : mapping
        Row of the job that this run belongs to; its ``request`` as
        `checked_request` gives it.
    report : Report
        What it raises ends the run, and nothing is registered.
    should_stop : callable, optional
        Asked while tuning: True lets it end with the best so far.

    Returns
    -------
    int
        The new version.

    Raises
    ------
    NotEnoughDataError
        No interactions, one user or one item.
    ArtifactError
        The files could not be written.
    """
    registry = Registry(database, settings.model_dir)
    request = RetrainRequest.model_validate(job["request"])
    read_end, fit_begin, fit_end = (0.1, 0.85, 0.93) if request.tune else (0.6, 0.6, 0.8)

    report("reading", 0.0)
    with database.read() as connection:
        active = storage.models.active(connection)
        watermark = storage.interactions.last_id(connection)
        is_demo = storage.imports.demo(connection) is not None
        log = read_log(
            connection,
            settings,
            on_fraction=lambda done: report("reading", read_end * done),
        )

    name, recipe_settings = _chosen(request, active)
    if request.tune:
        report(TUNING, read_end)
        tuned = tune(
            name,
            log,
            budget_seconds=request.tune_seconds,
            on_progress=lambda progress: report(
                TUNING,
                read_end + (fit_begin - read_end) * progress.fraction,
                progress=tuning_progress(progress),
            ),
            should_stop=should_stop,
        )
        recipe_settings = tuned.settings

    report("fitting", fit_begin)
    interactions = log.matrix()
    del log  # it may be as large as what the fit needs
    model = recipe_named(name).fit(
        interactions,
        settings=recipe_settings,
        on_progress=lambda done: report("fitting", fit_begin + (fit_end - fit_begin) * done),
    )

    report("writing", fit_end)
    metadata = Metadata(
        version=registry.next_version(),
        recipe=name,
        settings=model.settings,
        n_users=len(interactions.users),
        n_items=len(interactions.items),
        training_samples=interactions.n_interactions,
        explained_variance=model.explained_variance,
        watermark=watermark,
        trained_at=storage.now(),
        seconds=(storage.now() - job["started_at"]) / 1e6,
        trigger=job["trigger"],
        is_demo=is_demo,
    )
    files = artifact.write(
        Artifact(metadata, interactions, model),
        settings.model_dir,
        cell_limit=settings.prediction_cell_limit,
    )

    report("registering", 0.95)
    registry.register(metadata, files, job_id=job["job_id"])
    return metadata.version


def _basis(active: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    return (active["recipe"], active["settings"]) if active else FIRST_RECIPE


def _chosen(
    request: RetrainRequest, active: Mapping[str, Any] | None
) -> tuple[str, dict[str, Any]]:
    """Return the recipe and the settings to train with."""
    name, settings = _basis(active)
    if request.recipe not in {None, name}:
        assert request.recipe is not None
        name, settings = request.recipe, {}
    return name, settings if request.settings is None else request.settings


def _refused(field: str, message: str) -> DataError:
    return DataError(f"{field}: {message}", details={"field": field})
