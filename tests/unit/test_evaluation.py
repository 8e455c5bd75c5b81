"""Splits, metrics and intervals, held against plain readings, tables and other libraries."""

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
import pytrec_eval
from hypothesis import example, given
from scipy import sparse, stats
from sklearn.metrics import ndcg_score

from reckeeper import evaluation, matrix
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.evaluation import Figure, PairedDifference, Quality, segments
from reckeeper.evaluation.confidence import expanded_tail
from reckeeper.interactions import schema
from reckeeper.matrix import Histories
from reckeeper.ranking import Ranker

ADD, REMOVE = "watchlist_add", "watchlist_remove"
WEIGHTS = {"click": 1.0, ADD: 2.0, "dislike": -1.5}

rows = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["i", "j", "k", "l", "m", "n", "o"]),
    st.sampled_from(["click", "click", "click", ADD, REMOVE, "dislike", "unheard of"]),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.integers(1, 9),
)
events_of_many = st.lists(rows, max_size=60)
shares = st.floats(0.01, 0.99)


def read(rows, *, has_times=True):
    fields = list(schema()) if has_times else list(schema())[:4]
    columns = [[row[place] for row in rows] for place in range(len(fields))]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    return matrix.read_log([batch], type_weights=WEIGHTS)


def clicks(*pairs):
    """Return a click for each (user, item), one after the other."""
    return [(user, item, "click", 1.0, at) for at, (user, item) in enumerate(pairs, start=1)]


def stored(pairs):
    """Return what a sparse matrix stores, by row and column."""
    pairs = pairs.tocoo()
    places = zip(pairs.row.tolist(), pairs.col.tolist(), strict=True)
    return dict(zip(places, pairs.data.tolist(), strict=True))


def steps(histories):
    """Return how many steps ago each stored pair was, 0 where there is no order."""
    pairs = histories.weights.tocoo()
    n_later = np.zeros(pairs.nnz) if histories.n_later is None else histories.n_later
    return dict(zip(zip(pairs.row.tolist(), pairs.col.tolist(), strict=True), n_later, strict=True))


def plain_steps(built):
    """Count them one by one: distinct later times of what the same user likes."""
    pairs = built.weights.tocoo()
    found = list(
        zip(pairs.row.tolist(), pairs.col.tolist(), pairs.data, built.latest_at, strict=True)
    )
    return {
        (user, item): len({at for one, _, weight, at in found
                           if one == user and weight > 0 and at > time})
        for user, item, _, time in found
    }  # fmt: skip


def held_items(split, log):
    """Return each user's held-out items by external ids."""
    held = {}
    for user, item in stored(split.held_out):
        held.setdefault(log.users.ids[user], []).append(log.items.ids[item])
    return held


def wanted_pairs(log):
    return {pair for pair, weight in stored(log.matrix().weights).items() if weight > 0}


def equal(first, second):
    return (
        first.kind == second.kind
        and stored(first.train.weights) == stored(second.train.weights)
        and stored(first.held_out) == stored(second.held_out)
    )


def trains_on_the_past_only(split, log):
    """Whether a split by time trains on what happened before its cut, on all of it and no more.

    The cut of a user lies at the first row of that user's held-out pairs. A
    cut for all lies before the first row of any held-out pair.
    """
    is_held = split.held_out.toarray()[log.user_index, log.item_index] > 0
    if split.kind == "time":
        last = split.train.latest_at.max()
        if is_held.any() and last >= log.occurred_at[is_held].min():
            return False
        before = log.occurred_at <= last
    else:
        # Rows of one time may be on both sides; those kept are no leak.
        cut = np.full(len(log.users), np.iinfo(np.int64).max)
        np.minimum.at(cut, log.user_index[is_held], log.occurred_at[is_held])
        cut = cut[log.user_index]
        before = (log.occurred_at < cut) | ((log.occurred_at == cut) & split.keep)
    honest = log.matrix(before)
    return stored(split.train.weights) == stored(honest.weights) and np.array_equal(
        split.train.latest_at, honest.latest_at
    )


# Splits


SPLITS = {
    "user_time": evaluation.split_user_time,
    "time": evaluation.split_time,
    "random": evaluation.split_random,
    "popular": lambda log, **kwargs: evaluation.split_random(log, popularity_power=0.5, **kwargs),
}


each_kind = pytest.mark.parametrize("kind", SPLITS)


@each_kind
@given(events=events_of_many, share=shares)
def test_a_pair_is_on_one_side_and_keeps_its_place(kind, events, share):
    log = read([*events, *clicks(("a", "i"), ("b", "j"))])
    split = SPLITS[kind](log, share=share)
    assert split.kind == kind
    assert not stored(split.train.weights).keys() & stored(split.held_out).keys()
    assert split.train.users is log.users
    assert split.train.items is log.items
    assert split.train.weights.shape == split.held_out.shape == log.matrix().weights.shape
    assert stored(split.histories.weights) == stored(split.train.weights)
    assert steps(split.histories) == plain_steps(split.train)
    assert set(stored(split.held_out).values()) <= {1.0}
    assert split.held_out.dtype == np.float32
    split.held_out.check_format(full_check=True)
    assert split.held_out.has_canonical_format


@pytest.mark.parametrize("kind", ["user_time", "random", "popular"])
@given(events=events_of_many, share=shares)
def test_the_share_is_taken_of_what_each_user_wants(kind, events, share):
    log = read(events)
    split = SPLITS[kind](log, share=share)
    held = stored(split.held_out).keys()
    wanted = wanted_pairs(log)
    assert held <= wanted
    for user in range(len(log.users)):
        n_wanted = sum(pair[0] == user for pair in wanted)
        n_held = sum(pair[0] == user for pair in held)
        if n_wanted < 2:
            assert n_held == 0
        else:
            assert 1 <= n_held <= n_wanted - 1
            assert abs(n_held - share * n_wanted) <= 0.5 or n_held in (1, n_wanted - 1)
        assert split.train.weights[[user]].nnz >= 1


@given(events=events_of_many, share=shares)
def test_nothing_after_the_cut_is_in_training(events, share):
    log = read(events)
    log = without_ties(log)
    assert trains_on_the_past_only(evaluation.split_user_time(log, share=share), log)


