"""The two files of a version: the native one that serves, the pickle for people.

pandas is imported where the pickle is made: a process that only serves needs none.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import math
import os
import pickle
import re
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy import sparse

from reckeeper import clock
from reckeeper.errors import ArtifactError, DataError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import RECIPES, Recipe, recipe_named
from reckeeper.recipes.checks import checked_csr

if TYPE_CHECKING:
    import pandas as pd

ACTIVE_LINK = "retrained_svd_model.pkl"
"""Name in the model folder under which the pickle of the active version stands."""

_UNKNOWN = "unknown"
_FORMAT = "reckeeper-1"
_LARGEST = 2**53
"""Bound of every whole number in a file; as a time the year 2255."""
_DEEPEST = 16
_METADATA_BYTES = 4 * 2**20


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
    fingerprint : str
        Of the interactions that went in; empty where it is not known, as the
        values below are in the files of earlier releases.
    latest_at : int
        When the latest of them occurred, in microseconds since 1970-01-01
        UTC; 0 where it is not known.
    data : dict
        How they were chosen and weighed.
    actor : str
        Who asked for it.
    cause : dict or None
        The rule that asked for it, with its numbers.
    metrics : dict or None
        How well it did on what was held out, with confidence intervals.
    verdict : dict or None
        What the gate found.
    peak_memory_bytes : int
        Of the training process; 0 where it is not known.
    libraries : dict
        Names to versions.
    origin : dict or None
        Of one that was made elsewhere: its number there, what it did there,
        and the SHA-256 of the file that it came in.
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
    fingerprint: str = ""
    latest_at: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    actor: str = ""
    cause: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    peak_memory_bytes: int = 0
    libraries: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] | None = None

    @property
    def type(self) -> str:
        """As `type_name` gives it."""
        return type_name(self.recipe)

    @property
    def timestamp(self) -> str:
        """`trained_at` as `timestamp_name` gives it."""
        return timestamp_name(self.trained_at)


def type_name(recipe: str) -> str:
    """Return ``SVD`` for every recipe that decomposes, else the recipe's name."""
    return "SVD" if recipe_named(recipe).decomposes else recipe


def timestamp_name(moment: int) -> str:
    """Return a time in microseconds since 1970 as ``2025-12-04 23:42:15``, UTC."""
    return f"{clock.utc(moment):%Y-%m-%d %H:%M:%S}"


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
    """A file that was written whole."""

    name: str
    n_bytes: int
    sha256: str = field(repr=False)


def write(
    artifact: Artifact, folder: Path, *, cell_limit: int, native: Path | None = None
) -> tuple[WrittenFile, WrittenFile]:
    """Write both files of a version.

    Each is written under a temporary name, synced, linked to its own, and the
    folder synced: a reader sees the whole file or none, whenever the power fails.
    If one cannot be written, neither is left.

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
    native : Path, optional
        A native file, in the same file system, that `artifact` was read from:
        it is linked, byte for byte the same, and not written anew.

    Returns
    -------
    native, pickle : WrittenFile

    Raises
    ------
    ArtifactError
        A file of that version is there already, or the folder cannot be written.
    DataError
        The metadata hold what no file may tell, such as a number that is not finite.
    """
    version = artifact.metadata.version
    header = _header(artifact.metadata)
    try:
        make_folder(folder)
        with _new_file(folder / native_name(version)) as temporary:
            if native is None:
                save_file(_arrays(artifact), temporary, metadata=header)
            else:
                os.link(native, temporary)
        try:
            exported = folder / pickle_name(version)
            with _new_file(exported) as temporary, temporary.open("wb") as stream:
                pickle.dump(_export(artifact, cell_limit), stream, protocol=5)
        except BaseException:
            (folder / native_name(version)).unlink(missing_ok=True)
            raise
    except (OSError, SafetensorError) as exc:
        raise ArtifactError(
            f"Version {version} could not be written to {folder}: {exc}. See that the folder "
            "(RECKEEPER_MODEL_DIR) exists, is writable and not full, then retrain."
        ) from exc
    return _describe(folder / native_name(version)), _describe(folder / pickle_name(version))


