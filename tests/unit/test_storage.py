"""The schema and the SQLite file: what only they must do."""

import contextlib
import sqlite3
import uuid

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.unit.small_models import stored_version

from reckeeper import storage
from reckeeper.api import handlers
from reckeeper.errors import ConfigError, SchemaError, StorageError
from reckeeper.interactions import Interaction
from reckeeper.storage import engine, postgres
from reckeeper.storage.tables import metadata


def file_of(settings):
    return settings.data_dir / "reckeeper.sqlite3"


def with_url(settings, url):
    return settings.replaced(database_url=url)


def test_the_migrations_make_the_tables_that_the_code_knows(database):
    with database.read() as connection:
        options = {
            "compare_type": True,
            "include_object": lambda found, name, *_: name != "ix_user_interactions_occurred_at",
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_the_migrations_make_the_same_indexes(database):
    fresh = sa.create_engine("sqlite://")
    metadata.create_all(fresh)

    def statements(connection):
        rows = connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        )
        return {name: " ".join(sql.split()) for name, sql in rows}

    with database.read() as connection, fresh.connect() as plain:
        assert statements(connection) == statements(plain)
        assert "uq_models_one_active" in statements(plain)
    fresh.dispose()


def test_the_schema_of_this_release_is_the_last_migration():
    config = Config()
    config.set_main_option("script_location", "reckeeper.storage:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [storage.SCHEMA_REVISION]


IMPORT_COLUMNS = (
    *("without_taste", "items", "bytes_done", "bytes_total", "updated_at"),
    *("refusals", "reason", "actor", "holder", "report", "notes"),
)


def go_back(connection, revision):
    """Make of the schema what it was at a revision."""
    for table in ("erasures", "tombstones", "api_keys"):
        connection.execute(sa.text(f"DROP TABLE {table}"))
    connection.execute(sa.text("ALTER TABLE installation DROP COLUMN erasure_key"))
    connection.execute(sa.text("ALTER TABLE models DROP COLUMN pickle_erased_at"))
    for column in IMPORT_COLUMNS:
        connection.execute(sa.text(f"ALTER TABLE imports DROP COLUMN {column}"))
    if revision == "0001":
        connection.execute(sa.text("ALTER TABLE models DROP COLUMN decided"))
    connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))


def test_a_version_of_the_first_schema_has_decided_nothing(settings):
    storage.migrate(settings)
    opened = contextlib.closing(storage.open_database(settings))
    with opened as database, database.write() as connection:
        storage.models.insert(connection, stored_version(1))
        go_back(connection, "0001")
    assert storage.migrate(settings) == "0001"
    opened = contextlib.closing(storage.open_database(settings))
    with opened as database, database.read() as connection:
        assert storage.models.get(connection, 1).decided == {}


def test_an_import_of_the_first_release_is_still_told(settings):
    storage.migrate(settings)
    opened = contextlib.closing(storage.open_database(settings))
    with opened as database, database.write() as connection:
        for status in (storage.imports.COMPLETE, storage.imports.RUNNING):
            number = storage.imports.begin(connection, source=status, fingerprint="f")
            storage.imports.set_status(connection, number, status)
        finished_at = storage.imports.get(connection, 1).finished_at
        go_back(connection, "0002")
    assert storage.migrate(settings) == "0002"
    opened = contextlib.closing(storage.open_database(settings))
    with opened as database, database.read() as connection:
        running, complete = storage.imports.all_imports(connection)
    assert (complete.status, complete.updated_at, complete.items) == ("complete", finished_at, 0)
    assert (running.updated_at, running.refusals) == (running.started_at, [])
    assert (running.reason, running.holder, running.notes) == (None, None, [])


def test_migrating_again_changes_nothing(settings):
    assert storage.migrate(settings) is None
    assert storage.migrate(settings) == storage.SCHEMA_REVISION


