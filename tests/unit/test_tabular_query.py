"""Imports out of other databases, on real SQLite files."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from reckeeper import audit, storage
from reckeeper.config import Settings
from reckeeper.errors import DataError, StorageError
from reckeeper.events import files
from reckeeper.events.files import FileFormat, Query
from reckeeper.tabular import query as queries

ROOT = Path(__file__).parents[2]
MOMENT = datetime(2020, 5, 17, 12, 30, 15, 250_000, tzinfo=UTC)
MICROS = 1_589_718_615_250_000


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Give the database of a shop, in a file that keeps no write-ahead log."""
    with closing(sqlite3.connect(tmp_path / "my shop%.db", isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/my shop%25.db"


@pytest.fixture
def ask(
    database: storage.Database, settings: Settings, url: str
) -> Callable[..., files.ImportReport]:
    """Return a function that imports what a query on the shop gives."""

    def ask(text: str, format: FileFormat | None = None, **more: Any) -> files.ImportReport:
        return files.import_file(
            database,
            Query(more.pop("url", url), text),
            format=format or FileFormat(),
            settings=settings,
            actor="test",
            **more,
        )

    return ask


def fill(connection: sqlite3.Connection, table: str, n_rows: int, columns: str) -> None:
    """Make a table of so many rows, of expressions in which n counts from 0."""
    connection.execute(
        f"CREATE TABLE {table} AS WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL "
        f"SELECT n + 1 FROM numbers WHERE n < {n_rows} - 1) SELECT {columns} FROM numbers"
    )


def values(*rows: str) -> str:
    """Return a query for rows of user, item and time."""
    return " UNION ALL ".join(
        f"SELECT {user} AS user_id, {item} AS item_id, {at} AS occurred_at"
        for user, item, at in (row.split(",") for row in rows)
    )


def stored(database: storage.Database, *names: str) -> list[Any]:
    with database.read() as connection:
        rows = connection.exec_driver_sql(
            f"SELECT {', '.join(names)} FROM user_interactions ORDER BY id"
        )
        return [row[0] if len(names) == 1 else tuple(row) for row in rows]


# --- What is read -------------------------------------------------------------------------------


def test_a_query_is_imported_as_a_file_is(shop, url, ask, database, settings, tmp_path):
    shop.execute("CREATE TABLE orders (customer INTEGER, sku TEXT, at TEXT, n INTEGER, stars REAL)")
    shop.executemany(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?)",
        [
            (7, "a b", "2020-05-17 12:30:15.25", 2, 5.0),
            (8, "", "2020-05-17", 1, 5.0),
            (9, "c", "2020-05-17T14:30:15.25+02:00", None, 1.0),
        ],
    )
    steps: list[files.Progress] = []
    began: list[int] = []
    report = ask(
        "SELECT customer, sku, at, n AS weight, stars, 'click' AS interaction_type FROM orders;",
        FileFormat(user_column="customer", item_column="sku", time_column="at", min_rating=2,
                   rating_column="stars"),
        on_progress=steps.append,
        before_first_row=lambda: began.append(1),
    )  # fmt: skip
    assert (report.accepted, report.without_taste, report.refused) == (2, 1, 1)
    assert stored(database, "user_id", "item_id", "interaction_type", "weight", "occurred_at") == [
        ("7", "a b", "click", 2.0, MICROS),
        ("9", "c", "click", 0.0, MICROS),
    ]
    (line,) = report.first_refused
    assert (line.file, line.line, line.column, line.reason) == (url, 2, "sku", "is empty")
    assert report.refused_report == settings.data_dir / "imports" / "1-refused.csv"
    assert steps == [files.Progress(3, 0, 0)]
    assert began == [1]
    with database.read() as connection:
        (row,) = storage.imports.all_imports(connection)
        (entry,) = audit.entries(database, limit=1)
    assert entry.details["source"] == row.source
    assert row.source.startswith(f"{url} (SELECT customer, sku, at")
    assert row.status == "complete"
    assert files.undo(database, report.import_id, actor="test").interactions == 2
    assert stored(database, "id") == []


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_the_file_is_read_alone_and_as_it_was_when_the_query_began(
    shop, ask, database, tmp_path, journal
):
    shop.execute(f"PRAGMA journal_mode={journal}")
    fill(shop, "clicks", 200_000, "n AS user_id, 'i' AS item_id")
    refused: list[str] = []

    def write(_progress: files.Progress) -> None:
        shop.execute("PRAGMA busy_timeout=0")
        try:
            shop.execute("INSERT INTO clicks VALUES ('later', 'i')")
        except sqlite3.OperationalError as exc:
            refused.append(str(exc))

    assert ask("SELECT * FROM clicks", on_progress=write).accepted == 200_000
    # Without a log SQLite lets nobody write while somebody reads; with one it does.
    assert bool(refused) == (journal == "delete")
    assert "later" not in stored(database, "user_id")
    shop.execute("INSERT INTO clicks VALUES ('after', 'i')")  # nothing is held any more


def test_the_database_that_is_written_to_can_be_asked(database, settings, ask):
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE legacy (user_id, item_id)")
        connection.exec_driver_sql(
            "INSERT INTO legacy WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
            "WHERE i < 200000) SELECT i, 'i' FROM n"
        )
    own = f"sqlite:///{settings.data_dir}/reckeeper.sqlite3"
    assert ask("SELECT * FROM legacy ORDER BY user_id", url=own).accepted == 200_000
    assert ask("SELECT * FROM legacy ORDER BY user_id", url=own).duplicates == 200_000


def test_columns_are_found_and_missed_as_in_a_file(shop, ask):
    with pytest.raises(DataError, match=r"no column 'user_id'.*'who', 'item_id'.*--user-column"):
        ask("SELECT 1 AS who, 2 AS item_id")
    with pytest.raises(DataError, match="2 columns named 'item_id'"):
        ask("SELECT 1 AS user_id, 2 AS item_id, 3 AS item_id")
    with pytest.raises(DataError, match="no rows: there is nothing to import"):
        ask("SELECT 1 AS user_id, 2 AS item_id WHERE 1 = 0")


def test_a_catalogue_may_come_from_a_file(shop, ask, tmp_path):
    catalogue = tmp_path / "items.csv"
    catalogue.write_text("item_id,title\ni,Film\n")
    assert ask("SELECT 1 AS user_id, 'i' AS item_id", catalogue=catalogue).items == 1


# --- What databases give ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, None], pa.array([1, None], pa.int64())),
        ([2**64, 3], pa.array(["18446744073709551616", "3"])),
        ([1.5, None], pa.array([1.5, None])),
        (["é", None], pa.array(["é", None])),
        ([b"\xff", None], pa.array([b"\xff", None])),
        ([bytearray(b"x"), memoryview(b"y")], pa.array(["x", "y"])),
        ([None, None], pa.nulls(2)),
        ([True, False], pa.array([True, False])),
        ([Decimal("12.00"), Decimal("1E+20")], pa.array(["12", "100000000000000000000"])),
        ([Decimal("-0.50"), Decimal("7")], pa.array(["-0.5", "7"])),
        ([UUID(int=1)], pa.array(["00000000-0000-0000-0000-000000000001"])),
        ([date(2020, 5, 17), None], pa.array([date(2020, 5, 17), None])),
        ([1, "a", 2.0, 2.5], pa.array(["1", "a", "2", "2.5"])),
        ([1, date(2020, 5, 17)], pa.array(["1", "2020-05-17"])),
    ],
)
def test_values_of_every_type(given, expected):
    found, reasons = queries._array("x", given, first=1)
    assert (found, reasons) == (expected, {})


