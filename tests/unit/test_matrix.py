"""The interaction matrix, held against a plain reading of its rules."""

import dataclasses
import fnmatch
import re

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from scipy import sparse

from reckeeper import matrix
from reckeeper.errors import DataError
from reckeeper.interactions import schema
from reckeeper.matrix import Histories, IdIndex, InteractionMatrix
from reckeeper.matrix.histories import of_rows

ADD, REMOVE = "watchlist_add", "watchlist_remove"
DISMISS, UNDO = "dismiss", "dismiss_undo"
LISTINGS = {ADD: 1, REMOVE: -1, DISMISS: 2, UNDO: -2}
WEIGHTS = {"click": 1.0, ADD: 2.0, "dislike": -1.5}

# Weights are sums of powers of two, so that sums are exact in any order.
rows = st.tuples(
    st.sampled_from(["u", "ü", "U", "10", "9", "😀", "\uffff"]),
    st.sampled_from(["i", "j", "10", "9", "a/b"]),
    st.sampled_from(["click", ADD, ADD, REMOVE, REMOVE, DISMISS, UNDO, "dislike", "unheard of"]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
    st.integers(1, 5),
)
UNTIMED = pa.schema([field for field in schema() if field.name != "occurred_at"])


def batch(*rows):
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema()]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema())


def stored(built):
    """Return what a matrix stores, explicit zeros too, by external ids."""
    coordinates = built.weights.tocoo()
    return {
        (built.users.ids[row], built.items.ids[column]): weight
        for row, column, weight in zip(
            coordinates.row, coordinates.col, coordinates.data, strict=True
        )
    }


def settled(rows):
    """Return the rows without dismissals that were taken back, and what takes them back."""
    return [row for row in rows if leaves_a_trace(row, rows)]


def leaves_a_trace(row, rows):
    return row[2] != UNDO and not (row[2] == DISMISS and undone(row, rows))


def undone(dismissal, rows):
    return any(row[:3] == (*dismissal[:2], UNDO) and row[4] >= dismissal[4] for row in rows)


def reference(rows):
    sums = {}
    in_time = sorted(enumerate(rows), key=lambda entry: (entry[1][4], entry[0]))
    for place, (_, (user, item, kind, weight, at)) in enumerate(in_time):
        taken_back = kind == ADD and any(
            later[:3] == (user, item, REMOVE) for _, later in in_time[place + 1 :]
        )
        dismissed = any(
            other[:3] == (user, item, DISMISS) and other[4] >= at and not undone(other, rows)
            for other in rows
        )
        counted = 0.0 if taken_back or dismissed else WEIGHTS.get(kind, 0.0) * weight
        sums[user, item] = sums.get((user, item), 0.0) + counted
    return {pair: max(weight, 0.0) for pair, weight in sums.items()}


@given(events=st.lists(rows, max_size=25), cut=st.integers(0, 25))
def test_build_is_what_the_rules_say(events, cut):
    batches = [batch(*events[:cut]), batch(*events[cut:])]
    built = matrix.build(batches, type_weights=WEIGHTS)
    counted = settled(events)
    assert stored(built) == reference(counted)
    assert built.users.ids == sorted({row[0] for row in counted})
    assert built.items.ids == sorted({row[1] for row in counted})
    assert built.weights.shape == (len(built.users), len(built.items))
    assert built.n_interactions == len(counted)
    assert built.has_taste == any(weight > 0 for weight in reference(counted).values())
    assert built.weights.has_canonical_format
    assert built.weights.dtype == np.float64


@given(data=st.data(), events=st.lists(rows, min_size=1, max_size=12, unique_by=lambda row: row[4]))
def test_the_order_of_rows_does_not_matter_while_their_times_differ(data, events):
    built = matrix.build([batch(*events)], type_weights=WEIGHTS)
    mixed = data.draw(st.permutations(events))
    again = matrix.build([batch(*mixed)], type_weights=WEIGHTS)
    assert (built.users.ids, built.items.ids) == (again.users.ids, again.items.ids)
    assert (built.weights != again.weights).nnz == 0
    assert np.array_equal(built.weights.indices, again.weights.indices)


