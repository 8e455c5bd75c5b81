"""Files of named arrays, in the safetensors format: written whole, read or mapped.

Nothing in such a file can run.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reckeeper.errors import DataError

_DTYPES = {
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F32": np.float32,
    "F64": np.float64,
    "BOOL": np.bool_,
}


def write(path: Path, arrays: Mapping[str, np.ndarray], *, header: Mapping[str, str]) -> None:
    """Write a file; what is there is replaced.

    Parameters
    ----------
    path : Path
    arrays : mapping of str to ndarray
    header : mapping of str to str
        What the file says of itself.

    Raises
    ------
    OSError
        It could not be written.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(contiguous, path, metadata=dict(header))
    except SafetensorError as exc:
        raise OSError(str(exc)) from exc


def read(path: Path, *, is_mapped: bool = False) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read the header and the arrays of a file.

    Parameters
    ----------
    path : Path
    is_mapped : bool
        Whether the arrays are views of the file, which all processes that map it
        share: they can be read only, and nobody may change the file in its place.

    Raises
    ------
    DataError
        It is not in the format, or has arrays of another type.
    FileNotFoundError, OSError
        It cannot be read.
    """
    try:
        with safe_open(path, framework="np") as stream:
            header = stream.metadata() or {}
            names = list(stream.keys())
            for name in names:
                if (dtype := stream.get_slice(name).get_dtype()) not in _DTYPES:
                    raise DataError(f"its {name[:100]!r} has the type {dtype}")
            if not is_mapped:
                return header, {name: stream.get_tensor(name) for name in names}
    except SafetensorError as exc:
        raise DataError(str(exc)) from exc
    return header, _mapped(path)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that was found sound: their places are within it."""
    with path.open("rb") as stream:
        n_bytes = int.from_bytes(stream.read(8), "little")
        places = json.loads(stream.read(n_bytes))
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    places.pop("__metadata__", None)
    return {
        name: np.frombuffer(
            content,
            dtype=_DTYPES[place["dtype"]],
            count=int(np.prod(place["shape"])),
            offset=8 + n_bytes + place["data_offsets"][0],
        ).reshape(place["shape"])
        for name, place in places.items()
    }


def pack_ids(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids as the bytes of all, uint8, and their bounds in them, int64, shape (n + 1,)."""
    encoded = [external_id.encode() for external_id in ids]
    bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), bounds
