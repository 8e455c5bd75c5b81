"""The report of the rows that an import refused."""

import contextlib
import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from reckeeper.errors import DataError
from reckeeper.tabular import RefusedLine

_SHOWN = 5
_EXAMPLES = 3
_REASONS = 100
"""So many are told apart; those of others are in the report alone."""


_NAMES = [field.name for field in dataclasses.fields(RefusedLine)]

NO_WEIGHT = "has no weight"
"""How the reason begins of a type that the policy does not weigh: each is told by itself."""


@dataclass(frozen=True)
class Example:
    """A row that was refused: its line, and the value that was why."""

    line: int
    value: str


@dataclass
class RefusedGroup:
    """Rows of a file that were refused for one reason: how many, and a few of them.

    `unit` says what their lines count: ``line``, ``row`` or ``element``.
    """

    file: str
    column: str
    reason: str
    rows: int
    unit: str
    examples: list[Example]


class RefusedRows:
    """The report of refused rows, written as they come."""

    def __init__(self, path: Path, *, even_if_none: bool) -> None:
        self.path = path
        self.count = 0
        self.first: list[RefusedLine] = []
        self.is_written = False
        self._groups: dict[tuple[str, ...], RefusedGroup] = {}
        self._even_if_none = even_if_none
        self._stack = contextlib.ExitStack()
        self._writer: Any = None
        self._file: TextIO

    def __enter__(self) -> Self:
        if self._even_if_none:
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
        except OSError as error:
            if exc is None:
                raise self._unwritten(error) from error

    def add(self, lines: Sequence[RefusedLine], *, unit: str) -> None:
        """List rows that were refused; `unit` is what their lines count."""
        if not lines:
            return
        if self._writer is None:
            self._begin()
        try:
            self._writer.writerows(dataclasses.astuple(line) for line in lines)
            self._file.flush()
        except OSError as error:
            raise self._unwritten(error) from error
        self.first.extend(lines[: _SHOWN - len(self.first)])
        self.count += len(lines)
        for line in lines:
            self._group(line, unit)

    def groups(self) -> list[RefusedGroup]:
        """Return why rows were refused, those of one reason together, in the order they came."""
        return list(self._groups.values())

    def _group(self, line: RefusedLine, unit: str) -> None:
        key: tuple[str, ...] = (line.file, line.column, line.reason)
        if line.reason.startswith(NO_WEIGHT):
            key = (*key, line.value)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) == _REASONS:
                return
            group = RefusedGroup(line.file, line.column, line.reason, 0, unit, [])
            self._groups[key] = group
        group.rows += 1
        if len(group.examples) < _EXAMPLES:
            group.examples.append(Example(line.line, line.value))

    def _begin(self) -> None:
        try:
            if not self._even_if_none:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            elif _is_of_others(self.path):
                raise DataError(
                    f"{self.path} is there already, and is no report of refused rows: name another "
                    "file for that."
                )
            self._file = self.path.open("w", newline="", encoding="utf-8")
            self._stack.enter_context(self._file)
            self.is_written = True
            self._writer = csv.writer(self._file)
            self._writer.writerow(_NAMES)
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._stack.close()
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> DataError:
        return DataError(
            f"The report of refused rows cannot be written to {self.path}: {error.strerror}. "
            "Name another file."
        )


def _is_of_others(path: Path) -> bool:
    """Say whether a file is there with something in it that is no report, and would be lost."""
    if not path.is_file():
        return False  # a pipe or a terminal, perhaps, which loses nothing
    head = ",".join(_NAMES).encode()
    with path.open("rb") as file:
        return file.read(len(head)) not in (b"", head)
