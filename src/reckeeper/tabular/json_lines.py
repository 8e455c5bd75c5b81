"""Reading JSON lines: one object a line, plain or with gzip."""

import contextlib
import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json

from reckeeper.errors import DataError
from reckeeper.tabular.source import VALUE_SHOWN, RefusedLine

_CHUNK_LINES = 5_000


class Objects(NamedTuple):
    """Some lines' objects, each with its line, those that are none, and how much was read."""

    rows: list[tuple[int, dict[str, Any]]]
    broken: list[RefusedLine]
    bytes_done: int


def is_json_lines(path: Path) -> bool:
    """Say whether a file begins as JSON lines do: with a brace.

    Raises
    ------
    DataError
        It cannot be read, or begins as a JSON array.
    """
    try:
        with _opened(path) as (_, file):
            start = file.readline(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror or exc}.") from exc
    except (EOFError, zlib.error) as exc:
        raise DataError(f"{path} cannot be unpacked: {exc}.") from exc
    if start.startswith(b"["):
        raise DataError(f"{path} is a JSON array: write one object a line, as `jq -c '.[]'` does.")
    return start.startswith(b"{")


def read_json_lines(path: Path) -> Iterator[Objects]:
    """Read a file's objects, some thousands at a time; empty lines are passed over.

    Raises
    ------
    DataError
        It cannot be read, or not be unpacked.
    """
    number = 0
    try:
        with _opened(path) as (raw, file):
            while lines := list(itertools.islice(file, _CHUNK_LINES)):
                found = Objects([], [], raw.tell())
                for line in lines:
                    number += 1
                    text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if not text.strip():
                        continue
                    try:
                        row = from_json(text)
                        reason = None if isinstance(row, dict) else "is no JSON object"
                    except ValueError as exc:
                        reason = f"is no JSON: {exc}"
                    if reason is None:
                        found.rows.append((number, row))
                    else:
                        shown = text[:VALUE_SHOWN].decode(errors="backslashreplace").strip()
                        found.broken.append(RefusedLine(path.name, number, "", shown, reason))
                yield found
    except (OSError, EOFError, zlib.error) as exc:
        raise DataError(f"{path} cannot be read beyond line {number}: {exc}.") from exc


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO | gzip.GzipFile]]:
    """Give a file as it is, and its lines, unpacked."""
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if is_packed:
            with gzip.open(raw) as unpacked:
                yield raw, unpacked
        else:
            yield raw, raw
