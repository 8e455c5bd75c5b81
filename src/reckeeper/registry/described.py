"""Versions and entries of the timeline as the API shows them."""

import os
from typing import Any

from reckeeper import clock, storage
from reckeeper.artifact import (
    ACTIVE_LINK,
    ModelStore,
    native_name,
    pickle_name,
    timestamp_name,
    type_name,
)

_UNSHOWN = {
    "is_active",
    "trained_at",
    "pinned_at",
    "deleted_at",
    "native_bytes",
    "native_sha256",
    "pickle_bytes",
    "pickle_sha256",
}
"""What is shown in another form."""


def describe(
    row: storage.VersionSummary,
    store: ModelStore,
    *,
    entries: list[storage.TimelineEntry] | None = None,
) -> dict[str, Any]:
    """Return a version as the API shows it: its record, with the contract's forms of some fields.

    Parameters
    ----------
    row : storage.VersionSummary
    store : ModelStore
    entries : list of storage.TimelineEntry, optional
        When it was active; they are shown with what the files are.
    """
    is_pinned_now = is_pinned(row)
    shown = {name: value for name, value in vars(row).items() if name not in _UNSHOWN}
    shown |= {
        "name": "Retrained SVD Model",
        "path": os.path.join(
            store.folder, ACTIVE_LINK if row.is_active else pickle_name(row.version)
        ),
        "type": type_name(row.recipe),
        "status": "active" if row.is_active else "inactive",
        "explained_variance": f"{row.explained_variance:.2%}",
        "trained_on": timestamp_name(row.trained_at),
        "latest_at": time_or_none(row.latest_at or None),
        "actor": row.actor or None,
        "pinned": is_pinned_now,
        "pinned_until": time_or_none(row.pinned_until) if is_pinned_now else None,
    }
    if entries is not None:
        files = (
            (native_name(row.version), row.native_bytes, row.native_sha256),
            (pickle_name(row.version), row.pickle_bytes, row.pickle_sha256),
        )
        shown |= {
            "served": bool(entries),
            "files": [
                {"name": name, "bytes": n_bytes, "sha256": sha256}
                for name, n_bytes, sha256 in files
                if sha256
            ],
            "timeline": [describe_entry(entry) for entry in entries],
        }
    return shown


def describe_entry(entry: storage.TimelineEntry) -> dict[str, Any]:
    """Return an entry of the timeline as the API shows it."""
    shown = {name: value for name, value in vars(entry).items() if name != "back_to"}
    return shown | {"at": clock.rfc3339(entry.at), "until": time_or_none(entry.until)}


def is_pinned(row: storage.VersionSummary) -> bool:
    """Return whether a version is pinned, and its date has not passed."""
    until = row.pinned_until
    return row.pinned_at is not None and (until is None or until > clock.now())


def describe_pin(row: storage.VersionSummary) -> dict[str, Any]:
    """Return a pin as the trail has it."""
    return {"pinned": is_pinned(row), "until": time_or_none(row.pinned_until)}


def time_or_none(microseconds: int | None) -> str | None:
    """Return a time as the API shows it; None stays None."""
    return None if microseconds is None else clock.rfc3339(microseconds)
