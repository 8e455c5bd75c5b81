"""Bytes of a file as they were before it was packed, and no more of them than it says."""

import atexit
import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa

from reckeeper.errors import DataError

START_BYTES = 1024 * 1024
"""So much of a file is looked at before it is read."""

MAX_RATIO = 200.0
"""What no table reaches that is worth reading: text is packed to a fifth, often, or a twentieth."""

_ALWAYS_FINE = 1024**3
_PIECE_BYTES = 1024 * 1024
_XZ_MEMORY_BYTES = 256 * 1024**2
_MEMBERS_SHOWN = 5
_STOP_SECONDS = 0.1
_MOST_AHEAD = 4
_PATIENCE_SECONDS = 0.01

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
}
_UNREADABLE = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException),
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError),  # what zipfile raises
)


def is_damage(error: DataError) -> bool:
    """Say whether what is in a packed file cannot be told: it is not whole, or several files."""
    return isinstance(error.__cause__, _UNREADABLE)


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        ...


class Readable(io.RawIOBase):
    """A stream in the manner of Python's files, for Arrow, which reads ahead in a thread.

    Left to itself it reads 32 pieces ahead, whatever becomes of them. Here it reads a few, and
    further ones where somebody waits for what it makes of them.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._reading = threading.Lock()
        self._turn = threading.Condition()
        self._n_ahead = 0
        self._is_awaited = False
        self._is_stopped = False
        self._is_over = threading.Event()
        atexit.register(self.stop)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most so many bytes; none at the end."""
        self._wait_for_turn()
        piece = b""
        try:
            with self._reading:
                if not self._is_stopped:
                    piece = self._stream.read(size if size >= 0 else _PIECE_BYTES)
        finally:
            if not piece:
                self._is_over.set()
        return piece

    @contextlib.contextmanager
    def awaited(self) -> Iterator[None]:
        """Wait, within the block, for what is made of a piece."""
        self._set_awaited(True)
        try:
            yield
        finally:
            self._set_awaited(False)

    def stop(self) -> None:
        """End the stream, and wait for the thread: it must not be here when Python ends."""
        atexit.unregister(self.stop)
        with self._reading:
            self._is_stopped = True
        with self._turn:
            self._turn.notify_all()
        # It does not come again if it has read as far ahead as it may.
        self._is_over.wait(_STOP_SECONDS)

    def _set_awaited(self, is_awaited: bool) -> None:
        with self._turn:
            self._is_awaited = is_awaited
            if not is_awaited:
                self._n_ahead = max(self._n_ahead - 1, 0)
            self._turn.notify_all()

    def _wait_for_turn(self) -> None:
        with self._turn:
            while self._n_ahead >= _MOST_AHEAD and not self._is_stopped:
                # Of some pieces nothing is made: then more is needed than was counted.
                is_told = self._turn.wait(_PATIENCE_SECONDS if self._is_awaited else None)
                if self._is_awaited and not is_told:
                    break
            self._n_ahead += 1


def compression_of(start: bytes) -> str:
    """Return how a file is packed that begins with these bytes, or ``none``."""
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "none")


class Content:
    """What is in a file, unpacked; read once, from its beginning.

    Attributes
    ----------
    bytes_done, bytes_total : int
        How much of the file was read, as it lies there, and its size.
    """

    def __init__(
        self, path: Path, raw: BinaryIO, stream: Stream, *, bytes_total: int, limit: float
    ) -> None:
        self.bytes_done = 0
        self.bytes_total = bytes_total
        self._path = path
        self._raw = raw
        self._stream = stream
        self._limit = limit
        self._n_read = 0

    def skip(self, n_bytes: int) -> None:
        """Read so many bytes for nothing."""
        while n_bytes and (piece := self.read(min(n_bytes, _PIECE_BYTES))):
            n_bytes -= len(piece)

    def read(self, size: int = _PIECE_BYTES) -> bytes:
        """Return at most so many bytes; none at the end.

        Raises
        ------
        DataError
            It cannot be unpacked, or there is more in it than a table would have.
        """
        try:
            piece = self._stream.read(size)
        except _UNREADABLE as exc:
            raise DataError(f"{self._path} cannot be unpacked: {exc}.") from exc
        self.bytes_done = self._raw.tell()
        self._n_read += len(piece)
        if self._n_read > self._limit:
            raise DataError(
                f"{self._path} has {self.bytes_total:,} bytes and unpacks to more than "
                f"{self._limit / 1024**3:.3g} GiB, which no table is packed to. If it is meant so, "
                "raise --max-ratio, or unpack it yourself."
            )
        return piece


