"""Files that are no table of text: JSON, Arrow's own, and what their ids are."""

import contextlib
import gzip
import io
import json
import random
import uuid
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckeeper import tabular
from reckeeper.errors import DataError
from reckeeper.events.previews import preview
from reckeeper.tabular import json_elements, json_names, json_objects
from reckeeper.tabular import lines as lines_module

ROOT = Path(__file__).parents[2]


def rows_of(path, *names):
    """Return rows, each with its line, and those that are broken, by their lines."""
    with tabular.open_source(path) as source:
        chunks = [
            part for chunk in source.chunks(names) for part in tabular.spread(chunk, file=path.name)
        ]
    rows = [
        row
        for chunk in chunks
        for row in zip(
            chunk.lines.tolist(),
            *(chunk.columns[name].to_pylist() for name in names),
            strict=True,
        )
    ]
    return rows, {line.line: line.reason for chunk in chunks for line in chunk.broken}


# --- JSON -----------------------------------------------------------------------------------------

EVENTS = [
    {"user_id": "u1", "event": {"item": {"id": 7}}, "at": "2024-01-03 15:28:18"},
    {"user_id": 2, "event": {"item": {"id": 8.0}}, "at": 1_704_295_698, "x": [1, {"y": 2}]},
    {"user_id": "u3", "event": {"item": {"id": "ü"}}, "at": 1_704_295_698.5},
]
READ = [(1, "u1", "7"), (2, "2", "8"), (3, "u3", "ü")]


def lines(path):
    path.write_text("".join(f"{json.dumps(event)}\n" for event in EVENTS))


