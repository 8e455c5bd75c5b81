"""The audit trail: each way to tamper with it is found, and its head is kept."""

import contextlib
import fcntl
import hmac
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
import structlog
from hypothesis import given

from reckeeper import audit, storage
from reckeeper.errors import ConfigError, StorageError

WHOLE = audit.Verification(True, 5, None, None)


@pytest.fixture
def trail(database):
    """Write five entries."""
    for number in range(1, 6):
        record(database, number=number)


@pytest.fixture
def alter(past_reckeeper):
    """Return a function that changes the database past Reckeeper."""

    def execute(statement, **values):
        with past_reckeeper.begin() as connection:
            connection.execute(sa.text(statement), values)

    return execute


@pytest.fixture
def logged():
    """Return the list of what is logged from now on."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def record(database, **details):
    with database.write() as connection:
        audit.record(connection, actor="test", action="act", subject="thing", **details)


def head_file(settings):
    return settings.model_dir / "audit-head.json"


def head(settings):
    return json.loads(head_file(settings).read_text())


def events(logged, name):
    return [line for line in logged if line["event"] == name]


# What is written


def test_a_trail_is_whole_as_it_was_written(database, settings, trail):
    assert audit.verify(database, settings) == WHOLE


def test_an_empty_trail_is_whole(database, settings):
    assert audit.verify(database, settings) == audit.Verification(True, 0, None, None)
    assert not (settings.data_dir / "audit.key").exists()


def test_entries_are_told_from_the_latest(database, trail):
    page = audit.entries(database, limit=2, before=5)
    assert [entry.entry_id for entry in page] == [4, 3]
    assert vars(page[0]).keys() == {
        "entry_id", "at", "actor", "action", "subject", "details", "hash"
    }  # fmt: skip
    assert page[0].at.endswith("Z")
    assert page[0].details == {"number": 4}
    assert len(audit.entries(database, limit=9)) == 5


def test_an_entry_of_a_failed_transaction_was_never_written(database, settings, trail, logged):
    def fail():
        with database.write() as connection:
            audit.record(connection, actor="test", action="act", subject="thing")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert head(settings)["entry_id"] == 5
    assert not events(logged, "audit_head")
    assert audit.verify(database, settings) == WHOLE


def test_several_entries_of_one_transaction_make_one_head(database, settings, logged):
    with database.write() as connection:
        for _ in range(3):
            audit.record(connection, actor="test", action="act", subject="thing")
        assert not head_file(settings).exists()  # not before the commit
    (line,) = events(logged, "audit_head")
    assert (line["entry_id"], head(settings)["entry_id"]) == (3, 3)
    assert audit.verify(database, settings).n_entries == 3


def test_head_file_and_log_name_the_last_entry(database, settings, trail, logged):
    record(database)
    (last,) = audit.entries(database, limit=1)
    told = {name: getattr(last, name) for name in ("entry_id", "hash", "at")}
    assert head(settings) == told
    (line,) = events(logged, "audit_head")
    assert {name: line[name] for name in told} == told


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(value=values)
def test_whatever_is_told_reads_back_as_it_was_sealed(database, settings, value):
    record(database, value=value, pair=(1, 2))
    found = audit.verify(database, settings)
    assert found.ok, found.problem


def test_what_is_no_json_is_refused(database):
    with pytest.raises(ValueError, match="not JSON compliant"):
        record(database, score=float("nan"))
    assert audit.entries(database, limit=1) == []


# Tampering


ALTERED = [
    ("at", 1),
    ("actor", "somebody else"),
    ("action", "delete"),
    ("subject", "model 7"),
    ("details", '{"number": 7}'),
    ("details", "[7]"),
    ("previous_hash", "0" * 64),
    ("hash", "0" * 64),
]
# SQLite alone takes values of any kind in any column.
OF_ANOTHER_KIND = [
    ("at", "yesterday"),
    ("actor", b"\xff\x00"),
    ("details", "no JSON"),
    ("details", '{"number": NaN}'),
    ("hash", b"\x00"),
]
# Which mean what was written, and are other bytes.
SAME_MEANING = ['{"number": 4, "number": %d}', '{"number": %d }', '{"\\u006eumber": %d}']
ON_SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.mark.parametrize(
    ("settings", "column", "value"),
    [
        *(("sqlite", *change) for change in ALTERED + OF_ANOTHER_KIND),
        *(("postgresql", *change) for change in ALTERED),
    ],
    indirect=["settings"],
)
@pytest.mark.parametrize("entry_id", [1, 3, 5])
def test_an_altered_entry_is_found(database, settings, trail, alter, entry_id, column, value):
    alter(f"UPDATE audit_log SET {column} = :value WHERE entry_id = :id", value=value, id=entry_id)
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, entry_id, entry_id - 1)
    assert f"Entry {entry_id} is not as it was written" in found.problem
    assert "backup" in found.problem
    entries = audit.entries(database, limit=9)
    shown = json.loads(json.dumps([vars(entry) for entry in entries]))  # and can be looked at
    assert all(isinstance(entry["details"], dict) for entry in shown)
    assert [entry["entry_id"] for entry in shown] == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("of_first_release", [False, True])
@pytest.mark.parametrize("details", SAME_MEANING)
def test_details_are_sealed_as_the_bytes_that_are_stored(
    database, settings, trail, alter, details, of_first_release
):
    if of_first_release:
        seal_as_the_first_release(database, settings, alter)
        assert audit.verify(database, settings) == WHOLE
    alter("UPDATE audit_log SET details = :to WHERE entry_id = 3", to=details % 3)
    assert audit.entries(database, limit=9)[2].details == {"number": 3}
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 3)


def seal_as_the_first_release(database, settings, alter):
    """Seal the entries as release 0.1.0 did, and name the last in the head."""
    key = bytes.fromhex((settings.data_dir / "audit.key").read_text())
    last = ""
    with database.read() as connection:
        rows = list(storage.audit_log.in_order(connection))
    for row in rows:
        names = ("entry_id", "at", "actor", "action", "subject")
        sealed = {name: getattr(row, name) for name in names}
        sealed |= {"details": json.loads(row.details), "previous_hash": last}
        text = json.dumps(sealed, sort_keys=True, separators=(",", ":"))
        digest = hmac.new(key, text.encode(), "sha256").hexdigest()
        alter(
            "UPDATE audit_log SET hash = :hash, previous_hash = :last WHERE entry_id = :id",
            hash=digest, last=last, id=row.entry_id,
        )  # fmt: skip
        last = digest
    head_file(settings).write_text(json.dumps(head(settings) | {"hash": last}))


@ON_SQLITE
@pytest.mark.parametrize("entry_id", [3, 5])
def test_an_entry_that_cannot_be_read_is_told(database, settings, trail, alter, entry_id):
    alter("UPDATE audit_log SET actor = CAST(x'ff' AS TEXT) WHERE entry_id = :id", id=entry_id)
    with pytest.raises(StorageError, match="UTF-8"):
        audit.entries(database, limit=5)
    found = audit.verify(database, settings)
    assert not found.ok
    assert "cannot be read" in found.problem
    assert "UTF-8" in found.problem


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (1, 1, "Entry 1 is missing"),
        (1, 3, "Entries 1 to 3 are missing"),
        (3, 3, "Entry 3 is missing"),
        (2, 4, "Entries 2 to 4 are missing"),
    ],
)
def test_a_removed_entry_is_found(database, settings, trail, alter, first, last, words):
    alter("DELETE FROM audit_log WHERE entry_id BETWEEN :first AND :last", first=first, last=last)
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, first, first - 1)
    assert words in found.problem


def test_removing_an_entry_and_moving_the_others_up_is_found(database, settings, trail, alter):
    alter("DELETE FROM audit_log WHERE entry_id = 2")
    alter("UPDATE audit_log SET entry_id = entry_id - 1 WHERE entry_id > 2")
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 2)


def test_reordered_entries_are_found(database, settings, trail, alter):
    for before, after in [(2, 99), (3, 2), (99, 3)]:
        alter(f"UPDATE audit_log SET entry_id = {after} WHERE entry_id = {before}")
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, 2, 1)


@pytest.mark.parametrize("hash_of_it", ["''", "hash"])
@pytest.mark.parametrize("entry_id", [0, 6])
def test_an_inserted_entry_is_found(database, settings, trail, alter, hash_of_it, entry_id):
    alter(
        "INSERT INTO audit_log SELECT :id, at, actor, action, subject, details, previous_hash, "
        f"{hash_of_it} FROM audit_log WHERE entry_id = 5",
        id=entry_id,
    )
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, entry_id)


@pytest.mark.parametrize("n_left", [0, 1, 4])
def test_a_cut_tail_is_found(database, settings, trail, alter, n_left):
    alter("DELETE FROM audit_log WHERE entry_id > :id", id=n_left)
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, n_left + 1, n_left)
    assert "cut off the end of the trail" in found.problem
    assert str(head_file(settings)) in found.problem


def test_a_cut_tail_shows_when_the_trail_has_gone_on(database, settings, trail, alter, logged):
    alter("DELETE FROM audit_log WHERE entry_id > 3")
    written = head(settings)
    for _ in range(4):
        record(database)
    assert head(settings) == written
    assert len(events(logged, "audit_head_differs")) == 4
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 5)
    assert "went on with other entries" in found.problem

    assert audit.accept(database, actor="test", reason="restored") == 8
    assert head(settings)["entry_id"] == 8
    assert audit.verify(database, settings).ok
    (kept,) = settings.model_dir.glob("audit-head-before-*.json")
    assert json.loads(kept.read_text()) == written


def test_hashes_taken_off_all_entries_are_missed(database, settings, trail, alter):
    alter("UPDATE audit_log SET hash = '', previous_hash = ''")
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 1)


@ON_SQLITE
@pytest.mark.parametrize("column", ["actor", "at"])
def test_an_entry_that_nothing_can_seal_is_not_sealed_by_having_no_hash(
    database, settings, trail, alter, column
):
    alter("CREATE TABLE copied AS SELECT * FROM audit_log")  # without NOT NULL
    alter(f"UPDATE copied SET hash = NULL, {column} = :value WHERE entry_id = 3", value=b"\xff")
    alter("DROP TABLE audit_log")
    alter("ALTER TABLE copied RENAME TO audit_log")
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, 3, 2)


def test_entries_of_another_copy_of_the_trail_are_found(database, settings, trail, alter):
    alter("DELETE FROM audit_log WHERE entry_id > 3")
    record(database, number="another 4")
    record(database, number="another 5")
    with database.read() as connection:
        other = storage.audit_log.latest(connection, limit=1)[0]
    alter("DELETE FROM audit_log WHERE entry_id > 3")
    for number in (4, 5):
        record(database, number=number)
    alter(
        "UPDATE audit_log SET at = :at, details = :details, previous_hash = :previous_hash, "
        "hash = :hash WHERE entry_id = 5",
        at=other.at,
        details=other.details,
        previous_hash=other.previous_hash,
        hash=other.hash,
    )
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 5)
    assert "does not follow entry 4" in found.problem


# The head


def test_a_head_that_is_behind_is_no_problem(database, settings, trail):
    written = head_file(settings).read_bytes()
    record(database)
    head_file(settings).write_bytes(written)  # as if the process had died after the commit
    assert audit.verify(database, settings).ok
    record(database)
    assert head(settings)["entry_id"] == 7


def test_the_head_never_goes_back(database, settings, trail):
    """As when of two processes the one that commits first is the last to write its head."""
    with database.write() as connection:
        audit.record(connection, actor="test", action="act", subject="thing")
        later = {"entry_id": 9, "hash": "0" * 64, "at": "2025-12-04T23:42:15.123456Z"}
        head_file(settings).write_text(json.dumps(later))
    assert head(settings) == later


def test_a_missing_head_is_told_until_somebody_accepts_it(database, settings, trail, logged):
    head_file(settings).unlink()
    for n_entries in (5, 6):
        found = audit.verify(database, settings)
        assert (found.ok, found.n_entries, found.entry_id) == (False, n_entries, None)
        assert "accept the trail as it is" in found.problem
        record(database)
        assert not head_file(settings).exists(), "the trail would look whole"
    assert len(events(logged, "audit_head_missing")) == 2
    assert audit.accept(database, actor="anna", reason="the disk was lost") == 8
    assert audit.verify(database, settings) == audit.Verification(True, 8, None, None)
    (entry,) = audit.entries(database, limit=1)
    assert (entry.action, entry.actor) == ("accept", "anna")
    assert entry.details == {"reason": "the disk was lost", "head_before": None}
    record(database)
    assert head(settings)["entry_id"] == 9


def test_a_forger_without_the_key_seals_nothing(database, settings, trail, alter, logged):
    alter("UPDATE audit_log SET hash = '', previous_hash = ''")
    alter("UPDATE audit_log SET actor = 'somebody else' WHERE entry_id = 2")
    head_file(settings).unlink()
    record(database)
    with database.read() as connection:
        rows = list(storage.audit_log.in_order(connection))
    assert [row.hash for row in rows][:5] == [""] * 5, "no row is sealed after the fact"
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id, found.n_entries) == (False, 1, 0)
    assert events(logged, "audit_key_differs")
    assert not head_file(settings).exists()


def test_a_folder_that_caches_another_begins_its_head(database, settings, trail):
    cache = settings.replaced(
        model_dir=settings.data_dir / "cache", model_source_url="http://127.0.0.1:1"
    )
    with contextlib.closing(storage.open_database(cache)) as own:
        record(own)
        assert audit.verify(own, cache).ok
    assert head(cache)["entry_id"] == 6


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"entry_id": "5", "hash": "a", "at": "b"}',
        b'{"entry_id": true, "hash": "a", "at": "b"}',
        b'{"entry_id": 99999999999999999999, "hash": "a", "at": "b"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_broken_head_is_told_and_kept(database, settings, trail, content, logged):
    head_file(settings).write_bytes(content)
    record(database)
    assert head_file(settings).read_bytes() == content
    assert events(logged, "audit_head_differs")
    found = audit.verify(database, settings)
    assert (found.ok, found.n_entries) == (False, 6)
    assert "cannot be used" in found.problem


def test_a_head_that_cannot_be_written_is_logged_and_the_change_stands(database, settings, logged):
    settings.model_dir.write_text("a file where the folder should be")
    record(database)
    (line,) = events(logged, "audit_head_not_written")
    assert line["entry_id"] == 1
    assert len(audit.entries(database, limit=9)) == 1


def test_a_lock_that_stays_taken_does_not_stop_the_change(
    database, settings, trail, logged, monkeypatch
):
    monkeypatch.setattr(audit, "_LOCK_SECONDS", 0.02)
    with (settings.model_dir / ".audit-head.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        record(database)
    assert events(logged, "audit_head_not_written")
    assert (head(settings)["entry_id"], len(audit.entries(database, limit=9))) == (5, 6)
    assert audit.verify(database, settings).ok


# The key


def test_the_key_is_made_for_this_user_alone(database, settings, trail):
    path = settings.data_dir / "audit.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(bytes.fromhex(path.read_text())) == 32
    assert not list(settings.data_dir.glob(".*"))


def test_of_several_that_make_the_key_at_once_one_does(settings):
    """Whatever kind of database they share: SQLite's lock already keeps them apart."""
    barrier = threading.Barrier(8)

    def make(_):
        barrier.wait(timeout=60)
        return audit._make_key(settings)

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(make, range(8)))) == 1
        assert [path.name for path in settings.data_dir.iterdir()] == ["audit.key"]
        (settings.data_dir / "audit.key").unlink()


