"""Versions as they are shown: their rows, with what the contract says of them beside."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from reckeeper import clock, storage
from reckeeper.artifact import (
    ACTIVE_LINK,
    ModelStore,
    WrittenFile,
    native_name,
    pickle_name,
    type_name,
)


@dataclass(frozen=True, kw_only=True)
class _Described(storage.VersionSummary):
    """What is shown of every version.

    Attributes
    ----------
    path : str
        Of its pickle, or of the link that names it while it is active.
    pinned : bool
        Whether a pin keeps it now; `pinned_until` is None where none does.
    """

    path: str
    pinned: bool

    @property
    def name(self) -> str:
        """The contract's name, the same for all."""
        return "Retrained SVD Model"

    @property
    def type(self) -> str:
        """``SVD`` for every recipe that decomposes, else the recipe's name."""
        return type_name(self.recipe)

    @property
    def status(self) -> Literal["active", "inactive"]:
        """Whether it is the active version."""
        return "active" if self.is_active else "inactive"


@dataclass(frozen=True, kw_only=True)
class ListedModel(_Described, storage.ListedVersion):
    """A version as a list shows it."""


@dataclass(frozen=True, kw_only=True)
class DescribedModel(_Described, storage.Version):
    """A version with all that is known of it.

    Attributes
    ----------
    files : tuple of WrittenFile
        The native one, and the pickle if there is one.
    timeline : tuple of storage.TimelineEntry
        When it was active, the latest first.
    """

    files: tuple[WrittenFile, ...]
    timeline: tuple[storage.TimelineEntry, ...]

    @property
    def served(self) -> bool:
        """Whether it was ever active."""
        return bool(self.timeline)


@dataclass(frozen=True)
class RetrainDetails:
    """What a retrain made: `explained_variance` has four decimals."""

    training_samples: int
    n_users: int
    n_items: int
    explained_variance: float


@dataclass(frozen=True)
class RetrainAnswer:
    """The contract's answer to a retrain.

    Attributes
    ----------
    message : str
        A sentence with the same figures as `details`.
    details : RetrainDetails
    version, job_id : int
    promoted : bool or None
        Whether the version was activated, where that is known.
    promotion : dict or None
        As the verdict has it.
    verdict : dict or None
        The gate's.
    """

    message: str
    details: RetrainDetails
    version: int
    job_id: int
    promoted: bool | None
    promotion: dict[str, Any] | None
    verdict: dict[str, Any] | None


def listed(row: storage.ListedVersion, store: ModelStore) -> ListedModel:
    """Return a version as a list shows it."""
    return storage.made(ListedModel, _told(row, store).items())


def described(
    row: storage.Version, store: ModelStore, entries: list[storage.TimelineEntry]
) -> DescribedModel:
    """Return a version with its files, and the entries of the timeline that are its own."""
    files = (
        WrittenFile(native_name(row.version), row.native_bytes, row.native_sha256),
        WrittenFile(pickle_name(row.version), row.pickle_bytes, row.pickle_sha256),
    )
    return DescribedModel(
        **_told(row, store),
        files=tuple(file for file in files if file.sha256),
        timeline=tuple(entries),
    )


def retrained(
    row: storage.Version, *, job_id: int, promoted: bool | None, verdict: dict[str, Any] | None
) -> RetrainAnswer:
    """Return the contract's answer to the retrain that made a version."""
    return RetrainAnswer(
        message=(
            f"Model retrained in {row.seconds:.1f}s - {row.training_samples} samples, "
            f"{row.explained_variance:.2%} variance explained"
        ),
        details=RetrainDetails(
            training_samples=row.training_samples,
            n_users=row.n_users,
            n_items=row.n_items,
            explained_variance=round(row.explained_variance, 4),
        ),
        version=row.version,
        job_id=job_id,
        promoted=promoted,
        promotion=(verdict or {}).get("promotion"),
        verdict=verdict,
    )


def is_pinned(row: storage.VersionSummary) -> bool:
    """Return whether a version is pinned, and its date has not passed."""
    until = row.pinned_until
    return row.pinned_at is not None and (until is None or until > clock.now())


def _told(row: storage.VersionSummary, store: ModelStore) -> dict[str, Any]:
    name = ACTIVE_LINK if row.is_active else pickle_name(row.version)
    pinned = is_pinned(row)
    return {
        **vars(row),
        "path": f"{store.folder}{os.sep}{name}",
        "pinned": pinned,
        "pinned_until": row.pinned_until if pinned else None,
    }
