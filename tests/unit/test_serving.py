"""The active model in memory: swapped whole, scored as training would."""

import concurrent.futures
import dataclasses
import gc
import itertools
import json
import os
import random
import weakref
from datetime import datetime

import numpy as np
import pytest
from fastapi.testclient import TestClient

from reckeeper import catalogue, clock, machine, matrix, people, policy, snapshot, storage, wire
from reckeeper.api import recommendations
from reckeeper.api.app import create_app
from reckeeper.artifact import Artifact, Metadata, ModelStore
from reckeeper.catalogue import Catalogue
from reckeeper.errors import ArtifactError, MemoryLimitError, NoModelError
from reckeeper.interactions import Interaction
from reckeeper.matrix import Histories
from reckeeper.page import home
from reckeeper.policy import PolicyWatch
from reckeeper.ranking import Ranker
from reckeeper.recipes import Recipe, recipe_named
from reckeeper.registry import Registry
from reckeeper.serving import (
    FinishedList,
    FinishedLists,
    ListState,
    Newer,
    Recommendations,
    Rules,
    Serving,
    Told,
    check,
    live,
    newer,
    popular,
)
from reckeeper.serving.answers import Recommendation
from reckeeper.serving.histories import UserHistories
from reckeeper.serving.reasons import Reason
from reckeeper.storage import Item
from reckeeper.training import child, pipeline
from reckeeper.training.promotion import Promotion

ADD, REMOVE = "watchlist_add", "watchlist_remove"
DISMISS, UNDO = "dismiss", "dismiss_undo"
WEIGHTS = {"click": 1.0, ADD: 2.0}


@pytest.fixture
def kept_catalogue(database):
    """Return the catalogue in memory, which is refreshed when a test says so."""
    return Catalogue(database, every_seconds=60)


@pytest.fixture
def make_serving(database, registry, settings, kept_catalogue):
    """Return a function that starts a `Serving`, stopped when the test ends."""
    started = []

    def make(*, weights=WEIGHTS):
        policy = PolicyWatch(database, settings.replaced(interaction_weights=weights))
        policy.start()
        started.append(policy)
        serving = Serving(database, registry, policy, every_seconds=0.05, catalogue=kept_catalogue)
        serving.start()
        started.append(serving)
        return serving

    yield make
    for serving in started:
        serving.stop()


@pytest.fixture
def recommend_by(database, settings):
    """Return a function that stores a policy with fields of `recommendations`."""

    def store(**fields):
        policy.store(database, settings, {"recommendations": fields}, actor="test")

    return store


@pytest.fixture
def activate(registry):
    def act(version):
        registry.switch.activate(registry.versions.load(version), actor="test")
        return version

    return act


@pytest.fixture
def serving(taste, train, activate, make_serving):
    """Return the serving of a model that was trained on `taste`."""
    activate(train())
    return make_serving()


def answer(serving, user_id, *, n=100):
    found = serving.recommend(user_id, Rules(n=n))
    return found.strategy, {item.item_id: item.score for item in found.items}


def expected(database, registry, user_id, *, weights=WEIGHTS):
    """Score the whole history of a user by the active model, as training would sum it."""
    with database.read() as connection:
        built = matrix.build(storage.interactions.read_batches(connection), type_weights=weights)
    model = registry.versions.load(registry.switch.active_version()).artifact
    row = np.zeros(len(model.items))
    seen = set()
    user_index = built.users.find(user_id)
    if user_index is not None:
        coordinates = built.weights[[user_index]].tocoo()
        for column, weight in zip(coordinates.coords[-1], coordinates.data, strict=True):
            index = model.items.find(built.items.ids[column])
            if index is not None:
                row[index] = weight
                seen.add(index)
    scores = row @ model.model.components.T @ model.model.components
    return {
        model.items.ids[index]: score for index, score in enumerate(scores) if index not in seen
    }


# Answers


def test_a_known_user_is_scored_by_the_model(serving, database, registry):
    strategy, scores = answer(serving, "u03")
    assert strategy == "model"
    assert scores == pytest.approx(expected(database, registry, "u03"))
    assert 0 < len(scores) < 9


def test_items_are_ranked_and_cut(serving, taste):
    whole = serving.recommend("u03", Rules(n=100))
    assert [item.rank for item in whole.items] == list(range(1, len(whole.items) + 1))
    scores = [item.score for item in whole.items]
    assert scores == sorted(scores, reverse=True)
    assert serving.recommend("u03", Rules(n=2)).items == whole.items[:2]
    seen = {item for user, item in taste if user == "u03"}
    assert {item.item_id for item in whole.items} == {f"i{n}" for n in range(9)} - seen


def test_an_answer_says_what_it_is(serving):
    found = serving.recommend("u03", Rules(n=1))
    assert (found.user_id, found.model_version) == ("u03", 1)


def test_titles_come_from_the_catalogue(serving, database, kept_catalogue):
    with database.write() as connection:
        best = serving.recommend("u03", Rules(n=1)).items[0].item_id
        storage.items.put(connection, [Item(best, "The Quiet Harbour", {"year": 1999})])
    kept_catalogue.refresh()
    found = serving.recommend("u03", Rules(n=2)).items
    assert (found[0].title, found[0].attributes) == ("The Quiet Harbour", {"year": 1999})
    assert (found[1].title, found[1].attributes) == (None, {})