@given(events=events_of_many, share=shares)
def test_a_cut_in_time_parts_all_interactions(events, share):
    log = read([*events, ("a", "i", "click", 1.0, 1), ("a", "i", "click", 1.0, 9)])
    split = evaluation.split_time(log, share=share)
    assert trains_on_the_past_only(split, log)
    before = log.occurred_at <= split.train.latest_at.max()
    assert stored(split.train.weights) == stored(log.matrix(before).weights)
    assert split.train.n_interactions == before.sum()
    known = stored(split.train.weights).keys()
    after = stored(log.matrix(~before).weights)
    assert stored(split.held_out).keys() == {
        pair for pair, weight in after.items() if weight > 0 and pair not in known
    }
    # As near to the share as whole moments allow: with the moment before it, it were too much.
    last = log.occurred_at == split.train.latest_at.max()
    if len(set(log.occurred_at[before])) > 1:
        assert (~before | last).sum() > share * len(log) - 0.5
    if (log.occurred_at[~before] > log.occurred_at[~before].min()).any():
        later = log.occurred_at > log.occurred_at[~before].min()
        assert later.sum() <= share * len(log) + 0.5


def without_ties(log):
    """Give each row a time of its own, in the same order."""
    order = np.argsort(log.occurred_at, kind="stable")
    times = np.empty(len(log), dtype=np.int64)
    times[order] = np.arange(len(log))
    return dataclasses.replace(log, occurred_at=times)


def planted(log, split, keep):
    return dataclasses.replace(split, train=log.matrix(keep), keep=keep)


def test_a_planted_leak_is_caught():
    """The check of the two tests above fails where training has seen the future."""
    log = read(
        [
            ("a", "i", "click", 1.0, 1),
            ("a", "j", "click", 1.0, 2),
            ("a", "k", "click", 1.0, 5),
            ("a", "i", "click", 1.0, 6),  # later than the cut, of a pair from before it
            ("b", "i", "click", 1.0, 1),
            ("b", "j", "click", 1.0, 7),
        ]
    )
    all_rows = np.ones(len(log), dtype=bool)
    split = evaluation.split_user_time(log, share=0.3)
    assert held_items(split, log) == {"a": ["k"], "b": ["j"]}
    assert trains_on_the_past_only(split, log)
    assert not trains_on_the_past_only(planted(log, split, all_rows), log)
    only_pairs = np.array([True, True, False, True, True, False])
    assert not trains_on_the_past_only(planted(log, split, only_pairs), log)

    split = evaluation.split_time(log, share=0.5)
    assert held_items(split, log) == {"a": ["k"], "b": ["j"]}
    assert trains_on_the_past_only(split, log)
    assert not trains_on_the_past_only(planted(log, split, all_rows), log)
    assert not trains_on_the_past_only(planted(log, split, only_pairs), log)


class Memory:
    """Scores each user's items by what it saw of that user: nothing but a leak helps it."""

    is_personal = False

    def __init__(self, seen, histories):
        self._row_of = {self._key(histories.weights, row): row for row in range(len(histories))}
        self._seen = seen

    def score(self, histories):
        weights = histories.weights
        users = [self._row_of[self._key(weights, row)] for row in range(len(histories))]
        return self._seen[users].toarray()

    @staticmethod
    def _key(matrix, row):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        return tuple(matrix.indices[part].tolist())


@each_kind
def test_who_learns_the_answers_by_heart_wins_by_a_leak_only(kind):
    random = np.random.default_rng(0)
    events = [
        (f"u{user:02}", f"i{item:03}", "click", 1.0, int(at))
        for user in range(40)
        for item, at in zip(
            random.choice(200, 12, replace=False), random.integers(1, 1000, 12), strict=True
        )
    ]
    log = read(events)
    split = SPLITS[kind](log)
    honest, cheating = (
        measured(Memory(seen, split.histories), histories=split.histories,
                           held_out=split.held_out, k=20)
        for seen in (split.train.weights, log.matrix().weights)
    )  # fmt: skip
    # Chance finds 20 of the 190 items that are left.
    assert figure(honest, "recall").mean() < 0.25
    assert figure(cheating, "recall").mean() == 1.0
    assert figure(cheating, "ndcg").mean() == pytest.approx(1.0)


def test_the_last_pairs_of_each_user_are_held_out():
    log = read(
        [
            *clicks(*(("a", item) for item in "qrstuvwxyz"), ("b", "q"), ("b", "r"), ("c", "q")),
            ("a", "z", "click", 5.0, 0),  # first seen before all others
        ]
    )
    split = evaluation.split_user_time(log, share=0.2)
    assert held_items(split, log) == {"a": ["x", "y"], "b": ["r"]}
    assert split.train.n_interactions == 10
    # The second click on z came after the cut, and is not known at that time.
    z = log.items.find("z")
    assert split.train.weights[0, z] == 5.0


def test_equal_times_are_in_a_random_order():
    events = [("a", item, "click", 1.0, 3 if item in "xyz" else 1 + (item > "m")) for item in
              "klmnopqrxyz"]  # fmt: skip
    log = read(events)
    held = {
        tuple(held_items(evaluation.split_user_time(log, share=0.1, seed=seed), log)["a"])
        for seed in range(30)
    }
    assert held == {("x",), ("y",), ("z",)}
    split = evaluation.split_user_time(log, share=0.1, seed=1)
    assert split.how == "the last tenth of each user's interactions, by time"
    # The others of that time were as early as it.
    assert split.train.n_interactions == len(events) - 1


def test_who_has_most_at_one_time_is_cut_at_random():
    events = [("a", f"i{place}", "click", 1.0, 5) for place in range(6)]
    events += [("a", f"j{place}", "click", 1.0, 6 + place) for place in range(5)]
    events += clicks(*(("b", f"i{place}") for place in range(6)))
    log = read(events)
    held = [held_items(evaluation.split_user_time(log, seed=seed), log)["a"] for seed in range(40)]
    assert set(np.ravel(held)) == {f"i{place}" for place in range(6)} | {
        f"j{place}" for place in range(5)
    }
    split = evaluation.split_user_time(log, seed=1)
    assert split.how == (
        "the last fifth of each user's interactions, by time; a random fifth for 1 of 2 users, "
        "who have most of them at one time"
    )
    assert held_items(split, log)["b"] == ["i5"]
    assert split.train.n_interactions == len(events) - 3
    assert not evaluation.is_timed(log)
    assert evaluation.is_timed(read(clicks(*(("b", item) for item in "ijk"))))


@each_kind
def test_what_was_taken_back_is_wanted_by_nobody(kind):
    log = read(
        [
            ("a", "i", "click", 1.0, 1),
            ("a", "j", "click", 1.0, 2),
            ("a", "k", "click", 1.0, 3),
            ("a", "l", ADD, 1.0, 4),
            ("a", "m", "dislike", 1.0, 5),
            ("a", "n", REMOVE, 1.0, 6),
            ("a", "l", REMOVE, 1.0, 7),
        ]
    )
    for share in (0.1, 0.5, 0.9):
        held = held_items(SPLITS[kind](log, share=share), log)
        assert set(held.get("a", [])) <= {"i", "j", "k"}