def packed_lines(path):
    lines(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def of_windows(path):
    lines(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


def array(path):
    path.write_text(json.dumps(EVENTS, ensure_ascii=False), encoding="utf-8")


def pretty_array(path):
    path.write_text(json.dumps(EVENTS, indent=4))


def pages(path):
    path.write_text(f"{json.dumps(EVENTS[:1])}\n[]\n{json.dumps(EVENTS[1:])}")


def pretty_objects(path):
    path.write_text("\n".join(json.dumps(event, indent=1) for event in EVENTS))


JSON = [lines, packed_lines, of_windows, array, pretty_array, pages, pretty_objects]


@pytest.mark.parametrize("write", JSON)
@pytest.mark.parametrize("piece_bytes", [1024 * 1024, 7])
def test_json_is_read_in_any_form(tmp_path, monkeypatch, write, piece_bytes):
    monkeypatch.setattr(json_elements, "_PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(lines_module, "_PIECE_BYTES", piece_bytes)
    path = tmp_path / "events"
    write(path)
    assert rows_of(path, "user_id", "event.item.id") == (READ, {})
    with tabular.open_source(path) as source:
        assert source.columns[:3] == ["user_id", "event.item.id", "at"]


def test_parts_of_json_are_imported_by_their_paths(tmp_path, take, stored):
    path = tmp_path / "events.json"
    array(path)
    report = take(path, item_column="event.item.id", time_column="at")
    assert (report.accepted, report.refused) == (3, 0)
    assert stored("user_id", "item_id", "occurred_at") == [
        ("2", "8", 1_704_295_698_000_000),
        ("u1", "7", 1_704_295_698_000_000),
        ("u3", "ü", 1_704_295_698_500_000),
    ]


def test_a_broken_line_costs_its_row_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"u": "a", "i": 1}\n{"u": "b", "i": 2\n\n[1]\n{"u": "c\xff", "i": 3}\n'
        b'{"u": "d", "i": {"x": 1}}\n{"i": 5}\n{"u": "\\ud800", "i": 6}\n{"u": true, "i": 7}'
    )
    rows, broken = rows_of(path, "u", "i")
    assert rows == [(1, "a", "1"), (7, None, "5")]
    assert broken.keys() == {2, 4, 5, 6, 8, 9}
    assert broken[4] == "is no JSON object"
    assert broken[6] == "is an object: name a part of it, such as user.id"
    assert broken[9] == "is a truth value, where others are none"


def test_a_line_without_an_end_is_left_out_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines_module, "_PIECE_BYTES", 50)
    monkeypatch.setattr(json_objects, "MOST_BYTES", 100)
    path = tmp_path / "a.jsonl"
    for line_end in ("\n", "\r\n", "\r"):
        long = json.dumps({"u": "x" * random.randrange(200, 300)})
        path.write_text(line_end.join(['{"u": 1}', long, '{"u": 3}', "", long, '{"u": 6}']))
        rows, broken = rows_of(path, "u")
        assert rows == [(1, 1), (3, 3), (6, 6)]
        assert broken == dict.fromkeys((2, 5), "is longer than 100 bytes")


@pytest.mark.parametrize("piece_bytes", [1024 * 1024, 7])
@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ('{"u": }', "is no JSON: Expecting value at its character 7"),
        ('{"u": tru, "t": "a } b"}', "is no JSON: Expecting value at its character 7"),
        ("{'u': 2}", "is no JSON: Expecting property name enclosed in double quotes"),
        ('{"u": "2, "t": "x"}', "is no JSON: Expecting ',' delimiter at its character 12"),
        ('{"u": "a\nb"}', "is no JSON: Invalid control character at its character 9"),
        ('{"u": 2', "is no JSON: Expecting property name"),
        ('{"u": 2, "l": [{"s": 1}, {"s": }]}', "is no JSON: Expecting value at its character 32"),
        ('{"u": 2, "l": [{"s": 1}, {"s": 2}', "is not whole: the file ends within it"),
        ('{"u": 2, "l": [{"s": 1}, "s": 2}]}', "is no JSON: Expecting ',' delimiter"),
        ("oops", "is no JSON: Expecting value at its character 1"),
        ("[" * 20_000, "is nested too deeply"),
        (f'{{"u": {"9" * 5_000}}}', "has too long a number in it"),
        ("[1]", "is no JSON object"),
    ],
)
def test_an_array_is_read_beyond_an_element_that_is_broken(
    tmp_path, monkeypatch, elements, reason, piece_bytes
):
    monkeypatch.setattr(json_elements, "_PIECE_BYTES", max(piece_bytes, len(elements) // 10))
    path = tmp_path / "a.json"
    for between in (", ", ",\n  "):
        whole = [json.dumps({"u": n, "l": [{"s": n}, {"s": -n}]}) for n in range(6)]
        path.write_text(f"[{between.join([*whole[:2], elements, *whole[3:]])}]")
        rows, broken = rows_of(path, "u")
        assert rows == [(1, 0), (2, 1), (4, 3), (5, 4), (6, 5)]
        assert broken.keys() == {3}
        assert broken[3].startswith(reason)


@pytest.mark.parametrize(
    ("content", "places", "refused"),
    [
        ('[{"u": 1}, {"u": 2}', [1, 2], {3: "is missing: the file ends within the array"}),
        ('[{"u": 1}, {"u": "x', [1], {2: "is not whole: the file ends within it"}),
        ('[{"u": 1} {"u": 2},, {"u": 3}, ]', [1, 2, 3], {}),
        ('[{"u": 1}}, {"u": 3}]', [1, 3], {2: "is no JSON: Expecting value at its character 1"}),
        (
            '[{"u": 1}], {"u": 2}]',
            [1, 2],
            {3: "is no JSON: Expecting value at its character 1"},
        ),
        (
            '{"u": 1,\n"i": 1}\n{"u": 2,\n"i": }\n{"u": 3,\n"i": 3}',
            [1, 3],
            {2: "is no JSON: Expecting value at its character 15"},
        ),
    ],
)
def test_an_array_with_a_sign_too_many_or_too_few_is_read(tmp_path, content, places, refused):
    path = tmp_path / "a.json"
    path.write_text(content)
    rows, broken = rows_of(path, "u")
    assert [line for line, _ in rows] == places
    assert broken == refused


def test_whatever_sign_is_wrong_in_an_element_no_other_one_is_lost():
    rows = [{"u": n, "lines": [{"sku": "a"}, {"sku": "b"}], "at": {"x": 1}} for n in range(4)]
    texts = [json.dumps(row) for row in rows]
    broken = texts[1]
    for at in range(len(broken)):
        for sign in ("", *'{}]",:x'):
            for behind in (at, at + 1):
                texts[1] = broken[:at] + sign + broken[behind:]
                content = io.BytesIO(f"[{', '.join(texts)}]".encode())
                found = json_elements.Elements(content, "a.json")
                given = [row for some in found if isinstance(some, list) for row in some]
                assert [row for row in given if row in rows[:1] + rows[2:]] == rows[:1] + rows[2:]


def test_a_long_array_is_read_beyond_elements_that_are_broken(tmp_path):
    path = tmp_path / "a.json"
    n, odd = 50_000, range(7, 50_000, 997)
    elements = [f'{{"u": {number}, "i": [{{"x": 1}}]}}' for number in range(1, n + 1)]
    for number in odd:
        elements[number - 1] = '{"u": "a, "i": [{"x": 1}]}'
    path.write_text(f"[{', '.join(elements)}]")
    rows, broken = rows_of(path, "u")
    assert list(broken) == list(odd)
    assert rows == [(number, number) for number in range(1, n + 1) if number not in broken]


def test_an_element_without_an_end_is_passed_over_and_a_few_of_them_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(json_elements, "_PIECE_BYTES", 50)
    monkeypatch.setattr(json_elements, "MOST_BYTES", 100)
    path = tmp_path / "a.json"
    sound, endless = [f'{{"u": {number}}}' for number in range(30)], '{"u": -1, "i": ["x"'
    path.write_text(f"[{', '.join([*sound, endless, *sound])}]")
    rows, broken = rows_of(path, "u")
    assert len(rows) == 60
    assert broken == {31: "is longer than 100 characters"}
    path.write_text(f"[{', '.join([*sound, *[endless, *sound] * 11])}]")
    with pytest.raises(DataError, match=r"beyond element 340: 10 elements before that are longer"):
        rows_of(path, "u")


def test_refused_elements_are_listed_with_places_and_reasons(tmp_path, take, stored):
    path = tmp_path / "a.json"
    path.write_bytes(
        b'[{"user_id": "u1", "item_id": "i1"}, {"user_id": "\xff" "item_id": "i2"},'
        b'{"user_id": "u3", "item_id": "i3"}, {"user_id": "\xff", "item_id": "i4"}]'
    )
    report = take(path)
    assert (report.accepted, report.refused) == (2, 2)
    assert [(line.line, line.reason) for line in report.first_refused] == [
        (2, "is no JSON: Expecting ',' delimiter at its character 19"),
        (4, "is not text in UTF-8"),
    ]
    assert len(report.refused_report.read_text().splitlines()) == 3
    assert stored("user_id") == [("u1",), ("u3",)]


def test_the_first_line_of_json_may_be_broken(tmp_path):
    path = tmp_path / "a.jsonl"
    for first in (b'{"u": "\xff"}', b'{"u": 1', b'{"u": "a\xe2\x80\xa8b"} x'):
        path.write_bytes(first + b'\n{"u": 2}\n')
        rows, broken = rows_of(path, "u")
        assert (rows, broken.keys()) == ([(2, 2)], {1})
    path.write_text(json.dumps({"u": "a\u2028b"}, ensure_ascii=False), encoding="utf-8")
    assert rows_of(path, "u") == ([(1, "a\u2028b")], {})


def test_names_in_brackets_are_no_json(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("[u],[i]\n1,2\n")
    assert rows_of(path, "[u]", "[i]") == ([(2, b"1", b"2")], {})


def test_a_row_with_lists_is_a_row_for_each_item(tmp_path, take, stored):
    path = tmp_path / "orders.json"
    orders = [
        {"customer": "u1", "key": "o1", "lines": [{"sku": "a", "n": 2}, {"sku": "b", "n": 1}]},
        {"customer": "u2", "key": "o2", "lines": [{"sku": "a"}]},
        {"customer": "u3", "key": "o3", "lines": []},
    ]
    path.write_text(json.dumps(orders))
    format = {"user_column": "customer", "item_column": "lines.sku", "weight_column": "lines.n"}
    for named in (format, format | {"event_id_column": "key"}):
        report = take(path, **named)
        assert (report.accepted, report.refused, report.duplicates) == (3, 1, 0)
        assert report.first_refused[0].line == 3
        assert take(path, **named).duplicates == 3
    assert stored("user_id", "item_id", "weight") == [
        ("u1", "a", 2.0), ("u1", "a", 2.0), ("u1", "b", 1.0), ("u1", "b", 1.0),
        ("u2", "a", 1.0), ("u2", "a", 1.0),
    ]  # fmt: skip


def test_a_preview_of_json_shows_rows_whatever_stands_in_other_columns(tmp_path):
    path = tmp_path / "orders.json"
    orders = [
        {"customer": {"id": "u1"}, "note": {"x": 1}, "lines": [{"sku": "a"}, {"sku": "b"}], "n": 1},
        {"customer": {"id": "u2"}, "note": "y", "lines": [], "n": True},
        {"customer": {"id": "u3"}, "note": None, "lines": [{"sku": "c"}], "n": [[1]]},
    ]
    path.write_text("\n".join(map(json.dumps, orders)))
    found = preview(path, types={"click": 1.0})
    assert found.columns == ["customer.id", "note.x", "lines.sku", "n", "note"]
    assert {part.part: part.column for part in found.parts} == {
        "user_id": "customer.id",
        "item_id": "lines.sku",
    }
    assert [(row.line, row.user_id, row.item_id) for row in found.rows] == [
        (1, "u1", "a"), (1, "u1", "b"), (3, "u3", "c"),
    ]  # fmt: skip
    assert [(line.line, line.column) for line in found.refused] == [(2, "lines.sku")]
    assert found.cells == [
        ["u1", "1", "a, b", "1", "{'x': 1}"],
        ["u2", "", "", "True", "y"],
        ["u3", "", "c", "[[1]]", ""],
    ]


def late_objects(path, *, is_array):
    """Write objects of which the last thousand have more than the others."""
    more = {"event": {"stars": 5}, "timestamp": 1_704_295_698}
    rows = [
        {"user_id": f"u{n}", "item_id": "i"} | (more if n >= 6_000 else {}) for n in range(7_000)
    ]
    path.write_text(json.dumps(rows) if is_array else "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("is_array", [False, True])
def test_a_column_that_is_named_is_read_where_only_late_objects_have_it(
    tmp_path, take, stored, is_array
):
    path = tmp_path / "a.json"
    late_objects(path, is_array=is_array)
    named = {
        "time_column": "timestamp",
        "default_time": "2024-01-01",
        "weight_column": "event.stars",
    }
    assert take(path, **named).accepted == 7_000
    rows = stored("weight", "occurred_at")
    assert rows.count((5.0, 1_704_295_698_000_000)) == 1_000
    assert rows.count((1.0, 1_704_067_200_000_000)) == 6_000
    with pytest.raises(DataError, match=r"has no column 'event.star'.* 'timestamp': say"):
        take(path, weight_column="event.star")


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_column_that_only_late_objects_have_is_told_and_not_used(
    tmp_path, monkeypatch, take, is_whole
):
    if not is_whole:
        monkeypatch.setattr(json_names, "_WHOLE_BYTES", 1_000)
        monkeypatch.setattr(json_names, "_PLACES", 9)
        monkeypatch.setattr(json_names, "_PLACE_BYTES", 1_000)
    path = tmp_path / "a.jsonl"
    late_objects(path, is_array=False)
    told = [
        "No object before object 6,001 has 'timestamp', which could be the time; it is not used. "
        "--time-column timestamp takes it.",
        "No object before object 6,001 has 'event.stars', which could be the rating; it is not "
        "used. --rating-column event.stars takes it, with --min-rating.",
    ]
    found = preview(path, types={"click": 1.0})
    assert found.notes == told
    assert found.columns == ["user_id", "item_id", "event.stars", "timestamp"]
    assert take(path).notes == told
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert preview(path, types={"click": 1.0}).notes == told
    monkeypatch.setattr(json_objects, "_MOST_LOOKED_AT", 4_500)
    far = told[0].replace("before object 6,001", "of the first million")
    assert far in preview(path, types={"click": 1.0}).notes


def test_what_mongodb_puts_around_values_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "events.json"
    at = {"$date": {"$numberLong": "1704295698000"}}
    events = [
        {"user": {"$oid": "507f"}, "item": {"$numberInt": "7"}, "at": at},
        {"user": {"$oid": "507e"}, "item": 8, "at": {"$date": "2024-01-03T15:28:18Z"}},
    ]
    path.write_text("\n".join(map(json.dumps, events)))
    assert rows_of(path, "user", "item", "at") == (
        [(1, "507f", "7", "1704295698000"), (2, "507e", "8", "2024-01-03T15:28:18Z")],
        {},
    )


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("yelp.jsonl", {}, [("u1", "b1", 1.0), ("u2", "b1", 1.0)]),
        ("decimal_ids.parquet", {}, None),
        ("bool.csv", {"rating_column": "is_read", "min_rating": 1}, [0.0, 1.0]),
    ],
)
def test_cases_of_others(take, stored, name, format, expected):
    path = ROOT.parent / "shared" / "cases" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    report = take(path, **format)
    assert (report.accepted, report.refused) == (2, 0)
    if name == "bool.csv":
        assert [weight for (weight,) in stored("weight")] == expected
    elif expected is None:
        assert all(user.isdecimal() for (user,) in stored("user_id"))
    else:
        assert stored("user_id", "item_id", "weight") == expected


# Words that stand for nothing are the importer's concern, and are read as they are here.
IDS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.integers(),
    st.integers(-(2**53), 2**53).map(float),
)


def _id(value):
    return str(int(value)) if isinstance(value, float) else str(value)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6), st.sampled_from(["lines", "array"]))
