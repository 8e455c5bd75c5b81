"""Tuning: what it promises for any recipe, and that it prefers what holds."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np
import pytest

from reckeeper import evaluation
from reckeeper.errors import DataError, NotEnoughDataError
from reckeeper.matrix import Histories, IdIndex, InteractionLog
from reckeeper.ranking import Ranker
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


@functools.cache
def tuned(recipe):
    """Tune on a few users, once for all tests, and return what was found and what was told.

    By a budget that is never used up: where a plan is cut, the clock decides.
    """
    seen = []
    return tune(recipe, few(), budget_seconds=600, on_progress=seen.append), seen


def test_the_settings_found_are_complete_and_fit(recipe):
    log = few()
    found, _ = tuned(recipe)
    model = recipe_named(recipe).fit(log.matrix(), settings=found.settings)
    assert model.settings == found.settings == found.best.settings
    assert found.n_tried > 1
    assert found.best.ndcg == pytest.approx(np.mean(list(found.best.by_split.values())))


def test_the_larger_the_budget_the_more_users_judge(monkeypatch):
    class Asked(Exception):
        pass

    def judge(fold, *, n_users):
        raise Asked(n_users)

    monkeypatch.setattr(folds.Fold, "judge", judge)
    log = tastes(n_users=600, n_items=2400)
    counts = []
    for seconds in (1, 40, 80):
        with pytest.raises(Asked) as asked:
            tune("spectral", log, budget_seconds=seconds)
        counts.append(asked.value.args[0])
    assert counts[0] == 500
    assert counts[1] > 500
    assert counts[2] == pytest.approx(2 * counts[1], abs=1)


def test_the_same_seed_finds_the_same(recipe):
    first, _ = tuned(recipe)
    second = tune(recipe, few(), budget_seconds=600)
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
    found, seen = tuned(recipe)
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
    assert list(timed) == ["user_time 1", *(f"random {number}" for number in range(2, 7))]
    assert list(untimed) == [f"random {number}" for number in range(1, 7)]
    assert list(leaning) == ["as drawn", "leaning 0.3", "leaning 0.6"]


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


def walks(*, n_users=250, n_items=40, per_user=12, seed=0):
    """Users go on to the item two after the last one, three times out of four."""
    random = np.random.default_rng(seed)
    place = random.integers(n_items, size=n_users)
    items = np.empty((n_users, per_user), dtype=np.int64)
    for step in range(per_user):
        items[:, step] = place
        leaps = random.random(n_users) < 0.25
        place = np.where(leaps, random.integers(n_items, size=n_users), (place + 2) % n_items)
    begins = random.integers(300 * DAY, size=n_users)
    times = begins[:, None] + np.arange(per_user) * DAY
    user = np.repeat(np.arange(n_users), per_user)
    return log_of(user, items.ravel(), occurred_at=times.ravel())


def test_order_is_found_where_there_is_one():
    found = tune("spectral", walks())
    assert found.settings["order"] > 0


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 5))]
)
def test_order_is_refused_where_times_tell_none(seed):
    log = walks(seed=seed)
    random = np.random.default_rng(seed)
    shuffled = dataclasses.replace(log, occurred_at=random.permutation(log.occurred_at))
    assert tune("spectral", shuffled, seed=seed).settings["order"] == 0


def test_order_is_left_open_where_times_are_equal():
    log = walks()
    at_once = dataclasses.replace(log, occurred_at=np.zeros_like(log.occurred_at))
    for times_that_tell_nothing in (at_once, dataclasses.replace(log, occurred_at=None)):
        found = tune("spectral", times_that_tell_nothing)
        assert (found.settings["order"], found.settings["recency"]) == (None, 3.0)


@pytest.mark.parametrize("n_seeds", [2, pytest.param(5, marks=pytest.mark.long)])
def test_seeds_agree(n_seeds):
    log = tastes(n_users=400, with_times=False)
    found = [tune("spectral", log, seed=seed).settings for seed in range(n_seeds)]
    judges = [(fold, fold.judge()) for fold in folds.draw(log, drift="none", seed=9)]
    spectral = recipe_named("spectral")
    means = [
        np.mean([judge.ndcg(spectral.fit(f.train, settings=one)).mean() for f, judge in judges])
        for one in found
    ]
    assert max(means) < 1.01 * min(means)


def test_order_of_rows_and_names_change_nothing():
    log = few()
    random = np.random.default_rng(5)
    mixed = log.part(random.permutation(len(log)))
    n_users, n_items = len(log.users), len(log.items)
    renamed = dataclasses.replace(
        mixed,
        users=IdIndex([f"other {index:05}" for index in range(n_users)]),
        items=IdIndex([f"thing {index:05}" for index in range(n_items)]),
        user_index=random.permutation(n_users).astype(np.int32)[mixed.user_index],
        item_index=random.permutation(n_items).astype(np.int32)[mixed.item_index],
    )
    here, _ = tuned("spectral")
    there = tune("spectral", renamed, budget_seconds=600)
    assert (here.settings, here.best.by_split) == (there.settings, there.best.by_split)


def test_folds_hold_out_a_tenth_and_leave_users_with_few_pairs_whole():
    user = np.concatenate([np.repeat(np.arange(60), 20), np.repeat(np.arange(60, 80), 3)])
    item = np.concatenate([np.tile(np.arange(20), 60), np.tile(np.arange(3), 20)])
    log = log_of(user, item)
    drawn = folds.draw(log, drift="none", seed=0)
    assert len(drawn) >= 3
    for fold in drawn:
        left = np.diff(fold.train.weights.indptr)
        assert set(left[:60]) == {18}
        assert set(left[60:]) == {3}
    assert len({fold.train.weights.indices.tobytes() for fold in drawn}) == len(drawn)


def test_drift_leans_the_folds():
    random = np.random.default_rng(0)
    popularity = np.arange(1, 101) ** -0.8
    item = [
        random.choice(100, 30, replace=False, p=popularity / popularity.sum()) for _ in range(300)
    ]
    log = log_of(np.repeat(np.arange(300), 30), np.concatenate(item))
    n_of_item = np.bincount(log.item_index)

    def lean(fold):
        held = n_of_item.sum() - fold.train.weights.nnz
        left = np.bincount(fold.train.weights.indices, minlength=100)
        return ((n_of_item - left) @ n_of_item) / held

    none, mild, strong = (
        [lean(fold) for fold in folds.draw(log, drift=drift, seed=0)]
        for drift in ("none", "mild", "strong")
    )
    assert min(mild) > max(none)
    assert strong == none


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Scores that are the same for everybody, and taken as they are."""

    scores: np.ndarray
    is_personal: ClassVar[bool] = False

    def score(self, histories):
        return np.tile(self.scores, (len(histories), 1))


