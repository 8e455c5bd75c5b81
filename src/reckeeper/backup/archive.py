"""The file of a backup: a tar archive whose end says what must be in it.

Its members, in this order: the database, the files of the versions, the head of the audit trail,
the keys where they are in it, then `manifest.json` with the size and SHA-256 of each, and
`manifest.sha256`. So a file that was cut off anywhere, or changed, is found out by reading it.
"""

import contextlib
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reckeeper.errors import DataError

FORMAT = 1

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
KEYS = "keys.json"
DATABASES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}

_NAMES = re.compile(
    r"database\.(sqlite3|dump)|models/model-[0-9]{6,9}\.(safetensors|pkl)|models/audit-head\.json"
    r"|keys\.json|manifest\.(json|sha256)"
)
_LARGEST_TEXT = 16 * 1024**2
_PIECE = 4 * 1024**2
_PLAIN = {tarfile.REGTYPE, tarfile.AREGTYPE}

Advance = Callable[[int], None]
"""Is told of bytes that are done."""


class Member(BaseModel):
    """A file in a backup."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: str
    size: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """What a backup says of itself.

    Attributes
    ----------
    format : int
        Of the file; see `FORMAT`.
    product_version : str
    installation_id : str
    made_at : str
        The moment that it keeps, RFC 3339.
    database : str
        The kind of database.
    database_schema : str
        PostgreSQL's; SQLite has none.
    schema_revision : str
    active_version : int or None
    versions : list of int
        Those whose files are in it.
    missing : list of str
        Files of versions that were not there when it was made.
    keys : str
        ``encrypted``, ``left_out``, or ``environment`` where a setting has the key.
    key_mark : str or None
        Tells whether a key is the one of the trail; None before there is one.
    files : list of Member
    """

    model_config = ConfigDict(strict=True, frozen=True)

    format: int
    product_version: str
    installation_id: str
    made_at: str
    database: Literal["sqlite", "postgresql"]
    database_schema: str
    schema_revision: str
    active_version: int | None
    versions: list[int]
    missing: list[str]
    keys: Literal["encrypted", "left_out", "environment"]
    key_mark: str | None
    files: list[Member]


class Writer:
    """Writes the members of a backup, one after the other, into a stream."""

    def __init__(self, stream: IO[bytes], *, at: int, on_bytes: Advance) -> None:
        self._tar = tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT)
        self._at = at
        self._on_bytes = on_bytes
        self.members: list[Member] = []

    def add(self, name: str, content: IO[bytes], size: int) -> Member:
        """Add a file of so many bytes."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._at
        hashed = _Hashed(content, self._on_bytes)
        try:
            self._tar.addfile(info, hashed)
        except OSError as exc:
            if exc.errno is None:  # tarfile's own: it came to the end too early
                raise DataError(f"{name} has become shorter while it was read.") from exc
            raise
        member = Member(name=name, size=size, sha256=hashed.sha256)
        self.members.append(member)
        return member

    def add_text(self, name: str, text: str) -> None:
        """Add a file with this text."""
        content = text.encode()
        self.add(name, io.BytesIO(content), len(content))

    def finish(self, manifest: Manifest) -> None:
        """Add what says what is there; nothing can be added from then on."""
        text = manifest.model_dump_json(indent=1)
        self.add_text(MANIFEST, text)
        self.add_text(SEAL, hashlib.sha256(text.encode()).hexdigest())
        self._tar.close()


class _Hashed(io.RawIOBase):
    """Reads from another stream, and sums up what was read."""

    def __init__(self, content: IO[bytes], on_bytes: Advance) -> None:
        self._content = content
        self._on_bytes = on_bytes
        self._sum = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()

    def read(self, size: int = -1) -> bytes:
        piece = self._content.read(size)
        self._sum.update(piece)
        self._on_bytes(len(piece))
        return piece