def test_a_database_has_an_id_of_its_own_from_the_start(settings, tmp_path):
    def installation_of(place):
        storage.migrate(place)
        with contextlib.closing(storage.open_database(place)) as database, database.read() as of:
            return storage.installation.id_of(of)

    other = settings.replaced(data_dir=tmp_path / "another")
    assert str(uuid.UUID(installation_of(settings))) == installation_of(settings)
    assert installation_of(settings) != installation_of(other)


MIGRATE = """
import sys
from reckeeper import storage
from reckeeper.config import Settings

settings = Settings.from_env()
print("ready", flush=True)
sys.stdin.readline()
print(storage.migrate(settings))
"""


def test_processes_that_migrate_at_once_all_succeed(settings, start_python):
    processes = [start_python(MIGRATE) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = []
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        answers.append(output.strip())
    assert sorted(answers) == [*[storage.SCHEMA_REVISION] * 3, "None"]
    storage.open_database(settings).close()


def test_a_missing_database_is_refused_and_not_made(settings):
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"no database .* yet: make it with"):
            storage.open_database(settings)
        settings.data_dir.mkdir(exist_ok=True)
        assert list(settings.data_dir.iterdir()) == []


def test_a_database_without_a_schema_is_refused(settings):
    settings.data_dir.mkdir()
    with contextlib.closing(sqlite3.connect(file_of(settings))) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with pytest.raises(SchemaError, match="has no schema yet: migrate it"):
        storage.open_database(settings)


