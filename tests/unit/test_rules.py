"""What is asked of lists holds before they are cut, in every combination and on every path."""

import dataclasses
import json
import shutil
from urllib.parse import quote

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st
from tests.conftest import settings_in

from reckeeper import catalogue, clock, storage, wire
from reckeeper.api.app import create_app
from reckeeper.catalogue import Catalogue
from reckeeper.errors import ArtifactError, NotFoundError
from reckeeper.policy import PolicyWatch
from reckeeper.policy import store as store_policy
from reckeeper.serving import Rules, Serving, Told, previews
from reckeeper.serving.similar import by_model
from reckeeper.storage import Item
from reckeeper.training import pipeline

USERS = ("u03", "u08", "newer", "nobody")
ITEMS = [f"i{number}" for number in range(9)]
CATALOGUE = {
    "i0": Item("i0", None, {"price": 5, "language": "fr", "tags": ["a", "b"]}, ("film",)),
    "i1": Item("i1", None, {"price": 7.5, "language": "de"}, ("film", "new")),
    "i2": Item("i2", None, {"price": 20, "language": ["fr", "de"], "tags": []}, ("book",)),
    "i3": Item("i3", None, {"price": "7", "tags": ["b"]}, ()),
    "i4": Item("i4", None, {}, ("new",), available=False),
    "i5": Item("i5", None, {"price": 9, "language": "fr"}, ("book", "new")),
    "i6": Item("i6", None, {"price": 6, "tags": ["a"], "language": True}, ("film",)),
    "unheard of": Item("unheard of", None, {"price": 8, "language": "fr"}, ("film",)),
}

WHERE = st.fixed_dictionaries(
    {},
    optional={
        "price": st.sampled_from([{"min": 6}, {"max": 7.5}, {"min": 5, "max": 8}, 9, ["7", 20]]),
        "language": st.sampled_from(["fr", ["de", "en"], ["fr", "de"], True]),
        "tags": st.sampled_from(["a", ["a", "b"], "c"]),
    },
)
NAMED = st.sampled_from([*ITEMS, "unheard of", "nothing"])
ASKED = st.fixed_dictionaries(
    {
        "n": st.integers(1, 12),
        "offset": st.integers(0, 6),
        "exclude": st.lists(NAMED, max_size=4),
        "category": st.just([]) | st.lists(st.sampled_from(["film", "book", "new"])),
        "where": st.just({}) | WHERE,
    },
    optional={"allow": st.lists(NAMED, min_size=1)},
)


def rules_of(asked, *, include_seen=False):
    return Rules(
        n=asked["n"],
        offset=asked["offset"],
        exclude=frozenset(asked["exclude"]),
        allow=frozenset(asked["allow"]) if "allow" in asked else None,
        categories=frozenset(asked["category"]),
        where=catalogue.conditions_of(asked["where"]),
        include_seen=include_seen,
    )


RULES = st.builds(lambda asked, seen: rules_of(asked, include_seen=seen), ASKED, st.booleans())


@pytest.fixture
def begin(database, registry, settings, taste, add):
    """Return a function that makes a `Serving`, which looks at nothing by itself."""
    with database.write() as connection:
        storage.items.put(connection, CATALOGUE.values())
    kept = Catalogue(database, every_seconds=60)
    kept.refresh()
    evenly = {"recommendations": {"popularity_half_life_days": None}}
    store_policy(database, settings, evenly, actor="test")
    policy = PolicyWatch(database, settings)
    policy.start()

    def start():
        policy.refresh()
        serving = Serving(database, registry, policy, every_seconds=60, catalogue=kept)
        serving.refresh()
        return serving

    yield start
    policy.stop()


@pytest.fixture
def activate(registry, train, database, settings):
    def act(recipe=None, **given):
        version = train() if recipe is None else train_recipe(recipe, given)
        registry.switch.activate(registry.versions.load(version), actor="test")
        return version

    def train_recipe(recipe, given):
        with database.write() as connection:
            asked = {"recipe": recipe, "settings": given}
            job_id = storage.jobs.insert(connection, trigger="manual", request=asked)
            job = storage.jobs.get(connection, job_id)
        return pipeline.run(database, settings, job=job, report=lambda *_, **__: None)

    return act


