"""Which recipe suits the data: on the training side alone, on the same users, live."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from reckeeper import audit, evaluation, storage
from reckeeper.errors import NotEnoughDataError
from reckeeper.evaluation import PairedDifference
from reckeeper.matrix import IdIndex, InteractionLog
from reckeeper.policy import Policy, StoredPolicy
from reckeeper.ranking import Ranker
from reckeeper.recipes import recipe_named
from reckeeper.training import recipe_comparison
from reckeeper.training.comparison import (
    Advice,
    Beside,
    Comparison,
    MadeOn,
    MeasuredRecipe,
    Rule,
    Today,
)
from reckeeper.training.tuning import tune
from reckeeper.training.verdict import Metric, found

RECIPES = ["popularity", "svd", "spectral"]
NAMES = ["popularity", "svd", "spectral (tuned)"]
METRICS = {
    *("recall@10", "ndcg@10", "hit_rate@10", "map@10"),
    *("precision@10", "mrr@10", "without_hit@10"),
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


def policy(**fields):
    return StoredPolicy(Policy(**{"min_users": 10, **fields}), 3, "stored")


def compare(log, **options):
    options = {"policy": policy(), "should_stop": lambda: True, **options}
    return recipe_comparison.compare(log, **options)


def without_seconds(compared):
    return [
        {name: value for name, value in row.items() if not name.endswith("_seconds")}
        for row in compared.to_json()["recipes"]
    ]


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

    result = compare(log, tune_seconds=1.0, report=report, should_stop=None).to_json()
    return log, result, told


def test_three_recipes_are_measured_on_the_same_users(told):
    log, result, _ = told
    assert (result["split"], result["k"]) == ("next", 10)
    assert result["how"].endswith("; the 2 fifths before it likewise, pooled by user")
    assert 10 < result["n_users"] <= len(log.users)
    assert [row["recipe"] for row in result["recipes"]] == RECIPES
    assert [row["name"] for row in result["recipes"]] == NAMES
    assert [row["tuned"] for row in result["recipes"]] == [False, False, True]
    popularity, svd, spectral = result["recipes"]
    assert popularity["settings"] == {"half_life_days": None}
    assert svd["settings"] == {"n_components": 10, "weighting": "raw"}
    assert spectral["settings"].keys() == {
        setting["name"] for setting in recipe_named("spectral").settings_type.describe()
    }
    assert popularity["tune_seconds"] == svd["tune_seconds"] == 0
    assert spectral["tune_seconds"] > 0
    for row in result["recipes"]:
        assert row["fit_seconds"] >= 0
        assert row["metrics"].keys() == METRICS | {
            f"{name}@10" for name in ("coverage", "novelty", "gini", "popularity_lift")
        }
        assert row["versus"].keys() == set(NAMES) - {row["name"]}
        for other in result["recipes"]:
            if other is not row:
                stands_beside(row, other, n_users=result["n_users"])
    # The users' tastes are there to be found.
    assert svd["versus"]["popularity"]["standing"] == "better"
    assert spectral["versus"]["popularity"]["standing"] == "better"
    assert popularity["versus"]["svd"]["standing"] == "worse"
    assert json.loads(json.dumps(result)) == result
    assert Comparison.from_json(json.loads(json.dumps(result))).to_json() == result


def stands_beside(row, other, *, n_users):
    """Assert that the difference of two lines is theirs, and the standing the gate's."""
    beside = row["versus"][other["name"]]
    assert beside["metrics"].keys() == METRICS
    for name, paired in beside["metrics"].items():
        expected = row["metrics"][name]["mean"] - other["metrics"][name]["mean"]
        assert paired["difference"] == pytest.approx(expected, abs=1e-12)
        assert paired["low"] <= paired["difference"] <= paired["high"]
        assert paired["n"] == n_users
    finding = found(
        PairedDifference(**beside["metrics"]["ndcg@10"]),
        mean=other["metrics"]["ndcg@10"]["mean"],
        margin=0.02,
        min_users=10,
    )
    assert (beside["standing"], beside["n_users_needed"]) == dataclasses.astuple(finding)


def test_what_is_held_out_stays_unseen(told):
    """The numbers are those of models that are fitted on the training side by hand."""
    log, result, _ = told
    splits = evaluation.pooled_splits(evaluation.canonical(log)[0], "next")
    assert len(splits) == 3
    for row in result["recipes"]:
        quality = evaluation.pool(
            [
                evaluation.measure_split(
                    Ranker.of(
                        recipe_named(row["recipe"]).fit(split.train, settings=row["settings"]),
                        split.train,
                    ),
                    split,
                    k=10,
                )
                for split in splits
            ]
        )
        ndcg = quality.by_user["ndcg@10"].mean()
        assert row["metrics"]["ndcg@10"]["mean"] == pytest.approx(ndcg, rel=1e-6)