def test_a_removal_after_the_cut_does_not_reach_back():
    log = read(
        [
            ("a", "i", ADD, 1.0, 1),
            ("a", "j", "click", 1.0, 2),
            ("a", "k", "click", 1.0, 3),
            ("a", "i", REMOVE, 1.0, 4),
        ]
    )
    split = evaluation.split_time(log, share=0.5)
    assert stored(split.train.weights) == {(0, 0): 2.0, (0, 1): 1.0}
    assert held_items(split, log) == {"a": ["k"]}


def test_a_pair_that_training_has_at_weight_zero_is_not_held_out():
    log = read([("a", "i", "dislike", 1.0, 1), ("a", "i", "click", 9.0, 2)])
    split = evaluation.split_time(log, share=0.5)
    assert stored(split.train.weights) == {(0, 0): 0.0}
    assert split.held_out.nnz == 0


@given(events=events_of_many, seed=st.integers(0, 2**32), power=st.sampled_from([0.0, 0.5, 3.0]))
def test_the_same_seed_gives_the_same_split(events, seed, power):
    def split(log):
        return evaluation.split_random(log, seed=seed, popularity_power=power)

    assert equal(split(read(events)), split(read(events)))
    timeless = [(*event[:4], None) for event in events if event[2] != REMOVE]
    assert equal(
        split(read(timeless, has_times=False)), split(read(timeless[::-1], has_times=False))
    )


def test_another_seed_gives_another_split():
    log = read(clicks(*((user, item) for user in "abcd" for item in "ijklmnopqr")))
    assert not equal(evaluation.split_random(log, seed=1), evaluation.split_random(log, seed=2))


def test_all_rows_of_a_held_out_pair_leave_training():
    log = read(2 * clicks(*(("a", item) for item in "ijklm")))
    split = evaluation.split_random(log)
    assert split.held_out.nnz == 1
    left = wanted_pairs(log) - stored(split.held_out).keys()
    assert stored(split.train.weights) == dict.fromkeys(left, 2.0)


def test_popular_items_are_drawn_as_often_as_their_power_says():
    # 3,000 users have the item p and one of 300 others, each of which 10 users have.
    events = [(f"u{user:04}", item, "click", 1.0, 1)
              for user in range(3000) for item in ("p", f"i{user % 300:03}")]  # fmt: skip
    log = read(events)
    popular = log.items.find("p")
    for power in (0.0, 0.3, 1.0):
        split = evaluation.split_random(log, share=0.5, seed=3, popularity_power=power)
        n_popular = (split.held_out.indices == popular).sum()
        expected = 3000**power / (3000**power + 10**power)
        spread = math.sqrt(3000 * expected * (1 - expected))
        assert abs(n_popular - 3000 * expected) < 4 * spread


@each_kind
@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(kind, share):
    with pytest.raises(DataError, match=r"share=.* give a number above 0 and below 1"):
        SPLITS[kind](read(clicks(("a", "i"), ("a", "j"))), share=share)


def test_bad_parameters_of_a_random_split_are_refused():
    log = read(clicks(("a", "i"), ("a", "j")))
    with pytest.raises(DataError, match=r"seed=-1 .* from 0 on"):
        evaluation.split_random(log, seed=-1)
    for power in (-1.0, math.nan, math.inf):
        with pytest.raises(DataError, match=r"popularity_power=.* from 0 on"):
            evaluation.split_random(log, popularity_power=power)


def test_splits_by_time_need_times():
    log = read(clicks(("a", "i"), ("a", "j")), has_times=False)
    for split in (evaluation.split_user_time, evaluation.split_time):
        with pytest.raises(DataError, match="no times: use a random split, or give"):
            split(log)
    assert evaluation.split_random(log).held_out.nnz == 1


@pytest.mark.parametrize("times", [[], [7], [7, 7, 7]], ids=str)
def test_a_cut_in_time_needs_two_times(times):
    log = read([("a", f"i{place}", "click", 1.0, at) for place, at in enumerate(times)])
    with pytest.raises(NotEnoughDataError, match=f"the {len(times)} that there are have one"):
        evaluation.split_time(log)


def test_without_interactions_nothing_is_held_out():
    for name in ("user_time", "random", "popular"):
        assert SPLITS[name](read([])).held_out.shape == (0, 0)


@each_kind
@given(events=events_of_many, share=shares)
def test_a_split_says_which_interactions_are_in_training(kind, events, share):
    log = read([*events, *clicks(("a", "i"), ("b", "j"))])
    split = SPLITS[kind](log, share=share)
    side = log.part(split.keep).matrix()
    assert stored(side.weights) == stored(split.train.weights)
    assert side.n_interactions == split.train.n_interactions


@given(events=events_of_many, marks=st.lists(st.booleans(), min_size=60, max_size=60))
def test_without_times_newer_pairs_are_asked_for_from_the_older_history(events, marks):
    log = read([event for event in events if event[2] != REMOVE], has_times=False)
    is_newer = np.array(marks[: len(log)], dtype=bool)
    split = evaluation.split_newer(log, is_newer)
    assert split.kind == "new"
    assert split.keep.tolist() == (~is_newer).tolist()
    assert (split.train.users, split.train.items) == (log.users, log.items)
    known = stored(log.matrix(~is_newer).weights)
    assert stored(split.train.weights) == stored(split.histories.weights) == known
    assert stored(split.held_out).keys() == wanted_pairs(log) - known.keys()


@given(events=events_of_many, marks=st.lists(st.booleans(), min_size=60, max_size=60))
def test_newer_pairs_are_asked_for_from_all_that_was_known_before(events, marks):
    log = read(events)
    is_newer = np.array(marks[: len(log)], dtype=bool)
    split = evaluation.split_newer(log, is_newer)
    assert stored(split.train.weights) == stored(log.matrix(~is_newer).weights)
    assert_grows(log, split, wanted_pairs(log) - stored(split.train.weights).keys(), ~is_newer)


@given(events=events_of_many, share=shares, fold=st.integers(0, 2))
def test_next_asks_for_what_a_server_was_asked(events, share, fold):
    log = read([*events, ("a", "i", "click", 1.0, 1), ("a", "j", "click", 1.0, 9)])
    try:
        split = evaluation.split_next(log, share=share, fold=fold)
    except NotEnoughDataError:
        assert fold
        return
    cut = log.occurred_at[~split.keep].min()
    assert split.keep.tolist() == (log.occurred_at < cut).tolist()
    assert stored(split.train.weights) == stored(log.matrix(split.keep).weights)
    later = wanted_pairs(log) - stored(split.train.weights).keys()
    if fold == 0:
        assert_grows(log, split, later, split.keep)