def row_of(events, **how):
    """Sum one user's events: a weight and the latest time by item."""
    items = sorted({event[1] for event in events})
    summed = matrix.sum_row(
        np.array([items.index(event[1]) for event in events], dtype=np.int64),
        weight=np.array([WEIGHTS.get(event[2], 0.0) * event[3] for event in events]),
        occurred_at=np.array([event[4] for event in events], dtype=np.int64),
        listing=np.array([matrix.LISTINGS.get(event[2], 0) for event in events], dtype=np.int8),
        **how,
    )
    pairs = zip(summed.weights.tolist(), summed.latest_at.tolist(), strict=True)
    return dict(zip((items[key] for key in summed.keys.tolist()), pairs, strict=True))


@given(events=st.lists(rows, max_size=20))
def test_the_row_of_a_history_is_the_row_of_build(events):
    built = matrix.build([batch(*events)], type_weights=WEIGHTS)
    for user_index, user_id in enumerate(built.users.ids):
        row = row_of([event for event in events if event[0] == user_id])
        own = slice(*built.weights.indptr[user_index : user_index + 2])
        items = [built.items.ids[index] for index in built.weights.indices[own].tolist()]
        pairs = zip(built.weights.data[own].tolist(), built.latest_at[own].tolist(), strict=True)
        assert row == dict(zip(items, pairs, strict=True))


@given(
    data=st.data(),
    events=st.lists(rows.filter(lambda row: row[2] not in {ADD, REMOVE}), max_size=12),
    has_times=st.booleans(),
)
def test_the_order_of_rows_does_not_matter_to_dismissals(data, events, has_times):
    mixed = data.draw(st.permutations(events))
    made = []
    for told in (events, mixed):
        table = batch(*told) if has_times else batch(*told).select(UNTIMED.names)
        made.append(matrix.build([table], type_weights=WEIGHTS))
    assert stored(made[0]) == stored(made[1])
    if not has_times:
        assert stored(made[0]) == reference(settled([(*row[:4], 1) for row in events]))


@given(events=st.lists(rows, max_size=15))
def test_a_log_has_taste_where_its_matrix_has(events):
    log = read(*events)
    assert log.has_taste() == log.matrix().has_taste


def test_a_dismissal_takes_the_weight_of_what_came_before_until_it_is_taken_back():
    dismissed = [
        ("u", "clicked", "click", 1.0, 1),
        ("u", "clicked", ADD, 1.0, 5),
        ("u", "clicked", DISMISS, 1.0, 5),
        ("u", "again", DISMISS, 1.0, 5),
        ("u", "again", "click", 3.0, 6),
        ("u", "unseen", DISMISS, 1.0, 5),
        ("v", "clicked", "click", 1.0, 1),
    ]
    built = matrix.build([batch(*dismissed)], type_weights=WEIGHTS)
    assert stored(built) == {
        ("u", "clicked"): 0.0, ("u", "again"): 3.0, ("u", "unseen"): 0.0, ("v", "clicked"): 1.0,
    }  # fmt: skip
    undone = [("u", item, UNDO, 1.0, 7) for item in ("clicked", "again", "unseen")]
    built = matrix.build([batch(*dismissed, *undone)], type_weights=WEIGHTS)
    assert stored(built) == {
        ("u", "clicked"): 3.0, ("u", "again"): 3.0, ("v", "clicked"): 1.0,
    }  # fmt: skip


def test_a_removal_takes_back_additions_up_to_its_time_and_no_click():
    built = matrix.build(
        [
            batch(
                ("u", "i", REMOVE, 1.0, 5),
                ("u", "i", ADD, 1.0, 3),
                ("u", "i", "click", 1.0, 2),
                ("u", "i", ADD, 1.0, 6),
                ("u", "i", ADD, 1.0, 5),  # arrived after the removal of the same time
                ("u", "j", ADD, 1.0, 3),
                ("v", "i", ADD, 1.0, 3),
            )
        ],
        type_weights=WEIGHTS,
    )
    assert stored(built) == {("u", "i"): 5.0, ("u", "j"): 2.0, ("v", "i"): 2.0}


