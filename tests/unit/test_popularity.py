"""Popularity, held against counts made by hand."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from reckeeper.errors import DataError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.recipes.popularity import Popularity

DAY = 86_400_000_000
NOW = 1_700_000_000_000_000


@pytest.fixture
def given():
    """Return 3 users × 4 items; user 2 has seen item 0, which weighs nothing."""
    weights = sparse.csr_array(
        (
            np.array([1.0, 5.0, 2.0, 1.0, 0.0, 0.5]),
            np.array([0, 1, 0, 2, 0, 1]),
            np.array([0, 2, 4, 6]),
        ),
        shape=(3, 4),
    )
    latest_at = NOW - np.array([0, 10, 20, 30, 0, 40]) * DAY
    ids = (IdIndex(["a", "b", "c"]), IdIndex(["w", "x", "y", "z"]))
    return InteractionMatrix(*ids, weights, 9, latest_at)


def test_the_score_is_the_number_of_users(given):
    model = Popularity.fit(given, settings={})
    assert model.item_scores.tolist() == [2.0, 2.0, 1.0, 0.0]
    assert model.score(given.histories).tolist() == [[2.0, 2.0, 1.0, 0.0]] * 3
    assert model.settings == {"half_life_days": None}


def test_older_users_count_less(given):
    model = Popularity.fit(given, settings={"half_life_days": 10})
    expected = [1 + 2**-2, 2**-1 + 2**-4, 2**-3, 0.0]
    np.testing.assert_allclose(model.item_scores, expected, rtol=1e-15)
    assert model.settings == {"half_life_days": 10.0}
    assert isinstance(model.settings["half_life_days"], float)


def test_ages_count_from_the_latest_interaction_and_not_from_today(given):
    later = dataclasses.replace(given, latest_at=given.latest_at - 5000 * DAY)
    first, second = (
        Popularity.fit(each, settings={"half_life_days": 3.5}).item_scores
        for each in (given, later)
    )
    np.testing.assert_array_equal(first, second)


def test_long_ago_weighs_nothing(given):
    model = Popularity.fit(given, settings={"half_life_days": 0.01})
    assert model.item_scores.tolist() == [1.0, pytest.approx(0.0), 0.0, 0.0]


def test_a_half_life_needs_times(given):
    timeless = dataclasses.replace(given, latest_at=None)
    assert Popularity.fit(timeless, settings={}).item_scores.tolist() == [2.0, 2.0, 1.0, 0.0]
    with pytest.raises(DataError, match=r"half_life_days is 30, and .* no times\. .* to null"):
        Popularity.fit(timeless, settings={"half_life_days": 30})


def test_without_any_interaction_all_is_zero(given):
    nothing = dataclasses.replace(
        given, weights=sparse.csr_array((3, 4)), latest_at=np.empty(0, dtype=np.int64)
    )
    for settings in ({}, {"half_life_days": 1}):
        assert not Popularity.fit(nothing, settings=settings).item_scores.any()


@pytest.mark.parametrize("value", [0, -1, 0.009, 36_501, True, "7", float("nan"), [7]])
def test_bad_half_lives_are_refused(given, value):
    expected = r"half_life_days must be a number from 0\.01 to 36500, or null, not "
    with pytest.raises(DataError, match=expected):
        Popularity.fit(given, settings={"half_life_days": value})


def test_scores_below_zero_are_refused():
    with pytest.raises(DataError, match="'item_scores' has values below zero"):
        Popularity.from_arrays({"item_scores": np.array([1.0, -1.0])}, settings={}, n_items=2)


def test_nothing_is_similar_and_nothing_is_decomposed(given):
    model = Popularity.fit(given, settings={})
    assert [part.tolist() for part in model.similar(0, n=3)] == [[], []]
    assert model.to_sklearn() is None
    assert model.explained_variance == 0.0
    assert model.to_export(given)["item_scores"] is model.item_scores