def test_any_ids_in_json_are_read_back(tmp_path_factory, ids, form):
    path = tmp_path_factory.mktemp("json") / "a"
    rows = [{"u": user, "i": item} for user, item in ids]
    content = json.dumps(rows) if form == "array" else "\n".join(map(json.dumps, rows))
    path.write_text(content)
    found, broken = rows_of(path, "u", "i")
    assert broken == {}
    assert [tuple(map(_id, row[1:])) for row in found] == [tuple(map(_id, row)) for row in ids]


# --- Arrow and Parquet ----------------------------------------------------------------------------

TABLE = pa.table({"u": ["a", None, "c"], "x": [1, 2, 3], "i": [[1, 2], [3], []]})
SPREAD = [(1, "a", 1), (1, "a", 2), (2, None, 3), (3, "c", None)]


def feather(table, path):
    pyarrow.feather.write_feather(table, path, compression="zstd")


def plain_feather(table, path):
    pyarrow.feather.write_feather(table, path, compression="uncompressed", chunksize=1)


def stream(table, path):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def polars_feather(table, path):
    pl.from_arrow(table).write_ipc(path, compression="lz4")


def polars_stream(table, path):
    pl.from_arrow(table).write_ipc_stream(path)


def polars_parquet(table, path):
    pl.from_arrow(table).write_parquet(path)


