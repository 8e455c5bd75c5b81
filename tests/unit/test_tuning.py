"""Tuning: what it promises for any recipe, and that it prefers what holds."""

import dataclasses

import numpy as np
import pytest

from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import Histories, IdIndex, InteractionLog
from reckeeper.recipes import RECIPES, recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.training import folds, tuning
from reckeeper.training.tuning import tune

DAY = 86_400_000_000


def log_of(user, item, *, occurred_at=None, weight=None):
    n_users, n_items = int(user.max()) + 1, int(item.max()) + 1
    return InteractionLog(
        IdIndex([f"u{index:05}" for index in range(n_users)]),
        IdIndex([f"i{index:05}" for index in range(n_items)]),
        user.astype(np.int32),
        item.astype(np.int32),
        np.ones(len(user)) if weight is None else weight,
        occurred_at,
        np.zeros(len(user), dtype=np.int8),
    )


def tastes(*, n_users=300, n_items=120, n_groups=6, per_user=15, seed=0, with_times=True):
    """Users of a group take items of its own, a tenth of the time anything."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), per_user)
    own = random.integers(n_items // n_groups, size=len(user)) * n_groups + user % n_groups
    item = np.where(random.random(len(user)) < 0.1, random.integers(n_items, size=len(user)), own)
    times = random.integers(100 * DAY, size=len(user)) if with_times else None
    return log_of(user, item, occurred_at=times)


@pytest.fixture(params=RECIPES)
def recipe(request):
    return request.param


def few():
    return tastes(n_users=120, n_items=60)


def test_the_settings_found_are_complete_and_fit(recipe):
    log = few()
    found = tune(recipe, log)
    model = recipe_named(recipe).fit(log.matrix(), settings=found.settings)
    assert model.settings == found.settings == found.best.settings
    assert found.n_tried > 1
    assert found.best.ndcg == pytest.approx(np.mean(list(found.best.by_split.values())))


def test_the_same_seed_finds_the_same(recipe):
    # A budget that is never used up: where a plan is cut, the clock decides.
    first, second = (tune(recipe, few(), seed=3, budget_seconds=600) for _ in range(2))
    assert (first.settings, first.best, first.n_tried) == (
        second.settings,
        second.best,
        second.n_tried,
    )
    assert not first.stopped


def test_stopped_at_once_it_has_judged_something(recipe):
    seen = []
    found = tune(recipe, few(), on_progress=seen.append, should_stop=lambda: True)
    assert found.stopped
    assert found.n_tried == 1
    assert seen[-1].best == found.best


def test_a_budget_ends_it(recipe):
    found = tune(recipe, few(), budget_seconds=1e-6)
    assert found.stopped
    assert found.n_tried == 1


def test_progress_never_goes_back_and_ends_with_the_best(recipe):
    seen = []
    found = tune(recipe, few(), on_progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert [progress.n_tried for progress in seen] == sorted(p.n_tried for p in seen)
    assert seen[-1].best == found.best


def test_what_progress_raises_ends_it(recipe):
    def leave(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(recipe, few(), on_progress=leave)


def test_splits_are_of_different_kinds():
    timed = tune("popularity", tastes()).best.by_split
    untimed = tune("popularity", tastes(with_times=False)).best.by_split
    leaning = tune("popularity", tastes(with_times=False), drift="strong").best.by_split
    assert list(timed) == ["user_time 1", "random 2", "random 3"]
    assert list(untimed) == ["random 1", "random 2", "random 3"]
    assert list(leaning) == ["random 1", "popular 2", "popular 3"]


def test_too_little_to_hold_anything_out_is_refused(recipe):
    with pytest.raises(NotEnoughDataError, match="two items"):
        tune(recipe, log_of(np.arange(20), np.arange(20) % 4))


def test_leading_components_are_the_model_of_fewer():
    log = tastes()
    large = recipe_named("svd").fit(log.matrix(), settings={"n_components": 20})
    small = recipe_named("svd").fit(log.matrix(), settings={"n_components": 5})
    rows = log.matrix().weights[:7]
    histories = Histories(rows)
    np.testing.assert_allclose(
        large.leading(5).score(histories), small.score(histories), atol=1e-10
    )
    assert large.leading(5).settings == small.settings


def test_an_unknown_recipe_is_refused():
    with pytest.raises(DataError, match="There is no recipe"):
        tune("magic", tastes())


def test_spectral_is_tuned_to_be_better_than_popularity_and_its_start():
    log = tastes(n_users=200)
    found = tune("spectral", log)
    popular = tune("popularity", log)
    assert found.best.ndcg > 1.5 * popular.best.ndcg
    start = tune("spectral", log, should_stop=lambda: True)
    assert found.best.ndcg >= start.best.ndcg


def test_popularity_learns_that_fashions_pass():
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(400), 12)
    week = np.tile(np.arange(12), 400)
    item = 3 * week + random.integers(6, size=len(user))
    log = log_of(user, item, occurred_at=week * 7 * DAY + random.integers(DAY, size=len(user)))
    run = tuning._Run()
    Popularity.tune(folds.draw(log, drift="none", seed=0)[:1], run)
    assert run.best.settings["half_life_days"] in (7.0, 30.0)


def test_weights_that_mislead_are_left_out():
    log = few()
    random = np.random.default_rng(1)
    misleading = dataclasses.replace(log, weight=np.exp(6 * random.random(len(log))))
    assert tune("spectral", misleading, budget_seconds=120).settings["weighting"] == "binary"


@pytest.mark.parametrize(
    ("gains", "is_taken"),
    [
        ((0.05, 0.05, 0.05), True),
        ((0.0, 0.0, 0.0), False),
        ((-0.05, 0.02, 0.06), False),  # shines on one, loses on another
        ((-0.005, 0.06, 0.06), True),
    ],
    ids=str,
)
def test_a_loss_on_one_split_counts_more_than_a_gain_on_another(gains, is_taken):
    run = tuning._Run()
    base = np.random.default_rng(0).random(20_000)
    kinds = ("random", "popular", "very popular")
    assert run.add({"n": 1}, dict.fromkeys(kinds, base))
    changed = {kind: base * (1 + gain) for kind, gain in zip(kinds, gains, strict=True)}
    assert run.add({"n": 2}, changed) is is_taken
    assert run.best.settings == {"n": 2 if is_taken else 1}


def test_chance_alone_changes_nothing():
    random = np.random.default_rng(0)
    taken = 0
    for _ in range(200):
        run = tuning._Run()
        before = {kind: random.random(300) for kind in ("random", "popular")}
        run.add({"n": 1}, before)
        taken += run.add(
            {"n": 2},
            {kind: ndcg + 0.1 * random.standard_normal(300) for kind, ndcg in before.items()},
        )
    assert taken < 40
