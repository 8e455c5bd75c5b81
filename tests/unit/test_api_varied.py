"""Lists that are explained, and varied: over HTTP, with a model and without."""

import numpy as np
import pytest
from fastapi.testclient import TestClient

from reckeeper import storage
from reckeeper.api.app import create_app
from reckeeper.training import pipeline

NAMES = ("drama", "war", "comedy")


def said(number):
    """Return the categories of an item; every tenth has none."""
    return [NAMES[number % 3], *NAMES[2 : 2 + number % 2]][: number % 10]


@pytest.fixture
def tastes(add):
    """Append what 50 users did with 24 items, each at a time of its own."""
    random = np.random.default_rng(1)
    add(
        *(
            (f"u{user:02}", f"i{item:02}")
            for user in range(50)
            for item in random.choice(24, 6, replace=False, p=_chances(user)).tolist()
        )
    )


def _chances(user):
    chances = np.where(np.arange(24) % 3 == user % 3, 4.0, 1.0)
    return chances / chances.sum()


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
        return version

    return run


@pytest.fixture
def api(settings, database):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.post(
            "/items",
            json=[
                {"item_id": f"i{number:02}", "title": f"Film {number}", "categories": said(number)}
                for number in range(24)
            ],
        )
        yield client


def items_of(api, *, history=None, **asked):
    if history is None:
        answer = api.get("/recommendations/u01", params=asked)
    else:
        answer = api.post("/recommendations", json={"history": history, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def ids_of(api, **asked):
    return [item["item_id"] for item in items_of(api, **asked)]


@pytest.mark.parametrize(
    ("recipe", "given"), [("svd", {"weighting": "log"}), ("spectral", {"order": 0.5})]
)
def test_reasons_name_the_users_items_and_add_up(recipe, given, tastes, activate, settings, api):
    activate(recipe, **given)
    api.app.state.runtime.serving.refresh()
    plain = items_of(api, n=5)
    assert all(item.keys() == plain[0].keys() - {"reasons", "rest"} for item in plain)
    seen = {row["item_id"] for row in api.get("/user_interactions/u01").json()["interactions"]}
    told = ["i03", "i07", "nobody", "i12"]
    for items, own in (
        (items_of(api, n=5, explain=True), seen),
        (items_of(api, history=told, n=5, explain=True), set(told)),
    ):
        assert len(items) == 5
        for item in items:
            names = {reason["item_id"] for reason in item["reasons"]}
            assert names
            assert names <= own - {"nobody"}
            shares = [reason["contribution"] for reason in item["reasons"]]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) + item["rest"] == pytest.approx(item["score"])
            assert item["rest"] == pytest.approx(0.0, abs=1e-5)
            assert item["reasons"][0]["title"] == f"Film {int(item['reasons'][0]['item_id'][1:])}"


def test_a_list_that_is_nobodys_own_has_no_reasons(tastes, activate, api):
    for has_version in (False, True):
        if has_version:
            activate("svd")
            api.app.state.runtime.serving.refresh()
        items = items_of(api, history=["nobody"], n=3, explain=True)
        assert [(item["reasons"], item["rest"]) for item in items] == [
            ([], item["score"]) for item in items
        ]


def test_a_cap_holds_for_each_category_and_fills_the_list_while_it_can(tastes, activate, api):
    for has_version in (False, True):
        if has_version:
            activate("spectral")
            api.app.state.runtime.serving.refresh()
        whole = ids_of(api, n=24)
        expected, counts = [], dict.fromkeys(NAMES, 0)
        for item_id in whole:
            own = said(int(item_id[1:]))
            if all(counts[name] < 2 for name in own):
                expected.append(item_id)
                for name in own:
                    counts[name] += 1
        assert len(expected) < len(whole)
        assert ids_of(api, n=24, per_category=2) == expected
        assert ids_of(api, n=2, offset=1, per_category=2) == expected[1:3]
        assert ids_of(api, n=24, per_category=24) == whole


def test_variety_brings_items_that_are_less_alike_and_pages_fit(tastes, activate, api):
    """With the model's similarity, and with shared categories where there is no model."""
    for recipe in (None, "svd", "spectral", "popularity"):
        if recipe is not None:
            activate(recipe)
            api.app.state.runtime.serving.refresh()
        whole, varied = ids_of(api, n=24), ids_of(api, n=24, diversity=0.7)
        assert varied[0] == whole[0]
        assert varied != whole
        assert sorted(varied) == sorted(whole)
        pages = [ids_of(api, n=4, offset=offset, diversity=0.7) for offset in range(0, 24, 4)]
        assert [item_id for page in pages for item_id in page] == varied
        assert ids_of(api, n=24, diversity=0) == whole
