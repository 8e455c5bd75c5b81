"""Fitting: what settings leave to the data is decided on the newest part of it, and is kept."""

import dataclasses

import numpy as np
import pytest

from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.recipes import RECIPES, recipe_named
from reckeeper.training import fitting, folds

DAY = 86_400_000_000


def chains(*, n_users=250, n_items=60, per_user=12, seed=0, noise=0.3):
    """Users who take one item after the other, each from a place of their own; some at random."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), per_user)
    step = np.tile(np.arange(per_user), n_users)
    item = (random.integers(n_items, size=n_users)[user] + step) % n_items
    item = np.where(
        random.random(len(user)) < noise, random.integers(n_items, size=len(user)), item
    )
    begins = random.integers(300, size=n_users)
    return InteractionLog(
        IdIndex([f"u{index:04}" for index in range(n_users)]),
        IdIndex([f"i{index:04}" for index in range(n_items)]),
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(user)),
        (begins[user] + step) * DAY,
        np.zeros(len(user), dtype=np.int8),
    )


def decide(log, settings=None, **rest):
    return fitting.decide("spectral", settings or {}, lambda: log, **rest)


def fit(log, settings=None):
    return fitting.fit("spectral", settings or {}, lambda: log, log.matrix())


def shuffled(log, seed):
    """Give each user's times to its items by chance."""
    random = np.random.default_rng(seed)
    order = np.lexsort((random.random(len(log)), log.user_index))
    times = np.empty_like(log.occurred_at)
    times[np.lexsort((np.arange(len(log)), log.user_index))] = log.occurred_at[order]
    return dataclasses.replace(log, occurred_at=times)


def test_order_is_on_where_one_thing_follows_another():
    log = chains()
    assert decide(log) == {"order": 0.5}
    model = fit(log)
    assert model.decided == {"order": 0.5}
    assert model.order is not None
    assert model.settings["order"] is None


def test_order_on_shuffled_times_is_refused_in_19_of_20():
    refused = [decide(shuffled(chains(seed=seed), seed)) == {"order": 0.0} for seed in range(20)]
    assert sum(refused) >= 19


@pytest.mark.parametrize("times", ["missing", "equal", "each user's own"])
def test_without_an_order_there_is_nothing_to_decide_by(times):
    log = chains(n_users=60)
    occurred_at = {
        "missing": None,
        "equal": np.full(len(log), 7 * DAY),
        "each user's own": log.user_index.astype(np.int64) * DAY,
    }[times]
    log = dataclasses.replace(log, occurred_at=occurred_at)
    assert decide(log) == {"order": 0.0}
    model = fit(log)
    plain = recipe_named("spectral").fit(log.matrix(), settings={"order": 0.0})
    assert model.decided == {"order": 0.0}
    assert np.array_equal(model.item_weights.toarray(), plain.item_weights.toarray())


def test_too_few_users_decide_nothing():
    assert decide(chains(n_users=8, noise=0.0)) == {"order": 0.0}


def test_what_is_asked_for_is_not_decided():
    log = chains(n_users=60)
    for order in (0.0, 0.7):
        assert decide(log, {"order": order}) == {}
        model = fit(log, {"order": order})
        assert model.decided == {}
        assert (0.0 if model.order is None else model.order.strength) == order


def test_it_is_decided_with_the_settings_that_are_asked_for():
    log = chains()
    model = fit(log, {"recency": 1.5, "ridge": 40.0})
    assert model.order.recency == 1.5
    assert model.settings["ridge"] == 40.0


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"spectral"}))
def test_other_recipes_leave_nothing_open(recipe):
    log = chains(n_users=40)
    assert fitting.decide(recipe, {}, lambda: log) == {}
    model = fitting.fit(recipe, {}, lambda: log, log.matrix())
    assert model.decided == {}
    assert model.settings == recipe_named(recipe).fit(log.matrix(), settings={}).settings


def test_the_same_is_decided_whatever_the_order_of_the_rows():
    log = chains(noise=0.7)
    places = np.random.default_rng(1).permutation(len(log))
    assert decide(log) == decide(log.part(places))


def test_what_was_decided_is_in_the_file():
    model = fit(chains())
    again = recipe_named("spectral").from_arrays(
        model.to_arrays(), settings=model.settings, n_items=60
    )
    assert again.decided == {"order": 0.5}


def test_progress_goes_up_through_deciding_and_fitting():
    told = []
    log = chains()
    fitting.fit("spectral", {}, lambda: log, log.matrix(), on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    class CancelledError(Exception):
        pass

    def cancel(fraction):
        raise CancelledError

    with pytest.raises(CancelledError):
        decide(log, on_progress=cancel)


def test_nobody_is_asked_where_nothing_is_open(monkeypatch):
    def unexpected(*args, **rest):
        raise AssertionError

    monkeypatch.setattr(folds, "newest", unexpected)
    assert decide(chains(n_users=30), {"order": 0.3}) == {}
