"""What the columns of a table mean: of interactions, and of a catalogue."""

import dataclasses
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reckeeper.errors import Action, DataError
from reckeeper.events.categories import SEPARATORS
from reckeeper.events.columns import (
    OPTIONS,
    REQUIRED,
    USUAL,
    Choice,
    Found,
    find,
    looks_like_a_row,
    notes_on_late,
    notes_on_unknown_times,
)
from reckeeper.events.refused import NO_WEIGHT
from reckeeper.interactions import WITHOUT_WEIGHT
from reckeeper.tabular import Form, Layout, Source, Written

NULL_WORDS = ("NULL", "null", "None", "nan", "NaN", "\\N", "<NA>")
"""What databases and data frames write where there is nothing."""


@dataclass(frozen=True, kw_only=True)
class FileFormat(Written):
    """What the columns of a table of interactions mean, in a file or of a query.

    A column whose name is None is looked for under its usual name, then under those
    that people use (`columns.find`), and the default applies where there is none; empty
    text says that there is none. A column that is named must be there.

    Attributes
    ----------
    user_column, item_column : str or None
        Usually ``user_id`` and ``item_id``.
    type_column : str or None
        Usually ``interaction_type``; default `interaction_type`.
    interaction_type : str
        Type of all rows where there is no such column.
    weight_column : str or None
        Usually ``weight``; default, also of an empty value, 1.
    time_column : str or None
        Usually ``occurred_at``: a number in `time_unit` since 1970, or a time in one of the
        forms that people use, read as UTC where it has no offset. Default, where there is no
        such column, the time of the import.
    time_unit : {"s", "ms", "us", "ns"} or None
        None: told from the size of each number; eight digits that are a date
        are that day.
    time_format : str or None
        How times are written, as for `strptime`. None: as in the forms that are known.
    timezone : str or None
        Where the clock hangs that showed times without a zone, such as Europe/Berlin; None: UTC.
    default_time : str or None
        What an empty time is taken for: ``now``, the time of the import, or a time as in the
        column. None: its row is refused.
    allow_old : bool
        Whether a time before 1990 is taken; it is most often a number in another unit.
    event_id_column : str or None
        Usually ``event_id``: names each row, so that one that comes again is known. Without
        one, a row is known by its values where it has a time, else by its place.
    null_words : tuple of str
        Text that stands for nothing, besides none at all.
    decimal : {"comma", "point"} or None
        What stands before the fraction of a number; None: told from the column.
    rating_column : str or None
        Looked at only if `min_rating` is set; usually ``rating``.
    min_rating : float or None
        Rows with a lower rating are stored with weight 0: seen, and not liked.
    layout : Layout
        As of `Form`. In a matrix, `user_column` is the first unless it is named, and with
        `min_rating` the cells are ratings.
    has_header : bool
        Whether CSV begins with the names of its columns, which are numbers else: 1 is the first.
    """

    user_column: str | None = None
    item_column: str | None = None
    type_column: str | None = None
    interaction_type: str = "click"
    weight_column: str | None = None
    time_column: str | None = None
    time_unit: str | None = None
    time_format: str | None = None
    timezone: str | None = None
    default_time: str | None = None
    allow_old: bool = False
    event_id_column: str | None = None
    null_words: tuple[str, ...] = NULL_WORDS
    decimal: str | None = None
    rating_column: str | None = None
    min_rating: float | None = None
    layout: Layout = Layout.ROWS
    has_header: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_unit(self.time_unit)
        if self.decimal not in (None, "comma", "point"):
            raise DataError(f"The decimal sign {self.decimal!r} is not known: use comma or point.")
        if self.time_format is not None and self.time_unit is not None:
            raise DataError("Times have a format or a unit: give one of them.")
        if self.min_rating is None and self.rating_column is not None:
            raise DataError(
                f"The rating column {self.rating_column!r} is of use only with a least rating: "
                "give one (min_rating), or leave the column out."
            )
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise DataError(f"The least rating {self.min_rating} is not a number.")
        object.__setattr__(self, "layout", Layout(self.layout))
        if self.layout is Layout.WIDE and self.min_rating is not None:
            object.__setattr__(self, "rating_column", "weight")
            object.__setattr__(self, "weight_column", "")

    @property
    def named(self) -> list[str]:
        """Names of columns that are given."""
        return _given(
            self.user_column, self.item_column, self.type_column, self.weight_column,
            self.time_column, self.event_id_column, self.rating_column,
        )  # fmt: skip

    @property
    def names(self) -> list[str]:
        """Names that columns probably have: those that are given, and those that people use."""
        return [*self.named, *USUAL]

    @property
    def form(self) -> Form:
        """What a file is, as far as it is given."""
        return Form(
            layout=self.layout,
            users=self.user_column,
            null_words=self.null_words,
            has_header=self.has_header,
            **self.as_written(),
        )


