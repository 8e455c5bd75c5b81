"""Files of items: CSV, JSON lines, Parquet, and what their columns say."""

import gzip
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reckeeper import audit, catalogue, clock, storage
from reckeeper.errors import DataError
from reckeeper.events import files
from reckeeper.events.files import CatalogueFormat
from reckeeper.storage import Item

BEGIN = clock.microseconds(datetime(2026, 1, 31, 12, tzinfo=UTC))
END = clock.microseconds(datetime(2027, 1, 31, tzinfo=UTC))


@pytest.fixture
def take(database, settings):
    def run(path, **format):
        return files.import_items(
            database, path, format=CatalogueFormat(**format), settings=settings, actor="cli"
        )

    return run


def stored(database):
    with database.read() as connection:
        page = storage.items.page(connection, limit=1000, moment=0)
    return {item.item_id: item for item in page}


LAMP = Item("1", "Lamp", {"price": 5}, ("light", "home"), False, BEGIN, END)


def csv(path):
    path.write_text(
        "item_id,title,categories,available,available_from,available_until,price\n"
        "1,Lamp,light|home,no,2026-01-31T13:00:00+01:00,2027-01-31,5\n"
        "2,,,,,,\n"
    )
    return LAMP._replace(attributes={"price": "5"})


def jsonl(path):
    lamp = {
        "item_id": 1,
        "title": "Lamp",
        "categories": ["light", "home"],
        "available": False,
        "available_from": "2026-01-31T12:00:00Z",
        "available_until": END // clock.SECOND,
        "attributes": {"price": 5},
    }
    path.write_text(f"{json.dumps(lamp)}\n\n" + '{"item_id": "2"}\n')
    return LAMP


def array(path):
    lamp = jsonl(path)
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    path.write_text(json.dumps(rows, indent=2))
    return lamp


def packed(path):
    lamp = jsonl(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    return lamp


def parquet(path):
    columns = {
        "item_id": [1, 2],
        "title": ["Lamp", None],
        "categories": [["light", "home"], None],
        "available": [False, None],
        "available_from": pa.array([BEGIN, None], pa.timestamp("us", "UTC")),
        "available_until": pa.array([END, None], pa.timestamp("us")),
        "price": [5, None],
    }
    pq.write_table(pa.table(columns), path)
    return LAMP


@pytest.mark.parametrize("write", [csv, jsonl, array, packed, parquet])
def test_columns_have_their_usual_names(tmp_path, database, take, write):
    path = tmp_path / "items"
    lamp = write(path)
    report = take(path)
    assert stored(database) == {"1": lamp, "2": Item("2", None, {})}
    assert (report.items, report.refused, report.accepted) == (2, 0, 0)
    assert take(path).items == 0
    entry = audit.entries(database, limit=9)[-1]
    assert (entry.action, entry.details["items"]) == ("import", 2)
    files.undo(database, report.import_id, actor="cli")
    assert stored(database) == {}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_can_be_named_and_the_rest_is_attributes(tmp_path, database, take, kind):
    row = {"sku": "a", "name": "Lamp", "kinds": "x|y", "on": "1", "start": 1_000, "brand": "B"}
    path = tmp_path / "items"
    text = ";".join(row) + "\n" + ";".join(map(str, row.values()))
    path.write_text(text if kind == "csv" else json.dumps(row))
    take(
        path,
        item_column="sku",
        title_column="name",
        category_column="kinds",
        available_column="on",
        from_column="start",
        time_unit="ms",
        delimiter=";",
    )
    expected = Item("a", "Lamp", {"brand": "B"}, ("x", "y"), True, 1_000_000)
    assert stored(database) == {"a": expected}


def test_a_file_says_nothing_of_what_it_has_no_column_for(tmp_path, database, take):
    catalogue.put(
        database, "a", {"title": "A", "attributes": {"x": 1}, "available": False}, actor="t"
    )
    path = tmp_path / "items"
    path.write_text("item_id,categories\na,c\nb,c\n")
    take(path)
    assert stored(database)["a"] == Item("a", "A", {"x": 1}, ("c",), False)
    path.write_text('{"item_id": "a", "available": true}\n{"item_id": "b", "price": 3}\n')
    take(path)
    assert stored(database)["a"] == Item("a", "A", {"x": 1}, ("c",), True)
    assert stored(database)["b"] == Item("b", None, {"price": 3}, ("c",))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_are_left_out_with_line_and_reason(tmp_path, database, take, kind):
    catalogue.put(database, "late", {"available_from": 10 * clock.SECOND}, actor="t")
    rows = [
        ("fine", "Fine", "a", "true", "5"),
        ("a\x01", "T", "a", "true", ""),
        ("b", "x" * 1001, "a", "true", ""),
        ("c", "T", "|".join(str(n) for n in range(101)), "true", ""),
        ("d", "T", "a", "maybe", ""),
        ("e", "T", "a", "true", "soon"),
        ("late", "T", "a", "true", "5"),
    ]
    names = ("item_id", "title", "categories", "available", "available_until")
    path = tmp_path / "items"
    if kind == "csv":
        path.write_text("\n".join(",".join(row) for row in (names, *rows)))
    else:
        objects = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("\n".join([*objects, "[1]", "{", '{"title": "no id"}']))
    report = take(path)
    assert report.items == 1
    assert stored(database)["fine"] == Item("fine", "Fine", {}, ("a",), True, None, 5_000_000)
    listed = report.refused_report.read_text().splitlines()[1:]
    first = 2 if kind == "csv" else 1
    assert len(listed) == report.refused == (6 if kind == "csv" else 9)
    for number, (column, reason) in enumerate(
        [
            ("item_id", "must have no control characters"),
            ("title", "must have at most 1000 characters"),
            ("categories", "must have at most 100 items"),
            ("available", "must be a valid boolean"),
            ("available_until", "is not a time"),
            ("available_until", "is not after available_from"),
        ],
        start=first + 1,
    ):
        (line,) = (line for line in listed if line.startswith(f"items,{number},"))
        assert column in line, line
        assert reason in line, line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"sku,title\n1,x\n", "has no column 'item_id'.*--item-column"),
        (b"\x1f\x8bnothing", "cannot be unpacked"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_written(
    tmp_path, database, take, content, said
):
    path = tmp_path / "items"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        take(path)
    with database.read() as connection:
        assert storage.imports.all_imports(connection) == []
