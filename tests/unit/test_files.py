"""The importer of files, on real databases and real files."""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reckeeper import clock, machine, storage
from reckeeper.config import Settings
from reckeeper.errors import Action, ConflictError, DataError, NotFoundError, StorageError
from reckeeper.events import files, imports, parse, running, undoing
from reckeeper.events.files import MOVIELENS, CatalogueFormat, FileFormat
from reckeeper.interactions import Interaction
from reckeeper.storage import Item
from reckeeper.tabular import text

ROOT = Path(__file__).parents[2]
MOVIELENS_FOLDER = ROOT.parent / "shared" / "data" / "ml-latest-small"
DAY = 86_400_000_000


@pytest.fixture
def take(database: storage.Database, settings: Settings) -> Callable[..., files.ImportReport]:
    def take(path: Path, format: FileFormat | None = None, **more: Any) -> files.ImportReport:
        return files.import_file(
            database, path, format=format or FileFormat(), settings=settings, actor="test", **more
        )

    return take


def stored(database: storage.Database, *names: str) -> list[Any]:
    """Return the interactions, in the order of their event ids."""
    columns = ", ".join(names or ("user_id", "item_id"))
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            f"SELECT {columns} FROM user_interactions ORDER BY event_id"
        )
        return [row[0] if len(names) == 1 else tuple(row) for row in rows]


def one_import(database: storage.Database, import_id: int) -> storage.Import:
    with database.read() as connection:
        row = storage.imports.get(connection, import_id)
    assert row is not None
    return row


