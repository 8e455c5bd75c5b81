"""What is done with all that is known of a user: merged, given to them, erased, kept for a time."""

from reckeeper.people.aftercare import Aftercare
from reckeeper.people.erasing import erase
from reckeeper.people.exporting import export
from reckeeper.people.merging import merge
from reckeeper.people.receipts import is_genuine, receipt, receipts
from reckeeper.people.retention import delete_old

__all__ = [
    "Aftercare",
    "delete_old",
    "erase",
    "export",
    "is_genuine",
    "merge",
    "receipt",
    "receipts",
]
