"""What every store must do; run on each that there is."""

import itertools
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.unit.small_models import stored_version

from reckeeper import clock, storage
from reckeeper.errors import JobRunningError, StorageError
from reckeeper.interactions import Interaction, schema
from reckeeper.storage import (
    Item,
    activity,
    imports,
    interactions,
    items,
    jobs,
    leases,
    models,
    notices,
    policies,
    tables,
    timeline,
)

ADD, REMOVE = "watchlist_add", "watchlist_remove"


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
    assert all(batch.schema == schema() for batch in batches)
    assert [batch.num_rows for batch in batches[:-1]] == [batch_rows] * (len(batches) - 1)
    times = [time for batch in batches for time in batch.column("occurred_at").to_pylist()]
    assert times == list(range(10))


def test_an_empty_store_gives_nothing(database):
    with database.read() as connection:
        assert list(interactions.read_batches(connection)) == []
        assert interactions.of_user(connection, "u").num_rows == 0
        assert interactions.of_user(connection, "u").schema == schema()
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


@pytest.mark.parametrize("n_rows", [49, 50, 201, 1_103])  # one statement takes several
def test_of_many_rows_too_the_first_stands(database, n_rows):
    append(database, event("e7", user_id="before"))
    rows = [event(f"e{n % (n_rows - 9)}", user_id=f"u{n}", occurred_at=n) for n in range(n_rows)]
    assert append(database, *rows) == n_rows - 10
    new = [row[1:] for row in rows[: n_rows - 9] if row[0] != "e7"]
    assert stored(database) == [event("", user_id="before")[1:], *new]


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


def test_several_users_are_read_at_once_with_the_numbers_of_their_interactions(database):
    append(database, *(event(f"e{n}", user_id="abc"[n % 3], item_id=f"i{n}") for n in range(9)))
    with database.read() as connection:
        last = interactions.last_id(connection)
        found = interactions.of_users(connection, ["c", "nobody", "a"], after=last - 6)
        assert list(found) == ["c", "nobody", "a"]
        assert [numbers for numbers, _ in found.values()] == [
            [last - 3, last],
            [],
            [last - 5, last - 2],
        ]
        for user_id, (_, batch) in found.items():
            assert batch.equals(interactions.of_user(connection, user_id, after=last - 6))
        assert interactions.of_users(connection, []) == {}


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
    assert [row.event_id for row in latest] == ["c", "b", "a"]


def test_the_most_popular_items_are_those_of_most_users(database):
    append(
        database,
        event("0", user_id="a", item_id="old"),
        *[event(f"{user}1", user_id=user, item_id="x") for user in "ab"],
        event("again", user_id="a", item_id="x"),
        event("seen", user_id="c", item_id="x", weight=0.0),
        event("other", user_id="c", item_id="x", interaction_type="dismiss"),
        *[event(f"{user}2", user_id=user, item_id="Y", interaction_type=ADD) for user in "ab"],
        event("one", user_id="a", item_id="z"),
    )
    with database.read() as connection:
        found = interactions.most_popular(connection, ["click", ADD], among=8)
        assert found == [("Y", 2), ("x", 2), ("z", 1)]
        assert interactions.most_popular(connection, ["click"], among=1) == [("z", 1)]
        assert interactions.most_popular(connection, [], among=9) == []
        assert interactions.latest_users(connection, among=9) == ["a", "b", "c"]
        assert interactions.latest_users(connection, among=1) == ["a"]
        among = {"among": 8, "left_out": ["a", *map(str, range(70_000))]}
        assert interactions.most_popular(connection, ["click"], **among) == [("x", 1)]