@dataclass(frozen=True, kw_only=True)
class CatalogueFormat(Written):
    """What the columns of a catalogue mean; every other column is an attribute.

    Attributes
    ----------
    item_column, title_column : str
    category_column : str or None
        Usually ``categories``: several, as a list or in one text.
    category_separator : {"|", ";", ",", "json", "none"} or None
        What stands between categories in one text; ``json``: they are a list in brackets; ``none``:
        a text is one category. None: found out from the first rows.
    available_column : str or None
        Usually ``available``: true or false.
    from_column, until_column : str or None
        Usually ``available_from`` and ``available_until``: times as in `FileFormat`.
    time_unit : {"s", "ms", "us", "ns"} or None
        As in `FileFormat`.
    list_column : str or None
        A column that holds several values as the categories do, and is an attribute, whether or
        not it is the categories' too.
    empty_list : str
        What stands in a column of several values where there is none.
    """

    item_column: str = "item_id"
    title_column: str = "title"
    category_column: str | None = None
    category_separator: str | None = None
    available_column: str | None = None
    from_column: str | None = None
    until_column: str | None = None
    time_unit: str | None = None
    list_column: str | None = None
    empty_list: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category_separator not in (None, *SEPARATORS):
            raise DataError(
                f"{self.category_separator!r} is not known to stand between categories: use one of "
                f"{', '.join(SEPARATORS)}."
            )
        _check_unit(self.time_unit)

    @property
    def names(self) -> list[str]:
        """Names that columns probably have."""
        return _given(
            self.item_column, self.title_column, self.category_column, self.available_column,
            self.from_column, self.until_column, self.list_column, *USUAL,
        )  # fmt: skip

    @property
    def form(self) -> Form:
        """What a file is, as far as it is given."""
        return Form(**self.as_written())


def _given(*names: str | None) -> list[str]:
    return [name for name in names if name]


def _check_unit(unit: str | None) -> None:
    if unit not in (None, "s", "ms", "us", "ns"):
        raise DataError(f"The time unit {unit!r} is not known: use s, ms, us or ns.")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The formats of a known data set, and the name of its catalogue."""

    interactions: FileFormat
    catalogue: CatalogueFormat
    catalogue_name: str


MOVIELENS = Preset(
    interactions=FileFormat(
        user_column="userId",
        item_column="movieId",
        time_column="timestamp",
        rating_column="rating",
        min_rating=4.0,
    ),
    catalogue=CatalogueFormat(
        item_column="movieId",
        category_column="genres",
        category_separator="|",
        list_column="genres",
        empty_list="(no genres listed)",
    ),
    catalogue_name="movies.csv",
)
"""MovieLens: ``ratings.csv`` with ``movies.csv``; a rating below 4 is seen without taste."""


def look(source: Source, format: FileFormat) -> Found:
    """Return what a source's columns are, as far as it can be told."""
    given = {
        "user_id": format.user_column or None,
        "item_id": format.item_column or None,
        "interaction_type": format.type_column,
        "weight": format.weight_column,
        "occurred_at": format.time_column,
        "event_id": format.event_id_column,
        "rating": format.rating_column or None,
    }
    early = [name for name in source.columns if name not in source.late]
    found = find(early, given, has_least_rating=format.min_rating is not None)
    taken = {*found.columns, *(choice.part for choice in found.choices)}
    open_parts = [part for part in OPTIONS if part not in taken and given[part] is None]
    notes = [*found.notes, *notes_on_late(source.late, open_parts)]
    if format.time_column is None:
        notes += notes_on_unknown_times(early, found)
    return dataclasses.replace(found, notes=notes)