def do_more(add):
    """Add what some users did since: they come back to items, dislike some, see some idly."""
    now = clock.now()
    add(("newer", "i0"), ("newer", "i5"), ("newer", "i1", "dismiss"), ("newer", "i2", "click", 0))
    add(("u08", "i7", "dismiss", 1.0, now), ("u08", "unheard of", "click", 1.0, now + 1))
    return {"newer": {"i1", "i2"}, "u08": {"i7"}}


def brute(whole, seen, rules, *, said=CATALOGUE):
    """Take what the rules let in from a whole list, item by item, and cut the page."""
    now = clock.now()

    def is_in(item_id):
        item = said.get(item_id, Item(item_id, None, {}))
        return (
            item.is_available(now)
            and item_id not in rules.exclude
            and (rules.allow is None or item_id in rules.allow)
            and (not rules.categories or bool(rules.categories & set(item.categories)))
            and all(each.is_met_by(item.attributes.get(each.attribute)) for each in rules.where)
            and (rules.include_seen or item_id not in seen)
        )

    left = [(item_id, score) for item_id, score in whole if is_in(item_id)]
    return left[rules.offset : rules.offset + rules.n]


def listed(answer):
    return [(item.item_id, item.score) for item in answer.items]


def pairs(answer):
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def assert_same(found, expected):
    assert [item_id for item_id, _ in found] == [item_id for item_id, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])


@pytest.mark.parametrize("recipe", ["svd", "spectral", "popularity", None])
def test_every_combination_of_rules_gives_what_a_plain_filter_leaves(
    recipe, begin, activate, add, taste
):
    if recipe is not None:
        activate(recipe)
    serving = begin()
    negative = do_more(add)
    whole, seen, strategies = {}, {}, {}
    popular = listed(serving.recommend("nobody", Rules(n=1000)))
    for user_id in USERS:
        everything = serving.recommend(user_id, Rules(n=1000, include_seen=True))
        whole[user_id], strategies[user_id] = listed(everything), everything.strategy
        seen[user_id] = {item for user, item in taste if user == user_id}
        known = {*ITEMS, *(["unheard of"] if everything.strategy == "popular" else [])}
        known -= {"unheard of"} if recipe == "popularity" else set()
        without = negative.get(user_id, set()) | {"i4"}
        assert {item_id for item_id, _ in whole[user_id]} == known - without
    seen["newer"] |= {"i0", "i5"}
    seen["u08"] |= {"unheard of"}

    def assert_is(answer, user_id, rules):
        expected = brute(whole[user_id], seen[user_id], rules)
        if answer.strategy == "popular" != strategies[user_id]:
            # Of what the rules let in the model knows nothing for this user.
            every = brute(whole[user_id], seen[user_id], dataclasses.replace(rules, n=99, offset=0))
            best = max(score for _, score in whole[user_id])
            assert all(abs(score) < 1e-5 * best for _, score in every)
            kept = [pair for pair in popular if pair[0] not in negative.get(user_id, set())]
            expected = brute(kept, seen[user_id], rules)
        assert_same(listed(answer), expected)

    @hypothesis.seed(17)
    @hypothesis.given(rules=RULES)
    def compare(rules):
        batch = serving.recommend_to_each(USERS, rules)
        for user_id, of_batch in zip(USERS, batch, strict=True):
            answer = serving.recommend(user_id, rules)
            assert_is(answer, user_id, rules)
            places = range(rules.offset + 1, rules.offset + 1 + len(answer.items))
            assert [item.rank for item in answer.items] == list(places)
            assert (of_batch.user_id, of_batch.strategy) == (user_id, answer.strategy)
            assert_same(listed(of_batch), listed(answer))

    compare()


LATER = 4 * 10**15
AT_TIMES = {
    "i2": CATALOGUE["i2"]._replace(available_from=LATER),
    "i7": Item("i7", None, {"price": 8, "language": "fr"}, ("film",), available_until=1),
    "i8": Item("i8", None, {"price": 8, "language": "de"}, ("new",), available_until=LATER),
    "soon": Item("soon", None, {"price": 7, "tags": ["a"]}, ("film", "new"), True, LATER),
    "alone": Item("alone", None, {}, ("opera",)),
}
UNTOUCHED = st.sampled_from(["unheard of", "soon", "alone", "nothing"])


def in_common(said, item_ids, popularity):
    """Return what shares categories with items, and how much, the best first."""
    shares = {}
    for mine in (set(said[each].categories) for each in item_ids if each in said):
        for item_id, its in ((each.item_id, set(each.categories)) for each in said.values()):
            if mine & its:
                shares[item_id] = shares.get(item_id, 0.0) + len(mine & its) / len(mine | its)
    ranked = sorted(shares, key=lambda each: (-shares[each], -popularity.get(each, 0.0), each))
    return [(item_id, shares[item_id]) for item_id in ranked]


