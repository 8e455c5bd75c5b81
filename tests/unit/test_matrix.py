"""The interaction matrix, held against a plain reading of its rules."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from reckeeper import matrix
from reckeeper.errors import DataError
from reckeeper.matrix import IdIndex
from reckeeper.storage.interactions import SCHEMA

ADD, REMOVE = "watchlist_add", "watchlist_remove"
WEIGHTS = {"click": 1.0, ADD: 2.0, "dislike": -1.5}

# Weights are sums of powers of two, so that sums are exact in any order.
rows = st.tuples(
    st.sampled_from(["u", "ü", "U", "10", "9", "😀", "\uffff"]),
    st.sampled_from(["i", "j", "10", "9", "a/b"]),
    st.sampled_from(["click", ADD, ADD, REMOVE, REMOVE, "dislike", "unheard of"]),
    st.sampled_from([0.25, 0.5, 1.0, 3.0]),
    st.integers(1, 5),
)
UNTIMED = pa.schema([field for field in SCHEMA if field.name != "occurred_at"])


def batch(*rows):
    columns = zip(*rows, strict=True) if rows else [[] for _ in SCHEMA]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def stored(built):
    """Return what a matrix stores, explicit zeros too, by external ids."""
    coordinates = built.weights.tocoo()
    return {
        (built.users.ids[row], built.items.ids[column]): weight
        for row, column, weight in zip(
            coordinates.row, coordinates.col, coordinates.data, strict=True
        )
    }


def reference(rows):
    sums = {}
    in_time = sorted(enumerate(rows), key=lambda entry: (entry[1][4], entry[0]))
    for place, (_, (user, item, kind, weight, _)) in enumerate(in_time):
        taken_back = kind == ADD and any(
            later[:3] == (user, item, REMOVE) for _, later in in_time[place + 1 :]
        )
        counted = 0.0 if taken_back else WEIGHTS.get(kind, 0.0) * weight
        sums[user, item] = sums.get((user, item), 0.0) + counted
    return {pair: max(weight, 0.0) for pair, weight in sums.items()}


@given(events=st.lists(rows, max_size=25), cut=st.integers(0, 25))
def test_build_is_what_the_rules_say(events, cut):
    batches = [batch(*events[:cut]), batch(*events[cut:])]
    built = matrix.build(batches, type_weights=WEIGHTS)
    assert stored(built) == reference(events)
    assert built.users.ids == sorted({row[0] for row in events})
    assert built.items.ids == sorted({row[1] for row in events})
    assert built.weights.shape == (len(built.users), len(built.items))
    assert built.n_interactions == len(events)
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


@given(events=st.lists(rows, max_size=20))
def test_the_row_of_a_history_is_the_row_of_build(events):
    built = matrix.build([batch(*events)], type_weights=WEIGHTS)
    items = IdIndex([item for item in built.items.ids if item != "j"])
    for user_index, user_id in enumerate(built.users.ids):
        history = batch(*(row for row in events if row[0] == user_id))
        row = matrix.row_of_history(history, items=items, type_weights=WEIGHTS)
        whole = {
            items.find(item): weight
            for (user, item), weight in stored(built).items()
            if user == built.users.ids[user_index] and item != "j"
        }
        assert row == whole


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
    assert matrix.row_of_history(batch(), items=IdIndex(["i"]), type_weights=WEIGHTS) == {}


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
        (user, item, WEIGHTS.get(kind, 0.0) * weight, at, {ADD: 1, REMOVE: -1}.get(kind, 0))
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