def test_a_key_of_the_settings_is_taken(database, settings):
    chosen = settings.replaced(audit_key="a key of sixteen")
    own = storage.open_database(chosen)
    record(own)
    assert audit.verify(own, chosen).ok
    own.close()
    assert not (settings.data_dir / "audit.key").exists()
    other = settings.replaced(audit_key="another of sixteen")
    assert not audit.verify(database, other).ok


def test_another_key_is_told_as_such(database, settings, trail):
    (settings.data_dir / "audit.key").write_text("0" * 64)
    found = audit.verify(database, settings)
    assert (found.ok, found.n_entries, found.entry_id) == (False, 0, 1)
    assert "sealed with the key in use: it is another one" in found.problem


def test_a_missing_key_is_told_as_such(database, settings, trail):
    (settings.data_dir / "audit.key").unlink()
    found = audit.verify(database, settings)
    assert not found.ok
    assert "The key of the trail is missing" in found.problem
    assert not (settings.data_dir / "audit.key").exists()


def test_going_on_with_another_key_is_logged_and_found(database, settings, trail, logged):
    (settings.data_dir / "audit.key").unlink()
    record(database)
    (line,) = events(logged, "audit_key_differs")
    assert line["entry_id"] == 5
    found = audit.verify(database, settings)
    assert (found.ok, found.entry_id) == (False, 1)
    assert "another key" in found.problem


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"\xff" * 64])
def test_a_damaged_key_is_refused_and_nothing_written(database, settings, trail, content):
    path = settings.data_dir / "audit.key"
    path.write_bytes(content)
    for act in (record, lambda database: audit.verify(database, settings)):
        with pytest.raises(ConfigError, match="key of the audit trail"):
            act(database)
    assert path.read_bytes() == content
    assert len(audit.entries(database, limit=9)) == 5


@ON_SQLITE
def test_a_key_that_cannot_be_made_is_said(settings, tmp_path):
    own = settings.replaced(database_url=f"sqlite:///{tmp_path}/own.db")
    own.data_dir.write_text("a file where the folder should be")
    storage.migrate(own)
    database = storage.open_database(own)
    with pytest.raises(ConfigError, match="RECKEEPER_AUDIT_KEY"):
        record(database)
    database.close()


# Several processes

RECORD = """
import sys
from reckeeper import audit, storage
from reckeeper.config import Settings

database = storage.open_database(Settings.from_env())
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    with database.write() as connection:
        audit.record(connection, actor=sys.argv[1], action="act", subject=f"thing {number}")
database.close()
"""


def test_processes_write_one_trail_while_another_verifies(database, settings, start_python):
    """With one key, which the quickest makes; the head is the last entry's in the end."""
    writers = [start_python(RECORD, name) for name in ("anna", "ben", "cleo")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        found = audit.verify(database, settings)
        # The very first entry is there a moment before its head.
        assert found.ok or "There is no" in found.problem, found.problem
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert audit.verify(database, settings) == audit.Verification(True, 120, None, None)
    (last,) = audit.entries(database, limit=1)
    assert head(settings)["hash"] == last.hash