@contextlib.contextmanager
def unpacked(path: Path, compression: str, *, max_ratio: float = MAX_RATIO) -> Iterator[Content]:
    """Open a file and give what is in it.

    Parameters
    ----------
    path : Path
    compression : {"none", "gzip", "bz2", "xz", "zstd", "zip"}
    max_ratio : float
        How many times its size a file may unpack to; a gibibyte is always fine.

    Raises
    ------
    DataError
        It cannot be read, or is an archive of more than one file.
    """
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            bytes_total = path.stat().st_size
            limit = max(_ALWAYS_FINE, max_ratio * bytes_total)
            try:
                stream = _stream(path, raw, compression, stack)
            except _UNREADABLE as exc:
                what = "ZIP archive" if compression == "zip" else f"{compression} file"
                raise DataError(f"{path} is no sound {what}: {exc}.") from exc
            yield Content(
                path,
                raw,
                stream,
                bytes_total=bytes_total,
                limit=float("inf") if compression == "none" else limit,
            )
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror or exc}.") from exc


def start_of(path: Path, compression: str) -> bytes:
    """Return what a file begins with, unpacked: at most `START_BYTES`.

    Raises
    ------
    DataError
        As of `unpacked`.
    """
    start = bytearray()
    with unpacked(path, compression, max_ratio=float("inf")) as content:
        while len(start) < START_BYTES and (piece := content.read(START_BYTES - len(start))):
            start += piece
    return bytes(start)


def fingerprint(path: Path, *, max_ratio: float = MAX_RATIO) -> str:
    """Return the SHA-256 of a file's content, unpacked, in hexadecimal.

    What cannot be unpacked counts as it is.

    Raises
    ------
    DataError
        It cannot be read, or unpacks to more than `max_ratio` allows.
    """
    with path.open("rb") as file:
        compression = compression_of(file.read(8))
    if compression == "none":
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    try:
        with unpacked(path, compression, max_ratio=max_ratio) as content:
            while piece := content.read():
                digest.update(piece)
    except DataError as exc:
        if not is_damage(exc):
            raise
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return digest.hexdigest()


def _stream(path: Path, raw: BinaryIO, compression: str, stack: contextlib.ExitStack) -> Stream:
    match compression:
        case "none":
            return raw
        case "gzip":
            return stack.enter_context(gzip.GzipFile(fileobj=raw))
        case "bz2":
            return stack.enter_context(bz2.BZ2File(raw))
        case "xz":
            return _Xz(raw)
        case "zstd":
            return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")  # type: ignore[no-any-return]
        case _:
            archive = stack.enter_context(zipfile.ZipFile(raw))
            return stack.enter_context(archive.open(_only_member(path, archive)))


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    files = [
        member
        for member in archive.infolist()
        if not member.filename.startswith("__MACOSX/") and not member.filename.endswith("/")
    ]
    if len(files) == 1:
        return files[0]
    if not files:
        raise DataError(f"{path} is a ZIP archive without a file in it.") from ValueError("none")
    names = ", ".join(repr(member.filename) for member in files[:_MEMBERS_SHOWN])
    more = len(files) - _MEMBERS_SHOWN
    raise DataError(
        f"{path} is a ZIP archive of {len(files)} files ({names}"
        f"{f' and {more} more' if more > 0 else ''}): unpack it, and name the one that you mean."
    ) from ValueError("several")


class _Xz:
    """Unpacks one .xz file after another, in bounded memory."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor: lzma.LZMADecompressor | None = None

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""
        while True:
            if self._decompressor is None or self._decompressor.eof:
                packed = self._decompressor.unused_data if self._decompressor else b""
                packed = packed.lstrip(b"\0") or self._raw.read(_PIECE_BYTES).lstrip(b"\0")
                if not packed:
                    return b""
                self._decompressor = lzma.LZMADecompressor(
                    lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES
                )
            else:
                packed = b""
                if self._decompressor.needs_input:
                    packed = self._raw.read(_PIECE_BYTES)
                    if not packed:
                        raise EOFError("it ends in the middle")
            if piece := self._decompressor.decompress(packed, size):
                return piece