def test_sums_are_clipped_at_zero_only_when_all_is_added():
    built = matrix.build(
        [batch(("u", "i", "dislike", 2.0, 1)), batch(("u", "i", "click", 3.5, 2))],
        type_weights=WEIGHTS,
    )
    assert stored(built) == {("u", "i"): 0.5}


def test_a_pair_that_weighs_nothing_stays_as_a_stored_zero():
    events = [("u", "i", "unheard of", 1.0, 1), ("u", "j", "dislike", 1.0, 1)]
    built = matrix.build([batch(*events)], type_weights=WEIGHTS)
    assert stored(built) == {("u", "i"): 0.0, ("u", "j"): 0.0}


@pytest.mark.parametrize("batches", [[], [batch()]], ids=["no batch", "an empty batch"])
def test_nothing_gives_an_empty_matrix(batches):
    built = matrix.build(batches, type_weights=WEIGHTS)
    assert (len(built.users), len(built.items), built.n_interactions) == (0, 0, 0)
    assert built.weights.shape == (0, 0)
    assert row_of([]) == {}


def test_progress_is_told_after_each_batch():
    seen = []
    event = ("u", "i", "click", 1.0, 1)
    batches = [batch(event), batch(event, event), batch(event)]
    matrix.build(batches, type_weights=WEIGHTS, on_batch=seen.append)
    assert seen == [1, 3, 4]


def test_find():
    index = IdIndex(["", "10", "9", "a", "ä", "😀"])
    assert [index.find(external_id) for external_id in index.ids] == list(range(6))
    assert [index.find(external_id) for external_id in ("1", "b", "\U0010ffff")] == [None] * 3
    assert IdIndex([]).find("a") is None
    asked = ["1", index.ids[5], "b", index.ids[0], index.ids[5], "\U0010ffff"]
    assert index.find_each(asked).tolist() == [-1, 5, -1, 0, 5, -1]
    assert IdIndex([]).find_each(["a"]).tolist() == [-1]
    assert index.find_each([]).dtype == np.int64
    many = asked * 500
    assert index.find_each(many).tolist() == [-1, 5, -1, 0, 5, -1] * 500
    assert IdIndex([]).find_each(many).tolist() == [-1] * len(many)
    assert IdIndex(["b"]).find_each(many).tolist() == [-1, -1, 0, -1, -1, -1] * 500
    assert len(index) == 6


def read(*rows):
    return matrix.read_log([batch(*rows)], type_weights=WEIGHTS)


@given(events=st.lists(rows, max_size=20), cut=st.integers(0, 20))
def test_a_log_tells_each_interaction_in_the_order_read(events, cut):
    log = matrix.read_log([batch(*events[:cut]), batch(*events[cut:])], type_weights=WEIGHTS)
    told = [
        (log.users.ids[user], log.items.ids[item], weight, at, listing)
        for user, item, weight, at, listing in zip(
            log.user_index, log.item_index, log.weight, log.occurred_at, log.listing, strict=True
        )
    ]
    assert told == [
        (user, item, WEIGHTS.get(kind, 0.0) * weight, at, LISTINGS.get(kind, 0))
        for user, item, kind, weight, at in events
    ]
    assert len(log) == len(events)
    types = {"user_index": np.int32, "item_index": np.int32, "listing": np.int8,
             "weight": np.float64, "occurred_at": np.int64}  # fmt: skip
    assert all(getattr(log, name).dtype == dtype for name, dtype in types.items())


