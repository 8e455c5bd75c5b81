"""The report of the rows that an import refused."""

import contextlib
import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from reckeeper.errors import DataError
from reckeeper.tabular import RefusedLine

_SHOWN = 5
_EXAMPLES = 3
_REASONS = 100
"""So many are told apart; those of others are in the report alone."""


NO_WEIGHT = "has no weight"
"""How the reason begins of a type that the policy does not weigh: each is told by itself."""


@dataclass(frozen=True)
class Example:
    """A row that was refused: its line, and the value that was why."""

    line: int
    value: str


@dataclass
class RefusedGroup:
    """Rows of a file that were refused for one reason: how many, and a few of them."""

    file: str
    column: str
    reason: str
    rows: int
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
        self._stack.close()

    def add(self, lines: Sequence[RefusedLine]) -> None:
        """List rows that were refused."""
        if not lines:
            return
        if self._writer is None:
            self._begin()
        self._writer.writerows(dataclasses.astuple(line) for line in lines)
        self.first.extend(lines[: _SHOWN - len(self.first)])
        self.count += len(lines)
        for line in lines:
            self._group(line)

    def groups(self) -> list[RefusedGroup]:
        """Return why rows were refused, those of one reason together, in the order they came."""
        return list(self._groups.values())

    def _group(self, line: RefusedLine) -> None:
        key: tuple[str, ...] = (line.file, line.column, line.reason)
        if line.reason.startswith(NO_WEIGHT):
            key = (*key, line.value)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) == _REASONS:
                return
            group = RefusedGroup(line.file, line.column, line.reason, 0, [])
            self._groups[key] = group
        group.rows += 1
        if len(group.examples) < _EXAMPLES:
            group.examples.append(Example(line.line, line.value))

    def _begin(self) -> None:
        try:
            if not self._even_if_none:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(self.path.open("w", newline="", encoding="utf-8"))
        except OSError as exc:
            raise DataError(
                f"The report of refused rows cannot be written to {self.path}: {exc.strerror}. "
                "Name another file."
            ) from exc
        self.is_written = True
        self._writer = csv.writer(file)
        self._writer.writerow(field.name for field in dataclasses.fields(RefusedLine))
