"""The same interactions in any order and under any ids: one canonical log, one figure."""

import dataclasses
import functools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from reckeeper import evaluation
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import tasks
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named

COLUMNS = ("user_index", "item_index", "weight", "occurred_at", "listing")

rows = st.tuples(
    st.integers(0, 4),
    st.integers(0, 5),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.integers(1, 5),
    st.sampled_from([0, 0, 0, 0, 1, -1, 2, -2]),
)
many_rows = st.lists(rows, max_size=40)


def log_of(rows, *, has_times=True):
    user, item, weight, at, listing = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    return InteractionLog(
        IdIndex([f"u{number}" for number in range(5)]),
        IdIndex([f"i{number}" for number in range(6)]),
        user.astype(np.int32),
        item.astype(np.int32),
        weight.copy(),
        at.astype(np.int64) if has_times else None,
        listing.astype(np.int8),
    )


def disguised(log, seed):
    """Return the same interactions in another order, and under other ids."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(log))
    users, items = random.permutation(len(log.users)), random.permutation(len(log.items))
    changed = dataclasses.replace(
        log.part(order),
        user_index=users[log.user_index[order]].astype(np.int32),
        item_index=items[log.item_index[order]].astype(np.int32),
    )
    return changed, order


def assert_same(first, second):
    for name in COLUMNS:
        one, other = getattr(first, name), getattr(second, name)
        if one is None:
            assert other is None
        else:
            assert one.tolist() == other.tolist()


@given(rows=many_rows, has_times=st.booleans(), seed=st.integers(0, 10**6))
def test_order_and_ids_make_no_difference(rows, has_times, seed):
    log = log_of(rows, has_times=has_times)
    changed, _ = disguised(log, seed)
    assert_same(evaluation.canonical(log)[0], evaluation.canonical(changed)[0])


@given(rows=many_rows, marks=st.lists(st.booleans(), min_size=40, max_size=40), seed=st.integers(0))
def test_marks_stay_with_their_rows(rows, marks, seed):
    log = log_of(rows)
    is_newer = np.array(marks[: len(log)], dtype=bool)
    changed, order = disguised(log, seed)
    first, places = evaluation.canonical(log, is_newer=is_newer)
    second, others = evaluation.canonical(changed, is_newer=is_newer[order])
    assert_same(first, second)
    assert is_newer[places].tolist() == is_newer[order][others].tolist()
    assert first.weight.tolist() == log.weight[places].tolist()


@given(rows=many_rows)
def test_a_canonical_log_is_the_same_interactions(rows):
    log = log_of(rows)
    ordered, places = evaluation.canonical(log)
    assert sorted(places.tolist()) == list(range(len(log)))
    assert ordered.fingerprint() == log.fingerprint()
    pair = ordered.user_index * len(log.items) + ordered.item_index
    assert (np.diff(pair) >= 0).all()


def test_of_one_time_an_addition_comes_before_its_removal():
    log, _ = evaluation.canonical(log_of([(0, 0, 0.0, 1, -1), (0, 0, 2.0, 1, 1)]))
    assert log.listing.tolist() == [1, -1]
    assert log.matrix().weights.data.tolist() == [0.0]


def ring(n):
    """Return users who have two items each, in a ring: all alike, and no two interchangeable."""
    rows = [(user, item, 1.0, 1, 0) for user in range(n) for item in (user, (user + 1) % n)]
    user, item, weight, _, listing = np.array(rows, dtype=np.float64).T
    ids = [IdIndex([f"{letter}{number:03}" for number in range(n)]) for letter in "ui"]
    return InteractionLog(
        *ids,
        user.astype(np.int32),
        item.astype(np.int32),
        weight.copy(),
        None,
        listing.astype(np.int8),
    )


@pytest.mark.parametrize("n", [4, 7, 30])
@pytest.mark.parametrize("seed", range(3))
def test_users_that_are_all_alike_are_told_apart(n, seed):
    log = ring(n)
    changed, _ = disguised(log, seed)
    assert_same(evaluation.canonical(log)[0], evaluation.canonical(changed)[0])


class CoOccurrence:
    """Exact sums that order weighs in: recipes that decompose differ in the last digit."""

    is_personal = True

    def __init__(self, trained):
        self._together = (trained.weights.T @ trained.weights).toarray()

    def score(self, histories):
        weights = histories.weights.copy()
        if histories.n_later is not None:
            weights.data *= 64 - histories.n_later
        return np.asarray(weights @ self._together)


def split_in_three(rows, *, has_history):
    """Return a training, a test and a history log with ids of their own."""
    rows = [(*row[:4], 0) for row in rows]
    train = log_of([*rows[::3], (0, 0, 1.0, 1, 0), (1, 1, 1.0, 2, 0)])
    test = log_of([*rows[1::3], (0, 1, 1.0, 3, 0), (1, 2, 1.0, 3, 0)], has_times=False)
    test = dataclasses.replace(test, users=IdIndex([f"u{number}" for number in range(1, 6)]))
    return train, test, log_of(rows[2::3]) if has_history else None


def of_files(logs):
    task = tasks.of_logs(*evaluation.canonical_together(*logs))
    return task.counts(), task.measure(CoOccurrence(task.train), k=(1, 3)).summary(n_resamples=50)


@given(rows=st.lists(rows, max_size=40), has_history=st.booleans(), seed=st.integers(0, 10**6))
def test_files_are_judged_alike_under_any_ids(rows, has_history, seed):
    logs = split_in_three(rows, has_history=has_history)
    random = np.random.default_rng(seed)
    users, items = random.permutation(10), random.permutation(10)

    def renamed(log):
        if log is None:
            return None
        log = log.part(random.permutation(len(log)))
        columns = {}
        for ids, index, new in (("users", "user_index", users), ("items", "item_index", items)):
            names = [f"x{new[int(name[1:])]}" for name in getattr(log, ids).ids]
            ascending = IdIndex(sorted(names))
            columns[ids] = ascending
            place = IdIndex(names).places_in(ascending).astype(np.int32)
            columns[index] = place[getattr(log, index)]
        return dataclasses.replace(log, **columns)

    try:
        expected = of_files(logs)
    except NotEnoughDataError:
        return
    assert of_files([renamed(log) for log in logs]) == expected


def figures(log, kind, *, seed=0):
    """Judge popularity and co-occurrence on a log, whatever its order and ids."""
    log, _ = evaluation.canonical(log)
    splits = evaluation.pooled_splits(log, kind, seed=seed)
    found = []
    popularity = functools.partial(recipe_named("popularity").fit, settings={})
    for fit in (popularity, CoOccurrence):
        qualities = []
        for split in splits:
            model = fit(split.train)
            qualities.append(
                evaluation.measure_split(Ranker.of(model, split.train), split, k=(1, 3))
            )
        found.append(evaluation.pool(qualities))
    summaries = [quality.summary(seed=seed, n_resamples=50) for quality in found]
    return summaries, evaluation.compare(*found, seed=seed, n_resamples=50)


@pytest.mark.parametrize("kind", ["next", "user_time", "time", "random"])
@given(rows=st.lists(rows, min_size=12, max_size=40), seed=st.integers(0, 10**6))
def test_the_figures_are_the_same_to_the_last_digit(kind, rows, seed):
    rows = [(*row[:4], 0) for row in rows] + [(0, 0, 1.0, 1, 0), (1, 0, 1.0, 1, 0)]
    log = log_of(rows)
    try:
        expected = figures(log, kind)
    except NotEnoughDataError:
        return
    assert figures(disguised(log, seed)[0], kind) == expected