@given(data=st.data(), events=st.lists(rows, max_size=20))
def test_a_part_of_a_log_is_summed_as_if_the_rest_were_not_there(data, events):
    log = read(*events)
    keep = data.draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    kept = [event for event, is_kept in zip(events, keep, strict=True) if is_kept]
    part = log.matrix(np.array(keep, dtype=bool))
    assert stored(part) == reference(kept)
    assert (part.users, part.items) == (log.users, log.items)
    assert part.weights.shape == (len(log.users), len(log.items))
    assert part.weights.has_sorted_indices
    part.weights.check_format(full_check=True)
    assert part.n_interactions == len(kept)


def test_a_removal_that_is_left_out_takes_nothing_back():
    log = read(
        ("u", "i", ADD, 1.0, 1),
        ("u", "i", REMOVE, 1.0, 2),
        ("u", "j", ADD, 1.0, 1),
        ("u", "j", REMOVE, 1.0, 2),
    )
    part = log.matrix(np.array([True, False, True, True]))
    assert stored(part) == {("u", "i"): 2.0, ("u", "j"): 0.0}


@given(events=st.lists(rows, max_size=20))
def test_the_latest_time_of_each_pair_stands_beside_its_weight(events):
    built = read(*events).matrix()
    latest = {}
    for user, item, _, _, at in events:
        latest[user, item] = max(at, latest.get((user, item), at))
    assert list(stored(built)) == sorted(latest)
    assert built.latest_at.tolist() == [latest[pair] for pair in sorted(latest)]
    assert built.latest_at.dtype == np.int64


@given(events=st.lists(rows, max_size=20))
def test_pairs_are_numbered_as_a_matrix_stores_them(events):
    log = read(*events)
    pairs, weights = log.pairs(), log.matrix().weights.tocoo()
    assert np.array_equal(pairs.user_index, weights.row)
    assert np.array_equal(pairs.item_index, weights.col)
    assert np.array_equal(pairs.user_index[pairs.of_row], log.user_index)
    assert np.array_equal(pairs.item_index[pairs.of_row], log.item_index)


@pytest.mark.parametrize("has_column", [True, False])
def test_data_without_times(has_column):
    events = [
        ("u", "i", ADD, 1.0, None),
        ("u", "i", REMOVE, 1.0, None),
        ("u", "i", ADD, 0.5, None),
        ("u", "j", "click", 1.0, None),
    ]
    given_batch = batch(*events) if has_column else batch(*events).select(UNTIMED.names)
    log = matrix.read_log([given_batch, batch()], type_weights=WEIGHTS)
    assert log.occurred_at is None
    built = log.matrix()
    assert built.latest_at is None
    # The order of the rows stands for the order in time.
    assert stored(built) == {("u", "i"): 1.0, ("u", "j"): 1.0}


def test_times_of_some_interactions_only_are_refused():
    timed, untimed = ("u", "i", "click", 1.0, 1), ("u", "j", "click", 1.0, None)
    for batches in ([batch(timed, untimed, untimed)],
                    [batch(timed), batch(untimed, untimed).select(UNTIMED.names)]):  # fmt: skip
        with pytest.raises(DataError, match="2 of 3 interactions have no time: give each"):
            matrix.read_log(batches, type_weights=WEIGHTS)


@pytest.mark.parametrize("keep", [np.ones(2, dtype=bool), np.ones(1), np.ones((1, 1), dtype=bool)])
def test_what_does_not_say_which_rows_to_keep_is_refused(keep):
    with pytest.raises(DataError, match="one boolean for each of the 1 interactions"):
        read(("u", "i", "click", 1.0, 1)).matrix(keep)


def test_the_places_of_ids_among_others():
    ids, others = IdIndex(["10", "9", "a", "😀"]), IdIndex(["9", "b", "😀"])
    assert ids.places_in(others).tolist() == [-1, 0, -1, 2]
    assert others.places_in(ids).tolist() == [1, -1, 3]
    assert IdIndex([]).places_in(ids).tolist() == []
    assert ids.places_in(IdIndex([])).tolist() == [-1] * 4


