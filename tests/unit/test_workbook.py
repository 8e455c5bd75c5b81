"""Sheets of Excel workbooks, and workbooks that are none."""

import contextlib
import itertools
import random
import re
import zipfile
from datetime import date, datetime
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reckeeper import tabular
from reckeeper.errors import DataError
from reckeeper.events import files
from reckeeper.events.files import FileFormat
from reckeeper.tabular import Form, workbook


def written(path, *sheets):
    """Write sheets, each a title with its rows."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def rows_of(path, *names, **form):
    with tabular.open_source(path, Form(**form)) as source:
        chunks = list(source.chunks(names or source.columns))
    rows = [
        row
        for chunk in chunks
        for row in zip(
            chunk.lines.tolist(),
            *(each.to_pylist() for each in chunk.columns.values()),
            strict=True,
        )
    ]
    return rows, {line.line: line.reason for chunk in chunks for line in chunk.broken}


AT = datetime(2024, 1, 3, 15, 28, 18)
ROWS = [
    ["user_id", "item_id", "occurred_at", "note"],
    [13085, "a", AT, None],
    [13086.0, "b", "2024-01-03 15:28:18", True],
    [None, None, None, None],
    ["u", 7, AT, "=1/0"],
]


def test_a_sheet_is_imported_with_dates_as_dates_and_whole_numbers_as_ids(
    tmp_path, database, settings
):
    path = written(tmp_path / "a.xlsx", ("Sales", ROWS), ("Other", [["x"], [1]]))
    report = files.import_file(database, path, format=FileFormat(), settings=settings, actor="test")
    assert (report.accepted, report.refused) == (3, 0)
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            "SELECT user_id, item_id, occurred_at FROM user_interactions ORDER BY user_id"
        ).all()
    assert [tuple(row) for row in rows] == [
        ("13085", "a", 1_704_295_698_000_000),
        ("13086", "b", 1_704_295_698_000_000),
        ("u", "7", 1_704_295_698_000_000),
    ]


def test_what_pandas_writes_is_read(tmp_path):
    path = tmp_path / "a.xlsx"
    frame = pd.DataFrame({"u": ["a", "b"], "r": [1.5, None], "t": pd.to_datetime([AT, AT])})
    with pd.ExcelWriter(path) as writer:
        frame.to_excel(writer, sheet_name="first", index=False)
        frame[:1].to_excel(writer, sheet_name="second", startrow=2)
    assert rows_of(path) == ([(2, "a", 1.5, AT), (3, "b", None, AT)], {})
    assert rows_of(path, "u", "t", sheet="second") == ([(4, "a", AT)], {})
    with pytest.raises(DataError, match=r"no sheet 'secnd'.*'second'.*--sheet"):
        rows_of(path, sheet="secnd")


def test_rows_before_the_names_are_left_out_and_names_may_be_missing(tmp_path):
    rows = [["Sales of 2024"], [], ["u", None, "i"], ["a", "x", date(2024, 1, 3)], ["#N/A", 2, 3]]
    path = written(tmp_path / "a.xlsx", ("s", rows))
    assert rows_of(path, "u", "i", skip_lines=1) == (
        [(4, "a", "2024-01-03T00:00:00"), (5, None, "3")],
        {},
    )
    numbered, _ = rows_of(path, "1", "3", skip_lines=3, has_header=False)
    assert numbered == [(4, "a", "2024-01-03T00:00:00"), (5, None, "3")]
    with pytest.raises(DataError, match="the sheet 's' is empty"):
        rows_of(path, skip_lines=5)


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**15), 10**15),
    st.floats(-1e9, 1e9),
    st.text(st.characters(categories=["L", "N", "P"], max_codepoint=0xFFFF), min_size=1),
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(
        lambda at: at.replace(microsecond=0)
    ),
)


@settings(max_examples=5)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=3), min_size=1, max_size=20))
def test_any_row_of_a_sheet_is_given_or_broken(tmp_path_factory, rows):
    rows = [[f"x{number}", *row] for number, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("xlsx") / "a.xlsx"
    written(path, ("s", [["u", "a", "b", "c"], *rows]))
    found, broken = rows_of(path, "u")
    assert [row[1] for row in found] == [row[0] for row in rows]
    found, broken = rows_of(path)
    assert sorted([row[0] for row in found] + list(broken)) == [*range(2, len(rows) + 2)]


def changed(path, **contents):
    """Put other content into parts of a workbook, which are named by the ends of their names."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, old in parts.items():
            content = contents.get(Path(part).stem.strip("[]"))
            archive.writestr(part, content(old) if content else old)
    return path


