"""The two files of a version: the native one that serves, the pickle for people.

pandas is imported where the pickle is made: a process that only serves needs none.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pickle
import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from reckeeper.errors import ArtifactError, DataError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import RECIPES, Recipe, recipe_named
from reckeeper.recipes.checks import checked_csr

if TYPE_CHECKING:
    import pandas as pd

ACTIVE_LINK = "retrained_svd_model.pkl"
"""Name in the model folder under which the pickle of the active version stands."""

_FORMAT = "reckeeper-1"
_LARGEST = 2**53
"""Bound of every number in the metadata; as a time the year 2255."""


def native_name(version: int) -> str:
    """Return the name of a version's native file."""
    return f"model-{version:06d}.safetensors"


def pickle_name(version: int) -> str:
    """Return the name of a version's pickle."""
    return f"model-{version:06d}.pkl"


@dataclass(frozen=True)
class Metadata:
    """What a version's files say of themselves, in plain values.

    Attributes
    ----------
    version : int
    recipe : str
    settings : dict
        Of the recipe.
    n_users, n_items : int
        Of the interaction matrix.
    training_samples : int
        Interactions that went in.
    explained_variance : float
        In [0, 1].
    watermark : int
        Number of the last interaction seen.
    trained_at : int
        Microseconds since 1970-01-01 UTC.
    seconds : float
        From the start of the job to the writing of the files.
    trigger : str
        What started the job.
    is_demo : bool
        Whether demo data went in.
    """

    version: int
    recipe: str
    settings: dict[str, Any]
    n_users: int
    n_items: int
    training_samples: int
    explained_variance: float
    watermark: int
    trained_at: int
    seconds: float
    trigger: str
    is_demo: bool = False

    @property
    def type(self) -> str:
        """``SVD`` for every recipe that decomposes, else the recipe's name."""
        return "SVD" if recipe_named(self.recipe).decomposes else self.recipe

    @property
    def timestamp(self) -> str:
        """`trained_at` as ``2025-12-04 23:42:15``, UTC."""
        return datetime.fromtimestamp(self.trained_at // 1_000_000, UTC).strftime(
            "%Y-%m-%d %H:%M:%S"
        )


@dataclass(frozen=True)
class Artifact:
    """A version in memory."""

    metadata: Metadata
    matrix: InteractionMatrix
    model: Recipe

    def predicted_ratings(self, *, start: int = 0, stop: int | None = None) -> "pd.DataFrame":
        """Return the predicted ratings of a block of users for all items.

        Parameters
        ----------
        start, stop : int
            Users from `start` up to but not including `stop`, by dense index.

        Returns
        -------
        pandas.DataFrame of float64, shape (stop - start, n_items)
            Labelled with external ids, as objects: pandas' own string type
            would pickle pyarrow with it.
        """
        import pandas as pd

        return pd.DataFrame(
            self.model.score(self.matrix.weights[start:stop]).astype(np.float64, copy=False),
            index=pd.Index(self.matrix.users.ids[start:stop], dtype=object),
            columns=pd.Index(self.matrix.items.ids, dtype=object),
        )


@dataclass(frozen=True)
class WrittenFile:
    """A file that is on disk to stay."""

    name: str
    n_bytes: int
    sha256: str = field(repr=False)


def write(artifact: Artifact, folder: Path, *, cell_limit: int) -> tuple[WrittenFile, WrittenFile]:
    """Write both files of a version.

    Each is written under a temporary name, synced, linked to its own, and the
    folder synced: a reader sees the whole file or none, whenever the power fails.

    Parameters
    ----------
    artifact : Artifact
    folder : Path
        Made if it does not exist.
    cell_limit : int
        Users × items up to which the pickle carries the predicted ratings;
        above, their place holds None, and the other parts give the same
        numbers: ``svd.inverse_transform(svd.transform(rating_matrix[a:b]))``
        for the recipe ``svd``; any other puts beside them what it takes, as
        its `to_export` says.

    Returns
    -------
    native, pickle : WrittenFile

    Raises
    ------
    ArtifactError
        A file of that version is there already, or the folder cannot be written.
    """
    version = artifact.metadata.version
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _new_file(folder / native_name(version)) as temporary:
            save_file(_arrays(artifact), temporary, metadata=_header(artifact.metadata))
        with _new_file(folder / pickle_name(version)) as temporary, temporary.open("wb") as stream:
            pickle.dump(_export(artifact, cell_limit), stream, protocol=5)
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(
            f"Version {version} could not be written to {folder}: {exc}. See that the folder "
            "(RECKEEPER_MODEL_DIR) exists, is writable and not full, then retrain."
        ) from exc
    return _describe(folder / native_name(version)), _describe(folder / pickle_name(version))


