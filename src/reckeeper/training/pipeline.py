"""A training run from beginning to end."""

from collections.abc import Callable, Mapping
from typing import Any

from reckeeper import artifact, matrix, storage
from reckeeper.artifact import Artifact, Metadata
from reckeeper.config import Settings
from reckeeper.errors import NotEnoughDataError
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry

FIRST_RECIPE: tuple[str, dict[str, Any]] = ("svd", {"n_components": 10})
"""Recipe and settings while no version is active."""


def run(
    database: storage.Database,
    settings: Settings,
    *,
    job: Mapping[str, Any],
    report: Callable[[str, float], None],
) -> int:
    """Train on all interactions and register an inactive version.

    Recipe and settings are those of the active version.

    Parameters
    ----------
    database : storage.Database
    settings : Settings
    job : mapping
        Row of the job that this run belongs to.
    report : callable
        Called with the stage and the fraction done, in [0, 1]. What it raises
        ends the run, and nothing is registered.

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

    report("reading", 0.0)
    with database.read() as connection:
        active = storage.models.active(connection)
        watermark = storage.interactions.last_id(connection)
        is_demo = storage.imports.demo(connection) is not None
        n_interactions = storage.interactions.count(connection)
        built = matrix.build(
            storage.interactions.read_batches(connection),
            type_weights=settings.interaction_weights,
            on_batch=lambda done: report("reading", 0.6 * done / n_interactions),
        )
    if not built.n_interactions:
        raise NotEnoughDataError(
            "There are no interactions to train on. Send some (POST /user_interactions) or "
            "import a file (`reckeeper import FILE`), then retrain."
        )

    report("fitting", 0.6)
    name, recipe_settings = (active["recipe"], active["settings"]) if active else FIRST_RECIPE
    model = recipe_named(name).fit(built.weights, settings=recipe_settings)

    report("writing", 0.8)
    metadata = Metadata(
        version=registry.next_version(),
        recipe=name,
        settings=model.settings,
        n_users=len(built.users),
        n_items=len(built.items),
        training_samples=built.n_interactions,
        explained_variance=model.explained_variance,
        watermark=watermark,
        trained_at=storage.now(),
        seconds=(storage.now() - job["started_at"]) / 1e6,
        trigger=job["trigger"],
        is_demo=is_demo,
    )
    files = artifact.write(
        Artifact(metadata, built, model),
        settings.model_dir,
        cell_limit=settings.prediction_cell_limit,
    )

    report("registering", 0.95)
    registry.register(metadata, files, job_id=job["job_id"])
    return metadata.version
