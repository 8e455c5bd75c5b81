"""What the values of a file mean, and by what its rows are known again."""

import collections
import contextlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reckeeper import policy as policies
from reckeeper import storage
from reckeeper.errors import DataError
from reckeeper.events import files, identities
from reckeeper.events.files import MOVIELENS, FileFormat
from reckeeper.events.identities import Occurrences
from reckeeper.events.numbers import Decimal
from reckeeper.events.readings import decide
from reckeeper.events.times import Order
from reckeeper.tabular import Chunk

CASES = Path(__file__).parents[3] / "shared" / "cases"


@pytest.fixture
def take(tmp_path, database, settings):
    """Import a text, or one of the cases; give the report."""

    def take(content, *, weights=None, **given):
        path = CASES / content if isinstance(content, str) and "\n" not in content else None
        if path is None:
            path = tmp_path / "a.csv"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        elif not path.exists():
            pytest.skip(f"The cases are not in {CASES}")
        return files.import_file(
            database,
            path,
            format=FileFormat(**given),
            settings=settings,
            actor="test",
            weights=weights,
        )

    return take


@pytest.fixture
def stored(database):
    def stored(*names):
        query = f"SELECT {', '.join(names)} FROM user_interactions ORDER BY {', '.join(names)}"
        with database.read() as connection:
            rows = [tuple(row) for row in connection.exec_driver_sql(query)]
        return [row[0] for row in rows] if len(names) == 1 else rows

    return stored


def micros(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


# --- Times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20130528T101112Z", "2013-05-28T10:11:12"),
        ("20130528T1011+0200", "2013-05-28T08:11:00"),
        ("20130528101112", "2013-05-28T10:11:12"),
        ("Tue, 28 May 2013 10:11:12 +0200", "2013-05-28T08:11:12"),
        ("28 May 2013 10:11:12 GMT", "2013-05-28T10:11:12"),
        ("28/May/2013:10:11:12 +0000", "2013-05-28T10:11:12"),
        ("Tue May 28 10:11:12 +0000 2013", "2013-05-28T10:11:12"),
        ("May 28, 2013 1:11 PM", "2013-05-28T13:11:00"),
        ("2013/5/28 9:05", "2013-05-28T09:05:00"),
        ("28/05/2013", "2013-05-28T00:00:00"),
        ("05/28/2013 12:30 AM", "2013-05-28T00:30:00"),
        ("28.05.2013 14:03", "2013-05-28T14:03:00"),
        ("01.02.2013", "2013-02-01T00:00:00"),  # between dots the day comes first
        ("01/02/2013", None),
        ("30/02/2013", None),
        ("28/05/13", None),
        ("20130532T101112Z", None),
        ("28 Foo 2013", None),
    ],
)
def test_times_that_people_write(take, stored, text, moment):
    report = take(f'user_id,item_id,ts\nu,i,"{text}"\nv,i,2020-01-01\n')
    expected = [] if moment is None else [("u", micros(moment))]
    assert stored("user_id", "occurred_at") == [*expected, ("v", micros("2020-01-01"))]
    assert report.refused == (moment is None)


def test_the_order_of_day_and_month_is_that_of_the_column(take, stored):
    report = take("us_date.csv", time_format="%m/%d/%Y %H:%M")
    assert (report.accepted, report.refused) == (2, 0)
    assert stored("occurred_at")[0] == micros("2010-12-01T08:26:00")
    refused = take("us_date.csv").first_refused[0]
    assert "--time-format '%d/%m/%Y %H:%M' or --time-format '%m/%d/%Y %H:%M'" in refused.reason
    found = take(
        "user_id,item_id,ts\nu,a,01/02/2013\n" + "u,b,12/13/2013\n" * 21 + "u,c,14/01/2013\n"
    )
    assert micros("2013-01-02") in stored("occurred_at")
    assert [line.reason for line in found.first_refused] == [
        "is no date with the month first, as those of the first rows are"
    ]
    assert found.notes == ["ts: dates such as 01/02/2013 are read with the month first."]


