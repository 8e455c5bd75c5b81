"""What a file is, before anybody asks what is in it: kind, packing, encoding, delimiter."""

import codecs
import io
import unicodedata
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from reckeeper.errors import DataError
from reckeeper.tabular.streams import MAX_RATIO

WHITE_SPACE = "space"
"""As a delimiter: one or more spaces or tabs; those at the ends of a line mean nothing."""

DELIMITERS = {
    ",": "commas",
    ";": "semicolons",
    "\t": "tabs",
    "|": "vertical bars",
    "::": "double colons",
    WHITE_SPACE: "white space",
    " ": "single spaces",
}
"""What usually stands between values, with its name."""

_PACKED = {"gzip": "gzip", "bz2": "bzip2", "xz": "xz", "zstd": "Zstandard", "zip": "ZIP"}


class Kind(StrEnum):
    """What a file is, once it is unpacked."""

    TEXT = "text"
    JSON_LINES = "json_lines"
    JSON = "json"
    PARQUET = "parquet"
    ARROW = "arrow"
    WORKBOOK = "xlsx"


class Layout(StrEnum):
    """How a table is laid out."""

    ROWS = "rows"
    LISTS = "lists"
    WIDE = "wide"


_KINDS = {
    Kind.TEXT: "text",
    Kind.JSON_LINES: "JSON lines",
    Kind.JSON: "JSON",
    Kind.PARQUET: "Parquet",
    Kind.ARROW: "Arrow (Feather)",
    Kind.WORKBOOK: "an Excel workbook",
}

_UNITS = {
    Kind.TEXT: "line",
    Kind.JSON_LINES: "line",
    Kind.JSON: "element",
    Kind.PARQUET: "row",
    Kind.ARROW: "row",
    Kind.WORKBOOK: "row",
}

_LAYOUTS = {
    Layout.ROWS: "",
    Layout.LISTS: ", a user and a list of items in each line",
    Layout.WIDE: ", a matrix of users down and items across",
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What people say of how a file is written, whatever is in it. None: to be found out.

    Attributes
    ----------
    sheet : str or None
        Of a workbook; None: the first.
    encoding : str or None
        Of text, as Python names it; what follows holds for text alone.
    delimiter : str or None
        What stands between values; `WHITE_SPACE` for any number of spaces and tabs.
    has_quotes : bool or None
        Whether quotation marks hold values together.
    has_escapes : bool or None
        Whether in quotation marks a backslash makes a mark part of the value; elsewhere two marks
        are one.
    skip_lines : int or None
        Lines before the names of the columns, or before the first row, that are no part of the
        table; `detect` adds a line ``sep=;`` to them.
    max_ratio : float
        How many times its packed size a file of more than a gibibyte may be.
    """

    sheet: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    has_quotes: bool | None = None
    has_escapes: bool | None = None
    skip_lines: int | None = None
    max_ratio: float = MAX_RATIO

    def __post_init__(self) -> None:
        if self.delimiter in ("tab", "\\t"):
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and not (self.delimiter and _can_stand(self.delimiter)):
            raise DataError(
                f"The delimiter {self.delimiter!r} cannot stand between values: give a sign such "
                f"as ; or ::, or one of the words tab and {WHITE_SPACE}."
            )
        if self.skip_lines is not None and self.skip_lines < 0:
            raise DataError(f"{self.skip_lines} lines cannot be left out: give 0 or more.")
        if not self.max_ratio > 0:
            raise DataError(f"The ratio {self.max_ratio} is not above 0.")
        if self.encoding is not None:
            object.__setattr__(self, "encoding", _sound_encoding(self.encoding))

    def as_written(self) -> dict[str, Any]:
        """Return these attributes, for another of its kind."""
        return {each.name: getattr(self, each.name) for each in fields(Written)}


@dataclass(frozen=True, kw_only=True)
class Form(Written):
    """What a file is. None: not given, to be found out by `detect`, which leaves none.

    Attributes
    ----------
    kind : Kind or None
    compression : {"none", "gzip", "bz2", "xz", "zstd", "zip"} or None
    layout : Layout
        ``rows``: a row for each interaction or item. ``lists``: text, in each line a user's id and
        then those of items. ``wide``: a matrix, users down, items across, and in each cell a
        weight or a rating.
    users : str or None
        In a matrix, the column of users. None: the first.
    null_words : tuple of str
        Text that is nothing in the cells of a matrix.
    has_header : bool
        Whether the first line of text has the names of the columns; else they are numbers, from 1
        on.
    """

    kind: Kind | None = None
    compression: str | None = None
    layout: Layout = Layout.ROWS
    users: str | None = None
    null_words: tuple[str, ...] = ()
    has_header: bool = True

    @property
    def unit(self) -> str:
        """What its rows are counted in: a line, an element of an array, or a row."""
        return _UNITS[self.kind or Kind.TEXT]

    def __str__(self) -> str:
        words = _KINDS[self.kind or Kind.TEXT]
        if self.kind is Kind.TEXT:
            between = DELIMITERS.get(self.delimiter or "", repr(self.delimiter))
            words += f" in {self.encoding}"
            if self.delimiter is not None:
                words += f", {between} between values"
        if self.compression not in (None, "none"):
            words += f", unpacked from {_PACKED[self.compression or '']}"
        return words + _LAYOUTS[self.layout]


def _can_stand(delimiter: str) -> bool:
    """Say whether a delimiter can stand between values: it is of signs that text has."""
    return not any(
        sign == '"' or (sign != "\t" and unicodedata.category(sign) in {"Cc", "Cs"})
        for sign in delimiter
    )


_OF_NO_FILE = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape"}
"""Python's encodings of names and of its own texts."""


def _sound_encoding(name: str) -> str:
    """Return the name of an encoding without what a mark at the beginning makes of it."""
    try:
        found = codecs.lookup(name).name
        if found in _OF_NO_FILE:
            raise LookupError(name)
        io.TextIOWrapper(io.BytesIO(), encoding=name)
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError) as exc:
        raise DataError(
            f"The encoding {name!r} is not known: use a name such as utf-8, utf-16, cp1252 or "
            "latin-1."
        ) from exc
    return "utf-8" if found in ("utf-8-sig", "ascii") else found