@given(events=st.lists(rows, max_size=12), n_first=st.integers(0, 12))
def test_a_part_of_a_log_has_the_rows_that_were_asked_for(events, n_first):
    log = read(*events)
    for keep in (slice(n_first), np.arange(len(log)) < n_first):
        assert interactions(log.part(keep)) == interactions(log)[:n_first]
        assert (log.part(keep).users, log.part(keep).items) == (log.users, log.items)


def interactions(log):
    """Return each interaction of a log by external ids."""
    times = [None] * len(log) if log.occurred_at is None else log.occurred_at.tolist()
    columns = (log.weight.tolist(), times, log.listing.tolist())
    return [
        (log.users.ids[user], log.items.ids[item], *rest)
        for user, item, *rest in zip(log.user_index, log.item_index, *columns, strict=True)
    ]


# Fingerprint


@given(first=st.lists(rows, max_size=8), second=st.lists(rows, max_size=8))
def test_logs_have_the_same_fingerprint_if_they_have_the_same_interactions(first, second):
    logs = read(*first), read(*second)
    prints = [log.fingerprint() for log in logs]
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in prints)
    same = sorted(interactions(logs[0])) == sorted(interactions(logs[1]))
    assert (prints[0] == prints[1]) == same


@given(data=st.data(), events=st.lists(rows, max_size=12))
def test_a_fingerprint_does_not_depend_on_the_order_nor_on_the_blocks(data, events):
    mixed = data.draw(st.permutations(events))
    expected = read(*events).fingerprint()
    assert read(*mixed).fingerprint() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix.log, "_BLOCK", 3)
        assert read(*events).fingerprint() == expected


