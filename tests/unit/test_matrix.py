"""The interaction matrix, held against a plain reading of its rules."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from reckeeper import matrix
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