def test_what_is_not_available_is_in_no_list_and_makes_room(serving, database, kept_catalogue):
    whole = [item.item_id for item in serving.recommend("u03", Rules(n=100)).items]
    told = [item.item_id for item in serving.recommend_from(Told(["i1"], [1]), Rules(n=100)).items]
    for withdrawn in (whole[0], whole[2]):
        catalogue.put(database, withdrawn, {"available": False}, actor="test")
    kept_catalogue.refresh()
    out = {whole[0], whole[2]}
    n = len(whole) - 2
    assert [item.item_id for item in serving.recommend("u03", Rules(n=n)).items] == [
        item_id for item_id in whole if item_id not in out
    ]
    assert [
        item.item_id for item in serving.recommend_from(Told(["i1"], [1]), Rules(n=100)).items
    ] == [item_id for item_id in told if item_id not in out]
    for withdrawn in out:
        catalogue.patch(database, withdrawn, {"available": True}, actor="test")
    kept_catalogue.refresh()
    assert [item.item_id for item in serving.recommend("u03", Rules(n=100)).items] == whole


def test_what_is_not_available_is_not_popular_either(make_serving, taste, database, kept_catalogue):
    serving = make_serving()
    whole = [item.item_id for item in serving.recommend("nobody", Rules(n=100)).items]
    catalogue.put(database, whole[0], {"available_from": 2**52}, actor="test")
    kept_catalogue.refresh()
    assert [item.item_id for item in serving.recommend("nobody", Rules(n=100)).items] == whole[1:]


def test_an_unknown_user_gets_what_most_users_have(make_serving, serving, taste, recommend_by):
    users_of = {item: len({user for user, it in taste if it == item}) for _, item in taste}
    assert answer(serving, "nobody") == ("popular", pytest.approx(users_of))
    recommend_by(popularity_half_life_days=None)
    strategy, scores = answer(make_serving(), "nobody")
    assert strategy == "popular"
    assert scores == users_of
    assert list(scores) == sorted(users_of, key=lambda item: (-users_of[item], item))


def test_a_new_user_is_folded_in(serving, add, database, registry):
    add(("new/🎬", "i0"), ("new/🎬", "i1"), ("new/🎬", "i1"))
    strategy, scores = answer(serving, "new/🎬")
    assert strategy == "fold_in"
    assert scores == pytest.approx(expected(database, registry, "new/🎬"))
    assert not {"i0", "i1"} & set(scores)


def test_a_version_of_elsewhere_answers_from_the_histories_of_here(
    serving, add, database, registry, tmp_path
):
    bundle = tmp_path / "bundle.zip"
    registry.transfer.export_bundle(1, bundle)
    _, before = answer(serving, "u03")
    best = max(before, key=before.get)
    later = 1_800_000_000_000_000
    add(("u04", best, "click", 1.0, later))  # a live one, before what it was trained on comes
    add(("new", best, "click", 1.0, 1_600_000_000_000_000))
    version = registry.transfer.import_bundle(bundle, actor="test", cell_limit=100)
    registry.switch.activate(registry.versions.load(version), actor="test")
    serving.refresh()
    assert answer(serving, "u03") == ("model", before)
    strategy, after = answer(serving, "u04")
    assert (strategy, best in after) == ("fold_in", False)
    assert answer(serving, "new")[1] == pytest.approx(expected(database, registry, "new"))
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM user_interactions")
    assert answer(serving, "u03")[0] == "popular", "the file has no users"


def test_newer_interactions_of_a_known_user_count_at_once(serving, add, database, registry):
    _, before = answer(serving, "u03")
    best = max(before, key=before.get)
    add(("u03", best), ("u03", best, ADD))
    strategy, after = answer(serving, "u03")
    assert strategy == "fold_in"
    assert after == pytest.approx(expected(database, registry, "u03"))
    assert best not in after
    assert any(abs(after[item] - before[item]) > 1e-6 for item in after)


def test_what_is_dismissed_is_not_recommended_until_that_is_taken_back(serving, add):
    _, before = answer(serving, "u03")
    best = max(before, key=before.get)
    now = clock.now()
    add(("u03", best, DISMISS, 1.0, now))
    assert answer(serving, "u03") == ("fold_in", pytest.approx(without(before, best)))
    add(("u03", best, UNDO, 1.0, now + 1))
    assert answer(serving, "u03") == ("fold_in", pytest.approx(before))


def without(scores, item_id):
    return {name: score for name, score in scores.items() if name != item_id}


def test_a_rated_item_is_a_seen_item(add, train, activate, make_serving):
    likes = [("1", "10"), ("1", "30"), ("2", "10"), ("2", "20"), ("2", "40"), ("3", "10"),
             ("3", "20"), ("3", "30")]  # fmt: skip
    add(*[(user, item, "click", 1.0, n) for n, (user, item) in enumerate(likes)])
    add(("1", "20", "click", 0.0, 100))
    activate(train())
    serving = make_serving()
    assert set(answer(serving, "1")[1]) == {"40"}
    assert set(answer(serving, "2")[1]) == {"30"}
    add(("1", "40", "click", 0.0, 101))
    assert answer(serving, "1") == ("fold_in", {})


def test_items_that_the_model_does_not_know_are_passed_over(serving, add):
    _, before = answer(serving, "u03")
    add(("u03", "brand new"), ("stranger", "brand new"))
    strategy, after = answer(serving, "u03")
    assert after == pytest.approx(before)
    strategy, scores = answer(serving, "stranger")
    assert strategy == "popular"
    assert len(scores) == 9


def test_a_removal_takes_back_an_addition_that_the_model_has_seen(
    add, taste, train, activate, make_serving, database, registry
):
    add(("anna", "i0", ADD), ("anna", "i1"), ("ben", "i0", ADD))
    activate(train())
    serving = make_serving()
    _, before = answer(serving, "anna")
    add(("anna", "i0", REMOVE), ("ben", "i0", REMOVE))
    strategy, after = answer(serving, "anna")
    assert strategy == "fold_in"
    assert after == pytest.approx(expected(database, registry, "anna"))
    assert after != pytest.approx(before)
    # Nothing that weighs is left of ben's history; what he had is still seen.
    strategy, scores = answer(serving, "ben")
    assert strategy == "popular"
    assert set(scores) == {f"i{n}" for n in range(1, 9)}


