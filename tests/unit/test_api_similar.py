"""The routes of similar items: how they answer with a model and without, and what they refuse."""

import json
import re
import shutil
from collections import Counter

import pytest
from fastapi.testclient import TestClient
from tests.conftest import settings_in

from reckeeper import storage
from reckeeper.api.app import create_app
from reckeeper.training import pipeline

DAY = 86_400_000_000
SAID = {
    "lamp": ["light", "home"],
    "bulb": ["light", "home"],
    "torch": ["light"],
    "sofa": ["home", "soft"],
    "film": ["drama"],
    "lone": [],
}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, migrated):
    """Return the API of an installation that no request of these tests changes."""
    settings = settings_in(tmp_path_factory.mktemp("refusing"))
    shutil.copytree(migrated, settings.data_dir)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.put("/items/a", json={})
        yield client


@pytest.fixture
def chain(add):
    """Append what 60 users did, each of whom takes item after item of twelve in a ring."""
    add(
        *(
            (f"u{user:02}", f"i{(user + step) % 12:02}", "click", 1.0, (user + step) * DAY)
            for user in range(60)
            for step in range(6)
        )
    )


@pytest.fixture
def activate(database, settings, registry):
    """Return a function that trains a recipe and activates the version."""

    def run(recipe, **given):
        with database.write() as connection:
            request = {"recipe": recipe, "settings": given}
            job_id = storage.jobs.insert(connection, trigger="manual", request=request)
            job = storage.jobs.get(connection, job_id)
        version = pipeline.run(database, settings, job=job, report=lambda *_, **__: None)
        with database.write() as connection:
            storage.jobs.end(connection, job_id, status=storage.jobs.SUCCEEDED)
        registry.switch.activate(registry.versions.load(version), actor="test")

    return run


