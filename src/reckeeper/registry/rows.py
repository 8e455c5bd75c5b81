"""Versions: made from what files say, and shown as the API shows them."""

import os
from pathlib import Path
from typing import Any

from reckeeper import artifact, clock, storage
from reckeeper.artifact import Metadata, WrittenFile
from reckeeper.errors import DataError, NotFoundError

MAX_NOTE_CHARS = 10_000


def version_of(
    metadata: Metadata,
    files: tuple[WrittenFile, WrittenFile | None],
    *,
    job_id: int | None,
    watermark: int | None = None,
    note: str | None = None,
) -> storage.Version:
    """Return the inactive version whose files are written.

    Parameters
    ----------
    metadata : Metadata
    files : tuple of WrittenFile
        The native one, and the pickle if there is one.
    job_id : int or None
        The job that made it; None for one that was brought here.
    watermark : int, optional
        Of one that was brought here; by default the metadata's.
    note : str, optional
    """
    native, exported = files
    told = vars(metadata)
    if watermark is not None:
        told = told | {"watermark": watermark}
    return storage.Version(
        **told,
        is_active=False,
        job_id=job_id,
        native_bytes=native.n_bytes,
        native_sha256=native.sha256,
        pickle_bytes=exported.n_bytes if exported else 0,
        pickle_sha256=exported.sha256 if exported else "",
        note=note,
    )


def existing(connection: storage.Connection, version: int) -> storage.Version:
    """Return a version.

    Raises
    ------
    NotFoundError
        There is none of this number.
    """
    row = storage.models.get(connection, version)
    if row is None:
        raise NotFoundError(
            f"There is no version {version}: GET /models lists those that there are."
        )
    return row


def describe(
    row: storage.VersionSummary, folder: Path, *, verdict: dict[str, Any] | None, served: bool
) -> dict[str, Any]:
    """Return what a list shows of a version: the contract's fields, then ours.

    Parameters
    ----------
    row : storage.VersionSummary
    folder : Path
        Of the model files.
    verdict : dict or None
    served : bool
        Whether it was ever active.
    """
    version = row.version
    name = artifact.ACTIVE_LINK if row.is_active else artifact.pickle_name(version)
    is_pinned_now = is_pinned(row)
    return {
        "name": "Retrained SVD Model",
        "path": os.path.join(folder, name),
        "type": artifact.type_name(row.recipe),
        "status": "active" if row.is_active else "inactive",
        "n_users": row.n_users,
        "n_items": row.n_items,
        "explained_variance": f"{row.explained_variance:.2%}",
        "trained_on": artifact.timestamp_name(row.trained_at),
        "version": version,
        "recipe": row.recipe,
        "settings": row.settings,
        "training_samples": row.training_samples,
        "seconds": row.seconds,
        "trigger": row.trigger,
        "job_id": row.job_id,
        "is_demo": row.is_demo,
        "note": row.note,
        "pinned": is_pinned_now,
        "pinned_until": time_or_none(row.pinned_until) if is_pinned_now else None,
        "verdict": verdict,
        "metrics": row.metrics,
        "served": served,
    }


def describe_rest(row: storage.Version, *, entries: list[storage.TimelineEntry]) -> dict[str, Any]:
    """Return what is shown of a version that somebody looks at by itself.

    Parameters
    ----------
    row : storage.Version
    entries : list of storage.TimelineEntry
        When it was active.
    """
    version = row.version
    files = (
        (artifact.native_name(version), row.native_bytes, row.native_sha256),
        (artifact.pickle_name(version), row.pickle_bytes, row.pickle_sha256),
    )
    return {
        "fingerprint": row.fingerprint,
        "watermark": row.watermark,
        "latest_at": time_or_none(row.latest_at or None),
        "data": row.data,
        "actor": row.actor or None,
        "cause": row.cause,
        "peak_memory_bytes": row.peak_memory_bytes,
        "libraries": row.libraries,
        "origin": row.origin,
        "files": [
            {"name": name, "bytes": n_bytes, "sha256": sha256}
            for name, n_bytes, sha256 in files
            if sha256
        ],
        "timeline": [describe_entry(entry) for entry in entries],
    }


def describe_entry(entry: storage.TimelineEntry) -> dict[str, Any]:
    """Return an entry of the timeline as the API shows it."""
    return {
        "entry_id": entry.entry_id,
        "at": time_or_none(entry.at),
        "until": time_or_none(entry.until),
        "version": entry.version,
        "action": entry.action,
        "actor": entry.actor,
        "reason": entry.reason,
        "job_id": entry.job_id,
    }


def is_pinned(row: storage.VersionSummary) -> bool:
    """Return whether a version is pinned, and its date has not passed."""
    until = row.pinned_until
    return row.pinned_at is not None and (until is None or until > clock.now())


def describe_pin(row: storage.VersionSummary) -> dict[str, Any]:
    """Return a pin as the trail has it."""
    return {"pinned": is_pinned(row), "until": time_or_none(row.pinned_until)}


def check_note(text: str | None) -> None:
    """Refuse a note that cannot be kept.

    Raises
    ------
    DataError
        It is longer than `MAX_NOTE_CHARS`, or no text that can be stored.
    """
    if text is None:
        return
    if len(text) > MAX_NOTE_CHARS:
        problem = f"It has {len(text)} characters, and {MAX_NOTE_CHARS} is the most. Shorten it."
    elif any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        problem = "It has a character that is none. Write it anew."
    else:
        return
    raise DataError(f"note: {problem}", details={"field": "note"})


def time_or_none(microseconds: int | None) -> str | None:
    """Return a time as the API shows it; None stays None."""
    return None if microseconds is None else clock.rfc3339(microseconds)