EVENT = ("u", "i", "click", 1.0, 5)
OTHERS = {
    "user": ("v", "i", "click", 1.0, 5),
    "item": ("u", "j", "click", 1.0, 5),
    "swapped": ("i", "u", "click", 1.0, 5),
    "type": ("u", "i", ADD, 0.5, 5),  # of the same effective weight
    "weight": ("u", "i", "click", 1.0000000000000002, 5),
    "time": ("u", "i", "click", 1.0, 6),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_whatever_changes_in_an_interaction_changes_the_fingerprint(other):
    rest = ("w", "k", "click", 1.0, 1)
    assert read(EVENT, rest).fingerprint() != read(other, rest).fingerprint()


def test_a_fingerprint_counts_and_is_the_same_everywhere():
    once, twice = read(EVENT).fingerprint(), read(EVENT, EVENT).fingerprint()
    untimed = dataclasses.replace(read(EVENT), occurred_at=None).fingerprint()
    nothing = read().fingerprint()
    assert len({once, twice, untimed, nothing}) == 4
    assert once == "4bacab13962b57545e77d5336d03e789"
    zero = dataclasses.replace(read(EVENT), weight=np.array([0.0])).fingerprint()
    assert dataclasses.replace(read(EVENT), weight=np.array([-0.0])).fingerprint() == zero


# What is trained on


DAY = 86_400_000_000
choices = st.fixed_dictionaries(
    {
        "half_life_days": st.sampled_from([None, 1.0, 2.5]),
        "window_days": st.sampled_from([None, 0.5, 1, 2, 100_000]),
        "left_out_users": st.lists(st.sampled_from(["u", "ü", "*", "1*", "*0", "x*", "10"])),
        "max_interactions_per_user": st.sampled_from([None, 1, 2, 4]),
    }
)


def in_days(event):
    return (*event[:4], event[4] * DAY)


def chosen_by_the_rules(events, *, half_life_days, window_days, left_out_users,
                        max_interactions_per_user):  # fmt: skip
    """Return (place, weight) of each interaction that stays, read plainly."""
    left = [
        place
        for place, event in enumerate(events)
        if leaves_a_trace(event, events)
        and not any(fnmatch.fnmatchcase(event[0], pattern) for pattern in left_out_users)
    ]
    latest = max((events[place][4] for place in left), default=0)
    counting = set()
    for place in left:
        user, *_, at = events[place]
        later = sum(
            events[other][0] == user and (events[other][4], other) > (at, place) for other in left
        )
        is_in_window = window_days is None or latest - at <= window_days * DAY
        if is_in_window and later < (max_interactions_per_user or len(events)):
            counting.add(place)
    users = {events[place][0] for place in counting}
    items = {events[place][1] for place in counting}
    found = []
    for place in left:
        user, item, kind, weight, at = events[place]
        if user in users and item in items:
            weight *= WEIGHTS.get(kind, 0.0) * (place in counting)
            if half_life_days is not None:
                weight *= 2 ** ((at - latest) / DAY / half_life_days)
            found.append((place, weight))
    return found


@given(events=st.lists(rows.map(in_days), max_size=14), choice=choices)
def test_what_is_chosen_is_what_the_rules_say(events, choice):
    log = read(*events)
    chosen, places = matrix.choose(log, **choice)
    expected = chosen_by_the_rules(events, **choice)
    assert places.tolist() == [place for place, _ in expected]
    assert chosen.weight == pytest.approx([weight for _, weight in expected], abs=0)
    told = [(user, item, at, listing) for user, item, _, at, listing in interactions(chosen)]
    whole = [(user, item, at, listing) for user, item, _, at, listing in interactions(log)]
    assert told == [whole[place] for place in places]
    assert chosen.users.ids == sorted({user for user, *_ in told})
    assert chosen.items.ids == sorted({item for _, item, *_ in told})
    types = [getattr(chosen, name).dtype for name in ("user_index", "item_index", "listing")]
    assert types == [np.int32, np.int32, np.int8]


def test_where_nothing_is_set_all_stays_as_it_is():
    log = read(EVENT, ("v", "j", REMOVE, 1.0, 1))
    chosen, places = matrix.choose(log, left_out_users=["x", "x*"], max_interactions_per_user=1)
    assert chosen is log
    assert places.tolist() == [0, 1]


def test_what_lies_outside_is_seen_and_weighs_nothing():
    log = read(
        *map(
            in_days,
            [
                ("u", "old", "click", 1.0, 1),  # nobody else has it
                ("u", "i", "click", 1.0, 2),
                ("u", "j", "click", 1.0, 9),
                ("v", "i", "click", 1.0, 9),
                ("w", "j", "click", 1.0, 2),  # has nothing else
            ],
        )
    )
    chosen, _ = matrix.choose(log, window_days=3)
    assert stored(chosen.matrix()) == {("u", "i"): 0.0, ("u", "j"): 1.0, ("v", "i"): 1.0}


def test_of_the_same_time_or_without_times_the_later_row_is_the_later_one():
    events = [("u", item, "click", 1.0, 1) for item in "ijk"]
    log = read(*events)
    for one in (log, dataclasses.replace(log, occurred_at=None)):
        chosen, places = matrix.choose(one, max_interactions_per_user=2)
        assert (chosen.items.ids, places.tolist()) == (["j", "k"], [1, 2])


@pytest.mark.parametrize("choice", [{"half_life_days": 1.0}, {"window_days": 1.0}])
def test_ages_need_times(choice):
    log = dataclasses.replace(read(EVENT), occurred_at=None)
    with pytest.raises(DataError, match="need times, and these interactions have none"):
        matrix.choose(log, **choice)


def test_extremes_of_age_overflow_nothing():
    log = read(*map(in_days, [("u", "i", "click", 1.0, 1), ("u", "j", "click", 1.0, 100)]))
    assert matrix.choose(log, half_life_days=1e-300)[0].weight.tolist() == [0.0, 1.0]
    assert matrix.choose(log, half_life_days=1e300)[0].weight.tolist() == [1.0, 1.0]
    assert matrix.choose(log, window_days=1e300)[0] is log
    nobody, places = matrix.choose(log, left_out_users=["*"], half_life_days=1.0, window_days=1.0)
    assert (len(nobody), len(nobody.users), len(nobody.items), len(places)) == (0, 0, 0, 0)


@given(
    text=st.text("ab*", max_size=8),
    pattern=st.text("ab*", max_size=6).filter(lambda pattern: "*" in pattern),
)
def test_a_star_stands_for_any_text(text, pattern):
    log = read((f"{text}.", "i", "click", 1.0, 1))
    chosen, _ = matrix.choose(log, left_out_users=[f"{pattern}."])
    assert (len(chosen) == 0) == fnmatch.fnmatchcase(text, pattern)


@given(events=st.lists(rows.map(in_days), min_size=1, max_size=20))
def test_a_history_is_weighed_by_its_age_as_in_training(events):
    chosen, _ = matrix.choose(read(*events), half_life_days=1.5)
    built = chosen.matrix()
    expected = stored(built)
    for user in built.users.ids:
        row = row_of(
            [event for event in events if event[0] == user],
            half_life_days=1.5,
            latest_at=int(chosen.occurred_at.max()),
        )
        own = {item: weight for (of, item), weight in expected.items() if of == user}
        assert {item: weight for item, (weight, _) in row.items()} == pytest.approx(own)


@given(
    events=st.lists(rows.map(in_days), min_size=1, max_size=20),
    window=st.sampled_from([None, 0.5, 2.0]),
    most=st.sampled_from([None, 1, 3]),
)
def test_a_history_has_the_window_and_the_cap_of_training(events, window, most):
    how = {"window_days": window, "max_interactions_per_user": most}
    chosen, _ = matrix.choose(read(*events), **how)
    if not len(chosen):
        return
    expected = stored(chosen.matrix())
    for user in chosen.users.ids:
        own = [event for event in events if event[0] == user]
        row = row_of(own, latest_at=int(chosen.occurred_at.max()), **how)
        trained = {item: weight for (of, item), weight in expected.items() if of == user}
        # What nobody has any more is no item in training, and was seen in a history.
        assert {item: row[item][0] for item in trained} == pytest.approx(trained)
        assert all(row[item][0] == 0.0 for item in row.keys() - trained.keys())


def test_what_is_newer_than_the_model_counts_more_up_to_a_bound():
    history = [*map(in_days, [("u", "i", "click", 1.0, 12), ("u", "j", "click", 1.0, 9000)])]

    def row(**of_age):
        return [weight for weight, _ in row_of(history, **of_age).values()]

    assert row(half_life_days=2.0, latest_at=10 * DAY) == [2.0, 2.0**20]
    assert row(half_life_days=8988.0) == [0.5, 1.0]  # ages count to its own latest
    assert row(latest_at=10 * DAY) == [1.0, 1.0]


# Histories


@st.composite
def timed_pairs(draw):
    """Draw users × items of weights, some 0, with times, a few of them as far apart as can be."""
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    places = st.tuples(*(st.integers(0, n - 1) for n in shape))
    scale, base = draw(st.sampled_from([(1, 0), (-(10**15), 5), (2**60, -(2**62))]))
    pairs = draw(st.lists(places, unique=True, max_size=30).map(sorted))
    n = len(pairs)
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n))
    times = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    rows_, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    indptr = np.searchsorted(rows_, np.arange(shape[0] + 1))
    return (
        sparse.csr_array((np.array(weights, dtype=np.float64), columns, indptr), shape=shape),
        np.array(times, dtype=np.int64) * scale + base,
    )