def assert_grows(log, split, asked, keep):
    """Hold the questions against a plain reading: each pair from the rows just before it."""
    expected = []
    for user, item in asked:
        own = (log.user_index == user) & (log.item_index == item)
        moment = log.occurred_at[own].min()
        before = (log.user_index == user) & (keep | (log.occurred_at < moment))
        if before.any():
            known = log.matrix(before)
            expected.append((user, item, in_order(stored(known.weights), plain_steps(known))))
    found = []
    for place, user in enumerate(split.user_index.tolist()):
        (item,) = split.held_out[[place]].indices.tolist()
        history = split.histories[[place]]
        found.append((user, item, in_order(stored(history.weights), steps(history))))
    assert sorted(found) == sorted(expected)


def in_order(weights, n_later):
    """Return the items of one history, the newest first, with their weights and steps."""
    return sorted((n_later[place], place[1], weight) for place, weight in weights.items())


def test_of_a_user_the_first_twenty_later_pairs_are_asked_for():
    log = read([("a", f"i{at:02}", "click", 1.0, at) for at in range(60)])
    split = evaluation.split_next(log, share=0.5)
    assert split.histories[-1:].n_later.tolist() == list(range(48, -1, -1))
    assert split.held_out.indices.tolist() == list(range(30, 50))
    assert split.histories.lengths.tolist() == list(range(30, 50))
    assert split.judged.tolist() == [0]


def test_new_users_are_asked_from_their_second_moment_on():
    log = read(clicks(("a", "i"), ("a", "j"), ("b", "i"), ("b", "j"), ("b", "k")))
    split = evaluation.split_next(log, share=0.6)
    assert [log.items.ids[item] for item in split.held_out.indices] == ["j", "k"]
    assert split.user_index.tolist() == [1, 1]


def test_repeats_ask_for_what_the_history_has():
    log = read(clicks(("a", "i"), ("a", "j"), ("a", "i"), ("a", "i")))
    assert evaluation.split_next(log, share=0.5).held_out.indices.tolist() == [1]
    split = evaluation.split_next(log, share=0.5, repeats=True)
    assert split.repeats
    assert split.held_out.indices.tolist() == [0, 0]
    ranker = Ranker(Products(2), popularity=np.zeros(2), repeats=True)
    quality = evaluation.measure_split(ranker, split, k=2)
    assert figure(quality, "recall").tolist() == [1.0]


def test_users_are_drawn_where_they_are_too_many():
    log = read([(f"u{user}", f"i{at}", "click", 1.0, at) for user in range(30) for at in range(6)])
    split = evaluation.split_next(log, share=0.5, max_users=7)
    assert len(split.judged) == 7
    whole = evaluation.split_next(log, share=0.5)
    assert len(whole.judged) == 30
    drawn = np.isin(whole.user_index, split.judged)
    assert stored(whole.histories[drawn].weights) == stored(split.histories.weights)
    assert steps(whole.histories[drawn]) == steps(split.histories)
    # Only where the data have too few, one cut is not enough.
    assert len(evaluation.pooled_splits(log, "next", max_users=7)) == 1
    assert len(evaluation.pooled_splits(log, "next", max_users=100)) > 1


def test_marks_are_one_for_each_interaction():
    with pytest.raises(DataError, match=r"is_newer has shape \(3,\): .* each of the 2"):
        evaluation.split_newer(read(clicks(("a", "i"), ("b", "j"))), np.ones(3, dtype=bool))


# Metrics


class Table:
    """A model that has its scores in a table; the history's first item tells the row."""

    is_personal = False

    def __init__(self, scores, weights):
        self._scores = np.asarray(scores, dtype=np.float64)
        self._row_of = {int(weights.indices[weights.indptr[row]]): row
                        for row in np.flatnonzero(np.diff(weights.indptr))}  # fmt: skip

    def score(self, histories):
        firsts = histories.weights.indices[histories.weights.indptr[:-1]]
        return self._scores[[self._row_of[int(first)] for first in firsts]]


def measured(model, *, histories, **given):
    """Measure the lists that a model's scores make as they are."""
    ranker = Ranker(model, popularity=np.zeros(histories.weights.shape[1]))
    return evaluation.measure(ranker, histories=histories, **given)


def figure(quality, name):
    """Return a metric by user; of one k."""
    return quality.by_user[f"{name}@{quality.ks[0]}"]


def of_lists(quality, name):
    return quality.of_lists[f"{name}@{quality.ks[0]}"]


def measure(scores, seen, relevant, **kwargs):
    """Measure lists given by a table of scores; `seen` and `relevant` are items of each user."""
    shape = np.shape(scores)

    def pairs(items):
        user = np.repeat(np.arange(shape[0]), [len(row) for row in items])
        column = np.array([item for row in items for item in row], dtype=int)
        return sparse.csr_array((np.ones(len(user)), (user, column)), shape=shape)

    weights = pairs(seen)
    return measured(
        Table(scores, weights), histories=Histories(weights), held_out=pairs(relevant), **kwargs
    )


def test_metrics_are_those_of_a_table_made_by_hand():
    # Each user has one item of its own, 5 to 9, and scores 0 to 4 as it likes.
    scores = [
        [5, 4, 3, 2, 1, 0, 0, 0, 0, 0],  # list 0 1 2; relevant 0 and 2
        [1, 2, 3, 4, 5, 0, 0, 0, 0, 0],  # list 4 3 2; relevant 2 alone: fewer than k
        [7, 7, 7, 7, 7, 0, 0, 0, 0, 0],  # all tie: list 0 1 2; relevant 0 1 2 3 4: more than k
        [5, 4, 3, 2, 1, 0, 0, 0, 0, 0],  # list 0 1 2; relevant 4: nothing found
        [5, 4, 3, 2, 1, 0, 0, 0, 0, 0],  # nothing relevant: not measured
    ]
    seen = [[5], [6], [7], [8], [9]]
    quality = measure(scores, seen, [[0, 2], [2], [0, 1, 2, 3, 4], [4], []], k=3)
    log3 = math.log2(3)
    assert quality.user_index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(figure(quality, "recall"), [1, 1, 3 / 5, 0])
    np.testing.assert_allclose(figure(quality, "ndcg"), [1.5 / (1 + 1 / log3), 0.5, 1, 0])
    np.testing.assert_allclose(figure(quality, "hit_rate"), [1, 1, 1, 0])
    np.testing.assert_allclose(figure(quality, "map"), [(1 + 2 / 3) / 2, 1 / 3, 3 / 5, 0])
    assert of_lists(quality, "coverage") == 5 / 10
    # Nobody has 0 to 4: they count as if one of the five users had them.
    assert of_lists(quality, "novelty") == pytest.approx(math.log2(5))


