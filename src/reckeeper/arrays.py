"""Files of named arrays, in the safetensors format: written whole, read or mapped.

Nothing in such a file can run.
"""

import hashlib
import io
import json
import math
import mmap
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

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
_CHUNK_BYTES = 2**24
"""What is read, and then hashed, at once."""


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


class Hashing:
    """The SHA-256 of what is read, made on a thread of its own while that is read and looked at."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, content: memoryview) -> None:
        """Add bytes after those that were added; they must stay as they are."""
        self._thread.submit(self._sha256.update, content)

    def hexdigest(self) -> str:
        """Return the hash of all that was added, as 64 hexadecimal digits."""
        return self._thread.submit(self._sha256.hexdigest).result()


def read(
    path: Path, *, is_mapped: bool = False, hashing: Hashing | None = None
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read the header and the arrays of a file.

    Parameters
    ----------
    path : Path
    is_mapped : bool
        Whether the arrays are views of the file, which all processes that map it
        share: they can be read only, and nobody may change the file in its place.
        By default they are views of one piece of memory.
    hashing : Hashing, optional
        Gets the bytes of the file, the same that the arrays are made of.

    Raises
    ------
    DataError
        It is not in the format, or has arrays of another type.
    FileNotFoundError, OSError
        It cannot be read.
    """
    header = _checked_header(path)
    with path.open("rb", buffering=0) as stream:
        if is_mapped:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            if hashing is not None:
                hashing.add(memoryview(content))
        else:
            content = _in_memory(stream, hashing)
    start = 8 + int.from_bytes(content[:8], "little")
    places = json.loads(content[8:start])
    places.pop("__metadata__", None)
    return header, {name: _array(content, start, place) for name, place in places.items()}


def _checked_header(path: Path) -> dict[str, str]:
    """Return the header of a file whose arrays lie within it, and are of types that are known."""
    try:
        with safe_open(path, framework="np") as stream:
            for name in stream.keys():  # noqa: SIM118 - it is no mapping
                if (dtype := stream.get_slice(name).get_dtype()) not in _DTYPES:
                    raise DataError(f"its {name[:100]!r} has the type {dtype}")
            return stream.metadata() or {}
    except SafetensorError as exc:
        raise DataError(str(exc)) from exc


def _in_memory(stream: io.FileIO, hashing: Hashing | None) -> mmap.mmap:
    """Read a file in one pass, into memory that goes back to the system when it is let go.

    Its pages are small: NumPy's would be large, for which virtual machines can take six times
    as long.
    """
    n_bytes = os.fstat(stream.fileno()).st_size
    content = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    n_read, bytes_of = 0, memoryview(content)
    while n_read < n_bytes:
        part = bytes_of[n_read : n_read + _CHUNK_BYTES]
        n_more = stream.readinto(part)
        if not n_more:
            raise DataError("it became shorter while it was read")
        if hashing is not None:
            hashing.add(part[:n_more])
        n_read += n_more
    return content


def _array(content: mmap.mmap, start: int, place: Mapping[str, Any]) -> np.ndarray:
    array: np.ndarray = np.frombuffer(
        content,
        dtype=_DTYPES[place["dtype"]],
        count=math.prod(place["shape"]),
        offset=start + place["data_offsets"][0],
    )
    return np.require(array.reshape(place["shape"]), requirements="A")


def pack_ids(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids as the bytes of all, uint8, and their bounds in them, int64, shape (n + 1,)."""
    encoded = [external_id.encode() for external_id in ids]
    bounds = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), bounds