FORMS = [feather, plain_feather, stream, pq.write_table]
POLARS = [polars_feather, polars_stream, polars_parquet]


@pytest.mark.parametrize("write", [*FORMS, *POLARS])
def test_columns_of_arrow_are_read_with_a_row_for_each_item_of_a_list(tmp_path, write):
    path = tmp_path / "a"
    write(TABLE, path)
    assert rows_of(path, "u", "i") == (SPREAD, {})


def test_feather_of_pandas_is_imported(tmp_path, take, stored):
    path = tmp_path / "a.feather"
    when = pd.to_datetime(["2024-01-03 15:28:18", "2024-01-04 00:00:00"])
    frame = pd.DataFrame({"user_id": ["u", "v"], "item_id": [1.0, 2.0], "occurred_at": when})
    frame.assign(item_id=frame.item_id, kind=pd.Categorical(["a", "b"])).to_feather(path)
    assert take(path).accepted == 2
    assert stored("user_id", "item_id", "occurred_at") == [
        ("u", "1", 1_704_295_698_000_000),
        ("v", "2", 1_704_326_400_000_000),
    ]


@pytest.mark.parametrize("form", ["csv", "ndjson", "json", "parquet", "ipc", "ipc_stream"])
def test_what_polars_writes_is_imported(tmp_path, take, stored, form):
    path = tmp_path / "a"
    at = [datetime(2024, 1, 3, 15, 28, 18), datetime(2024, 1, 4, 0, 0, 0, 500_000), None]
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(["u 1", 'ü "2"', "u 1"], dtype=pl.Categorical),
            "item_id": pl.Series(["i", "j", None], dtype=pl.Enum(["j", "i"])),
            "weight": pl.Series([Decimal("1.50"), None, Decimal(2)], dtype=pl.Decimal(20, 2)),
            "occurred_at": pl.Series(at).dt.replace_time_zone("Europe/Berlin"),
            "note": [None, "two\nlines", ""],
            "sold": pl.Series([0.5, 1.0, None], dtype=pl.Float16),
        }
    )
    getattr(frame, f"write_{form}")(path)
    report = take(path)
    assert (report.accepted, report.refused) == (2, 1)
    (refused,) = report.first_refused
    assert (refused.column, refused.reason) == ("item_id", "is empty")
    assert stored("user_id", "item_id", "weight", "occurred_at") == [
        ("u 1", "i", 1.5, 1_704_292_098_000_000),
        ('ü "2"', "j", 1.0, 1_704_322_800_500_000),
    ]


