"""JSON objects, one a line or in an array, in bounded memory; and tables of them."""

import contextlib
import itertools
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from reckeeper.errors import DataError
from reckeeper.tabular.columns import chunk_of, shown
from reckeeper.tabular.files import FileSource
from reckeeper.tabular.forms import Form, Kind
from reckeeper.tabular.json_elements import MOST_BYTES, Broken, Elements
from reckeeper.tabular.json_names import TYPES, Names, names_within
from reckeeper.tabular.lines import lines_of
from reckeeper.tabular.source import CHUNK_ROWS, VALUE_SHOWN, Chunk, RefusedLine
from reckeeper.tabular.streams import Content, Stream, unpacked
from reckeeper.tabular.translation import Translated

_AT_ONCE = 250
"""Objects of which a few values are taken: fewer than what has Python look for garbage."""

_MOST_LOOKED_AT = 1_000_000
"""Objects in which the first with a known name is sought."""

_LOOKED_AT = 16
"""So many times `_AT_ONCE` are looked at for names of columns."""

_PLACE = re.compile(r" at line 1 column")
_BEGIN = re.compile(r"\s*(?:\{\s*(?:[\"}]|\Z)|\[\s*(?:[\[{\]]|\Z))")


class Objects(NamedTuple):
    """Some objects, each with its line or its place, what is none, and how much was read."""

    rows: list[dict[str, Any]]
    lines: list[int]
    broken: list[RefusedLine]
    bytes_done: int


def read_objects(path: Path, form: Form, *, at_once: int = 5_000) -> Generator[Objects, None, None]:
    """Give the objects of a file: of JSON lines, of an array, or of things behind each other.

    Parameters
    ----------
    path : Path
    form : Form
        As `detect` returns it, of a kind that is JSON.
    at_once : int
        So many are given at a time, or a few more.

    Raises
    ------
    DataError
        The file cannot be read or unpacked.
    """
    with unpacked(path, form.compression or "none", max_ratio=form.max_ratio) as content:
        read = _of_lines if form.kind is Kind.JSON_LINES else _of_elements
        yield from read(content, Translated(content, form), path.name, at_once)


def json_kind(text: str) -> Kind | None:
    """Return which kind of JSON a text is that begins so; None for none.

    Names in brackets, as some databases write them, are none.
    """
    if not _BEGIN.match(text):
        return None
    # Bytes, since text has line ends that are none in JSON.
    lines = [line for line in text.encode(errors="surrogatepass").splitlines() if line.strip()]
    if not lines[0].lstrip().startswith(b"{"):
        return Kind.JSON
    try:
        from_json(lines[0])
    except ValueError:
        is_broken_line = len(lines) < 2 or lines[1].lstrip().startswith(b"{")
        return Kind.JSON_LINES if is_broken_line else Kind.JSON
    return Kind.JSON_LINES


def _of_lines(content: Content, text: Stream, file: str, at_once: int) -> Iterator[Objects]:
    """Give the objects of JSON lines; a line that is none costs itself, an empty one nothing."""
    number = 0
    for lines in lines_of(text, at_most=MOST_BYTES):
        for start in range(0, len(lines), at_once):
            part = lines[start : start + at_once]
            rows = _all_of(part)
            if rows is not None:
                numbers = range(number + 1, number + len(rows) + 1)
                yield Objects(rows, [*numbers], [], content.bytes_done)
            else:
                yield _some_of(part, number, file)._replace(bytes_done=content.bytes_done)
            number += len(part)


def _all_of(lines: list[bytes]) -> list[dict[str, Any]] | None:
    """Return the objects of lines that are all sound; None if one is not."""
    if max(map(len, lines)) > MOST_BYTES:
        return None
    try:
        rows = [from_json(line, cache_strings="keys") for line in lines]
    except ValueError:
        return None
    return rows if set(map(type, rows)) == {dict} else None


def _some_of(lines: list[bytes], before: int, file: str) -> Objects:
    """Return the objects of lines behind so many, and those that are none."""
    found = Objects([], [], [], 0)
    for number, line in enumerate(lines, before + 1):
        if not line.strip():
            continue
        reason = f"is longer than {MOST_BYTES:,} bytes"
        if len(line) <= MOST_BYTES:
            try:
                row = from_json(line, cache_strings="keys")
            except ValueError as exc:
                reason = f"is no JSON: {_PLACE.sub(' at its character', str(exc))}"
            else:
                if isinstance(row, dict):
                    found.rows.append(row)
                    found.lines.append(number)
                    continue
                reason = "is no JSON object"
        what = line[:VALUE_SHOWN].decode(errors="backslashreplace").strip()
        found.broken.append(RefusedLine(file, number, "", what, reason))
    return found


def _of_elements(content: Content, text: Stream, file: str, at_once: int) -> Iterator[Objects]:
    """Give the objects of an array, or of several things behind each other, by their places."""
    elements = Elements(text, file)
    found, n_pieces, number = Objects([], [], [], 0), 0, 0
    for some in elements:
        if isinstance(some, Broken):
            number += 1
            found.broken.append(RefusedLine(file, number, "", *some))
        else:
            _sort(some, number, found, file)
            number += len(some)
        if elements.n_pieces > n_pieces or len(found.rows) + len(found.broken) >= at_once:
            yield found._replace(bytes_done=content.bytes_done)
            found, n_pieces = Objects([], [], [], 0), elements.n_pieces
    yield found._replace(bytes_done=content.bytes_done)