def test_novelty_is_the_mean_surprise_of_what_is_recommended():
    # Items 0 and 1 are had by 2 and 1 of 4 users; user 3 lists 0 and 1, user 2 lists 1 and 0.
    scores = np.zeros((4, 4))
    scores[:, :2] = [[0, 0], [0, 0], [1, 2], [2, 1]]
    seen, relevant = [[0, 1], [0], [2], [3]], [[], [], [0], [1]]
    quality = measure(scores, seen, relevant, k=1)
    assert quality.user_index.tolist() == [2, 3]
    assert of_lists(quality, "novelty") == pytest.approx((2 + 1) / 2)
    assert of_lists(quality, "coverage") == 2 / 4
    told = measure(scores, seen, relevant, k=1, popularity=np.array([8, 1, 0, 0]), n_users=16)
    assert of_lists(told, "novelty") == pytest.approx((4 + 1) / 2)


def test_what_weighs_nothing_is_had_by_nobody_and_yet_not_recommended():
    weights = sparse.csr_array(([0.0, 1.0, 1.0], ([0, 0, 1], [0, 1, 0])), shape=(2, 4))
    histories = Histories(weights)
    held_out = sparse.csr_array(([1.0], ([0], [2])), shape=(2, 4))
    table = Table([[9, 8, 7, 6], [0, 0, 0, 0]], sparse.csr_array(np.eye(2, 4)))
    quality = measured(table, histories=histories, held_out=held_out, k=1)
    assert figure(quality, "recall").tolist() == [1.0]
    assert of_lists(quality, "novelty") == 1.0
    two = measured(table, histories=histories, held_out=held_out, k=3)
    assert of_lists(two, "coverage") == 2 / 4


def test_a_list_is_as_long_as_there_are_items():
    quality = measure([[3, 2, 1]], [[0]], [[2]], k=20)
    assert figure(quality, "recall").tolist() == [1.0]
    assert figure(quality, "map").tolist() == [0.5]
    assert figure(quality, "ndcg").tolist() == [pytest.approx(1 / math.log2(3))]
    assert of_lists(quality, "coverage") == pytest.approx(2 / 3)


def test_who_has_seen_everything_gets_an_empty_list():
    quality = measure([[3, 2]], [[0, 1]], [[1]], k=1)
    assert (
        figure(quality, "recall")[0],
        figure(quality, "ndcg")[0],
        figure(quality, "map")[0],
    ) == (0, 0, 0)
    assert (of_lists(quality, "coverage"), of_lists(quality, "novelty")) == (0, 0)


def test_users_without_history_or_held_out_items_are_not_measured():
    scores = [[1, 2, 3]] * 4
    quality = measure(scores, [[0], [], [1], [2]], [[1], [1], [], [0]], k=1)
    assert quality.user_index.tolist() == [0, 3]
    sample = measure(scores, [[0], [], [1], [2]], [[1], [1], [], [0]], k=1,
                     user_index=np.array([3, 1, 3]))  # fmt: skip
    assert sample.user_index.tolist() == [3]
    with pytest.raises(NotEnoughDataError, match="nobody to measure"):
        measure(scores, [[0], [], [1], [2]], [[], [1], [], []])


def test_only_positive_entries_are_relevant_each_once():
    weights = sparse.csr_array(([1.0], ([0], [0])), shape=(1, 4))
    table = Table([[9, 8, 7, 6]], weights)
    untidy = sparse.csr_array(
        (np.array([2.0, 0.0, 1.0, 1.0]), np.array([3, 1, 3, 2]), np.array([0, 4])), shape=(1, 4)
    )
    quality = measured(table, histories=Histories(weights), held_out=untidy, k=2)
    assert figure(quality, "recall").tolist() == [0.5]
    assert untidy.nnz == 4


class Products:
    """Random scores of any row, all different: a linear model that knows nothing."""

    is_personal = False

    def __init__(self, n_items, seed=0):
        random = np.random.default_rng(seed)
        self._weights = random.standard_normal((n_items, n_items))

    def score(self, histories):
        return np.asarray(histories.weights @ self._weights)


def task(seed, *, n_users=40, n_items=30):
    """Return random histories and held-out pairs that do not overlap."""
    random = np.random.default_rng(seed)
    side = random.choice(3, size=(n_users, n_items), p=[0.7, 0.2, 0.1])
    weights = random.random((n_users, n_items)) + 0.1
    return (
        Histories(sparse.csr_array(np.where(side == 1, weights, 0))),
        sparse.csr_array((side == 2).astype(np.float32)),
    )


@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 3, 10, 20, 40]))
@example(seed=0, k=20)
def test_metrics_agree_with_trec_eval(seed, k):
    histories, held_out = task(seed)
    model = Products(30, seed)
    quality = measured(model, histories=histories, held_out=held_out, k=k)

    scores = model.score(histories)
    scores[histories.weights.nonzero()] = -np.inf
    run, judged = {}, {}
    for user in quality.user_index.tolist():
        ranking = np.argsort(-scores[user], kind="stable")
        ranking = ranking[np.isfinite(scores[user, ranking])]
        # trec_eval breaks ties in its own way: it gets ranks as scores, which have none.
        run[str(user)] = {str(item): float(-rank) for rank, item in enumerate(ranking)}
        judged[str(user)] = {str(item): 1 for item in held_out[[user]].indices}
    names = {"recall": "recall", "ndcg": "ndcg_cut", "map": "map_cut", "hit_rate": "success",
             "precision": "P"}  # fmt: skip
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {f"{name}.{k}" for name in names.values()})
    theirs = evaluator.evaluate(run)
    for ours, name in names.items():
        expected = [theirs[str(user)][f"{name}_{k}"] for user in quality.user_index]
        np.testing.assert_allclose(figure(quality, ours), expected, atol=1e-6, rtol=0)