def audit_actions(database: storage.Database) -> list[str]:
    with database.read() as connection:
        return [entry.action for entry in storage.audit_log.latest(connection, limit=100)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- What is read -------------------------------------------------------------------------------


def test_columns_under_their_usual_names_are_found(tmp_path, database, take):
    path = write(
        tmp_path / "a.csv",
        "weight,occurred_at,user_id,other,interaction_type,item_id\n"
        "2.5,2025-12-04T23:42:15Z,u1,x,click,i1\n"
        ",,u2,x,watchlist_add,i2\n",
    )
    before = clock.now()
    report = take(path, FileFormat(default_time="now"))
    assert (report.accepted, report.duplicates, report.refused) == (2, 0, 0)
    assert report.without_taste == 0
    first, second = stored(
        database, "user_id", "item_id", "interaction_type", "weight", "occurred_at", "import_id"
    )
    at = int(datetime(2025, 12, 4, 23, 42, 15, tzinfo=UTC).timestamp()) * 1_000_000
    assert first == ("u1", "i1", "click", 2.5, at, report.import_id)
    assert second[:4] == ("u2", "i2", "watchlist_add", 1.0)
    assert before <= second[4] <= clock.now()
    assert report.refused_report is None
    with database.read() as connection:
        assert "i2" in dict(storage.interactions.watchlist_of(connection, "u2"))


def test_without_optional_columns_the_defaults_apply(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu1,i1\n")
    take(path, FileFormat(interaction_type="watchlist_add"))
    assert stored(database, "interaction_type", "weight") == [("watchlist_add", 1.0)]


HEADERLESS = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\n244\t51\t2\t880606923\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_file_without_a_header_is_read_by_the_numbers_of_its_columns(
    tmp_path, database, take, mark, is_packed
):
    content = (mark + HEADERLESS).encode()
    path = write(tmp_path / "u.data", gzip.compress(content) if is_packed else content)
    numbered = FileFormat(
        user_column="1", item_column="2", time_column="4", delimiter="\t", has_header=False
    )
    report = take(path, numbered)
    assert (report.accepted, report.refused) == (3, 1)
    assert report.first_refused[0].line == 3
    assert set(stored(database)) == {("196", "242"), ("186", "302"), ("244", "51")}
    named = FileFormat(user_column="196", item_column="user", delimiter="\t")
    with pytest.raises(DataError, match="Line 1 was taken for their names: --no-header"):
        take(path, named)


def test_a_file_and_its_gzip_are_the_same(tmp_path, take):
    text = b"user_id,item_id\nu1,a\nu2,b\n"
    assert take(write(tmp_path / "a.csv", text)).accepted == 2
    packed = write(tmp_path / "a.csv.gz", gzip.compress(text))
    assert take(packed).duplicates == 2
    cut = write(tmp_path / "cut.csv.gz", packed.read_bytes()[:-4])
    assert files.fingerprint(cut) == hashlib.sha256(cut.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["csv", "string", "large_string", "string_view", "binary"])
def test_words_for_nothing_are_nothing(tmp_path, database, take, kind):
    words = ["NULL", "null", "None", "nan", "NaN", "\\N", "<NA>", "", "u1"]
    items = [f"i{number}" for number in range(len(words))]
    path = tmp_path / "a"
    if kind == "csv":
        lines = [f"{word},{item},{word}" for word, item in zip(words[:-1], items, strict=False)]
        write(path, "\n".join(["user_id,item_id,weight", *lines, "u1,i8,<NA>", ""]))
    else:
        columns = {"user_id": pa.array(words).cast(getattr(pa, kind)()), "item_id": items}
        pq.write_table(pa.table(columns | {"weight": [*words[:-1], "NULL"]}), path)
    report = take(path)
    assert (report.accepted, report.refused) == (1, 8)
    assert stored(database, "user_id", "item_id", "weight") == [("u1", "i8", 1.0)]
    first = report.first_refused[0]
    assert (first.value, first.reason) == ("NULL", "is empty")
    other = write(tmp_path / "b.csv", "user_id,item_id\nNULL,i\nnone,i\n")
    assert take(other, FileFormat(null_words=("none",))).refused == 1
    assert "NULL" in stored(database, "user_id")


UNBALANCED = ["u1\ta1\tLow", 'u2\ta2\t"Heroes', "u3\ta3\tLodger", 'u4\ta4\t"Station', "u5\ta5\tX"]


def test_between_tabs_quotation_marks_that_are_not_closed_are_characters(tmp_path, database, take):
    path = write(tmp_path / "a.tsv", "\n".join(["user_id\titem_id\ttrack", *UNBALANCED, ""]))
    report = take(path, FileFormat(delimiter="\t"))
    assert (report.accepted, report.refused) == (5, 0)
    quoted = write(tmp_path / "b.tsv", 'user_id\titem_id\ttrack\nu6\ta6\t"Two\nlines"\n')
    assert take(quoted, FileFormat(delimiter="\t")).accepted == 1


@pytest.mark.parametrize("content", ["x" * 200_000, '"' + "x" * 200_000, "\t" * 200_000, '"'])
def test_a_first_line_of_any_length_is_no_crash(tmp_path, take, content):
    path = write(tmp_path / "a.tsv", f"{content}\nu\ti\n")
    with pytest.raises(DataError):
        take(path, FileFormat(delimiter="\t"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("n_within", [0, 1, 5])
def test_rows_that_a_quotation_mark_holds_together_are_refused(
    tmp_path, database, take, delimiter, n_within
):
    within = [f"w{number},a3,Lodger" for number in range(n_within)]
    rows = ["u1,a1,Low", 'u2,a2,"Heroes', *within, 'u4,a4,"Station', "u5,a5,X"]
    text = "\n".join(["user_id,item_id,track", *rows, ""]).replace(",", delimiter)
    path = write(tmp_path / "a.csv", text)
    report = take(path, FileFormat(delimiter=delimiter, has_quotes=True))
    assert (report.accepted, report.refused) == (2, 1)
    (refused,) = report.first_refused
    assert (refused.line, refused.column) == (3, "track")
    assert f"over {n_within + 2} lines" in refused.reason
    assert "--quote none" in refused.reason
    plain = take(path, FileFormat(delimiter=delimiter, has_quotes=False))
    assert (plain.accepted, plain.duplicates, plain.refused) == (n_within + 2, 2, 0)


def test_a_text_of_several_lines_is_one_value(tmp_path, database, take):
    text = '"Great, really.\n\nI liked it, all of it,\nand more."'
    path = write(
        tmp_path / "a.csv",
        f'text,user_id,item_id\n{text},u1,i\n"a, b\nc",u2,i\n"x\ny, z",u3,i\n',
    )
    assert take(path).accepted == 3


def test_columns_can_be_named(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "who;what;how;when;much\nu1;i1;click;86400000;3\n")
    take(
        path,
        FileFormat(
            user_column="who",
            item_column="what",
            type_column="how",
            time_column="when",
            time_unit="ms",
            allow_old=True,
            weight_column="much",
            delimiter=";",
        ),
    )
    assert stored(database, "user_id", "item_id", "interaction_type", "weight", "occurred_at") == [
        ("u1", "i1", "click", 3.0, DAY)
    ]


@pytest.mark.parametrize("part", ["user", "item", "type", "weight", "time"])
def test_a_named_column_that_is_missing_lists_those_there_are(tmp_path, take, part, database):
    path = write(tmp_path / "a.csv", "user_id,item_id,when\nu1,i1,1\n")
    with pytest.raises(DataError, match=r"no column 'nope'.*'user_id', 'item_id', 'when'"):
        take(path, FileFormat(**{f"{part}_column": "nope"}))
    with database.read() as connection:
        assert storage.imports.all_imports(connection) == []


def test_a_column_that_is_there_twice_is_refused_only_if_it_is_used(tmp_path, take):
    with pytest.raises(DataError, match="2 columns named 'item_id'"):
        take(write(tmp_path / "a.csv", "user_id,item_id,item_id\nu,i,j\n"))
    assert take(write(tmp_path / "b.csv", "user_id,x,item_id,x\nu,1,i,2\n")).accepted == 1


def test_a_default_type_without_a_weight_is_refused(tmp_path, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu1,i1\n")
    with pytest.raises(DataError, match="'purchase' has no weight: use one of click"):
        take(path, FileFormat(interaction_type="purchase"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"time_unit": "minutes"}, "'minutes'"),
        ({"rating_column": "stars"}, "least rating"),
        ({"min_rating": float("nan")}, "nan"),
        ({"delimiter": '"'}, "'\"'"),
    ],
)
def test_formats_that_make_no_sense_are_refused(given, words):
    with pytest.raises(DataError, match=words):
        FileFormat(**given)


def test_low_ratings_are_seen_without_taste_and_missing_ones_refused(tmp_path, database, take):
    path = write(
        tmp_path / "a.csv",
        "user_id,item_id,rating,weight\nu1,a,4,2\nu1,b,3.9,2\nu1,c,,1\nu1,d,x,1\nu1,e, 5 ,\n",
    )
    report = take(path, FileFormat(min_rating=4))
    assert stored(database, "item_id", "weight") == [("a", 2.0), ("b", 0.0), ("e", 1.0)]
    assert (report.accepted, report.without_taste, report.refused) == (3, 1, 2)
    assert [(line.line, line.reason) for line in report.first_refused] == [
        (4, "is empty"),
        (5, "is not a number"),
    ]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_csv_in_all_its_dresses(tmp_path, database, take, ending, bom, last, packed):
    lines = [
        '"user_id",item_id',
        '"a ""b"", c",i1',
        "",
        '"😀 é",i2',
        ",",
        " x ,i3",
    ]
    content = bom + (ending.join(lines) + ending * last).encode()
    path = write(tmp_path / "a.csv", gzip.compress(content) if packed else content)
    report = take(path)
    assert stored(database, "user_id") == ['a "b", c', "😀 é", " x "]
    assert report.refused == 0


def test_gzip_of_several_parts(tmp_path, take):
    parts = [b"user_id,item_id\nu1,i1\n", b"u2,i2\n"]
    path = write(tmp_path / "a.csv.gz", b"".join(gzip.compress(part) for part in parts))
    assert take(path).accepted == 2


def test_lines_are_those_of_the_file(tmp_path, take, monkeypatch):
    """Also after line breaks in values, blank lines, broken rows, and over block borders."""
    monkeypatch.setattr(text, "_BLOCK_BYTES", 64)
    lines = ['"user\n_id",item_id,note']
    expected = []
    line = 3
    for number in range(60):
        kind = number % 6
        rows = {
            0: f"u{number},i{number},fine",
            1: f'u{number},i{number},"two\nlines"',
            2: f"u{number},",
            3: "",
            4: f",i{number},no user",
            5: f'u{number},i{number},"three\r\n\nlines",too,many',
        }
        lines.append(rows[kind])
        if kind in (2, 4, 5):
            expected.append((line, kind))
        line += 1 + rows[kind].count("\n")
    path = write(tmp_path / "a.csv", "\n".join(lines))
    target = tmp_path / "report.csv"
    report = take(path, FileFormat(user_column="user\n_id"), refused_report=target)
    assert report.accepted == 20
    assert report.refused_report == target
    with target.open(newline="", encoding="utf-8") as file:
        refused = list(csv.DictReader(file))
    reasons = {
        2: "has 2 values, but there are 3 columns",
        4: "is empty",
        5: "has 5 values, but there are 3 columns; it reaches over 3 lines: is a quotation mark "
        "not closed?",
    }
    found = [(int(row["line"]), row["reason"]) for row in refused]
    assert found == [(line, reasons[kind]) for line, kind in expected]
    assert {row["file"] for row in refused} == {"a.csv"}
    assert report.first_refused[0].line == expected[0][0]
    assert len(report.first_refused) == 5


def test_a_quotation_mark_that_is_not_closed_is_named(tmp_path, take):
    path = write(tmp_path / "a.csv", 'user_id,item_id\nu,i\n"v,i\nw,i\nx,i\n')
    report = take(path)
    assert report.accepted == 1
    (line,) = report.first_refused
    assert line.line == 3
    assert "reaches over 3 lines, up to the end of the file" in line.reason


def test_broken_rows_alone_at_the_end_have_their_lines(tmp_path, database, take, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 32)
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n" + "x,y,z\n" * 20)
    target = tmp_path / "report.csv"
    report = take(path, refused_report=target)
    assert (report.accepted, report.refused) == (1, 20)
    assert stored(database, "event_id")[0].endswith("-000000000002")
    with target.open(newline="") as file:
        assert [int(row["line"]) for row in csv.DictReader(file)] == list(range(3, 23))


def test_a_file_of_broken_rows_alone_is_not_collected_in_memory(tmp_path, take, monkeypatch):
    monkeypatch.setattr(text, "_MOST_BROKEN", 10)
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n" + "x,y,z\n" * 20)
    with pytest.raises(DataError, match=r"cannot be read beyond line"):
        take(path)


def test_a_row_that_is_not_utf8_costs_itself_alone(tmp_path, database, take):
    path = write(
        tmp_path / "a.csv", b"user_id,item_id,note\nu1,i1,\xff\nu\xe9,i2,\nu3,i3,\xc3\xa9\n"
    )
    report = take(path)
    assert stored(database, "user_id") == ["u1", "u3"]
    (line,) = report.first_refused
    assert (line.line, line.column, line.value) == (3, "user_id", "u\\xe9")
    assert "UTF-8" in line.reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"user_id,item_id\n", "no rows"),
        (b"user_id,item_id", "no rows"),
        (b"user_id,item_id\n\n\n,\n", "no rows"),
        (b"\nuser_id,item_id\nu,i\n", "empty line"),
        ("user_id,item_id\n".encode("utf-16"), "no rows"),
        (b"PK\x03\x04abcdef", "ZIP"),
        (b"\x1f\x8babcdefghij", "cannot be unpacked"),
        (gzip.compress(b"user_id,item_id\n" + b"u,i\n" * 1000, mtime=0)[:30], "cannot be unpacked"),
        (b"\x89\xff\xfe,\x00\n", "neither CSV nor Parquet"),
        (b"PAR1 but nothing else", "not a sound Parquet file"),
    ],
)
def test_files_that_hold_nothing_are_refused_and_leave_nothing(
    tmp_path, database, settings, take, content, words
):
    called = []
    with pytest.raises(DataError, match=words):
        take(write(tmp_path / "a", content), before_first_row=lambda: called.append(1))
    with database.read() as connection:
        assert storage.imports.all_imports(connection) == []
    assert not called
    assert not (settings.data_dir / "imports").exists()


