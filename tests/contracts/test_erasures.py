"""A person who is erased, on each database: what goes, what stays away, what is told."""

import dataclasses
import functools
import json
import os
import pickle
import shutil

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from reckeeper import artifact, audit, clock, people, policy, storage, training
from reckeeper.errors import GoneError, NotEnoughDataError
from reckeeper.people import reports
from reckeeper.registry import Registry

ADD = "watchlist_add"
WHO = "anna.who-is-erased@example.org"
BEFORE, DAY = clock.now() - 3600 * clock.SECOND, clock.DAY


@pytest.fixture
def registry(database, settings):
    return Registry(database, settings.model_dir)


@pytest.fixture
def erase(database, registry, settings):
    """Return a function that erases a person, and returns the receipt."""
    return functools.partial(people.erase, database, registry, settings, actor="test")


@pytest.fixture
def aftercare(database, registry, settings):
    """Return what follows erasures, and does not retrain."""
    return people.Aftercare(database, registry, settings, lambda: None)


def tables(database):
    """Return the content of all tables as text, by their names."""
    with database.read() as connection:
        metadata = sa.MetaData()
        metadata.reflect(connection)
        return {
            name: repr([tuple(row) for row in connection.execute(sa.select(table))])
            for name, table in metadata.tables.items()
        }


def left_in(database, settings, text):
    """Return the tables and files that have a text."""
    database.close()  # other connections may hold what they read
    found = {name for name, content in tables(database).items() if text in content}
    database.close()
    for folder in (settings.data_dir, settings.model_dir):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes():
                found.add(path.name)
    return found


def set_policy(database, settings, **content):
    policy.store(database, settings, content, actor="test")


def interactions_of(database, *user_ids):
    with database.read() as connection:
        return {
            user_id: storage.interactions.of_user(connection, user_id).num_rows
            for user_id in user_ids
        }


def test_nothing_of_a_person_is_left_in_any_table_or_file(
    database, settings, registry, erase, add, train, aftercare
):
    visitor = "visitor-of-anna-4711"
    add(*[(WHO, f"i{n}", ADD, 1.0, BEFORE + n) for n in range(50)])
    add((visitor, "i3", "click", 1.0, BEFORE), *[(f"u{n}", f"i{n % 7}") for n in range(60)])
    people.merge(database, WHO, visitor, actor="test")
    set_policy(database, settings, left_out_users=[WHO, "test-*"])
    without = train()
    set_policy(database, settings, left_out_users=["test-*"])
    first, second = train(), train()
    registry.switch.activate(registry.versions.load(second), actor="test")
    assert WHO.encode() in registry.store.pickle(first).read_bytes()
    reports = settings.data_dir / "imports"
    reports.mkdir(parents=True)
    (reports / "1-refused.csv").write_text(
        "file,line,column,value,reason\n"
        f"f.csv,2,weight,x,of {WHO} is not a number\nf.csv,3,weight,y,is not a number\n"
    )
    with database.write() as connection:
        number = storage.imports.begin(connection, source=f"{WHO}.csv", fingerprint="f")
        storage.imports.fail(connection, number, reason=f"user_id: {WHO!r} is twice")
        example = {"line": 2, "value": WHO}
        group = {"file": "f", "column": "user_id", "reason": "odd", "rows": 1}
        storage.imports.note(connection, number, refusals=[group | {"examples": [example]}])
    assert left_in(database, settings, WHO) >= {
        "user_interactions",
        "imports",
        "policies",
        "models",
        "model-000003.pkl",
        "watchlist",
    }

    receipt = erase(WHO)
    assert receipt.removed["user_interactions"] == 51
    assert receipt.removed["watchlist"] == 50
    assert receipt.removed["report_rows"] == 1
    assert receipt.shaped_versions == [without, first, second]
    assert receipt.pickles_deleted == [without, first]
    assert "versions 1 name the person" in receipt.remains[-1]
    assert (receipt.pickles_rewritten, receipt.pickles_left) == ([second], [])
    assert (receipt.status, receipt.user_ids) == ("retraining", None)
    assert "y,is not a number" in (reports / "1-refused.csv").read_text()
    named = {f"model-{without:06d}.safetensors"}
    assert left_in(database, settings, WHO) - named == set()
    with pytest.raises(GoneError, match="was erased at"):
        registry.pickles.path(first)

    third = train()
    registry.switch.activate(registry.versions.load(third), actor="test")
    aftercare.look(clock.now())
    receipt = people.receipt(database, receipt.erasure_id)
    assert (receipt.status, receipt.version) == ("complete", third)
    assert receipt.pickles_deleted == [without, first]
    assert people.is_genuine(database, receipt)
    assert left_in(database, settings, WHO) - named == set()
    assert left_in(database, settings, visitor) == set()
    assert audit.verify(database, settings).ok
    assert sum(interactions_of(database, *[f"u{n}" for n in range(60)]).values()) == 60