def test_strong_drift_is_judged_by_leaning(recipe):
    found = tune(recipe, tastes(n_users=120, n_items=60), drift="strong", budget_seconds=2)
    assert list(found.best.by_split) == ["as drawn", "leaning 0.3", "leaning 0.6"]
    assert found.best.ndcg == pytest.approx(np.mean(list(found.best.by_split.values())))


def test_what_leans_counts_as_often_as_it_would_be_asked_for():
    # Everybody has the 20 items a, and 20 of b, each of which a tenth of the users have.
    n_users = 400
    of_b = 20 + (20 * np.arange(n_users)[:, None] + np.arange(20)) % 200
    item = np.concatenate([np.tile(np.arange(20), (n_users, 1)), of_b], axis=1)
    log = log_of(np.repeat(np.arange(n_users), 40), item.ravel())
    is_popular = np.arange(220) < 20
    for fold in folds.draw(log, drift="strong", seed=0):
        judge = fold.judge()
        popular, rare = (
            judge.ndcg(Fixed(np.where(is_a, 1.0, -np.inf))).mean(axis=1)
            for is_a in (is_popular, ~is_popular)
        )
        of_popular = np.array([10**power / (10**power + 1) for power in (0.0, 0.3, 0.6)])
        np.testing.assert_allclose(popular / popular[0], 2 * of_popular)
        np.testing.assert_allclose(rare / rare[0], 2 * (1 - of_popular))


def test_a_fold_judges_as_evaluation_measures():
    log = tastes()
    model = recipe_named("svd").fit(log.matrix(), settings={})
    for fold in (folds.newest(log), *folds.draw(log, drift="none", seed=0)):
        measured = evaluation.measure_split(Ranker.of(model, fold.train), fold.split)
        np.testing.assert_array_equal(fold.judge().ndcg(model), measured.by_user["ndcg@20"])


