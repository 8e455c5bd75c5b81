"""A backup: everything of one moment, from under those who write, and back where nothing is."""

import contextlib
import hashlib
import io
import itertools
import json
import resource
import shutil
import stat
import tarfile
import threading

import pytest
from tests.conftest import settings_in
from tests.services import postgresql_programs
from tests.system.installation import require
from tests.unit.small_models import add_version

from reckeeper import audit, backup, clock, policy, storage
from reckeeper.errors import ConfigError, ConflictError, DataError, StorageError
from reckeeper.interactions import Interaction
from reckeeper.registry import Registry

PASSPHRASE = "correct horse battery staple"
SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)

numbers = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Have PostgreSQL's programs in PATH, those of the server that tests start."""
    found = postgresql_programs()
    require(found, "PostgreSQL (initdb, postgres) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(found), prepend=":")
        yield


@pytest.fixture
def elsewhere(request, settings, tmp_path):
    """Give the settings of another machine: other folders, and a database that is not there."""
    with contextlib.ExitStack() as stack:
        other = settings_in(tmp_path / "elsewhere")
        if not settings.is_embedded:
            cluster, name = request.getfixturevalue("postgresql"), f"restored_{next(numbers)}"
            other = other.replaced(database_url=cluster.create(name))
            stack.callback(cluster.drop, name)
        yield other


@pytest.fixture
def versions(database, registry, settings):
    """Add three versions, of which the second is active, and the first is deleted."""
    for _ in range(3):
        add_version(registry, settings)
    with database.write() as connection:
        storage.models.set_active(connection, 2)
    registry.versions.delete(1, actor="test")


def take(database, settings, path, *, passphrase=PASSPHRASE):
    return backup.take(database, settings, path, actor="test", passphrase=passphrase)


def restore(settings, path, *, passphrase=PASSPHRASE, **given):
    return backup.restore(settings, path, actor="test", passphrase=passphrase, **given)


def everything(settings):
    """Return all rows of all tables, but those that say where it was restored."""
    with contextlib.closing(storage.open_database(settings)) as database, database.read() as now:
        names = sorted(storage.tables.metadata.tables)
        found = {
            name: sorted(map(tuple, now.exec_driver_sql(f"SELECT * FROM {name}")), key=repr)
            for name in names
        }
        found["user_interactions"].sort()
    del found["audit_log"]
    return found


def files_in(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# There and back


def test_what_was_written_up_to_a_moment_is_there_again(
    database, settings, elsewhere, versions, tmp_path
):
    stopping, written = threading.Event(), []

    def write():
        for number in itertools.count():
            if stopping.is_set():
                return
            row = Interaction(f"e{number}", f"u{number % 50}", "x", "click", 1.0, number)
            with database.write() as connection:
                storage.interactions.append(connection, [row])
            written.append(f"e{number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 20:
            stopping.wait(0.01)
        n_before = len(written)
        taken = take(database, settings, tmp_path / "backup.tar")
        n_after = len(written)
    finally:
        stopping.set()
        writer.join()
    assert n_before < n_after  # it held up nobody
    assert stat.S_IMODE(taken.path.stat().st_mode) == 0o600
    assert taken.manifest.versions == [2, 3]
    assert taken.manifest.keys == "encrypted"
    assert not list(tmp_path.glob(".backup*"))

    # Who was erased since is known outside of the database, and that stays there.
    elsewhere.model_dir.mkdir(parents=True)
    (elsewhere.model_dir / "erasures.jsonl").write_text("{}\n")
    restored = restore(elsewhere, taken.path)
    assert (elsewhere.model_dir / "erasures.jsonl").read_text() == "{}\n"
    assert restored.verification == audit.Verification(
        True, restored.verification.n_entries, None, None
    )
    before, after = everything(settings), everything(elsewhere)
    n_rows = len(after["user_interactions"])
    assert n_before <= n_rows <= n_after + 1
    assert after["user_interactions"] == before["user_interactions"][:n_rows]
    assert {**after, "user_interactions": 0, "installation": 0} == {
        **before, "user_interactions": 0, "installation": 0
    }  # fmt: skip
    names = [path for path in files_in(settings.model_dir) if str(path).startswith("model-")]
    assert len(names) == 4
    for name in names:
        assert (elsewhere.model_dir / name).read_bytes() == (settings.model_dir / name).read_bytes()
        assert stat.S_IMODE((elsewhere.model_dir / name).stat().st_mode) == 0o600

    with contextlib.closing(storage.open_database(elsewhere)) as other:
        assert Registry(other, elsewhere.model_dir).switch.active_version() == 2
        assert (
            elsewhere.model_dir / "retrained_svd_model.pkl"
        ).readlink().name == "model-000002.pkl"
        last = audit.entries(other, limit=1)[0]
        assert (last.action, last.details["versions"]) == ("restore", [2, 3])
        with other.write() as connection:  # numbers go on where they were
            row = Interaction("new", "u", "x", "click", 1.0, 1)
            assert storage.interactions.append(connection, [row]) == 1
            found = connection.exec_driver_sql("SELECT max(id) FROM user_interactions").scalar()
        assert found > n_rows - 1
        # … and what is done with a restored one can be backed up again.
        again = take(other, elsewhere, tmp_path / "again.tar")
    assert again.manifest.installation_id == taken.manifest.installation_id
    told = audit.entries(database, limit=1)[0]
    assert (told.action, told.subject) == ("backup", "backup.tar")


def test_an_empty_installation_comes_back_too(database, settings, elsewhere, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar")
    assert restore(elsewhere, taken.path).verification.ok


def test_progress_is_told_to_the_end(database, settings, versions, tmp_path):
    told = {}
    backup.take(
        database,
        settings,
        tmp_path / "backup.tar",
        actor="test",
        passphrase=None,
        on_progress=lambda what, n_done, total: told.update({what: (n_done, total)}),
    )
    assert list(told) == ["database", "writing", "checking"]
    n_done, total = told["writing"]
    assert 0 < n_done <= total


# Keys


@SQLITE
def test_a_backup_without_its_key_needs_the_key(database, settings, elsewhere, versions, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar", passphrase=None)
    key = (settings.data_dir / audit.KEY_NAME).read_text()
    assert key.strip().encode() not in taken.path.read_bytes()
    with pytest.raises(ConfigError, match="is not in this backup"):
        restore(elsewhere, taken.path)
    elsewhere.data_dir.mkdir(parents=True)
    (elsewhere.data_dir / audit.KEY_NAME).write_text("0" * 64 + "\n")
    with pytest.raises(ConfigError, match="is not the key of the backup"):
        restore(elsewhere, taken.path)
    (elsewhere.data_dir / audit.KEY_NAME).write_text(key)
    assert restore(elsewhere, taken.path).verification.ok


@SQLITE
def test_a_lost_key_costs_the_proof_and_not_the_data(
    database, settings, elsewhere, versions, tmp_path
):
    taken = take(database, settings, tmp_path / "backup.tar", passphrase=None)
    restored = restore(elsewhere, taken.path, without_keys=True)
    assert not restored.verification.ok
    assert everything(elsewhere)["models"] == everything(settings)["models"]


@SQLITE
def test_a_passphrase_opens_its_own_backup_alone(database, settings, elsewhere, versions, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar")
    key = (settings.data_dir / audit.KEY_NAME).read_text().strip()
    assert key.encode() not in taken.path.read_bytes()
    for passphrase, message in ((None, "are encrypted"), ("another of sixteen", "does not open")):
        with pytest.raises(ConfigError, match=message):
            restore(elsewhere, taken.path, passphrase=passphrase)
    assert not elsewhere.data_dir.exists()
    assert restore(elsewhere, taken.path).verification.ok


@SQLITE
def test_a_key_of_the_settings_stays_there(database, settings, elsewhere, tmp_path):
    keyed = settings.replaced(audit_key="sixteen letters!")
    with contextlib.closing(storage.open_database(keyed)) as opened:
        with opened.write() as connection:
            audit.record(connection, actor="test", action="test", subject="test")
        taken = take(opened, keyed, tmp_path / "backup.tar")
    assert taken.manifest.keys == "environment"
    with pytest.raises(ConfigError, match="RECKEEPER_AUDIT_KEY"):
        restore(elsewhere, taken.path)
    assert restore(elsewhere.replaced(audit_key="sixteen letters!"), taken.path).verification.ok


# What stands in the way


def test_what_is_there_is_never_replaced(database, settings, versions, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar")
    before, content = files_in(settings.model_dir), taken.path.read_bytes()
    with pytest.raises(ConflictError, match="is there already"):
        take(database, settings, taken.path)
    with pytest.raises(ConflictError, match="There is a database already"):
        restore(settings, taken.path)
    assert (files_in(settings.model_dir), taken.path.read_bytes()) == (before, content)


@SQLITE
@pytest.mark.parametrize(
    "name", ["data/snapshot/a", "models/model-000009.pkl", "data/reckeeper.sqlite3-wal"]
)
def test_a_machine_is_empty_or_it_is_not(database, settings, elsewhere, tmp_path, name):
    taken = take(database, settings, tmp_path / "backup.tar")
    path = tmp_path / "elsewhere" / name
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ConflictError, match="already"):
        restore(elsewhere, taken.path)
    assert list(files_in(tmp_path / "elsewhere")) == [path.relative_to(tmp_path / "elsewhere")]


@SQLITE
def test_a_database_of_the_other_kind_is_refused(database, settings, elsewhere, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar")
    other = elsewhere.replaced(database_url="postgresql://u@127.0.0.1:1/n")
    with pytest.raises(
        ConfigError, match="of an SQLite database, and the settings name PostgreSQL"
    ):
        restore(other, taken.path)


@contextlib.contextmanager
def room_for(n_bytes):
    """Let no file of this process grow beyond so many bytes inside the block."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.fault(
    "A disk is full while a backup is made or restored",
    seen="an error that says so",
    kept="what was there; nothing half done is left",
    heals="by room on the disk",
)
@SQLITE
def test_a_disk_without_room_leaves_nothing(database, settings, elsewhere, versions, tmp_path):
    taken = take(database, settings, tmp_path / "backup.tar")
    folder = tmp_path / "there"
    folder.mkdir()
    for share in (0.3, 0.9):  # the database does not fit, or what comes after it
        with (
            room_for(int(taken.n_bytes * share)),
            pytest.raises((DataError, StorageError), match="disk"),
        ):
            take(database, settings, folder / "backup.tar")
        assert not list(folder.iterdir())
    with room_for(100_000), pytest.raises(DataError, match="disks not full"):
        restore(elsewhere, taken.path)
    assert not files_in(tmp_path / "elsewhere")
    assert restore(elsewhere, taken.path).verification.ok


@SQLITE
def test_files_that_are_not_there_are_told(database, settings, elsewhere, versions, tmp_path):
    (settings.model_dir / "model-000003.pkl").unlink()
    taken = take(database, settings, tmp_path / "backup.tar")
    assert taken.manifest.missing == ["model-000003.pkl"]
    assert restore(elsewhere, taken.path).verification.ok


@SQLITE
def test_a_damaged_database_makes_no_backup(database, settings, tmp_path, add):
    add(*((f"u{number}", "i") for number in range(5000)))
    database.close()
    with (settings.data_dir / "reckeeper.sqlite3").open("r+b") as stream:
        stream.seek(-20 * 4096, 2)
        stream.write(b"\xff" * 4096)
    with (
        contextlib.closing(storage.open_database(settings)) as opened,
        pytest.raises(StorageError, match=r"damaged|malformed"),
    ):
        take(opened, settings, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


# Damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory, migrated):
    """Give a backup of a small installation, to be damaged."""
    folder = tmp_path_factory.mktemp("whole")
    settings = settings_in(folder)
    shutil.copytree(migrated, settings.data_dir)
    with contextlib.closing(storage.open_database(settings)) as database:
        add_version(Registry(database, settings.model_dir), settings)
        with database.write() as connection:
            audit.record(connection, actor="test", action="test", subject="test")
        return take(database, settings, folder / "backup.tar").path.read_bytes()


def members(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def packed(found):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for info, content in found:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def sealed(manifest, found):
    text = json.dumps(manifest).encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    given = {"manifest.json": text, "manifest.sha256": seal}
    result = []
    for info, content in found:
        content = given.get(info.name, content)
        info = info.replace(deep=True)
        info.size = len(content)
        result.append((info, content))
    return packed(result)


def cut(share):
    return lambda content: content[: int(len(content) * share)]


def flipped(name):
    def flip(content):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            info = tar.getmember(name)
        place = info.offset_data + info.size // 2
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return flip


def header(name):
    def flip(content):
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            place = tar.getmember(name).offset + 3
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return flip


def without(name):
    return lambda content: packed(
        [(info, text) for info, text in members(content) if info.name != name]
    )


def beside(name, **fields):
    def add(content):
        info = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        return packed([*members(content), (info, b"")])

    return add


def later(content):
    found = members(content)
    manifest = json.loads({info.name: text for info, text in found}["manifest.json"])
    return sealed({**manifest, "format": 2, "product_version": "9.0.0"}, found)


def unlisted(content):
    found = members(content)
    manifest = json.loads({info.name: text for info, text in found}["manifest.json"])
    return sealed({**manifest, "files": manifest["files"][:-1]}, found)


NATIVE = "models/model-000001.safetensors"
DAMAGES = {
    "empty": lambda content: b"",
    "no archive": lambda content: b"no archive" * 1000,
    **{f"cut at {share}": cut(share) for share in (0.001, 0.3, 0.6, 0.9, 0.95)},
    **{
        f"flipped {name}": flipped(name)
        for name in ("database.sqlite3", NATIVE, "models/audit-head.json", "keys.json",
                     "manifest.json", "manifest.sha256")
    },
    **{f"header of {name}": header(name) for name in ("database.sqlite3", NATIVE, "manifest.json")},
    **{
        f"without {name}": without(name)
        for name in ("database.sqlite3", NATIVE, "manifest.json", "manifest.sha256")
    },
    "a path out of it": beside("../../evil"),
    "an absolute path": beside("/tmp/evil"),
    "a link": beside("models/model-000007.pkl", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "twice": beside(NATIVE),
    "one more": beside("models/model-000007.pkl"),
    "not in the manifest": unlisted,
    "of a later format": later,
}  # fmt: skip


@pytest.mark.fault(
    "A backup is damaged, cut off or made by somebody else",
    seen="`reckeeper restore` says what is wrong with it",
    kept="nothing was there, and nothing of it is written",
    heals="by another backup",
)
@SQLITE
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_is_refused_whole(elsewhere, tmp_path, whole, damage):
    path = tmp_path / "backup.tar"
    path.write_bytes(DAMAGES[damage](whole))
    with pytest.raises(DataError, match="upgrade" if damage == "of a later format" else "backup"):
        restore(elsewhere, path)
    assert not (tmp_path / "elsewhere").exists()


@SQLITE
def test_what_is_no_file_is_refused(elsewhere, tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match="cannot be read"):
            restore(elsewhere, path)


# By itself

MINUTE = 60_000_000


@pytest.fixture
def scheduled(database, settings, tmp_path):
    """Store a policy with a backup every five minutes, of which two are kept; return its folder."""
    folder = tmp_path / "backups"
    policy.store(
        database,
        settings,
        {"backup_schedule": "*/5 * * * *", "backup_folder": str(folder), "backup_keep": 2},
        actor="test",
    )
    return folder


def test_backups_are_made_when_they_are_due_and_the_oldest_go(database, settings, scheduled):
    schedule = backup.BackupSchedule(database, settings)
    now = clock.now()
    assert schedule.look(now) is None
    made = [schedule.look(now + 6 * number * MINUTE) for number in range(1, 4)]
    assert all(made)
    assert schedule.look(now + 18 * MINUTE + 1) is None
    assert sorted(scheduled.iterdir()) == [taken.path for taken in made[1:]]
    assert {stat.S_IMODE(path.stat().st_mode) for path in scheduled.iterdir()} == {0o600}
    assert stat.S_IMODE(scheduled.stat().st_mode) == 0o700
    told = audit.entries(database, limit=2)
    assert [entry.action for entry in told] == ["backup_removed", "backup"]
    assert told[0].details["files"] == [made[0].path.name]
    assert schedule.problem is None
    # Another worker looks at what was made, and a clock that ran ahead puts nothing off.
    other = backup.BackupSchedule(database, settings)
    assert other.look(now) is None
    assert other.look(now - 600 * MINUTE) is None
    assert other.look(now + 6 * MINUTE)


@SQLITE
def test_a_clock_that_ran_ahead_and_was_set_right_stops_no_backups(database, settings, scheduled):
    now = clock.now() - 60 * 24 * 365 * MINUTE  # what is in the trail is a year ahead
    assert backup.BackupSchedule(database, settings).look(clock.now() + 6 * MINUTE)
    schedule = backup.BackupSchedule(database, settings)
    found = [schedule.look(now + number * MINUTE) for number in range(11)]
    assert len([taken for taken in found if taken]) == 2


@SQLITE
def test_what_was_due_while_no_worker_ran_is_made_at_its_start(database, settings, scheduled):
    later = clock.now() + 60 * 24 * 30 * MINUTE
    assert backup.BackupSchedule(database, settings).look(later)


@pytest.mark.fault(
    "A scheduled backup fails",
    seen="`/health/ready` of the worker says why, and the log",
    kept="all backups before it: the oldest go once a new one was read again",
    heals="by itself: it is tried again every ten minutes",
)
@SQLITE
def test_a_backup_that_cannot_be_made_is_told_until_one_is(database, settings, scheduled):
    schedule, now = backup.BackupSchedule(database, settings), clock.now()
    scheduled.touch()  # a file is in the place of the folder
    assert schedule.look(now + 6 * MINUTE) is None
    assert "could not be made" in schedule.problem
    scheduled.unlink()
    assert schedule.look(now + 7 * MINUTE) is None  # it waits a while
    assert schedule.problem
    assert schedule.look(now + 30 * MINUTE)
    assert schedule.problem is None


@SQLITE
def test_of_two_workers_one_makes_it(database, settings, scheduled):
    with database.write() as connection:
        storage.leases.take(connection, "backup", holder="another", seconds=60)
    schedule, now = backup.BackupSchedule(database, settings), clock.now()
    assert schedule.look(now + 6 * MINUTE) is None
    assert schedule.problem is None


@SQLITE
@pytest.mark.parametrize(
    ("field", "value"),
    [("backup_schedule", "every day"), ("backup_folder", "backups"), ("backup_keep", 0)],
)
def test_a_policy_without_sense_is_refused(database, settings, field, value):
    with pytest.raises(DataError, match=field):
        policy.store(database, settings, {field: value}, actor="test")
