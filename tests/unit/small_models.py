"""A model of three users and three items, for tests that need versions and no training."""

import dataclasses

import numpy as np
from scipy import sparse

from reckeeper import artifact, clock
from reckeeper.artifact import Artifact, Metadata
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import recipe_named

DENSE = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [1.0, 1.0, 0.0]])


def small_model(*, recipe="popularity", **fields):
    """Return a fitted model; `fields` are those of its metadata that matter."""
    users, items = IdIndex(["ann", "ben", "cas"]), IdIndex(["x", "y", "z"])
    matrix = InteractionMatrix(users, items, sparse.csr_array(DENSE), 6)
    model = recipe_named(recipe).fit(matrix, settings={})
    metadata = Metadata(
        version=1,
        recipe=recipe,
        settings=model.settings,
        n_users=3,
        n_items=3,
        training_samples=6,
        explained_variance=model.explained_variance,
        watermark=0,
        trained_at=clock.now(),
        seconds=0.1,
        trigger="manual",
    )
    return Artifact(dataclasses.replace(metadata, **fields), matrix, model)


def add_version(registry, settings, *, also=None, **fields):
    """Write and register a small model as a new version; return its number."""
    version = registry.reserve(job_id=None)
    made = small_model(version=version, **fields)
    files = artifact.write(made, settings.model_dir, cell_limit=100)
    registry.register(made.metadata, files, job_id=None, also=also)
    return version
