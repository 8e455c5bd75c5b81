"""What sources of files have in common."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from reckeeper.tabular import streams
from reckeeper.tabular.forms import Form
from reckeeper.tabular.source import Chunk


class FileSource:
    """A file: its names, its form, its size."""

    database_id: str | None = None
    has_header = False

    def __init__(self, path: Path, form: Form, name: str | None) -> None:
        self.path = path
        self.name = name or str(path)
        self.short_name = name or path.name
        self.form = form
        self.unit = form.unit
        self.bytes_total = path.stat().st_size
        self.late: dict[str, int] = {}

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file's content, unpacked, in hexadecimal."""
        return streams.fingerprint(self.path, max_ratio=self.form.max_ratio)


def one_line(exc: BaseException) -> str:
    """Return the first line of a message, to stand in a sentence."""
    return (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(".")


def regrouped(chunks: Iterator[Chunk], at_most: int) -> Iterator[Chunk]:
    """Join small chunks and cut large ones, so that they have most of so many rows."""
    held: list[Chunk] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(len(one.lines) + len(one.broken) for one in held) > 0.7 * at_most:
            yield from _slices(_joined(held), at_most)
            held = []
    if held:
        yield from _slices(_joined(held), at_most)


def _joined(chunks: list[Chunk]) -> Chunk:
    return Chunk(
        {
            name: pa.concat_arrays([one.columns[name] for one in chunks])
            for name in chunks[0].columns
        },
        np.concatenate([one.lines for one in chunks]),
        [line for one in chunks for line in one.broken],
    )


def _slices(chunk: Chunk, at_most: int) -> Iterator[Chunk]:
    """Cut rows into equal parts of at most so many; the broken ones go with the first."""
    n_rows = len(chunk.lines)
    n_parts = max(-(-n_rows // at_most), 1 if chunk.broken else 0)
    for number in range(n_parts):
        start, stop = n_rows * number // n_parts, n_rows * (number + 1) // n_parts
        yield Chunk(
            {name: values.slice(start, stop - start) for name, values in chunk.columns.items()},
            chunk.lines[start:stop],
            chunk.broken if number == 0 else [],
        )