def read(path: Path, *, n_bytes: int | None = None, sha256: str | None = None) -> Artifact:
    """Read a native file; nothing in it can run.

    Parameters
    ----------
    path : Path
    n_bytes, sha256 : optional
        What the registry says of the file; checked first.

    Raises
    ------
    ArtifactError
        The file is missing, is not the one that was registered, or is not sound.
    """
    try:
        if n_bytes is not None and path.stat().st_size != n_bytes:
            raise ArtifactError(
                f"{path.name} has {path.stat().st_size} bytes and not the {n_bytes} that were "
                "registered: it was cut or changed."
            )
        if sha256 is not None and _sha256(path) != sha256:
            raise ArtifactError(f"{path.name} is not as it was registered: its content changed.")
        with safe_open(path, framework="np") as stream:
            header = stream.metadata() or {}
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        return _artifact(header, arrays)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path.name} is missing from {path.parent}.") from exc
    except OSError as exc:
        raise ArtifactError(
            f"{path.name} cannot be read in {path.parent}: {exc.strerror or exc}. See that the "
            "folder (RECKEEPER_MODEL_DIR) is right and may be read."
        ) from exc
    except (
        SafetensorError,
        DataError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as exc:
        raise ArtifactError(f"{path.name} is not a sound model file: {exc}") from exc


def point_link(folder: Path, version: int | None) -> None:
    """Make `ACTIVE_LINK` name a version's pickle, or nothing; atomic.

    The link is relative, so that it holds inside a container and outside.
    """
    link = folder / ACTIVE_LINK
    if version is None:
        link.unlink(missing_ok=True)
    elif not link.is_symlink() or os.readlink(link) != pickle_name(version):
        temporary = folder / f".{ACTIVE_LINK}.{secrets.token_hex(8)}"
        temporary.symlink_to(pickle_name(version))
        os.replace(temporary, link)
    sync_folder(folder)


def linked_version(folder: Path) -> int | None:
    """Return the version that `ACTIVE_LINK` names, or None."""
    try:
        return version_of(os.readlink(folder / ACTIVE_LINK))
    except OSError:
        return None


def version_of(name: str) -> int | None:
    """Return the version whose file has this name, or None if it is no such file."""
    stem, _, ending = name.partition(".")
    number = stem.removeprefix("model-")
    if ending not in {"safetensors", "pkl"} or not re.fullmatch("[0-9]{6,9}", number):
        return None
    return int(number) if stem != number else None


def delete(folder: Path, version: int) -> None:
    """Delete both files of a version; what is not there stays so."""
    for name in (native_name(version), pickle_name(version)):
        (folder / name).unlink(missing_ok=True)
    sync_folder(folder)


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that did not come to their end have left."""
    for temporary in folder.glob(".model-*.tmp"):
        temporary.unlink(missing_ok=True)


def set_aside(folder: Path, version: int) -> None:
    """Move both files of a version into the folder ``unknown/``, where nothing reads them."""
    aside = folder / "unknown"
    aside.mkdir(exist_ok=True)
    for name in (native_name(version), pickle_name(version)):
        if (folder / name).exists():
            # The same number may have been set aside before.
            os.rename(folder / name, aside / f"{secrets.token_hex(4)}-{name}")
    sync_folder(aside)
    sync_folder(folder)


def describe_files(folder: Path, version: int) -> tuple[WrittenFile, WrittenFile | None]:
    """Return the native file and, if it is there, the pickle of a version."""
    exported = folder / pickle_name(version)
    return (
        _describe(folder / native_name(version)),
        _describe(exported) if exported.exists() else None,
    )


def sync_folder(folder: Path) -> None:
    """Make new and renamed entries of a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # where a sync alone stops at the drive's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            _sync(stream.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces what is there
    except FileExistsError as exc:
        raise ArtifactError(
            f"{path.name} is there already; versions are never overwritten. Another training has "
            "written it: retrain."
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _describe(path: Path) -> WrittenFile:
    return WrittenFile(path.name, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _header(metadata: Metadata) -> dict[str, str]:
    return {"format": _FORMAT, "reckeeper": json.dumps(asdict(metadata), sort_keys=True)}


def _arrays(artifact: Artifact) -> dict[str, np.ndarray]:
    weights = artifact.matrix.weights
    arrays: dict[str, np.ndarray] = {
        "weights.indptr": weights.indptr.astype(np.int64),
        "weights.indices": weights.indices.astype(np.int32),
        "weights.data": weights.data,
    }
    for name, ids in (("users", artifact.matrix.users.ids), ("items", artifact.matrix.items.ids)):
        encoded = [external_id.encode() for external_id in ids]
        arrays[f"{name}.bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays[f"{name}.ends"] = np.cumsum([len(part) for part in encoded], dtype=np.int64)
    arrays.update(
        (f"model.{name}", np.ascontiguousarray(array))
        for name, array in artifact.model.to_arrays().items()
    )
    return arrays


def _artifact(header: dict[str, str], arrays: dict[str, np.ndarray]) -> Artifact:
    if header.get("format") != _FORMAT:
        raise DataError(f"its format is {header.get('format')!r}, expected {_FORMAT!r}")
    metadata = _metadata(json.loads(header["reckeeper"]))
    if metadata.recipe not in RECIPES:
        raise DataError(f"its recipe {metadata.recipe!r} is not known to this release")
    users, items = (_ids(arrays, name) for name in ("users", "items"))
    if (len(users), len(items)) != (metadata.n_users, metadata.n_items):
        raise DataError("its ids do not have the number that its metadata tells")
    model = RECIPES[metadata.recipe].from_arrays(
        {
            name.removeprefix("model."): array
            for name, array in arrays.items()
            if name.startswith("model.")
        },
        settings=metadata.settings,
        n_items=len(items),
    )
    weights = checked_csr(arrays, "weights", dtype=np.float64, shape=(len(users), len(items)))
    if (weights.data < 0).any():
        raise DataError("its weights are not numbers from 0 on")
    matrix = InteractionMatrix(users, items, weights, metadata.training_samples)
    return Artifact(metadata, matrix, model)


def _metadata(fields: dict[str, Any]) -> Metadata:
    metadata = Metadata(**fields)
    kinds = {"recipe": str, "settings": dict, "trigger": str, "is_demo": bool}
    ranges = {"explained_variance": 1.0, "seconds": float(_LARGEST)}
    for name, value in asdict(metadata).items():
        if name in kinds:
            is_sound = type(value) is kinds[name]
        elif name in ranges:
            is_sound = type(value) in (int, float) and abs(value) <= ranges[name]
        else:
            is_sound = type(value) is int and 0 <= value <= _LARGEST
        if not is_sound:
            raise DataError(f"its metadata tell {value!r} as {name}")
    return metadata


def _ids(arrays: dict[str, np.ndarray], name: str) -> IdIndex:
    ends, content = arrays[f"{name}.ends"], arrays[f"{name}.bytes"].tobytes()
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if ends.dtype != np.int64 or (starts > ends).any() or (len(ends) and ends[-1] != len(content)):
        raise DataError(f"its {name} are not laid out as ids")
    ids = [content[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    if any(first >= second for first, second in itertools.pairwise(ids)):
        raise DataError(f"its {name} are not in order")
    return IdIndex(ids)


def _export(artifact: Artifact, cell_limit: int) -> dict[str, Any]:
    metadata = artifact.metadata
    fits = metadata.n_users * metadata.n_items <= cell_limit
    return {
        "rating_matrix": sparse.csr_matrix(artifact.matrix.weights),
        "svd_model": artifact.model.to_sklearn(),
        "predicted_ratings": artifact.predicted_ratings() if fits else None,
        "metadata": {
            **asdict(metadata),
            "timestamp": metadata.timestamp,
            "users": artifact.matrix.users.ids,
            "items": artifact.matrix.items.ids,
        },
        **artifact.model.to_export(),
    }
