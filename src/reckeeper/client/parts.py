"""What requests are made of."""

from typing import TypeVar
from urllib.parse import quote

_Given = TypeVar("_Given")


def given(**values: _Given | None) -> dict[str, _Given]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def segment(external_id: str) -> str:
    """Return an id as a segment of a path."""
    # As they stand, "." and ".." would be taken out of the path on its way.
    return quote(str(external_id), safe="").replace(".", "%2E")
