"""Rows of versions: made from what files tell, and shown as the API shows them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reckeeper import artifact, clock, storage
from reckeeper.artifact import Metadata, WrittenFile
from reckeeper.errors import DataError, NotFoundError

MAX_NOTE_CHARS = 10_000

_FROM_METADATA = (
    "version",
    "recipe",
    "settings",
    "n_users",
    "n_items",
    "training_samples",
    "explained_variance",
    "watermark",
    "trained_at",
    "seconds",
    "trigger",
    "is_demo",
    "fingerprint",
    "latest_at",
    "data",
    "actor",
    "cause",
    "metrics",
    "verdict",
    "peak_memory_bytes",
    "libraries",
    "origin",
)


def row_of(
    metadata: Metadata, files: tuple[WrittenFile, WrittenFile | None], *, job_id: int | None
) -> dict[str, Any]:
    """Return the row of a version whose files are written."""
    native, exported = files
    return {
        **{name: getattr(metadata, name) for name in _FROM_METADATA},
        "job_id": job_id,
        "native_bytes": native.n_bytes,
        "native_sha256": native.sha256,
        "pickle_bytes": exported.n_bytes if exported else 0,
        "pickle_sha256": exported.sha256 if exported else "",
    }


def existing(connection: storage.Connection, version: int) -> dict[str, Any]:
    """Return the row of a version.

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


def describe(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what a list shows of a version: the contract's fields, then ours.

    Parameters
    ----------
    row : mapping
        As `storage.models.listed` gives it.
    folder : Path
        Of the model files.
    """
    version = row["version"]
    name = artifact.ACTIVE_LINK if row["is_active"] else artifact.pickle_name(version)
    is_pinned_now = is_pinned(row)
    return {
        "name": "Retrained SVD Model",
        "path": os.path.join(folder, name),
        "type": artifact.type_name(row["recipe"]),
        "status": "active" if row["is_active"] else "inactive",
        "n_users": row["n_users"],
        "n_items": row["n_items"],
        "explained_variance": f"{row['explained_variance']:.2%}",
        "trained_on": artifact.timestamp_name(row["trained_at"]),
        "version": version,
        "recipe": row["recipe"],
        "settings": row["settings"],
        "training_samples": row["training_samples"],
        "seconds": row["seconds"],
        "trigger": row["trigger"],
        "job_id": row["job_id"],
        "is_demo": row["is_demo"],
        "note": row["note"],
        "pinned": is_pinned_now,
        "pinned_until": time_or_none(row["pinned_until"]) if is_pinned_now else None,
        "verdict": row["verdict"],
        "metrics": row["metrics"],
        "served": row["served"],
    }


def describe_rest(row: Mapping[str, Any], *, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is shown of a version that somebody looks at by itself.

    Parameters
    ----------
    row : mapping
        As `storage.models.get` gives it.
    entries : list of dict
        Of the timeline, as `storage.timeline.of_version` gives them.
    """
    version = row["version"]
    names = {"native": artifact.native_name(version), "pickle": artifact.pickle_name(version)}
    return {
        "fingerprint": row["fingerprint"] or "",
        "watermark": row["watermark"],
        "latest_at": time_or_none(row["latest_at"] or None),
        "data": row["data"] or {},
        "actor": row["actor"] or None,
        "cause": row["cause"],
        "peak_memory_bytes": row["peak_memory_bytes"] or 0,
        "libraries": row["libraries"] or {},
        "origin": row["origin"],
        "files": [
            {"name": name, "bytes": row[f"{kind}_bytes"], "sha256": row[f"{kind}_sha256"]}
            for kind, name in names.items()
            if row[f"{kind}_sha256"]
        ],
        "timeline": [describe_entry(entry) for entry in entries],
    }


def describe_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of the timeline as the API shows it."""
    return {
        "entry_id": entry["entry_id"],
        "at": time_or_none(entry["at"]),
        "until": time_or_none(entry["until"]),
        "version": entry["version"],
        "action": entry["action"],
        "actor": entry["actor"],
        "reason": entry["reason"],
        "job_id": entry["job_id"],
    }


def is_pinned(row: Mapping[str, Any]) -> bool:
    """Return whether a version is pinned, and its date has not passed."""
    until = row["pinned_until"]
    return row["pinned_at"] is not None and (until is None or until > clock.now())


def describe_pin(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pin as the trail tells it."""
    return {"pinned": is_pinned(row), "until": time_or_none(row["pinned_until"])}


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