@pytest.mark.parametrize(
    "moment",
    [
        MOMENT,
        MOMENT.replace(tzinfo=None),
        MOMENT.astimezone(datetime.now().astimezone().tzinfo),
        MOMENT.replace(tzinfo=None, hour=14).replace(tzinfo=UTC) - timedelta(hours=2),
    ],
)
def test_times_are_utc_where_they_say_nothing_else(moment):
    found, _ = queries._array("x", [moment, None], first=1)
    assert found.cast(pa.int64()).to_pylist() == [MICROS, None]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Decimal("NaN"), "is not a finite number"),
        (Decimal("-Infinity"), "is not a finite number"),
        ("a\udcff", "is not text in UTF-8"),
    ],
)
def test_a_value_that_cannot_be_used_costs_its_row_alone(given, reason):
    found, reasons = queries._array("x", [given, type(given)("1")], first=1)
    assert (found.to_pylist(), reasons) == ([None, "1"], {0: reason})


@pytest.mark.parametrize("given", [[1], {"a": 1}, timedelta(1), object()])
def test_columns_of_other_types_are_refused_with_what_to_do(given):
    kind = type(given).__name__
    with pytest.raises(DataError, match=rf"'x' has values of the type {kind}, .* row 12: .*CAST"):
        queries._array("x", [None, 1, given], first=10)