def test_what_leans_is_the_same_of_scores_and_of_their_model():
    log = tastes(with_times=False)
    judge = folds.draw(log, drift="strong", seed=0)[0].judge()
    model = recipe_named("svd").fit(log.matrix(), settings={})
    of_scores = judge.ndcg_of_scores(lambda rows: model.score(judge.histories[rows]))
    assert of_scores.shape == (3, len(judge.histories))
    np.testing.assert_allclose(of_scores, judge.ndcg(model))


def test_strong_drift_takes_what_loses_least_where_it_loses_most():
    run = tuning._Run(drift="strong")
    for number, (plain, leaning) in enumerate([(0.30, 0.10), (0.20, 0.20), (0.28, 0.18)]):
        ndcg = {"random 1": np.array([[plain], [plain], [leaning]])}
        run.weigh({"n": number}, ndcg, pull=0.0)
    assert run.best.settings == {"n": 2}


def test_strong_drift_prefers_what_is_better_wherever_the_worst_does_not_tell():
    run = tuning._Run(drift="strong")
    for number, (plain, leaning) in enumerate(
        [(0.30, 0.10), (0.20, 0.20), (0.28, 0.176), (0.27, 0.178)]
    ):
        ndcg = {"random 1": np.array([[plain], [plain], [leaning]])}
        run.weigh({"n": number}, ndcg, pull=0.0)
    assert run.best.settings == {"n": 2}


def test_a_pull_decides_between_equals():
    run = tuning._Run()
    run.weigh({"n": 1}, {"random 1": np.array([0.2])}, pull=0.002)
    run.weigh({"n": 2}, {"random 1": np.array([0.2])}, pull=0.0)
    run.weigh({"n": 3}, {"random 1": np.array([0.2001])}, pull=0.001)
    assert run.best.settings == {"n": 2}


def test_the_budget_is_cpu_time(monkeypatch):
    cpu = iter(range(0, 100_000, 10))
    monkeypatch.setattr(tuning.time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(tuning.time, "monotonic", lambda: 0.0)
    assert tune("svd", few(), budget_seconds=45).stopped
    cpu = iter(np.zeros(100_000))
    clock = iter(range(0, 10**9, 10_000))
    monkeypatch.setattr(tuning.time, "monotonic", lambda: next(clock))
    assert not tune("svd", few(), budget_seconds=45).stopped


@pytest.mark.parametrize(
    ("n_interactions", "fit", "seconds"),
    [(100_000, 300, 120), (1_000_000, 300, 400), (1_000_001, 10, 400), (5_000_000, 300, 1500)],
)
def test_the_default_budget_goes_by_the_data(n_interactions, fit, seconds):
    run = tuning._Run(n_interactions=n_interactions, n_cut=n_interactions)
    run.expect_fit(fit)
    assert run.budget_seconds == seconds


def test_of_large_data_users_are_drawn(monkeypatch):
    monkeypatch.setattr(folds, "_MOST_PAIRS", 1000)
    monkeypatch.setattr(folds, "_LEAST_USERS", 10)
    log = tastes()
    part = folds.sampled(log, seed=0)
    assert len(part.users) == 66
    assert set(part.users.ids) < set(log.users.ids)
    assert len(part.items) == len(log.items)
    assert set(np.bincount(part.user_index)) == {15}


@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_stop_keeps_the_best(n):
    seen = []
    found = tune(
        "spectral",
        few(),
        on_progress=seen.append,
        should_stop=lambda: bool(seen) and seen[-1].n_tried >= n,
    )
    assert found.stopped
    assert found.best == seen[-2].best
    tried, ndcg = seen[-1].history[-1]
    assert tried <= n + 1
    assert ndcg == found.best.ndcg


def test_a_budget_without_time_for_order_leaves_it_to_the_fit(monkeypatch):
    monkeypatch.setattr("reckeeper.recipes.spectral.tuning_order._LAST", -1.0)
    random = np.random.default_rng(0)
    user, item = random.integers(40, size=1500), random.integers(30, size=1500)
    log = log_of(user, item, occurred_at=np.arange(1500) * 1_000_000)
    assert tune("spectral", log).settings["order"] is None
