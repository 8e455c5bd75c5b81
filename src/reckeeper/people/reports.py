"""The reports of refused rows, without the rows that name a person."""

import contextlib
import csv
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from reckeeper import durable, storage

HEAD = ["file", "line", "column", "value", "reason"]
"""The first line of such a report."""

_LINE = HEAD.index("line")


def scrub(reports: Iterable[Path], user_ids: Collection[str]) -> int:
    """Take rows that name a user out of reports; return how many.

    A file that is no such report, or cannot be read, is left as it is.
    """
    names = storage.erasures.is_named(user_ids)
    # A pipe keeps nothing, and to open one waits until somebody writes.
    return sum(_scrub(path, names) for path in reports if path.is_file())


def all_in(connection: storage.Connection, data_dir: Path) -> list[Path]:
    """Return the reports of the data folder, and those that imports were told to write here."""
    told = (row.report for row in storage.imports.all_imports(connection))
    elsewhere = {Path(report) for report in told if report}
    return sorted({*(data_dir / "imports").glob("*-refused.csv"), *elsewhere})


def _scrub(path: Path, names: storage.erasures.Names) -> int:
    with contextlib.suppress(OSError, csv.Error, StopIteration), _opened(path) as rows:
        if next(rows) != HEAD:
            return 0
        n_taken = sum(1 for row in rows if _is_of(row, names))
        if not n_taken:
            return 0
        with (
            _opened(path) as rows,
            durable.replaced_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as target,
        ):
            os.chmod(temporary, path.stat().st_mode & 0o777)
            csv.writer(target).writerows(row for row in rows if not _is_of(row, names))
        return n_taken
    return 0


def _is_of(row: list[str], names: storage.erasures.Names) -> bool:
    return any(names(cell) for place, cell in enumerate(row) if place != _LINE)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Iterator[list[str]]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        yield csv.reader(stream)