def test_what_was_long_ago_counts_less_for_what_is_popular(database):
    newest = 1_000_000_000_000_000
    ages = {"new": [0], "half": [100, 100], "mixed": [0, 50, 100, 150, 250, 300], "old": [newest]}
    append(
        database,
        *[
            event(f"{item}{n}", user_id=f"u{n}", item_id=item, occurred_at=newest - age)
            for item, ages_of_item in ages.items()
            for n, age in enumerate(ages_of_item)
        ],
        event("before", user_id="u0", item_id="new", occurred_at=newest - 1000),
        event("early", user_id="u0", item_id="early", occurred_at=-5),
    )
    with database.read() as connection:
        found = interactions.most_popular(connection, ["click"], among=99, half_life=100)
        assert found == [
            ("mixed", 1 + 0.75 + 0.5 + 0.375 + 0.1875 + 0.125),
            ("half", 1.0),
            ("new", 1.0),
            ("early", 0.0),
            ("old", 0.0),
        ]
        found = interactions.most_popular(connection, ["click"], among=99, half_life=10**18)
        assert [item for item, _ in found] == ["mixed", "half", "new", "old", "early"]


def test_a_reader_sees_one_moment_while_others_write(database):
    append(database, event("a"))
    with database.read() as connection:
        assert interactions.count(connection) == 1
        append(database, event("b"))
        assert interactions.count(connection) == 1
        assert interactions.last_id(connection) == 1
    with database.read() as connection:
        assert interactions.count(connection) == 2


def test_interactions_are_counted_around_a_watermark(database):
    with database.read() as connection:
        assert interactions.sizes(connection) == (0, 0, 0)
        assert interactions.first_later_than(connection, 0) is None
        assert interactions.count_after(connection, 0, at_most=5) == 0
    append(
        database,
        event("a", user_id="u", item_id="i", occurred_at=50),
        event("b", user_id="v", item_id="i", occurred_at=10),
        event("c", user_id="v", item_id="j", occurred_at=50),
        event("d", user_id="w", item_id="i", occurred_at=60),
    )
    with database.read() as connection:
        last = interactions.last_id(connection)
        watermark = last - 2
        assert interactions.count_up_to(connection, watermark) == 2
        assert interactions.count_up_to(connection, last) == 4
        assert interactions.count_up_to(connection, 0) == 0
        for at_most, counted in [(0, 0), (1, 1), (2, 2), (9, 2)]:
            assert interactions.count_after(connection, watermark, at_most=at_most) == counted
        assert interactions.count_after(connection, last, at_most=9) == 0
        assert interactions.sizes(connection) == (4, 3, 2)
        moments = {0: last - 3, 10: last - 3, 49: last - 3, 50: last, 60: None}
        for moment, first in moments.items():
            assert interactions.first_later_than(connection, moment) == first


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


