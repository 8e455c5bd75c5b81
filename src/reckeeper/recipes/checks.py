"""What every recipe asks of the data that it is fitted to, and of arrays from a file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import InteractionMatrix

_BLOCK = 2**16
"""Values that are looked at together: so many stay in a processor's cache."""


def check_interactions(interactions: InteractionMatrix) -> None:
    """Refuse what no recipe can be fitted to.

    Raises
    ------
    NotEnoughDataError
        Fewer than two users or two items.
    DataError
        A weight is not finite; the message says where.
    """
    n_users, n_items = interactions.weights.shape
    if n_users < 2 or n_items < 2:
        raise NotEnoughDataError(
            f"A model needs at least 2 users and 2 items; there are interactions of {n_users} "
            f"user(s) with {n_items} item(s). Send more interactions, then retrain."
        )
    weights = interactions.weights
    is_finite = np.isfinite(weights.data)
    if not is_finite.all():
        position = int(np.flatnonzero(~is_finite)[0])
        row = int(np.searchsorted(weights.indptr, position, side="right")) - 1
        column = int(weights.indices[position])
        raise DataError(
            f"The weight in row {row}, column {column} (user {interactions.users.ids[row]!r}, item "
            f"{interactions.items.ids[column]!r}) is {weights.data[position]}, not a finite "
            "number. Correct or leave out the interactions of this pair."
        )


def checked_array(
    arrays: Mapping[str, np.ndarray],
    name: str,
    *,
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
) -> np.ndarray[Any, Any]:
    """Return an array of a model file, if it is as it must be.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    name : str
    dtype : type
        Such as ``numpy.float32``.
    shape : tuple of int or None
        None stands for any length.

    Raises
    ------
    DataError
        It is missing, has another dtype or shape, or a value that is not finite.
    """
    if name not in arrays:
        raise DataError(f"The array {name!r} is missing.")
    array = arrays[name]
    if array.dtype != dtype:
        raise DataError(f"The array {name!r} is of {array.dtype}, not {np.dtype(dtype)}.")
    if len(array.shape) != len(shape) or any(
        wanted not in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    ):
        wanted = " × ".join("any" if length is None else str(length) for length in shape)
        raise DataError(f"The array {name!r} has the shape {array.shape}, not {wanted}.")
    if not _is_finite(array):
        raise DataError(f"The array {name!r} has values that are not finite.")
    return array


def _is_finite(array: np.ndarray) -> bool:
    """Return whether all values are finite, in blocks: a mask of all would take memory."""
    if not np.issubdtype(array.dtype, np.inexact):
        return True
    flat = array.reshape(-1)
    blocks = range(0, flat.size, _BLOCK)
    return all(bool(np.isfinite(flat[start : start + _BLOCK]).all()) for start in blocks)


def checked_csr(
    arrays: Mapping[str, np.ndarray],
    name: str,
    *,
    dtype: type[np.generic],
    shape: tuple[int, int],
) -> sparse.csr_array:
    """Return a sparse matrix of a model file, if every entry lies inside it.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        With ``{name}.indptr`` of int64, ``{name}.indices`` of int32 and
        ``{name}.data``.
    name : str
    dtype : type
        Type of the entries, such as ``numpy.float32``.
    shape : tuple of int

    Raises
    ------
    DataError
        An array is not as `checked_array` wants it, or they make no matrix of
        that shape.
    """
    data = checked_array(arrays, f"{name}.data", dtype=dtype, shape=(None,))
    indices = checked_array(arrays, f"{name}.indices", dtype=np.int32, shape=(len(data),))
    indptr = checked_array(arrays, f"{name}.indptr", dtype=np.int64, shape=(shape[0] + 1,))
    # SciPy looks no further where the last of them is 0, and would then read anywhere. They are
    # compared and not subtracted: a difference may overflow, and look like a step forward.
    if (indptr[1:] < indptr[:-1]).any() or indptr[0] != 0 or indptr[-1] != len(data):
        raise DataError(f"The array '{name}.indptr' does not cut {len(data)} entries into rows.")
    if len(data) < 2**31:
        indptr = indptr.astype(np.int32)  # else SciPy makes a copy of the columns, in 64 bits
    try:
        matrix = sparse.csr_array((data, indices, indptr), shape=shape)
        matrix.check_format(full_check=True)
    except ValueError as exc:
        raise DataError(f"The arrays '{name}' are not a sparse matrix: {exc}.") from exc
    return matrix