def similar(api, item_id, **asked):
    """Return kind, strategy and ids with scores of an answer."""
    answer = api.get(f"/items/{item_id}/similar", params=asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["item_id"] == item_id
    assert [item["rank"] for item in found["items"]] == [
        asked.get("offset", 0) + rank for rank in range(1, len(found["items"]) + 1)
    ]
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    named = {item["item_id"]: item["score"] for item in found["items"]}
    assert item_id not in named
    return found["kind"], found["strategy"], named


def together(api, item_ids, **asked):
    answer = api.post("/items/similar", json={"item_ids": item_ids, **asked})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    named = {item["item_id"]: item["score"] for item in found["items"]}
    assert not set(named) & set(item_ids)
    return found["kind"], found["strategy"], named


def test_what_comes_next_and_what_is_alike(chain, activate, settings):
    activate("spectral", order=0.5)
    with TestClient(create_app(settings)) as api:
        kind, strategy, following = similar(api, "i03", kind="next", n=3)
        assert (kind, strategy, next(iter(following))) == ("next", "model", "i04")
        kind, strategy, alike = similar(api, "i03", n=12)
        assert (kind, strategy) == ("alike", "model")
        assert {"i02", "i04"} <= set(alike)
        # Together, what each says is added up.
        _, _, others = similar(api, "i05", n=12)
        kind, _, both = together(api, ["i03", "i05"], n=12)
        assert kind == "alike"
        assert both == pytest.approx(
            {
                item: alike.get(item, 0.0) + others.get(item, 0.0)
                for item in {*alike, *others} - {"i03", "i05"}
            }
        )
        assert together(api, ["i03", "nobody", "i03"], n=12)[2] == alike
        # The rules hold before the cut.
        best = list(alike)
        api.patch(f"/items/{best[0]}", json={"available": False, "title": "Gone"})
        api.put(f"/items/{best[2]}", json={"title": "T", "categories": ["c"]})
        assert list(similar(api, "i03", n=2)[2]) == best[1:3]
        assert list(similar(api, "i03", n=2, offset=1)[2]) == best[2:4]
        assert list(similar(api, "i03", n=2, exclude=best[1:3])[2]) == best[3:5]
        assert list(similar(api, "i03", allow=[best[0], best[3]])[2]) == [best[3]]
        assert list(similar(api, "i03", category=["c"])[2]) == [best[2]]
        assert list(together(api, ["i03"], category=["c"])[2]) == [best[2]]
        assert similar(api, best[0], n=1)[1] == "model"  # a page of what is sold out
        described = api.get("/items/i03/similar", params={"category": "c"}).json()["items"][0]
        assert (described["title"], described["attributes"]) == ("T", {})


@pytest.mark.parametrize("recipe", ["svd", "popularity"])
def test_without_order_next_is_what_is_alike_and_says_so(recipe, chain, activate, settings):
    activate(recipe)
    with TestClient(create_app(settings)) as api:
        kind, strategy, found = similar(api, "i03", kind="next", n=4)
        assert (kind, strategy) == ("alike", "model" if recipe == "svd" else "popular")
        assert found == similar(api, "i03", n=4)[2]
        assert len(found) == 4


def test_where_no_version_can_be_loaded_the_catalogue_answers(chain, activate, settings):
    activate("svd")
    for file in settings.model_dir.iterdir():
        if not file.is_symlink():
            file.write_bytes(b"damaged")
    with TestClient(create_app(settings)) as api:
        api.post("/items", json=[{"item_id": each, "categories": ["c"]} for each in ("i03", "new")])
        assert api.get("/recommendations/u01").status_code == 503
        assert similar(api, "i03") == ("alike", "categories", {"new": 1.0})
        assert similar(api, "i04", n=3)[1] == "popular"


def test_a_new_item_is_like_those_that_share_its_categories(chain, activate, settings):
    """With a version and without, and whether or not anybody has touched the others."""
    for has_version in (False, True):
        if has_version:
            activate("svd")
        with TestClient(create_app(settings)) as api:
            rows = [{"item_id": each, "categories": said} for each, said in SAID.items()]
            rows.append({"item_id": "i05", "categories": ["light", "home"]})
            api.post("/items", json=rows)
            kind, strategy, found = similar(api, "lamp")
            assert (kind, strategy) == ("alike", "categories")
            # Of those that share as much, what people have touched comes first.
            expected = {"i05": 1.0, "bulb": 1.0, "torch": 0.5, "sofa": 1 / 3}
            assert (list(found), found) == (list(expected), pytest.approx(expected))
            assert list(together(api, ["torch", "sofa"])[2]) == ["i05", "bulb", "lamp"]
            api.patch("/items/bulb", json={"available": False})
            assert list(similar(api, "lamp", n=2, exclude="i05")[2]) == ["torch", "sofa"]
            assert list(similar(api, "lamp", category="soft")[2]) == ["sofa"]
            for alone in ("film", "lone"):
                assert similar(api, alone, n=3)[1] == "popular"
            api.patch("/items/bulb", json={"available": True})
            answer = api.get("/items/lamp/similar").json()
            assert answer["model_version"] == (1 if has_version else None)


def test_lists_are_counted_by_what_they_have_and_how_they_were_made(chain, activate, settings):
    activate("spectral", order=0.5)

    def counted(api):
        text = api.get("/metrics").text
        series = r'reckeeper_similar_lists_total\{kind="(.+)",strategy="(.+)"\} (.+)'
        found = re.findall(series, text)
        return Counter({(kind, strategy): int(float(n)) for kind, strategy, n in found})

    with TestClient(create_app(settings)) as api:
        rows = [{"item_id": each, "categories": ["c"]} for each in ("i03", "new")]
        api.post("/items", json=[*rows, {"item_id": "lone"}])
        before = counted(api)
        for kind in ("alike", "next"):
            together(api, ["i03", "i05"], kind=kind)
            similar(api, "new", kind=kind)
        similar(api, "i03", kind="next")
        similar(api, "lone")
        assert api.get("/items/nobody/similar").status_code == 404
        assert counted(api) - before == {
            ("alike", "model"): 1,
            ("next", "model"): 2,
            ("alike", "categories"): 2,
            ("alike", "popular"): 1,
        }


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/items/nobody/similar", None, 404, "Nobody knows an item 'nobody'"),
        ("/items/a/similar?kind=near", None, 422, "kind: "),
        ("/items/a/similar?n=0", None, 422, "n: "),
        ("/items/a/similar?limit=5", None, 422, "limit: there is no such parameter"),
        ("/items/a/similar?include_seen=true", None, 422, "include_seen: there is no such"),
        ("/items/a/similar?where=5", None, 422, "where: "),
        ("/items/a/similar?model=7", None, 404, ""),
        ("/items/a/similar?category=x", None, 404, "No item of the catalogue is in"),
        (f"/items/{'x' * 300}/similar", None, 422, "item_id"),
        ("/items/similar", {"item_ids": ["nobody", "nothing"]}, 404, "Nobody knows"),
        ("/items/similar", {"item_ids": []}, 422, "item_ids: "),
        ("/items/similar", {"item_ids": ["a"] * 101}, 422, "item_ids: "),
        ("/items/similar", {"items": ["a"]}, 422, "items: there is no such field"),
        ("/items/similar", {"item_ids": ["a"], "kind": 1}, 422, "kind: "),
        ("/items/similar", {"item_ids": ["a"], "where": {"x": {}}}, 422, "where.x: "),
    ],
)
def test_bad_requests_are_refused(refusing, path, body, status, said):
    answer = (
        refusing.get(path)
        if body is None
        else refusing.post(
            path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["message"].startswith(said), answer.text