@pytest.mark.parametrize("weights", [WEIGHTS, {**WEIGHTS, "dislike": -1.5}], ids=len)
@pytest.mark.parametrize("seed", range(6))
def test_fold_in_is_what_the_model_gives_for_the_whole_history(
    weights, seed, add, train, activate, make_serving, database, registry
):
    """All that adds and takes away, before and after training, in any order of time."""
    random_ = random.Random(seed)
    numbers = itertools.count()

    def some(count):
        return [
            (
                f"u{random_.randrange(5)}",
                f"i{random_.randrange(12)}",
                random_.choice(["click", ADD, ADD, REMOVE, DISMISS, UNDO, "dislike"]),
                random_.choice([0.0, 0.5, 1.0, 2.0]),
                random_.randrange(50),
                f"{seed}-{next(numbers)}",
            )
            for _ in range(count)
        ]

    add(*[(f"u{n}", f"i{n}", "click", 1.0, n) for n in range(5)], *some(60))
    activate(train(interaction_weights=weights))
    serving = make_serving(weights=weights)
    add(*some(25))
    for user_id in [f"u{n}" for n in range(5)]:
        wanted = expected(database, registry, user_id, weights=weights)
        strategy, scores = answer(serving, user_id)
        assert set(scores) == set(wanted)
        if strategy != "popular":
            assert scores == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("weights", [WEIGHTS, {**WEIGHTS, "dislike": -1.5}], ids=len)
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_a_history_is_that_of_the_whole_log(
    weights, seed, add, train, activate, make_serving, database, registry, settings, monkeypatch
):
    """As `evaluate` has it, whatever came after training: items of its own too."""
    monkeypatch.setattr(Recipe, "is_ordered", True)
    random_ = random.Random(seed)
    numbers = itertools.count()

    def some(count, *, n_items):
        return [
            (
                f"u{random_.randrange(5)}",
                f"i{random_.randrange(n_items):02}",
                random_.choice(["click", "click", ADD, REMOVE, DISMISS, UNDO, "dislike"]),
                random_.choice([0.0, 0.5, 1.0, 2.0]),
                random_.randrange(30),
                f"{seed}-{next(numbers)}",
            )
            for _ in range(count)
        ]

    add(*[(f"u{n}", f"i{n:02}", "click", 1.0, n) for n in range(5)], *some(60, n_items=12))
    activate(train(interaction_weights=weights))
    policy = PolicyWatch(database, settings.replaced(interaction_weights=weights))
    policy.refresh()
    model = registry.versions.load(registry.switch.active_version())
    mapped = snapshot.opened(settings.model_dir, installation_id=id_of(database))
    assert mapped.origin.watermark == model.watermark
    for later in ([], some(25, n_items=15)):
        add(*later)
        with database.read() as connection:
            batches = storage.interactions.read_batches(connection)
            built = matrix.build(batches, type_weights=weights)
            known = built.items.places_in(model.artifact.items)
            whole = built.histories.renamed(known, n_items=len(model.artifact.items))
            histories = UserHistories(model, mapped, policy=policy)
            for place, user_id in enumerate(built.users.ids):
                newer = storage.interactions.of_user(connection, user_id, after=model.watermark)
                for found in (
                    histories.in_table(connection, user_id),
                    histories.in_snapshot(user_id, newer=newer),
                    *([] if later else [histories.in_snapshot(user_id)]),
                ):
                    assert_same_history(found.history, whole[[place]])
                    row = built.weights.indices[slice(*built.weights.indptr[place : place + 2])]
                    unknown = {built.items.ids[item] for item in row if known[item] < 0}
                    assert set(histories.unknown_in(found)) == unknown


def id_of(database):
    with database.read() as connection:
        return storage.installation.id_of(connection)


def assert_same_history(found, wanted):
    of_item = np.argsort(wanted.weights.indices)  # the log has other items between
    assert found.weights.indices.tolist() == wanted.weights.indices[of_item].tolist()
    assert found.weights.data == pytest.approx(wanted.weights.data[of_item])
    if found.n_later is not None:
        assert found.n_later.tolist() == wanted.n_later[of_item].tolist()
    elif wanted.n_later is not None:  # all of the user's own is of one time
        assert not wanted.n_later.any()


@pytest.mark.parametrize("trained_first", [True, False])
def test_after_a_login_the_account_has_both_histories_at_once(
    trained_first, taste, add, train, activate, make_serving, database, registry
):
    add(("visitor", "i0"), ("visitor", "i1", ADD), ("visitor", "i8", DISMISS), ("visitor", "i2"))
    add(("u03", "i0"), ("u03", "i1", REMOVE), ("u03", "i8"), ("u03", "i2", DISMISS))
    if trained_first:
        activate(train())
        people.merge(database, "u03", "visitor", actor="test")
    else:
        people.merge(database, "u03", "visitor", actor="test")
        activate(train())
    serving = make_serving()
    for later in ((), (("visitor", "i5"), ("u03", "i2", UNDO), ("visitor", "unheard of"))):
        add(*later)
        strategy, scores = answer(serving, "u03")
        assert strategy == ("fold_in" if trained_first or later else "model")
        assert scores == pytest.approx(expected(database, registry, "u03"))
        assert not {"i0", "i1", "i8"} & scores.keys()
        # The visitor's id is used up.
        assert serving.recommend("visitor", Rules(n=9)).strategy == "popular"
        assert answer(serving, "visitor") == answer(serving, "nobody")


