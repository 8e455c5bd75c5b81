"""The messages of Arrow's own format: how much each unpacks to, told before it is."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

_FOOTER = struct.Struct("<i6s")
_BLOCK = struct.Struct("<qi4xq")
_BUFFER = struct.Struct("<qq")
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


class Unpacked(NamedTuple):
    """How many bytes a message unpacks to, and the largest part of it; 0 if it is not packed."""

    n_bytes: int
    largest: int
    is_dictionary: bool


def unpacked_sizes(path: Path, *, is_stream: bool) -> Iterator[Unpacked]:
    """Give how much each batch of a file unpacks to, and each dictionary.

    Raises
    ------
    ValueError
        The file is not sound.
    """
    with pa.memory_map(str(path)) as file:
        try:
            for message in _messages(file, is_stream=is_stream):
                yield _size_of(message)
        except (struct.error, IndexError, OverflowError, EOFError) as exc:
            raise ValueError(f"the head of a batch cannot be read: {exc}") from exc


def _messages(file: pa.MemoryMappedFile, *, is_stream: bool) -> Iterator[pa.Message]:
    if is_stream:
        try:
            yield from pa.ipc.MessageReader.open_stream(file)
        except EOFError:  # there is no mark at its end, which need not be
            return
        return
    content = file.read_buffer()
    n_bytes, _ = _FOOTER.unpack(content[-_FOOTER.size :])
    footer = _Table.root(memoryview(content[-_FOOTER.size - n_bytes : -_FOOTER.size]))
    for blocks in (2, 3):
        for offset, n_head_bytes, n_body_bytes in footer.structs(blocks, _BLOCK):
            if offset < 0 or n_head_bytes < 0 or n_body_bytes < 0:
                raise ValueError("a batch has no place in it")
            yield pa.ipc.read_message(content[offset : offset + n_head_bytes + n_body_bytes])


def _size_of(message: pa.Message) -> Unpacked:
    root = _Table.root(memoryview(message.metadata))
    kind = root.number(1, "<B")
    batch = root.table(2)
    is_dictionary = kind == _DICTIONARY_BATCH
    if batch is not None and is_dictionary:
        batch = batch.table(1)
    if batch is None or not (is_dictionary or kind == _RECORD_BATCH) or not batch.place(3):
        return Unpacked(0, 0, is_dictionary)
    body = memoryview(message.body)
    sizes = [
        struct.unpack_from("<q", body, offset)[0]
        for offset, n_bytes in batch.structs(2, _BUFFER)
        if n_bytes > 0
    ]
    sizes = [size for size in sizes if size > 0]  # -1: it is as it stands
    return Unpacked(sum(sizes), max(sizes, default=0), is_dictionary)


class _Table:
    """A table of a flatbuffer, in which the heads of messages are written."""

    def __init__(self, content: memoryview, at: int) -> None:
        self._content = content
        self._at = at

    @classmethod
    def root(cls, content: memoryview) -> "_Table":
        return cls(content, struct.unpack_from("<I", content)[0])

    def place(self, field: int) -> int:
        """Return where a field stands; 0: it has none."""
        fields = self._at - self._read("<i", self._at)
        slot = 4 + 2 * field
        if slot >= self._read("<H", fields):
            return 0
        offset = self._read("<H", fields + slot)
        return self._at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        place = self.place(field)
        return self._read(form, place) if place else 0

    def table(self, field: int) -> "_Table | None":
        place = self.place(field)
        return _Table(self._content, place + self._read("<I", place)) if place else None

    def structs(self, field: int, form: struct.Struct) -> Iterator[tuple[Any, ...]]:
        place = self.place(field)
        if place:
            begin = place + self._read("<I", place)
            n_bytes = self._read("<I", begin) * form.size
            yield from form.iter_unpack(self._content[begin + 4 : begin + 4 + n_bytes])

    def _read(self, form: str, at: int) -> int:
        if at < 0:
            raise IndexError("it points outside")
        return int(struct.unpack_from(form, self._content, at)[0])
