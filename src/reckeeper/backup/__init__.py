"""A consistent copy of everything, and back."""

from reckeeper.backup.archive import Manifest, check
from reckeeper.backup.restoring import Restored, restore
from reckeeper.backup.taking import Progress, Taken, take

__all__ = ["Manifest", "Progress", "Restored", "Taken", "check", "restore", "take"]