def chunk(**columns):
    n = len(next(iter(columns.values())))
    return Chunk({name: pa.array(of) for name, of in columns.items()}, np.arange(n) + 2, [])


def decided(format, *chunks):
    columns = {name: name for name in chunks[0].columns}
    return decide(chunks[0], columns, format, again=lambda _: iter(chunks))


def test_the_whole_file_is_asked_where_the_first_rows_say_nothing():
    parts = [chunk(occurred_at=["01/02/2013"] * 3), chunk(occurred_at=["31/01/2013"])]
    assert decided(FileFormat(), *parts).times.order is Order.DAY
    assert decided(FileFormat(), parts[0]).times.order is None
    parts = [chunk(weight=["1,500", None]), chunk(weight=["2", "2.000,5"])]
    assert decided(FileFormat(), *parts).decimals == {"weight": Decimal.COMMA}
    assert decided(FileFormat(), parts[0]).decimals == {"weight": Decimal.OPEN}
    parts = [chunk(user_id=["1.0", "", "NULL"]), chunk(user_id=["13085.0"])]
    assert decided(FileFormat(), *parts).whole == {"user_id"}
    # 13085.50 is text, and so is 13085.0 beside it.
    assert decided(FileFormat(), *parts, chunk(user_id=["13085.50"])).whole == frozenset()


def test_a_format_of_times_is_that_of_strptime(take, stored):
    rows = "user_id,item_id,ts\nu,a,3.4.99 7h\nu,b,2013-01-01\n"
    report = take(rows, time_format="%d.%m.%y %Hh")
    assert stored("occurred_at") == [micros("1999-04-03T07:00:00")]
    assert "form that --time-format says" in report.first_refused[0].reason
    for wrong, words in (("%q", "%q is not known"), ("%H:%M", "lacks the year"), ("%Y%Y", "twice")):
        with pytest.raises(DataError, match=words):
            take(rows, time_format=wrong)


def test_times_without_a_zone_are_those_of_the_clock_that_is_named(take, stored):
    report = take(
        "user_id,item_id,ts\n"
        "u,a,2024-07-01 12:00\nu,b,2024-01-01 12:00\nu,c,2024-07-01 12:00Z\nu,d,1719828000\n"
        "u,e,2024-10-27 02:30\nu,f,2024-03-31 02:30\nu,g,20240701\n",
        timezone="Europe/Berlin",
    )
    assert stored("item_id", "occurred_at") == [
        ("a", micros("2024-07-01T10:00:00")),
        ("b", micros("2024-01-01T11:00:00")),
        ("c", micros("2024-07-01T12:00:00")),
        ("d", 1719828000_000_000),
        ("e", micros("2024-10-27T00:30:00")),
        ("g", micros("2024-06-30T22:00:00")),
    ]
    assert "never showed" in report.first_refused[0].reason
    assert "1 times are of an hour that the clocks in Europe/Berlin show twice" in report.notes[0]
    with pytest.raises(DataError, match="'Europe/Berlln' is not known"):
        take("user_id,item_id,ts\nu,a,1\n", timezone="Europe/Berlln")


def test_columns_of_times_without_a_zone_are_on_the_clock_too(tmp_path, database, settings, stored):
    noon = datetime(2024, 7, 1, 12)
    path = tmp_path / "a.parquet"
    ids = pa.array(["a", "b"])
    pq.write_table(pa.table({"user_id": ids, "item_id": ids, "ts": pa.array([noon, None])}), path)
    format = FileFormat(timezone="Europe/Berlin")
    done = files.import_file(database, path, format=format, settings=settings, actor="test")
    assert (done.accepted, done.refused) == (1, 1)
    assert stored("occurred_at") == [micros("2024-07-01T10:00:00")]


