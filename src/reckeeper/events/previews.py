"""What a file of interactions was found to be, and its first rows: before it is imported."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reckeeper import clock
from reckeeper.errors import DataError
from reckeeper.events.cells import head_of, shown
from reckeeper.events.columns import Choice, Part
from reckeeper.events.formats import FileFormat, look, see_that_there_are
from reckeeper.events.readings import decide, from_start
from reckeeper.events.rows import RowCheck
from reckeeper.tabular import Chunk, Form, RefusedLine, Source, detect, open_source, spread


@dataclass(frozen=True)
class PreviewRow:
    """A row as it would be stored; `occurred_at` in microseconds UTC, None: when it is imported."""

    line: int
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: int | None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a file was found to be.

    Attributes
    ----------
    form : Form
        What it is, with nothing left to be found out.
    columns : list of str
        The names of all columns.
    parts : list of Part
        Which column is which part of an interaction, and by which rule.
    choices : list of Choice
        What has to be said before it can be imported: parts that several columns
        could be, and those that none is known to be.
    notes : list of str
        What should be known of how it is read.
    rows : list of PreviewRow
        The first rows; none where something has to be said first.
    cells : list of list of str
        The first rows as they stand in the file, a value for each column.
    refused : list of RefusedLine
        What of the first rows would be refused.
    """

    form: Form
    columns: list[str]
    parts: list[Part]
    choices: list[Choice]
    notes: list[str]
    rows: list[PreviewRow]
    cells: list[list[str]]
    refused: list[RefusedLine]


def preview(
    path: Path, format: FileFormat | None = None, *, types: Mapping[str, float], n: int = 20
) -> Preview:
    """Look at a file's first rows as an import would.

    Parameters
    ----------
    path : Path
    format : FileFormat, optional
        What is known of it already.
    types : mapping of str to float
        The accepted interaction types.
    n : int
        So many rows are looked at.

    Raises
    ------
    DataError
        The file cannot be read, or a column that the format names is not there.
    """
    format = format or FileFormat()
    form = detect(path, format.form, known=format.names)
    with open_source(path, form, known=format.names, named=format.named) as source:
        found = look(source, format)
        see_that_there_are(found, source)
        first = next(source.chunks(list(dict.fromkeys(source.columns))), None)
        if first is None:
            raise DataError(f"{source.name} has column names but no rows.")
        head = head_of(first, n)
        cells = _cells(source, first, n)
        notes = [*found.notes]
        rows: list[PreviewRow] = []
        refused = [line for line in head.broken if not line.column]
        if not found.choices:
            used = list(dict.fromkeys(found.columns.values()))
            if _has_misfits(first):
                first = next(source.chunks(used))
            first = first._replace(columns={name: first.columns[name] for name in used})
            first = next(spread(first, file=source.short_name))
            reading = decide(first, found.columns, format, again=from_start(path, form))
            check = RowCheck(
                source,
                columns=found.columns,
                format=format,
                types=types,
                fingerprint="",
                reading=reading,
            )
            rows, refused = _judged(check, head_of(first, n), format)
            notes += reading.notes
    return Preview(
        form=form,
        columns=source.columns,
        parts=found.parts,
        choices=found.choices,
        notes=notes,
        rows=rows,
        cells=cells,
        refused=refused,
    )


def _cells(source: Source, first: Chunk, n: int) -> list[list[str]]:
    """Return the first rows as they stand in the file."""
    if not _has_misfits(first):
        return [
            [shown(first.columns[name][row]) for name in source.columns]
            for row in range(min(n, len(first.lines)))
        ]
    found = {name: _alone(source, name, n) for name in source.columns}
    lines = sorted({line for texts in found.values() for line in texts})[:n]
    return [[found[name].get(line, "") for name in source.columns] for line in lines]


def _has_misfits(chunk: Chunk) -> bool:
    """Say whether values do not fit into their columns, as in JSON: whoever asks lacks the rows."""
    return any(line.column for line in chunk.broken)


def _alone(source: Source, column: str, n: int) -> dict[int, str]:
    """Return the first values of a column by their lines."""
    chunk = next(source.chunks([column]))
    texts = {line.line: line.value for line in chunk.broken if line.column}
    values = zip(chunk.lines[:n].tolist(), map(shown, chunk.columns[column][:n]), strict=True)
    return texts | dict(values)


def _judged(
    check: RowCheck, head: Chunk, format: FileFormat
) -> tuple[list[PreviewRow], list[RefusedLine]]:
    judged = check.judge(head, arrived_at=clock.now())
    chosen = np.flatnonzero(judged.refusals.is_good)
    values = zip(head.lines[chosen].tolist(), *judged.at(chosen).values(), strict=True)
    rows = [PreviewRow(*row) for row in values]
    if format.default_time is None:
        rows = [
            dataclasses.replace(row, occurred_at=None) if is_timeless else row
            for row, is_timeless in zip(rows, judged.is_timeless[chosen], strict=True)
        ]
    return rows, judged.refusals.refused()