@pytest.mark.parametrize(
    ("recipe", "given", "kinds"),
    [
        ("svd", {}, {"alike"}),
        ("spectral", {"order": 0.5}, {"alike", "next"}),
        ("popularity", {}, set()),
        (None, {}, set()),
    ],
)
def test_similar_items_are_what_a_plain_filter_leaves_under_every_combination(
    recipe, given, kinds, begin, activate, add, database, registry, settings
):
    version = None if recipe is None else activate(recipe, **given)
    do_more(add)
    said = CATALOGUE | AT_TIMES
    with database.write() as connection:
        storage.items.put(connection, AT_TIMES.values())
    popular = listed(begin().recommend("nobody", Rules(n=1000)))
    artifact = None if version is None else registry.versions.load(version).artifact

    def of_model(basket, kind):
        """Return what the model says of all items, and the kind of it; of one kind alone."""
        found = [artifact.items.find(each) for each in basket] if artifact else []
        known = [place for place in found if place is not None]
        if not known:
            return []
        answered, found, scores = by_model(
            artifact.model, known, kind=kind, n=99, n_items=len(artifact.items), listable=None
        )
        ids = [artifact.items.ids[place] for place in found.tolist()]
        return list(zip(ids, scores.tolist(), strict=True)) if answered == kind else []

    def expected(basket, kind, asked):
        rules = rules_of({**asked, "exclude": [*asked["exclude"], *basket]})
        alike = [("alike", "model", of_model(basket, "alike"))]
        ways = [("next", "model", of_model(basket, "next")), *alike] if kind == "next" else alike
        akin = in_common(said, basket, dict(popular))
        for answered, strategy, whole in (*ways, ("alike", "categories", akin)):
            every = dataclasses.replace(rules, n=rules.end, offset=0)
            if brute(whole, set(), every, said=said):
                return answered, strategy, brute(whole, set(), rules, said=said)
        return "alike", "popular", brute(popular, set(), rules, said=said)

    taken = set()
    with TestClient(create_app(settings)) as api:

        @hypothesis.seed(17)
        @hypothesis.given(
            basket=st.lists(NAMED, min_size=1, max_size=3)
            | st.lists(UNTOUCHED, min_size=1, max_size=2),
            kind=st.sampled_from(["alike", "next"]),
            asked=ASKED,
        )
        def compare(basket, kind, asked):
            answers = [api.post("/items/similar", json={"item_ids": basket, "kind": kind, **asked})]
            if len(basket) == 1:
                query = {**asked, "where": json.dumps(asked["where"]), "kind": kind}
                path = f"/items/{quote(basket[0])}/similar"
                answers.append(api.get(path, params=query))
            for answer in answers:
                if set(basket) == {"nothing"}:
                    assert answer.status_code == 404
                    continue
                found = answer.json()
                kind_of, strategy, pairs_of = expected(list(dict.fromkeys(basket)), kind, asked)
                assert (found["kind"], found["strategy"]) == (kind_of, strategy)
                assert_same(pairs(found), pairs_of)
                first = asked["offset"] + 1
                ranks = [item["rank"] for item in found["items"]]
                assert ranks == list(range(first, first + len(ranks)))
                taken.add((strategy, kind_of))

        compare()
    ways = {("model", kind) for kind in kinds}
    assert taken == {*ways, ("categories", "alike"), ("popular", "alike")}


def test_pages_join_to_the_whole_list(begin, activate, add):
    activate()
    serving = begin()
    do_more(add)
    for user_id in USERS:
        rules = Rules(n=100, where=catalogue.conditions_of({"price": {"min": 0}}))
        whole = serving.recommend(user_id, rules).items
        pages = [
            item
            for offset in range(0, 12, 2)
            for item in serving.recommend(user_id, Rules(2, offset, where=rules.where)).items
        ]
        assert pages == whole