def test_bad_values_of_a_database_are_reported_by_row(shop, ask, database):
    report = ask(
        "SELECT CAST(x'ff' AS TEXT) AS user_id, 'i' AS item_id, 1.0 AS weight"
        " UNION ALL SELECT 'good', 'i', 2 UNION ALL SELECT x'6162', 'i', '3'"
        " UNION ALL SELECT 'w', 'i', -1 UNION ALL SELECT NULL, 'i', 1"
        " UNION ALL SELECT 5, 'i', 9e999"
    )
    assert stored(database, "user_id", "weight") == [("ab", 3.0), ("good", 2.0)]
    assert [(line.line, line.column, line.reason) for line in report.first_refused] == [
        (1, "user_id", "is not text in UTF-8"),
        (4, "weight", "must be 0 or greater"),
        (5, "user_id", "is empty"),
        (6, "weight", "is not a finite number"),
    ]
    assert report.first_refused[0].value == "\\udcff"


# --- Repeats ------------------------------------------------------------------------------------


def test_a_column_of_event_ids_names_the_rows(shop, ask, database):
    first = ask("SELECT 1 AS user_id, 2 AS item_id, 'e1' AS event_id UNION ALL SELECT 1, 2, 'e2'")
    assert (first.accepted, stored(database, "event_id")) == (2, ["e1", "e2"])
    again = ask(
        "SELECT 7 AS event_id, 1 AS user_id, 2 AS item_id UNION ALL SELECT 'e2', 3, 4"
        " UNION ALL SELECT NULL, 1, 2 UNION ALL SELECT 'a' || char(9), 1, 2"
    )
    assert (again.accepted, again.duplicates, again.refused) == (1, 1, 2)
    assert stored(database, "event_id") == ["e1", "e2", "7"]
    assert [(line.column, line.reason) for line in again.first_refused] == [
        ("event_id", "is empty"),
        ("event_id", "must have no control characters"),
    ]


def test_rows_with_a_time_are_known_by_their_values(shop, ask, database):
    rows = ["1,2,1000000000", "1,2,1000001000", "'1',3,1000000000", "1,2,1000000000"]
    first = ask(values(*rows))
    assert (first.accepted, first.duplicates) == (3, 1)
    # In another order, by another query, in other types: the same events.
    other = ask(values("2,2,1000000000", "'1','2','2001-09-09T01:46:40Z'", *rows[:3]))
    assert (other.accepted, other.duplicates) == (1, 4)
    assert ask(f"SELECT *, 2 AS weight FROM ({values(rows[0])})").accepted == 1
    assert ask(values(rows[0]), FileFormat(interaction_type="watchlist_add")).accepted == 1
    assert ask(values("1,2,NULL", "1,2,NULL"), FileFormat(default_time="now")).accepted == 1
    assert ask(values("1,2,NULL"), FileFormat(default_time="now")).duplicates == 1


