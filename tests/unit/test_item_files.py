"""Files of items: CSV, JSON lines, Parquet, and what their columns say."""

import csv as csv_module
import gzip
import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
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
        (b"number,title\n1,x\n", "has no column 'item_id'.*--item-column"),
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


GENRES = [("Action", "Sci-Fi"), ("Drama",), ("Action", "Drama", "R&B"), ("Sci-Fi", "Drama")]


@pytest.mark.parametrize(
    ("write", "words"),
    [
        ("|".join, "with | between"),
        ("; ".join, "with ; between"),
        (lambda names: ";".join(names).replace("&", "&amp;"), "with ; between"),
        (", ".join, "with , between"),
        (json.dumps, "in lists"),
        (lambda names: str([*names]), "in lists"),
        (lambda names: str(np.array(names)), "in lists"),
        (lambda names: str([{"id": 1, "name": name} for name in names]), "in lists"),
        (lambda names: json.dumps([{"id": 1, "name": name} for name in names]), "in lists"),
        (lambda names: f"[{', '.join(names)}]", "in lists"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_stands_between_categories_is_told_from_the_column(
    tmp_path, database, take, write, words, kind
):
    path = tmp_path / "items"
    rows = [{"item_id": f"i{n}", "genre": write(names)} for n, names in enumerate(GENRES)]
    rows.append({"item_id": "none", "genre": ""})
    frame = pd.DataFrame(rows)
    if kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    report = take(path, category_column="genre")
    assert report.read_as["items"].endswith(f"; categories {words}")
    found = {item_id: item.categories for item_id, item in stored(database).items()}
    assert found.pop("none") == ()
    ampersand = "R&amp;B" if "&amp;" in rows[2]["genre"] else "R&B"
    expected = [tuple(name.replace("R&B", ampersand) for name in names) for names in GENRES]
    assert found == {f"i{n}": names for n, names in enumerate(expected)}


def test_a_comma_may_be_part_of_a_category_and_what_stands_between_can_be_said(
    tmp_path, database, take
):
    path = tmp_path / "items"
    path.write_text('item_id,categories\na,"Home, Garden"\nb,"Home, Garden"\nc,Food &amp; Wine\n')
    assert "categories" not in take(path).read_as["items"]
    assert stored(database)["a"].categories == ("Home, Garden",)
    assert stored(database)["c"].categories == ("Food &amp; Wine",)
    take(path, category_separator=",")
    assert stored(database)["a"].categories == ("Home", "Garden")
    path.write_text("item_id,categories\na,x|y\n")
    take(path, category_separator="none")
    assert stored(database)["a"].categories == ("x|y",)
    with pytest.raises(DataError, match=r"'/' is not known .* use one of \|, ;"):
        take(path, category_separator="/")


def test_items_come_from_workbooks_and_from_recbole(tmp_path, database, take):
    path = tmp_path / "items.xlsx"
    frame = pd.DataFrame({"sku": [1, 2], "title": ["A", "B"], "price": [1.5, None]})
    frame.to_excel(path, index=False)
    assert take(path, item_column="sku").items == 2
    assert stored(database)["1"] == Item("1", "A", {"price": 1.5})
    path = tmp_path / "ml.item"
    path.write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n7\tToy Story\tAnimation Comedy\n"
    )
    take(path, title_column="movie_title", category_column="class")
    assert stored(database)["7"] == Item("7", "Toy Story", {}, ("Animation", "Comedy"))


def test_text_in_a_list_that_is_none_costs_its_row_alone(tmp_path, database, take):
    path = tmp_path / "items"
    raw = pa.array([b"x", b"y\xff", b"z", None])
    texts = pa.StringArray.from_buffers(4, *raw.buffers()[1:], raw.buffers()[0], 1)
    categories = pa.LargeListArray.from_arrays(pa.array(range(5)), texts)
    pq.write_table(pa.table({"item_id": range(4), "title": ["A"] * 4, "tags": categories}), path)
    report = take(path, category_column="tags")
    refused = {line.line: line.reason for line in report.first_refused}
    assert refused.keys() == {2, 4}
    assert refused[2] == "is not text in UTF-8"
    told = {item_id: item.categories for item_id, item in stored(database).items()}
    assert told == {"0": ("x",), "2": ("z",)}


TITLES = ["Plain", 'The "Best" of; all', 'Say "no"', "Two\nlines", "C:\\temp", "", 'x"y', "a;b"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv_module.QUOTE_ALL, csv_module.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("is_escaped", [True, False])
def test_marks_within_titles_are_read_however_they_are_escaped(
    tmp_path, database, take, delimiter, quoting, is_escaped
):
    path = tmp_path / "items"
    frame = pd.DataFrame({"item_id": range(len(TITLES)), "title": TITLES})
    escapes = {"doublequote": False, "escapechar": "\\"} if is_escaped else {}
    frame.to_csv(path, sep=delimiter, index=False, quoting=quoting, **escapes)
    report = take(path)
    assert report.refused == 0
    assert [stored(database)[str(n)].title or "" for n in range(len(TITLES))] == TITLES


def test_marks_that_belong_to_titles_stay(tmp_path, database, take):
    path = tmp_path / "items"
    for content in (
        'item_id\ttitle\n1\t"Heroes"\n2\tLodger\n',
        'item_id,title\n1,"Heroes"\n2,"Low" and more\n3,x\n',
    ):
        path.write_text(content)
        take(path)
        assert stored(database)["1"].title == '"Heroes"'
    assert stored(database)["2"].title == '"Low" and more'
    # All of a column, or all but what is missing: they stand around values.
    for content in (
        'item_id\ttitle\n1\t"Heroes"\n2\t"Lodger"\n3\tNA\n',
        'item_id\ttitle\n1\t"Heroes"\n',
        'item_id,title\n1,"Heroes"\n2,Lodger\n',
        'item_id,title\n1,"Heroes" \n2,"Lodger"\n',
    ):
        path.write_text(content)
        take(path)
        assert stored(database)["1"].title.strip() == "Heroes"


def test_how_marks_are_escaped_can_be_said(tmp_path, database, take):
    path = tmp_path / "items"
    path.write_text('item_id,title\n1,"12\\" single"\n2,"C:\\"\n')
    take(path)
    assert stored(database)["1"].title == '12" single'
    path.write_text('item_id,title\n2,"C:\\"\n3,"D:\\"\n')
    take(path)
    assert stored(database)["2"].title == "C:\\"
    path.write_text('item_id,title\n4,"a \\"b\\""\n5,\\N\n')
    take(path, has_escapes=True)
    assert stored(database)["4"].title == 'a "b"'


def test_items_and_titles_are_known_by_the_names_that_people_use(tmp_path, database, take):
    path = tmp_path / "artikel.csv"
    path.write_bytes("Artikel-Nr;Bezeichnung;Preis\r\n7;Gläser;2,50\r\n".encode("latin-1"))
    take(path)
    assert stored(database)["7"][:3] == ("7", "Gläser", {"Preis": "2,50"})