def read(
    path: Path,
    *,
    n_bytes: int | None = None,
    sha256: str | None = None,
    name: str | None = None,
) -> Artifact:
    """Read a native file; nothing in it can run.

    Parameters
    ----------
    path : Path
    n_bytes, sha256 : optional
        What the registry says of the file; checked first.
    name : str, optional
        What messages call it; by default the name in `path`.

    Raises
    ------
    ArtifactError
        The file is missing, is not the one that was registered, or is not sound.
    """
    name = name or path.name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading it might wait for ever
            raise ArtifactError(f"{name} is not a file.")
        if n_bytes is not None and status.st_size != n_bytes:
            raise ArtifactError(
                f"{name} has {status.st_size} bytes and not the {n_bytes} that were "
                "registered: it was cut or changed."
            )
        if sha256 is not None and sha256_of(path) != sha256:
            raise ArtifactError(f"{name} is not as it was registered: its content changed.")
        with safe_open(path, framework="np") as stream:
            header = stream.metadata() or {}
            for key in stream.keys():  # noqa: SIM118
                if (dtype := stream.get_slice(key).get_dtype()) not in _DTYPES:
                    raise DataError(f"its {key[:100]!r} has the type {dtype}")
            arrays = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        return _artifact(header, arrays)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{name} is missing from {path.parent}.") from exc
    except OSError as exc:
        raise ArtifactError(
            f"{name} cannot be read in {path.parent}: {exc.strerror or exc}. See that the "
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
        raise ArtifactError(f"{name} is not a sound model file: {exc}") from exc


def point_link(folder: Path, version: int | None) -> None:
    """Make `ACTIVE_LINK` name a version's pickle, or nothing; atomic.

    The link is relative, so that it holds inside a container and outside.
    """
    link = folder / ACTIVE_LINK
    if version is None:
        link.unlink(missing_ok=True)
    # One temporary name for all, so that a process that is killed here leaves nothing for
    # good. Another process may use it at the same time: then this one begins anew.
    temporary = _temporary_link(folder)
    while version is not None and linked_version(folder) != version:
        temporary.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            temporary.symlink_to(pickle_name(version))
        with contextlib.suppress(FileNotFoundError):
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
    if folder.is_dir():
        sync_folder(folder)


def numbered_files(folder: Path, *, aside: bool = False) -> set[int]:
    """Return the versions of which a file is in the folder, or set aside in it."""
    place, number = (folder / _UNKNOWN, aside_version) if aside else (folder, version_of)
    if not place.is_dir():
        return set()
    found = (number(path.name) for path in place.iterdir())
    return {version for version in found if version is not None}


def aside_version(name: str) -> int | None:
    """Return the version whose file was set aside under this name, or None."""
    return version_of(re.sub("^[0-9a-f]{8}-", "", name))


def remove_unfinished(
    folder: Path, *, in_progress: Callable[[], Collection[int]] = frozenset
) -> None:
    """Delete what writers that did not come to their end have left.

    Parameters
    ----------
    folder : Path
    in_progress : callable
        Returns the versions that may yet be written to their end. Asked once
        the files are listed: a file is there no sooner than its version is
        known to be in progress.
    """
    found = list(folder.glob(".model-*.tmp"))
    spared = in_progress()
    for temporary in found:
        if version_of(temporary.name[1:].rsplit(".", 2)[0]) not in spared:
            temporary.unlink(missing_ok=True)
    _temporary_link(folder).unlink(missing_ok=True)


def set_aside(folder: Path, version: int) -> None:
    """Move both files of a version into the folder ``unknown/``, where nothing reads them."""
    make_folder(folder / _UNKNOWN)
    mark = secrets.token_hex(4)  # the same number may have been set aside before
    for name in (native_name(version), pickle_name(version)):
        if os.path.lexists(folder / name):
            os.rename(folder / name, folder / _UNKNOWN / f"{mark}-{name}")
    sync_folder(folder / _UNKNOWN)
    sync_folder(folder)


def aside_files(folder: Path) -> list[Path]:
    """Return the native files in ``unknown/``, whatever they are named, in the order of names."""
    return sorted((folder / _UNKNOWN).glob("*.safetensors"))


def delete_aside(path: Path) -> None:
    """Delete a native file in ``unknown/``, and the pickle that was set aside with it."""
    path.unlink(missing_ok=True)
    path.with_suffix(".pkl").unlink(missing_ok=True)
    sync_folder(path.parent)


def describe_files(folder: Path, version: int) -> tuple[WrittenFile, WrittenFile | None]:
    """Return the native file and, if it is there, the pickle of a version."""
    exported = folder / pickle_name(version)
    return (
        _describe(folder / native_name(version)),
        _describe(exported) if exported.exists() else None,
    )


def _temporary_link(folder: Path) -> Path:
    return folder / f".{ACTIVE_LINK}.tmp"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, to survive a loss of power."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


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
        try:
            sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except FileExistsError as exc:
        raise ArtifactError(
            f"{path.name} is there already; versions are never overwritten. Another training has "
            "written it: retrain."
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)


def _describe(path: Path) -> WrittenFile:
    return WrittenFile(path.name, path.stat().st_size, sha256_of(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plain_json(text: str | bytes, *, largest: int) -> Any:
    """Parse JSON that anybody may have written.

    What it gives can go wherever such values go: into the database, and out
    again as an answer of the API.

    Parameters
    ----------
    text : str or bytes
    largest : int
        Length above which it is refused unread.

    Raises
    ------
    DataError
        It is too large or too deep, or holds a number or a text that cannot
        be passed on.
    ValueError, RecursionError
        It is not JSON.
    """
    if len(text) > largest:
        raise DataError(f"its description has a length of {len(text)}, and {largest} is the most")
    value = json.loads(text)
    _check_plain(value, depth=0)
    return value


def _check_plain(value: Any, *, depth: int) -> None:
    if depth > _DEEPEST:
        raise DataError("its description is too deep")
    if isinstance(value, dict | list):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        for part in parts:
            _check_plain(part, depth=depth + 1)
    elif isinstance(value, str):
        value.encode()  # half a surrogate pair is a ValueError
        if "\0" in value:
            raise DataError("a text in its description has a character that is none")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise DataError("a number in its description is not finite")
    elif value is not None and abs(value) > _LARGEST:
        raise DataError("a number in its description is too large")


def _header(metadata: Metadata) -> dict[str, str]:
    text = json.dumps(asdict(metadata), sort_keys=True)
    try:
        _metadata(text)
    except (DataError, ValueError) as exc:
        raise DataError(f"Version {metadata.version} cannot be written: {exc}") from exc
    return {"format": _FORMAT, "reckeeper": text}


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
    metadata = _metadata(header["reckeeper"])
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


_LONGEST_ID = 256
_DTYPES = {"U8", "I8", "I16", "I32", "I64", "F32", "F64", "BOOL"}

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "trigger", "fingerprint", "actor"), (str,)),
    **dict.fromkeys(("settings", "data", "libraries"), (dict,)),
    **dict.fromkeys(("cause", "metrics", "verdict", "origin"), (dict, type(None))),
    "is_demo": (bool,),
}
_LONGEST = {"trigger": 64, "fingerprint": 64, "actor": 256}
_RANGES = {"explained_variance": 1.0, "seconds": float(_LARGEST)}