def check(path: Path, *, on_bytes: Advance = lambda _: None) -> Manifest:
    """Read a backup from its beginning to its end, and return its manifest.

    Raises
    ------
    DataError
        It is damaged, cut off, of a later release, or no backup at all.
    """
    with _readable(path):
        return _check(path, on_bytes)


def _check(path: Path, on_bytes: Advance) -> Manifest:
    found: dict[str, Member] = {}
    texts: dict[str, bytes] = {}
    with tarfile.open(path, "r:") as tar:
        for info, content in _members(tar):
            if info.name in found:
                raise ValueError(f"{info.name} is in it twice")
            hashed = _Hashed(content, on_bytes)
            kept: list[bytes] | None = [] if info.name in (MANIFEST, SEAL) else None
            if kept is not None and info.size > _LARGEST_TEXT:
                raise ValueError(f"{info.name} is too large")
            while piece := hashed.read(_PIECE):
                if kept is not None:
                    kept.append(piece)
            found[info.name] = Member(name=info.name, size=info.size, sha256=hashed.sha256)
            if kept is not None:
                texts[info.name] = b"".join(kept)
    if texts.keys() != {MANIFEST, SEAL}:
        raise ValueError("its end is missing")
    if texts[SEAL].decode("ascii") != found[MANIFEST].sha256:
        raise ValueError("its manifest was changed")
    manifest = _parsed(texts[MANIFEST])
    expected = {member.name: member for member in manifest.files}
    for name in sorted(expected.keys() | found.keys() - {MANIFEST, SEAL}):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{name} is not as it was written")
    if DATABASES[manifest.database] not in expected:
        raise ValueError("it has no database")
    return manifest


def _parsed(text: bytes) -> Manifest:
    made = _Format.model_validate_json(text)
    if made.format > FORMAT:
        raise DataError(
            f"It was made by Reckeeper {made.product_version} in format {made.format}, and this "
            f"release reads formats up to {FORMAT}: upgrade Reckeeper."
        )
    return Manifest.model_validate_json(text)


class _Format(BaseModel):
    """What every format has."""

    format: int
    product_version: str


def text_of(path: Path, name: str) -> str:
    """Return a small member of a backup that passed `check`."""
    with _readable(path), tarfile.open(path, "r:") as tar:
        stream = tar.extractfile(name)
        assert stream is not None
        return stream.read(_LARGEST_TEXT).decode()


def extract(
    path: Path, manifest: Manifest, targets: Mapping[str, Path], *, on_bytes: Advance
) -> None:
    """Write members of a backup to files that are not there yet, and see that they are the same.

    Raises
    ------
    DataError
        The file is another one than was checked.
    OSError
        A file could not be written.
    """
    expected = {member.name: member for member in manifest.files}
    left = set(targets)
    with tarfile.open(path, "r:") as tar:
        for info, content in _members(tar):
            if info.name not in targets:
                continue
            hashed = _Hashed(content, on_bytes)
            with targets[info.name].open("xb") as stream:
                targets[info.name].chmod(0o600)
                while piece := hashed.read(_PIECE):
                    stream.write(piece)
            left.discard(info.name)
            if expected[info.name].sha256 != hashed.sha256:
                raise DataError(f"{path} changed while it was read: nothing was restored.")
    if left:
        raise DataError(f"{path} changed while it was read: nothing was restored.")


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    for info in tar:
        if info.type not in _PLAIN or info.size < 0 or not _NAMES.fullmatch(info.name):
            raise ValueError(f"{info.name[:80]!r} has no place in a backup")
        content = tar.extractfile(info)
        assert content is not None
        yield info, content


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Word what goes wrong inside the block as a damage of the file."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as exc:
        raise DataError(f"{path} cannot be read: {exc.strerror}.") from exc
    except (tarfile.TarError, EOFError, OSError, ValueError) as exc:
        why = "its manifest cannot be read" if isinstance(exc, ValidationError) else str(exc)
        raise DataError(
            f"{path} is no whole backup: {why}. Nothing of it was used; take another one, or copy "
            "it again from where it was kept."
        ) from exc
