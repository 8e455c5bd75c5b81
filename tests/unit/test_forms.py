"""What a file is, found out from its content: each written by what people write such files with."""

import bz2
import contextlib
import csv
import gzip
import hashlib
import io
import lzma
import random
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckeeper import storage, tabular
from reckeeper.config import Settings
from reckeeper.errors import DataError
from reckeeper.events import files, repeats
from reckeeper.tabular import Form, streams, text

CASES = Path(__file__).parents[3] / "shared" / "cases"
HEADER = ["user_id", "item_id", "title"]
ROWS = [
    ["u1", "i1", "Die Bücher der Könige"],
    ["u2", "i2", "Für Elise, op. 1; oder: Größe"],
    ["u3", "i3", 'Der "große" Bär'],
    ["u4", "i4", "Straße ohne Ende\nzweite Zeile"],
]
PLAIN_ROWS = [["u1", "i1", "4"], ["u22", "i2", "3"], ["u333", "i3", "5"]]


def read(path: Path, form: Form | None = None) -> tuple[list[str], list[list[str]]]:
    """Return names of columns and rows, of which none may be refused."""
    rows: list[list[str]] = []
    with tabular.open_source(path, form) as source:
        for chunk in source.chunks(source.columns):
            assert not chunk.broken
            columns = [chunk.columns[name].to_pylist() for name in source.columns]
            rows += [[value.decode() for value in row] for row in zip(*columns, strict=True)]
        return source.columns, rows


def written(rows: list[list[str]], **how: object) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **how).writerows([HEADER, *rows])
    return out.getvalue()


