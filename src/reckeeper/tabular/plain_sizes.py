"""What Arrow keeps in little room: how much it takes once every value stands for itself."""

from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.tabular.columns import is_list, is_text

MOST_BYTES = 64 * 1024 * 1024
"""Of rows that are read at once."""

_NUMBER_BYTES = 8


def parts_of(batch: pa.RecordBatch, names: Collection[str]) -> Iterator[pa.RecordBatch]:
    """Give the rows of a batch, so many at a time as take `MOST_BYTES` at most, or one.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
    names : collection of str
        The columns that are looked at.
    """
    n_bytes = sum(plain_bytes(batch.column(name)) for name in names)
    if batch.num_rows <= 1 or n_bytes <= MOST_BYTES:
        yield batch
        return
    half = batch.num_rows // 2
    yield from parts_of(batch.slice(0, half), names)
    yield from parts_of(batch.slice(half), names)


def plain_bytes(values: pa.Array) -> int:
    """Return how many bytes values take that are kept in less: those of a dictionary, of runs, and
    of views, each of which may be one value many times. Others count nothing.
    """
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return plain_bytes(values.storage)
    if pa.types.is_dictionary(kind):
        places = pc.fill_null(values.indices, 0).to_numpy(zero_copy_only=False)
        sizes = _sizes(values.dictionary)
        return int(np.take(sizes, places, mode="clip").sum()) if len(sizes) else 0
    if pa.types.is_run_end_encoded(kind):
        return len(values) * int(_sizes(values.values).max(initial=0))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return int(_sizes(values).sum())
    if pa.types.is_struct(kind):
        return sum(plain_bytes(values.field(place)) for place in range(kind.num_fields))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        n_items = pc.sum(pc.list_value_length(values)).as_py() or 0
        return int(n_items) * int(_sizes(values.values).max(initial=0))
    return plain_bytes(pc.list_flatten(values)) if is_list(kind) else 0


def _sizes(values: pa.Array) -> np.ndarray:
    """Return how many bytes each value takes; what is nested counts whole for each."""
    kind = values.type
    if is_text(kind):
        lengths: np.ndarray = pc.fill_null(pc.binary_length(values), 0).to_numpy()
        return lengths.astype(np.int64)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(values.buffers()[1], np.int32).reshape(-1, 4)
        return views[values.offset : values.offset + len(values), 0].astype(np.int64)
    if pa.types.is_fixed_size_binary(kind):
        return np.full(len(values), kind.byte_width)
    is_nested = pa.types.is_nested(kind) or pa.types.is_dictionary(kind)
    whole = values.nbytes + plain_bytes(values) if is_nested else _NUMBER_BYTES
    return np.full(len(values), whole)