@pytest.mark.long  # ranx compiles its metrics for 20 s
@pytest.mark.filterwarnings("ignore:unsafe cast from uint64")
def test_metrics_are_those_of_ranx():
    import ranx

    for seed in range(5):
        histories, held_out = task(seed, n_users=200, n_items=60)
        model = Products(60, seed)
        ks = (1, 3, 10, 50)
        quality = measured(model, histories=histories, held_out=held_out, k=ks)
        scores = model.score(histories)
        scores[histories.weights.nonzero()] = -np.inf
        run, judged = {}, {}
        for user in quality.user_index.tolist():
            listed = np.argsort(-scores[user], kind="stable")
            listed = listed[np.isfinite(scores[user, listed])]
            # Names that sort as users do: ranx gives its figures by name.
            run[f"{user:04}"] = {str(item): float(-place) for place, item in enumerate(listed)}
            judged[f"{user:04}"] = {str(item): 1 for item in held_out[[user]].indices}
        names = {"recall", "ndcg", "hit_rate", "map", "precision", "mrr"}
        wanted = [f"{name}@{k}" for name in sorted(names) for k in ks]
        theirs = ranx.evaluate(ranx.Qrels(judged), ranx.Run(run), wanted, return_mean=False)
        for name in wanted:
            np.testing.assert_allclose(quality.by_user[name], theirs[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("k", [1, 5, 20, 30])
def test_ndcg_agrees_with_scikit_learn(k):
    histories, held_out = task(7)
    model = Products(30, 7)
    quality = measured(model, histories=histories, held_out=held_out, k=k)
    scores = model.score(histories)
    scores[histories.weights.nonzero()] = scores.min() - 1 - np.arange(histories.weights.nnz)
    users = quality.user_index
    expected = [
        ndcg_score(held_out[[user]].toarray(), scores[[user]], k=k) for user in users.tolist()
    ]
    np.testing.assert_allclose(figure(quality, "ndcg"), expected, atol=1e-6)


def test_users_are_scored_in_blocks_and_measured_as_if_alone():
    random = np.random.default_rng(1)
    n_users, n_items = 500, 40_000
    places = random.integers(n_items, size=(2, n_users, 5))
    weights, held_out = (
        sparse.csr_array(
            (np.ones(5 * n_users), part.ravel(), np.arange(n_users + 1) * 5),
            shape=(n_users, n_items),
        )
        for part in places
    )
    factors = random.random((2, n_items), dtype=np.float32)
    # So that some of what was held out is found.
    factors[:, places[1, :, 0]] += 1

    class Factors:
        is_personal = False

        def __init__(self):
            self.heights = []

        def score(self, histories):
            self.heights.append(len(histories))
            return (histories.weights.astype(np.float32) @ factors.T) @ factors

    histories = Histories(weights)
    model, told = Factors(), []
    whole = measured(model, histories=histories, held_out=held_out, on_progress=told.append)
    assert sum(model.heights) == n_users
    assert max(model.heights) * n_items * 4 <= 64 << 20
    assert told == pytest.approx(np.cumsum(model.heights) / n_users)
    for user_index in (np.arange(250), np.arange(250, n_users)):
        part = measured(Factors(), histories=histories, held_out=held_out, user_index=user_index)
        assert np.array_equal(part.user_index, user_index)
        assert 0 < figure(part, "recall").mean() < 1
        for name in ("recall", "ndcg", "hit_rate", "map"):
            assert np.array_equal(figure(whole, name)[user_index], figure(part, name))


def test_what_progress_raises_ends_the_measuring():
    def stop(fraction):
        raise KeyboardInterrupt

    histories, held_out = task(1)
    with pytest.raises(KeyboardInterrupt):
        measured(Products(30), histories=histories, held_out=held_out, on_progress=stop)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 0}, "k=0 .* at least 1 item"),
        ({"held_out": sparse.csr_array((40, 29))}, r"\(40, 30\) and held_out \(40, 29\)"),
        ({"popularity": np.ones(29)}, r"shape \(29,\): give one number for each of the 30"),
        ({"popularity": np.full(30, 41)}, "41 of 40 users"),
        ({"popularity": np.full(30, 3), "n_users": 2}, "3 of 2 users"),
        ({"user_index": np.array([40])}, "from 40 to 40: give rows from 0 to 39"),
        ({"user_index": np.array([-1, 3])}, "from -1 to 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed, message):
    histories, held_out = task(1)
    given_all = {"histories": histories, "held_out": held_out, **changed}
    with pytest.raises(DataError, match=message):
        measured(Products(30), **given_all)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    scores = np.ones((2, 5))
    scores[1, 3] = value
    with pytest.raises(DataError, match="no finite numbers"):
        measure(scores, [[0], [1]], [[2], [2]])


def test_what_a_model_rules_out_is_never_in_a_list():
    scores = np.array([[3.0, -np.inf, 1.0, -np.inf, 2.0], [-np.inf] * 5])
    quality = measure(scores, [[0], [1]], [[1, 2], [0]], k=4)
    # A list of items 4 and 2; an empty one.
    assert figure(quality, "recall").tolist() == [0.5, 0.0]
    assert of_lists(quality, "coverage") == 2 / 5


# Intervals


def quality_of(values, *, k=20):
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    quality = Quality(
        ks=(k,),
        question_user=np.arange(n),
        found=np.full((n, k), -1, dtype=np.int32),
        held_out=sparse.csr_array((n, 1)),
        n_relevant=np.ones(n, dtype=int),
        history_length=np.ones(n, dtype=int),
        of_lists={f"coverage@{k}": 0.5, f"novelty@{k}": 2.0},
    )
    quality.by_user.update(dict.fromkeys(quality.by_user, values))
    return quality


def test_a_summary_has_means_and_intervals():
    summary = quality_of([0.0, 0.5, 1.0, 0.5], k=7).summary()
    assert list(summary) == [
        "recall@7", "ndcg@7", "hit_rate@7", "map@7", "precision@7", "mrr@7", "without_hit@7",
        "coverage@7", "novelty@7",
    ]  # fmt: skip
    recall = summary["recall@7"]
    assert recall.mean == 0.5
    assert 0 <= recall.low < 0.5 < recall.high <= 1
    assert recall == summary["map@7"]
    assert summary["coverage@7"] == Figure(0.5)
    assert summary["novelty@7"] == Figure(2.0)


def test_intervals_are_those_of_the_bootstrap():
    # The mean of 3 values out of {0, 1, 8}, each as likely: 27 ways, counted.
    ways = np.array(np.meshgrid([0, 1, 8], [0, 1, 8], [0, 1, 8])).reshape(3, -1).mean(axis=0)
    interval = quality_of([0, 1, 8]).summary(n_resamples=20_000, level=0.8)["recall@20"]
    # Widened, as t with 2 degrees of freedom is beside the normal distribution.
    tail = stats.norm.cdf(stats.t.ppf(0.1, 2) * math.sqrt(3 / 2))
    assert expanded_tail(3, level=0.8) == pytest.approx(tail)
    expected = np.quantile(ways, [tail, 1 - tail], method="inverted_cdf")
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_intervals_repeat_by_seed():
    quality = quality_of(np.random.default_rng(0).random(50))
    assert quality.summary(seed=3) == quality.summary(seed=3)
    assert quality.summary(seed=3) != quality.summary(seed=4)


def test_intervals_cover_the_mean_as_often_as_they_say():
    random = np.random.default_rng(5)
    n_trials, level = 300, 0.9
    covered = 0
    for seed in range(n_trials):
        interval = quality_of(random.beta(1, 3, size=80)).summary(
            seed=seed, n_resamples=200, level=level
        )["recall@20"]
        covered += interval.low <= 0.25 <= interval.high
    spread = math.sqrt(n_trials * level * (1 - level))
    assert abs(covered - n_trials * level) < 4 * spread


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_users", [200, 1000])
def test_the_interval_of_a_difference_covers_the_truth(n_users):
    """Users have a rate of hits each, and a few questions; the truth is known from all of them."""
    random = np.random.default_rng(9)
    n_repetitions = 2_000
    covered = {"mean": 0, "difference": 0}
    for seed in range(n_repetitions):
        user = np.repeat(np.arange(n_users), random.integers(1, 6, n_users))
        rate = random.beta(0.6, 2.4, n_users)[user]  # 0.2 in the mean
        first = question_hits(user, random.random(len(user)) < rate)
        second = question_hits(user, random.random(len(user)) < 0.9 * rate)
        alone = first.summary(seed=seed)["hit_rate@1"]
        paired = evaluation.compare(first, second, seed=seed)["hit_rate@1"]
        covered["mean"] += alone.low <= 0.2 <= alone.high
        covered["difference"] += paired.low <= -0.02 <= paired.high
    for n in covered.values():
        assert 0.935 <= n / n_repetitions <= 0.965, covered


def question_hits(user, is_hit):
    """Return the quality of lists of one item that is the relevant one, or not."""
    n = len(user)
    return Quality(
        ks=(1,),
        question_user=user,
        found=np.where(is_hit, 0, -1).astype(np.int32)[:, None],
        held_out=sparse.csr_array(np.ones((n, 1))),
        n_relevant=np.ones(n, dtype=int),
        history_length=np.ones(n, dtype=int),
    )


def test_questions_of_a_user_are_one_figure():
    user = np.array([3, 3, 3, 5, 5, 8])
    quality = question_hits(user, np.array([True, False, False, False, False, True]))
    assert quality.user_index.tolist() == [3, 5, 8]
    assert quality.by_user["hit_rate@1"].tolist() == [1 / 3, 0, 1]
    assert quality.by_user["without_hit@1"].tolist() == [0, 1, 0]


def test_pooled_cuts_are_one_figure_by_user():
    first = question_hits(np.array([1, 2]), np.array([True, False]))
    second = question_hits(np.array([2, 2, 4]), np.array([True, True, False]))
    pooled = evaluation.pool([first, second])
    assert pooled.user_index.tolist() == [1, 2, 4]
    assert pooled.by_user["hit_rate@1"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert pooled.by_user["without_hit@1"].tolist() == [0, 0, 1]
    assert evaluation.pool([first]) is first
    with pytest.raises(DataError, match="of the same k"):
        evaluation.pool([first, quality_of([0.5], k=2)])


def test_segments_are_figures_of_a_part():
    # Both users list the items 2, 3, 4 in this order.
    scores = [[0, 0, 5, 4, 3], [0, 0, 5, 4, 3]]
    quality = measure(scores, [[0], [1]], [[2, 4], [3]], k=3)
    part = quality.part(quality.question_user == 1)
    assert figure(part, "recall").tolist() == [1.0]
    assert figure(part, "mrr").tolist() == [0.5]
    assert part.of_lists == {}
    tail = quality.on_items(np.array([False, False, False, False, True]))
    assert tail.user_index.tolist() == [0]
    assert figure(tail, "mrr").tolist() == pytest.approx([1 / 3])
    assert figure(tail, "ndcg").tolist() == pytest.approx([0.5])


def test_segments_by_history_and_by_popularity():
    scores = np.zeros((3, 8))
    scores[:, 5:] = [3, 2, 1]
    quality = measure(scores, [[0], [1, 0], [2, 0, 1, 3, 4]], [[5, 7], [6], [7]], k=3)
    lengths = evaluation.by_history_length(quality)
    assert {name: part.user_index.tolist() for name, part in lengths.items()} == {
        "1-4": [0, 1],
        "5-19": [2],
    }
    # Items 5, 6 and 7 have three, two and one of six pairs.
    thirds = evaluation.by_item_popularity(quality, np.array([0, 0, 0, 0, 0, 3, 2, 1]))
    assert {name: part.user_index.tolist() for name, part in thirds.items()} == {
        "head": [0],
        "middle": [1],
        "tail": [0, 2],
    }
    assert figure(thirds["tail"], "mrr").tolist() == pytest.approx([1 / 3, 1 / 3])
    assert evaluation.compare(lengths["1-4"], lengths["1-4"])["ndcg@3"].difference == 0


def test_users_needed_are_those_of_the_power_formula():
    paired = PairedDifference(-0.001, -0.002, 0.0, sd=0.05, n=500)
    needed = paired.n_users_needed(mean=0.2, margin=0.02)
    assert needed == math.ceil((3.858 * 0.05 / 0.004) ** 2)
    assert PairedDifference(0.0, 0.0, 0.0, sd=0.0, n=9).n_users_needed(mean=0.2, margin=0.02) == 2
    for bad in ({"mean": 0.0, "margin": 0.02}, {"mean": 0.1, "margin": 0.0}):
        with pytest.raises(DataError, match="give both above 0"):
            paired.n_users_needed(**bad)


@pytest.mark.long
def test_a_loss_of_twice_the_margin_is_found_with_the_users_that_it_takes():
    random = np.random.default_rng(4)
    mean, margin, sd = 0.2, 0.05, 0.06
    n = PairedDifference(0.0, 0.0, 0.0, sd=sd, n=1).n_users_needed(mean=mean, margin=margin)
    found = 0
    for seed in range(400):
        losses = random.normal(-2 * margin * mean, sd, n)
        other, candidate = quality_of(np.full(n, mean)), quality_of(mean + losses)
        paired = evaluation.compare(other, candidate, seed=seed)["ndcg@20"]
        found += paired.is_below(-margin * mean)
    assert abs(found / 400 - 0.9) < 0.05


def test_equal_models_differ_by_nothing():
    quality = quality_of(np.random.default_rng(0).random(100))
    compared = evaluation.compare(quality, quality)
    assert list(compared) == list(quality.by_user)
    assert set(compared.values()) == {PairedDifference(0.0, 0.0, 0.0, sd=0.0, n=100)}


def test_a_paired_comparison_finds_what_two_intervals_hide():
    random = np.random.default_rng(0)
    users = random.beta(1, 3, size=400)
    worse = quality_of(users)
    better = quality_of(users + 0.01 + random.normal(0, 0.02, size=400))
    difference = evaluation.compare(worse, better)["ndcg@20"]
    by_user = figure(better, "ndcg") - figure(worse, "ndcg")
    assert difference.difference == pytest.approx(by_user.mean())
    assert difference.sd == pytest.approx(by_user.std(ddof=1))
    assert difference.n == 400
    assert 0 < difference.low < difference.difference < difference.high < 0.02
    alone, other = worse.summary()["ndcg@20"], better.summary()["ndcg@20"]
    assert other.low < alone.high
    assert difference.high - difference.low < (alone.high - alone.low) / 5
    assert evaluation.compare(better, worse)["ndcg@20"].high < 0


def test_a_model_that_is_better_by_plan_is_found_so():
    # Users of two groups like items of their own group.
    random = np.random.default_rng(2)
    n_users, n_items = 200, 60
    own = np.arange(n_users)[:, None] % 2 == np.arange(n_items)[None, :] % 2
    liked = random.random((n_users, n_items)) < np.where(own, 0.35, 0.02)
    events = [(f"u{user:03}", f"i{item:02}", "click", 1.0, 1) for user, item in np.argwhere(liked)]
    split = evaluation.split_random(read(events, has_times=False), seed=1)
    neighbours = split.histories.weights.T @ split.histories.weights

    class Neighbours:
        is_personal = False

        def score(self, histories):
            return (histories.weights @ neighbours).toarray()

    class Counts:
        is_personal = False

        def score(self, histories):
            return np.tile(split.histories.weights.sum(axis=0), (len(histories), 1))

    counts, personal = (
        measured(model, histories=split.histories, held_out=split.held_out, k=10)
        for model in (Counts(), Neighbours())
    )
    compared = evaluation.compare(counts, personal)
    without_hit = compared.pop("without_hit@10")
    assert without_hit.high < 0
    assert all(difference.low > 0 for difference in compared.values())


def test_only_the_same_users_and_lists_are_compared():
    quality = quality_of([0.1, 0.2])
    with pytest.raises(DataError, match="20 items here and 10 there: measure both with the same"):
        evaluation.compare(quality, quality_of([0.1, 0.2], k=10))
    with pytest.raises(DataError, match="The 2 users of the one and the 3 of the other"):
        evaluation.compare(quality, quality_of([0.1, 0.2, 0.3]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_resamples": 0}, "n_resamples=0 .* at least 1"),
        ({"level": 1.0}, r"level=1.0 .* below 1"),
        ({"level": math.nan}, "level=nan"),
        ({"seed": -1}, "seed=-1 .* from 0 on"),
    ],
)
def test_bad_parameters_of_intervals_are_refused(changed, message):
    quality = quality_of([0.1, 0.2])
    with pytest.raises(DataError, match=message):
        quality.summary(**changed)
    with pytest.raises(DataError, match=message):
        evaluation.compare(quality, quality, **changed)


def test_several_models_at_once_have_the_figures_of_two():
    random = np.random.default_rng(0)
    lines = {name: quality_of(random.random(50)) for name in "abc"}
    found = evaluation.compare_all(lines, seed=3, n_resamples=200)
    assert list(found.differences) == [("a", "b"), ("a", "c"), ("b", "c")]
    for name, quality in lines.items():
        for metric, figure in quality.summary(seed=3, n_resamples=200).items():
            assert found.figures[name][metric] == pytest.approx(figure)
    for (first, second), differences in found.differences.items():
        pair = evaluation.compare(lines[first], lines[second], seed=3, n_resamples=200)
        assert differences == pair
        alone = lines[second].by_user["ndcg@20"] - lines[first].by_user["ndcg@20"]
        assert differences["ndcg@20"].sd == pytest.approx(alone.std(ddof=1))
    with pytest.raises(DataError, match="measure both on the same users"):
        evaluation.compare_all(lines | {"d": quality_of([0.1, 0.2])})


# Segments


def test_columns_of_a_table_give_segments():
    def of(values):
        found = segments.by_column(pa.array(values))
        return {name: which.nonzero()[0].tolist() for name, which in found.items()}

    assert of(["a|b", "b", None, "b"]) == {"b": [0, 1, 3], "a": [0], "none given": [2]}
    assert of([True, False, True]) == {"true": [0, 2], "false": [1]}
    assert of([f"title {number}" for number in range(40)]) == {}
    many = of([f"{number % 14:02}" for number in range(41)])
    assert list(many) == [*(f"{number:02}" for number in range(12)), "others"]
    assert many["others"] == [12, 13, 26, 27, 40]
    numbers = of([*map(float, range(16)), None])
    assert list(numbers) == ["0 to below 3.75", "3.75 to below 7.5", "7.5 to below 11.25",
                             "11.25 to 15", "none given"]  # fmt: skip
    assert [len(rows) for rows in numbers.values()] == [4, 4, 4, 4, 1]


def test_a_part_of_the_items_leaves_the_whole_as_it_was():
    lists = np.array([[3.0, 2.0, 1.0, 0.0]] * 2)
    quality = measure(lists, [[3], [2]], [[0, 2], [1]], k=1)
    assert figure(quality, "recall").tolist() == [0.5, 0.0]
    head = quality.on_items(np.array([True, False, False, False]))
    assert (head.user_index.tolist(), figure(head, "recall").tolist()) == ([0], [1.0])
    others = quality.on_items(np.array([False, True, True, True]))
    assert figure(others, "recall").tolist() == [0.0, 0.0]
    assert quality.held_out.toarray().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]


def visits(*, n_users, n_items, is_once):
    """Return clicks a minute apart: each user on a day of its own, or all at once."""
    return [
        (f"u{user:02}", f"i{(user + 3 * step) % n_items}", "click", 1.0, at)
        for user in range(n_users)
        for step in range(5)
        for at in [60_000_000 * (step + (1_000 * user if is_once else 0)) + user]
    ]


def test_the_default_cut_judges_somebody():
    at_once = read(visits(n_users=40, n_items=9, is_once=False))
    assert {split.kind for split in evaluation.pooled_default(at_once)} == {"next"}

    # Who comes once is before every moment or after it, but for the first click after it.
    once = read(visits(n_users=12, n_items=9, is_once=True))
    assert evaluation.is_timed(once)
    n_next = len({*np.concatenate([s.judged for s in evaluation.pooled_splits(once, "next")])})
    assert n_next < evaluation.LEAST_JUDGED
    splits = evaluation.pooled_default(once)
    assert {split.kind for split in splits} == {"user_time"}
    assert len(splits[0].judged) == 12
    assert {s.kind for s in evaluation.pooled_default(once, repeats=True)} == {"next"}

    untimed = read(visits(n_users=12, n_items=9, is_once=True), has_times=False)
    assert {split.kind for split in evaluation.pooled_default(untimed)} == {"random"}