def test_what_is_no_file_is_refused(tmp_path, take):
    with pytest.raises(DataError, match="No such file"):
        take(tmp_path / "nope.csv")
    with pytest.raises(DataError, match="no regular file"):
        take(tmp_path)


@pytest.mark.parametrize("damage", ["quote", "gzip", "parquet"])
def test_damage_in_the_middle_says_what_was_stored(tmp_path, database, take, damage):
    rows = "".join(f"user-{number * 7919},item-{number * 104729}\n" for number in range(400_000))
    path = tmp_path / "a"
    if damage == "quote":
        before = rows[: rows.index("\n", len(rows) // 2) + 1]
        write(path, f'user_id,item_id\n{before}"never closed,i\n{rows}')
    elif damage == "gzip":
        packed = gzip.compress(f"user_id,item_id\n{rows}".encode(), compresslevel=1)
        write(path, packed[: len(packed) * 3 // 4])
    else:
        users = pa.array([f"u{number}" for number in range(400_000)])
        pq.write_table(
            pa.table({"user_id": users, "item_id": users}),
            path,
            row_group_size=100_000,
            use_dictionary=False,
        )
        content = bytearray(path.read_bytes())
        middle = len(content) * 3 // 4
        content[middle : middle + 20_000] = b"\xff" * 20_000
        write(path, bytes(content))
    with pytest.raises(DataError, match=r"cannot be read beyond .* import 1") as caught:
        take(path)
    n_stored = len(stored(database, "user_id"))
    assert 0 < n_stored < 400_000
    assert caught.value.details == {"import_id": 1}
    assert caught.value.action == Action("undo_import", {"import_id": 1})
    found = one_import(database, 1)
    assert found.status == storage.imports.FAILED
    assert found.reason == caught.value.message.removesuffix(
        " What was read before that is import 1."
    )
    assert found.finished_at >= found.started_at
    assert files.undo(database, 1, actor="test").interactions == n_stored


# --- Times and numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "unit", "micros"),
    [
        ("0", "s", 0),
        ("1260759144", "s", 1_260_759_144_000_000),
        ("1260759144.25", "s", 1_260_759_144_250_000),
        ("1.260759144e9", "s", 1_260_759_144_000_000),
        ("1260759144123", "ms", 1_260_759_144_123_000),
        ("1260759144123456", "us", 1_260_759_144_123_456),
        (" 60 ", "s", 60_000_000),
        ("2000-02-29", "s", 951_782_400_000_000),
        ("2000-02-29 12:30", "s", 951_827_400_000_000),
        ("2000-02-29T12:30:15", "s", 951_827_415_000_000),
        ("2000-02-29T12:30:15.123456789", "s", 951_827_415_123_456),
        ("2000-02-29t12:30:15.5z", "s", 951_827_415_500_000),
        ("2000-02-29T12:30:15+02:30", "s", 951_818_415_000_000),
        ("2000-02-29T12:30:15-0230", "s", 951_836_415_000_000),
        ("1970-01-01T00:59:59+01:00", "s", None),
        ("-1", "s", None),
        ("99999999999", "s", None),
        ("999999999999999999", "us", None),
        ("9" * 30, "s", None),
        ("2001-02-29", "s", None),
        ("2000-13-01", "s", None),
        ("2000-00-01", "s", None),
        ("2000-01-00", "s", None),
        ("2000-04-31", "s", None),
        ("2000-01-01T24:00:00", "s", None),
        ("2000-01-01T00:60:00", "s", None),
        ("2000-01-01T00:00:60", "s", None),
        ("2000-01-01T00:00:00+24:00", "s", None),
        ("2000-02-29T12:30:15 UTC", "s", 951_827_415_000_000),
        ("2000-02-29 12:30:15+00", "s", 951_827_415_000_000),
        ("2000-02-29 12:30:15.5+00", "s", 951_827_415_500_000),
        ("2000-02-29 12:30:15-03", "s", 951_838_215_000_000),
        ("2000-02-29 12:30:15 +0000 UTC", "s", 951_827_415_000_000),
        ("2000-02-29 12:30:15.123 +0230 IST", "s", 951_818_415_123_000),
        ("2000-02-29 12:30:15 CET", "s", None),
        ("2000-02-29 12:30:15 Z", "s", None),
        ("9999-12-31T23:59:59Z", "s", None),
        ("0000-01-01", "s", None),
        ("04/12/2025", "s", None),
        ("yesterday", "s", None),
        ("nan", "s", None),
    ],
)
def test_times(tmp_path, database, take, text, unit, micros):
    # A good row stands beside it: one bad value must not spoil the column.
    path = write(tmp_path / "a.csv", f"user_id,item_id,occurred_at\nu,i,{text}\nv,i,1970-01-02\n")
    report = take(path, FileFormat(time_unit=unit, allow_old=True))
    expected = [("v", DAY)] if micros is None else [("u", micros), ("v", DAY)]
    assert sorted(stored(database, "user_id", "occurred_at")) == expected
    assert report.refused == (micros is None)
    if micros is None:
        assert report.first_refused[0].column == "occurred_at"
        assert report.first_refused[0].value.strip() == text.strip()


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [
        ("1260759144123", "s", ("in the future", "it is read in s since 1970")),
        ("1260759144", "ms", ("before 1990, read in ms since 1970", "--time-unit")),
        ("45322.5", None, ("before 1990, whatever its unit", "--allow-old")),
    ],
)
def test_a_wrong_time_unit_is_named(tmp_path, take, number, unit, words):
    path = write(tmp_path / "a.csv", f"user_id,item_id,occurred_at\nu,i,{number}\n")
    (line,) = take(path, FileFormat(time_unit=unit)).first_refused
    assert all(word in line.reason for word in words)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        ("1369699200", "2013-05-28T00:00:00.000000Z"),
        ("1369699200.5", "2013-05-28T00:00:00.500000Z"),
        ("1369699200500", "2013-05-28T00:00:00.500000Z"),
        ("1369699200500000", "2013-05-28T00:00:00.500000Z"),
        ("1369699200500000000", "2013-05-28T00:00:00.500000Z"),
        ("631152000", "1990-01-01T00:00:00.000000Z"),
        ("20240131", "2024-01-31T00:00:00.000000Z"),
        ("20240229", "2024-02-29T00:00:00.000000Z"),
        ("20230229", None),
        ("20241301", None),
        ("19891231", None),
        ("631151999", None),
        ("45322.5", None),
        ("0", None),
    ],
)
@pytest.mark.parametrize("kind", ["text", "number"])
def test_the_unit_of_a_time_is_told_from_its_size(tmp_path, database, take, number, moment, kind):
    path = tmp_path / "a.parquet"
    value = float(number) if "." in number else int(number)
    times = pa.array([number if kind == "text" else value])
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "occurred_at": times}), path)
    report = take(path)
    found = [f"{clock.utc(time):%Y-%m-%dT%H:%M:%S.%fZ}" for time in stored(database, "occurred_at")]
    assert found == ([] if moment is None else [moment])
    if moment is None:
        assert "before 1990" in report.first_refused[0].reason


