"""A bundle: the one file in which a version travels to another installation.

A ZIP of two members that are stored as they are: ``manifest.json`` and
``model.safetensors``. There is no pickle in it: that is made again where the
bundle is taken in.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import stat
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from reckeeper import durable
from reckeeper.artifact.claims import check_claims
from reckeeper.artifact.format import Artifact, WrittenFile, plain_json, read, sha256_of
from reckeeper.errors import ArtifactError, DataError, StorageError, TooLargeError

MAX_BUNDLE_BYTES = 16 * 2**30
"""Larger bundles are refused unread."""

_FORMAT = "reckeeper-bundle-1"
_MANIFEST, _MODEL = "manifest.json", "model.safetensors"
_CHUNK_BYTES = 2**20
"""What is read at once; the manifest, and the ZIP's own directory, may not have more."""


@dataclass(frozen=True)
class Bundle:
    """What was in a bundle.

    Attributes
    ----------
    artifact : Artifact
        The version, under the number that it had where the bundle was made.
    sha256 : str
        Hash of its native file.
    note : str or None
        What people wrote on it.
    timeline : list of dict
        When it served there, and who switched; the latest first.
    """

    artifact: Artifact
    sha256: str
    note: str | None
    timeline: list[dict[str, Any]]


def write_bundle(
    target: Path,
    native: Path,
    *,
    n_bytes: int,
    sha256: str,
    note: str | None,
    timeline: list[dict[str, Any]],
) -> WrittenFile:
    """Write a version's native file, and what the registry adds to it, as a bundle.

    Parameters
    ----------
    target : Path
        Where to; what is there is replaced, at once and by the whole bundle.
    native : Path
    n_bytes, sha256
        What the registry says of the native file.
    note : str or None
    timeline : list of dict
        JSON values.

    Raises
    ------
    ArtifactError
        The native file is missing or changed.
    StorageError
        The bundle cannot be written.
    """
    manifest = {
        "format": _FORMAT,
        "model": {"bytes": n_bytes, "sha256": sha256},
        "note": note,
        "timeline": timeline,
    }
    try:
        source = native.open("rb")
    except OSError as exc:
        raise ArtifactError(
            f"{native.name} could not be bundled: {exc.strerror or exc}. See that the folder of "
            "the models (RECKEEPER_MODEL_DIR) is there and may be read."
        ) from exc
    try:
        with source, durable.replaced_file(target) as temporary:
            with zipfile.ZipFile(temporary, "x") as bundle:
                bundle.writestr(_member(_MANIFEST), json.dumps(manifest, indent=1))
                member = _member(_MODEL)
                member.file_size = os.fstat(source.fileno()).st_size
                found = hashlib.sha256()
                with bundle.open(member, "w") as stream:
                    while chunk := source.read(_CHUNK_BYTES):
                        found.update(chunk)
                        stream.write(chunk)
            if (member.file_size, found.hexdigest()) != (n_bytes, sha256):
                raise ArtifactError(
                    f"{native.name} is not as it was registered: its content changed."
                )
            return WrittenFile(target.name, temporary.stat().st_size, sha256_of(temporary))
    except OSError as exc:
        raise StorageError(
            f"{target.parent} cannot hold the bundle: {exc.strerror or exc}. The model file is not "
            "concerned: make room there, and see that it may be written to; then try again."
        ) from exc


def read_bundle(path: Path, *, scratch: Path) -> Bundle:
    """Read a bundle that anybody may have made; nothing in it can run.

    Parameters
    ----------
    path : Path
    scratch : Path
        Folder on a disk that has room for the native file; nothing stays in it.

    Raises
    ------
    TooLargeError
        The bundle is larger than `MAX_BUNDLE_BYTES`.
    ArtifactError
        It is missing, or is no sound bundle; the message says what is wrong.
    """
    with _opened(path) as (bundle, members, manifest):
        durable.make_folder(scratch)
        # A file without a name: whatever happens, nothing is left of it.
        with tempfile.TemporaryFile(dir=scratch) as native:
            _copy(bundle, members[_MODEL], native)
            native.flush()
            artifact = read(
                Path(f"/dev/fd/{native.fileno()}"),
                n_bytes=manifest["model"]["bytes"],
                sha256=manifest["model"]["sha256"],
                name=f"{_MODEL} in {path.name}",
            )
            check_claims(artifact.metadata, manifest["timeline"])
        return Bundle(artifact, manifest["model"]["sha256"], manifest["note"], manifest["timeline"])


