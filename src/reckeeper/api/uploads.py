"""Files that are sent to be imported: kept in a folder of their own until they are read."""

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from reckeeper import errors
from reckeeper.api import bodies, held
from reckeeper.machine import human_bytes

FILE, CATALOGUE = "file", "catalogue"
"""The parts of a form."""

_PREFIX = "upload-"
_PART_BYTES = 1024 * 1024
_NAME_BYTES = 200
_NAMELESS = "upload"
_FORM = b"multipart/form-data"
_NO_LIMIT = 2**63


class Upload:
    """A folder for the files of one request; whoever holds it keeps it from being cleared.

    Parameters
    ----------
    folder : Path
        Where folders of uploads are; made if need be.

    Attributes
    ----------
    folder : Path
        Its own.
    files : dict of str to Path
        By the part of the request.

    Raises
    ------
    StorageError
        Nothing can be written there.
    UnavailableError
        There are too many already.
    """

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, Path] = {}
        with _writing(folder), contextlib.ExitStack() as stack:
            self.folder = stack.enter_context(held.folder(folder, _PREFIX))
            self._held = stack.pop_all()

    def new(self, part: str, name: str | None) -> IO[bytes]:
        """Open a new file for a part of the request, called as its sender calls it."""
        path = self.folder / part / _safe(name)
        path.parent.mkdir()
        self.files[part] = path
        return path.open("xb")

    def remove(self) -> None:
        """Delete all of it."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def by_name(folder: Path, text: str) -> str:
    """Return a text that speaks of files by their names, not by where they are kept meanwhile."""
    place = re.escape(str(folder)) + rf"/{_PREFIX}\w+/(?:{FILE}|{CATALOGUE})/"
    return re.sub(place, "", text)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed have left: nobody holds it."""
    held.remove_leftovers(folder, _PREFIX)


async def receive(request: Request, upload: Upload, *, name: str | None, limit: int) -> None:
    """Store the body of a request, the file itself or a form with parts that are files.

    A part of it at a time is in memory.

    Parameters
    ----------
    request : Request
    upload : Upload
    name : str or None
        What the file is called, before what a form says.
    limit : int
        Bytes that are accepted; 0: any number.

    Raises
    ------
    TooLargeError
        It is larger.
    StorageError
        There is no room for it, or it cannot be written.
    DataError
        It is empty, or a form without the part ``file``.
    """
    declared = request.headers.get("content-length", "")
    n_bytes = int(declared) if declared.isdecimal() else 0
    if limit and n_bytes > limit:
        raise _too_large(limit)
    folder = upload.folder
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise errors.StorageError(
            f"The file needs {human_bytes(n_bytes)} and {folder} has {human_bytes(free)} free. "
            "Make room there, then try again."
        )
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    with _writing(folder), contextlib.closing(_writer(kind, options, upload, name)) as writer:
        held = bytearray()
        try:
            async for part in bodies.parts(request, limit=limit or _NO_LIMIT):
                held += part
                if len(held) >= _PART_BYTES:
                    await run_in_threadpool(writer.write, bytes(held))
                    held.clear()
        except errors.TooLargeError as exc:
            raise _too_large(limit) from exc
        await run_in_threadpool(writer.write, bytes(held))
        if isinstance(writer, _Form) and not writer.is_complete:
            raise errors.DataError("The form ends in the middle: send it again.")
    if FILE not in upload.files:
        raise errors.DataError(
            "The form has no part `file`: send it as curl -F file=@NAME does, or send the file "
            "itself as the body."
        )
    if not upload.files[FILE].stat().st_size:
        raise errors.DataError("The file is empty: there is nothing to import.")


class _Writer(Protocol):
    def write(self, content: bytes) -> object: ...

    def close(self) -> None: ...


def _writer(
    kind: bytes, options: Mapping[bytes, bytes], upload: Upload, name: str | None
) -> _Writer:
    if kind != _FORM:
        return upload.new(FILE, name)
    if b"boundary" not in options:
        raise errors.DataError(
            "The form has no boundary in its Content-Type: leave the header to what makes the form."
        )
    return _Form(options[b"boundary"], upload, name)


class _Form:
    """Writes the parts of a form that are files, as they come in."""

    def __init__(self, boundary: bytes, upload: Upload, name: str | None) -> None:
        self._upload = upload
        self._name = name
        self._header = b""
        self._value = b""
        self._described = b""
        self._file: IO[bytes] | None = None
        self.is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._end,
                "on_end": self._complete,
            },
        )

    def write(self, content: bytes) -> None:
        """Take in more of the form."""
        try:
            self._parser.write(content)
        except MultipartParseError as exc:
            raise errors.DataError(
                f"The form cannot be read: {exc}. Send it as curl -F file=@NAME does."
            ) from exc

    def close(self) -> None:
        """End what is open."""
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._described = b""

    def _on_header(self, content: bytes, start: int, end: int) -> None:
        self._header += content[start:end]

    def _on_value(self, content: bytes, start: int, end: int) -> None:
        self._value += content[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._described = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._described)
        part = options.get(b"name", b"").decode(errors="replace")
        if part not in {FILE, CATALOGUE} or part in self._upload.files:
            raise errors.DataError(
                f"The form has a part {part[:64]!r}, which is not known or there twice. Send the "
                "parts `file` and, if there is one, `catalogue`, and options in the query."
            )
        sent_as = options.get(b"filename", b"").decode(errors="replace") or None
        self._file = self._upload.new(part, self._name or sent_as if part == FILE else sent_as)

    def _write(self, content: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(content[start:end])

    def _end(self) -> None:
        self.close()
        self._file = None

    def _complete(self) -> None:
        self.is_complete = True


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise errors.StorageError(
            f"{folder} cannot hold the file: {exc.strerror or exc}. Check that this process may "
            "write there and that there is room; then try again."
        ) from exc


def _too_large(limit: int) -> errors.TooLargeError:
    return errors.TooLargeError(
        f"The file is larger than the {limit:,} bytes that this server takes "
        "(RECKEEPER_MAX_UPLOAD_BYTES). Import it on the server's machine, where there is no limit, "
        "split it, or send it packed.",
        action=errors.Action("import_file"),
    )


def _safe(name: str | None) -> str:
    """Return the name of a file that any folder takes, with nothing of a path in it."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    kept = "".join(each if each.isprintable() else "_" for each in last).strip()
    content = kept.encode(errors="replace")[-_NAME_BYTES:].decode(errors="ignore")
    return content if content.strip(".") else _NAMELESS
