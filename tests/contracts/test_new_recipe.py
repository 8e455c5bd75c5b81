"""A recipe is one file and one entry in the table: all that takes a recipe takes a new one."""

import json

import numpy as np
import pytest
from tests.contracts.small_recipe import Together

from reckeeper import serving, storage
from reckeeper.cli.evaluate import evaluate
from reckeeper.errors import DataError, MemoryLimitError
from reckeeper.policy import PolicyWatch
from reckeeper.recipes import RECIPES, describe_recipes
from reckeeper.training import memory, pipeline


@pytest.fixture(autouse=True)
def added(monkeypatch):
    monkeypatch.setitem(RECIPES, Together.name, Together)


@pytest.fixture
def tastes(add):
    """Users of four groups, each of whom likes items of one group, twelve of twenty."""
    random = np.random.default_rng(0)
    pairs = [
        (f"u{user:03}", f"i{4 * item + user % 4:03}")
        for user in range(120)
        for item in random.choice(20, 12, replace=False)
    ]
    add(*(pairs[place] for place in random.permutation(len(pairs)).tolist()))
    return pairs


@pytest.fixture
def retrain(database, settings):
    def run(request, **changed):
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger="manual", request=request)
            job = storage.jobs.get(connection, job_id)
        progress = []
        version = pipeline.run(
            database,
            settings.replaced(**changed),
            job=job,
            report=lambda stage, fraction, **found: progress.append((stage, found)),
        )
        return version, progress

    return run


def test_it_is_trained_tuned_judged_stored_and_served(
    tastes, retrain, database, registry, settings
):
    version, progress = retrain({"recipe": "together", "tune": True, "tune_seconds": 60})
    tried = [found["progress"] for _, found in progress if found.get("progress")]
    assert tried[-1].n_tried == 3
    assert {stage for stage, _ in progress} >= {"tuning", "judging", "fitting", "writing"}

    row = registry.versions.describe(version)
    assert row.recipe == "together"
    assert set(row.settings) == {"damping"}
    assert row.metrics["ndcg@10"]["mean"] > 0.4

    model = registry.versions.load(version)
    assert isinstance(model.artifact.model, Together)
    serving.check(model)
    registry.switch.activate(model, actor="test")
    policy = PolicyWatch(database, settings)
    policy.refresh()
    ours = serving.Serving(database, registry, policy, every_seconds=settings.poll_seconds)
    ours.refresh()
    answer = ours.recommend("u001", serving.Rules(n=8))
    assert answer.strategy == "model"
    # What is left of the user's own group comes first.
    assert all(int(item.item_id[1:]) % 4 == 1 for item in answer.items)
    assert ours.recommend("nobody", serving.Rules(n=3)).strategy == "popular"


def test_its_memory_is_estimated_and_held_against_what_there_is(tastes, retrain):
    sizes = {"n_interactions": 10**6, "n_users": 10**4, "n_items": 10**4}
    plain = memory.estimate("together", {}, **sizes)
    assert plain > 32 * 10**8
    assert memory.estimate("together", {}, **sizes, tune=True) > plain
    with pytest.raises(MemoryLimitError, match="This training needs about"):
        retrain({"recipe": "together"}, training_memory_bytes=10**6)


def test_it_is_described_and_refused_like_any_other():
    (entry,) = (entry for entry in describe_recipes() if entry["name"] == "together")
    assert [setting["name"] for setting in entry["settings"]] == ["damping"]
    with pytest.raises(DataError, match="damping must be a number from 0 to 1, not 2"):
        Together.settings_type.parse({"damping": 2}, recipe="together")


def test_it_is_evaluated_on_files(tastes, tmp_path, capsys):
    paths = {name: tmp_path / f"{name}.csv" for name in ("train", "test")}
    for number, path in enumerate(paths.values()):
        rows = [f"{user},{item}" for place, (user, item) in enumerate(tastes)
                if (place % 4 == 3) == bool(number)]  # fmt: skip
        path.write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    evaluate(**paths, recipe=["together"], pairs=["damping=0.25"], as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert (report["recipe"], report["settings"]) == ("together", {"damping": 0.25})
    assert report["versus_popularity"]["ndcg@20"]["low"] > 0
