"""Imports: what is asked of one, how far it is, and what became of its rows."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from .forms import Answer, Done, Sent, Time

_Column = Annotated[str, Field(max_length=1024)]
_OPTION = re.compile(r"(?<![\w-])(?<!`reckeeper import )--[a-z]+(?:-[a-z]+)*(?![\w-])")


class ImportOptions(Sent):
    """What the columns of a file mean: the options of the command, as parameters of a query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="Name of the file, for the list. Default: that of a form's part."
    )
    preset: Literal["movielens"] | None = Field(
        default=None, description="Columns of a known data set."
    )
    user_column: _Column | None = Field(default=None, description="Default: user_id.")
    item_column: _Column | None = Field(default=None, description="Default: item_id.")
    type_column: _Column | None = Field(
        default=None, description="Default: interaction_type, where there is one."
    )
    interaction_type: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Type of all rows without such a column. Default: click."
    )
    weight_column: _Column | None = Field(
        default=None, description="Default: weight, where there is one; else 1."
    )
    time_column: _Column | None = Field(
        default=None, description="Default: occurred_at, where there is one; else now."
    )
    weights: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None,
        description="Weights of interaction types, as view=1,cart=3,purchase=5; the policy has "
        "them from then on, and the others as before.",
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        default=None, description="Unit of times that are numbers. Default: told from their size."
    )
    time_format: str | None = Field(
        default=None,
        description="How times are written, as for strptime: %d.%m.%Y %H:%M. Default: found out.",
    )
    timezone: str | None = Field(
        default=None,
        description="Where the clock hangs that showed times without a zone, such as "
        "Europe/Berlin. Default: UTC.",
    )
    default_time: str | None = Field(
        default=None,
        description="What an empty time is taken for: now, or a time. Default: its row is refused.",
    )
    allow_old: bool | None = Field(default=None, description="Take times before 1990.")
    event_id_column: _Column | None = Field(
        default=None, description="Names each row. Default: event_id, where there is one."
    )
    null: list[str] | None = Field(
        default=None, description="Words that stand for nothing. Default: NULL, nan and their like."
    )
    decimal: Literal["comma", "point"] | None = Field(
        default=None,
        description="What stands before the fraction of a number. Default: found out.",
    )
    rating_column: _Column | None = Field(
        default=None, description="Ratings, for min_rating. Default: rating."
    )
    min_rating: float | None = Field(
        default=None, description="Rows with a lower rating are seen, not liked."
    )
    layout: Literal["rows", "lists", "wide"] | None = Field(
        default=None,
        description="rows; lists: in each line the ids of a user and of items; wide: a matrix of "
        "users down and items across. Default: rows.",
    )
    sheet: str | None = Field(default=None, description="Sheet of a workbook. Default: the first.")
    encoding: str | None = Field(
        default=None, description="Of text, such as utf-8 or cp1252. Default: found out."
    )
    skip_lines: int | None = Field(
        default=None, ge=0, description="Lines before the names of the columns. Default: found out."
    )
    delimiter: str | None = Field(
        default=None, description="Of CSV: one character, or tab. Default: found out."
    )
    quote: Literal["double", "backslash", "none"] | None = Field(
        default=None,
        description="Whether quotation marks in text hold values together, and a backslash makes "
        "one part of a value. Default: found out.",
    )
    no_header: bool | None = Field(
        default=None, description="There is no line of column names: they are numbers, from 1 on."
    )
    catalogue_item_column: _Column | None = Field(
        default=None, description="Ids in the catalogue. Default: as item_column."
    )
    title_column: _Column | None = Field(
        default=None, description="Titles in the catalogue. Default: title."
    )
    category_column: _Column | None = Field(
        default=None, description="Categories in the catalogue. Default: categories."
    )
    category_separator: Literal["|", ";", ",", "json", "none"] | None = Field(
        default=None,
        description="What stands between an item's categories; json: lists in brackets. Default: "
        "found out.",
    )