def _metadata(text: str) -> Metadata:
    metadata = Metadata(**plain_json(text, largest=_METADATA_BYTES))
    for name, value in vars(metadata).items():
        if name in _KINDS:
            is_sound = type(value) in _KINDS[name]
        elif name in _RANGES:
            is_sound = type(value) in (int, float) and abs(value) <= _RANGES[name]
        else:
            is_sound = type(value) is int and 0 <= value <= _LARGEST
        if not is_sound or (name in _LONGEST and len(value) > _LONGEST[name]):
            raise DataError(f"its metadata tell {str(value)[:100]!r} as {name}")
    if not metadata.n_users or not metadata.n_items:
        raise DataError("it knows no user or no item")
    _check_data(metadata.data)
    if not isinstance((metadata.verdict or {}).get("decision", ""), str):
        raise DataError("its verdict has no decision that is one")
    return metadata


def _check_data(data: Mapping[str, Any]) -> None:
    """Refuse weights and a half-life with which no history can be weighed."""

    def is_number(value: Any) -> bool:
        return type(value) in (int, float)

    weights = data.get("weights", {})
    if not isinstance(weights, dict) or not all(map(is_number, weights.values())):
        raise DataError("its weights of the interaction types are no numbers")
    half_life = data.get("half_life_days")
    if half_life is not None and not (is_number(half_life) and half_life > 0):
        raise DataError(f"its half-life is {str(half_life)[:100]!r}")


def _ids(arrays: dict[str, np.ndarray], name: str) -> IdIndex:
    ends, content = arrays[f"{name}.ends"], arrays[f"{name}.bytes"].tobytes()
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if ends.dtype != np.int64 or (starts > ends).any() or (len(ends) and ends[-1] != len(content)):
        raise DataError(f"its {name} are not laid out as ids")
    ids = [content[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    if any(first >= second for first, second in itertools.pairwise(ids)):
        raise DataError(f"its {name} are not in order")
    if any(len(external_id) > _LONGEST_ID for external_id in ids):
        raise DataError(f"its {name} have an id longer than {_LONGEST_ID}")
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