# --- Numbers and ids ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "decimal", "expected"),
    [
        (["4,5"], None, [4.5]),
        (["1.234,5", "2"], None, [2.0, 1234.5]),
        (["1,234.5", "1,234"], None, [1234.0, 1234.5]),
        (["1.500", "2.5"], None, [1.5, 2.5]),
        (["1,234", "7"], None, [7.0]),
        (["1,234"], "comma", [1.234]),
        (["1,234"], "point", [1234.0]),
        (["1,5", "1.5"], None, [1.5]),
        (["1.500"], "comma", [1500.0]),
    ],
)
def test_commas_in_numbers_are_those_of_the_column(take, stored, values, decimal, expected):
    rows = "".join(f'u,{n},"{value}"\n' for n, value in enumerate(values))
    report = take(f"user_id,item_id,weight\n{rows}", decimal=decimal)
    assert stored("weight") == expected
    assert report.refused == len(values) - len(expected)
    assert all("--decimal comma or --decimal" in one.reason for one in report.first_refused)


def test_a_decimal_comma_is_one(take, stored):
    assert take("decimal_comma.csv").notes == ["weight: commas are read as decimal commas."]
    assert stored("weight") == [4.5]


def test_whole_numbers_that_are_written_as_fractions_are_whole(take, stored):
    take("int_ids.csv")
    take("float_ids.csv")
    assert set(stored("user_id")) == {"13085", "12682"}


def test_ids_of_a_catalogue_are_those_of_the_interactions(tmp_path, database, settings):
    path, catalogue = tmp_path / "a.csv", tmp_path / "items.csv"
    path.write_text("user_id,item_id\nu,13085\n")
    catalogue.write_text("item_id,title\n13085.0,Mug\n")
    format = files.CatalogueFormat()
    files.import_items(database, catalogue, format=format, settings=settings, actor="test")
    with database.read() as connection:
        assert [*storage.items.get_many(connection, ["13085"])] == ["13085"]


# --- By what a row is known again ---------------------------------------------------------------


