"""A database file that is deleted, replaced, damaged or empty: it takes nothing."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from reckeeper import storage
from reckeeper.errors import SchemaError, StorageError
from reckeeper.interactions import Interaction
from reckeeper.storage import engine, file_watch


def file_of(settings):
    return settings.data_dir / "reckeeper.sqlite3"


def rows(n, *, first=0):
    return [
        Interaction(f"e{number}", f"u{number % 50}", f"i{number % 70}", "click", 1.0, number)
        for number in range(first, first + n)
    ]


def append(database, n=1, *, first=0):
    with database.write() as connection:
        return storage.interactions.append(connection, rows(n, first=first))


def count(database):
    with database.read() as connection:
        return storage.interactions.count(connection)


@pytest.fixture
def filled(settings, monkeypatch):
    """Give an open database with rows in its file, and newer ones in its log."""
    monkeypatch.setattr(file_watch, "LOOK_SECONDS", 0.0)
    storage.migrate(settings)
    with contextlib.closing(storage.open_database(settings)) as first:
        append(first, 5_000)
    with contextlib.closing(storage.open_database(settings)) as database:
        append(database, 10, first=5_000)
        assert count(database) == 5_010
        yield database


def copy_of(settings, path):
    with contextlib.closing(sqlite3.connect(file_of(settings))) as connection:
        connection.execute("VACUUM INTO ?", (str(path),))
    return path


def refuses_all(database, match):
    with pytest.raises(StorageError, match=match):
        append(database, first=9_000)
    with pytest.raises(StorageError, match=match):
        count(database)


@pytest.mark.parametrize("mark", ["", "-wal", "-shm"])
def test_a_file_that_is_deleted_under_a_process_takes_nothing(settings, filled, mark):
    path = file_of(settings).with_name(file_of(settings).name + mark)
    away = path.with_suffix(".away")
    path.rename(away)
    refuses_all(filled, "is gone .*: it was deleted or moved")
    assert not path.exists(), "no other is made in its place"
    away.rename(path)
    append(filled, first=9_000)


def test_a_file_that_is_replaced_under_a_process_takes_nothing(settings, filled, tmp_path):
    copy_of(settings, tmp_path / "copy").rename(file_of(settings))
    refuses_all(filled, "is another file .* was replaced.*Restart all")


def test_a_row_is_acknowledged_only_by_the_file_that_stands_in_the_end(settings, filled, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")

    def append_and_replace():
        with filled.write() as connection:
            storage.interactions.append(connection, rows(1, first=9_000))
            copy.rename(file_of(settings))

    with pytest.raises(StorageError, match="was replaced"):
        append_and_replace()


def test_a_copy_over_the_file_is_noticed(settings, filled, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    append(filled, 3_000, first=10_000)
    shutil.copyfile(copy, file_of(settings))
    refuses_all(filled, "was written to by another program, such as a copy over it.*Stop all")
    assert "written to" in filled.problem


def test_a_file_that_is_cut_to_nothing_is_noticed(settings, filled):
    os.truncate(file_of(settings), 0)
    refuses_all(filled, "written to by another program")


def test_bytes_that_somebody_changed_are_noticed(settings, filled):
    with file_of(settings).open("r+b", buffering=0) as file:
        file.seek(4096 * 5)
        file.write(os.urandom(4096 * 20))
    with pytest.raises(StorageError, match=r"written to by another program|is malformed"):
        append(filled, first=9_000)
    assert "put the file back or copy a backup to its place" in filled.problem


def test_a_file_that_was_only_touched_goes_on(settings, filled):
    os.utime(file_of(settings))
    append(filled, first=9_000)
    assert count(filled) == 5_011
    assert filled.problem is None


def test_checkpoints_of_this_and_of_other_processes_are_no_copies(settings, filled):
    for number in range(5):
        append(filled, 200, first=20_000 + 200 * number)
        with contextlib.closing(sqlite3.connect(file_of(settings))) as other:
            kind = ("PASSIVE", "FULL", "RESTART", "TRUNCATE", "PASSIVE")[number]
            assert other.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0] == 0
        assert count(filled) == 5_210 + 200 * number
    assert filled.problem is None


def test_an_older_copy_that_sqlite_itself_restores_is_noticed(settings, filled, tmp_path):
    copy = copy_of(settings, tmp_path / "copy")
    append(filled, 100, first=9_000)
    assert count(filled) == 5_110
    with (
        contextlib.closing(sqlite3.connect(copy)) as backup,
        contextlib.closing(sqlite3.connect(file_of(settings))) as live,
    ):
        backup.backup(live)
    refuses_all(filled, "replaced by another or an older copy")


def damage(settings):
    """Overwrite pages of indexes and tables; the head stays."""
    with file_of(settings).open("r+b") as file:
        n_pages = file_of(settings).stat().st_size // 4096
        for page in range(n_pages // 2, n_pages):
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)


@pytest.fixture
def damaged(settings):
    storage.migrate(settings)
    with contextlib.closing(storage.open_database(settings)) as database:
        append(database, 5_000)
    damage(settings)
    return settings


def test_a_malformed_database_never_takes_a_write(damaged):
    before = file_of(damaged).read_bytes()
    with contextlib.closing(storage.open_database(damaged)) as database:
        for _ in range(2):
            with pytest.raises(StorageError, match=r"is malformed .*nothing is written to it"):
                append(database, first=9_000)
        assert "malformed" in database.problem
        found = database.look_through(seconds=None)
        assert found.findings
    assert file_of(damaged).read_bytes() == before


def test_damage_that_is_met_later_ends_the_writing(damaged, monkeypatch):
    monkeypatch.setattr(engine.Database, "look_through", lambda _self, **_options: None)
    with contextlib.closing(storage.open_database(damaged)) as database:
        with (
            pytest.raises(StorageError, match="malformed"),
            database.read() as connection,
        ):
            list(storage.interactions.read_batches(connection))
        with pytest.raises(StorageError, match=r"is malformed .*nothing is written"):
            append(database, first=9_000)


def test_the_look_at_the_start_is_bounded(filled):
    found = filled.look_through(seconds=0.0)
    assert (found.findings, found.is_whole) == ((), False)
    assert filled.look_through(seconds=None).is_whole
    append(filled, first=9_000)


@pytest.mark.parametrize("act", [storage.open_database, storage.migrate])
def test_an_empty_file_is_refused_and_not_filled(settings, act):
    settings.data_dir.mkdir()
    file_of(settings).touch()
    with pytest.raises(SchemaError, match=r"is an empty file.*Restore it .*delete the file"):
        act(settings)
    assert file_of(settings).stat().st_size == 0


def test_a_new_database_is_its_users_alone(settings):
    storage.migrate(settings)
    assert settings.data_dir.stat().st_mode & 0o777 == 0o700
    with contextlib.closing(storage.open_database(settings)) as database:
        append(database)
        files = list(settings.data_dir.iterdir())
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}, files


def test_databases_of_one_file_keep_each_others_locks(settings, filled):
    with filled.write() as connection:
        storage.interactions.append(connection, rows(1, first=9_000))
        storage.open_database(settings).close()  # its end would take all locks of this process
        blocked = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"
        done = subprocess.run(
            [sys.executable, "-c", blocked, str(file_of(settings))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "locked" in done.stderr