def counted(weights, times):
    """Count by hand, in the order of ``weights.data``."""
    found = []
    for start, stop in zip(weights.indptr[:-1], weights.indptr[1:], strict=True):
        own = list(zip(times[start:stop].tolist(), weights.data[start:stop], strict=True))
        found += [len({at for at, weight in own if weight > 0 and at > time}) for time, _ in own]
    return found


@given(case=timed_pairs())
def test_steps_are_the_distinct_later_times_with_taste(case):
    weights, times = case
    histories = Histories.of_times(weights, times)
    assert histories.weights is weights
    if histories.n_later is None:
        assert len(np.unique(times)) <= 1
    else:
        assert histories.n_later.dtype == np.int32
        assert histories.n_later.tolist() == counted(weights, times)
    assert Histories.of_times(weights, None).n_later is None


def test_many_steps_are_counted_as_few():
    random = np.random.default_rng(0)
    lengths = np.array([0, 30_000, 0, 0, *random.integers(0, 40, 1500), 0])
    n = int(lengths.sum())
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    weights = sparse.csr_array(
        (random.integers(0, 3, n).astype(np.float64), np.zeros(n, dtype=np.int32), indptr),
        shape=(len(lengths), 1),
    )
    for times in (random.integers(0, 300, n), random.integers(0, 2**62, n)):
        n_later = Histories.of_times(weights, times).n_later
        of_most = np.unique(times[:30_000][weights.data[:30_000] > 0])
        later = len(of_most) - np.searchsorted(of_most, times[:30_000], side="right")
        assert n_later[:30_000].tolist() == later.tolist()
        assert n_later[30_000:].tolist() == counted(weights[2:], times[30_000:])