def test_rows_of_another_database_are_others(shop, ask, tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE x (y)")
    for name, n_new in (("other.db", 1), ("./other.db", 0)):
        report = ask(values("1,2,1000000000"), url=f"sqlite:///{tmp_path}/{name}")
        assert report.accepted == n_new
    assert ask(values("1,2,1000000000")).accepted == 1


def test_rows_without_a_time_are_known_by_their_number_in_this_query(shop, ask, database):
    text = "SELECT 1 AS user_id, 2 AS item_id UNION ALL SELECT 1, 2"
    assert ask(text).accepted == 2
    assert ask(f" {text} ; ").duplicates == 2
    assert ask(f"{text} UNION ALL SELECT 1, 2").accepted == 3
    mark = Query(f"sqlite:///{database._engine.url.database}", "x").fingerprint
    assert len(mark) == 64
    assert all(event.startswith("import-") for event in stored(database, "event_id"))


def test_a_crash_leaves_what_a_repeat_takes_up(shop, url, ask, database, settings):
    fill(shop, "clicks", 120_000, "n AS user_id, 'i' AS item_id, 1000000000 AS occurred_at")
    script = (
        "import os, sys\n"
        "from reckeeper import storage\n"
        "from reckeeper.config import Settings\n"
        "from reckeeper.events import files\n"
        "settings = Settings.from_env()\n"
        "files.import_file(storage.open_database(settings), files.Query(*sys.argv[1:]),\n"
        "    format=files.FileFormat(), settings=settings, actor='test',\n"
        "    on_progress=lambda progress: os.kill(os.getpid(), 9))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, url, "SELECT * FROM clicks"],
        env={**settings.to_env(), "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert killed.returncode == -9
    n_before = len(stored(database, "id"))
    assert 0 < n_before < 120_000
    report = ask("SELECT * FROM clicks ORDER BY user_id DESC")
    assert (report.accepted, report.duplicates) == (120_000 - n_before, n_before)


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("shop.db", "is not a database URL. Write it as postgresql"),
        ("postgresql://me:se/cret@host:x/name", "'postgresql://me:\\*\\*\\*@host:x/name' is not"),
        ("postgres://me:secret@host/name", "SQLAlchemy does not know 'postgres'"),
        ("nodb+driver://me:secret@host/name?password=secret", "does not know 'nodb\\+driver'"),
        ("mysql://me:secret@host/name", "python -m pip install mysqlclient"),
        ("mysql+pymysql://me:secret@host/name", "python -m pip install pymysql"),
        ("postgresql+psycopg_async://me:secret@host/name", "asynchronous"),
        ("sqlite://", "names a file"),
        ("sqlite:///:memory:", "names a file"),
        ("sqlite:////nowhere/shop.db", "no SQLite file /nowhere/shop.db"),
    ],
)
def test_urls_that_cannot_be_used_are_refused_in_words(url, said):
    with pytest.raises(DataError, match=said) as refused:
        Query(url, "SELECT 1")
    assert "cret" not in refused.value.message


def test_an_empty_query_is_refused(shop, url):
    with pytest.raises(DataError, match="The query is empty"):
        Query(url, " ; ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT nope FROM clicks", "no such column: nope"),
        ("SELEC 1", "syntax error"),
        ("INSERT INTO clicks VALUES (1, 2)", "readonly database"),
        ("INSERT INTO clicks VALUES (1, 2) RETURNING user_id, item_id", "readonly database"),
        ("DROP TABLE clicks", "readonly database"),
        ("SELECT 1; DELETE FROM clicks", "one statement at a time"),
        ("BEGIN", "gives no rows"),
    ],
)
def test_queries_that_fail_or_write_are_refused_and_change_nothing(shop, ask, database, text, said):
    shop.execute("CREATE TABLE clicks (user_id, item_id)")
    shop.execute("INSERT INTO clicks VALUES (1, 2)")
    with pytest.raises(DataError, match=said) as refused:
        ask(text)
    assert "SELECT" in refused.value.message or "reads and does not write" in refused.value.message
    assert shop.execute("SELECT count(*) FROM clicks").fetchone() == (1,)
    with database.read() as connection:
        assert storage.imports.all_imports(connection) == []


def test_an_error_in_the_middle_names_the_import(shop, ask, database):
    fill(shop, "clicks", 100_000, "n")
    text = "SELECT n AS user_id, json(iif(n < 90000, '1', '{')) AS item_id FROM clicks"
    with pytest.raises(DataError, match=r"beyond row 85000: malformed JSON.* import 1") as refused:
        ask(text)
    assert refused.value.details == {"import_id": 1}
    n_stored = len(stored(database, "id"))
    assert 0 < n_stored < 90_000
    assert files.undo(database, 1, actor="test").interactions == n_stored