def test_a_version_of_elsewhere_has_both_histories_too(
    taste, add, train, activate, make_serving, database, registry, tmp_path
):
    add(("visitor", "i0"), ("visitor", "i1"))
    activate(train())
    bundle = tmp_path / "bundle.zip"
    registry.transfer.export_bundle(1, bundle)
    activate(registry.transfer.import_bundle(bundle, actor="test", cell_limit=100))
    serving = make_serving()
    before = answer(serving, "new")
    people.merge(database, "new", "visitor", actor="test")
    strategy, scores = answer(serving, "new")
    assert (before[0], strategy) == ("popular", "fold_in")
    assert not {"i0", "i1"} & scores.keys()


def test_a_model_with_order_gives_at_the_server_what_evaluation_measures(
    add, train_recipe, activate, make_serving, database, registry
):
    """Chains of items, each user at a place of its own; some go on after training."""
    add(*[(f"u{n:02}", f"i{(n + at) % 10:02}", "click", 1.0, 60 * n + at)
          for n in range(40) for at in range(6) if (n + at) % 7])  # fmt: skip
    activate(train_recipe("spectral", order=0.5))
    serving = make_serving()
    model = registry.versions.load(registry.switch.active_version()).artifact
    add(("u03", "i09", "click", 1.0, 9000), ("u03", "gone", "click", 1.0, 9001),
        ("u05", "i05", "click", 1.0, 9000), ("new", "i02", "click", 1.0, 1),
        ("new", "i03", "click", 1.0, 2))  # fmt: skip
    with database.read() as connection:
        built = matrix.build(storage.interactions.read_batches(connection), type_weights=WEIGHTS)
    ranker = Ranker.of(model.model, model).in_ids_of(built.items, own=model.items)
    lists = ranker.rank(built.histories, k=9)
    unordered = ranker.rank(Histories(built.weights), k=9)
    assert not np.allclose(lists.scores, unordered.scores)
    for place, user_id in enumerate(built.users.ids):
        _, found = answer(serving, user_id)
        is_item = lists.item_index[place] >= 0
        wanted = [built.items.ids[item] for item in lists.item_index[place, is_item]]
        assert list(found) == wanted
        assert list(found.values()) == pytest.approx(lists.scores[place, is_item].tolist())


def test_a_history_in_a_request_is_scored_as_the_same_one_stored(
    add, train_recipe, activate, make_serving, settings
):
    add(*[(f"u{n:02}", f"i{(n + at) % 10:02}", "click", 1.0, 60 * n + at)
          for n in range(40) for at in range(6) if (n + at) % 7])  # fmt: skip
    activate(train_recipe("spectral", order=0.5))
    serving = make_serving()
    told = ["i02", "gone", "i04", "i03", "i04"]
    add(*[("new", item_id, "click", 1.0, 100 + at) for at, item_id in enumerate(told)])
    wanted = serving.recommend("new", Rules(n=5))
    found = serving.recommend_from(Told(told, range(5)), Rules(n=5))
    assert (found.user_id, found.model_version, found.strategy) == (None, 1, "fold_in")
    assert found.items == wanted.items
    assert serving.recommend_from(Told(told[::-1], range(5)), Rules(n=5)).items != wanted.items
    assert (
        serving.recommend_from(Told(told[::-1], range(5, 0, -1)), Rules(n=5)).items == wanted.items
    )
    for nothing in ([], ["gone"]):
        popular = serving.recommend_from(Told(nothing, range(len(nothing))), Rules(n=5))
        assert popular.strategy == "popular"
        assert popular.items == serving.recommend("nobody", Rules(n=5)).items

    at = [f"2025-12-04T23:42:{second}Z" for second in range(15, 20)]
    timed = [
        {"item_id": item_id, "occurred_at": time} for item_id, time in zip(told, at, strict=True)
    ]
    with TestClient(create_app(settings)) as client:
        asked = client.get("/recommendations/new?n=5").json()
        for history in (told, timed, timed[::-1]):
            answer = client.post("/recommendations", json={"history": history, "n": 5})
            assert answer.status_code == 200
            assert answer.json().keys() == asked.keys() - {"user_id"}
            assert answer.json()["items"] == asked["items"]
        refused = client.post("/recommendations", json={"history": [*timed, "i01"]})
        assert refused.status_code == 422
        assert refused.json()["details"] == {"field": "history.5.occurred_at"}


# Swaps


