"""What is exported is what an import reads back; and the list of imports."""

import contextlib
import json
import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.conftest import settings_in
from typer.testing import CliRunner

from reckeeper import storage
from reckeeper.cli.commands import app
from reckeeper.errors import DataError
from reckeeper.events import files
from reckeeper.events.export import Chosen, export_interactions, export_items
from reckeeper.events.formats import NULL_WORDS
from reckeeper.interactions import Interaction
from reckeeper.storage import Item

YEAR_1990, YEAR_2026 = 631_152_000_000_000, 1_767_225_600_000_000
ENDINGS = [".csv", ".csv.gz", ".parquet"]
# A column of ids all of which are such words, or numbers with .0, means something else.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029"),
    min_size=1,
    max_size=12,
).map(lambda text: f"x{text}")
ROWS = st.lists(
    st.builds(
        Interaction,
        TEXTS,
        TEXTS,
        TEXTS,
        st.sampled_from(["click", "watchlist_add", "watchlist_remove", "dismiss"]),
        st.floats(0, 1e6, allow_subnormal=False),
        st.integers(YEAR_1990, YEAR_2026),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row.event_id,
)
JSON = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
    max_leaves=6,
)
MOMENTS = st.none() | st.integers(0, YEAR_2026)
ITEMS = st.lists(
    st.builds(
        Item,
        TEXTS,
        st.none() | TEXTS,
        st.dictionaries(TEXTS, JSON, max_size=3),
        st.lists(TEXTS, max_size=3, unique=True).map(tuple),
        st.booleans(),
        st.none(),
        MOMENTS,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda item: item.item_id,
)


@contextlib.contextmanager
def made(folder, migrated):
    """Give an empty database and its settings."""
    chosen = settings_in(folder)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(migrated, chosen.data_dir)
    with contextlib.closing(storage.open_database(chosen)) as database:
        yield database, chosen


def all_rows(database):
    with database.read() as connection:
        return sorted(row for part in storage.activity.rows(connection) for row in part)


def all_items(database):
    with database.read() as connection:
        found = [item for part in storage.items.changed_since(connection, 0) for item in part]
        return storage.items.get_many(connection, [item.item_id for item in found])


@given(ROWS, st.sampled_from(ENDINGS))
@settings(max_examples=10)
def test_interactions_come_back_equal(tmp_path, migrated, rows, ending):
    assert not {word for row in rows for word in row[:3]} & set(NULL_WORDS)
    path = tmp_path / f"out{ending}"
    with made(tmp_path / "from", migrated) as (database, _):
        with database.write() as connection:
            storage.interactions.append(connection, rows)
        assert export_interactions(database, path) == len(rows)
    with made(tmp_path / "to", migrated) as (database, chosen):
        done = files.import_file(
            database, path, format=files.FileFormat(), settings=chosen, actor="test"
        )
        assert (done.accepted, done.refused) == (len(rows), 0)
        assert all_rows(database) == sorted(rows)


@given(ITEMS, st.sampled_from(ENDINGS))
@settings(max_examples=10)
def test_the_catalogue_comes_back_equal(tmp_path, migrated, items, ending):
    path = tmp_path / f"out{ending}"
    with made(tmp_path / "from", migrated) as (database, _):
        with database.write() as connection:
            storage.items.put(connection, items)
        assert export_items(database, path) == len(items)
    with made(tmp_path / "to", migrated) as (database, chosen):
        done = files.import_items(
            database, path, format=files.CatalogueFormat(), settings=chosen, actor="test"
        )
        assert (done.items, done.refused) == (len(items), 0)
        assert all_items(database) == {item.item_id: item for item in items}


def test_what_is_written_can_be_chosen(tmp_path, database):
    rows = [
        Interaction(f"e{n}", f"u{n % 2}", "i", "dismiss" if n == 3 else "click", 1.0, YEAR_1990 + n)
        for n in range(6)
    ]
    with database.write() as connection:
        storage.interactions.append(connection, rows)
    seen = []
    path = tmp_path / "some.csv"
    chosen = Chosen(since=YEAR_1990 + 1, until=YEAR_1990 + 5, users=["u1"], types=["click"])
    assert export_interactions(database, path, chosen, on_progress=lambda *at: seen.append(at)) == 1
    assert seen == [(1, 0)]
    assert path.read_text().splitlines() == [
        '"event_id","user_id","item_id","interaction_type","weight","occurred_at"',
        '"e1","u1","i","click",1,"1990-01-01T00:00:00.000001Z"',
    ]
    for name, said in (("some.txt", "ends in .csv"), ("no/some.csv", "does not exist")):
        with pytest.raises(DataError, match=said):
            export_interactions(database, tmp_path / name)


def test_the_list_says_why_an_import_failed(database, settings, monkeypatch):
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    with database.write() as connection:
        for name in ("broken.csv", "killed.csv"):
            storage.imports.begin(connection, source=name, fingerprint=name, holder="x:1:1.00")
        storage.imports.fail(connection, 1, reason="It is damaged.")
        connection.exec_driver_sql("UPDATE imports SET updated_at = 5 WHERE import_id = 2")
    run = CliRunner().invoke
    said = " ".join(run(app, ["imports", "list"], env={"COLUMNS": "200"}).stdout.split())
    assert said.count("failed") == 4
    assert "Import 1 failed: It is damaged." in said
    assert "Import 2 failed: There has been no sign of life of it for" in said
    rows = json.loads(run(app, ["imports", "list", "--json"]).stdout)
    assert [(row["status"], row["import_id"]) for row in rows] == [("failed", 2), ("failed", 1)]


def test_the_command_writes_both(tmp_path, database, settings, monkeypatch):
    for name, value in settings.to_env().items():
        monkeypatch.setenv(name, value)
    with database.write() as connection:
        storage.interactions.append(connection, [Interaction("e", "u", "i", "click", 1.0, 5)])
        storage.items.put(connection, [Item("i", "Übersee", {"year": 1999}, ("a|b", "c"))])
    run = CliRunner().invoke
    path = tmp_path / "out.parquet"
    done = run(app, ["export", "--output", str(path), "--since", "1970-01-01", "--json"])
    assert json.loads(done.stdout) == {"output": str(path), "rows": 1}
    path = tmp_path / "items.csv"
    done = run(app, ["export", "catalogue", "--output", str(path)])
    assert "Wrote 1 item to" in done.stdout
    assert '"Übersee"' in path.read_text(encoding="utf-8")
    assert '"[""a|b"", ""c""]"' in path.read_text(encoding="utf-8")
    for options, said in (
        (["catalogue", "--user", "u"], "options that choose"),
        (["--until", "soon"], "--until 'soon' is no time"),
    ):
        failed = run(app, ["export", *options, "--output", str(path)])
        assert said in str(failed.exception)