def test_what_is_no_database_is_said(tmp_path, ask):
    (tmp_path / "text.db").write_text("user_id,item_id\n" * 1000)
    with pytest.raises(DataError, match="file is not a database"):
        ask("SELECT * FROM clicks", url=f"sqlite:///{tmp_path}/text.db")


def test_a_locked_file_is_an_error_of_the_moment(shop, ask, monkeypatch):
    monkeypatch.setattr(queries, "BUSY_TIMEOUT_SECONDS", 0)
    shop.execute("CREATE TABLE clicks (user_id, item_id)")
    shop.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="database is locked"):
        ask("SELECT * FROM clicks")


# --- Secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:se%40cret@h:1/d", "postgresql+psycopg://me:***@h:1/d"),
        (
            "postgresql+psycopg://me@h/d?password=secret&sslmode=require&sslpassword=secret",
            "postgresql+psycopg://me@h/d?password=hidden&sslmode=require&sslpassword=hidden",
        ),
    ],
)
def test_passwords_are_shown_nowhere(url, shown):
    query = Query(url, "SELECT 1")
    assert query.masked_url == shown
    assert query.name == f"{shown} (SELECT 1)"
    assert repr(query) == f"Query({shown!r}, 'SELECT 1')"
    assert "cret" not in query.database_id


def test_a_password_in_an_odbc_text_is_hidden():
    given = queries.sa.make_url(
        "mssql+pyodbc:///?odbc_connect=SERVER%3Dh%3BUID%3Dme%3BPWD%3Dsecret"
    )
    shown = queries._without_secrets(given).query["odbc_connect"]
    assert shown == ("SERVER=h;UID=hidden;PWD=hidden",)


def test_a_database_is_the_same_whoever_asks_and_by_whatever_driver():
    first, second, other = (
        Query(url, "SELECT 1")
        for url in (
            "postgresql://me:secret@h/d",
            "postgresql+psycopg://you:other@h/d",
            "postgresql://me:secret@h/e",
        )
    )
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert first.database_id == second.database_id != other.database_id


def test_a_reason_that_repeats_the_password_is_masked():
    query = Query("postgresql://me:se%40cret@h/d", "SELECT 1")
    assert query._reason(ValueError("no user me:se@cret\n  there.")) == "no user me:*** there"


def test_a_long_query_is_cut_where_it_is_shown(url, shop):
    shop.execute("CREATE TABLE x (y)")
    name = Query(url, "SELECT\n  1" + " + 1" * 1000).name
    assert "(SELECT 1 + 1" in name
    assert len(name) < len(url) + 310


# --- Memory -------------------------------------------------------------------------------------


def test_memory_is_bounded_by_the_batch(shop, url, settings, migrated, database):
    """Wide rows, of which two narrow columns are needed: 400 MB in all."""
    shop.execute("CREATE TABLE x (y)")
    script = (
        "import sys\n"
        "from reckeeper import storage, telemetry\n"
        "from reckeeper.config import Settings\n"
        "from reckeeper.events import files\n"
        "settings = Settings.from_env()\n"
        "text = ('WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) '\n"
        "    'SELECT i AS user_id, 1 AS item_id, 1000000000 AS occurred_at, '\n"
        "    'printf(\\'%04000d\\', i) AS ballast FROM n')\n"
        "database = storage.open_database(settings)\n"
        "for count in (1_000, 100_000):\n"
        "    files.import_file(database, files.Query(sys.argv[1], text.replace('?', str(count))),\n"
        "        format=files.FileFormat(), settings=settings, actor='test')\n"
        "    print(telemetry.peak_memory_bytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, url],
        env={**settings.to_env(), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    small, large = (int(line) for line in done.stdout.splitlines() if line.isdigit())
    assert large - small < 200e6, f"{small} and {large} bytes for 400 MB of rows"