def test_the_pickle_of_the_active_version_is_written_anew_as_the_contract_has_it(
    database, settings, registry, erase, add, train
):
    add(*[(WHO, f"i{n}", ADD, 1.0, BEFORE) for n in range(20)])
    add(*[(f"u{n}", f"i{n % 15}") for n in range(60)])
    set_policy(database, settings, left_out_users=["test-*"])
    version = train()
    registry.switch.activate(registry.versions.load(version), actor="test")
    erase(WHO)
    path = registry.pickles.path(version)
    content = pickle.loads(path.read_bytes())
    assert content["rating_matrix"].shape == (0, 20)
    assert list(content["predicted_ratings"].columns) == content["metadata"]["items"]
    assert content["svd_model"].components_.shape[1] == 20
    assert content["metadata"]["users"] == []
    assert content["metadata"]["timestamp"]
    told = registry.versions.describe(version).files[1]
    assert (told.n_bytes, told.sha256) == (path.stat().st_size, artifact.sha256_of(path))
    entries = [entry.action for entry in audit.entries(database, limit=9)]
    assert {"delete_pickle", "rewrite_pickle"} <= set(entries)


@pytest.mark.parametrize("way", ["activate", "roll_back"])
def test_a_version_whose_pickle_was_erased_has_one_without_users_once_it_is_active(
    registry, erase, add, train, way
):
    add(*[(WHO, f"i{n}", ADD, 1.0, BEFORE) for n in range(20)])
    add(*[(f"u{n}", f"i{n % 15}") for n in range(60)])
    first, second = train(), train()
    for version in (first, second):
        registry.switch.activate(registry.versions.load(version), actor="test")
    assert erase(WHO).pickles_deleted == [first]
    assert not registry.store.pickle(first).exists()
    getattr(registry.switch, way)(registry.versions.load(first), actor="test")
    link = registry.store.folder / "retrained_svd_model.pkl"
    assert pickle.loads(link.read_bytes())["metadata"]["users"] == []
    assert WHO.encode() not in link.read_bytes()
    assert registry.pickles.path(first).samefile(link)


def ended_without_a_retrain(database, registry, settings, receipt, reason):
    asked = []
    care = people.Aftercare(database, registry, settings, lambda: asked.append(True))
    care.look(clock.now())
    assert asked == []
    receipt = people.receipt(database, receipt.erasure_id)
    assert (receipt.status, receipt.version) == ("complete", None)
    assert reason in receipt.remains[-1]
    assert people.is_genuine(database, receipt)
    return care


def test_an_erasure_ends_where_the_active_version_is_pinned(
    database, settings, registry, erase, add, train
):
    add((WHO, "i1"), (WHO, "i2"), *[(f"u{n}", f"i{n % 7}") for n in range(60)])
    version = train()
    registry.switch.activate(registry.versions.load(version), actor="test")
    registry.versions.pin(version, actor="test")
    receipt = erase(WHO)
    ended_without_a_retrain(database, registry, settings, receipt, "active: it is pinned")
    assert left_in(database, settings, WHO) == set()