def structs():
    """Return a table of orders: a user within, and items in lists."""
    kind = pa.struct([("id", pa.string()), ("name", pa.struct([("first", pa.string())]))])
    lines = pa.list_(pa.struct([("sku", pa.string()), ("n", pa.int64())]))
    rows = {
        "user": [{"id": "u0"}, {"id": "u1", "name": {"first": "x"}}, None, {"id": "u3"}],
        "user.name.first": ["a", "b", "c", "d"],
        "lines": [[{"sku": "z"}], [{"sku": "a", "n": 2}, {"sku": "b"}], [{"sku": "c"}], None],
    }
    return pa.table(rows, pa.schema({"user": kind, "user.name.first": "string", "lines": lines}))


@pytest.mark.parametrize("write", FORMS)
def test_parts_of_structs_are_columns_by_their_paths(tmp_path, take, stored, write):
    path = tmp_path / "a"
    write(structs()[1:], path)
    with tabular.open_source(path) as source:
        assert source.columns == ["user.id", "user.name.first", "lines.sku", "lines.n"]
    rows, broken = rows_of(path, "user.id", "user.name.first", "lines.sku", "lines.n")
    assert broken == {}
    assert rows == [
        (1, "u1", "b", "a", 2), (1, "u1", "b", "b", None), (2, None, "c", "c", None),
        (3, "u3", "d", None, None),
    ]  # fmt: skip
    found = preview(path, types={"click": 1.0})
    assert {part.part: part.column for part in found.parts} == {
        "user_id": "user.id",
        "item_id": "lines.sku",
    }
    assert take(path, weight_column="lines.n").accepted == 2
    assert stored("user_id", "item_id", "weight") == [("u1", "a", 2.0), ("u1", "b", 1.0)]