def test_a_history_in_a_request_may_have_types_and_weights(begin, activate, add):
    activate()
    serving = begin()
    now = clock.now()
    add(("same", "i0", "click", 2.0, now), ("same", "i1", "watchlist_add", 1.0, now + 1))
    add(("same", "i3", "click", 1.0, now + 2), ("same", "i3", "dismiss", 1.0, now + 3))
    add(("same", "i5", "click", 0.0, now + 4), ("same", "i0", "click", 1.0, now + 5))
    told = Told(
        ["i0", "i1", "i3", "i3", "i5", "i0"],
        [now, now + 1, now + 2, now + 3, now + 4, now + 5],
        has_times=True,
        interaction_types=["click", "watchlist_add", "", "dismiss", "", ""],
        weights=[2.0, 1.0, 1.0, 1.0, 0.0, 1.0],
    )
    for rules in (Rules(), Rules(include_seen=True)):
        stored = listed(serving.recommend("same", rules))
        assert_same(listed(serving.recommend_from(told, rules)), stored)
        assert ("i0" in dict(stored)) == rules.include_seen
        assert not {"i3", "i5"} & dict(stored).keys()


@pytest.mark.parametrize("has_model", [True, False])
def test_what_counts_as_seen_is_a_setting_of_the_policy(
    has_model, begin, activate, add, taste, database, settings
):
    now = clock.now()
    add(("u03", "i7", "watchlist_add"), ("late", "i0"), ("late", "i1", "watchlist_add"))
    if has_model:
        activate()
    lists = {"seen_types": ["watchlist_add"], "popularity_half_life_days": None}
    store_policy(database, settings, {"recommendations": lists}, actor="test")
    serving = begin()
    add(("u08", "i3", "watchlist_add"), ("u08", "i3", "watchlist_remove", 1.0, now + 10**7))
    add(("u08", "i2", "click", 0.0), ("u08", "i6", "dismiss", 1.0, now))
    add(("late", "new", "watchlist_add"), ("late", "newer"), ("late", "i5", "dismiss", 1.0, now))
    out = {
        "u03": {"i7"},
        "u08": {"i3", "i6"} | ({"i2"} - {item for user, item in taste if user == "u08"}),
        "late": {"i1", "i5", "new"},
        "nobody": set(),
    }
    for user_id in out:
        rules = Rules(n=100)
        whole = serving.recommend(user_id, Rules(n=100, include_seen=True))
        found = serving.recommend(user_id, rules)
        kept = {each for each, _ in listed(found)}
        negative = {item_id for item_id, _ in listed(whole)}
        assert kept == negative - out[user_id], user_id
        (again, _) = serving.recommend_to_each([user_id, "u05"], rules)
        assert_same(listed(again), listed(found))
    told = Told(
        ["i0", "i1", "i2", "i3"],
        range(4),
        interaction_types=["click", "watchlist_add", "", "dismiss"],
    )
    kept = {item_id for item_id, _ in listed(serving.recommend_from(told, Rules(n=100)))}
    assert "i0" in kept
    assert not {"i1", "i2", "i3"} & kept


# Previews


def test_another_version_answers_and_the_active_one_stays(begin, activate, train, add, registry):
    activate()
    serving = begin()
    before = serving.recommend("u03", Rules())
    add(*[("u03", "i8") for _ in range(5)], *[(f"u{user}", "i8") for user in range(20, 40)])
    preview = train()
    of_first, of_second = (serving.recommend("u03", Rules(version=each)) for each in (1, preview))
    assert (of_first.model_version, of_second.model_version) == (1, preview)
    assert listed(of_second) != listed(before)
    assert (of_first.strategy, of_second.strategy) == ("fold_in", "model")
    assert (serving.version, registry.switch.active_version()) == (1, 1)
    for ask in (
        lambda rules: serving.recommend_from(Told(["i0"], [0]), rules),
        lambda rules: serving.recommend_to_each(["u03"], rules)[0],
    ):
        assert ask(Rules(version=preview)).model_version == preview
        assert ask(Rules()).model_version == 1
        with pytest.raises(NotFoundError, match="There is no version 99"):
            ask(Rules(version=99))