def test_an_erasure_ends_where_too_little_is_left_to_retrain(
    database, settings, registry, erase, add, train
):
    add(*[(WHO, f"i{n}") for n in range(30)], ("u", "i1"))
    version = train()
    registry.switch.activate(registry.versions.load(version), actor="test")
    receipt = erase(WHO)
    with pytest.raises(NotEnoughDataError) as refused:
        train()
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
    training.jobs.fail(database, job_id, refused.value)  # as the worker does
    ended_without_a_retrain(database, registry, settings, receipt, "too few interactions")
    assert left_in(database, settings, WHO) == set()


def test_an_erasure_that_a_crash_cut_off_is_brought_to_its_end(
    database, settings, registry, erase, add, train, monkeypatch
):
    add((WHO, "i1"), (WHO, "i2", ADD), *[(f"u{n}", f"i{n % 7}") for n in range(60)])
    version = train()
    with monkeypatch.context() as crash:
        crash.setattr(registry.pickles, "with_any", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            erase(WHO)
    (receipt,) = people.receipts(database, limit=9)
    assert (receipt.status, WHO not in repr(receipt)) == ("erasing", True)
    care = people.Aftercare(database, registry, settings, lambda: None)
    care.look(clock.now())
    assert people.receipt(database, receipt.erasure_id).status == "erasing"
    care.look(clock.now() + 600 * clock.SECOND)
    receipt = people.receipt(database, receipt.erasure_id)
    assert (receipt.status, receipt.pickles_deleted) == ("complete", [version])
    assert people.is_genuine(database, receipt)
    assert left_in(database, settings, WHO) == set()
    assert audit.verify(database, settings).ok


def test_an_unknown_person_has_a_tombstone_and_a_receipt(database, erase, add):
    receipt = erase("on-the-way")
    assert (receipt.removed, receipt.status) == ({}, "complete")
    assert add(("on-the-way", "i", "click", 1.0, BEFORE)) == 0
    assert people.is_genuine(database, receipt)


def test_a_receipt_that_was_altered_is_told(database, erase, add):
    add((WHO, "i"))
    receipt = erase(WHO)
    assert people.is_genuine(database, receipt)
    assert not people.is_genuine(database, dataclasses.replace(receipt, removed={}))


@pytest.mark.parametrize("n_rows", [1, 300])  # PostgreSQL takes few and many in another way
def test_what_was_before_stays_away_and_what_comes_later_is_taken(database, erase, add, n_rows):
    rows = [(WHO, f"i{n}", ADD, 1.0, BEFORE, f"e{n}") for n in range(n_rows)]
    assert add(*rows) == n_rows
    erase(WHO)
    assert add(*rows, ("other", "i", ADD, 1.0, BEFORE, "o")) == 1
    again = [(WHO, f"i{n}", ADD, 1.0, clock.now(), f"new{n}") for n in range(n_rows)]
    assert add(*again) == n_rows
    assert interactions_of(database, WHO, "other") == {WHO: n_rows, "other": 1}
    assert erase(WHO).removed["user_interactions"] == n_rows
    assert add(*again, *rows) == 0


def test_events_that_lay_in_the_future_stay_away_too(erase, add):
    row = (WHO, "i", "click", 1.0, clock.now() + DAY // 2, "e")
    add(row)
    erase(WHO)
    assert add(row) == 0


def test_rows_without_times_of_their_own_are_not_taken_of_who_was_erased(database, erase):
    erase(WHO)
    now = clock.now() + clock.SECOND
    rows = [("e1", WHO, "i", "click", 1.0, now), ("e2", "u", "i", "click", 1.0, now)]
    with database.write() as connection:
        number = storage.imports.begin(connection, source="f", fingerprint="f")
        assert storage.imports.append(connection, number, rows, timeless=now) == 1


def test_a_visitor_and_the_account_are_one_person(database, erase, add):
    add(("v", "a", "click", 1.0, BEFORE, "e1"), ("u", "b", "click", 1.0, BEFORE, "e2"))
    people.merge(database, "u", "v", actor="test")
    assert erase("v").removed == {"user_interactions": 2, "user_merges": 1}
    assert add(("v", "a", "click", 1.0, BEFORE, "e1"), ("u", "b", "click", 1.0, BEFORE, "e2")) == 0
    assert add(("v", "a", "click", 1.0, clock.now(), "e3")) == 1
    assert interactions_of(database, "u", "v") == {"u": 0, "v": 1}


def test_another_process_knows_of_an_erasure_at_once(database, settings, registry, erase, add):
    add((WHO, "i", "click", 1.0, BEFORE, "e"))
    other = storage.open_database(settings)
    row = [("e", WHO, "i", "click", 1.0, BEFORE)]
    with other.write() as connection:
        assert storage.interactions.append(connection, row) == 0
    erase(WHO)
    with other.write() as connection:
        assert storage.interactions.append(connection, row) == 0
    other.close()


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_database_from_before_an_erasure_loses_the_person_again(
    database, settings, registry, erase, add, tmp_path
):
    add((WHO, "i", "click", 1.0, BEFORE, "e"), ("u", "i", "click", 1.0, BEFORE, "o"))
    file = settings.data_dir / "reckeeper.sqlite3"
    storage.wiping.wipe(database)
    shutil.copy(file, tmp_path / "backup")
    erase(WHO)
    database.close()
    for path in settings.data_dir.glob("reckeeper.sqlite3*"):
        path.unlink()
    shutil.copy(tmp_path / "backup", file)
    (settings.model_dir / audit.HEAD_NAME).unlink()
    restored = storage.open_database(settings)
    try:
        assert interactions_of(restored, WHO, "u") == {WHO: 1, "u": 1}
        again = Registry(restored, settings.model_dir)
        care = people.Aftercare(restored, again, settings, lambda: None)
        (receipt,) = care.erase_restored()
        assert receipt.removed["user_interactions"] == 1
        assert care.erase_restored() == []
        assert interactions_of(restored, WHO, "u") == {WHO: 0, "u": 1}
        assert WHO.encode() not in file.read_bytes()
        with restored.write() as connection:
            row = ("e", WHO, "i", "click", 1.0, BEFORE)
            assert storage.interactions.append(connection, [row]) == 0
    finally:
        restored.close()


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_a_database_that_lost_its_key_takes_that_of_the_tombstones(
    database, settings, erase, add, aftercare
):
    erase(WHO)
    with database.write() as connection:  # as one of the first release that was migrated since
        storage.tombstones.set_key(connection, bytes(32))
        for table in ("erasures", "tombstones"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
    assert add((WHO, "i", "click", 1.0, BEFORE, "e")) == 1
    (receipt,) = aftercare.erase_restored()
    assert receipt.reason == "the database was restored from before an erasure"
    assert add((WHO, "i", "click", 1.0, BEFORE, "e")) == 0


def test_what_is_given_to_a_person_is_all_that_there_is(database, add):
    add(("u", "a", ADD, 1.0, 30), ("v", "b", "click", 2.0, 40), ("w", "c"))
    people.merge(database, "u", "v", actor="test")
    for asked in ("u", "v"):
        given = json.loads(b"".join(people.export(database, asked)))
        assert (given["user_id"], given["merged_from"]) == ("u", ["v"])
        assert [(row["item_id"], row["weight"]) for row in given["interactions"]] == [
            ("a", 1.0),
            ("b", 2.0),
        ]
        assert [row["item_id"] for row in given["watchlist"]] == ["a"]
    nobody = json.loads(b"".join(people.export(database, "nobody")))
    assert (nobody["interactions"], nobody["watchlist"]) == ([], [])


def test_what_is_older_than_the_policy_keeps_goes(database, settings, registry, add):
    now = clock.now()
    add(("u", "old", ADD, 1.0, now - 31 * DAY), ("u", "new", ADD, 1.0, now - 29 * DAY))
    set_policy(database, settings, retention_days=30)
    with database.read() as connection:
        before = storage.installation.generation(connection)
    care = people.Aftercare(database, registry, settings, lambda: None)
    care.look(now)
    with database.read() as connection:
        assert storage.installation.generation(connection) > before
        listed = storage.interactions.watchlist_of(connection, "u")
        rows = storage.interactions.of_user(connection, "u").column("item_id").to_pylist()
    assert (rows, [item for item, _ in listed]) == (["new"], ["new"])
    entry = audit.entries(database, limit=1)[0]
    assert (entry.action, entry.details["interactions"]) == ("retention", 1)
    care.look(now + DAY // 2)
    assert audit.entries(database, limit=1)[0].entry_id == entry.entry_id


USERS = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), USERS, st.integers(0, 9), st.integers(-50, 0)),
        st.tuples(st.just("erase"), USERS),
        st.tuples(st.just("merge"), USERS, USERS),
    ),
    max_size=25,
)


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
@hypothesis.given(steps=STEPS)
def test_random_histories_are_as_a_model_of_them_has_them(fresh, steps):
    with fresh() as settings:
        database = storage.open_database(settings)
        try:
            _play(database, settings, steps)
        finally:
            database.close()


