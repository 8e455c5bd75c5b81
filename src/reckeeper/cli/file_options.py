"""What options say of a file: how text in it is written, and how far it may unpack."""

import glob
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reckeeper.errors import DataError


class Quoting(StrEnum):
    """What quotation marks in text are."""

    DOUBLE = "double"
    BACKSLASH = "backslash"
    NONE = "none"

    @property
    def has_quotes(self) -> bool:
        """Whether they hold values together."""
        return self is not Quoting.NONE

    @property
    def has_escapes(self) -> bool:
        """Whether a backslash makes one part of a value."""
        return self is Quoting.BACKSLASH


Delimiter = Annotated[
    str | None,
    typer.Option(
        help="What stands between values: a sign such as ; or ::, or the words tab and space (any "
        "number of spaces and tabs). Default: told from the first lines."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="Encoding of text, such as utf-8, utf-16 or cp1252. Default: told from the content."
    ),
]
Quote = Annotated[
    Quoting | None,
    typer.Option(
        help="double: quotation marks in text hold values together, and two of them are one; "
        "backslash: the same, and one behind a backslash is part of its value; none: they are "
        "characters like others. Default: told from the first rows."
    ),
]
SkipLines = Annotated[
    int | None,
    typer.Option(min=0, help="Lines to leave out before the names of the columns. Default: 0."),
]
MaxRatio = Annotated[
    float | None,
    typer.Option(
        help="How many times its size a packed file of more than a gibibyte may be. Default: 200."
    ),
]
Sheet = Annotated[str | None, typer.Option(help="Sheet of a workbook. Default: the first.")]
CategorySeparator = Annotated[
    str | None,
    typer.Option(
        help="What stands between the categories of an item: | or ; or a comma; json: lists in "
        "brackets; none: a value is one category. Default: told from the first rows."
    ),
]
HasLists = Annotated[
    bool,
    typer.Option(
        "--lists", help="In each line of the file stand the ids of a user and of items: u1 i1 i2."
    ),
]
IsWide = Annotated[
    bool,
    typer.Option(
        "--wide",
        help="The file is a matrix: users down, items across, and in each cell a weight, or a "
        "rating with --min-rating; empty or 0 is nothing.",
    ),
]


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and in the order of their names those of a pattern."""
    found: list[Path] = []
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matching = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not matching:
            raise DataError(f"No file is named as {path} says.")
        found += [match for match in matching if match.is_file()]
    return list(dict.fromkeys(found))