def _sort(values: list[Any], before: int, found: Objects, file: str) -> None:
    """Add values behind so many to what was found: objects, and what is none."""
    if set(map(type, values)) == {dict}:
        found.rows.extend(values)
        found.lines.extend(range(before + 1, before + len(values) + 1))
        return
    for number, value in enumerate(values, before + 1):
        if isinstance(value, dict):
            found.rows.append(value)
            found.lines.append(number)
        else:
            line = RefusedLine(file, number, "", shown(value), "is no JSON object")
            found.broken.append(line)


class ObjectSource(FileSource):
    """Objects as a table: a column for each part that has a value, named by its path.

    The names are those of the first four thousand objects. Below a list, a path gives a list.

    Parameters
    ----------
    path, form, name
        As of `FileSource`.
    known : collection of str
        Of these names those that only later objects have are columns, too: in `late`, with the
        first object that has them.
    named : collection of str
        Columns that are there if any object has them.
    """

    def __init__(
        self,
        path: Path,
        form: Form,
        name: str | None,
        *,
        known: Collection[str] = (),
        named: Collection[str] = (),
    ) -> None:
        super().__init__(path, form, name)
        self.bytes_done = 0
        names = Names(named)
        with contextlib.closing(read_objects(path, form, at_once=_AT_ONCE)) as batches:
            looked_at = list(itertools.islice(batches, _LOOKED_AT))
        for found in looked_at:
            for row in found.rows:
                names.look_into(row)
        self._paths = names.paths()
        if not self._paths:
            first = next((line for found in looked_at for line in found.broken), None)
            why = f": {self.unit} {first.line} {first.reason}" if first else ""
            raise DataError(f"{self.name} has no objects with something in them{why}.")
        n_looked_at = max((line for found in looked_at for line in found.lines), default=0)
        self._look_for_late(names, n_looked_at, known, named)
        self.columns = list(self._paths)

    def _look_for_late(
        self, names: Names, n_looked_at: int, known: Collection[str], named: Collection[str]
    ) -> None:
        """Find the columns that only objects behind those looked at have."""
        there = {key for path in self._paths.values() for key in path}
        keys = names_within(self.path, self.form, known=known) - there if known else set()
        missing = set(named) - self._paths.keys()
        if not keys and not missing:
            return
        for found in read_objects(self.path, self.form):
            for line, row in zip(found.lines, found.rows, strict=True):
                n_names = len(names)
                if line > n_looked_at:
                    names.look_into(row)
                if len(names) > n_names:
                    self._take_late(names, line, keys, missing)
            n_seen = max(found.lines, default=0)
            if not missing and (not keys or n_seen > _MOST_LOOKED_AT):
                break
        self.late |= dict.fromkeys(sorted(keys), 0)

    def _take_late(self, names: Names, line: int, keys: set[str], missing: set[str]) -> None:
        """Take those of the new columns that are sought, and seek them no more."""
        for name, path in names.paths().items():
            if name not in self._paths and (name in missing or keys.intersection(path)):
                self._paths[name] = path
                self.late[name] = line
                missing.discard(name)
                keys.difference_update(path)

    def chunks(self, wanted: Sequence[str], *, at_most: int = CHUNK_ROWS) -> Iterator[Chunk]:
        """Give the rows, so many at a time."""
        held = _Held(wanted, self.short_name)
        for found in read_objects(self.path, self.form, at_once=_AT_ONCE):
            self.bytes_done = found.bytes_done
            held.add(found, [self._paths[name] for name in wanted])
            if len(held.lines) + len(held.broken) >= min(at_most, CHUNK_ROWS // 2):
                yield held.taken()
        if held.lines or held.broken:
            yield held.taken()


class _Held:
    """What was read of some rows, until it is a chunk."""

    def __init__(self, wanted: Sequence[str], file: str) -> None:
        self._file = file
        self._values: dict[str, list[object]] = {name: [] for name in wanted}
        self.lines: list[int] = []
        self.broken: list[RefusedLine] = []

    def add(self, found: Objects, paths: Sequence[tuple[str, ...]]) -> None:
        for values, path in zip(self._values.values(), paths, strict=True):
            if len(path) == 1:
                (key,) = path
                values += [row.get(key) for row in found.rows]
            else:
                values += [_part(row, path) for row in found.rows]
        self.lines += found.lines
        self.broken += found.broken

    def taken(self) -> Chunk:
        chunk = chunk_of(self._values, self.lines, file=self._file, broken=self.broken)
        for values in self._values.values():
            values.clear()
        self.lines, self.broken = [], []
        return chunk


def _part(value: object, path: tuple[str, ...]) -> object:
    """Return what is at a path in an object; of a list, what is there in each of its items."""
    for place, key in enumerate(path):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list):
            return [_part(item, path[place:]) for item in value]
        else:
            return value if all(key in TYPES for key in path[place:]) else None
    return value
