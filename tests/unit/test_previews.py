"""Which columns a table's are, and what its first rows say before they are imported."""

import pytest

from reckeeper.errors import DataError
from reckeeper.events.formats import FileFormat
from reckeeper.events.previews import preview

TYPES = {"click": 1.0}


def seen(tmp_path, content, **given):
    path = tmp_path / "a.csv"
    path.write_text(content)
    return preview(path, FileFormat(**given), types=TYPES, n=5)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("user_id,item_id,occurred_at", ("user_id", "item_id", "occurred_at")),
        ("userId,movieId,timestamp", ("userId", "movieId", "timestamp")),
        ("visitorid,StockCode,ts", ("visitorid", "StockCode", "ts")),
        ("Customer ID,sku,InvoiceDate", ("Customer ID", "sku", "InvoiceDate")),
        ("reviewerID,asin,unixReviewTime", ("reviewerID", "asin", "unixReviewTime")),
        ("Kunden-Nr,Artikel-Nr,Datum", ("Kunden-Nr", "Artikel-Nr", "Datum")),
        ("session_id,item_id,time", ("session_id", "item_id", "time")),
        # A product's own name comes first, and what ends in an id before what is only a word.
        ("user_id,uid,ts,item_id,occurred_at", ("user_id", "item_id", "occurred_at")),
        ("customer,customer_id,product,product_id,ts,date", ("customer_id", "product_id", "ts")),
    ],
)
def test_columns_are_known_by_the_names_that_people_use(tmp_path, header, expected):
    found = seen(tmp_path, f"{header}\n{','.join(['1700000000'] * (header.count(',') + 1))}\n")
    columns = {part.part: part.column for part in found.parts}
    assert columns == dict(zip(("user_id", "item_id", "occurred_at"), expected, strict=True))
    assert found.choices == []
    assert all(part.is_guess == (part.part != part.column) for part in found.parts)


def test_what_could_be_each_of_two_columns_has_to_be_said(tmp_path):
    content = "visitor_id,customer_id,sku,date,time\nv,c,i,2024-01-01,10:00\n"
    found = seen(tmp_path, content)
    assert [(one.part, one.columns) for one in found.choices] == [
        ("user_id", ["visitor_id", "customer_id"]),
        ("occurred_at", ["date", "time"]),
    ]
    assert found.rows == []
    assert found.cells == [["v", "c", "i", "2024-01-01", "10:00"]]
    said = seen(tmp_path, content, user_column="customer_id", time_column="")
    assert said.choices == []
    assert [(row.line, row.user_id, row.item_id, row.occurred_at) for row in said.rows] == [
        (2, "c", "i", None)
    ]
    nothing = seen(tmp_path, "a,b\n1,2\n")
    assert [(one.part, one.is_missing) for one in nothing.choices] == [
        ("user_id", True),
        ("item_id", True),
    ]
    with pytest.raises(DataError, match="no column 'c'"):
        seen(tmp_path, "a,b\n1,2\n", user_column="c")


def test_a_rating_is_used_only_if_it_is_asked_for(tmp_path):
    content = "userId,asin,overall\n1,a,5\n1,b,2\n"
    found = seen(tmp_path, content)
    assert "rating" not in {part.part for part in found.parts}
    assert "'overall' is not used: with --min-rating" in found.notes[0]
    assert [row.weight for row in seen(tmp_path, content, min_rating=4).rows] == [1.0, 0.0]


def test_the_first_rows_are_shown_as_they_would_be_stored(tmp_path):
    found = seen(
        tmp_path,
        "user_id,item_id,interaction_type,occurred_at\n"
        + ("u1,a,click,2024-01-01\nu2,,click,2024-01-01\nu0,a,view,2024-01-01\n")
        + "u,i,click,2024-01-01\n" * 9,
    )
    assert [(row.line, row.user_id) for row in found.rows] == [(2, "u1"), (5, "u"), (6, "u")]
    assert [(line.line, line.column) for line in found.refused] == [
        (3, "item_id"),
        (4, "interaction_type"),
    ]
    assert len(found.cells) == 5


@pytest.mark.parametrize("rows", ["", "u0,i0,1700000000\n"])
def test_what_is_broken_behind_the_last_sound_row_is_told(tmp_path, rows):
    found = seen(
        tmp_path, f'user_id,item_id,occurred_at\n{rows}u1,"i1,1700000000\nu2,i2,1700000000\n'
    )
    assert len(found.rows) == rows.count("\n")
    (refused,) = found.refused
    assert refused.line == 2 + rows.count("\n")
    assert "a quotation mark is not closed" in refused.reason