def test_what_any_cut_holds_out_does_not_steer_tuning():
    """Tuning sees what comes before all of the cuts, and nothing else."""
    log, _ = evaluation.canonical(tastes())
    splits = evaluation.pooled_splits(log, "next")
    known = np.logical_and.reduce([split.keep for split in splits])
    assert 0.3 < known.mean() < 0.5
    found = []
    compare(log, report=lambda stage, fraction, **more: found.append(more.get("progress")))
    last = [progress for progress in found if progress][-1]
    tuned = tune("spectral", log.part(known), should_stop=lambda: True)
    assert (last.best.settings, last.best.ndcg) == (tuned.settings, tuned.best.ndcg)


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
    assert {"n_tried", "ndcg", "settings", "seconds_left", "history"} == set(found[-1])
    assert found[-1]["n_tried"] > 0


@pytest.mark.parametrize("with_times", [True, False])
def test_the_same_rows_in_any_order_and_under_other_ids_give_the_same_result(with_times):
    log = tastes(40, 30, with_times=with_times)
    random = np.random.default_rng(5)
    shuffled = log.part(random.permutation(len(log)))
    users = random.permutation(len(log.users)).astype(np.int32)
    renamed = dataclasses.replace(shuffled, user_index=users[shuffled.user_index])
    assert without_seconds(compare(log)) == without_seconds(compare(renamed))


def test_without_times_the_cut_is_random_and_says_so():
    log = tastes(40, 30, with_times=False)
    first, second, other = (compare(log, seed=seed) for seed in (1, 1, 2))
    assert first.split == "random"
    assert first.how == (
        "a random fifth of each user's interactions: they carry no times; 5 such cuts, pooled by "
        "user"
    )
    assert first.made_on.latest_at is None
    assert without_seconds(first) == without_seconds(second) != without_seconds(other)


def test_metric_length_and_margin_are_the_policys():
    log = tastes(40, 30, with_times=False)
    compared = compare(log, policy=policy(metric="recall@5", margin=0.1))
    assert (compared.k, compared.rule.metric, compared.rule.revision) == (5, "recall@5", 3)
    for line in compared.recipes:
        assert {name.partition("@")[2] for name in line.metrics} == {"5"}
    too_few = compare(log, policy=policy(min_users=41))
    standings = {beside.standing for line in too_few.recipes for beside in line.versus.values()}
    assert standings == {"too_few"}
    assert too_few.advice().use is None
    assert too_few.advice().sentence.endswith("judged, and the policy asks for 41.")


def version(recipe, settings):
    """Return an active version of which no more is asked."""
    return SimpleNamespace(version=4, recipe=recipe, settings=settings)


def test_what_is_active_joins_the_table_unless_it_is_there():
    log = tastes(40, 30, with_times=False)
    joined = compare(log, active=version("svd", {"n_components": 3}))
    assert [line.name for line in joined.recipes] == [*NAMES, "version 4 (svd)"]
    assert [line.version for line in joined.recipes] == [None, None, None, 4]
    there = compare(log, active=version("svd", {}))  # 10 components are the default
    assert [line.version for line in there.recipes] == [None, 4, None]
    broken = compare(log, active=version("svd", {"n_components": "many"}))
    assert [line.name for line in broken.recipes] == NAMES
    assert broken.problem.startswith("Version 4 could not be measured beside them: ")
    assert broken.described(today(active=(4, "svd", {"n_components": "many"})))["advice"] is None


def line(name, mean, *, coverage=0.5, version=None, **versus):
    return MeasuredRecipe(
        name=name,
        recipe=name,
        settings={},
        tuned=False,
        version=version,
        fit_seconds=0.1,
        tune_seconds=0.0,
        metrics={"ndcg@10": Metric(mean), "coverage@10": Metric(coverage)},
        versus={
            other: Beside(
                standing,
                700,
                {"ndcg@10": PairedDifference(ahead, ahead - 0.01, ahead + 0.01, sd=0.2, n=500)},
            )
            for other, (standing, ahead) in versus.items()
        },
    )


def of_lines(*lines):
    made_on = MadeOn(1000, 600, 50, None, watermark=1000, read_at=5)
    rule = Rule.of(policy(min_users=100))
    return Comparison("next", "each", 10, made_on, rule, 4, n_users=500, recipes=lines)


POPULAR = line("popularity", 0.1, svd=("worse", -0.1), spectral=("worse", -0.2))
SVD = line("svd", 0.2, version=4, popularity=("better", 0.1), spectral=("worse", -0.1))
SPECTRAL = line("spectral", 0.3, popularity=("better", 0.2), svd=("better", 0.1))