def test_previews_are_few_and_go_with_their_files(
    begin, activate, train, registry, settings, monkeypatch
):
    activate()
    serving = begin()
    loads = []
    load = type(registry.versions).load
    monkeypatch.setattr(
        type(registry.versions), "load", lambda self, n: loads.append(n) or load(self, n)
    )
    others = [train() for _ in range(previews.MOST_KEPT + 1)]
    loads.clear()
    for version in [*others, *others[1:], *others[1:]]:
        assert serving.recommend("u03", Rules(version=version)).model_version == version
    assert loads == others
    serving.refresh()
    serving.recommend("u03", Rules(version=others[2]))
    monkeypatch.setattr(previews, "KEPT_SECONDS", 0.0)
    serving.refresh()
    serving.recommend("u03", Rules(version=others[2]))
    assert loads == [*others, others[2]]
    registry.versions.delete(others[2], actor="test")
    with pytest.raises(NotFoundError, match=f"There is no version {others[2]}"):
        serving.recommend("u03", Rules(version=others[2]))
    (settings.model_dir / f"model-{others[1]:06}.safetensors").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=f"model-{others[1]:06}"):
        serving.recommend("u03", Rules(version=others[1]))
    assert serving.recommend("u03", Rules()).model_version == 1


# What requests may not ask


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, migrated):
    """Return the API of an installation without a version, which no request of a test changes."""
    settings = settings_in(tmp_path_factory.mktemp("refusing"))
    shutil.copytree(migrated, settings.data_dir)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.post("/items", json=[{"item_id": "i0", "categories": ["film"]}])
        yield client


@pytest.fixture
def client(settings, database, activate, taste):
    with database.write() as connection:
        storage.items.put(connection, CATALOGUE.values())
    activate()
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_queries_and_bodies_ask_the_same(client):
    rules = {
        "n": 3,
        "offset": 1,
        "exclude": ["i1", "no such item"],
        "allow": [*ITEMS, "i/🎬"],
        "category": ["film", "book", "new"],
        "where": {"price": {"min": 5, "max": 20}},
        "include_seen": True,
        "model": 1,
    }
    query = {**rules, "where": json.dumps(rules["where"])}
    found = client.get("/recommendations/u03", params=query).json()
    items = [item["item_id"] for item in found["items"]]
    assert items
    assert [item["rank"] for item in found["items"]] == [2, 3, 4][: len(items)]
    batch = client.post("/recommendations/batch", json={"user_ids": ["u08", "u03"], **rules}).json()
    assert batch.keys() == {"status", "model_version", "lists", "request_id", "generated_at"}
    assert [each["user_id"] for each in batch["lists"]] == ["u08", "u03"]
    assert_same(pairs(batch["lists"][1]), pairs(found))
    told = client.post("/recommendations", json={"history": ["i0"], **rules}).json()
    assert {item["item_id"] for item in told["items"]} <= {"i0", "i2", "i5", "i6"}
    plain = [client.get("/recommendations/u03?n=10").json()["items"] for _ in range(2)]
    assert plain[0] == plain[1] != found["items"]  # what was kept is of plain requests alone


@pytest.mark.parametrize("explain", [False, True])
def test_answers_are_written_as_their_shapes_say(client, explain):
    answers = {
        wire.RecommendationList: client.get("/recommendations/u03", params={"explain": explain}),
        wire.HistoryRecommendations: client.post(
            "/recommendations", json={"history": ["i0"], "explain": explain}
        ),
        wire.BatchRecommendations: client.post(
            "/recommendations/batch", json={"user_ids": ["u08", "u03"], "explain": explain}
        ),
    }
    for shape, answer in answers.items():
        assert shape.model_validate_json(answer.content).model_dump_json() == answer.text


@pytest.mark.parametrize(
    ("field", "value", "status", "told"),
    [
        ("n", 0, 422, "n: "),
        ("n", -1, 422, "n: "),
        ("n", 10**9, 422, "n: "),
        ("n", "ten", 422, "n: "),
        ("offset", -1, 422, "offset: "),
        ("offset", 10_001, 422, "offset: "),
        ("exclude", ["a", ""], 422, "1 to 256 characters"),
        ("exclude", ["x" * 10_000], 422, "1 to 256 characters"),
        ("allow", ["\n"], 422, "control characters"),
        ("category", ["films"], 404, "in the category 'films'. Did you mean 'film'?"),
        ("category", ["film", "🎬/ x"], 404, "in the category '🎬/ x'"),
        ("category", [str(n) for n in range(101)], 422, "category: "),
        ("where", {"price": None}, 422, "where.price: must be a text"),
        ("where", {"price": {"low": 1}}, 422, "there are min, max"),
        ("where", [1], 422, "where: "),
        ("include_seen", "perhaps", 422, "include_seen: "),
        ("model", 0, 422, "model: "),
        ("model", 10**30, 422, "model: "),
        ("model", 7, 404, "There is no version 7"),
        ("explain", "perhaps", 422, "explain: "),
        ("diversity", 1.5, 422, "diversity: "),
        ("diversity", "some", 422, "diversity: "),
        ("per_category", 0, 422, "per_category: "),
        ("exclud", ["a"], 422, "exclude, allow, category, where, include_seen, model, explain, "),
        ("exclud", ["a"], 422, "explain, diversity, per_category (did you mean exclude?)"),
    ],
)
def test_what_cannot_be_asked_is_refused_everywhere_in_the_same_way(
    refusing, field, value, status, told
):
    query = json.dumps(value) if field == "where" else value
    for answer in (
        refusing.get("/recommendations/u03", params={field: query}),
        refusing.post("/recommendations", json={"history": ["i0"], field: value}),
        refusing.post("/recommendations/batch", json={"user_ids": ["u03"], field: value}),
    ):
        assert answer.status_code == status, answer.text
        assert told in answer.json()["message"]