def set_revision(settings, revision):
    with sqlite3.connect(file_of(settings)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
    connection.close()


@pytest.mark.parametrize("act", [storage.open_database, storage.migrate])
def test_the_schema_of_a_later_release_is_refused(settings, act):
    storage.migrate(settings)
    set_revision(settings, "0999")
    with pytest.raises(SchemaError, match="has schema 0999, made by a later release"):
        act(settings)


def test_an_older_schema_is_refused(settings):
    storage.migrate(settings)
    set_revision(settings, "0000")
    with pytest.raises(SchemaError, match="an older schema: migrate it"):
        storage.open_database(settings)


def test_a_file_that_is_no_database_is_refused(settings):
    settings.data_dir.mkdir()
    file_of(settings).write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        storage.open_database(settings)
    assert file_of(settings).read_bytes() == b"no database at all" * 1000


def test_every_connection_writes_through_to_the_disk(database):
    for transaction in (database.read, database.write):
        with transaction() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {
            "synchronous": 2,  # FULL
            "journal_mode": "wal",
            "foreign_keys": 1,
            "busy_timeout": 60_000,
        }


def test_a_write_takes_the_writers_lock_at_its_beginning(settings, database):
    with database.write():
        other = sqlite3.connect(file_of(settings), timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_read_does_not_keep_writers_waiting(settings, database):
    with database.read() as connection:
        assert storage.interactions.is_empty(connection)
        other = sqlite3.connect(file_of(settings), timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.close()


def test_what_follows_a_commit_finds_the_lock_free_and_the_change_made(settings, database):
    seen = []

    def look():
        with database.write() as connection:
            seen.append(storage.interactions.count(connection))

    row = Interaction("e", "u", "i", "click", 1.0, 1)
    with database.write() as connection:
        storage.after_commit(connection, "look", look)
        storage.interactions.append(connection, [row])
        assert seen == []
    assert seen == [1]
    with database.write():
        pass
    assert seen == [1]


def test_of_callbacks_with_one_name_the_last_is_called(database):
    seen = []
    with database.write() as connection:
        for name, word in [("a", "first"), ("b", "other"), ("a", "last")]:
            storage.after_commit(connection, name, lambda word=word: seen.append(word))
    assert sorted(seen) == ["last", "other"]


def test_a_failed_transaction_calls_nothing(database):
    seen = []

    def fail():
        with database.write() as connection:
            storage.after_commit(connection, "a", lambda: seen.append("called"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == []


def test_a_connection_tells_the_settings(settings, database):
    for transaction in (database.read, database.write):
        with transaction() as connection:
            assert storage.settings_of(connection) is settings


def test_errors_of_the_driver_are_translated(database):
    with (
        pytest.raises(StorageError, match="no such table: missing") as caught,
        database.read() as connection,
    ):
        connection.exec_driver_sql("SELECT * FROM missing")
    assert isinstance(caught.value.__cause__, sa.exc.OperationalError)


def test_a_list_with_a_row_that_cannot_be_read_says_so(database):
    with database.write() as connection:
        storage.models.insert(connection, stored_version())
        connection.exec_driver_sql("UPDATE models SET metrics = '{'")
    with (
        database.read() as connection,
        pytest.raises(StorageError, match="A ListedVersion in the database cannot be read"),
    ):
        storage.models.listed(connection)


def test_a_database_of_the_users_own(settings, tmp_path):
    own = with_url(settings, f"sqlite:///{tmp_path}/own file.db")
    assert not own.is_embedded
    storage.migrate(own)
    storage.open_database(own).close()
    assert (tmp_path / "own file.db").is_file()
    assert not settings.data_dir.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "is not a database URL"),
        ("mysql://anna:secret@db/shop", "keeps its data in PostgreSQL or in an SQLite file"),
        ("sqlite://", "cannot be used"),
        ("sqlite:///:memory:", "cannot be used"),
        ("sqlite+aiosqlite:////tmp/x.db", "cannot be used"),
        ("sqlite:////there/is/no/such/folder/x.db", "names a file in a folder that does not exist"),
    ],
)
@pytest.mark.parametrize("act", [storage.open_database, storage.migrate])
def test_urls_that_cannot_be_used_are_refused(settings, url, message, act):
    with pytest.raises(ConfigError, match=message) as caught:
        act(with_url(settings, url))
    assert "DATABASE_URL" in caught.value.message
    assert "secret" not in caught.value.message


def test_what_is_no_database_is_said_in_words(settings, tmp_path):
    settings.data_dir.mkdir()
    file_of(settings).write_bytes(b"neither SQLite nor empty " * 100)
    named = settings.replaced(database_url=f"sqlite:///{tmp_path}")
    for broken in (settings, named):
        with pytest.raises(StorageError, match="RECKEEPER_DATA_DIR, or DATABASE_URL"):
            storage.migrate(broken)
        with pytest.raises(StorageError, match="RECKEEPER_DATA_DIR, or DATABASE_URL"):
            storage.open_database(broken)


def test_a_copy_that_was_restored_keeps_a_log_again(settings, tmp_path):
    storage.migrate(settings)
    copy = tmp_path / "copy.sqlite3"
    with contextlib.closing(sqlite3.connect(file_of(settings))) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(storage.open_database(with_url(settings, f"sqlite:///{copy}"))) as own:
        with own.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        with own.read(), own.write():
            pass  # who reads holds up nobody who writes


@pytest.mark.parametrize(("n_processes", "most"), [(1, 20), (2, 10), (4, 4), (32, 4)])
def test_processes_share_the_connections_of_postgresql(settings, n_processes, most):
    url = sa.make_url("postgresql+psycopg://nobody@127.0.0.1:1/none")
    pool = postgres.make_engine(url, settings, n_processes=n_processes).pool
    assert pool.size() + pool._max_overflow == most


def test_who_has_waited_for_the_writers_lock_is_told_what_may_hold_it(settings, monkeypatch):
    storage.migrate(settings)
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0)
    with (
        contextlib.closing(storage.open_database(settings)) as database,
        contextlib.closing(storage.open_database(settings)) as other,
        database.write(),
        pytest.raises(StorageError, match="when it makes indexes") as raised,
        other.write(),
    ):
        pass
    assert handlers.answer(raised.value).headers["Retry-After"] == "30"
