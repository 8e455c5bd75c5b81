"""The native file of a version: mappable, checked when it is read, and nothing in it can run.

pandas is imported where predicted ratings are made: a process that only answers needs none.
"""

import hashlib
import itertools
import json
import math
import operator
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reckeeper import arrays as files
from reckeeper import clock
from reckeeper.errors import ArtifactError, DataError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes import RECIPES, Recipe, recipe_named
from reckeeper.recipes.checks import checked_array

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "reckeeper-1"
_LARGEST = 2**53
"""Bound of every whole number in a file; as a time the year 2255."""
_DEEPEST = 16
_METADATA_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Metadata:
    """What a version's files say of themselves, in plain values.

    Attributes
    ----------
    version : int
    recipe : str
    settings : dict
        Settings of the recipe, as they were asked for.
    n_users, n_items : int
        Size of the interaction matrix.
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
        Fingerprint of the interactions that went in.
    latest_at : int
        When the latest of them occurred, in microseconds since 1970-01-01
        UTC; 0 where they have no times.
    data : dict
        How they were chosen and weighed.
    actor : str
        The person or program that asked for it.
    cause : dict or None
        The rule that asked for it, with its numbers.
    metrics : dict or None
        How well it did on what was held out, with confidence intervals.
    verdict : dict or None
        What the gate found.
    peak_memory_bytes : int
        Most memory of the training process; 0 where it is not known.
    libraries : dict
        Names to versions.
    decided : dict
        Of settings that leave something to the data, what was decided.
    origin : dict or None
        Where it was made, for one that was brought here: its number there,
        what it did there, and the SHA-256 of the file that it came in.
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
    decided: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Any] | None = None

    @property
    def type(self) -> str:
        """As `type_name` gives it."""
        return type_name(self.recipe)

    @property
    def timestamp(self) -> str:
        """`trained_at` as ``2025-12-04 23:42:15``, UTC."""
        return clock.plain(self.trained_at)


def type_name(recipe: str) -> str:
    """Return ``SVD`` for every recipe that decomposes, else the recipe's name."""
    return "SVD" if recipe_named(recipe).decomposes else recipe


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written whole."""

    name: str
    n_bytes: int
    sha256: str = field(repr=False)


@dataclass(frozen=True)
class Artifact:
    """A version in memory: what was learned, and nothing of any user.

    Attributes
    ----------
    metadata : Metadata
    items : IdIndex
    popularity : ndarray of int64, shape (n_items,)
        How many users have each item, a weight above zero.
    model : Recipe
    """

    metadata: Metadata
    items: IdIndex
    popularity: np.ndarray
    model: Recipe

    @classmethod
    def of(cls, metadata: Metadata, trained: InteractionMatrix, model: Recipe) -> "Artifact":
        """Make the artifact of a model that was fitted to a matrix."""
        return cls(metadata, trained.items, trained.popularity, model)

    def predicted_ratings(
        self, trained: InteractionMatrix, *, start: int = 0, stop: int | None = None
    ) -> "pd.DataFrame":
        """Return the predicted ratings of a block of users for all items.

        Parameters
        ----------
        trained : InteractionMatrix
            Its columns are the model's items.
        start, stop : int
            Users from `start` up to but not including `stop`, by dense index.

        Returns
        -------
        pandas.DataFrame of float64, shape (stop - start, n_items)
            Labelled with external ids, as objects: pandas' own string type
            would pickle pyarrow with it.
        """
        import pandas as pd

        scores = self.model.score(trained.histories_of(slice(start, stop)))
        return pd.DataFrame(
            scores.astype(np.float64, copy=False),
            index=pd.Index(trained.users.ids[start:stop], dtype=object),
            columns=pd.Index(trained.items.ids, dtype=object),
        )


def write_native(artifact: Artifact, path: Path) -> None:
    """Write a version's native file.

    Raises
    ------
    DataError
        The metadata hold what no file may tell, such as a number that is not finite.
    OSError
        The file could not be written.
    """
    files.write(path, _arrays(artifact), header=_header(artifact.metadata))


def read(
    path: Path,
    *,
    n_bytes: int | None = None,
    sha256: str | None = None,
    name: str | None = None,
    is_mapped: bool = False,
) -> Artifact:
    """Read a native file; nothing in it can run.

    Parameters
    ----------
    path : Path
    n_bytes, sha256 : optional
        What the registry says of the file; checked first.
    name : str, optional
        What messages call it; by default the name in `path`.
    is_mapped : bool
        As of `arrays.read`.

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
        return _checked(path, sha256, name=name, is_mapped=is_mapped)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{name} is missing from {path.parent}.") from exc
    except OSError as exc:
        raise ArtifactError(
            f"{name} cannot be read in {path.parent}: {exc.strerror or exc}. See that the "
            "folder (RECKEEPER_MODEL_DIR) is right and may be read."
        ) from exc
    except (DataError, KeyError, TypeError, ValueError, RecursionError) as exc:
        reason = str(exc).rstrip(".")
        raise ArtifactError(f"{name} is not a sound model file: {reason}.") from exc


