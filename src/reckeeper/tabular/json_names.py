"""The columns of JSON objects: where each lies, and those that the first objects do not have."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from reckeeper.tabular.forms import Form
from reckeeper.tabular.streams import unpacked

MOST_COLUMNS = 1_000
TYPES = {
    *("$oid", "$uuid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"),
}
"""What MongoDB's exports put around values; no part of a column's name."""

_ITEMS_LOOKED_AT = 10
_WHOLE_BYTES = 4 * 1024 * 1024
"""A file of at most so many is looked at from end to end for names."""

_PLACES = 256
_PLACE_BYTES = 16 * 1024
_PACKED_BYTES = 1024**3
"""So much of what is packed is looked at, since all before a place must be unpacked."""

_NAME = re.compile(r'"([^"]*)"\s*:')
_BETWEEN_WORDS = re.compile(r"[\s_.\-]+")

KeyPath = tuple[str, ...]


class Names:
    """The names of columns, each with the keys that lead to it.

    Parameters
    ----------
    named : collection of str
        Names that are taken however many there are.
    """

    def __init__(self, named: Collection[str] = ()) -> None:
        self._named = named
        self._paths: dict[str, KeyPath] = {}
        self._filled: set[KeyPath] = set()

    def look_into(self, value: object, path: KeyPath = ()) -> None:
        """Take the names of an object's parts."""
        if isinstance(value, dict):
            for key, part in value.items():
                self.look_into(part, (*path, key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for item in value[:_ITEMS_LOOKED_AT]:
                self.look_into(item, path)
        elif any(key not in TYPES for key in path):
            name = name_of(path)
            if len(self._paths) < MOST_COLUMNS or name in self._named:
                self._paths.setdefault(name, path)
                if value not in (None, []):
                    self._filled.add(path)

    def __len__(self) -> int:
        return len(self._paths)

    def paths(self) -> dict[str, KeyPath]:
        """Return the columns; what is empty wherever it has no parts is none."""
        within = {path[:end] for path in self._paths.values() for end in range(1, len(path))}
        return {
            name: path
            for name, path in self._paths.items()
            if path not in within or path in self._filled
        }


def name_of(path: KeyPath) -> str:
    """Return the name of the column that keys lead to."""
    name = ".".join(key for key in path if key not in TYPES)
    return name.encode(errors="backslashreplace").decode()


def names_within(path: Path, form: Form, *, known: Collection[str]) -> set[str]:
    """Return the keys that a file has somewhere and whose names are known.

    A large one is looked at in many places: what few objects have may be missed.
    """
    usual = {_plain(name) for name in known}
    found: set[str] = set()
    for text in _pieces(path, form):
        found.update(_NAME.findall(text))
    return {name for name in found if _plain(name) in usual or _plain(name.split(".")[-1]) in usual}


def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub("", name.casefold())


def _pieces(path: Path, form: Form) -> Iterator[str]:
    """Give text of places all over a file."""
    encoding = form.encoding or "utf-8"
    size = path.stat().st_size
    if form.compression == "none" and size > _WHOLE_BYTES:
        with path.open("rb") as file:
            for number in range(_PLACES):
                file.seek((size - _PLACE_BYTES) * number // (_PLACES - 1) // 4 * 4)
                yield file.read(_PLACE_BYTES).decode(encoding, "replace")
        return
    with unpacked(path, form.compression or "none", max_ratio=form.max_ratio) as content:
        n_read = 0
        while n_read < _PACKED_BYTES and (piece := content.read(_PLACE_BYTES)):
            yield piece.decode(encoding, "replace")
            n_read += len(piece)
            if n_read > _WHOLE_BYTES:
                content.skip(63 * _PLACE_BYTES)
                n_read += 63 * _PLACE_BYTES