@pytest.mark.parametrize("write", FORMS)
def test_ids_of_any_type_are_what_they_say(tmp_path, take, stored, write):
    keys = [uuid.UUID(int=number) for number in (1, 2**127 + 5)]
    users = pa.array([Decimal(10**37), Decimal(7)], pa.decimal128(38, 0))
    path = tmp_path / "a"
    for number, column in enumerate(
        [
            pa.array(keys, pa.uuid()),
            pa.array([key.bytes for key in keys], pa.binary(16)),
            pa.array([str(key) for key in keys]).dictionary_encode(),
        ]
    ):
        write(pa.table({"user_id": users, "item_id": column, "x": [number] * 2}), path)
        assert take(path).accepted == 2
    expected = sorted(zip(("1" + "0" * 37, "7"), map(str, keys), strict=True))
    assert stored("user_id", "item_id") == sorted(expected * 3)


def test_text_in_parquet_that_is_none_costs_its_row_alone(tmp_path, take, stored):
    path = tmp_path / "a"
    raw = pa.array([b"u1", b"u\xff", b"u3", None])
    users = pa.StringArray.from_buffers(4, *raw.buffers()[1:], raw.buffers()[0], 1)
    items = pa.LargeListArray.from_arrays(pa.array([0, 2, 3, 4, 4]), users)
    pq.write_table(pa.table({"user_id": ["a", "b", "c", "d"], "item_id": items}), path)
    report = take(path)
    assert (report.accepted, report.refused) == (2, 3)
    assert stored("user_id", "item_id") == [("a", "u1"), ("b", "u3")]
    pq.write_table(pa.table({"user_id": users, "item_id": ["i"] * 4}), path)
    report = take(path)
    assert (report.accepted, report.refused) == (2, 2)
    assert report.first_refused[0].reason == "is not text in UTF-8"
    assert len(preview(path, types={"click": 1.0}).rows) == 2


