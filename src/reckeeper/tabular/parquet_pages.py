"""The pages of a Parquet file: how much each unpacks to, told by its head alone."""

from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

_HEAD_BYTES = (1024, 1024 * 1024)
"""So much is read for the head of a page, and where statistics make it longer."""

_MOST_DEPTH = 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_NUMBERS = (4, 5, 6)
"""Types of Thrift's compact protocol, in which heads are written; no head has a map."""

_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_2 = 2, 3, 5, 7, 8
"""Fields of a head."""


class Page(NamedTuple):
    """How many bytes a page unpacks to, and how many values it has."""

    n_bytes: int
    n_values: int
    is_dictionary: bool


def pages_of(file: BinaryIO, column: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Give the pages of a column in a row group.

    Parameters
    ----------
    file : binary file
        The Parquet file.
    column : ColumnChunkMetaData

    Raises
    ------
    ValueError
        A head cannot be read.
    """
    at = int(column.data_page_offset)
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < at:
        at = int(column.dictionary_page_offset)
    end = at + int(column.total_compressed_size)
    n_left = int(column.num_values)
    while at < end and n_left > 0:
        head, n_head_bytes = _head_at(file, at)
        kind = next((kind for kind in (_DATA, _DATA_2, _DICTIONARY) if kind in head), None)
        of_kind = head.get(kind, {}) if kind is not None else {}
        told = of_kind.get(1, 0) if isinstance(of_kind, dict) else None
        sizes = (head.get(_UNPACKED), head.get(_PACKED), told)
        if not all(isinstance(size, int) and size >= 0 for size in sizes):
            raise ValueError("the head of a page lacks its size")
        n_bytes, n_packed_bytes, n_values = (int(size or 0) for size in sizes)
        yield Page(n_bytes, n_values, kind == _DICTIONARY)
        if kind in (_DATA, _DATA_2):
            n_left -= n_values
        at += n_head_bytes + n_packed_bytes


def _head_at(file: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    for size in _HEAD_BYTES:
        file.seek(at)
        reader = _Reader(file.read(size))
        try:
            return reader.struct(), reader.at
        except IndexError:
            continue
    raise ValueError("the head of a page does not end")


class _Reader:
    """Reads the compact protocol of Thrift: a struct is a dict by the numbers of its fields."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MOST_DEPTH:
            raise ValueError("the head of a page is too deep")
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            found[field] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in _NUMBERS:
            return self._number()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._items(depth)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._varint())
            return None
        raise ValueError("the head of a page has a part of no known type")

    def _items(self, depth: int) -> list[Any]:
        head = self._byte()
        n_items = head >> 4 if head >> 4 < 15 else self._varint()
        if n_items > len(self._content):
            raise IndexError
        return [self._value(head & 15, depth) for _ in range(n_items)]

    def _number(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for place in range(10):
            byte = self._byte()
            number |= (byte & 127) << 7 * place
            if byte < 128:
                return number
        raise ValueError("the head of a page has a number without an end")

    def _byte(self) -> int:
        byte = self._content[self.at]
        self.at += 1
        return byte

    def _skip(self, n_bytes: int) -> None:
        self.at += n_bytes
        if self.at > len(self._content):
            raise IndexError
