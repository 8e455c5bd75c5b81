"""Versions and entries of the timeline as the API shows them."""

import os
from typing import Any

from reckeeper import artifact, clock, storage
from reckeeper.artifact import ModelStore


def describe(
    row: storage.VersionSummary, store: ModelStore, *, verdict: dict[str, Any] | None, served: bool
) -> dict[str, Any]:
    """Return what a list shows of a version: the contract's fields, then ours.

    Parameters
    ----------
    row : storage.VersionSummary
    store : ModelStore
    verdict : dict or None
    served : bool
        Whether it was ever active.
    """
    version = row.version
    name = artifact.ACTIVE_LINK if row.is_active else artifact.pickle_name(version)
    is_pinned_now = is_pinned(row)
    return {
        "name": "Retrained SVD Model",
        "path": os.path.join(store.folder, name),
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


def time_or_none(microseconds: int | None) -> str | None:
    """Return a time as the API shows it; None stays None."""
    return None if microseconds is None else clock.rfc3339(microseconds)
