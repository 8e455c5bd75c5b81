"""A model of three users and three items, for tests that need versions and no training."""

import dataclasses

import numpy as np
from scipy import sparse

from reckeeper import clock, storage
from reckeeper.artifact import Artifact, Metadata
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import recipe_named

DENSE = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
TRAINED = InteractionMatrix(
    IdIndex(["ann", "ben", "cas"]), IdIndex(["x", "y", "z"]), sparse.csr_array(DENSE), 6
)
"""What a small model is fitted to."""


def small_model(*, recipe="popularity", **fields):
    """Return a fitted model; `fields` are those of its metadata that matter."""
    model = recipe_named(recipe).fit(TRAINED, settings={})
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
    return Artifact.of(dataclasses.replace(metadata, **fields), TRAINED, model)


def stored_version(version=1, **fields):
    """Return the record of a version that has no files."""
    whole = {
        "is_active": False,
        "recipe": "svd",
        "settings": {"n_components": 10},
        "n_users": 6,
        "n_items": 12,
        "training_samples": 100,
        "explained_variance": 0.5,
        "watermark": 7,
        "trained_at": 1,
        "seconds": 0.5,
        "trigger": "manual",
        "job_id": None,
        "is_demo": False,
        "native_bytes": 1,
        "native_sha256": "a",
        "pickle_bytes": 1,
        "pickle_sha256": "b",
        "fingerprint": "",
        "latest_at": 0,
        "data": {},
        "actor": "",
        "cause": None,
        "metrics": None,
        "verdict": None,
        "peak_memory_bytes": 0,
        "libraries": {},
        "decided": {},
        "origin": None,
    }
    return storage.Version(version=version, **(whole | fields))


def add_version(registry, settings, *, also=None, **fields):
    """Write and register a small model as a new version; return its number."""
    version = registry.versions.reserve(job_id=None)
    made = small_model(version=version, **fields)
    files = registry.store.write(made, TRAINED, cell_limit=100)
    registry.versions.register(made.metadata, files, job_id=None, also=also)
    return version