@pytest.mark.parametrize(
    ("default", "moment"), [("1998-04-21T12:00:00Z", 893_160_000_000_000), ("now", None)]
)
def test_an_empty_time_is_refused_or_what_was_said(tmp_path, database, take, default, moment):
    path = write(
        tmp_path / "a.csv",
        "user_id,item_id,occurred_at\nu1,a,1998-04-20T10:00:00Z\nu2,a,\nu3,a, \n",
    )
    before = clock.now()
    (first, second) = take(path).first_refused
    assert (first.line, second.line, first.column) == (3, 4, "occurred_at")
    assert "--default-time" in first.reason
    assert len(stored(database)) == 1
    assert take(path, FileFormat(default_time=default)).accepted == 2
    times = stored(database, "occurred_at")
    for time in times[1:]:
        assert time == moment or (moment is None and before <= time <= clock.now())
    with pytest.raises(DataError, match="'soon' is no time"):
        take(path, FileFormat(default_time="soon"))


def test_times_may_be_a_day_ahead_and_no_more(tmp_path, database, take):
    now = datetime.now(UTC)
    near, far = (now + timedelta(hours=hours) for hours in (23, 25))
    path = write(
        tmp_path / "a.csv",
        f"user_id,item_id,occurred_at\nnear,i,{near.isoformat()}\nfar,i,{far.isoformat()}\n"
        f"near,i,{near.timestamp()}\nfar,i,{far.timestamp()}\n",
    )
    assert take(path).refused == 2
    assert stored(database, "user_id") == ["near", "near"]


# --- Parquet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "users",
    [
        pa.array(["1", "22", None]),
        pa.array(["1", "22", None], pa.large_string()),
        pa.array(["1", "22", None], pa.string_view()),
        pa.array(["1", "22", None]).dictionary_encode(),
        pa.array([b"1", b"22", None]),
        pa.array([1, 22, None], pa.int8()),
        pa.array([1, 22, None], pa.uint64()),
        pa.array([1, 22, None]).dictionary_encode(),
        pa.array([1.0, 22.0, None]),
        pa.array([1.0, 22.0, float("nan")], pa.float32()),
        pa.array([Decimal(1), Decimal(22), None], pa.decimal128(38, 0)),
        pa.array([Decimal("1.00"), Decimal("22.00"), None], pa.decimal64(9, 2)),
    ],
)
def test_parquet_ids_of_every_type(tmp_path, database, take, users):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user_id": users, "item_id": users}), path)
    report = take(path)
    assert stored(database, "user_id", "item_id") == [("1", "1"), ("22", "22")]
    (line,) = report.first_refused
    assert (line.line, line.column, line.reason) == (3, "user_id", "is empty")


@pytest.mark.parametrize(
    "read",
    [
        pa.array([True, False]),
        pa.array(["True", "False"]),
        pa.array(["true", "false"]),
        pa.array([b"TRUE", b"FALSE"]),
        pa.array(["t", "f"]),  # as PostgreSQL's COPY writes them
    ],
)
def test_a_rating_may_be_a_truth_value(tmp_path, database, take, read):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user_id": ["u", "v"], "item_id": ["i", "i"], "is_read": read}), path)
    report = take(path, FileFormat(rating_column="is_read", min_rating=1))
    assert (report.accepted, report.without_taste) == (2, 1)
    assert stored(database, "user_id", "weight") == [("u", 1.0), ("v", 0.0)]


def test_parquet_fractions_are_no_ids(tmp_path, database, take):
    values = pa.array([1.5, 2.0, float("inf"), 1e17, -3.0])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"user_id": values, "item_id": values}), path)
    report = take(path)
    assert stored(database, "user_id") == ["2", "-3"]
    assert [(line.line, line.value, line.reason) for line in report.first_refused] == [
        (1, "1.5", "is not a whole number"),
        (3, "inf", "is too large to be an exact number"),
        (4, "1e+17", "is too large to be an exact number"),
    ]


MOMENT = datetime(2020, 5, 17, 12, 30, 15, 250_000, tzinfo=UTC)
MICROS = 1_589_718_615_250_000