def _checked(path: Path, sha256: str | None, *, name: str, is_mapped: bool) -> Artifact:
    """Read a file that must have a hash; it is made while its content is checked."""
    changed = ArtifactError(f"{name} is not as it was registered: its content changed.")
    if sha256 is None:
        return _artifact(*files.read(path, is_mapped=is_mapped))
    with files.Hashing() as hashing:
        try:
            artifact = _artifact(*files.read(path, is_mapped=is_mapped, hashing=hashing))
        except Exception:  # whatever its content is taken for
            if sha256_of(path) != sha256:
                raise changed from None
            raise
        if hashing.hexdigest() != sha256:
            raise changed
    return artifact


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
            raise DataError("a text in its description has an invalid character")
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
    content, bounds = files.pack_ids(artifact.items.ids)
    learned = artifact.model.to_arrays()
    return {
        "items.bytes": content,
        "items.bounds": bounds,
        "popularity": artifact.popularity,
        **{f"model.{name}": array for name, array in learned.items()},
    }


def _artifact(header: dict[str, str], arrays: dict[str, np.ndarray]) -> Artifact:
    if header.get("format") != _FORMAT:
        raise DataError(f"its format is {header.get('format')!r}, expected {_FORMAT!r}")
    metadata = _metadata(header["reckeeper"])
    if metadata.recipe not in RECIPES:
        raise DataError(f"its recipe {metadata.recipe!r} is not known to this release")
    items = _ids(arrays, "items")
    if len(items) != metadata.n_items:
        raise DataError("its number of ids is not that of its metadata")
    model = RECIPES[metadata.recipe].from_arrays(
        {
            name.removeprefix("model."): array
            for name, array in arrays.items()
            if name.startswith("model.")
        },
        settings=metadata.settings,
        n_items=len(items),
    )
    popularity = checked_array(arrays, "popularity", dtype=np.int64, shape=(len(items),))
    if ((popularity < 0) | (popularity > metadata.n_users)).any():
        raise DataError("its popularity is not a number of its users")
    return Artifact(metadata, items, popularity, model)


_LONGEST_ID = 256

_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "trigger", "fingerprint", "actor"), (str,)),
    **dict.fromkeys(("settings", "decided", "data", "libraries"), (dict,)),
    **dict.fromkeys(("cause", "metrics", "verdict", "origin"), (dict, type(None))),
    "is_demo": (bool,),
}
_NEWER = {"decided"}
"""What files may lack that are older than it."""
_LONGEST = {"trigger": 64, "fingerprint": 64, "actor": 256}
_RANGES = {"explained_variance": 1.0, "seconds": float(_LARGEST)}


def _metadata(text: str) -> Metadata:
    told = plain_json(text, largest=_METADATA_BYTES)
    missing = {known.name for known in fields(Metadata)} - {*told, *_NEWER}
    if missing:
        raise DataError(f"its metadata lack {', '.join(sorted(missing))}")
    metadata = Metadata(**told)
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
        raise DataError("its verdict has no valid decision")
    return metadata


def _check_data(data: Mapping[str, Any]) -> None:
    """Refuse weights, and limits of age and number, with which no history can be weighed."""

    def is_number(value: Any) -> bool:
        return type(value) in (int, float)

    weights = data.get("weights", {})
    if not isinstance(weights, dict) or not all(map(is_number, weights.values())):
        raise DataError("its weights of the interaction types are not numbers")
    for name in ("half_life_days", "window_days", "max_interactions_per_user"):
        limit = data.get(name)
        if limit is not None and not (is_number(limit) and limit > 0):
            raise DataError(f"its {name} is {str(limit)[:100]!r}")


def _has_control_characters(text: bytes) -> bool:
    """Say whether UTF-8 has a character that no id has: U+0000 to U+001F, U+007F to U+009F."""
    codes = np.frombuffer(text, np.uint8)
    is_of_second_block = (codes[:-1] == 0xC2) & (codes[1:] < 0xA0)
    return bool(((codes < 0x20) | (codes == 0x7F)).any() or is_of_second_block.any())


def _ids(arrays: dict[str, np.ndarray], name: str) -> IdIndex:
    bounds, content = arrays[f"{name}.bounds"], arrays[f"{name}.bytes"].tobytes()
    if (
        bounds.dtype != np.int64
        or bounds.shape != (max(1, len(bounds)),)
        or (bounds[0], bounds[-1]) != (0, len(content))
        or (bounds[1:] < bounds[:-1]).any()
    ):
        raise DataError(f"its {name} are not laid out as ids")
    parts = itertools.pairwise(bounds.tolist())
    if _has_control_characters(content):
        raise DataError(f"its {name} have control characters")
    if content.isascii():
        text = content.decode()
        ids = [text[start:end] for start, end in parts]
    else:
        ids = [content[start:end].decode() for start, end in parts]
    if not all(map(operator.lt, ids, itertools.islice(ids, 1, None))):
        raise DataError(f"its {name} are not in order")
    if max(map(len, ids), default=0) > _LONGEST_ID:
        raise DataError(f"its {name} have an id longer than {_LONGEST_ID}")
    return IdIndex(ids)