def test_without_a_model_the_most_popular_items_are_recommended(make_serving, add, recommend_by):
    recommend_by(popularity_half_life_days=None)
    serving = make_serving()
    assert serving.version is None
    assert serving.problem is None
    assert answer(serving, "u") == ("popular", {})
    add(("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("b", "z", ADD), ("c", "w", "click", 0.0))
    add(("c", "v", DISMISS), ("d", "w"), ("d", "w", DISMISS), ("d", "z"), ("e", "y"))
    assert answer(serving, "u") == ("popular", {"y": 3, "z": 2, "w": 1, "x": 1})
    assert [item.item_id for item in serving.recommend("u", Rules(n=3)).items] == ["y", "z", "w"]
    # What was seen without taste, or is not wanted, was seen.
    assert answer(serving, "c")[1] == {"y": 3, "z": 2, "x": 1}
    assert answer(serving, "d")[1] == {"y": 3, "x": 1}
    found = serving.recommend_from(Told(["y", "gone"], range(2)), Rules(n=2))
    assert (found.strategy, found.model_version) == ("popular", None)
    assert [item.item_id for item in found.items] == ["z", "w"]
    readiness = serving.readiness()
    assert (readiness.status, readiness.model_version) == ("ok", None)


def test_a_large_table_is_left_alone_for_a_while(make_serving, add, monkeypatch):
    monkeypatch.setattr(popular, "_N_AT_ONCE", 0)
    monkeypatch.setattr(popular, "N_LATEST", 1)
    monkeypatch.setattr(popular, "PAUSE_SECONDS", 3600.0)
    serving = make_serving()
    add(("a", "x"))
    assert answer(serving, "u")[1] == {"x": 1}
    add(("b", "y"), ("u", "z"))
    assert answer(serving, "u")[1] == {"x": 1}
    add(("u", "x"))
    assert answer(serving, "u")[1] == {}
    assert answer(make_serving(), "v")[1] == {"x": 1}


def test_the_two_commands_of_the_first_page_work_before_any_training(settings, database):
    with TestClient(create_app(settings)) as client:
        sent = client.post("/user_interactions", json=home.FIRST_INTERACTIONS)
        assert sent.json()["accepted"] == len(home.FIRST_INTERACTIONS)
        found = client.get("/recommendations/u1")
    assert (found.status_code, found.json()["model_version"]) == (200, None)
    assert [item["item_id"] for item in found.json()["items"]] == ["i8"]


@pytest.fixture
def reads(monkeypatch):
    """Return the list of the versions whose files are read from now on."""
    versions, read = [], ModelStore.read

    def counted(self, version, **registered):
        versions.append(version)
        return read(self, version, **registered)

    monkeypatch.setattr(ModelStore, "read", counted)
    return versions


def test_an_activation_and_a_roll_back_read_a_file_once(settings, registry, taste, train, reads):
    train()
    train()
    registry.switch.activate(registry.versions.load(1), actor="test")
    with TestClient(create_app(settings)) as client:
        reads.clear()
        for path, version in [("/models/2/activate", 2), ("/models/rollback", 1)]:
            assert client.post(path).json()["model"]["version"] == version
            assert client.get("/health/ready").json()["model_version"] == version
    assert reads == [2, 1]


def test_an_answer_about_an_unforeseen_failure_names_the_installation(
    settings, registry, monkeypatch
):
    def fail(_self):
        raise RuntimeError("unforeseen")

    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        installation_id = client.get("/models").headers["X-Reckeeper-Installation"]
        monkeypatch.setattr(type(registry.versions), "all", fail)
        answer = client.get("/models")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers.get_list("X-Reckeeper-Installation") == [installation_id]


def test_a_promotion_reads_a_file_once(serving, database, settings, registry, reads):
    with database.write() as connection:
        job_id = storage.jobs.insert(connection, trigger="manual")
        job = storage.jobs.get(connection, job_id)
    report = child._Progress(database, job_id).report
    pipeline.run(database, settings, job=job, report=report)
    with database.read() as connection:
        job = storage.jobs.get(connection, job_id)
    assert serving.version == 1
    reads.clear()
    Promotion(database, registry, settings, served=serving).settle(job)
    assert (serving.version, reads) == (2, [2])


def test_another_registrys_activation_is_taken_up(serving, database, settings, train, wait_until):
    assert serving.version == 1
    others = storage.open_database(settings)
    other = Registry(others, settings.model_dir)
    train()
    other.switch.activate(other.versions.load(2), actor="another process")
    wait_until(lambda: serving.version == 2)
    assert serving.recommend("u03", Rules(n=1)).model_version == 2
    assert serving.readiness().status == "ok"
    others.close()


def test_a_model_that_was_swapped_out_goes_without_the_collector(
    serving, train, activate, wait_until
):
    # The server has the collector look no longer at what is there when it has started.
    for rules in (Rules(n=5), Rules(n=5, explain=True, diversity=0.5), Rules(n=5, version=1)):
        serving.recommend("u03", rules)
    serving.recommend_from(Told(["i1"], [1]), Rules(n=5))
    serving.similar_to(["i1"], Rules(n=5), kind="alike")
    items = weakref.ref(serving.items)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        activate(train())
        wait_until(lambda: serving.version == 2)
        wait_until(lambda: items() is None)
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_deactivated_model_is_let_go(serving, database, wait_until):
    with database.write() as connection:
        storage.models.set_active(connection, None)
    wait_until(lambda: serving.version is None)
    found = serving.recommend("u03", Rules(n=1))
    assert (found.strategy, found.model_version) == ("popular", None)


def test_a_request_sees_one_model_throughout(
    database, train, activate, registry, make_serving, wait_until
):
    """Two models that share no item: no answer mixes them while they swap."""
    for name in "ab":
        with database.write() as connection:
            import_id = storage.imports.begin(connection, source=name, fingerprint=name)
            rows = [
                Interaction(f"{name}{u}{i}", f"u{u}", f"{name}{i}", "click", 1.0 + u, 1)
                for u in range(4)
                for i in range(30)
                if (u + i) % 4
            ]
            storage.imports.append(connection, import_id, rows)
        train()
        with database.write() as connection:
            storage.interactions.delete_imported(connection, import_id, limit=10_000)
    activate(1)
    serving = make_serving()
    models = {version: registry.versions.load(version) for version in (1, 2)}
    done = False

    def ask(user_id):
        seen = set()
        while not done:
            found = serving.recommend(user_id, Rules(n=30))
            prefix = {1: "a", 2: "b"}[found.model_version]
            assert {item.item_id[0] for item in found.items} == {prefix}
            seen.add(found.model_version)
        return seen

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask, user) for user in ("u1", "u2", "nobody")]
        try:
            for swap in range(30):
                version = 2 - swap % 2
                registry.switch.activate(models[version], actor="test")
                serving.refresh()
                assert serving.version == version
        finally:
            done = True
        assert all(future.result() <= {1, 2} for future in asking)


def damage(settings, version):
    path = settings.model_dir / f"model-{version:06}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_version_is_reported_while_the_old_one_serves(
    serving, registry, settings, train, activate, wait_until
):
    train()
    train()
    model = registry.versions.load(3)
    damage(settings, 3)
    registry.switch.activate(model, actor="test")
    wait_until(lambda: serving.problem is not None)
    assert serving.version == 1
    assert serving.recommend("u03", Rules(n=1)).model_version == 1
    assert (serving.problem.version, serving.problem.offer) == (3, 2)
    readiness = serving.readiness()
    assert (readiness.status, readiness.model_version, readiness.offer_version) == (
        "degraded", 1, 2,
    )  # fmt: skip
    (sentence,) = readiness.problems
    assert "The active version 3 cannot be loaded" in sentence
    assert "its content changed" in sentence
    assert "Version 2 is sound: activate it" in sentence
    activate(2)
    wait_until(lambda: serving.version == 2 and serving.problem is None)
    assert serving.readiness().status == "ok"


