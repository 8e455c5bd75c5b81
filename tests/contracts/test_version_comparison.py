"""`serving.version_comparison`: what users would see of two versions."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import sparse

from reckeeper import clock, snapshot, storage
from reckeeper.artifact import Artifact, Metadata
from reckeeper.catalogue import Catalogue
from reckeeper.errors import DataError
from reckeeper.matrix import IdIndex, InteractionMatrix
from reckeeper.policy import PolicyWatch
from reckeeper.policy import store as store_policy
from reckeeper.recipes import recipe_named
from reckeeper.recipes.popularity import Popularity
from reckeeper.registry import ActiveModel
from reckeeper.serving import Everybody, Rules, Serving, version_comparison
from reckeeper.serving.histories import Group


def version_of(histories, *, version=1, recipe="popularity", settings=None, more_items=()):
    """Fit a version to a dict of user id to item ids."""
    users = IdIndex(sorted(histories))
    items = IdIndex(sorted({item for row in histories.values() for item in row} | {*more_items}))
    dense = np.zeros((len(users), len(items)))
    for row, user_id in enumerate(users.ids):
        for item_id in histories[user_id]:
            dense[row, items.find(item_id)] += 1
    weights = sparse.csr_array(dense)
    interactions = InteractionMatrix(users, items, weights, int(dense.sum()))
    model = recipe_named(recipe).fit(interactions, settings=settings or {})
    metadata = Metadata(
        version=version,
        recipe=recipe,
        settings=model.settings,
        n_users=len(users),
        n_items=len(items),
        training_samples=interactions.n_interactions,
        explained_variance=model.explained_variance,
        watermark=0,
        trained_at=0,
        seconds=1.0,
        trigger="manual",
    )
    return Version(version, Artifact.of(metadata, interactions, model), 0, trained=interactions)


@dataclasses.dataclass(frozen=True)
class Version(ActiveModel):
    """A version, and the histories that it is asked for here."""

    trained: InteractionMatrix | None = None


class Trained:
    """Those whom versions were trained on, with their histories as they were then."""

    def known_to(self, model):
        return set(model.trained.users.ids)

    def histories(self, model, user_ids):
        users = model.trained.users
        places = np.array([users.find(user) for user in user_ids])
        return Group.of(model.trained.histories_of(places), None)


def compared(first, second, everybody=None, **options):
    everybody = everybody or Trained()
    return dataclasses.asdict(version_comparison.compare(first, second, everybody, **options))


def taste(*, n_users=60, n_items=30, seed=0):
    """Return histories in which halves of the users like halves of the items."""
    random = np.random.default_rng(seed)
    half = n_items // 2
    return {
        f"u{user:03}": [
            f"i{item:03}" for item in random.choice(half, 5, replace=False) + half * (user % 2)
        ]
        for user in range(n_users)
    }


def test_a_version_differs_in_nothing_from_itself():
    one = version_of(taste(), recipe="svd")
    found = compared(one, one, k=5)
    assert found["overlap"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["most_changed"] == []
    assert found["exposure"] == {"gained": [], "lost": []}
    assert found["settings"] == []
    for name in ("coverage", "popularity"):
        assert found[name]["first"] == found[name]["second"] > 0


def test_figures_of_a_planted_change_are_exact():
    before = {"p": ["x"], "q": ["x"], "r": ["a", "b"], "s": ["a", "b"], "t": ["a", "c"]}
    after = {**before, "t": ["c"], "r": ["c", "b"], "s": ["c", "b"], "z": ["b", "c"]}
    found = compared(version_of(before), version_of(after, version=2), k=2, n_users=5)
    assert found["n_users"] == 5
    assert found["users"] == {"both": 5, "only_first": 0, "only_second": 1}
    # p, q: a, b and c, b. r, s: x, c and x alone, as a is gone. t: b, x and b, x.
    assert found["overlap"]["mean"] == pytest.approx((0.5 * 4 + 1) / 5)
    assert found["most_changed"] == [
        {"user_id": "p", "overlap": 0.5, "first": ["a", "b"], "second": ["c", "b"]},
        {"user_id": "q", "overlap": 0.5, "first": ["a", "b"], "second": ["c", "b"]},
        {"user_id": "r", "overlap": 0.5, "first": ["x", "c"], "second": ["x"]},
        {"user_id": "s", "overlap": 0.5, "first": ["x", "c"], "second": ["x"]},
    ]
    assert found["coverage"] == {"first": 1.0, "second": 1.0}


def test_items_gain_and_lose_the_share_of_lists_that_they_are_in():
    before = {"p": ["x"], "q": ["x"], "r": ["a", "x"], "s": ["a", "b"], "t": ["a", "c"]}
    after = {"p": ["x"], "q": ["x"], "r": ["c", "x"], "s": ["c", "b"], "t": ["c", "a"]}
    found = compared(version_of(before), version_of(after, version=2), k=1)
    # Before: p, q are shown a; r is shown b; s, t are shown x. After: p, q c, r a, s, t x.
    assert found["exposure"] == {
        "gained": [{"item_id": "c", "first": 0.0, "second": 0.4}],
        "lost": [
            {"item_id": "a", "first": 0.4, "second": 0.2},
            {"item_id": "b", "first": 0.2, "second": 0.0},
        ],
    }
    assert found["coverage"] == {"first": 3 / 4, "second": 3 / 4}
    # Both by the data of the second: a 1/5, b 1/5, c 3/5, x 3/5 of the users.
    assert found["popularity"]["first"] == pytest.approx((2 * 1 + 1 * 1 + 2 * 3) / 25)
    assert found["popularity"]["second"] == pytest.approx((2 * 3 + 1 * 1 + 2 * 3) / 25)


def test_popularity_is_that_in_the_data_of_the_larger_version_whatever_the_order():
    small = version_of({"p": ["a"], "q": ["a", "b"]})
    large = version_of({"p": ["a"], "q": ["a", "b"], "r": ["b"], "s": ["b"]}, version=2)
    there, back = compared(small, large, k=1), compared(large, small, k=1)
    # p is shown b by both, which 3 of 4 have there; q has it all.
    assert there["popularity"] == back["popularity"] == {"first": 0.75, "second": 0.75}


def test_users_and_items_are_compared_by_id_wherever_they_stand():
    histories = taste()
    shifted = {"aaa": ["000", "i003"], **histories, "zzz": ["i020"]}
    first, second = version_of(histories), version_of(shifted, version=2, more_items=["i0000"])
    found = compared(first, second, k=5)
    assert found["users"] == {"both": 60, "only_first": 0, "only_second": 2}
    shown = {entry["user_id"] for entry in found["most_changed"]}
    assert shown <= set(histories)
    assert found["overlap"]["mean"] > 0.8


def test_lists_are_those_that_are_served(add, taste, train, registry, database, settings):
    first = train()
    add(*((f"u{user:02}", f"i{item}", "click", 3.0) for user in range(12) for item in (1, 7)))
    add(("stranger", "i99"))  # what nobody else has tells nothing: shown is what is popular
    second = train()
    models = [registry.versions.load(version) for version in (first, second)]
    # Popular counts without age, as the versions have them; by age the server alone counts.
    evenly = {"recommendations": {"popularity_half_life_days": None}}
    store_policy(database, settings, evenly, actor="test")
    policy = PolicyWatch(database, settings)
    policy.refresh()
    with database.read() as connection:
        installation_id = storage.installation.id_of(connection)
        mapped = snapshot.opened(settings.model_dir, installation_id=installation_id)
        found = compared(*models, Everybody(connection, mapped, policy=policy), k=3)
        without = compared(*models, Everybody(connection, None, policy=policy), k=3)
    assert found == without
    assert found["users"] == {"both": 12, "only_first": 0, "only_second": 1}
    assert found["most_changed"]
    serving = Serving(database, registry, policy, every_seconds=settings.poll_seconds)
    registry.switch.activate(models[1], actor="test")
    serving.refresh()
    for entry in found["most_changed"]:
        served = serving.recommend(entry["user_id"], Rules(n=3))
        assert [item.item_id for item in served.items] == entry["second"]


def test_what_is_withdrawn_or_does_not_count_as_seen_is_as_in_lists(
    add, taste, train, registry, database, settings
):
    first = train()
    add(*((f"u{user:02}", f"i{item}", "click", 3.0) for user in range(12) for item in (1, 7)))
    add(*((f"u{user:02}", "i3", "dismiss") for user in range(3)))
    models = [registry.versions.load(version) for version in (first, train())]
    lists = {"seen_types": ["watchlist_add"], "popularity_half_life_days": None}
    store_policy(database, settings, {"recommendations": lists}, actor="test")
    hour = 3_600_000_000
    with database.write() as connection:
        withdrawn = storage.Item("i1", None, {}, available=False)
        ended = storage.Item("i4", None, {}, available_until=clock.now() - hour)
        begun = storage.Item("i2", None, {}, available_from=clock.now() - hour)
        storage.items.put(connection, [withdrawn, ended, begun])
    policy = PolicyWatch(database, settings)
    policy.refresh()
    catalogue = Catalogue(database, every_seconds=60)
    catalogue.refresh()
    with database.read() as connection:
        everybody = Everybody(connection, None, policy=policy)
        found = compared(*models, everybody, catalogue=catalogue, k=4)
    shown = {item for entry in found["most_changed"] for item in entry["second"]}
    assert shown
    assert not {"i1", "i4"} & shown
    serving = Serving(database, registry, policy, every_seconds=60, catalogue=catalogue)
    registry.switch.activate(models[1], actor="test")
    serving.refresh()
    for entry in found["most_changed"]:
        served = serving.recommend(entry["user_id"], Rules(n=4))
        assert [item.item_id for item in served.items] == entry["second"]


def test_who_is_told_noise_is_shown_what_is_popular():
    histories = {**taste(), "u999": ["i999"]}
    alone = {"u999": ["i999"], **{f"u{n:03}": ["i000", "i001"] for n in range(3)}}
    first = version_of(histories, recipe="svd", settings={"n_components": 2})
    second = version_of(alone, version=2, recipe="svd", settings={"n_components": 2})
    found = compared(first, second, k=2)
    shown = {entry["user_id"]: entry for entry in found["most_changed"]}
    matrix = first.trained
    n_users = np.bincount(matrix.weights.indices, minlength=len(matrix.items))
    best = [matrix.items.ids[index] for index in np.argsort(-n_users, kind="stable")[:2]]
    assert shown["u999"]["first"] == best
    assert shown["u999"]["second"] == ["i000", "i001"]


def test_a_list_is_short_where_the_user_has_nearly_everything():
    histories = {"p": ["a", "b", "c"], "q": ["a", "b"], "r": ["a"]}
    first, second = version_of(histories), version_of(histories, version=2, more_items=["d"])
    found = compared(first, second, k=3)
    # p: nothing and d; q: c and c, d; r: b, c and b, c, d.
    assert found["overlap"]["mean"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert found["most_changed"][0] == {
        "user_id": "p", "overlap": 0.0, "first": [], "second": ["d"]
    }  # fmt: skip
    assert compared(first, first, k=3)["overlap"]["mean"] == 1.0


def test_without_a_common_user_it_says_so():
    first, second = version_of({"a": ["x"], "b": ["y"]}), version_of({"c": ["x"], "d": ["y"]})
    found = compared(first, second)
    assert found["n_users"] == 0
    assert found["users"] == {"both": 0, "only_first": 2, "only_second": 2}
    assert found["overlap"] is found["coverage"] is found["popularity"] is None
    assert found["most_changed"] == []
    assert found["exposure"] == {"gained": [], "lost": []}
    assert "no user in common" in found["sentence"]
    json.dumps(found, allow_nan=False)


def test_settings_that_differ_stand_side_by_side():
    first = version_of(taste(), recipe="svd", settings={"n_components": 3})
    second = version_of(taste(), version=2, recipe="svd", settings={"n_components": 5})
    third = version_of(taste(), version=3, settings={"half_life_days": None})
    found = compared(first, second)
    assert found["settings"] == [{"name": "n_components", "first": 3, "second": 5}]
    other = compared(first, third)
    assert other["settings"] == [
        {"name": "n_components", "first": 3, "second": None},
        {"name": "weighting", "first": "raw", "second": None},
    ]
    json.dumps(other, allow_nan=False)


def test_the_sample_is_drawn_at_random_and_repeatable():
    first = version_of(taste(), recipe="svd", settings={"n_components": 2})
    second = version_of(taste(), version=2, recipe="svd", settings={"n_components": 8})
    drawn = [compared(first, second, n_users=10, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0]["n_users"] == 10
    assert drawn[0]["users"]["both"] == 60
    users = [{entry["user_id"] for entry in found["most_changed"]} for found in drawn]
    assert users[0] != users[2]
    assert "On 10 of the 60 users" in drawn[0]["sentence"]


def test_the_interval_holds_the_mean_and_narrows_with_the_sample():
    first = version_of(taste(n_users=600), recipe="svd", settings={"n_components": 2})
    second = version_of(taste(n_users=600), version=2, recipe="svd", settings={"n_components": 8})
    few, all_of_them = (compared(first, second, n_users=n)["overlap"] for n in (25, 600))
    for found in (few, all_of_them):
        assert 0 <= found["low"] < found["mean"] < found["high"] <= 1
    assert all_of_them["high"] - all_of_them["low"] < (few["high"] - few["low"]) / 2


def test_versions_are_compared_by_what_users_did_last():
    """Chains: what comes next follows from the end of each user's history."""
    items = [f"i{item:02}" for item in range(12)]
    histories = {f"u{user:02}": [items[(user + at) % 12] for at in range(6)] for user in range(48)}
    plain = version_of(histories)
    trained = plain.trained
    start = np.arange(48) % 12  # of the ring, at which each user began
    place = (trained.weights.indices - np.repeat(start, 6)) % 12
    timed = dataclasses.replace(trained, latest_at=place.astype(np.int64))
    model = recipe_named("spectral").fit(timed, settings={"order": 0.5, "n_components": 4})
    first, second = (
        dataclasses.replace(
            plain, artifact=dataclasses.replace(plain.artifact, model=model), trained=matrix
        )
        for matrix in (timed, trained)
    )
    assert compared(first, first, k=3)["overlap"]["mean"] == 1
    assert compared(first, second, k=3)["overlap"]["mean"] < 1


class Counting(Popularity):
    """A recipe that keeps how large the blocks are that it is asked for, as of each user's own."""

    is_personal = True

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.asked = []

    def score(self, histories):
        self.asked.append(histories.weights.shape)
        return super().score(histories)


def test_users_times_items_is_never_held():
    more_items = [f"m{item:05}" for item in range(20_000)]
    model = version_of(taste(n_users=1000), more_items=more_items)
    counting = Counting(
        model.artifact.model._settings, item_scores=model.artifact.model.item_scores
    )
    model = dataclasses.replace(model, artifact=dataclasses.replace(model.artifact, model=counting))
    compared(model, model, n_users=1000)
    assert sum(height for height, _ in counting.asked) == 2 * 1000
    assert max(height * width * 8 for height, width in counting.asked) <= 64 << 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("k", 101), ("n_users", 0), ("n_users", 20_001), ("seed", -1)],
)
def test_what_is_out_of_range_is_refused_by_name(field, value):
    one = version_of(taste())
    with pytest.raises(DataError, match=f"^{field}: {value} cannot be used") as caught:
        compared(one, one, **{field: value})
    assert caught.value.details == {"field": field}
