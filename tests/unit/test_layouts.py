"""Tables that are laid out otherwise: matrices, lists of ids, RecBole's and Gorse's forms."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from reckeeper import tabular
from reckeeper.cli.commands import app
from reckeeper.errors import DataError
from reckeeper.tabular import Form, Layout, layouts


def cells_of(path, **form):
    """Return user, item and what is in the cell, as text."""
    found = []
    with tabular.open_source(path, Form(layout=Layout.WIDE, **form)) as source:
        for chunk in source.chunks(source.columns):
            parts = chunk.parts.tolist()
            assert len(set(zip(chunk.lines.tolist(), parts, strict=True))) == len(parts)
            columns = [
                [each.decode() if isinstance(each, bytes) else each for each in column.to_pylist()]
                for column in chunk.columns.values()
            ]
            found += zip(*columns, strict=True)
    return found


# --- Matrices -------------------------------------------------------------------------------------

MATRIX = "customer;a;b;c;\n1;4,5;;0;\n2;;0,0;2;\n3;;;;\n4;x;NULL;-1;\n"


def test_a_matrix_is_a_row_for_each_cell_with_something_in_it(tmp_path, take, stored):
    path = tmp_path / "m.csv"
    path.write_text(MATRIX.replace("4,5", "4.5").replace("0,0", "0.0"))
    report = take(path, layout=Layout.WIDE)
    assert (report.accepted, report.refused) == (2, 2)
    assert [(line.line, line.value) for line in report.first_refused] == [(5, "x"), (5, "-1")]
    assert stored("user_id", "item_id", "weight") == [("1", "a", 4.5), ("2", "c", 2.0)]
    assert take(path, layout=Layout.WIDE).duplicates == 2


def test_the_cells_of_a_matrix_may_be_ratings(tmp_path, take, stored):
    path = tmp_path / "m.csv"
    path.write_text(MATRIX.replace("4,5", "4.5").replace("0,0", "0.0"))
    report = take(path, layout=Layout.WIDE, min_rating=4, user_column="customer")
    assert (report.accepted, report.without_taste, report.refused) == (3, 2, 1)
    rows = [("1", "a", 1.0), ("2", "c", 0.0), ("4", "c", 0.0)]
    assert stored("user_id", "item_id", "weight") == rows


FRAME = pd.DataFrame(
    {"i1": [1.0, np.nan, 3.0], "i2": [0, 2, 0], "i3": [True, False, False], "i4": [None] * 3},
    index=pd.Index(["u1", "u2", "u3"], name="customer"),
)


def csv(path):
    FRAME.to_csv(path)


def parquet(path):
    FRAME.to_parquet(path)


def feather(path):
    FRAME.reset_index().to_feather(path)


def workbook(path):
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        FRAME.to_excel(writer)


@pytest.mark.parametrize("write", [csv, parquet, feather, workbook])
def test_a_matrix_of_any_kind(tmp_path, write):
    path = tmp_path / "m"
    write(path)
    found = {
        row[:2]: float(row[2] == "True" or row[2]) for row in cells_of(path, null_words=("False",))
    }
    assert found == {("u1", "i1"): 1, ("u3", "i1"): 3, ("u2", "i2"): 2, ("u1", "i3"): 1}


@pytest.mark.parametrize("form", ["csv", "parquet", "ipc", "ipc_stream"])
def test_a_matrix_of_texts(tmp_path, form):
    path = tmp_path / "m"
    frame = pl.DataFrame({"u": ["a", "b"], "i": ["1", ""], "j": ["0.0", "2"], "k": ["NULL", None]})
    getattr(frame, f"write_{form}")(path)
    assert cells_of(path, null_words=("NULL",)) == [("a", "i", "1"), ("b", "j", "2")]


@pytest.mark.parametrize(
    ("content", "form", "said"),
    [
        ("u;a\n1;2\n", {"users": "v"}, "no column 'v'"),
        ("u,a,a\n1,2,3\n", {}, "two columns of the item 'a'"),
        ("u\n1\n", {}, "has one column"),
    ],
)
def test_what_is_no_matrix_is_said(tmp_path, content, form, said):
    path = tmp_path / "m.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        cells_of(path, **form)


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 7]), min_size=3, max_size=3), min_size=1, max_size=9)
)
def test_any_matrix_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("wide") / "m.csv"
    pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(path)
    at_once = layouts._CELLS_AT_ONCE
    try:
        layouts._CELLS_AT_ONCE = 7
        found = cells_of(path)
    finally:
        layouts._CELLS_AT_ONCE = at_once
    assert sorted(found) == sorted(
        (str(user), item, str(cell))
        for user, row in enumerate(rows)
        for item, cell in zip("abc", row, strict=True)
        if cell
    )


# --- Lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "u1 a b\nu2\n\nu3 c\n",
        "u1\ta\tb\r\nu2\r\n\r\nu3\tc\r\n",
        "u1,a,b\nu2,,\n,,\nu3,c,",
        'u1,"a,b"\nu2\n\nu3,c\n',
    ],
)
def test_a_line_of_ids_is_a_user_and_items(tmp_path, take, stored, content):
    path = tmp_path / "train.txt"
    path.write_text(content, newline="")
    report = take(path, layout=Layout.LISTS)
    assert (report.accepted, report.refused) == (3, 1)
    assert (report.first_refused[0].line, report.first_refused[0].reason) == (2, "is empty")
    assert stored("user_id", "item_id") == [("u1", "a"), ("u1", "b"), ("u3", "c")]
    assert take(path, layout=Layout.LISTS).duplicates == 3


def test_lists_may_have_a_delimiter_that_others_are_part_of_ids_with(tmp_path, take, stored):
    path = tmp_path / "train.txt"
    path.write_text("u 1::a,b::c d\n")
    assert take(path, layout=Layout.LISTS, delimiter="::").accepted == 2
    assert stored("user_id", "item_id") == [("u 1", "a,b"), ("u 1", "c d")]
    path.write_text('[{"u": 1}]')
    with tabular.open_source(path, Form(layout=Layout.LISTS)) as source:
        assert source.columns == ["user_id", "item_id"]
    pd.DataFrame({"u": [1]}).to_parquet(path)
    with pytest.raises(DataError, match=r"Parquet.*lists of ids are text"):
        take(path, layout=Layout.LISTS)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=9))
def test_any_lists_are_read_back(tmp_path_factory, lists):
    path = tmp_path_factory.mktemp("lists") / "a"
    path.write_text("\n".join(" ".join(map(str, ids)) for ids in lists))
    with tabular.open_source(path, Form(layout=Layout.LISTS)) as source:
        chunks = list(source.chunks(["user_id", "item_id"], at_most=2))
    rows = [
        [user, *items]
        for chunk in chunks
        for user, items in zip(*(each.to_pylist() for each in chunk.columns.values()), strict=True)
    ]
    assert [[int(each) for each in row] for row in rows] == lists
    assert [line for chunk in chunks for line in chunk.lines] == [*range(1, len(lists) + 1)]


def test_the_command_takes_layouts_and_sheets(tmp_path, monkeypatch, settings):
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RECKEEPER_SERVER_URL", "http://127.0.0.1:1")  # nobody listens there

    def run(path, *options):
        done = CliRunner().invoke(app, ["import", str(path), "--json", *options])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1])["accepted"]

    lists, matrix, book = tmp_path / "l", tmp_path / "m", tmp_path / "b.xlsx"
    lists.write_text("u a b\nv a\n")
    csv(matrix)
    with pd.ExcelWriter(book) as writer:
        pd.DataFrame({"x": [1]}).to_excel(writer, sheet_name="first")
        pd.DataFrame({"user": [1], "sku": [2]}).to_excel(writer, sheet_name="second", index=False)
    assert run(lists, "--lists") == 3
    assert run(matrix, "--wide", "--null", "False") == 4
    assert run(book, "--sheet", "second") == 1
    refused = CliRunner().invoke(app, ["import", str(lists), "--lists", "--wide"])
    assert refused.exit_code == 2


# --- Forms of other programs ----------------------------------------------------------------------


def test_names_with_types_as_recbole_has_them(tmp_path, take, stored):
    path = tmp_path / "ml-100k.inter"
    frame = pd.DataFrame(
        {
            "user_id:token": [196, 186],
            "item_id:token": [242, 302],
            "timestamp:float": [881250949, 891717742.0],
        }
    )
    frame.to_csv(path, sep="\t", index=False)
    assert take(path).accepted == 2
    assert stored("user_id", "item_id", "occurred_at")[0] == ("186", "302", 891_717_742_000_000)
    path = tmp_path / "lists.inter"
    path.write_text("user_id:token\titem_id_list:token_seq\n7\t1 2 3\n")
    assert take(path, item_column="item_id_list").accepted == 3


FEEDBACK = [
    {"FeedbackType": "click", "UserId": "u", "ItemId": "a", "Timestamp": "2024-01-03T15:28:18Z"},
    {
        "FeedbackType": "watchlist_add",
        "UserId": "v",
        "ItemId": "b",
        "Timestamp": "2024-01-04T00:00:00Z",
    },
]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_feedback_as_gorse_writes_it(tmp_path, take, stored, kind):
    path = tmp_path / "feedback"
    if kind == "json":
        path.write_text(json.dumps(FEEDBACK))
    else:
        frame = pd.DataFrame(FEEDBACK)
        frame.columns = ["feedback_type", "user_id", "item_id", "time_stamp"]
        frame.to_csv(path, index=False)
    assert take(path).accepted == 2
    assert stored("interaction_type", "user_id", "item_id", "occurred_at") == [
        ("click", "u", "a", 1_704_295_698_000_000),
        ("watchlist_add", "v", "b", 1_704_326_400_000_000),
    ]
