"""Loading and holding a large model: ``python -m benchmarks.load_model [--items N]``.

Two versions of 1 GB: 200,000 items with 620 entries each, drawn at random. *Load*: from the
file to a model that answers, in a fresh process, into memory (as a server of one process has it)
and mapped (as one of several has it); the fastest of several, each with its file in the system's
cache (*warm*) and then without (*cold*). *Swap*: the most memory that a server of one process has
held when another version has been activated, against what it held with one. *Processes*: what two
and four processes of a server hold together, as the kernel shares it out (PSS), and so what a
further one adds.
"""

import argparse
import contextlib
import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy import sparse

from benchmarks import harness
from reckeeper import storage, telemetry
from reckeeper.artifact import Artifact, Metadata, native_name, write_native
from reckeeper.catalogue import Catalogue
from reckeeper.config import Settings
from reckeeper.matrix import IdIndex
from reckeeper.policy import PolicyWatch
from reckeeper.recipes import recipe_named
from reckeeper.registry import Registry
from reckeeper.serving import Newer, PopularItems, Serving

_ENTRIES = 620
_N_LISTS = 200


def _write(path: Path, version: int, n_items: int) -> None:
    """Write a model of `spectral` whose W has so many entries in each row."""
    random = np.random.default_rng(version)
    step = n_items // _ENTRIES
    columns = np.arange(_ENTRIES) * step + random.integers(0, step, (n_items, _ENTRIES))
    weights = sparse.csr_array((n_items, n_items), dtype=np.float32)
    weights.data = random.random(n_items * _ENTRIES, dtype=np.float32)
    weights.indices = columns.astype(np.int32).ravel()
    weights.indptr = np.arange(0, n_items * _ENTRIES + 1, _ENTRIES, dtype=np.int32)
    recipe = recipe_named("spectral")
    arrays = {
        "item_weights.data": weights.data,
        "item_weights.indices": weights.indices,
        "item_weights.indptr": weights.indptr.astype(np.int64),
        "weight_scale": np.ones(1),
        "singular_values": np.ones(8),
        "explained_variance_ratio": np.full(8, 0.01),
        "order": np.zeros(2),
    }
    model = recipe.from_arrays(arrays, settings={}, n_items=n_items)
    metadata = Metadata(
        version=version,
        recipe="spectral",
        settings=dict(model.settings),
        n_users=1_000,
        n_items=n_items,
        training_samples=1_000,
        explained_variance=0.08,
        watermark=0,
        trained_at=1_700_000_000_000_000,
        seconds=1.0,
        trigger="manual",
    )
    items = IdIndex([f"item-{number:08}" for number in range(n_items)])
    popularity = random.integers(0, 1_000, n_items)
    write_native(Artifact(metadata, items, popularity, model), path)


def _load(settings: Settings, *, is_mapped: bool) -> None:
    """Load the active version as a server does, and print what that took."""
    telemetry.configure_logging("benchmark")
    database = storage.open_database(settings)
    registry = Registry(database, settings.model_dir, maps_files=is_mapped)
    policy = PolicyWatch(database, settings)
    catalogue = Catalogue(database, every_seconds=10.0)
    catalogue.refresh()
    serving = Serving(
        database,
        registry,
        policy,
        every_seconds=10.0,
        catalogue=catalogue,
        newer=Newer(database, every_seconds=10.0),
        popular=PopularItems(database, policy, catalogue, every_seconds=10.0),
    )
    recipe_named("spectral")  # which a server has imported before
    began, used = time.perf_counter(), time.process_time()
    serving.refresh()
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    assert serving.version is not None
    most = harness.memory_bytes(os.getpid()) / 1e6
    told = {"seconds": seconds, "processor_s": processor, "peak_mb": most}
    print(json.dumps({name: round(value, 2) for name, value in told.items()}))