def test_lists_that_do_not_go_together_are_refused(tmp_path):
    table = pa.table({"u": [1, 2], "i": [[1, 2], [3, 4]], "r": [[1.0, 2.0], [1.0]]})
    pq.write_table(table, tmp_path / "a")
    rows, broken = rows_of(tmp_path / "a", "u", "i", "r")
    assert rows == [(1, 1, 1, 1.0), (1, 1, 2, 2.0)]
    assert broken == {2: "has 1 values, and another list of its row 2"}


@pytest.mark.parametrize("write", [*FORMS, *POLARS])
def test_a_file_of_arrow_that_is_cut_or_changed_is_refused_and_nothing_else(tmp_path, write):
    path = tmp_path / "a"
    write(TABLE, path)
    content = path.read_bytes()
    chance = random.Random(1)
    for _ in range(60):
        changed = bytearray(content[: chance.randrange(8, len(content) + 1)])
        for _ in range(chance.randrange(4)):
            changed[chance.randrange(8, len(changed) + 1) - 1] = chance.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            rows_of(path, "u", "i")


def test_a_type_that_cannot_be_read_is_named(tmp_path):
    frame = pl.DataFrame({"u": ["a"], "n": pl.Series([2**100], dtype=pl.Int128)})
    for form in ("parquet", "ipc", "ipc_stream"):
        getattr(frame, f"write_{form}")(tmp_path / "a")
        with pytest.raises(DataError, match=r"more than 64 bits .*: leave it out"):
            rows_of(tmp_path / "a", "u")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old kind .*save it as .xlsx"),
        (b"FEA1" + bytes(100), "Feather of version 1"),
        (b"ARROW1" + bytes(100), "not a sound Arrow file"),
        (gzip.compress(b"ARROW1" + bytes(100)), "packed already: unpack it"),
        (b"[]", "has no objects with something in them"),
        (b'{"u"\n{"u"\n', "has no objects .*: line 1 is no JSON"),
    ],
    ids=["old workbook", "old Feather", "no Arrow", "packed Arrow", "no objects", "broken lines"],
)
def test_what_cannot_be_read_is_said(tmp_path, content, said):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        rows_of(path, "u")