@pytest.mark.parametrize("drift", [0, 400, -400], ids=["mixed", "by time", "latest first"])
def test_equal_rows_are_counted_exactly_in_bounded_memory(tmp_path, monkeypatch, drift):
    monkeypatch.setattr(identities, "_RUN_ROWS", 2_000)
    draw = np.random.default_rng(1)
    seen: collections.Counter[int] = collections.Counter()
    with contextlib.closing(Occurrences(1, folder=tmp_path)) as occurrences:
        for chunk in range(40):
            numbers = draw.integers(0, 3_000, 500) + 20_000 + drift * chunk
            counts = []
            for number in numbers.tolist():
                seen[number] += 1
                counts.append(seen[number])
            keys = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            rows = identities.RowKeys(numbers // 100, keys, keys)
            assert occurrences.count(rows).tolist() == counts


def test_equal_rows_at_the_end_of_a_chunk_and_the_beginning_of_the_next_are_two(tmp_path):
    with contextlib.closing(Occurrences(1, folder=tmp_path)) as occurrences:
        for times, counts in (([5, 7], [1, 1]), ([7, 9], [2, 1]), ([9, 9], [2, 3])):
            keys = np.array(times, np.uint64) << np.uint64(50)
            rows = identities.RowKeys(np.array(times), keys, keys)
            assert occurrences.count(rows).tolist() == counts


def test_keys_of_rows_do_not_depend_on_the_rows_beside_them():
    def keys(users):
        n = len(users)
        found = identities.keys_of(
            pa.array(users), pa.array(["i"] * n), pa.array(["click"]), np.ones(n),
            np.full(n, 7), np.zeros(n, bool),
        )  # fmt: skip
        return identities.names_of(found, np.ones(n, np.int64))

    users = ["u", "uu", "12345678", "123456789", "x" * 256, "ü"]
    assert keys(users) == [name for user in users for name in keys([user])]
    assert len(set(keys(users))) == len(users)


# --- Types and their weights --------------------------------------------------------------------


def test_weights_come_with_the_file(take, stored, database, settings):
    rows = "visitorid,itemid,event\n1,a,view\n1,b,cart\n2,a,wish\n3,a,wish\n"
    refused = take(rows, weights={"view": 1, "cart": 3.5})
    assert stored("interaction_type") == ["cart", "view"]
    assert refused.columns["interaction_type"] == "event"
    (group,) = refused.refusals
    assert (group.rows, [one.line for one in group.examples]) == (2, [4, 5])
    with database.read() as connection:
        policy = policies.current(connection, settings)
        trail = [entry.action for entry in storage.audit_log.latest(connection, limit=9)]
    assert policy.policy.weights["cart"] == 3.5
    assert policy.policy.weights["click"] == settings.interaction_weights["click"]
    assert trail[:2] == ["import", "policy"]
    with pytest.raises(DataError, match="Cart"):
        take(rows, weights={"Cart": 1})


def test_weights_of_types_that_no_row_has_are_refused(take, database, settings):
    rows = "user_id,item_id,Vorgang\n1,a,view\n"
    with pytest.raises(
        DataError, match=r"no column of .* is known to be the type: .*--type-column"
    ):
        take(rows, weights={"view": 2})
    with database.read() as connection:
        assert "view" not in policies.current(connection, settings).policy.weights
        assert storage.imports.all_imports(connection) == []
    assert take(rows, weights={"view": 2}, interaction_type="view").accepted == 1


@pytest.mark.parametrize(
    ("case", "given", "n_rows"),
    [
        ("bigquery_utc.csv", {}, 2),
        ("postgres_timestamptz.csv", {}, 2),
        (
            "headerless.tsv",
            {"user_column": "1", "item_column": "2", "time_column": "4", "has_header": False},
            3,
        ),
        ("bool.csv", {"rating_column": "is_read", "min_rating": 1}, 2),
        ("yyyymmdd.csv", {}, 2),
    ],
)
def test_the_cases_are_read(take, case, given, n_rows):
    report = take(case, **given)
    assert (report.accepted, report.refused) == (n_rows, 0)


def test_a_line_that_is_no_header_is_told(take):
    with pytest.raises(DataError, match="which it looks like"):
        take("headerless.tsv")
    with pytest.raises(DataError, match="empty line: a row, which says how many columns"):
        take("\n1,2\n", has_header=False, user_column="1", item_column="2")


def test_mostly_refused_and_low_ratings_are_said(take):
    report = take("mostly_refused.csv")
    assert report.accepted == 4
    assert "'rating' is not used" in report.notes[0]
    low = take("low_rating.csv", user_column=MOVIELENS.interactions.user_column, min_rating=4.0)
    assert low.columns["rating"] == "rating"


@pytest.mark.parametrize(
    ("name", "given", "is_said"),
    [
        ("delivered_on", {}, True),
        ("shippedAt", {}, True),
        ("LOAD_TS", {}, True),
        ("Lieferung Datum", {}, True),
        ("lifetime", {}, False),
        ("category", {}, False),
        ("LOAD_TS", {"time_column": ""}, False),
    ],
)
def test_a_column_that_could_be_the_time_and_is_not_used_is_said(take, name, given, is_said):
    report = take(f"user_id,item_id,{name}\nu,i,2024-05-01\n".encode(), **given)
    said = [note for note in report.notes if "No column is known to be the time" in note]
    assert len(said) == is_said
    assert not is_said or repr(name) in said[0]


def test_a_sign_before_a_whole_number_is_no_trap(take, stored):
    times = ["+5", "-5", "+", "+1700000000", " +1700000001 ", "+1700000002.5", "+1e400"]
    rows = "".join(f"u{n},i,{time}\n" for n, time in enumerate(times))
    assert take(f"user_id,item_id,occurred_at\n{rows}".encode()).refused == 4
    assert stored("occurred_at") == [
        1_700_000_000_000_000, 1_700_000_001_000_000, 1_700_000_002_500_000
    ]  # fmt: skip
