"""Two versions of 100,000 users × 20,000 items compared: ``python -m benchmarks.compare_versions``.

The versions, a plain SVD and a spectral model of generated interactions, are written and
registered first; that is not measured. A fresh process then opens the database, loads both
files and compares their lists, as the route does. The limit beside it, in the same
process: hashing both files, which is the least that a verified load takes.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import harness
from benchmarks.factorise import generate
from reckeeper import artifact, clock, matrix, snapshot, storage
from reckeeper.artifact import Artifact, Metadata
from reckeeper.config import Settings
from reckeeper.interactions import schema
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.policy import PolicyWatch
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry
from reckeeper.serving import Everybody, version_comparison

N_USERS, N_ITEMS, N_DRAWN = 100_000, 20_000, 6_600_000
MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("svd", {"n_components": 10}),
    ("spectral", {"n_components": 64}),
)
SAMPLES = (2000, 20_000)


def _interactions() -> InteractionMatrix:
    pairs = generate(N_DRAWN, N_USERS, N_ITEMS)
    pairs.data = np.ones(pairs.nnz)
    users, items = (
        IdIndex([f"{letter}-{number:07}" for number in range(length)])
        for letter, length in zip("ui", pairs.shape, strict=True)
    )
    return InteractionMatrix(users, items, pairs, pairs.nnz)


def _prepare(settings: Settings) -> int:
    """Write and register both versions; return the number of interactions."""
    database = storage.open_database(settings)
    registry = Registry(database, settings.model_dir)
    interactions = _interactions()
    for version, (recipe, chosen) in enumerate(MODELS, start=1):
        model = recipe_named(recipe).fit(interactions, settings=chosen)
        metadata = Metadata(
            version=version,
            recipe=recipe,
            settings=model.settings,
            n_users=N_USERS,
            n_items=N_ITEMS,
            training_samples=interactions.n_interactions,
            explained_variance=model.explained_variance,
            watermark=interactions.n_interactions,
            trained_at=clock.now(),
            seconds=1.0,
            trigger="manual",
            data={"weights": {"click": 1.0}},
        )
        made = Artifact.of(metadata, interactions, model)
        files = registry.store.write(made, interactions, cell_limit=0)
        registry.versions.register(metadata, files, job_id=None)
    _write_snapshot(settings, database, interactions)
    database.close()
    return interactions.n_interactions


def _write_snapshot(
    settings: Settings, database: storage.Database, interactions: InteractionMatrix
) -> None:
    """Write what a training would have read, the pairs as clicks."""
    pairs = interactions.weights.tocoo()
    users, items = (
        pa.array(ids.ids).take(pa.array(index))
        for ids, index in zip((interactions.users, interactions.items), pairs.coords, strict=True)
    )
    columns = [users, items, pa.repeat("click", pairs.nnz), pa.array(pairs.data)]
    columns.append(pa.array(np.arange(pairs.nnz)))
    batch = pa.RecordBatch.from_arrays(columns, schema=schema())
    recorder = snapshot.Recorder([batch])
    log = matrix.read_log(recorder, type_weights={"click": 1.0})
    origin = snapshot.Origin(_installation_id(database), 0, interactions.n_interactions, 0)
    recorder.write(settings.model_dir, log, origin)


def _installation_id(database: storage.Database) -> str:
    with database.read() as connection:
        return storage.installation.id_of(connection)


def measure(settings: Settings) -> dict[str, Any]:
    """Load and compare versions 1 and 2 in this process."""
    database = storage.open_database(settings)
    registry = Registry(database, settings.model_dir)
    numbers = (1, 2)
    began = time.perf_counter()
    n_bytes = 0
    for number in numbers:
        with (settings.model_dir / artifact.native_name(number)).open("rb") as stream:
            hashlib.file_digest(stream, "sha256")
            n_bytes += stream.tell()
    result: dict[str, Any] = {
        "files_bytes": n_bytes,
        "hash_seconds": round(time.perf_counter() - began, 2),
    }
    began = time.perf_counter()
    first, second = (registry.versions.load(number) for number in numbers)
    loaded = time.perf_counter() - began
    result["load_seconds"] = round(loaded, 2)
    policy = PolicyWatch(database, settings)
    for n_users in SAMPLES:
        began = time.perf_counter()
        mapped = snapshot.opened(settings.model_dir, installation_id=_installation_id(database))
        with database.read() as connection:
            everybody = Everybody(connection, mapped, policy=policy)
            found = version_comparison.compare(first, second, everybody, n_users=n_users)
        seconds = time.perf_counter() - began
        assert found.overlap is not None
        result[f"{n_users} users"] = {
            "compare_seconds": round(seconds, 2),
            "total_seconds": round(loaded + seconds, 2),
            "overlap": round(found.overlap.mean, 4),
            "peak_memory_bytes": harness.memory_bytes(os.getpid()),
        }
    database.close()
    return result


def run() -> dict[str, Any]:
    """Make both versions, and measure in a fresh process."""
    with harness.installation() as settings:
        n_interactions = _prepare(settings)
        child = harness.in_fresh_process(
            "benchmarks.compare_versions",
            "--child",
            str(settings.data_dir),
            str(settings.model_dir),
        )
    return {
        "benchmark": "compare_versions",
        "users": N_USERS,
        "items": N_ITEMS,
        "interactions": n_interactions,
        **child,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        print(json.dumps(run()))
        return
    data, models = map(str, options.child)
    settings = Settings.from_env({"RECKEEPER_DATA_DIR": data, "RECKEEPER_MODEL_DIR": models})
    print(json.dumps(measure(settings)))


if __name__ == "__main__":
    main()