def test_a_damaged_version_at_the_start_is_no_crash(
    taste, train, registry, settings, make_serving, activate, wait_until
):
    train()
    activate(train())
    damage(settings, 2)
    serving = make_serving()
    assert serving.version == 1
    assert (serving.problem.offer, serving.problem.serving) == (1, 1)
    readiness = serving.readiness()
    assert (readiness.status, readiness.model_version, readiness.offer_version) == (
        "degraded", 1, 1,
    )  # fmt: skip
    (sentence,) = readiness.problems
    assert "The active version 2 cannot be loaded: model-000002" in sentence
    assert "Version 1 answers in its place. Version 1 is sound: activate it" in sentence
    assert serving.recommend("u03", Rules(n=1)).model_version == 1
    activate(1)
    wait_until(lambda: serving.problem is None)
    assert serving.version == 1
    assert serving.readiness().status == "ok"


def test_the_newest_sound_version_makes_way_for_the_active_one_once_that_is_whole(
    taste, train, settings, make_serving, activate, monkeypatch, wait_until
):
    for _ in range(3):
        version = train()
    activate(version)
    path = settings.model_dir / "model-000003.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    damage(settings, 2)
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.0)
    serving = make_serving()
    assert (serving.version, serving.problem.offer) == (1, 1)
    path.write_bytes(whole)
    wait_until(lambda: serving.version == 3 and serving.problem is None)


@pytest.mark.fault(
    "The file of the active version is deleted, cut or changed while it serves",
    seen="lists go on, from memory; within a minute `/health/ready` is `degraded` and offers a "
    "sound version",
    kept="every other version",
    heals="by putting the file back, by activating another version, or a retrain",
)
@pytest.mark.parametrize("harm", ["gone", "cut", "changed", "times kept"])
def test_a_file_that_is_lost_under_its_version_is_noticed_and_memory_answers_on(
    harm, taste, train, settings, make_serving, activate, monkeypatch, wait_until
):
    assert live.LOOK_SECONDS <= 30
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    train()
    activate(train())
    serving = make_serving()
    path = settings.model_dir / "model-000002.safetensors"
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(whole[:100])
    else:
        times = path.stat()
        damage(settings, 2)
        if harm == "times kept":
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    wait_until(lambda: serving.problem is not None)
    readiness = serving.readiness()
    assert (readiness.status, readiness.model_version, readiness.offer_version) == (
        "degraded", 2, 1,
    )  # fmt: skip
    (sentence,) = readiness.problems
    assert sentence.startswith("The active version 2 answers from memory alone: model-000002")
    assert serving.recommend("u03", Rules(n=1)).model_version == 2
    path.write_bytes(whole)
    wait_until(lambda: serving.problem is None)
    assert serving.readiness().status == "ok"


def test_without_any_sound_version_there_is_no_answer(
    taste, train, settings, make_serving, activate
):
    activate(train())
    damage(settings, 1)
    serving = make_serving()
    assert serving.readiness().status == "unavailable"
    with pytest.raises(NoModelError, match="No other version is sound: retrain"):
        serving.recommend("u03", Rules(n=1))


def test_a_version_that_does_not_fit_is_reported_while_the_old_one_serves(
    serving, train, registry, monkeypatch
):
    before = answer(serving, "u03")
    loaded = registry.versions.load(train())
    monkeypatch.setattr(machine, "free_memory", lambda: 1000)  # before anybody follows
    registry.switch.activate(loaded, actor="test")
    with pytest.raises(MemoryLimitError, match=r"^Version 2 takes .* of memory, and 0.0 MB are fr"):
        registry.versions.load(2)
    serving.refresh()
    assert serving.version == 1
    assert answer(serving, "u03") == before
    readiness = serving.readiness()
    assert readiness.status == "degraded"
    assert "The active version 2 cannot be loaded: Version 2 takes" in readiness.problems[0]


def test_without_a_sound_version_a_retrain_is_asked_for(
    taste, train, settings, make_serving, activate, wait_until
):
    activate(train())
    path = settings.model_dir / "model-000001.safetensors"
    whole = path.read_bytes()
    path.unlink()
    serving = make_serving()
    (sentence,) = serving.readiness().problems
    assert sentence.endswith("No other version is sound: retrain.")
    assert "model-000001.safetensors is missing" in sentence
    path.write_bytes(whole)
    wait_until(lambda: serving.version == 1)


def test_a_database_that_does_not_answer_is_reported_and_the_model_serves_on(
    serving, database, wait_until
):
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE models RENAME TO away")
    wait_until(lambda: serving.readiness().status == "unavailable")
    readiness = serving.readiness()
    assert readiness.model_version == 1
    assert "no such table: models" in readiness.problems[0]
    assert serving.recommend("u03", Rules(n=1)).model_version == 1
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO models")
    wait_until(lambda: serving.readiness().status == "ok")


# The check of a new version


def test_a_check_answers_as_serving_does(taste, train, registry):
    check(registry.versions.load(train()))


def test_a_check_refuses_a_model_whose_scores_are_no_numbers(taste, train, registry):
    model = registry.versions.load(train())
    model.artifact.model.components[:] = np.nan
    with pytest.raises(ArtifactError, match="Version 1 answers with scores that are no numbers"):
        check(dataclasses.replace(model))