def _loads(settings: Settings, *, n_runs: int) -> dict[str, Any]:
    path = settings.model_dir / native_name(_active(settings))
    figures: dict[str, Any] = {}
    for place in ("memory", "mapped"):
        for cache in ("warm", "cold"):
            runs = []
            for _ in range(n_runs):
                if cache == "cold":
                    _forget(path)
                runs.append(
                    harness.in_fresh_process(
                        "benchmarks.load_model", f"--load={place}", environ=settings.to_env()
                    )
                )
            figures[f"{place}_{cache}"] = min(runs, key=lambda run: run["seconds"])
    return figures


def _active(settings: Settings) -> int:
    database = storage.open_database(settings)
    with contextlib.closing(database), database.read() as connection:
        return storage.models.active_version(connection) or 0


def _forget(path: Path) -> None:
    """Have the system drop what it has cached of a file."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _asked(url: str, path: str, body: object = None) -> Any:
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def _ask(url: str, n_items: int) -> None:
    """Ask for lists, each over a connection of its own, so that all processes answer some."""
    random = np.random.default_rng(0)
    for _ in range(_N_LISTS):
        history = [f"item-{number:08}" for number in random.integers(0, n_items, 20).tolist()]
        _asked(url, "/recommendations", {"history": history, "n": 10})


def _memory(pid: int) -> dict[str, float]:
    """Return megabytes of a process, by the names of ``smaps_rollup``."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    told = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): int(value) * 1024 / 1e6 for name, value in told}


def _swap(settings: Settings, n_items: int) -> dict[str, float]:
    url = settings.server_url
    with harness.process("server/server.py", settings, url=url) as server:
        _ask(url, n_items)
        before, active = _memory(server.pid)["Rss"], _active(settings)
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # VmHWM starts anew
        other = 3 - active
        began = time.perf_counter()
        _asked(url, f"/models/{other}/activate", {})
        seconds = time.perf_counter() - began
        _ask(url, n_items)
        most, after = harness.memory_bytes(server.pid) / 1e6, _memory(server.pid)["Rss"]
    figures = {"one_model_mb": before, "most_mb": most, "after_mb": after, "ratio": most / before}
    return {name: round(value, 2) for name, value in (figures | {"seconds": seconds}).items()}


def _processes(settings: Settings, n_items: int, n_processes: int) -> dict[str, Any]:
    settings = settings.replaced(server_processes=n_processes)
    url = settings.server_url
    with harness.process("server/server.py", settings, url=url) as server:
        time.sleep(5.0)  # until all have loaded it
        _ask(url, n_items)
        family = [_memory(child.pid) for child in psutil.Process(server.pid).children()]
        parent = _memory(server.pid)
    own = [each["Private_Clean"] + each["Private_Dirty"] for each in family]
    return {
        "pss_mb": round(sum(each["Pss"] for each in [parent, *family]), 1),
        "parent_pss_mb": round(parent["Pss"], 1),
        "each_pss_mb": [round(each["Pss"], 1) for each in family],
        "each_own_mb": [round(each, 1) for each in own],
    }


def run(n_items: int = 200_000, n_runs: int = 5) -> dict[str, object]:
    """Measure load, swap and what processes add."""
    with harness.installation() as settings:
        settings.model_dir.mkdir(parents=True)
        for version in (1, 2):
            _write(settings.model_dir / native_name(version), version, n_items)
        database = storage.open_database(settings)
        with contextlib.closing(database):
            Registry(database, settings.model_dir).recovery.rebuild()
        n_bytes = (settings.model_dir / native_name(1)).stat().st_size
        loads = _loads(settings, n_runs=n_runs)
        swap = _swap(settings, n_items)
        two, four = (_processes(settings, n_items, number) for number in (2, 4))
    return {
        "benchmark": "load_model",
        "items": n_items,
        "bytes": n_bytes,
        "load": loads,
        "swap": swap,
        "two_processes": two,
        "four_processes": four,
        "further_process_mb": round((four["pss_mb"] - two["pss_mb"]) / 2, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--load", choices=("memory", "mapped"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        _load(Settings.from_env(os.environ), is_mapped=asked.load == "mapped")
        sys.exit()
    print(json.dumps(run(asked.items, asked.runs)))