@given(case=timed_pairs(), data=st.data())
def test_chosen_histories_keep_their_order(case, data):
    weights, times = case
    whole = Histories.of_times(weights, times)
    some = st.integers(0, len(whole) - 1)
    rows_ = data.draw(
        st.one_of(
            st.lists(some, max_size=8).map(lambda places: np.array(places, dtype=np.int64)),
            st.lists(st.booleans(), min_size=len(whole), max_size=len(whole)).map(np.array),
            st.builds(slice, some, some),
        )
    )
    chosen = whole[rows_]
    np.testing.assert_array_equal(chosen.weights.toarray(), weights.toarray()[rows_])
    built = InteractionMatrix(
        IdIndex(range(len(whole))), IdIndex(range(weights.shape[1])), weights, 1, times
    )
    again = built.histories_of(rows_)
    np.testing.assert_array_equal(again.weights.data, chosen.weights.data)
    np.testing.assert_array_equal(chosen.lengths, np.diff(weights.indptr)[rows_])
    if whole.n_later is not None:
        zeros = np.zeros(chosen.weights.nnz)
        np.testing.assert_array_equal(
            chosen.n_later, zeros if again.n_later is None else again.n_later
        )
        assert chosen.n_later.tolist() == counted(chosen.weights, of_rows(times, weights, rows_))


@given(case=timed_pairs(), data=st.data())
def test_items_without_a_place_are_left_out_and_stay_steps(case, data):
    histories = Histories.of_times(*case)
    n_items = histories.weights.shape[1]
    places = np.array(data.draw(st.permutations(range(-2, n_items)))[:n_items])
    renamed = histories.renamed(np.maximum(places, -1), n_items=n_items)
    dense = np.zeros_like(histories.weights.toarray())
    dense[:, places[places >= 0]] = histories.weights.toarray()[:, places >= 0]
    np.testing.assert_array_equal(renamed.weights.toarray(), dense)
    if histories.n_later is not None:
        kept = places[histories.weights.indices] >= 0
        assert renamed.n_later.tolist() == histories.n_later[kept].tolist()


@given(data=st.data(), events=st.lists(rows, min_size=1, max_size=20))
def test_the_order_of_rows_and_the_names_make_no_difference_to_steps(data, events):
    def steps(events, name=lambda text: text):
        built = matrix.build([batch(*events)], type_weights={"click": 1.0, ADD: 2.0})
        n_later = built.histories.n_later
        n_later = np.zeros(built.weights.nnz) if n_later is None else n_later
        return {
            (name(user), name(item)): step
            for (user, item), step in zip(stored(built), n_later.tolist(), strict=True)
        }

    events = [row for row in events if row[2] not in {ADD, REMOVE}]  # of one time, order tells
    turned = [(row[0][::-1] + "~", row[1][::-1] + "~", *row[2:]) for row in events]
    mixed = data.draw(st.permutations(turned))
    assert steps(mixed, name=lambda text: text[-2::-1]) == steps(events)