def test_a_user_of_whom_the_model_knows_nothing_gets_what_most_users_have(
    taste, train, activate, make_serving, add
):
    # Ten components cannot hold a single click on an item that nobody else has.
    add(*[(f"big{user}", f"other{item}") for user in range(40) for item in range(user % 12 + 2)])
    add(("hermit", "cave"))
    activate(train())
    serving = make_serving()
    serving.refresh()
    answer = serving.recommend("hermit", Rules(n=3))
    assert answer.strategy == "popular"
    assert all(item.score >= 1 for item in answer.items)


# Other recipes


@pytest.fixture
def train_recipe(database, registry, settings):
    """Return a function that registers a version of any recipe, fitted to what is stored."""

    def run(name, **recipe_settings):
        with database.read() as connection:
            built = matrix.build(
                storage.interactions.read_batches(connection), type_weights=WEIGHTS
            )
            watermark = storage.interactions.last_id(connection)
        model = recipe_named(name).fit(built, settings=recipe_settings)
        metadata = Metadata(
            version=registry.versions.reserve(job_id=None),
            recipe=name,
            settings=model.settings,
            n_users=len(built.users),
            n_items=len(built.items),
            training_samples=built.n_interactions,
            explained_variance=model.explained_variance,
            watermark=watermark,
            trained_at=clock.now(),
            seconds=0.1,
            trigger="manual",
        )
        files = ModelStore(settings.model_dir).write(
            Artifact.of(metadata, built, model), built, cell_limit=10**6
        )
        registry.versions.register(metadata, files, job_id=None)
        return metadata.version

    return run


def test_a_popularity_model_gives_everybody_what_most_users_have(
    taste, train_recipe, activate, make_serving, add
):
    activate(train_recipe("popularity"))
    serving = make_serving()
    users_of = {item: len({user for user, it in taste if it == item}) for _, item in taste}
    order = sorted(users_of, key=lambda item: (-users_of[item], item))
    assert list(answer(serving, "nobody")[1]) == order
    add(("u04", "i0"), ("u04", "i1"))
    for user_id in ("nobody", "u03", "u04"):
        strategy, scores = answer(serving, user_id)
        seen = {item for user, item in [*taste, ("u04", "i0"), ("u04", "i1")] if user == user_id}
        assert strategy == "popular"
        assert list(scores) == [item for item in order if item not in seen]
        assert scores == {item: users_of[item] for item in order if item not in seen}


def test_a_popularity_model_decays_for_strangers_too(
    add, train_recipe, activate, make_serving, registry
):
    day = 86_400_000_000
    add(*[(f"u{user}", "old", "click", 1.0, user) for user in range(6)])
    add(*[(f"u{user}", "new", "click", 1.0, 400 * day + user) for user in range(2)])
    add(("u9", "third", "click", 1.0, 400 * day))
    activate(train_recipe("popularity", half_life_days=20))
    check(registry.versions.load(1))
    serving = make_serving()
    for user_id in ("nobody", "u9"):
        strategy, scores = answer(serving, user_id)
        assert strategy == "popular"
        assert list(scores) == [
            item for item in ("new", "third", "old") if user_id != "u9" or item != "third"
        ]
        assert scores["new"] == pytest.approx(2.0, rel=1e-6)
        assert scores["old"] == pytest.approx(6 * 2**-20, rel=1e-6)


def test_who_shares_no_item_with_others_gets_what_most_users_have_though_the_model_holds_them(
    taste, train, activate, make_serving, add
):
    """A component of their own says much of their item, and nothing of others."""
    add(*[("hermit", "cave") for _ in range(40)])
    activate(train())
    found = make_serving().recommend("hermit", Rules(n=3))
    assert found.strategy == "popular"
    assert all(item.score >= 1 for item in found.items)


# Finished lists


def test_a_list_that_is_kept_is_never_stale(
    settings, database, taste, train, activate, make_serving, kept_catalogue, recommend_by
):
    """Interactions, swaps, withdrawals, merges, undone imports, policies; two servers."""
    for _ in range(2):
        train()
    activate(1)
    random_ = random.Random(7)
    users = [f"u{number:02}" for number in range(4)] + ["new"]
    truth = make_serving()  # it keeps no list, and asks the database for each
    with TestClient(create_app(settings)) as first, TestClient(create_app(settings)) as second:
        runtimes = [client.app.state.runtime for client in (first, second)]
        imported = itertools.count(1)

        def post():
            row = {"user_id": random_.choice(users), "item_id": f"i{random_.randrange(9)}"}
            row["interaction_type"] = random_.choice(["click", ADD, DISMISS])
            assert first.post("/user_interactions", json=row).status_code == 200

        def swap():
            assert first.post(f"/models/{random_.choice([1, 2])}/activate").status_code == 200

        def withdraw():
            item = {"available": random_.random() < 0.5, "title": random_.choice("xyz")}
            assert first.put(f"/items/i{random_.randrange(9)}", json=item).status_code < 300

        def bring_and_undo():
            with database.write() as connection:
                name, user_id = f"f{next(imported)}", users[0]
                number = storage.imports.begin(connection, source=name, fingerprint=name)
                event = Interaction(name, user_id, "i0", ADD, 1.0, clock.now())
                storage.imports.append(connection, number, [event])
            for runtime in runtimes:
                runtime.newer.refresh()
            seen = first.get(f"/recommendations/{user_id}").json()
            assert "i0" not in [item["item_id"] for item in seen["items"]]
            with database.write() as connection:
                storage.interactions.delete_imported(connection, number, limit=10)

        def merge():
            visitor = random_.choice(users)
            users.remove(visitor)
            users.append(f"new{len(gone)}")
            asked = {"from": visitor}
            account = random_.choice(users)
            assert first.post(f"/users/{account}/merge", json=asked).status_code == 200
            gone.append(visitor)

        def change_policy():
            recommend_by(
                seen_types=random_.choice([None, [ADD]]),
                popularity_half_life_days=random_.choice([None, 30.0]),
                new_items_share=random_.choice([0.0, 0.3]),
                daily_variation=random_.choice([0.0, 0.5]),
            )

        gone = []
        works = [post, post, swap, withdraw, bring_and_undo, merge, change_policy]
        for _ in range(30):
            work = random_.choice(works)
            work()
            if work is bring_and_undo:
                runtimes[0].newer.refresh()
            kept_catalogue.refresh()
            for part in (runtimes[1].newer, runtimes[1].catalogue, runtimes[1].serving, truth):
                part.refresh()  # what the second learns within half a second
            for runtime in runtimes:  # and both
                runtime.policy.refresh()
                runtime.popular.refresh()
            truth._policy.refresh()
            for user_id, n in itertools.product([*users, *gone], (3, 10)):
                expected = truth.recommend(user_id, Rules(n=n))
                for client in (first, second):
                    told = client.get(f"/recommendations/{user_id}?n={n}").json()
                    again = client.get(f"/recommendations/{user_id}?n={n}").json()
                    for answer in (told, again):
                        assert answer["model_version"] == expected.model_version
                        assert answer["strategy"] == expected.strategy, (work, user_id)
                        assert [
                            (item["item_id"], pytest.approx(item["score"]), item["title"])
                            for item in answer["items"]
                        ] == [(item.item_id, item.score, item.title) for item in expected.items]
                    assert told["request_id"] != again["request_id"]
        assert any(runtime.finished._held for runtime in runtimes)


