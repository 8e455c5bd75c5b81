"""The versions and their life: the database decides, the files follow."""

from reckeeper.registry.life import ActiveModel, Registry
from reckeeper.registry.rows import MAX_NOTE_CHARS

__all__ = ["MAX_NOTE_CHARS", "ActiveModel", "Registry"]