def test_the_latest_interactions_are_told_of_by_type_time_and_weight(database):
    hour = 3_600_000_000
    append(
        database,
        event("old", user_id="old"),
        *(event(f"a{n}", user_id="a", occurred_at=n * hour) for n in range(1, 4)),
        event("b", user_id="b", item_id="j", interaction_type="buy", occurred_at=2 * hour + 1),
    )
    with database.read() as connection:
        found = activity.summary(connection, among=4, n_heaviest=1)
        assert (found.n, found.first_at, found.last_at) == (4, hour, 3 * hour)
        assert (found.types, found.bucket_seconds) == ({"buy": 1, "click": 3}, 300)
        assert [(each.start // hour, each.interaction_type, each.n) for each in found.buckets] == [
            (1, "click", 1), (2, "buy", 1), (2, "click", 1), (3, "click", 1),
        ]  # fmt: skip
        assert (found.users, found.items) == ([("a", 3)], [("i", 3)])
        assert [row.event_id for row in activity.latest(connection, n=2)] == ["b", "a3"]
        (buy,) = activity.latest(connection, n=2, interaction_type="buy")
        assert (buy.user_id, buy.item_id) == ("b", "j")
        assert activity.latest(connection, n=2, interaction_type="buy", among=0) == []


def test_where_nothing_came_in_nothing_is_told(database):
    with database.read() as connection:
        found = activity.summary(connection, among=10, n_heaviest=3)
    assert (found.n, found.first_at, found.buckets, found.users) == (0, None, [], [])


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
    assert (row.accepted, row.duplicates, row.refused) == (2, 2, 2)
    assert row.status == imports.COMPLETE
    assert row.finished_at >= row.started_at


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


def test_who_took_something_away_begins_a_generation(database):
    def generation():
        with database.read() as connection:
            return storage.installation.generation(connection)

    import_id = begin(database)
    append_imported(database, import_id, event("a"))
    append(database, event("b"))
    before = generation()
    assert undo(database, import_id) == [1, 0]
    after = generation()
    assert after > before
    assert undo(database, import_id) == [0]
    append(database, event("c"))
    assert generation() == after, "nothing was taken away"


def test_users_of_what_came_after_a_number_are_listed_in_order(database):
    append(database, *(event(f"e{n}", user_id=f"u{n % 3}") for n in range(5)))
    with database.read() as connection:
        every = interactions.users_after(connection, 0, limit=10)
        assert [user_id for _, user_id in every] == ["u0", "u1", "u2", "u0", "u1"]
        numbers = [number for number, _ in every]
        assert numbers == sorted(numbers)
        assert interactions.users_after(connection, numbers[1], limit=2) == every[2:4]
        assert interactions.users_after(connection, numbers[-1], limit=2) == []


def test_users_come_in_pages(database):
    users = ["", *(f"ü{n}" for n in range(7)), "U", "a b"]
    append(database, *(event(f"e{n}", user_id=users[1 + n % 9]) for n in range(30)))
    with database.read() as connection:
        assert interactions.n_users(connection) == 9
        read, after = [], ""
        while page := interactions.user_page(connection, after=after, limit=4):
            assert len(page) <= 4
            read, after = read + page, page[-1]
        assert sorted(read) == sorted(users[1:])


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
        assert imports.demo(connection).import_id == import_id
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
        assert items.delete_imported(connection, import_id) == 1
        assert items.get_many(connection, "ijk").keys() == {"i", "j"}


# Jobs


def end(database, job_id):
    with database.write() as connection:
        assert jobs.end(connection, job_id, status=jobs.SUCCEEDED)


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
            pages.append(jobs.page(connection, limit=2, before=pages[-1][-1].job_id))
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [job.job_id for page in pages for job in page] == numbers


def test_one_job_runs_at_a_time(database):
    job_id = start(database, trigger="schedule")
    with pytest.raises(JobRunningError) as caught:
        start(database)
    assert caught.value.details == {"job_id": job_id, "kind": "retrain"}
    with database.read() as connection:
        job = jobs.running(connection)
    assert (job.job_id, job.trigger, job.stage) == (job_id, "schedule", "starting")
    end(database, job_id)
    with database.read() as connection:
        assert jobs.running(connection) is None
    assert start(database) > job_id


def test_a_job_keeps_what_was_asked_and_what_was_found(database):
    request = {"recipe": "spectral", "settings": {"power": 0.5}, "tune_seconds": 1.5}
    with database.write() as connection:
        job_id = jobs.insert(connection, trigger="manual", kind=jobs.EVALUATE, request=request)
        job = jobs.get(connection, job_id)
        assert (job.kind, job.request) == ("evaluate", request)
        assert (job.progress, job.result, job.finish_requested) == (None, None, False)
        with pytest.raises(JobRunningError, match="compares the recipes") as caught:
            jobs.insert(connection, trigger="manual")
        assert caught.value.details == {"job_id": job_id, "kind": "evaluate"}

    found = {"progress": {"n_tried": 3, "ndcg": 0.25}, "result": {"recipes": [{"a": [1, None]}]}}
    with database.write() as connection:
        assert jobs.update(connection, job_id, finish_requested=True, **found)

    with database.read() as connection:
        job = jobs.get(connection, job_id)
        (listed,) = jobs.page(connection, limit=1, before=None)
    assert {name: getattr(job, name) for name in found} == found
    assert job.finish_requested is True
    assert vars(job) == {**vars(listed), "result": found["result"]}  # a list stays small


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
        assert [job.job_id for job in jobs.page(connection, limit=9, before=None)] == [job_id]


def test_a_job_that_has_ended_is_not_changed(database):
    job_id = start(database)
    end(database, job_id)
    with database.write() as connection:
        assert not jobs.update(connection, job_id, stage="reading")
        assert not jobs.update(connection, 99, stage="reading")
    with database.read() as connection:
        assert jobs.get(connection, job_id).stage == "starting"
        assert jobs.get(connection, 99) is None


def lapse(connection):
    connection.execute(tables.leases.update().values(expires_at=clock.now()))


def test_a_job_keeps_who_asked_why_and_what_it_could_see(database):
    append(database, event("a"), event("b"))
    cause = {"rule": "every_interactions", "n": 1043, "sentence": "…"}
    with database.write() as connection:
        job_id = jobs.insert(
            connection, trigger="rule", actor="schedule", cause=cause, holder="worker 7"
        )
        job = jobs.get(connection, job_id)
        assert job.watermark == interactions.last_id(connection)
    assert (job.actor, job.cause, job.fence) == ("schedule", cause, 1)
    assert (job.cancel_requested, job.promoted, job.verdict) == (False, None, None)
    found = {"verdict": {"decision": "reject", "reasons": ["worse"]}, "promoted": False}
    with database.write() as connection:
        assert jobs.end(connection, job_id, status=jobs.SUCCEEDED, version=3, **found)
        job = jobs.get(connection, job_id)
    assert {name: getattr(job, name) for name in found} == found
    assert (job.status, job.version) == ("succeeded", 3)
    assert job.finished_at >= job.started_at


def test_the_latest_retrain_whatever_became_of_it(database):
    with database.read() as connection:
        assert jobs.last_retrain(connection) is None
    first = start(database)
    end(database, first)
    second = start(database)
    with database.write() as connection:
        assert jobs.end(connection, second, status=jobs.FAILED)
        evaluation = jobs.insert(connection, trigger="manual", kind=jobs.EVALUATE)
        assert jobs.last_retrain(connection).job_id == second < evaluation


def test_a_job_holds_the_lease_until_it_ends(database):
    job_id = start(database)
    with database.write() as connection:
        assert jobs.is_held(connection, job_id)
        assert not jobs.has_lapsed(connection)
        assert jobs.interrupt_lapsed(connection) == []
        assert not jobs.is_held(connection, 99)
    end(database, job_id)
    with database.write() as connection:
        assert not jobs.is_held(connection, job_id)
        assert not jobs.has_lapsed(connection)
        assert not jobs.end(connection, job_id, status=jobs.FAILED)
        assert jobs.beat(connection, job_id) is None
        assert jobs.get(connection, job_id).status == jobs.SUCCEEDED


def test_a_beat_renews_the_lease(database):
    job_id = start(database)
    with database.write() as connection:
        lapse(connection)
        assert jobs.has_lapsed(connection)
        before = jobs.get(connection, job_id)
        after = jobs.beat(connection, job_id)
        assert after.heartbeat_at >= before.heartbeat_at
        assert not jobs.has_lapsed(connection)
        assert jobs.interrupt_lapsed(connection) == []


def test_a_job_whose_lease_has_lapsed_is_interrupted(database):
    job_id = start(database)
    with database.write() as connection:
        lapse(connection)
        assert jobs.interrupt_lapsed(connection) == [job_id]
        assert jobs.interrupt_lapsed(connection) == []
        job = jobs.get(connection, job_id)
    assert (job.status, job.error_code) == (jobs.INTERRUPTED, "interrupted")
    assert job.finished_at >= job.started_at


def test_of_two_that_believe_they_hold_the_lease_the_older_one_is_refused(database):
    older = start(database)
    with database.write() as connection:
        lapse(connection)
    newer = start(database)
    with database.write() as connection:
        fences = [jobs.get(connection, job_id).fence for job_id in (older, newer)]
        assert fences == [1, 2]
        # Even if the row still said that it runs.
        connection.execute(
            tables.training_jobs.update()
            .where(tables.training_jobs.c.job_id == newer)
            .values(status=jobs.SUCCEEDED)
        )
        connection.execute(
            tables.training_jobs.update()
            .where(tables.training_jobs.c.job_id == older)
            .values(status=jobs.RUNNING)
        )
        assert not jobs.is_held(connection, older)
        assert not jobs.update(connection, older, stage="writing")
        assert jobs.beat(connection, older) is None
        assert not jobs.end(connection, older, status=jobs.SUCCEEDED)
        assert jobs.has_lapsed(connection)
        assert jobs.interrupt_lapsed(connection) == [older]


def test_a_lease_that_another_holds_without_a_job_keeps_jobs_out(database):
    with database.write() as connection:
        assert leases.take(connection, leases.TRAINING, holder="somebody", seconds=60) == 1
    with pytest.raises(JobRunningError, match="in a moment"):
        start(database)


# Leases


def test_a_lease_has_one_holder_and_a_growing_fence(database):
    with database.write() as connection:
        assert leases.take(connection, "a", holder="anna", seconds=60) == 1
        assert leases.take(connection, "a", holder="ben", seconds=60) is None
        assert leases.take(connection, "b", holder="ben", seconds=60) == 1
        leases.release(connection, "a", fence=1)
        assert leases.take(connection, "a", holder="ben", seconds=0) == 2
        assert leases.take(connection, "a", holder="anna", seconds=60) == 3  # ben's has lapsed
        assert leases.take(connection, "a", holder="ben", seconds=60) is None


def test_a_lease_by_a_clock_that_ran_ahead_has_lapsed(database):
    with database.write() as connection:
        assert leases.take(connection, "a", holder="anna", seconds=86_400) == 1
        assert leases.holder(connection, "a") is None
        assert leases.take(connection, "a", holder="ben", seconds=60) == 2
        assert leases.holder(connection, "a") == "ben"


def test_a_notice_by_a_clock_that_ran_ahead_is_due(database):
    with database.write() as connection:
        number = notices.insert(connection, event="stale", payload={})
        for ahead, found in ((3600, None), (30 * 86_400, number)):
            at = clock.now() + ahead * clock.SECOND
            connection.execute(tables.notices.update().values(next_attempt_at=at))
            due = notices.first_due(connection)
            assert (due and due.notice_id) == found


def test_only_its_holder_renews_and_releases_a_lease(database):
    with database.write() as connection:
        assert not leases.renew(connection, "a", fence=1, seconds=60)
        assert leases.take(connection, "a", holder="anna", seconds=0) == 1
        assert leases.renew(connection, "a", fence=1, seconds=60)
        assert leases.take(connection, "a", holder="ben", seconds=60) is None
        assert leases.renew(connection, "a", fence=1, seconds=0)
        assert leases.take(connection, "a", holder="ben", seconds=60) == 2
        assert not leases.renew(connection, "a", fence=1, seconds=0)
        leases.release(connection, "a", fence=1)
        assert leases.take(connection, "a", holder="cleo", seconds=60) is None


# Versions


def test_versions(database):
    with database.write() as connection:
        assert models.last_version(connection) == 0
        assert models.active_version(connection) is None
        assert models.active(connection) is None
        for version in (1, 2, 3):
            models.insert(connection, stored_version(version))
        assert models.active(connection) is None
        models.set_active(connection, 2)
        assert models.active(connection).version == models.active_version(connection) == 2
        models.set_active(connection, 3)
        assert models.active(connection).version == 3
        models.mark_deleted(connection, 3)
        assert models.active(connection) is None
        assert [row.version for row in models.all_versions(connection)] == [2, 1]
        assert models.get(connection, 3) is None
        assert models.last_version(connection) == 3
        models.set_active(connection, 1)
        models.set_active(connection, None)
        assert models.active_version(connection) is None
    with pytest.raises(StorageError), database.write() as connection:
        models.insert(connection, stored_version(3))


def test_a_version_keeps_what_is_told_of_it(database):
    told = {
        "fingerprint": "f" * 32,
        "latest_at": 1_700_000_000_000_000,
        "data": {"weights": {"click": 1.0}},
        "cause": {"rule": "schedule"},
        "metrics": {"ndcg@10": {"mean": 0.1, "low": 0.0, "high": 0.2}},
        "verdict": {"decision": "promote", "reasons": []},
        "peak_memory_bytes": 2**40,
        "libraries": {"numpy": "2"},
        "decided": {"order": 0.5},
        "origin": {"version": 7},
        "note": "für später",
        "pinned_at": 1,
        "pinned_until": 2,
    }
    with database.write() as connection:
        models.insert(connection, stored_version(1, **told))
        models.insert(connection, stored_version(2))
        row = models.get(connection, 1)
        assert row == stored_version(1, **told)
        assert models.get(connection, 2) == stored_version(2)
        models.set_note(connection, 2, "a note")
        models.set_pin(connection, 2, pinned_at=3, pinned_until=None)
        models.set_verdict(connection, 2, {"decision": "reject"})
        assert models.get(connection, 2) == stored_version(
            2, note="a note", pinned_at=3, verdict={"decision": "reject"}
        )
        assert models.get(connection, 1) == row
        models.set_note(connection, 1, None)
        assert models.get(connection, 1).note is None
        models.mark_deleted(connection, 2)
        assert models.deleted_versions(connection) == {2}


def test_a_list_of_versions_has_what_is_small(database):
    small = {
        "decision": "reject",
        "standing": "worse",
        "sentence": "Würse.",
        "disposition": "rejected",
        "outcome": "Stays.",
    }
    verdict = {**small, "reasons": ["x"]}
    large = {"data": {"a": 1}, "cause": {"rule": "schedule"}, "origin": {"version": 7}}
    with database.write() as connection:
        assert models.listed(connection) == []
        models.insert(connection, stored_version(1, verdict=verdict, **large))
        models.insert(connection, stored_version(2, verdict={"decision": "promote"}))
        models.insert(connection, stored_version(3))
        models.insert(connection, stored_version(4))
        models.mark_deleted(connection, 4)
        serve(connection, None, action="delete")
        serve(connection, 2)
        rows = models.listed(connection)
        assert [row.version for row in rows] == [3, 2, 1]
        assert [row.served for row in rows] == [False, True, False]
        assert [row.verdict for row in rows] == [
            None, {"decision": "promote", "sentence": None}, small
        ]  # fmt: skip
        assert not vars(rows[-1]).keys() & large.keys()
        assert models.get(connection, 1).verdict == verdict


def test_the_version_that_was_trained_last_here(database):
    job_id = start(database)
    with database.write() as connection:
        assert models.last_trained(connection) is None
        models.insert(connection, stored_version(1, job_id=job_id))
        models.insert(connection, stored_version(2, job_id=job_id))
        models.insert(connection, stored_version(3))  # imported
        models.mark_deleted(connection, 2)
        assert models.last_trained(connection).version == 2


def test_numbers_of_versions_never_come_again(database):
    with database.write() as connection:
        assert models.reserved_versions(connection) == set()
        assert models.reserve(connection, above=0, job_id=None) == 1
        assert models.reserve(connection, above=0, job_id=None) == 2
        assert models.reserve(connection, above=7, job_id=None) == 8
        models.insert(connection, stored_version(11))
        models.mark_deleted(connection, 11)
        assert (models.last_number(connection), models.last_version(connection)) == (11, 11)
        assert models.reserve(connection, above=3, job_id=None) == 12
        assert (models.last_number(connection), models.last_version(connection)) == (12, 11)
        assert models.reserved_versions(connection) == {1, 2, 8, 12}


def test_a_reserved_number_is_free_again_after_a_failed_transaction(database):
    def fail():
        with database.write() as connection:
            models.reserve(connection, above=0, job_id=None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with database.write() as connection:
        assert models.reserve(connection, above=0, job_id=None) == 1


def test_unfinished_are_the_numbers_that_never_become_versions(database):
    job_id = start(database)
    soon = clock.now() + 60_000_000
    with database.write() as connection:
        of_job = models.reserve(connection, above=0, job_id=job_id)
        registered = models.reserve(connection, above=0, job_id=job_id)
        models.insert(connection, stored_version(registered))
        of_import = models.reserve(connection, above=0, job_id=None)
        assert models.unfinished(connection, reserved_before=0) == []
        assert models.unfinished(connection, reserved_before=soon) == [of_import]
    end(database, job_id)
    with database.read() as connection:
        assert models.unfinished(connection, reserved_before=0) == [of_job]
        assert sorted(models.unfinished(connection, reserved_before=soon)) == [of_job, of_import]


def test_the_database_itself_lets_one_version_be_active(database):
    with database.write() as connection:
        models.insert(connection, stored_version(1))
        models.insert(connection, stored_version(2))
        models.set_active(connection, 1)
    with pytest.raises(StorageError), database.write() as connection:
        connection.execute(tables.models.update().values(is_active=True))
    with database.read() as connection:
        assert models.active_version(connection) == 1


# What served when


def serve(connection, version, *, back_to=None, action="activate"):
    return timeline.insert(
        connection, version=version, action=action, actor="test", back_to=back_to
    )


def test_the_timeline_tells_from_when_until_when(database):
    with database.write() as connection:
        assert timeline.latest(connection) is None
        assert timeline.page(connection, limit=9) == []
        assert timeline.before(connection) is None
        first = serve(connection, 1)
        second = timeline.insert(
            connection, version=2, action="promote", actor="worker", reason="gute Gründe",
            job_id=7, back_to=first,
        )  # fmt: skip
        third = serve(connection, None, action="delete")
        whole = timeline.page(connection, limit=9)
        assert [entry.entry_id for entry in whole] == [third, second, first]
        assert [entry.until for entry in whole] == [None, whole[0].at, whole[1].at]
        assert timeline.page(connection, limit=1) == whole[:1]
        assert timeline.page(connection, limit=2, before=third) == whole[1:]
        assert timeline.page(connection, limit=9, before=first) == []
        assert timeline.latest(connection) == whole[0]
        entry = timeline.get(connection, second)
        assert entry == whole[1]
        assert (entry.reason, entry.job_id, entry.back_to) == ("gute Gründe", 7, first)
        assert timeline.get(connection, 99) is None
        assert timeline.of_version(connection, 2) == [whole[1]]
        assert timeline.of_version(connection, 9) == []


def test_a_roll_back_leads_to_what_served_before_and_is_there(database):
    with database.write() as connection:
        for version in (1, 2, 3):
            models.insert(connection, stored_version(version))
        first = serve(connection, 1)
        assert timeline.before(connection) is None
        second = serve(connection, 2, back_to=first)
        assert timeline.before(connection).entry_id == first
        again = serve(connection, 2, back_to=second)  # the same version is no way back
        assert timeline.before(connection).entry_id == first
        nothing = serve(connection, None, back_to=again)
        assert timeline.before(connection).entry_id == again
        third = serve(connection, 3, back_to=nothing)
        assert timeline.before(connection).entry_id == again
        models.mark_deleted(connection, 2)
        assert timeline.before(connection).entry_id == first
        # Rolled back, as the registry does: from here the way leads further back.
        serve(connection, 1, back_to=None, action="rollback")
        assert timeline.before(connection) is None
        serve(connection, 3, back_to=third)
        models.mark_deleted(connection, 1)
        assert timeline.before(connection) is None


# Policies


def test_the_policy_that_was_stored_last_is_in_force(database):
    with database.write() as connection:
        assert policies.latest(connection) is None
        assert policies.page(connection, limit=9) == []
        contents = [{"margin": 0.01 * n, "left_out_users": ["ü*"]} for n in range(3)]
        revisions = [
            policies.insert(connection, policy=content, actor="api", reason=f"reason {n}")
            for n, content in enumerate(contents)
        ]
        assert revisions == [1, 2, 3]
        latest = policies.latest(connection)
        assert latest.revision == 3
        assert (latest.policy, latest.reason, latest.actor) == (
            contents[2], "reason 2", "api"
        )  # fmt: skip
        assert 0 <= clock.now() - latest.at < 60_000_000
        page = policies.page(connection, limit=1, before=3)
        assert [(row.revision, row.policy) for row in page] == [(2, contents[1])]


# Notices


def notice(database, **fields):
    with database.write() as connection:
        return notices.insert(connection, **{"event": "promoted", "payload": {}, **fields})


def set_outcome(connection, number, *, next_attempt_at, delivered_at=None, last_error=None):
    notices.set_outcome(
        connection,
        number,
        next_attempt_at=next_attempt_at,
        delivered_at=delivered_at,
        last_error=last_error,
    )


def test_notices_are_due_in_their_order_until_they_are_dealt_with(database):
    with database.read() as connection:
        assert notices.first_due(connection) is None
    numbers = [notice(database, payload={"version": n}) for n in range(3)]
    later = clock.now() + 60_000_000
    with database.write() as connection:
        first = notices.first_due(connection)
        assert (first.notice_id, first.payload) == (numbers[0], {"version": 0})
        assert (first.event, first.attempts) == ("promoted", 0)
        set_outcome(connection, numbers[0], next_attempt_at=later, last_error="refused")
        assert notices.first_due(connection).notice_id == numbers[1]
        set_outcome(connection, numbers[1], delivered_at=later, next_attempt_at=None)
        assert notices.first_due(connection).notice_id == numbers[2]
        notices.drop_due(connection)
        assert notices.first_due(connection) is None
        # What was put off is not dropped with what was due.
        set_outcome(connection, numbers[0], next_attempt_at=1, last_error="refused")
        again = notices.first_due(connection)
        assert (again.notice_id, again.last_error) == (numbers[0], "refused")


def test_one_process_takes_a_notice(database):
    number = notice(database)
    with database.read() as connection:
        seen = notices.first_due(connection)
    until = clock.now() + 60_000_000
    with database.write() as connection:
        assert notices.take(connection, seen, until=until)
        assert not notices.take(connection, seen, until=until + 1)  # who saw the same row
        assert notices.first_due(connection) is None
        set_outcome(connection, number, next_attempt_at=1)
        assert notices.first_due(connection).attempts == 1


def test_of_notices_with_one_key_the_first_stands(database):
    first = notice(database, payload={"n": 1}, key="stale 3")
    assert notice(database, payload={"n": 2}, key="stale 3") is None
    other = notice(database, payload={"n": 3}, key="stale 4")
    with database.write() as connection:
        set_outcome(connection, first, next_attempt_at=None)
        assert notices.has(connection, "stale 3")
        assert not notices.has(connection, "stale 5")
        assert notices.first_due(connection).notice_id == other
    assert notice(database, payload={"n": 4}, key="stale 3") is None


# The trail


def entry(entry_id, **fields):
    whole = {
        "at": clock.now(),
        "actor": "cli",
        "action": "act",
        "subject": f"model {entry_id}",
        "details": json.dumps({"n": [entry_id, "ü", None]}),
        "previous_hash": "",
        "hash": "a" * 64,
    }
    return storage.AuditEntry(entry_id=entry_id, **(whole | fields))


def test_the_trail_shows_the_latest_first(database):
    with database.write() as connection:
        assert storage.audit_log.latest(connection, limit=2) == []
        assert storage.audit_log.last(connection) is None
        entries = [entry(number) for number in (1, 2, 3)]
        for row in entries:
            storage.audit_log.insert(connection, row)
        assert storage.audit_log.latest(connection, limit=2) == [entries[2], entries[1]]
        assert storage.audit_log.latest(connection, limit=9, before=2) == [entries[0]]


def test_the_trail_is_read_in_order_with_its_details_as_text(database):
    entries = [entry(number, previous_hash="a" * 64, hash="b" * 64) for number in (3, 1, 2)]
    with database.write() as connection:
        for row in entries:
            storage.audit_log.insert(connection, row)
        found = list(storage.audit_log.in_order(connection))
        assert storage.audit_log.last(connection) == found[-1]
        assert storage.audit_log.hash_of(connection, 2) == "b" * 64
        assert storage.audit_log.hash_of(connection, 9) is None
    assert [row.entry_id for row in found] == [1, 2, 3]
    assert found == sorted(entries, key=lambda row: row.entry_id)


def test_an_entry_is_never_overwritten(database):
    with database.write() as connection:
        storage.audit_log.insert(connection, entry(1))
    with pytest.raises(StorageError), database.write() as connection:
        storage.audit_log.insert(connection, entry(1, actor="somebody else"))
    with database.read() as connection:
        assert storage.audit_log.last(connection).actor == "cli"


# Several processes

WRITE = """
import sys
from reckeeper import storage
from reckeeper.config import Settings
from reckeeper.interactions import Interaction

database = storage.open_database(Settings.from_env())
name = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
for transaction in range(200):
    rows = [
        Interaction(f"{name}-{transaction}-{n}", name, f"i{n}", "watchlist_add", 1.0, n)
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