def frame(rows: list[list[str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=HEADER)


def packed_by_pandas(method: str) -> Callable[[Path], object]:
    return lambda path: frame(ROWS).to_csv(path, index=False, compression=method)


def by_polars(**how: Any) -> Callable[[Path], object]:
    frame = pl.DataFrame(ROWS, schema=HEADER, orient="row")
    return lambda path: frame.write_csv(path, check_extension=False, **how)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/a.csv", written(ROWS))
        archive.writestr("__MACOSX/folder/._a.csv", b"\0\5\26\7")


def by_arrow(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        pa.csv.write_csv(
            pa.Table.from_pylist([dict(zip(HEADER, r, strict=True)) for r in ROWS]), out
        )


FORMS: dict[str, tuple[Callable[[Path], object], dict[str, object]]] = {
    "csv, commas": (lambda path: path.write_text(written(ROWS), newline=""), {"delimiter": ","}),
    "csv, semicolons": (
        lambda path: path.write_text(written(ROWS, delimiter=";"), newline=""),
        {"delimiter": ";"},
    ),
    "csv, bars": (
        lambda path: path.write_text(written(ROWS, delimiter="|"), newline=""),
        {"delimiter": "|"},
    ),
    "csv, excel-tab": (
        lambda path: path.write_text(written(ROWS, dialect="excel-tab"), newline=""),
        {"delimiter": "\t"},
    ),
    "csv, unix": (
        lambda path: path.write_text(written(ROWS, dialect="unix"), newline=""),
        {"delimiter": ","},
    ),
    "csv, old Macintosh": (
        lambda path: path.write_text(
            written(ROWS, lineterminator="\r", quoting=csv.QUOTE_ALL), newline=""
        ),
        {"delimiter": ","},
    ),
    "Excel, Unicode text": (
        lambda path: path.write_bytes(written(ROWS, dialect="excel-tab").encode("utf-16")),
        {"delimiter": "\t", "encoding": "utf-16"},
    ),
    "Excel, German CSV": (
        lambda path: path.write_bytes(written(ROWS, delimiter=";").encode("cp1252")),
        {"delimiter": ";", "encoding": "cp1252"},
    ),
    "Excel, CSV UTF-8 with sep=": (
        lambda path: path.write_bytes(
            ("sep=;\r\n" + written(ROWS, delimiter=";")).encode("utf-8-sig")
        ),
        {"delimiter": ";", "encoding": "utf-8", "skip_lines": 1},
    ),
    "SQL Server, UTF-16 without mark": (
        lambda path: path.write_bytes(written(ROWS, delimiter="|").encode("utf-16-le")),
        {"delimiter": "|", "encoding": "utf-16-le"},
    ),
    "pandas, latin-1": (
        lambda path: frame(ROWS).to_csv(path, index=False, sep=";", encoding="latin-1"),
        {"delimiter": ";", "encoding": "cp1252"},
    ),
    "pandas, gzip": (packed_by_pandas("gzip"), {"compression": "gzip"}),
    "pandas, bz2": (packed_by_pandas("bz2"), {"compression": "bz2"}),
    "pandas, xz": (packed_by_pandas("xz"), {"compression": "xz"}),
    "pandas, zip": (packed_by_pandas("zip"), {"compression": "zip"}),
    "polars": (by_polars(), {"delimiter": ",", "encoding": "utf-8"}),
    "polars, for Excel": (
        by_polars(separator=";", quote_style="always", include_bom=True, line_terminator="\r\n"),
        {"delimiter": ";", "encoding": "utf-8"},
    ),
    "polars, zstd": (by_polars(compression="zstd"), {"compression": "zstd"}),
    "Finder, zip": (zipped, {"compression": "zip"}),
    "Arrow, zstd": (by_arrow, {"compression": "zstd"}),
    "gzip of UTF-16": (
        lambda path: path.write_bytes(gzip.compress(written(ROWS).encode("utf-16"))),
        {"compression": "gzip", "encoding": "utf-16"},
    ),
    "bz2 in two parts": (
        lambda path: path.write_bytes(
            bz2.compress(written(ROWS[:2]).encode())
            + bz2.compress(written(ROWS[2:]).split("\r\n", 1)[1].encode())
        ),
        {"compression": "bz2"},
    ),
    "xz in two parts": (
        lambda path: path.write_bytes(
            lzma.compress(written(ROWS[:2]).encode())
            + b"\0\0\0\0"
            + lzma.compress(written(ROWS[2:]).split("\r\n", 1)[1].encode())
        ),
        {"compression": "xz"},
    ),
}

PLAIN_FORMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "MovieLens 1M": (
        lambda path: path.write_text(
            "\n".join("::".join(row) for row in [HEADER, *PLAIN_ROWS]) + "\n"
        ),
        "::",
    ),
    "R, write.table": (
        lambda path: frame(PLAIN_ROWS).to_csv(
            path, sep=" ", index=False, quoting=csv.QUOTE_NONNUMERIC
        ),
        tabular.WHITE_SPACE,
    ),
    "pandas, to_string": (
        lambda path: path.write_text(frame(PLAIN_ROWS).to_string(index=False)),
        tabular.WHITE_SPACE,
    ),
    "numpy, savetxt": (
        lambda path: np.savetxt(
            path, np.array(PLAIN_ROWS), fmt="%-8s", header=" ".join(HEADER), comments=""
        ),
        tabular.WHITE_SPACE,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_people_write_is_read_as_it_was(tmp_path, name):
    write, expected = FORMS[name]
    path = tmp_path / "a"
    write(path)
    form = tabular.detect(path)
    assert {key: getattr(form, key) for key in expected} == expected
    assert read(path) == (HEADER, ROWS)
    assert read(path, form) == (HEADER, ROWS)


@pytest.mark.parametrize("name", PLAIN_FORMS)
def test_values_between_several_signs_are_read(tmp_path, name):
    write, delimiter = PLAIN_FORMS[name]
    write(tmp_path / "a")
    assert tabular.detect(tmp_path / "a").delimiter == delimiter
    assert read(tmp_path / "a") == (HEADER, PLAIN_ROWS)


@pytest.mark.parametrize("mode", ["csv", "tabs", "list"])
def test_what_the_shell_of_sqlite_writes_is_read(tmp_path, mode):
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not there")
    values = ", ".join("('{}', '{}', '{}')".format(*row) for row in PLAIN_ROWS)
    query = f"WITH t({', '.join(HEADER)}) AS (VALUES {values}) SELECT * FROM t"
    command = ["sqlite3", "-header", f"-{mode}", ":memory:", query]
    (tmp_path / "a").write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    assert read(tmp_path / "a") == (HEADER, PLAIN_ROWS)


# --- What two readings would fit, and what none does ----------------------------------------------


def test_what_no_encoding_fits_is_said_to_be_perhaps_no_text(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(random.Random(0).randbytes(300))
    with pytest.raises(DataError, match="it may be no text at all") as caught:
        tabular.detect(path)
    assert caught.value.details == {"encodings": []}


def test_where_two_delimiters_fit_the_choice_is_listed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user;item;price,eur\nu1;i1;4,50\nu2;i2;3,00\n")
    with pytest.raises(DataError) as caught:
        tabular.detect(path)
    assert caught.value.message == (
        f"{path} can be read in 2 ways: --delimiter ',' gives the columns 'user;item;price', "
        "'eur'; --delimiter ';' gives the columns 'user', 'item', 'price,eur'. Say which is meant."
    )
    assert tabular.detect(path, known=["us_er", "Item"]).delimiter == ";"
    assert read(path, Form(delimiter=","))[0] == ["user;item;price", "eur"]


def test_spaces_within_values_do_not_outdo_tabs_where_there_is_no_header(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("1\tA\t2013-05-28 00:00:00+00\t\\N\n2\tB\t2013-05-28 01:00:00+00\t3\n")
    assert tabular.detect(path, Form(has_header=False)).delimiter == "\t"


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("user,item\nu;1,i;1\nu;2,i;2\n", ","),  # semicolons in the values alone
        ("user;item;rating\nu;i;4,5\nv;j;3,5\n", ";"),  # decimal commas
        ("user|item|tags\nu|i|a,b\nv|j|c\n", "|"),
        ("user,item,at\nu,i,2026-01-01 10:00:00\nv,j,2026-01-02 10:00:00\n", ","),
        ("first name,second name\nJohn Smith,Toy Story\nJane Doe,Star Wars\n", ","),
        ("user item\n", tabular.WHITE_SPACE),
        ("user\nu1\nu2\n", ","),
        ("a::b\n1::Toy, Story::x\n", "::"),
        ('"user" "item"\n"u 1" "i"\n"v" "j k"\n', tabular.WHITE_SPACE),
        ("user,item\n", ","),
        ("user,item;x\n", ","),
    ],
)
def test_the_delimiter_is_the_one_that_makes_rows_whole(tmp_path, text, delimiter):
    (tmp_path / "a").write_text(text)
    assert tabular.detect(tmp_path / "a").delimiter == delimiter


def test_a_row_is_known_by_its_own_line_behind_a_preamble(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["Report of 2026", "", "user_id;item_id", "u1;i1", "u2", "u3;i3"]
    for ending, encoding, begin in [
        ("\n", "utf-8", ""),
        ("\r\n", "utf-16", ""),
        ("\r", "utf-8", "\ufeff"),
    ]:
        path.write_bytes((begin + ending.join(lines)).encode(encoding))
        with tabular.open_source(path, Form(skip_lines=2)) as source:
            (chunk,) = source.chunks(["item_id"])
            assert source.columns == ["user_id", "item_id"]
        assert chunk.columns["item_id"].to_pylist() == [b"i1", b"i3"]
        assert chunk.lines.tolist() == [4, 6]
        assert [line.line for line in chunk.broken] == [5]
    with pytest.raises(DataError, match=r"nothing .* behind the 9 lines"):
        read(path, Form(skip_lines=9))


def test_long_values_do_not_hide_the_delimiter(tmp_path):
    review = '"Great; really.\nI liked it, all of it.\n' + "x " * 15_000 + '"'
    text = "user,id;item;review\n" + "".join(f"u,{n};i{n};{review}\n" for n in range(40))
    (tmp_path / "a").write_text(text)
    assert tabular.detect(tmp_path / "a").delimiter == ";"


def test_more_columns_than_memory_holds_are_refused(tmp_path):
    (tmp_path / "a").write_text("a," * 40_000 + "\n1,2\n")
    with pytest.raises(DataError, match="40,001 columns"):
        read(tmp_path / "a")
    with pytest.raises(DataError, match=r"is a folder .*: name the files"):
        read(tmp_path)


def test_lines_are_counted_where_a_value_has_old_line_ends(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'user_id,item_id\ru1,"a\rb\r\nc"\ru2\ru3,i3\r')
    with tabular.open_source(path) as source:
        (chunk,) = source.chunks(["user_id"])
    assert chunk.lines.tolist() == [2, 6]
    assert [line.line for line in chunk.broken] == [5]


def test_a_row_that_is_broken_and_no_text_is_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"user_id,item_id\nu1,i1\nu\xe9,i\xff,x\nu3,i3\n\xe2\x82\nu5,\xc3\xa9\xfe\n\xe2\x82\xac,i6\xe2"
    )
    with tabular.open_source(path, Form(encoding="utf-8")) as source:
        (chunk,) = source.chunks(["user_id", "item_id"])
    assert chunk.lines.tolist() == [2, 4, 6, 7]
    assert chunk.columns["item_id"].to_pylist() == [b"i1", b"i3", b"\xc3\xa9\xfe", b"i6\xe2"]
    assert chunk.columns["user_id"][3].as_py() == "€".encode()
    assert [(line.line, line.value) for line in chunk.broken] == [
        (3, "u\\xe9,i\\xff,x"),
        (5, "\\xe2\\x82"),
    ]


def test_an_encoding_that_nothing_decides_is_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("user;title\n1;Żółta łódź\n".encode("cp1250"))
    with pytest.raises(DataError, match="--encoding cp1250 gives '1;Żółta łódź'"):
        tabular.detect(path)
    assert read(path, Form(encoding="cp1250"))[1] == [["1", "Żółta łódź"]]
    path.write_bytes("user;title\n1;Bücher\n".encode("mac_roman"))
    assert tabular.detect(path).encoding == "utf-8"  # and the row is refused, as damage is


def test_an_encoding_is_told_from_places_all_over_a_long_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"user;title\n" + b"1;plain\n" * 300_000 + "2;Bücher\n".encode("latin-1"))
    assert tabular.detect(path).encoding == "cp1252"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encoding": "klingon"}, "'klingon' is not known"),
        ({"encoding": "hex"}, "'hex' is not known"),
        ({"delimiter": '"'}, "cannot stand between values"),
        ({"delimiter": ""}, "cannot stand between values"),
        ({"delimiter": "\0"}, "cannot stand between values"),
        ({"delimiter": "\ud800"}, "cannot stand between values"),
        ({"skip_lines": -1}, "-1 lines"),
        ({"max_ratio": 0.0}, "not above 0"),
    ],
)
def test_forms_that_make_no_sense_are_refused(given, words):
    with pytest.raises(DataError, match=words):
        Form(**given)


def test_what_is_said_of_a_form():
    form = Form(kind=tabular.Kind.TEXT, compression="zip", encoding="cp1252", delimiter="tab")
    assert str(form) == "text in cp1252, tabs between values, unpacked from ZIP"
    assert str(Form(kind=tabular.Kind.PARQUET, compression="none")) == "Parquet"


@pytest.fixture
def take(database: storage.Database, settings: Settings) -> Callable[..., files.ImportReport]:
    if not CASES.is_dir():
        pytest.skip(f"The cases are not in {CASES}")

    def take(name: str, **given: Any) -> files.ImportReport:
        catalogue = given.pop("catalogue", None)
        more = {"catalogue": CASES / catalogue} if catalogue else {}
        if catalogue:
            more["catalogue_format"] = files.CatalogueFormat(
                item_column="ISBN", title_column="Book-Title"
            )
        format = files.FileFormat(**given)
        return files.import_file(
            database, CASES / name, format=format, settings=settings, actor="test", **more
        )

    return take


NUMBERED = {"user_column": "1", "item_column": "2", "has_header": False}


@pytest.mark.parametrize(
    ("name", "given", "expected", "n_rows"),
    [
        ("ratings.dat", NUMBERED, "text in utf-8, double colons between values", 3),
        ("headerless.tsv", NUMBERED, "text in utf-8, tabs between values", 3),
        ("unbalanced_quote.tsv", {}, "text in utf-8, tabs between values", 6),
        ("latin1_events.csv", {}, "text in utf-8, semicolons between values", 2),
    ],
)
def test_files_that_were_read_wrongly_are_read(take, name, given, expected, n_rows):
    report = take(name, **given)
    assert (report.accepted, report.refused) == (n_rows, 0)
    assert report.read_as == {name: expected}


def test_titles_in_latin_1_are_read(take, database):
    report = take("latin1_events.csv", catalogue="latin1_catalogue.csv")
    assert (report.items, report.refused) == (2, 0)
    assert report.read_as["latin1_catalogue.csv"] == "text in cp1252, semicolons between values"
    with database.read() as connection:
        found = storage.items.get_many(connection, ["3404921038"])
    assert found["3404921038"].title == "Wie Barney es sieht. (Bücher)"


# --- Packed files --------------------------------------------------------------------------------


def test_a_file_that_unpacks_beyond_reason_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_ALWAYS_FINE", 1_000_000)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"user_id,item_id\n" + b"u,i\n" * 1_000_000))
    with pytest.raises(DataError, match=r"unpacks to more than .* raise --max-ratio"):
        tabular.fingerprint(path)
    with pytest.raises(DataError, match="--max-ratio"):
        read(path)
    assert len(read(path, Form(max_ratio=2000.0))[1]) == 1_000_000


@pytest.mark.parametrize("method", ["gzip", "bz2", "xz", "zip", "zstd"])
def test_the_fingerprint_is_of_what_is_in_a_file(tmp_path, method):
    path, packed = tmp_path / "a.csv", tmp_path / "packed"
    frame(ROWS).to_csv(path, index=False)
    if method == "zstd":
        with pa.CompressedOutputStream(str(packed), "zstd") as out:
            out.write(path.read_bytes())
    else:
        frame(ROWS).to_csv(packed, index=False, compression=method)
    assert tabular.fingerprint(packed) == tabular.fingerprint(path)
    packed.write_bytes(packed.read_bytes()[:-9])
    assert tabular.fingerprint(packed) == hashlib.sha256(packed.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=r"cannot be unpacked|no sound ZIP archive"):
        read(packed)


def test_an_archive_has_one_file_that_can_be_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/x", "")
    with pytest.raises(DataError, match="ZIP archive without a file"):
        read(path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(7):
            archive.writestr(f"{number}.csv", written(ROWS))
    with pytest.raises(DataError, match=r"7 files \('0.csv', .* and 2 more\): unpack it"):
        read(path)
    path.write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(DataError, match="packed already"):
        read(path)


# --- Properties ----------------------------------------------------------------------------------

TEXT = st.text(
    st.characters(codec="cp1252", exclude_categories=["Cc"], exclude_characters="\x1f"), max_size=8
)
TABLES = st.integers(2, 4).flatmap(
    lambda n_columns: st.lists(
        st.lists(TEXT, min_size=n_columns, max_size=n_columns), min_size=1, max_size=5
    )
)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda content: content,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
    "zip": lambda content: _archive(content),
}


def _archive(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
    return out.getvalue()


def any_table_comes_back(folder, rows, delimiter, encoding, compression, ending):
    """Names of columns say nothing here, so that what stands between values is given."""
    out = io.StringIO(newline="")
    is_wide = len(delimiter) > 1 and delimiter != tabular.WHITE_SPACE
    sign = {tabular.WHITE_SPACE: " ", "::": "\ue000"}.get(delimiter, delimiter)
    names = [f"c{number}" for number in range(len(rows[0]))]
    csv.writer(out, delimiter=sign, quoting=csv.QUOTE_ALL, lineterminator=ending).writerows(
        [names, *rows]
    )
    content = out.getvalue().replace("\ue000", "::") if is_wide else out.getvalue()
    path = folder / "a"
    path.write_bytes(PACKERS[compression](content.encode(encoding)))
    form = Form(delimiter=delimiter, encoding=encoding, has_quotes=True)
    assert read(path, form) == (names, [row for row in rows if any(row)])


WAYS = {
    "rows": TABLES,
    "delimiter": st.sampled_from([",", ";", "\t", "|", "::", " ", tabular.WHITE_SPACE, "§"]),
    "encoding": st.sampled_from(["utf-8", "utf-16", "utf-16-be", "cp1252", "utf-8-sig"]),
    "compression": st.sampled_from(sorted(PACKERS)),
    "ending": st.sampled_from(["\n", "\r\n", "\r"]),
}


@given(**WAYS)
def test_any_table_comes_back_from_any_form(tmp_path_factory, **ways):
    any_table_comes_back(tmp_path_factory.getbasetemp(), **ways)


def anything_is_read_or_refused(folder, content, compression, cut):
    path = folder / "a"
    path.write_bytes(PACKERS[compression](content)[:cut] or b"x")
    with contextlib.suppress(DataError), tabular.open_source(path) as source:
        n_rows = 0
        for chunk in source.chunks(source.columns):
            n_rows += len(chunk.lines) + len(chunk.broken)
        assert n_rows <= len(content) + 1
    tabular.fingerprint(path)


BYTES = {
    "content": st.binary(max_size=200)
    | st.text(st.sampled_from('ab,;\t|: "\r\n\0é\x1f€'), max_size=200).map(str.encode)
    | st.text(st.sampled_from('ab,;\t|: "\r\nüß'), max_size=200).map(
        lambda text: text.encode("latin-1")
    )
    | st.text(max_size=50).map(lambda text: text.encode("utf-16", "surrogatepass")),
    "compression": st.sampled_from(sorted(PACKERS)),
    "cut": st.sampled_from([None, -1, -4, -20]),
}


@given(**BYTES)
def test_any_bytes_are_read_or_refused(tmp_path_factory, **what):
    anything_is_read_or_refused(tmp_path_factory.getbasetemp(), **what)


SIGNS = st.sampled_from([b"a", b'"', b",", b"\t", b"\xff", b" ", b"\x00"])


@given(st.lists(st.lists(SIGNS), min_size=1), st.sampled_from([b"\n", b"\r\n"]))
def test_every_line_that_says_anything_is_a_row_or_is_refused(tmp_path_factory, lines, end):
    path = tmp_path_factory.getbasetemp() / "lines"
    texts = dict(enumerate(map(b"".join, lines), 2))
    path.write_bytes(end.join([b"u,i", *texts.values()]))
    form = Form(encoding="utf-8", delimiter=",", has_quotes=False)
    with tabular.open_source(path, form) as source:
        chunks = list(source.chunks(["u", "i"]))
    found = [line for chunk in chunks for line in chunk.lines.tolist()]
    found += [each.line for chunk in chunks for each in chunk.broken]
    assert len(set(found)) == len(found)
    assert {line for line, text in texts.items() if text.strip(b",")} <= set(found)
    assert set(found) <= {line for line, text in texts.items() if text}


LINE_END = re.compile(r"\r\n|\r|\n")
PRIVATE = 0xE000


def records_of(text, delimiter, *, has_escapes):
    """Give the line of each record, its values, and whether its quotation marks are closed.

    By the rules alone: a mark at the beginning of a value opens it, and two within are one.
    """
    if has_escapes:
        text = re.sub(r"\\([^\r\n]?)", lambda found: shifted(found[1], PRIVATE), text)
    other = rf"[^{re.escape(delimiter)}\r\n]*"
    one = re.compile(rf'"(?P<within>(?:[^"]|"")*)(?P<end>"?)(?P<behind>{other})|(?P<plain>{other})')
    place, line, values = 0, 1, []
    while True:
        found = one.match(text, place)
        place, value = found.end(), found["plain"]
        if value is None:
            value = found["within"].replace('""', '"') + found["behind"]
        values.append(re.sub("[\ue000-\uf8ff]+", lambda found: shifted(found[0], -PRIVATE), value))
        if text.startswith(delimiter, place):
            place += 1
            continue
        yield line, values, found["end"] != ""
        if place == len(text):
            return
        place = LINE_END.match(text, place).end()
        line, values = 1 + len(LINE_END.findall(text, 0, place)), []


def shifted(text, by):
    return "".join(chr(ord(sign) + by) for sign in text)


MARKED = {
    "header": st.sampled_from(["u,i\n", '"u","i"\r\n', 'u,"one\n""i"""\n']),
    "body": st.lists(
        st.sampled_from(["a", "é", " ", ",", '"', '""', '\\"', "\\", "\n", "\r\n", "\r", "\0"])
        | st.sampled_from(['"a\nb,c"', ',"', '",', '"\n', '\n"', "u,i\n", '","', "\\\n"]),
        max_size=30,
    ).map("".join),
    "delimiter": st.sampled_from([",", ";", "\t"]),
    "encoding": st.sampled_from(["utf-8", "utf-16", "cp1252"]),
    "has_escapes": st.booleans(),
}


@given(**MARKED)
def test_with_quotation_marks_anywhere_every_record_is_a_row_or_is_refused(
    tmp_path_factory, header, body, delimiter, encoding, has_escapes
):
    path = tmp_path_factory.getbasetemp() / "marks"
    text = (header + body).replace(",", delimiter)
    path.write_bytes(text.encode(encoding))
    form = Form(encoding=encoding, delimiter=delimiter, has_quotes=True, has_escapes=has_escapes)
    with tabular.open_source(path, form) as source:
        chunks = list(source.chunks(source.columns))
    lines = [line for chunk in chunks for line in chunk.lines.tolist()]
    rows = [
        row
        for chunk in chunks
        for row in zip(*map(pa.Array.to_pylist, chunk.columns.values()), strict=True)
    ]
    rows = dict(zip(lines, rows, strict=True))
    refused = [each.line for chunk in chunks for each in chunk.broken]
    assert len({*lines, *refused}) == len(lines) + len(refused)
    _, *records = records_of(text, delimiter, has_escapes=has_escapes)
    for line, values, is_closed in records:
        if line in rows:
            assert is_closed
            assert [value.decode() for value in rows.pop(line)] == values
        elif line in refused or any(values) or not is_closed:
            assert len(values) != 2 or not is_closed or LINE_END.search("".join(values))
            refused.remove(line)
    assert (rows, refused) == ({}, [])


@given(**MARKED)
def test_with_quotation_marks_anywhere_every_row_is_stored_or_is_refused(
    tmp_path, database, settings, header, body, delimiter, encoding, has_escapes
):
    path, report = tmp_path / "marks", tmp_path / "refused.csv"
    path.write_bytes(f"{header}{body}\nu,i\n".replace(",", delimiter).encode(encoding))
    form = {"delimiter": delimiter, "encoding": encoding, "has_escapes": has_escapes}
    with tabular.open_source(path, Form(**form, has_quotes=True)) as source:
        columns = source.columns
        chunks = list(source.chunks(columns))
    format = files.FileFormat(
        **form, has_quotes=True, user_column=columns[0], item_column=columns[1]
    )
    found = files.import_file(
        database, path, format=format, settings=settings, actor="test", refused_report=report
    )
    with report.open(newline="", encoding="utf-8") as lines:
        refused = [int(row["line"]) for row in csv.DictReader(lines)]
    with database.read() as connection:
        beginning = repeats.lines_of(tabular.fingerprint(path))
        stored = connection.exec_driver_sql(
            "SELECT event_id FROM user_interactions WHERE event_id LIKE ?", (f"{beginning}%",)
        )
        stored = [int(event_id.removeprefix(beginning)) for (event_id,) in stored]
    assert found.accepted + found.duplicates == len(stored)
    expected = [line for chunk in chunks for line in chunk.lines.tolist()]
    expected += [each.line for chunk in chunks for each in chunk.broken]
    assert sorted([*stored, *refused]) == sorted(expected)


def test_a_mark_that_is_not_closed_holds_no_rows_back_unseen(tmp_path):
    path = tmp_path / "a.csv"
    rows = ["u,i,title", "u1,i1,Low", 'u2,i2,"Heroes', "u3,i3,Lodger", "u4,i4,X"]
    for end in ("", "\n", "\r\n", "\n\n"):
        path.write_bytes(("\n".join(rows) + end).encode())
        with tabular.open_source(path, Form(has_quotes=True)) as source:
            (chunk,) = source.chunks(["u", "i"])
        assert chunk.lines.tolist() == [2]
        (refused,) = chunk.broken
        assert (refused.line, refused.column) == (3, "title")
        assert re.match(r"reaches over \d lines, up to the end of the file", refused.reason)


def test_a_row_of_several_lines_is_read_from_an_archive_of_many_parts(tmp_path):
    path = tmp_path / "a"
    row = 'u,i,"' + "text\n" * 20 + '"\n'
    lines = f"u,i,title\n{row * 9}".splitlines(keepends=True)
    path.write_bytes(b"".join(lzma.compress(line.encode()) for line in lines))
    assert len(read(path, Form(delimiter=","))[1]) == 9


# --- How far ahead a file is read ---------------------------------------------------------------


def test_a_file_is_read_a_few_pieces_ahead_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1_000)
    monkeypatch.setattr(streams, "_PATIENCE_SECONDS", 60.0)
    path = tmp_path / "a.csv"
    path.write_bytes(b"user_id,item_id\n" + b"u123,i123\n" * 20_000)
    n_rows, ahead = 0, []
    with tabular.open_source(path) as source:
        for chunk in source.chunks(["user_id"], at_most=100):
            n_rows += len(chunk.lines)
            ahead.append(source.bytes_done - 10 * n_rows)
    assert n_rows == 20_000
    assert max(ahead) < 10_000


def test_pieces_without_a_sound_row_do_not_stop_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1_000)
    path = tmp_path / "a.csv"
    path.write_bytes(b"user_id,item_id\nu,i\n" + b"of one value\n" * 2_000 + b"v,j\n")
    with tabular.open_source(path, Form(delimiter=",")) as source:
        chunks = [*source.chunks(["user_id"])]
    assert [user for chunk in chunks for user in chunk.columns["user_id"].to_pylist()] == [
        b"u", b"v",
    ]  # fmt: skip
    assert sum(len(chunk.broken) for chunk in chunks) == 2_000