@pytest.mark.parametrize(
    ("spectral", "use", "words"),
    [
        (
            SPECTRAL,
            "spectral",
            "spectral is better than the active one, svd: NDCG@10 0.300 "
            "against 0.200 (difference +0.100, 95% interval +0.090 to +0.110).",
        ),
        (
            line("spectral", 0.3, coverage=0.2, popularity=("better", 0.2), svd=("better", 0.1)),
            None,
            "Yet its lists have 20.0% of all items, less than 50% of the 50.0%",
        ),
        (
            line("spectral", 0.3, popularity=("worse", -0.2), svd=("better", 0.1)),
            None,
            "Yet it is worse than the same popular items for everybody.",
        ),
        (
            line("spectral", 0.21, popularity=("better", 0.1), svd=("too_few", 0.01)),
            None,
            "Too few to tell whether spectral is better than the active one, svd: 500 users were "
            "judged, and to find a loss of 4.0% takes 700.",
        ),
        (
            line("spectral", 0.2, popularity=("better", 0.1), svd=("no_worse", 0.0)),
            None,
            "No recipe is better than the active one, svd.",
        ),
    ],
)
def test_the_advice_is_the_gates_rule(spectral, use, words):
    advice = of_lines(POPULAR, SVD, spectral).described()["advice"]
    assert advice.use == use
    assert words in advice.sentence


def test_below_popularity_is_nothing_against_it_where_the_active_one_is_below_too():
    svd = line("svd", 0.2, version=4, popularity=("worse", -0.2), spectral=("worse", -0.1))
    spectral = line("spectral", 0.3, popularity=("worse", -0.1), svd=("better", 0.1))
    popular = line("popularity", 0.4, svd=("too_few", 0.2), spectral=("better", 0.1))
    assert of_lines(popular, svd, spectral).advice().use == "spectral"


def test_what_is_as_good_is_named_too():
    svd = line("svd", 0.29, popularity=("better", 0.19), spectral=("too_few", -0.01))
    spectral = line("spectral", 0.3, popularity=("better", 0.2), svd=("too_few", 0.01))
    popular = line("popularity", 0.1, version=4, svd=("worse", -0.19), spectral=("worse", -0.2))
    advice = of_lines(popular, svd, spectral).advice()
    assert advice.use == "spectral"
    assert advice.sentence.endswith(" Too few users to tell it from svd.")


def test_without_an_active_version_popularity_is_the_mark():
    advice = dataclasses.replace(of_lines(POPULAR, SPECTRAL), active_version=None).advice()
    assert advice.use == "spectral"
    assert "is better than popularity, the same list for everybody: " in advice.sentence
    assert of_lines(POPULAR).advice() is None


def today(**fields):
    rule = fields.pop("rule", Rule.of(policy(min_users=100)))
    return Today(**{"rule": rule, "removed": None, "n_newer": 0, "active": None, **fields})


def test_what_has_changed_is_told_with_its_reason():
    compared = of_lines(POPULAR, SPECTRAL)

    def told(**fields):
        shown = compared.described(today(**fields))
        codes = [change["code"] for change in shown["changes"]]
        return shown["state"], codes, shown["advice"] is not None, len(shown["recipes"])

    assert told() == ("current", [], True, 2)
    assert compared.n_newer_to_count == 50
    assert told(n_newer=49) == ("current", [], True, 2)
    assert told(n_newer=50) == ("out_of_date", ["new_interactions"], False, 2)
    stored = policy(min_users=100, schedule="0 3 * * *")
    assert told(rule=Rule.of(dataclasses.replace(stored, revision=9))) == told()
    for changed in ({"metric": "map@10"}, {"margin": 0.1}, {"weights": {"click": 2.0}}):
        rule = Rule.of(policy(**{"min_users": 100, **changed}))
        assert told(rule=rule) == ("out_of_date", ["policy_changed"], False, 2)
    assert told(active=(4, "svd", {})) == ("current", [], False, 2)  # it had no line then
    assert told(active=(5, "spectral", {})) == ("current", [], True, 2)
    assert told(active=(5, "svd", {})) == ("out_of_date", ["active_changed"], False, 2)
    gone = told(removed="the demo data were removed", n_newer=50)
    assert gone == ("gone", ["data_removed"], False, 0)


def test_what_became_active_since_is_what_others_are_held_against():
    shown = of_lines(POPULAR, SVD, SPECTRAL).described(today(active=(5, "spectral", {})))
    assert shown["state"] == "current"
    assert shown["advice"] == Advice(None, "No recipe is better than the active one, spectral.")


@pytest.mark.parametrize("n_users", [1, 9])
def test_too_few_users_with_several_items_are_too_little(n_users):
    rows = [(user, item, 1.0, 0, user * 10 + item) for user in range(n_users) for item in range(4)]
    rows += [(user, 0, 1.0, 0, user) for user in range(n_users, 12)]
    log = log_of(rows, n_users=12, n_items=4)
    with pytest.raises(NotEnoughDataError, match=rf"at least 10 .* only {n_users} "):
        compare(log)
    none = dataclasses.replace(
        log_of(rows[:1], n_users=1, n_items=1),
        user_index=np.empty(0, np.int32),
        item_index=np.empty(0, np.int32),
        weight=np.empty(0),
        occurred_at=np.empty(0, np.int64),
        listing=np.empty(0, np.int8),
    )
    with pytest.raises(NotEnoughDataError, match="only 0 of"):
        compare(none)


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