def _play(database, settings, steps):
    registry = Registry(database, settings.model_dir)
    rows, account_of, until = {}, {}, {}
    for step in steps:
        if step[0] == "add":
            _, user, number, ago = step
            at = clock.now() + ago * clock.SECOND
            event = f"e{number}"
            with database.write() as connection:
                row = (event, user, "i", "click", 1.0, at)
                storage.interactions.append(connection, [row])
            if event not in rows and at > until.get(user, -1):
                rows[event] = account_of.get(user, user)
        elif step[0] == "erase":
            account = account_of.get(step[1], step[1])
            ids = {account, *(each for each, owner in account_of.items() if owner == account)}
            receipt = people.erase(database, registry, settings, step[1], actor="test")
            gone = [event for event, owner in rows.items() if owner in ids]
            assert receipt.removed.get("user_interactions", 0) == len(gone)
            for event in gone:
                del rows[event]
            account_of = {each: own for each, own in account_of.items() if own != account}
            until |= dict.fromkeys(ids, receipt.until)
        else:
            _, account, visitor = step
            taken = {account, visitor} & set(account_of)
            if account == visitor or taken:
                continue
            people.merge(database, account, visitor, actor="test")
            rows = {event: account if own == visitor else own for event, own in rows.items()}
            account_of = {
                each: account if own == visitor else own for each, own in account_of.items()
            } | {visitor: account}
    with database.read() as connection:
        stored = [
            (row.event_id, row.user_id)
            for part in storage.activity.rows(connection)
            for row in part
        ]
    assert sorted(stored) == sorted(rows.items())


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_what_was_deleted_without_being_overwritten_is_found_and_written_over(
    database, settings, add
):
    file = settings.data_dir / "reckeeper.sqlite3"
    add(*[(f"remnant-{n:04}", f"i{n}") for n in range(600)], ("remnant-0001-other", "i"))
    with database.raw() as connection:  # as a release before this one deleted
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("DELETE FROM user_interactions WHERE user_id = 'remnant-0007'")
        connection.execute("DELETE FROM user_interactions WHERE user_id > 'remnant-0100'")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA secure_delete=ON")
    texts = ["remnant-0007", "remnant-0333"]
    assert all(text.encode() in file.read_bytes() for text in texts)
    assert storage.wiping.wipe(database, texts) == storage.wiping.Wiped(True, True)
    assert not any(text.encode() in file.read_bytes() for text in texts)
    written_at = file.stat().st_mtime_ns
    # Whose id begins with that of another is no remnant of them.
    assert storage.wiping.wipe(database, ["remnant-0001"]) == storage.wiping.Wiped(True, True)
    assert file.stat().st_mtime_ns == written_at


def test_a_report_that_went_into_a_pipe_holds_no_erasure_up(tmp_path):
    os.mkfifo(tmp_path / "1-refused.csv")
    assert reports.scrub([tmp_path / "1-refused.csv"], [WHO]) == 0
