"""The catalogue: what items are, and when they may be recommended; changed, and kept in memory."""

from reckeeper.catalogue.changes import (
    Found,
    Upserted,
    apply,
    delete,
    find,
    patch,
    put,
    upsert,
)
from reckeeper.catalogue.conditions import Condition, conditions_of
from reckeeper.catalogue.content import (
    MAX_ATTRIBUTE_BYTES,
    MAX_CATEGORIES,
    MAX_TITLE_CHARACTERS,
    Change,
    Given,
    parse_content,
    parse_items,
    stored_forms,
)
from reckeeper.catalogue.memory import Catalogue, Description, Shelf, Standing

__all__ = [
    "MAX_ATTRIBUTE_BYTES",
    "MAX_CATEGORIES",
    "MAX_TITLE_CHARACTERS",
    "Catalogue",
    "Change",
    "Condition",
    "Description",
    "Found",
    "Given",
    "Shelf",
    "Standing",
    "Upserted",
    "apply",
    "conditions_of",
    "delete",
    "find",
    "parse_content",
    "parse_items",
    "patch",
    "put",
    "stored_forms",
    "upsert",
]