def as_excel_does(path, strings):
    """Have the texts of a workbook stand in a part of their own, as openpyxl doesn't write them."""
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = b'<Override PartName="/xl/sharedStrings.xml" ContentType="%s"/></Types>' % kind
    number = itertools.count()
    changed(
        path,
        Content_Types=lambda old: old.replace(b"</Types>", part),
        sheet1=lambda old: re.sub(
            rb't="inlineStr"><is>.*?</is>', lambda _: b't="s"><v>%d</v>' % next(number), old
        ),
    )
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        space = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        archive.writestr("xl/sharedStrings.xml", strings.replace(b"<sst>", space))
    return path


def simple(tmp_path):
    return written(tmp_path / "a.xlsx", ("s", [["u"], ["x"], ["y"]]))


def test_texts_that_cells_share_are_read(tmp_path):
    texts = (
        b"<sst><si><t>u</t></si><si><r><t>a</t></r><r><t> b</t></r></si><si><t>#N/A</t></si></sst>"
    )
    assert rows_of(as_excel_does(simple(tmp_path), texts), "u") == ([(2, "a b"), (3, None)], {})


DOUBLING = b"".join(
    b'<!ENTITY %c "%b">' % (letter, b"&%c;" % (letter + 1) * 40) for letter in range(97, 110)
)
DOUBLING = b"<!DOCTYPE sst [" + DOUBLING + b'<!ENTITY n "nn">]>'


@pytest.mark.parametrize(
    "content",
    [
        lambda old: old.replace(b"</row>", b"<c/>" * 1_000_000 + b"</row>", 1),
        lambda old: old + b" " * 4_000_000,
        lambda old: old.replace(b'<row r="2"', b'<row r="99999999"'),
        lambda old: old[: len(old) // 2],
        b"<sst>" + b"<si/>" * 200_000 + b"</sst>",
        DOUBLING + b"<sst><si><t>&a;</t></si></sst>",
    ],
)
def test_a_workbook_that_would_not_fit_is_refused(tmp_path, monkeypatch, content):
    monkeypatch.setattr(workbook, "_SMALL_BYTES", 100_000)
    monkeypatch.setattr(workbook, "_WINDOW_BYTES", 1_000_000)
    monkeypatch.setattr(workbook, "_MOST_TAGS", 100_000)
    monkeypatch.setattr(workbook, "_MOST_ROWS", 10_000)
    path = simple(tmp_path)
    if isinstance(content, bytes):
        as_excel_does(path, content)
    else:
        changed(path, sheet1=content)
    with pytest.raises(DataError, match=r"too much in its part|more than|no sound workbook|beyond"):
        rows_of(path)
    monkeypatch.setattr(workbook, "_MOST_BYTES", 1_000)
    with pytest.raises(DataError, match="save it as CSV"):
        rows_of(path)


def test_sheets_of_other_programs_are_named_as_what_they_are(tmp_path):
    path = tmp_path / "a.ods"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<x/>")
    with pytest.raises(DataError, match=r"OpenDocument file: save it as \.xlsx"):
        rows_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    with pytest.raises(DataError, match="no sound workbook"):
        rows_of(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), "u,i\n1,2\n")
    assert rows_of(path, "u") == ([(2, b"1")], {})


def test_a_broken_workbook_is_refused_and_nothing_else(tmp_path):
    path = written(tmp_path / "a.xlsx", ("s", ROWS))
    with zipfile.ZipFile(path) as archive:
        names = [Path(name).stem.strip("[]") for name in archive.namelist()]
    whole = path.read_bytes()
    chance = random.Random(1)
    for number in range(25):
        path.write_bytes(whole)
        if number % 2:
            cut = bytearray(whole)
            cut[chance.randrange(30, len(cut))] = chance.randrange(256)
            path.write_bytes(cut[: chance.randrange(100, 2 * len(cut))])
        else:

            def content(old):
                at = chance.randrange(len(old))
                return old[:at] + bytes([chance.randrange(32, 127)]) * 3 + old[at + 3 :]

            changed(path, **{chance.choice(names): content})
        with contextlib.suppress(DataError):
            rows_of(path)
