"""A consistent copy of everything, and back."""

from reckeeper.backup.archive import Manifest, check
from reckeeper.backup.restoring import Restored, restore
from reckeeper.backup.schedule import BackupSchedule, folder_of, last_made
from reckeeper.backup.taking import Progress, Taken, take

__all__ = [
    "BackupSchedule",
    "Manifest",
    "Progress",
    "Restored",
    "Taken",
    "check",
    "folder_of",
    "last_made",
    "restore",
    "take",
]