def test_long_lists_of_items_are_refused_and_a_query_that_is_no_json(refusing):
    named = [f"i{number}" for number in range(10_001)]
    for field in ("exclude", "allow"):
        answer = refusing.post("/recommendations", json={"history": [], field: named})
        assert (answer.status_code, answer.json()["details"]) == (422, {"field": field})
        assert "10000" in answer.json()["message"]
        given = refusing.post("/recommendations", json={"history": [], field: named[:10_000]})
        assert given.status_code == 200
    assert refusing.post("/recommendations", json={"history": [], "allow": []}).status_code == 422
    nothing = refusing.get("/recommendations/u03", params={"where": '{"a": 1}', "category": "film"})
    assert (nothing.status_code, nothing.json()["items"]) == (200, [])
    answer = refusing.get("/recommendations/u03?where=language=fr")
    assert (answer.status_code, answer.json()["details"]) == (422, {"field": "where"})
    assert "percent-encoded" in answer.json()["message"]


@pytest.mark.parametrize(
    ("user_ids", "details", "told"),
    [
        ([], {"field": "user_ids"}, "at least 1 item"),
        (["u"] * 1001, {"field": "user_ids"}, "at most 1000 items"),
        ("u1", {"field": "user_ids"}, "valid list"),
        (["a", "b", "a"], {"field": "user_ids.2", "index": 2}, "'a' is there already, as number 0"),
        (["7", 7], {"field": "user_ids.1", "index": 1}, "'7' is there already"),
        (["a", ""], {"field": "user_ids.1", "index": 1}, "1 to 256 characters"),
        (["a", None], {"field": "user_ids.1", "index": 1}, "must be a string or an integer"),
        (["a" * 10_000], {"field": "user_ids.0", "index": 0}, "1 to 256 characters"),
    ],
)
def test_bad_users_are_refused_with_their_index(refusing, user_ids, details, told):
    answer = refusing.post("/recommendations/batch", json={"user_ids": user_ids})
    assert (answer.status_code, answer.json()["details"]) == (422, details)
    assert told in answer.json()["message"]


def test_a_thousand_users_get_their_lists_in_one_request(client):
    user_ids = ["u/ 🎬", *(f"u{number:02}" for number in range(999))]
    lists = client.post("/recommendations/batch", json={"user_ids": user_ids, "n": 2}).json()[
        "lists"
    ]
    assert [each["user_id"] for each in lists] == user_ids
    for each in (lists[0], lists[4], lists[-1]):
        path = "/recommendations/" + quote(each["user_id"], safe="")
        alone = client.get(path, params={"n": 2}).json()
        assert_same(pairs(alone), pairs(each))
        assert alone["strategy"] == each["strategy"]


def test_what_counts_as_seen_changes_with_the_policy_for_kept_lists_too(client, database, settings):
    users = [f"u{number:02}" for number in range(12)]

    def asked():
        each = [client.get(f"/recommendations/{user}", params={"n": 100}) for user in users]
        batch = client.post("/recommendations/batch", json={"user_ids": users, "n": 100}).json()
        for alone, of_batch in zip(each, batch["lists"], strict=True):
            assert_same(pairs(alone.json()), pairs(of_batch))
        return [len(alone.json()["items"]) for alone in each]

    before = asked()
    assert min(before) < 8
    for types, n_items in ((["watchlist_add"], [8] * 12), (["click"], before), (None, before)):
        lists = {"recommendations": {"seen_types": types}}
        store_policy(database, settings, lists, actor="test")
        client.app.state.runtime.policy.refresh()
        assert asked() == n_items
