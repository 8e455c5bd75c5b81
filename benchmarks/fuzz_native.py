"""Broken model files: ``python -m benchmarks.fuzz_native [SECONDS]``; it needs `atheris`.

Coverage leads the search. Each file begins as one that a recipe wrote, and has bytes, the header
or what it says of itself changed. The reader refuses it, or what it read answers: anything else,
an allocation out of proportion too, ends the run with the file that did it.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

_SECONDS = 600
_MEMORY_MB = 1024
_FILE_BYTES = 2**16


def run(seconds: int = _SECONDS) -> dict[str, Any]:
    """Search for a while in a process of its own, and return how much was tried."""
    with tempfile.TemporaryDirectory(prefix="reckeeper-fuzz-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.fuzz_native", "--search", folder, str(seconds)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    told = [line for line in done.stderr.splitlines() if line.startswith("stat::")]
    stats = {name: int(value) for name, value in (line[6:].split(":") for line in told)}
    return {
        "benchmark": "fuzz_native",
        "seconds": seconds,
        "files": stats["number_of_executed_units"],
        "files_kept_for_new_paths": stats["new_units_added"],
        "peak_memory_mb": stats["peak_rss_mb"],
    }


def _search(folder: Path, seconds: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["reckeeper.artifact", "reckeeper.arrays"]):
        from reckeeper import artifact, errors
        from reckeeper.matrix import Histories
        from reckeeper.ranking import Ranker

    corpus = folder / "corpus"
    corpus.mkdir()
    _write_seeds(corpus)
    # In memory where the system has such a folder: each file is written and read.
    shared = Path("/dev/shm")
    path = (shared if shared.is_dir() else folder) / f"reckeeper-fuzz-{os.getpid()}"

    def try_file(content: bytes) -> None:
        path.write_bytes(content)
        try:
            version = artifact.read(path)
            n_items = len(version.items)
            history = sparse.csr_array(np.eye(1, n_items))
            Ranker.of(version.model, version).rank(Histories(history), k=5)
            version.model.similar(0, n=5)
            version.model.next(0, n=5)
        except (errors.ArtifactError, errors.DataError):
            return

    def change(content: bytes, largest: int, seed: int) -> bytes:
        return _changed(content, random.Random(seed), largest, atheris.Mutate)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_FILE_BYTES}",
        f"-rss_limit_mb={_MEMORY_MB}",
        "-timeout=20",
        "-print_final_stats=1",
        f"-artifact_prefix={Path.cwd()}/fuzz-native-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], try_file, custom_mutator=change)
    try:
        atheris.Fuzz()
    finally:
        path.unlink(missing_ok=True)


def _write_seeds(folder: Path) -> None:
    from tests.unit.small_models import small_model

    from reckeeper.artifact import write_native
    from reckeeper.recipes import RECIPES

    for recipe in RECIPES:
        write_native(small_model(recipe=recipe), folder / recipe)


def _changed(content: bytes, chance: random.Random, largest: int, mutate: Any) -> bytes:
    """Change one part of a file, and let its parts still fit together, but for one time in four."""
    if chance.random() < 0.25 or len(content) < 8:
        return mutate(content, largest)
    start = 8 + int.from_bytes(content[:8], "little")
    head, body = content[8:start], content[start:]
    try:
        header = json.loads(head)
        told = json.loads(header["__metadata__"]["reckeeper"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return mutate(content, largest)
    part = chance.randrange(4)
    if part == 0:
        body = mutate(body, len(body))[: len(body)].ljust(len(body), b"\0")
    elif part == 1:
        head = mutate(head, len(head) + 64)
    elif part == 2:
        told = told if isinstance(told, dict) else {}
        told[chance.choice([*told, "version"])] = chance.choice(_VALUES)
        header["__metadata__"]["reckeeper"] = json.dumps(told)
        head = json.dumps(header).encode()
    else:
        name = chance.choice([name for name in header if name != "__metadata__"] or ["model.a"])
        place = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
        if isinstance(header.get(name), dict):
            place |= header[name]
        header[name] = place
        place[chance.choice(list(place))] = chance.choice(
            ["I64", "F64", "U8", "BOOL", [], [0], [1, 2], [0, 0], [2**62, 4], [3, 3], [9]]
        )
        head = json.dumps(header).encode()
    return (len(head).to_bytes(8, "little") + head + body)[:largest]


_VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 3, 2**31, 2**53, 2**63, 1e308, -0.5),
    *("", "spectral", "svd", "popularity", "\0", "x" * 300),
    *([], {}, [[]], {"weights": {"": 1e308}}, {"n_components": 2**40}, {"half_life_days": 1e-300}),
]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--search"]:
        _search(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(run(*map(int, sys.argv[1:]))))