def find_columns(source: Source, format: FileFormat, *, types: Mapping[str, float]) -> Found:
    """Return the source's column for each part of an interaction: user, item and what else.

    Raises
    ------
    DataError
        A column is missing, is there twice, or it has to be said which it is.
    """
    found = look(source, format)
    missing = {choice.option: choice.part for choice in found.choices if choice.is_missing}
    _see_that_there_are(missing, source)
    see_that_there_are(found, source)
    if found.choices:
        raise DataError(f"{source.name}: {'; '.join(map(_to_be_said, found.choices))}.")
    accepted = accepted_types(types)
    if "interaction_type" not in found.columns and format.interaction_type not in accepted:
        raise DataError(
            f"The interaction type {format.interaction_type!r} {no_weight(accepted)}.",
            action=Action("weigh_type"),
        )
    return found


def see_that_there_are(found: Found, source: Source) -> None:
    """See that there is one column of each name that was said or found.

    Raises
    ------
    DataError
        There is none, or there are two.
    """
    _see_that_there_are({OPTIONS[part]: name for part, name in found.columns.items()}, source)


def _to_be_said(choice: Choice) -> str:
    given = " or ".join(f"{choice.option} {shlex.quote(name)}" for name in choice.columns)
    none = "" if choice.part in REQUIRED else f" ({choice.option} '' for none)"
    return f"{choice.sentence}. Say which: {given}{none}"


def _see_that_there_are(names: Mapping[str, str], source: Source) -> None:
    """See that there is one column of each name; the keys are the options that give the names."""
    there = ", ".join(repr(name) for name in source.columns)
    for option, name in names.items():
        if name not in source.columns:
            which = f"say which of them it is, with {option}" if option else "it is needed"
            if source.has_header:
                which += ". Line 1 was taken for their names: --no-header reads it as a row"
                if looks_like_a_row(source.columns):
                    which += ", which it looks like"
                which += ", and --skip-lines leaves out lines before them"
            raise DataError(
                f"{source.name} has no column {name!r}. Its columns are {there}: {which}."
            )
        if source.columns.count(name) > 1:
            raise DataError(
                f"{source.name} has {source.columns.count(name)} columns named {name!r} (its "
                f"columns are {there}): rename all but one."
            )


def accepted_types(types: Iterable[str]) -> list[str]:
    """Return the interaction types that a row may have, by name."""
    return sorted({*types, *WITHOUT_WEIGHT})


def no_weight(accepted: Sequence[str]) -> str:
    """Return what is wrong with any other type, to follow its value."""
    return f"{NO_WEIGHT}: use one of {', '.join(accepted)}, or give it one in the policy"


def check_catalogue(source: Source, format: CatalogueFormat, *, is_alone: bool = False) -> None:
    """See that a catalogue has the columns that its format names.

    Parameters
    ----------
    source : Source
    format : CatalogueFormat
    is_alone : bool
        Whether it comes without interactions: then it may do without titles.

    Raises
    ------
    DataError
        One is missing, or two have one name.
    """
    item_option = "--item-column" if is_alone else "--catalogue-item-column"
    wanted = {item_option: format.item_column, "--title-column": format.title_column}
    if is_alone and format.title_column == CatalogueFormat().title_column:
        del wanted["--title-column"]
    optional = {
        "--category-column": format.category_column,
        "--available-column": format.available_column,
        "--from-column": format.from_column,
        "--until-column": format.until_column,
    }
    wanted |= {option: name for option, name in optional.items() if name is not None}
    if format.list_column:
        wanted[""] = format.list_column  # a preset's, which no option changes
    _see_that_there_are(wanted, source)
    # Attributes have names, so no two of them may share one.
    _see_that_there_are({name: name for name in source.columns}, source)
