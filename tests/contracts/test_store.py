"""What every store must do; run on each that there is."""

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given

from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.errors import JobRunningError, StorageError
from reckeeper.storage import (
    Interaction,
    Item,
    imports,
    interactions,
    items,
    jobs,
    models,
    tables,
)

ADD, REMOVE = "watchlist_add", "watchlist_remove"


@pytest.fixture(params=["sqlite"])
def settings(request, tmp_path):
    """Return settings for one kind of store."""
    return Settings.from_env(
        {
            "RECKEEPER_DATA_DIR": str(tmp_path / "data"),
            "RECKEEPER_MODEL_DIR": str(tmp_path / "models"),
        }
    )


def stored(database):
    with database.read() as connection:
        return [
            tuple(row.values())
            for batch in interactions.read_batches(connection)
            for row in batch.to_pylist()
        ]


def watchlist(database, user_id):
    with database.read() as connection:
        return interactions.watchlist_of(connection, user_id)


def event(event_id, **fields):
    whole = {
        "user_id": "u",
        "item_id": "i",
        "interaction_type": "click",
        "weight": 1.0,
        "occurred_at": 1,
        **fields,
    }
    return Interaction(event_id=event_id, **whole)


def append(database, *events):
    with database.write() as connection:
        return interactions.append(connection, list(events))


# Interactions


def test_what_is_read_is_what_was_appended_in_that_order(database):
    rows = [
        event(f"e{number}", user_id=f"ü/{number % 3} 🎬", weight=0.1 * (number + 1), occurred_at=n)
        for number, n in enumerate([5, 3, 2**52, 0, 4])
    ]
    assert append(database, *rows[:2]) == 2
    assert append(database, *rows[2:]) == 3
    assert stored(database) == [tuple(row[1:]) for row in rows]


