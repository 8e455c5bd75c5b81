"""The columns of Arrow's tables: a struct's parts are columns by their paths, as JSON's are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from reckeeper.tabular.columns import is_list, plain
from reckeeper.tabular.json_names import MOST_COLUMNS, name_of


class Place(NamedTuple):
    """Where a column lies.

    Attributes
    ----------
    names : tuple of str
        Of the column of the table, and of the parts within it that lead there.
    within : tuple of int
        The places of these parts, each among those of its struct.
    n_above : int
        How many of the names stand above the first list.
    has_lists : bool
    """

    names: tuple[str, ...]
    within: tuple[int, ...]
    n_above: int
    has_lists: bool

    @property
    def top(self) -> str:
        """The name of the column of the table."""
        return self.names[0]

    @property
    def parquet_name(self) -> str:
        """What has Parquet read this part, and as little else as can be."""
        return ".".join(self.names[: self.n_above])

    def of(self, values: pa.Array) -> pa.Array:
        """Return what lies there in the column of the table; below a list, lists."""
        for place in self.within:
            values = _part(plain(values), place)
        return values


def places_of(schema: pa.Schema, names: Sequence[str]) -> tuple[list[str], dict[str, Place]]:
    """Return the names of columns, and where each lies.

    Parameters
    ----------
    schema : pyarrow.Schema
    names : sequence of str
        Those of the table, in the order that is wanted; two may have one name.
    """
    columns: list[str] = []
    places: dict[str, Place] = {}
    n_named = Counter(names)
    for top in names:
        if n_named[top] > 1:  # whoever asks for one of them is told so
            columns.append(top)
            places[top] = Place((top,), (), 1, False)
            continue
        for place in _parts(schema.field(top).type, Place((top,), (), 1, False)):
            name = top if len(place.names) == 1 else name_of(place.names)
            is_new = name not in places and name not in n_named and len(columns) < MOST_COLUMNS
            if len(place.names) == 1 or is_new:
                columns.append(name)
                places[name] = place
    return columns, places


def _parts(kind: pa.DataType, place: Place) -> Iterator[Place]:
    """Give the places of the columns that one column of a table is."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if is_list(kind):
        yield from _parts(kind.value_type, place._replace(has_lists=True))
    elif pa.types.is_struct(kind) and kind.num_fields:
        for number, field in enumerate(kind):
            yield from _parts(
                field.type,
                Place(
                    (*place.names, field.name),
                    (*place.within, number),
                    place.n_above + (not place.has_lists),
                    place.has_lists,
                ),
            )
    else:
        yield place


def _part(values: pa.Array, place: int) -> pa.Array:
    if is_list(values.type):
        mask = values.is_null() if values.null_count else None
        return pa.LargeListArray.from_arrays(
            values.offsets, _part(plain(values.values), place), mask=mask
        )
    return pc.struct_field(values, [place])