@pytest.mark.parametrize(
    ("times", "unit", "micros"),
    [
        (pa.array([MOMENT], pa.timestamp("us", tz="UTC")), "s", MICROS),
        (pa.array([MOMENT], pa.timestamp("us", tz="Europe/Berlin")), "s", MICROS),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ns")), "s", MICROS),
        (pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ms")), "s", MICROS),
        (pa.array([date(2020, 5, 17)]), "s", MICROS // DAY * DAY),
        (pa.array([date(2020, 5, 17)], pa.date64()), "s", MICROS // DAY * DAY),
        (pa.array([MICROS // 1000], pa.uint64()), "ms", MICROS),
        (pa.array([MICROS // 1_000_000], pa.int32()), "s", MICROS // 1_000_000 * 1_000_000),
        (pa.array([MICROS / 1e6]), "s", MICROS),
        (pa.array([MOMENT.isoformat()]), "s", MICROS),
        (pa.array([2**64 - 1], pa.uint64()), "s", None),
        (pa.array([float("inf")]), "s", None),
        (pa.array([2**50], pa.timestamp("s")), "s", None),
        (pa.array([datetime(1969, 1, 1)], pa.timestamp("ns")), "s", None),
    ],
)
def test_parquet_times_of_every_type(tmp_path, database, take, times, unit, micros):
    nothing = pa.nulls(1, times.type)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table(
            {
                "user_id": ["u", "v"],
                "item_id": ["i", "i"],
                "occurred_at": pa.concat_arrays([times, nothing]),
            }
        ),
        path,
        store_schema=True,
    )
    before = clock.now()
    report = take(path, FileFormat(time_unit=unit, default_time="now"))
    found = dict(stored(database, "user_id", "occurred_at"))
    assert before <= found.pop("v") <= clock.now()
    assert found == ({} if micros is None else {"u": micros})
    assert report.refused == (micros is None)


@pytest.mark.parametrize(
    "weights",
    [
        pa.array([2, -1, None]),
        pa.array([2.0, -1.0, None]),
        pa.array([Decimal("2.0"), Decimal("-0.5"), None]),
        pa.array(["2", "many", None]),
        pa.array([2.0, float("inf"), float("nan")]),
    ],
)
def test_parquet_weights_of_every_type(tmp_path, database, take, weights):
    path = tmp_path / "a.parquet"
    ids = pa.array(["a", "b", "c"])
    pq.write_table(pa.table({"user_id": ids, "item_id": ids, "weight": weights}), path)
    assert [line.line for line in take(path).first_refused] == [2]
    assert stored(database, "user_id", "weight") == [("a", 2.0), ("c", 1.0)]


@pytest.mark.parametrize(
    "column", ["user_id", "item_id", "interaction_type", "weight", "occurred_at"]
)
def test_parquet_columns_of_impossible_types_are_refused(tmp_path, take, column):
    table = {
        "user_id": ["u"],
        "item_id": ["i"],
        column: pa.array([[("a", 1)]], pa.map_("string", "int8")),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(DataError, match=rf"{column!r} has the type map"):
        take(path)


def test_parquet_reads_only_what_it_needs_and_all_row_groups(tmp_path, database, take):
    path = tmp_path / "a.parquet"
    ids = pa.array(range(120_000))
    pq.write_table(
        pa.table({"user_id": ids, "x": [[1]] * 120_000, "item_id": ids}), path, row_group_size=7_000
    )
    steps: list[files.Progress] = []
    assert take(path, on_progress=steps.append).accepted == 120_000
    assert len(set(stored(database, "user_id"))) == 120_000
    assert steps[-1].rows == 120_000
    assert steps[-1].bytes_done == steps[-1].bytes_total == path.stat().st_size


# --- One set of rules ----------------------------------------------------------------------------

GOOD: list[dict[str, Any]] = [
    {},
    {"user_id": "a b/c,d\"e'f"},
    {"user_id": "😀" * 256},
    {"user_id": "é" * 256, "item_id": "\u200b"},
    {"user_id": "\u00a0"},
    {"interaction_type": "watchlist_add"},
    {"interaction_type": "watchlist_remove"},
    {"interaction_type": "dismiss"},
    {"interaction_type": "dismiss_undo"},
    {"weight": 0},
    {"weight": 0.001},
    {"weight": 1e6},
    {"weight": 1e-300},
    {"occurred_at": "1970-01-01T00:00:00Z"},
    {"occurred_at": "2024-02-29T23:59:59.999999+05:45"},
    {"occurred_at": "2024-02-29t23:59:59z"},
    {"occurred_at": "2024-02-29 23:59:59-0130"},
    {"occurred_at": "2024-02-29T23:59Z"},
    {"occurred_at": "2024-02-29T23:59:59.1234567Z"},
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("user_id", {"user_id": ""}),
    ("user_id", {"user_id": "x" * 257}),
    ("user_id", {"user_id": "😀" * 257}),
    ("user_id", {"user_id": "a\x00b"}),
    ("user_id", {"user_id": "a\tb"}),
    ("user_id", {"user_id": "a\nb"}),
    ("user_id", {"user_id": "\x7f"}),
    ("user_id", {"user_id": "\x85"}),
    ("user_id", {"user_id": "a\x9f"}),
    ("item_id", {"item_id": ""}),
    ("item_id", {"item_id": "\x1f"}),
    ("interaction_type", {"interaction_type": "purchase"}),
    ("interaction_type", {"interaction_type": "Click"}),
    ("interaction_type", {"interaction_type": ""}),
    ("weight", {"weight": -1}),
    ("weight", {"weight": -0.001}),
    ("weight", {"weight": 1_000_001}),
    ("weight", {"weight": "many"}),
    ("weight", {"weight": "1,5"}),
    ("weight", {"weight": "0x10"}),
    ("occurred_at", {"occurred_at": "1969-12-31T23:59:59Z"}),
    ("occurred_at", {"occurred_at": "1970-01-01T00:00:00+00:01"}),
    ("occurred_at", {"occurred_at": "2999-01-01T00:00:00Z"}),
    ("occurred_at", {"occurred_at": "2023-02-29T00:00:00Z"}),
    ("occurred_at", {"occurred_at": "2023-01-01T25:00:00Z"}),
    ("occurred_at", {"occurred_at": "2023-01-01T00:00:60Z"}),
    ("occurred_at", {"occurred_at": "2023-01-01T00:00:00 Z"}),
    ("occurred_at", {"occurred_at": "2023-01-01T00:00:00+25:00"}),
    ("occurred_at", {"occurred_at": "soon"}),
]
PLAIN = {
    "user_id": "u",
    "item_id": "i",
    "interaction_type": "click",
    "weight": 2.5,
    "occurred_at": "2025-12-04T23:42:15Z",
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_and_messages_have_one_set_of_rules(tmp_path, database, settings, take, kind):
    rows = [PLAIN | row for row in GOOD] + [PLAIN | row for _, row in BAD]
    parsed = parse(json.dumps(rows).encode(), types=settings.interaction_weights, skip_refused=True)
    assert [(row.index - len(GOOD), row.field) for row in parsed.refused] == [
        (index, field) for index, (field, _) in enumerate(BAD)
    ]
    path = tmp_path / "rows"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(PLAIN))
            writer.writeheader()
            writer.writerows(rows)
    else:
        columns = {name: [str(row[name]) for row in rows] for name in PLAIN}
        pq.write_table(pa.table(columns), path)
    target = tmp_path / "refused.csv"
    report = take(path, FileFormat(allow_old=True), refused_report=target)
    expected = [row[1:] for row in parsed.interactions]
    assert sorted(stored(database, *Interaction._fields[1:])) == sorted(expected)
    assert report.refused == len(BAD)
    with target.open(newline="", encoding="utf-8") as file:
        refused = list(csv.DictReader(file))
    assert [row["column"] for row in refused] == [field for field, _ in BAD]


def test_a_message_takes_no_time_that_is_digits_alone():
    row = {"user_id": "u", "item_id": "i", "interaction_type": "click", "occurred_at": "1700000000"}
    with pytest.raises(DataError, match="occurred_at must be an RFC 3339 time"):
        parse(json.dumps(row).encode(), types=["click"])


# --- Repeats, crashes, undo ----------------------------------------------------------------------


@pytest.mark.parametrize(("many_bytes", "expected"), [(0, "bca"), (10**9, "abc")])
def test_rows_lie_by_time_where_their_users_are_sorted_in_the_end(
    tmp_path, take, database, monkeypatch, many_bytes, expected
):
    monkeypatch.setattr(running, "_MANY_BYTES", many_bytes)
    path = tmp_path / "a.csv"
    path.write_text(
        "user_id,item_id,occurred_at\na,i,1700000003\nc,i,1700000002\nb,i,1700000001\n" + "\n" * 600
    )
    take(path)
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT user_id FROM user_interactions ORDER BY id")
        assert "".join(rows.scalars()) == expected


def test_many_rows_of_a_visitor_who_has_become_an_account_are_the_accounts(
    tmp_path, take, database
):
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id\n" + "visitor,i\n" * 300)
    take(path)
    with database.write() as connection:
        storage.merges.insert(connection, "visitor", user_id="account")
    path.write_text("user_id,item_id\n" + "visitor,j\n" * 300)
    take(path)
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT user_id, count(*) FROM user_interactions GROUP BY user_id ORDER BY user_id"
        )
        assert [tuple(row) for row in rows] == [("account", 300), ("visitor", 300)]


def has_all_lookups(database):
    with database.read() as connection:
        return storage.lookups.are_whole(connection)


def test_indexes_are_set_aside_for_many_rows_and_made_again(tmp_path, database, take, monkeypatch):
    monkeypatch.setattr(running, "_MANY_BYTES", 0)
    seen = []

    def look(_progress):
        seen.append(has_all_lookups(database))

    told = []
    many = write(tmp_path / "a.csv", "user_id,item_id\n" + "u,i\n" * 1_000)
    take(many, on_progress=look, before_indexes=told.append)
    assert (seen, has_all_lookups(database)) == ([False], True)
    assert told == [0.002]
    take(write(tmp_path / "b.csv", "user_id,item_id\nu,j\n"), on_progress=look)
    assert seen == [False, True], "it brings little beside what is there"


def test_a_crash_leaves_what_a_repeat_takes_up(tmp_path, database, settings):
    path = write(tmp_path / "a.csv", "user_id,item_id\n" + "u,i\n" * 120_000)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from reckeeper import storage\n"
        "from reckeeper.config import Settings\n"
        "from reckeeper.events import files, running\n"
        "running._MANY_BYTES = 0\n"
        "settings = Settings.from_env()\n"
        "files.import_file(storage.open_database(settings), Path(sys.argv[1]),\n"
        "    format=files.FileFormat(), settings=settings, actor='test',\n"
        "    on_progress=lambda progress: os.kill(os.getpid(), 9))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**settings.to_env(), "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert killed.returncode == -9
    n_before = len(stored(database, "id"))
    assert 0 < n_before < 120_000
    assert not has_all_lookups(database)
    imports.restore_lookups(database)
    assert has_all_lookups(database)
    assert one_import(database, 1).accepted == n_before
    told = imports.find_import(database, 1)
    assert told == imports.all_imports(database)[0]
    assert told.status == storage.imports.FAILED
    assert told.reason == (
        "The process that ran it ended before it was done. Importing again adds what is missing."
    )
    report = files.import_file(database, path, format=FileFormat(), settings=settings, actor="test")
    assert (report.accepted, report.duplicates) == (120_000 - n_before, n_before)
    assert len(stored(database, "id")) == 120_000
    # The half that the crash left can be taken out by itself.
    assert files.undo(database, 1, actor="test").interactions == n_before
    assert files.undo(database, 2, actor="test").interactions == 120_000 - n_before


def test_an_import_of_another_machine_that_is_silent_has_failed(database, monkeypatch):
    with database.write() as connection:
        storage.imports.begin(connection, source="f", fingerprint="f", holder="another:1:1.00")
    assert imports.find_import(database, 1).status == storage.imports.RUNNING
    began = clock.now()
    monkeypatch.setattr(clock, "now", lambda: began + 1_020_000_000)
    told = imports.find_import(database, 1)
    assert told.status == storage.imports.FAILED
    assert told.reason.startswith("There has been no sign of life of it for 17 minutes. ")
    with database.write() as connection:
        own = storage.imports.begin(
            connection, source="f", fingerprint="f", holder=machine.process_name()
        )
    monkeypatch.setattr(clock, "now", lambda: began + 9_000_000_000)
    assert imports.find_import(database, own).status == storage.imports.RUNNING, "it lives"
    with database.write() as connection:  # its machine was asleep
        storage.imports.note(connection, 1)
        storage.imports.fail(connection, 1, reason="It stopped.")
        storage.imports.fail(connection, 1, reason="It was silent.")
    assert imports.find_import(database, 1).reason == "It stopped."


def test_an_import_says_how_far_it_is_and_why_rows_were_refused(tmp_path, database, take):
    path = write(
        tmp_path / "a.csv", "user_id,item_id,weight\nu,i,0\nu,,1\nv,,1\nw,,1\nx,,1\nu,j,?\n"
    )
    seen = []

    def look(_progress: files.Progress) -> None:
        seen.append(imports.find_import(database, 1))

    take(path, on_progress=look)
    (seen,) = seen
    assert (seen.status, seen.actor, seen.without_taste) == ("running", "test", 1)
    assert seen.bytes_done == seen.bytes_total == path.stat().st_size
    empty, number = seen.refusals
    assert (empty["file"], empty["column"], empty["rows"]) == ("a.csv", "item_id", 4)
    assert empty["examples"] == [{"line": line, "value": ""} for line in (3, 4, 5)]
    assert (number["column"], number["examples"]) == ("weight", [{"line": 7, "value": "?"}])
    done = imports.find_import(database, 1)
    assert (done.status, done.refusals) == ("complete", seen.refusals)
    assert Path(done.report).read_text().count("\n") == 6


@pytest.mark.parametrize("name", ["a.csv", "notes.txt"])
def test_a_report_takes_the_place_of_no_other_file(tmp_path, take, name):
    rows = "user_id,item_id\nu,\nu,i\n"
    path = write(tmp_path / "a.csv", rows)
    other = path if name == "a.csv" else write(tmp_path / name, "mine")
    was = other.read_text()
    with pytest.raises(DataError, match=r"is there already, and is no report of refused rows"):
        take(path, refused_report=other)
    assert other.read_text() == was
    for report in (tmp_path / "new.csv", tmp_path / "new.csv", write(tmp_path / "empty", "")):
        take(path, refused_report=report)
        assert report.read_text().count("\n") == 2
    reading, writing = os.pipe()
    with open(reading) as report, open(writing):
        take(path, refused_report=Path(f"/dev/fd/{writing}"))
        assert len([report.readline() for _ in range(2)]) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is full")
def test_a_report_that_cannot_be_written_ends_an_import_with_a_word(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\n" + "u,\n" * 20_000)
    with pytest.raises(DataError, match=r"to /dev/full: No space left on device\."):
        take(path, refused_report=Path("/dev/full"))
    assert imports.find_import(database, 1).status == storage.imports.FAILED
    report = tmp_path / "pipe"
    os.mkfifo(report)
    reader = os.open(report, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(DataError, match=r"written to .*pipe: Broken pipe\."):
        take(path, refused_report=report, on_begun=lambda _: os.close(reader))
    assert "Broken pipe" in imports.find_import(database, 2).reason


def test_a_file_that_changes_while_it_is_read_is_not_taken_for_what_it_was(
    tmp_path, database, take
):
    rows = "".join(f"u{n},i\n" for n in range(120_000))
    path = write(tmp_path / "a.csv", f"user_id,item_id\n{rows}")

    def grow() -> None:
        with path.open("a") as file:
            file.write("v,i\n")

    changed = (
        r"a\.csv changed while it was read.* undo this one, and import a copy .* is import 1\."
    )
    with pytest.raises(DataError, match=changed) as raised:
        take(path, before_first_row=grow)
    assert raised.value.action == Action("undo_import", {"import_id": 1})
    assert imports.find_import(database, 1).status == storage.imports.FAILED
    files.undo(database, 1, actor="test")
    other = write(tmp_path / "b.csv", "user_id,item_id\nw,i\n")
    with pytest.raises(DataError, match=changed.replace("import 1", "import 2")):
        take([other, path], before_first_row=grow)
    files.undo(database, 2, actor="test")
    assert take(path).accepted == 120_002


def test_what_progress_raises_ends_an_import(tmp_path, database, take):
    def stop(_progress: files.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(write(tmp_path / "a.csv", "user_id,item_id\nu,i\n"), on_progress=stop)
    assert imports.find_import(database, 1).reason.startswith("Somebody interrupted it. ")


@pytest.fixture
def losing(database, monkeypatch):
    """Return a function that has the answer to the next but `n` commits lost, once."""

    def lose(n: int) -> list[int]:
        left = [n]
        write = database.write

        @contextlib.contextmanager
        def write_and_lose() -> Iterator[storage.Connection]:
            with write() as connection:
                yield connection
            left[0] -= 1
            if left[0] == -1:
                raise StorageError("lost") from psycopg.OperationalError("connection lost")

        monkeypatch.setattr(database, "write", write_and_lose)
        return left

    return lose


@pytest.mark.parametrize("n_before", range(1, 5))
def test_a_commit_whose_answer_was_lost_is_counted_once(
    tmp_path, database, take, losing, n_before, monkeypatch
):
    monkeypatch.setattr(running, "_CATALOGUE_ROWS", 2)
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\nu,\nu,j\n")
    catalogue = write(tmp_path / "items.csv", "item_id,title\ni,I\nj,J\n,none\n")
    left = losing(n_before)
    report = take(path, catalogue=catalogue)
    monkeypatch.undo()
    assert (report.accepted, report.duplicates, report.refused) == (2, 0, 2)
    found = one_import(database, report.import_id)
    assert (found.accepted, found.duplicates, found.refused) == (2, 0, 2)
    assert found.status == storage.imports.COMPLETE
    assert len(stored(database)) == 2
    assert audit_actions(database) == ["import"]
    assert left[0] < 0, "it was lost"
    left = losing(n_before - 1)
    files.undo(database, report.import_id, actor="test")
    assert left[0] < 0
    assert stored(database) == []
    assert audit_actions(database) == ["undo_import", "import"]


def test_undo_takes_out_its_own_rows_alone(tmp_path, database, take):
    with database.write() as connection:
        storage.interactions.append(
            connection, [Interaction("mine", "u", "kept", "watchlist_add", 1.0, 5)]
        )
        storage.items.put(connection, [Item("kept", "Kept", {})])
    path = write(
        tmp_path / "a.csv",
        "user_id,item_id,interaction_type,occurred_at\nu,kept,watchlist_remove,999999999\n"
        "u,gone,watchlist_add,999999999\n",
    )
    catalogue = write(tmp_path / "items.csv", "item_id,title\ngone,Gone\n")
    report = take(path, catalogue=catalogue)
    with database.read() as connection:
        assert "kept" not in dict(storage.interactions.watchlist_of(connection, "u"))
        assert "gone" in dict(storage.interactions.watchlist_of(connection, "u"))
    assert files.undo(database, report.import_id, actor="test") == files.Undone(2, 1)
    assert stored(database, "event_id") == ["mine"]
    with database.read() as connection:
        assert "kept" in dict(storage.interactions.watchlist_of(connection, "u"))
        assert "gone" not in dict(storage.interactions.watchlist_of(connection, "u"))
        assert set(storage.items.get_many(connection, ["kept", "gone"])) == {"kept"}
    assert one_import(database, report.import_id).status == storage.imports.UNDONE
    assert audit_actions(database) == ["undo_import", "import"]


def test_undo_goes_in_steps_and_can_be_taken_up(tmp_path, database, take, monkeypatch):
    monkeypatch.setattr(undoing, "_UNDO_ROWS", 10)
    report = take(write(tmp_path / "a.csv", "user_id,item_id\n" + "u,i\n" * 25))

    class Crash(Exception):
        pass

    def crash(n_rows: int) -> None:
        raise Crash

    with pytest.raises(Crash):
        files.undo(database, report.import_id, actor="test", on_progress=crash)
    assert len(stored(database)) == 15
    assert one_import(database, report.import_id).status == storage.imports.UNDOING
    steps: list[int] = []
    files.undo(database, report.import_id, actor="test", on_progress=steps.append)
    assert steps == [10, 15]
    assert stored(database) == []


def test_undo_twice_and_of_nothing_says_so(tmp_path, database, take):
    report = take(write(tmp_path / "a.csv", "user_id,item_id\nu,i\n"))
    files.undo(database, report.import_id, actor="test")
    with pytest.raises(ConflictError, match="Import 1 has been undone already"):
        files.undo(database, report.import_id, actor="test")
    with pytest.raises(NotFoundError, match="no import 7") as caught:
        files.undo(database, 7, actor="test")
    assert caught.value.action == Action("list_imports")


def test_an_import_that_is_undone_while_it_runs_stops(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\n" + "u,i\n" * 120_000)
    with pytest.raises(ConflictError, match="undone while it ran"):
        take(path, on_progress=lambda progress: files.undo(database, 1, actor="other"))
    assert stored(database) == []
    assert one_import(database, 1).status == storage.imports.UNDONE


def test_others_write_while_a_file_is_imported(tmp_path, database, settings, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\n" + "u,i\n" * 200_000)
    other = storage.open_database(settings)
    between: list[int] = []

    def post(progress: files.Progress) -> None:
        def append() -> None:
            with other.write() as connection:
                row = Interaction(f"post-{progress.rows}", "p", "i", "click", 1.0, 5)
                storage.interactions.append(connection, [row])
            between.append(progress.rows)

        thread = threading.Thread(target=append)
        thread.start()
        thread.join(timeout=60)

    report = take(path, on_progress=post)
    other.close()
    assert len(between) >= 3
    assert files.undo(database, report.import_id, actor="test").interactions == 200_000
    assert set(stored(database, "user_id")) == {"p"}
    assert len(stored(database, "user_id")) == len(between)


def test_a_batch_is_sorted_by_user_and_users_keep_their_order(tmp_path, database, take):
    rows = "".join(f"u{number * 7 % 5},{number}\n" for number in range(50))
    take(write(tmp_path / "a.csv", "user_id,item_id\n" + rows))
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT user_id, CAST(item_id AS INTEGER) FROM user_interactions ORDER BY id"
        ).all()
    assert [tuple(row) for row in found] == sorted(tuple(row) for row in found)


# --- The report, progress, first row --------------------------------------------------------------


def test_the_report_of_refused_rows_has_its_place(tmp_path, settings, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n,i\n")
    report = take(path)
    assert report.refused_report == settings.data_dir / "imports" / "1-refused.csv"
    assert report.refused_report.read_text().splitlines() == [
        "file,line,column,value,reason",
        "a.csv,3,user_id,,is empty",
    ]


def test_a_report_that_was_asked_for_is_written_anew(tmp_path, take):
    target = write(tmp_path / "report.csv", "file,line,column,value,reason\nof yesterday")
    report = take(write(tmp_path / "a.csv", "user_id,item_id\nu,i\n"), refused_report=target)
    assert report.refused_report == target
    assert target.read_text() == "file,line,column,value,reason\n"
    with pytest.raises(DataError, match="cannot be written"):
        take(tmp_path / "a.csv", refused_report=tmp_path / "no" / "folder.csv")


def test_progress_counts_rows_and_bytes(tmp_path, take):
    path = write(tmp_path / "a.csv", "user_id,item_id,rating\n" + "u,i,5\nu,i,1\n,i,5\n" * 40_000)
    steps: list[files.Progress] = []
    take(path, FileFormat(min_rating=4), on_progress=steps.append)
    assert [step.rows for step in steps] == sorted({step.rows for step in steps})
    assert steps[-1] == files.Progress(120_000, path.stat().st_size, path.stat().st_size)


def test_before_the_first_sound_row_the_caller_is_told_once(tmp_path, database, take):
    found: list[int] = []

    def look() -> None:
        found.append(len(stored(database)))

    take(write(tmp_path / "bad.csv", "user_id,item_id\n,i\n"), before_first_row=look)
    assert found == []
    good = write(tmp_path / "good.csv", "user_id,item_id\n" + "u,i\n" * 120_000)
    take(good, before_first_row=look)
    assert found == [0]


def test_the_row_of_an_import_tells_of_it(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n,i\nv,i\n")
    take(path)
    row = one_import(database, 1)
    assert (row.accepted, row.duplicates, row.refused) == (2, 0, 1)
    assert (row.source, row.status, row.is_demo) == (str(path), "complete", False)
    assert row.finished_at >= row.started_at
    with database.read() as connection:
        (entry,) = storage.audit_log.latest(connection, limit=10)
    assert (entry.actor, entry.action, entry.subject) == ("test", "import", "import 1")
    assert json.loads(entry.details)["accepted"] == 2


def test_memory_does_not_grow_with_the_file(tmp_path, settings, database):
    """Twice the file takes about the same memory, once the database's cache is full."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from reckeeper import storage, telemetry\n"
        "from reckeeper.config import Settings\n"
        "from reckeeper.events import files\n"
        "settings = Settings.from_env()\n"
        "files.import_file(storage.open_database(settings), Path(sys.argv[1]),\n"
        "    format=files.FileFormat(min_rating=4), settings=settings, actor='test')\n"
        "print(telemetry.peak_memory_bytes())\n"
    )
    peaks = []
    for n_rows in (800_000, 1_600_000):
        path = tmp_path / f"{n_rows}.csv"
        with path.open("w") as file:
            file.write("user_id,item_id,rating\n")
            for _ in range(n_rows // 100_000):
                file.write("some-user,some-item,1\n" * 99_999 + "some-user,some-item,5\n")
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            env={**settings.to_env(), "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 15e6, f"{peaks} bytes for files of 18 and 35 MB"


# --- Catalogues ----------------------------------------------------------------------------------


def test_a_catalogue_comes_with_the_interactions(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n")
    catalogue = write(
        tmp_path / "items.csv",
        'item_id,title,genres,year,\ni1,"Film, one",a|b,1999,0\ni2,,(none),,1\n,no id,,,2\n',
    )
    report = take(
        path,
        catalogue=catalogue,
        catalogue_format=CatalogueFormat(list_column="genres", empty_list="(none)"),
    )
    with database.read() as connection:
        assert storage.items.get_many(connection, ["i1", "i2"]) == {
            "i1": Item("i1", "Film, one", {"genres": ["a", "b"], "year": "1999"}),
            "i2": Item("i2", None, {"genres": []}),
        }
    assert (report.items, report.refused, report.accepted) == (2, 1, 1)
    (line,) = report.first_refused
    assert (line.file, line.line, line.column) == ("items.csv", 4, "item_id")


def test_a_parquet_catalogue_keeps_its_types(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,7\n")
    catalogue = tmp_path / "items.parquet"
    pq.write_table(
        pa.table(
            {
                "item_id": [7],
                "title": ["Film"],
                "year": [1999],
                "genres": [["a", "b"]],
                "score": [float("nan")],
                "seen": [True],
                "released": [date(1999, 5, 1)],
            }
        ),
        catalogue,
    )
    take(path, catalogue=catalogue, catalogue_format=CatalogueFormat(list_column="genres"))
    with database.read() as connection:
        assert storage.items.get_many(connection, ["7"])["7"].attributes == {
            "year": 1999,
            "genres": ["a", "b"],
            "seen": True,
            "released": "1999-05-01",
        }


def test_undoing_a_repeat_leaves_the_catalogue(tmp_path, database, take):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n")
    catalogue = write(tmp_path / "items.csv", "item_id,title\ni,Film\n")
    assert take(path, catalogue=catalogue).items == 1
    assert take(path, catalogue=catalogue).items == 0
    files.undo(database, 2, actor="test")
    with database.read() as connection:
        assert storage.items.get_many(connection, ["i"])["i"].title == "Film"


def test_undoing_a_change_of_the_catalogue_takes_no_item_of_another_import(
    tmp_path, database, take
):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n")
    take(path, catalogue=write(tmp_path / "old.csv", "item_id,title\ni,Film\n"))
    changed = write(tmp_path / "new.csv", "item_id,title\ni,Film (restored)\nj,Other\n")
    assert take(path, catalogue=changed).items == 2
    assert files.undo(database, 2, actor="test").items == 1
    with database.read() as connection:
        left = storage.items.get_many(connection, ["i", "j"])
    assert {item_id: item.title for item_id, item in left.items()} == {"i": "Film (restored)"}


def test_a_catalogue_without_its_columns_is_refused_before_anything_is_written(
    tmp_path, database, take
):
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i\n")
    with pytest.raises(DataError, match=r"items.csv has no column 'title'.*'item_id', 'text'"):
        take(path, catalogue=write(tmp_path / "items.csv", "item_id,text\ni,x\n"))
    with pytest.raises(DataError, match="2 columns named 'x'"):
        take(path, catalogue=write(tmp_path / "items.csv", "item_id,title,x,x\ni,a,b,c\n"))
    with database.read() as connection:
        assert storage.imports.all_imports(connection) == []


def test_a_title_that_a_database_cannot_hold_is_refused_by_its_row(tmp_path, database, take):
    (tmp_path / "items.csv").write_bytes(b"item_id,title\ni1,Fi\0lm\ni2,Film\n")
    path = write(tmp_path / "a.csv", "user_id,item_id\nu,i1\n")
    report = take(path, catalogue=tmp_path / "items.csv")
    assert (report.items, report.refused) == (1, 1)
    assert report.first_refused[0].reason == "has a NUL character"


def test_a_file_whose_name_is_no_text_is_refused(tmp_path, database, take):
    path = write(tmp_path / os.fsdecode(b"caf\xe9.csv"), "user_id,item_id\nu,i\n")
    with pytest.raises(DataError, match=r"caf\\udce9.csv is not UTF-8: rename"):
        take(path)


@pytest.fixture(scope="module")
def movielens() -> Path:
    if not (MOVIELENS_FOLDER / "ratings.csv").is_file():
        pytest.skip(f"MovieLens is not in {MOVIELENS_FOLDER}")
    return MOVIELENS_FOLDER


def test_movielens(movielens, database, take):
    with (movielens / "ratings.csv").open(newline="") as file:
        ratings = list(csv.DictReader(file))
    assert len(ratings) == 100_004
    report = take(
        movielens / "ratings.csv",
        MOVIELENS.interactions,
        catalogue=movielens / MOVIELENS.catalogue_name,
        catalogue_format=MOVIELENS.catalogue,
    )
    assert (report.accepted, report.without_taste, report.refused) == (100_004, 48_436, 0)
    assert report.items == 9_125
    assert sorted(stored(database, "user_id", "item_id", "weight", "occurred_at")) == sorted(
        (
            row["userId"],
            row["movieId"],
            float(float(row["rating"]) >= 4),
            int(row["timestamp"]) * 1_000_000,
        )
        for row in ratings
    )
    with database.read() as connection:
        items = storage.items.get_many(connection, ["1", "11", "83829"])
    assert items["1"].title == "Toy Story (1995)"
    assert items["1"].attributes == {
        "genres": ["Adventure", "Animation", "Children", "Comedy", "Fantasy"]
    }
    assert items["11"].title == "American President, The (1995)"
    assert items["83829"].attributes == {"genres": []}