@pytest.mark.parametrize("batch_rows", [1, 3, 10, 11])
def test_batches_have_the_asked_size_and_the_schema(database, batch_rows):
    append(database, *(event(f"e{number}", occurred_at=number) for number in range(10)))
    with database.read() as connection:
        batches = list(interactions.read_batches(connection, batch_rows=batch_rows))
    assert all(batch.schema == interactions.SCHEMA for batch in batches)
    assert [batch.num_rows for batch in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    times = [time for batch in batches for time in batch.column("occurred_at").to_pylist()]
    assert times == list(range(10))


def test_an_empty_store_gives_nothing(database):
    with database.read() as connection:
        assert list(interactions.read_batches(connection)) == []
        assert interactions.of_user(connection, "u").num_rows == 0
        assert interactions.of_user(connection, "u").schema == interactions.SCHEMA
        assert interactions.count(connection) == 0
        assert interactions.last_id(connection) == 0
        assert interactions.is_empty(connection)
        assert interactions.latest_of_user(connection, "u", n=5) == []
    assert append(database) == 0


def test_of_several_with_one_event_id_the_first_stands(database):
    assert append(database, event("same", item_id="first")) == 1
    assert append(database, event("same", item_id="second"), event("other")) == 1
    assert [row[1] for row in stored(database)] == ["first", "i"]


def test_within_one_batch_too_the_first_stands(database):
    assert append(database, event("same", item_id="a"), event("same", item_id="b")) == 1
    assert [row[1] for row in stored(database)] == ["a"]


def test_a_duplicate_does_not_change_the_watchlist(database):
    append(database, event("same", interaction_type=ADD, occurred_at=5))
    append(
        database,
        event("same", interaction_type=REMOVE, occurred_at=9),
        event("new", interaction_type=ADD, item_id="j", occurred_at=6),
    )
    assert watchlist(database, "u") == [("j", 6), ("i", 5)]


def test_a_duplicate_within_a_batch_does_not_change_the_watchlist(database):
    append(
        database,
        event("same", interaction_type=ADD, occurred_at=5),
        event("same", interaction_type=REMOVE, occurred_at=9),
    )
    assert watchlist(database, "u") == [("i", 5)]


def test_a_failed_transaction_leaves_nothing(database):
    def fail():
        with database.write() as connection:
            interactions.append(connection, [event("e", interaction_type=ADD)])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert stored(database) == []
    assert watchlist(database, "u") == []


def test_of_user_reads_what_is_newer(database):
    append(database, event("a"), event("b", user_id="other"), event("c", item_id="j"))
    with database.read() as connection:
        last = interactions.last_id(connection)
    append(database, event("d", item_id="k"), event("e", user_id="other"))
    with database.read() as connection:
        newer = interactions.of_user(connection, "u", after=last)
        whole = interactions.of_user(connection, "u")
    assert newer.column("item_id").to_pylist() == ["k"]
    assert whole.column("item_id").to_pylist() == ["i", "j", "k"]


def test_latest_of_user_goes_by_time_then_arrival(database):
    append(
        database,
        event("a", occurred_at=5),
        event("b", occurred_at=9),
        event("c", occurred_at=9),
        event("d", user_id="other", occurred_at=99),
        event("e", occurred_at=1),
    )
    with database.read() as connection:
        latest = interactions.latest_of_user(connection, "u", n=3)
    assert [row["event_id"] for row in latest] == ["c", "b", "a"]


def test_a_reader_sees_one_moment_while_others_write(database):
    append(database, event("a"))
    with database.read() as connection:
        assert interactions.count(connection) == 1
        append(database, event("b"))
        assert interactions.count(connection) == 1
        assert interactions.last_id(connection) == 1
    with database.read() as connection:
        assert interactions.count(connection) == 2


# The watchlist

changes = st.lists(
    st.tuples(
        st.sampled_from([ADD, REMOVE, "click"]),
        st.sampled_from(["i", "j"]),
        st.integers(1, 4),  # few moments, many ties
    ),
    max_size=8,
)
users = itertools.count()


@given(events=changes, cuts=st.lists(st.integers(1, 7), max_size=3))
def test_the_watchlist_is_what_the_latest_changes_say(database, events, cuts):
    """In whatever batches and order they come: by time, of equal times by arrival."""
    user_id = f"user {next(users)}"
    rows = [
        event(f"{user_id}-{n}", user_id=user_id, item_id=item, interaction_type=kind, occurred_at=t)
        for n, (kind, item, t) in enumerate(events)
    ]
    bounds = [0, *sorted(set(cuts)), len(rows)]
    for start, stop in itertools.pairwise(bounds):
        append(database, *rows[start:stop])
    expected = {}
    for row in sorted(rows, key=lambda row: row.occurred_at):
        if row.interaction_type == ADD:
            expected[row.item_id] = row.occurred_at
        elif row.interaction_type == REMOVE:
            expected.pop(row.item_id, None)
    assert dict(watchlist(database, user_id)) == expected
    with database.read() as connection:
        for item_id in ("i", "j"):
            listed = item_id in dict(interactions.watchlist_of(connection, user_id))
            assert listed == (item_id in expected)


@given(events=st.permutations([(ADD, 1), (REMOVE, 2), (ADD, 3), (REMOVE, 5), (ADD, 4)]))
def test_the_order_of_arrival_of_a_pairs_changes_does_not_matter(database, events):
    user_id = f"user {next(users)}"
    for kind, time in events:
        row = event(f"{user_id}-{time}", user_id=user_id, interaction_type=kind, occurred_at=time)
        append(database, row)
    assert watchlist(database, user_id) == []


def test_watchlist_shows_the_latest_addition_first(database):
    append(
        database,
        *(
            event(f"e{n}", item_id=item, interaction_type=ADD, occurred_at=n)
            for n, item in [(3, "c"), (7, "a"), (5, "b")]
        ),
    )
    assert watchlist(database, "u") == [("a", 7), ("b", 5), ("c", 3)]
    assert watchlist(database, "nobody") == []


# Imports


def begin(database, **fields):
    with database.write() as connection:
        return imports.begin(connection, **{"source": "x.csv", "fingerprint": "f", **fields})


def append_imported(database, import_id, *events, refused=0):
    with database.write() as connection:
        return imports.append(connection, import_id, list(events), refused=refused)


def undo(database, import_id, *, limit=1000):
    deleted = []
    while True:
        with database.write() as connection:
            deleted.append(interactions.delete_imported(connection, import_id, limit=limit))
        if not deleted[-1]:
            return deleted


def test_an_import_counts_what_became_of_its_rows(database):
    append(database, event("there"))
    import_id = begin(database)
    assert append_imported(database, import_id, event("a"), event("there"), refused=2) == 1
    assert append_imported(database, import_id, event("b"), event("a")) == 1
    with database.write() as connection:
        imports.set_status(connection, import_id, imports.COMPLETE)
    with database.read() as connection:
        row = imports.get(connection, import_id)
        assert imports.all_imports(connection) == [row]
    assert (row["accepted"], row["duplicates"], row["refused"]) == (2, 2, 2)
    assert row["status"] == imports.COMPLETE
    assert row["finished_at"] >= row["started_at"]


def test_an_import_is_taken_out_whole_and_nothing_else(database):
    first, second = begin(database), begin(database)
    append(database, event("own1"))
    append_imported(database, first, *(event(f"a{n}", item_id=f"a{n}") for n in range(5)))
    append_imported(database, second, *(event(f"b{n}", item_id=f"b{n}") for n in range(3)))
    append_imported(database, first, event("a5", item_id="a5"))
    append(database, event("own2", item_id="j"))
    assert undo(database, first, limit=4) == [4, 2, 0]
    assert [row[1] for row in stored(database)] == ["i", "b0", "b1", "b2", "j"]
    assert undo(database, first) == [0]


def test_what_was_taken_out_can_come_again(database):
    import_id = begin(database)
    append_imported(database, import_id, event("a"))
    undo(database, import_id)
    assert append(database, event("a")) == 1


@given(
    events=st.lists(
        st.tuples(
            st.booleans(), st.sampled_from([ADD, REMOVE]), st.sampled_from("ij"), st.integers(1, 4)
        ),
        max_size=8,
    ),
    limit=st.integers(1, 4),
)
def test_taking_an_import_out_leaves_the_watchlist_of_the_rest(database, events, limit):
    user_id = f"user {next(users)}"
    import_id = begin(database)
    expected = {}
    for number, (imported, kind, item, time) in enumerate(events):
        row = event(
            f"{user_id}-{number}",
            user_id=user_id,
            item_id=item,
            interaction_type=kind,
            occurred_at=time,
        )
        if imported:
            append_imported(database, import_id, row)
        else:
            append(database, row)
    for imported, kind, item, time in sorted(events, key=lambda event: event[3]):
        if not imported and kind == ADD:
            expected[item] = time
        elif not imported:
            expected.pop(item, None)
    undo(database, import_id, limit=limit)
    assert dict(watchlist(database, user_id)) == expected


def test_numbers_never_come_again(database):
    """Or new interactions would lie below the watermark of a model that has not seen them."""
    import_id = begin(database)
    append_imported(database, import_id, *(event(f"e{n}") for n in range(5)))
    with database.read() as connection:
        last = interactions.last_id(connection)
    undo(database, import_id)
    with database.read() as connection:
        assert interactions.last_id(connection) == last
    append(database, event("new", item_id="new"))
    with database.read() as connection:
        assert interactions.last_id(connection) > last
        newer = interactions.of_user(connection, "u", after=last)
    assert newer.column("item_id").to_pylist() == ["new"]


def test_demo_data_is_there_until_it_is_undone(database):
    begin(database)
    with database.read() as connection:
        assert imports.demo(connection) is None
    import_id = begin(database, is_demo=True)
    with database.read() as connection:
        assert imports.demo(connection)["import_id"] == import_id
    with database.write() as connection:
        imports.set_status(connection, import_id, imports.UNDONE)
    with database.read() as connection:
        assert imports.demo(connection) is None
        assert imports.get(connection, 99) is None


# The catalogue


def test_items_are_added_and_replaced(database):
    import_id = begin(database)
    with database.write() as connection:
        assert items.put(connection, []) == 0
        assert items.put(connection, [Item("i", "Old", {}), Item("j", None, {"year": 1999})]) == 2
        assert items.put(connection, [Item("i", "Nëw", {"genres": ["a", "b"]})]) == 1
        items.put(connection, [Item("k", "Imported", {})], import_id=import_id)
    with database.read() as connection:
        assert items.get_many(connection, ["i", "j", "unknown"]) == {
            "i": Item("i", "Nëw", {"genres": ["a", "b"]}),
            "j": Item("j", None, {"year": 1999}),
        }
        assert items.get_many(connection, []) == {}
    with database.write() as connection:
        assert imports.delete_items(connection, import_id) == 1
        assert items.get_many(connection, "ijk").keys() == {"i", "j"}


# Jobs


def end(database, job_id):
    with database.write() as connection:
        assert jobs.update(connection, job_id, status=jobs.SUCCEEDED, finished_at=storage.now())


def start(database, trigger="manual"):
    with database.write() as connection:
        return jobs.insert(connection, trigger=trigger)


def test_jobs_are_paged_from_the_latest(database):
    numbers = []
    for _ in range(5):
        numbers.append(start(database))
        end(database, numbers[-1])
    numbers.reverse()
    with database.read() as connection:
        pages = [jobs.page(connection, limit=2, before=None)]
        while pages[-1]:
            pages.append(jobs.page(connection, limit=2, before=pages[-1][-1]["job_id"]))
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [job["job_id"] for page in pages for job in page] == numbers


def test_one_job_runs_at_a_time(database):
    job_id = start(database, trigger="schedule")
    with pytest.raises(JobRunningError) as caught:
        start(database)
    assert caught.value.details == {"job_id": job_id, "kind": "retrain"}
    with database.read() as connection:
        job = jobs.running(connection)
    assert (job["job_id"], job["trigger"], job["stage"]) == (job_id, "schedule", "starting")
    end(database, job_id)
    with database.read() as connection:
        assert jobs.running(connection) is None
    assert start(database) > job_id


def test_a_job_keeps_what_was_asked_and_what_was_found(database):
    request = {"recipe": "spectral", "settings": {"power": 0.5}, "tune_seconds": 1.5}
    with database.write() as connection:
        job_id = jobs.insert(connection, trigger="manual", kind=jobs.EVALUATE, request=request)
        job = jobs.get(connection, job_id)
        assert (job["kind"], job["request"]) == ("evaluate", request)
        assert (job["progress"], job["result"], job["finish_requested"]) == (None, None, False)
        with pytest.raises(JobRunningError, match="compares the recipes") as caught:
            jobs.insert(connection, trigger="manual")
        assert caught.value.details == {"job_id": job_id, "kind": "evaluate"}

    found = {"progress": {"n_tried": 3, "ndcg": 0.25}, "result": {"recipes": [{"a": [1, None]}]}}
    with database.write() as connection:
        assert jobs.update(connection, job_id, finish_requested=True, **found)

    with database.read() as connection:
        job = jobs.get(connection, job_id)
        (listed,) = jobs.page(connection, limit=1, before=None)
    assert {name: job[name] for name in found} == found
    assert job["finish_requested"] is True
    assert job.keys() - listed.keys() == {"result"}  # a list stays small
    assert listed == {name: job[name] for name in listed}


def test_the_database_itself_lets_one_job_run(database):
    job_id = start(database)
    other = {
        "status": "running",
        "trigger": "x",
        "stage": "x",
        "fraction": 0,
        "started_at": 1,
        "heartbeat_at": 1,
    }
    with pytest.raises(StorageError), database.write() as connection:
        connection.execute(tables.training_jobs.insert().values(other))
    with database.read() as connection:
        assert [job["job_id"] for job in jobs.page(connection, limit=9, before=None)] == [job_id]


def test_a_job_that_has_ended_is_not_changed(database):
    job_id = start(database)
    end(database, job_id)
    with database.write() as connection:
        assert not jobs.update(connection, job_id, stage="reading")
        assert not jobs.update(connection, 99, stage="reading")
    with database.read() as connection:
        assert jobs.get(connection, job_id)["stage"] == "starting"
        assert jobs.get(connection, 99) is None


def test_a_silent_job_is_interrupted_and_a_loud_one_is_not(database):
    job_id = start(database)
    with database.write() as connection:
        heartbeat_at = jobs.get(connection, job_id)["heartbeat_at"]
        assert jobs.interrupt_silent(connection, silent_since=heartbeat_at) == []
        assert jobs.interrupt_silent(connection, silent_since=heartbeat_at + 1) == [job_id]
        job = jobs.get(connection, job_id)
    assert (job["status"], job["error_code"]) == (jobs.INTERRUPTED, "interrupted")
    assert job["finished_at"] >= job["started_at"]


# Versions


def version_row(version):
    return {
        "version": version,
        "recipe": "svd",
        "settings": {"n_components": 10},
        "n_users": 6,
        "n_items": 12,
        "training_samples": 100,
        "explained_variance": 0.5,
        "watermark": 7,
        "trained_at": 1,
        "seconds": 0.5,
        "trigger": "manual",
        "job_id": None,
        "is_demo": False,
        "native_bytes": 1,
        "native_sha256": "a",
        "pickle_bytes": 1,
        "pickle_sha256": "b",
    }


def test_versions(database):
    with database.write() as connection:
        assert models.last_version(connection) == 0
        assert models.active_version(connection) is None
        assert models.active(connection) is None
        for version in (1, 2, 3):
            models.insert(connection, version_row(version))
        assert models.active(connection) is None
        models.set_active(connection, 2)
        assert models.active(connection)["version"] == models.active_version(connection) == 2
        models.set_active(connection, 3)
        assert models.active(connection)["version"] == 3
        models.mark_deleted(connection, 3)
        assert models.active(connection) is None
        assert [row["version"] for row in models.all_versions(connection)] == [2, 1]
        assert models.get(connection, 3) is None
        assert models.last_version(connection) == 3
        models.set_active(connection, 1)
        models.set_active(connection, None)
        assert models.active_version(connection) is None
    with pytest.raises(StorageError), database.write() as connection:
        models.insert(connection, version_row(3))


def test_the_database_itself_lets_one_version_be_active(database):
    with database.write() as connection:
        models.insert(connection, version_row(1))
        models.insert(connection, version_row(2))
        models.set_active(connection, 1)
    with pytest.raises(StorageError), database.write() as connection:
        connection.execute(tables.models.update().values(is_active=True))
    with database.read() as connection:
        assert models.active_version(connection) == 1


# The trail


def test_the_trail_shows_the_latest_first(database):
    with database.write() as connection:
        for number in range(3):
            storage.audit_log.insert(
                connection, actor="cli", action="a", subject=f"model {number}", details={"n": [1]}
            )
        latest = storage.audit_log.latest(connection, limit=2)
    assert [entry["subject"] for entry in latest] == ["model 2", "model 1"]
    assert latest[0]["details"] == {"n": [1]}
    assert 0 <= storage.now() - latest[0]["at"] < 60_000_000


# Several processes

WRITE = """
import sys
from reckeeper import storage
from reckeeper.config import Settings

database = storage.open_database(Settings.from_env())
name = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
for transaction in range(200):
    rows = [
        storage.Interaction(f"{name}-{transaction}-{n}", name, f"i{n}", "watchlist_add", 1.0, n)
        for n in range(50)
    ]
    with database.write() as connection:
        assert storage.interactions.append(connection, rows) == 50
database.close()
"""


def test_two_processes_write_at_once(database, start_python):
    writers = [start_python(WRITE, name) for name in ("anna", "ben")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    counts = []
    while any(writer.poll() is None for writer in writers):
        with database.read() as connection:
            batches = interactions.read_batches(connection)
            counts.append(sum(batch.num_rows for batch in batches))
            assert interactions.count(connection) == counts[-1]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    assert counts == sorted(counts)
    assert all(count % 50 == 0 for count in counts)
    rows = stored(database)
    assert len(rows) == 20_000
    assert {user for user, *_ in rows} == {"anna", "ben"}
    assert len(watchlist(database, "anna")) == len(watchlist(database, "ben")) == 50