STATE = ListState("own", 1)


@pytest.mark.parametrize("version", [None, 7])
@pytest.mark.parametrize("has_reasons", [False, True])
def test_a_list_is_written_as_its_shape_says(version, has_reasons):
    attributes = {"price": 1e22, "tags": ["ä", None, {"n": 2**60}], "at": 0.1, "none": None}
    items = [
        Recommendation(1, 'i"1', 0.1 + 0.2, "Straße \u2028 \x7f", attributes),
        Recommendation(2, "😀/\\", 1e-9, None, {}),
        Recommendation(3, "3", 5.0, "", {}),
        Recommendation(4, "4", -0.0, "x", {"small": 5e-324, "large": 123456789.123456}),
    ]
    if has_reasons:
        reasons = [Reason("i9", None, -0.25), Reason("ü", "Ü", 1.0)]
        items[:2] = [
            items[0]._replace(reasons=reasons, rest=1 / 3),
            items[1]._replace(reasons=[], rest=0.0),
        ]
    answer = Recommendations("u 1", version, "model", items)
    whole = recommendations._whole(FinishedList(recommendations._written(answer), "model"))
    own = json.loads(whole)
    moment = int(datetime.fromisoformat(own["generated_at"]).timestamp() * 1e6)
    told = {**vars(answer), "request_id": own["request_id"], "generated_at": moment}
    assert whole == wire.RecommendationList.model_validate(told).model_dump_json().encode()


def test_kept_lists_come_to_no_more_than_so_many_bytes():
    kept = FinishedLists(most_bytes=3 * (400 + 10))
    for number in range(5):
        kept.put(number, STATE, FinishedList(b"x" * 10, "model"))
    assert [kept.get(number, STATE) is not None for number in range(5)] == [False] * 2 + [True] * 3
    kept.get(2, STATE)
    kept.put(5, STATE, FinishedList(b"", "model"))
    assert kept.get(2, STATE) is not None
    assert kept.get(3, STATE) is None, "it was asked for least lately"
    assert kept.get(2, ListState("another", 1)) is None
    assert kept.get(2, STATE) is None, "it is no longer true"
    kept.put(6, STATE, FinishedList(b"x" * 2000, "model"))
    assert not kept._held
    assert kept._n_bytes == 0


def test_who_has_newer_interactions_is_known(database, add, monkeypatch):
    followed = Newer(database, every_seconds=60)
    add(("a", "x"), ("b", "x"), ("a", "y"))
    generation = 0

    def may_have(user, watermark):
        return followed.last_of(user, generation=generation, watermark=watermark) != 0

    followed.hold_from(1, merged_since=clock.now())
    assert [may_have(user, 1) for user in "abc"] == [True, True, False]
    assert [may_have(user, 2) for user in "abc"] == [True, False, False]
    before = {user: followed.state_of(user) for user in "abc"}
    add(("c", "x"))
    assert followed.state_of("c") == before["c"]
    followed.follow_up()
    assert followed.state_of("c") != before["c"]
    assert followed.state_of("a") == before["a"]
    followed.hold_from(3, merged_since=clock.now())
    assert [may_have(user, 3) for user in "abc"] == [False, False, True]
    followed.hold_from(0, merged_since=clock.now())  # back to an older version
    assert all(may_have(user, 0) for user in "abc")
    monkeypatch.setattr(newer, "_MOST_HELD", 2)
    followed.hold_from(0, merged_since=clock.now())
    assert all(may_have(user, 0) for user in "abcd"), "of more it knows the latest alone"
    assert may_have("b", 2) is False
    with database.write() as connection:
        storage.installation.raise_generation(connection)
    followed.refresh()
    assert followed.state_of("a") != before["a"]


def test_an_invalid_id_is_refused_and_an_unusual_request_takes_the_usual_way(
    settings, taste, train, activate
):
    activate(train())
    with TestClient(create_app(settings)) as client:
        assert client.get("/recommendations/u01?n=3").status_code == 200
        for path in ("u01?n=0", "u01?n=1001", "u01?n=x", "u01?n=3&m=1", "%00", "x" * 300):
            assert client.get(f"/recommendations/{path}").status_code == 422, path
        assert client.get("/recommendations/u01?n=03").json()["items"]
        known = client.get("/recommendations/u01").json()["items"]
        assert client.get("/recommendations/u01?n=10").json()["items"] == known
