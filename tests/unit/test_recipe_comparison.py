"""Which recipe suits the data: on the training side alone, on the same users, live."""

import dataclasses
import json

import numpy as np
import pytest

from reckeeper import audit, evaluation, storage
from reckeeper.errors import NotEnoughDataError
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.training import recipe_comparison

RECIPES = ["popularity", "svd", "spectral"]
METRICS = {
    *("recall@20", "ndcg@20", "hit_rate@20", "map@20"),
    *("precision@20", "mrr@20", "without_hit@20"),
}


def log_of(rows, *, n_users, n_items, with_times=True):
    """Make a log of rows ``(user, item, weight, listing, time)``."""
    user, item, weight, listing, at = (np.array(column) for column in zip(*rows, strict=True))
    return InteractionLog(
        IdIndex([f"u{number:03}" for number in range(n_users)]),
        IdIndex([f"i{number:03}" for number in range(n_items)]),
        user.astype(np.int32),
        item.astype(np.int32),
        weight.astype(np.float64),
        at.astype(np.int64) if with_times else None,
        listing.astype(np.int8),
    )


def tastes(n_users=80, n_items=60, *, with_times=True):
    """Return a log of users who each like one of three kinds of items, and sometimes others."""
    random = np.random.default_rng(7)
    rows = []
    for user in range(n_users):
        kind = user % 3
        for _ in range(random.integers(8, 16)):
            item = random.integers(n_items // 3) * 3 + kind
            if random.random() < 0.15:
                item = random.integers(n_items)
            rows.append((user, item, 1.0, 0, 1_000_000 * len(rows)))
    order = random.permutation(len(rows))
    return log_of(
        [rows[place] for place in order], n_users=n_users, n_items=n_items, with_times=with_times
    )


def without_seconds(result):
    return [
        {name: value for name, value in row.items() if not name.endswith("_seconds")}
        for row in result["recipes"]
    ]


def compared(log, **options):
    return recipe_comparison.compare(log, should_stop=lambda: True, **options).to_json()


@pytest.fixture(scope="module")
def told():
    """Compare once; give the log, the result and everything that was reported."""
    log, told = tastes(), []

    def report(stage, fraction, **found):
        told.append(
            (
                stage,
                fraction,
                {name: json.loads(json.dumps(value.to_json())) for name, value in found.items()},
            )
        )

    result = recipe_comparison.compare(log, tune_seconds=1.0, report=report).to_json()
    return log, result, told


def test_three_recipes_are_measured_on_the_same_users(told):
    log, result, _ = told
    assert (result["split"], result["k"]) == ("user_time", 20)
    assert result["n_users"] == len(log.users)
    assert [row["recipe"] for row in result["recipes"]] == RECIPES
    assert [row["tuned"] for row in result["recipes"]] == [False, False, True]
    popularity, svd, spectral = result["recipes"]
    assert popularity["settings"] == {"half_life_days": None}
    assert svd["settings"] == {"n_components": 10}
    assert spectral["settings"].keys() == {
        setting["name"] for setting in recipe_named("spectral").settings_type.describe()
    }
    assert popularity["tune_seconds"] == svd["tune_seconds"] == 0
    assert spectral["tune_seconds"] > 0
    for row in result["recipes"]:
        assert row["fit_seconds"] >= 0
        assert row["metrics"].keys() == METRICS | {
            f"{name}@20" for name in ("coverage", "novelty", "gini", "popularity_lift")
        }
        assert row["versus_popularity"].keys() == METRICS
        for name in METRICS:
            difference = row["versus_popularity"][name]["difference"]
            expected = row["metrics"][name]["mean"] - popularity["metrics"][name]["mean"]
            assert difference == pytest.approx(expected, abs=1e-12)
    # The users' tastes are there to be found.
    assert svd["versus_popularity"]["ndcg@20"]["low"] > 0
    assert spectral["versus_popularity"]["ndcg@20"]["low"] > 0
    assert json.loads(json.dumps(result)) == result


def test_what_is_held_out_stays_unseen(told):
    """The numbers are those of a model that is fitted on the training side by hand."""
    log, result, _ = told
    split = evaluation.split_user_time(evaluation.canonical(log)[0])
    for row in result["recipes"]:
        model = recipe_named(row["recipe"]).fit(split.train, settings=row["settings"])
        quality = evaluation.measure_split(Ranker.of(model, split.train), split)
        ndcg = quality.by_user["ndcg@20"].mean()
        assert row["metrics"]["ndcg@20"]["mean"] == pytest.approx(ndcg, rel=1e-6)


def found_by_tuning(log):
    """Compare with the shortest tuning; return what that found, and how good it was there."""
    found = []
    recipe_comparison.compare(
        log,
        report=lambda stage, fraction, **more: found.append(more.get("progress")),
        should_stop=lambda: True,
    )
    last = [progress for progress in found if progress][-1]
    return last.best.settings, last.best.ndcg


def test_what_is_held_out_does_not_steer_tuning():
    """Users who want quite other things after the cut have the same past."""
    log = tastes()
    split = evaluation.split_user_time(log)
    held_out = split.held_out.toarray() > 0
    known = split.histories.toarray() > 0
    item_index = log.item_index.copy()
    for user in range(len(log.users)):
        held = np.flatnonzero(held_out[user])
        free = np.flatnonzero(~(held_out[user] | known[user]))
        for item, other in zip(held, free[-len(held) :], strict=True):
            item_index[(log.user_index == user) & (log.item_index == item)] = other
    changed = dataclasses.replace(log, item_index=item_index)
    other_split = evaluation.split_user_time(changed)
    assert (other_split.held_out != split.held_out).nnz
    assert (other_split.histories != split.histories).nnz == 0

    assert found_by_tuning(changed) == found_by_tuning(log)


def test_every_recipe_is_shown_as_soon_as_it_is_measured(told):
    _, result, told = told
    fractions = [fraction for _, fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert set(dict.fromkeys(stage for stage, _, _ in told)) == {"fitting", "measuring", "tuning"}
    shown = [found["result"] for _, _, found in told if "result" in found]
    assert [[row["recipe"] for row in found["recipes"]] for found in shown] == [
        RECIPES[:1],
        RECIPES[:2],
        RECIPES,
    ]
    assert shown[-1] == result
    found = [found["progress"] for _, _, found in told if "progress" in found]
    assert found
    assert {"n_tried", "ndcg", "settings", "seconds_left"} == set(found[-1])
    assert found[-1]["n_tried"] > 0


def test_the_same_log_and_seed_give_the_same_result():
    log = tastes(40, 30)
    first, second = (
        recipe_comparison.compare(log, should_stop=lambda: True).to_json() for _ in range(2)
    )
    assert without_seconds(first) == without_seconds(second)


def test_without_times_the_split_is_random():
    log = tastes(40, 30, with_times=False)
    first, second, other = (
        recipe_comparison.compare(log, seed=seed, should_stop=lambda: True).to_json()
        for seed in (1, 1, 2)
    )
    assert first["split"] == "random"
    assert without_seconds(first) == without_seconds(second) != without_seconds(other)


@pytest.mark.parametrize("n_users", [1, 9])
def test_too_few_users_with_several_items_are_too_little(n_users):
    rows = [(user, item, 1.0, 0, user * 10 + item) for user in range(n_users) for item in range(4)]
    rows += [(user, 0, 1.0, 0, user) for user in range(n_users, 12)]
    log = log_of(rows, n_users=12, n_items=4)
    with pytest.raises(NotEnoughDataError, match=rf"at least 10 .* only {n_users} "):
        recipe_comparison.compare(log)
    none = dataclasses.replace(
        log_of(rows[:1], n_users=1, n_items=1),
        user_index=np.empty(0, np.int32),
        item_index=np.empty(0, np.int32),
        weight=np.empty(0),
        occurred_at=np.empty(0, np.int64),
        listing=np.empty(0, np.int8),
    )
    with pytest.raises(NotEnoughDataError, match="only 0 of"):
        recipe_comparison.compare(none)


def test_a_run_reads_the_database_and_writes_nothing(database, settings, taste):
    stages = []
    result = recipe_comparison.run(
        database,
        settings,
        report=lambda stage, fraction, **found: stages.append(stage),
        should_stop=lambda: True,
    ).to_json()
    assert stages[0] == "reading"
    assert [row["recipe"] for row in result["recipes"]] == RECIPES
    assert result["n_users"] == 12
    with database.read() as connection:
        assert storage.models.all_versions(connection) == []
        assert storage.jobs.page(connection, limit=1, before=None) == []
        assert audit.entries(database, limit=1) == []
    assert not settings.model_dir.exists()


def test_no_interactions_are_too_little(database, settings):
    with pytest.raises(NotEnoughDataError, match="There are no interactions"):
        recipe_comparison.run(database, settings)