def unpack_native(path: Path, target: Path) -> None:
    """Write the native file in a bundle, unchecked, to a new file.

    Raises
    ------
    TooLargeError, ArtifactError
        As of `read_bundle`.
    """
    with _opened(path) as (bundle, members, _), target.open("xb") as native:
        _copy(bundle, members[_MODEL], native)


@contextlib.contextmanager
def _opened(
    path: Path,
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], dict[str, Any]]]:
    """Give a bundle with its members and its manifest; whatever is wrong with it is one error."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path.name} is not a file.")
        if status.st_size > MAX_BUNDLE_BYTES:
            raise TooLargeError(
                f"{path.name} has {status.st_size} bytes; a bundle has {MAX_BUNDLE_BYTES} at most."
            )
        with _Source(io.FileIO(path)) as source, zipfile.ZipFile(source) as bundle:
            members = _members(bundle)
            yield bundle, members, _manifest(bundle.read(members[_MANIFEST]))
    except TooLargeError:
        raise
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(
                f"There is no room for what is in {path.name}: {exc.strerror}. Make room on the "
                "disk of the models (RECKEEPER_MODEL_DIR), then try again."
            ) from exc
        raise ArtifactError(f"{path.name} cannot be read: {exc}.") from exc
    except (
        DataError,
        zipfile.BadZipFile,
        # What zipfile and JSON raise where a file asks for what they do not do.
        struct.error,
        RuntimeError,
        EOFError,
        ValueError,
        OverflowError,
    ) as exc:
        raise ArtifactError(
            f"{path.name} is not a sound bundle: {exc}. Download it again and send it as it came."
        ) from exc


def _copy(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, target: IO[bytes]) -> None:
    with bundle.open(member) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            target.write(chunk)


class _Source(io.BufferedReader):
    """A file of which nothing that stands in it can have much read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = _CHUNK_BYTES + 1 if size is None or size < 0 else min(size, _CHUNK_BYTES + 1)
        content = super().read(wanted)
        if len(content) > _CHUNK_BYTES:
            raise zipfile.BadZipFile("its directory or manifest is too large")
        return content


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def _members(bundle: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in bundle.infolist():
        name = member.orig_filename
        shown = repr(name[:100])
        if name not in {_MANIFEST, _MODEL}:
            raise DataError(f"it has a member {shown}, which belongs in no bundle")
        if name in members:
            raise DataError(f"it has {shown} twice")
        if stat.S_IFMT(member.external_attr >> 16) not in {0, stat.S_IFREG}:
            raise DataError(f"its {shown} is a link or similar, not a file")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise DataError(
                f"its {shown} is compressed ({member.compress_size} bytes for "
                f"{member.file_size}), and a bundle stores its members as they are"
            )
        members[name] = member
    missing = {_MANIFEST, _MODEL} - set(members)
    if missing:
        raise DataError(f"it has no {' and no '.join(sorted(missing))}")
    return members


def _manifest(content: bytes) -> dict[str, Any]:
    manifest = plain_json(content, largest=_CHUNK_BYTES)
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise DataError(f"its manifest is not of the format {_FORMAT!r}")
    kinds: dict[str, tuple[type, ...]] = {
        "format": (str,),
        "model": (dict,),
        "note": (str, type(None)),
        "timeline": (list,),
    }
    model = manifest.get("model")
    if (
        set(manifest) != set(kinds)
        or any(type(manifest[name]) not in kinds[name] for name in kinds)
        or any(type(entry) is not dict for entry in manifest["timeline"])
        or type(model) is not dict
        or set(model) != {"bytes", "sha256"}
        or type(model["bytes"]) is not int
        or type(model["sha256"]) is not str
        or not re.fullmatch("[0-9a-f]{64}", model["sha256"])
    ):
        raise DataError("its manifest lacks something or has the wrong form")
    return manifest