def as_fields(text: str) -> str:
    """Return what the library says of a file with the fields of `ImportOptions` in backticks.

    It names settings as the command line does: ``--time-unit`` is ```time_unit``` here, and what
    has no field is left to the command.
    """

    def worded(option: re.Match[str]) -> str:
        field = option[0][2:].replace("-", "_")
        is_field = field in ImportOptions.model_fields
        return f"`{field}`" if is_field else f"`reckeeper import {option[0]}`"

    return _OPTION.sub(worded, text)


Worded = Annotated[str, AfterValidator(as_fields)]
"""What the library says of a file, as the API says it."""


Unit = Literal["line", "row", "element"]
"""What is counted to say where something stands in a file: elements are those of a JSON array."""


class RefusalExample(Answer):
    """A row that was refused, and what it has in the column."""

    line: int
    value: str


class Refusal(Answer):
    """Why some rows were refused, with the first of them."""

    file: str
    column: str
    reason: Worded
    rows: int
    unit: Unit = Field(default="line", description="What `line` of the examples counts.")
    examples: list[RefusalExample]


class Import(Answer):
    """A file, a query or the demo data that was taken in, and how far that is."""

    import_id: int
    source: str
    is_demo: bool
    status: Literal["running", "complete", "failed", "undoing", "undone"]
    reason: Worded | None = Field(description="Why it failed.")
    actor: str | None
    rows: int = Field(description="So many have been looked at.")
    accepted: int = Field(description="New interactions.")
    duplicates: int = Field(description="Rows that were there already.")
    without_taste: int = Field(description="Rows of weight 0: seen, not liked.")
    refused: int
    items: int = Field(description="Catalogue items that are new or changed.")
    bytes_done: int
    bytes_total: int = Field(description="0 where nobody knows.")
    rows_per_second: float | None = Field(description="Over all of the time it took so far.")
    seconds_left: float | None = Field(description="Of one that runs, at this rate.")
    started_at: Time
    updated_at: Time
    finished_at: Time | None
    refusals: list[Refusal] = Field(description="Why rows were refused, up to 100 reasons.")
    has_report: bool = Field(description="Whether all refused rows can be had as CSV.")
    notes: list[Worded] = Field(description="What should be known of how it was read.")


class ImportAnswer(Done):
    """One import."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    import_: Import = Field(alias="import")


class ImportPage(Done):
    """Imports, the latest first."""

    imports: list[Import]


class ImportUndone(Done):
    """What the undo of an import took out; while it is under way, both are null."""

    import_id: int
    interactions: int | None
    items: int | None


class FileForm(Answer):
    """What a file is."""

    words: str = Field(description="The same in a few words.")
    kind: str
    unit: Unit = Field(description="What `line` of its rows counts.")
    layout: Literal["rows", "lists", "wide"]
    sheet: str | None
    compression: str | None
    encoding: str | None
    delimiter: str | None
    has_quotes: bool | None
    has_escapes: bool | None
    has_header: bool
    skip_lines: int | None


class ColumnPart(Answer):
    """A part of an interaction and its column: it was given, named so, or guessed."""

    part: str
    column: str
    rule: str


class ColumnChoice(Answer):
    """A part whose column has to be said: which it could be."""

    part: str
    columns: list[str]
    is_missing: bool
    sentence: str


class PreviewRow(Answer):
    """A row as it would be stored; without a time: as of the import."""

    line: int
    user_id: str
    item_id: str
    interaction_type: str
    weight: float
    occurred_at: Time | None


class RefusedLine(Answer):
    """A row that would be refused."""

    file: str
    line: int
    column: str
    value: str
    reason: Worded


class ImportPreview(Done):
    """What a file was found to be, and its first rows; nothing is stored."""

    form: FileForm
    columns: list[str]
    parts: list[ColumnPart]
    choices: list[ColumnChoice] = Field(description="What has to be said first.")
    notes: list[Worded]
    rows: list[PreviewRow] = Field(description="None where something has to be said first.")
    cells: list[list[str]] = Field(description="The first rows as they stand in the file.")
    refused: list[RefusedLine]
    types: dict[str, int] = Field(
        description="Interaction types of the first million rows, and how many are of each; empty "
        "where no column says it."
    )
