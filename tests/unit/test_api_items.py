"""The routes of the catalogue: what they take, what they refuse, and what counts at once."""

import json
import shutil
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from tests.conftest import settings_in

from reckeeper.api.app import create_app

NOTHING = {
    "title": None,
    "categories": [],
    "attributes": {},
    "available": True,
    "available_from": None,
    "available_until": None,
    "available_now": True,
}


@pytest.fixture
def client(settings, database, taste, train, registry):
    train()
    registry.switch.activate(registry.versions.load(1), actor="test")
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def api(settings, database):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def refusing(tmp_path_factory, migrated):
    """Return the API of an installation that no request of these tests changes."""
    settings = settings_in(tmp_path_factory.mktemp("refusing"))
    shutil.copytree(migrated, settings.data_dir)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        client.put("/items/i", json={"title": "Whole"})
        yield client


def listed(client, **asked):
    answer = client.get("/recommendations/u01", params={"n": 100, **asked})
    return [item["item_id"] for item in answer.json()["items"]]


def path_of(item_id):
    return f"/items/{quote(item_id, safe='').replace('.', '%2E')}"


def test_a_withdrawn_item_is_in_no_list_from_the_next_request_on(client):
    whole = listed(client)
    best = whole[0]
    assert client.get(path_of(best)).json()["item"] == {
        "item_id": best,
        **NOTHING,
        "in_catalogue": False,
    }
    answer = client.patch(path_of(best), json={"available": False}).json()["item"]
    assert (answer["available_now"], answer["in_catalogue"]) == (False, True)
    assert listed(client) == whole[1:]
    assert listed(client, n=2) == whole[1:3]
    client.patch(path_of(best), json={"available": True, "title": "Back", "attributes": {"a": 1}})
    assert listed(client) == whole
    first = client.get("/recommendations/u01").json()["items"][0]
    assert (first["title"], first["attributes"]) == ("Back", {"a": 1})
    client.post("/items", json=[{"item_id": each, "available": False} for each in whole])
    assert listed(client) == []
    client.put(path_of(best), json={"available_until": "2020-01-01T00:00:00Z"})
    assert listed(client) == []
    assert client.delete(path_of(best)).json() == {"status": "ok", "item_id": best}
    assert listed(client) == [best]
    entry = client.get("/audit?limit=1").json()["entries"][0]
    assert (entry["action"], entry["subject"]) == ("delete_item", f"item {best}")


def test_an_item_is_known_before_anybody_touched_it(api):
    said = {
        "title": "Lamp",
        "categories": ["light", "home", "light"],
        "attributes": {"price": 5, "size": {"w": 1.5}, "none": None},
        "available_from": "2020-01-01T01:00:00+01:00",
        "available_until": "2120-01-01T00:00:00Z",
    }
    made = api.put("/items/lamp", json=said).json()["item"]
    assert made == {
        **NOTHING,
        **said,
        "item_id": "lamp",
        "categories": ["light", "home"],
        "available_from": "2020-01-01T00:00:00.000000Z",
        "available_until": "2120-01-01T00:00:00.000000Z",
        "in_catalogue": True,
    }
    whole = api.get("/items/lamp")
    assert whole.json()["item"] == made
    tag = {"If-None-Match": whole.headers["ETag"]}
    assert api.get("/items/lamp", headers=tag).status_code == 304
    patch = {"attributes": {"size": {"w": None, "h": 2}}, "title": None, "available_from": None}
    patched = api.patch("/items/lamp", json=patch).json()["item"]
    assert patched["attributes"] == {"price": 5, "size": {"h": 2}, "none": None}
    assert (patched["title"], patched["available_from"]) == (None, None)
    assert api.get("/items/lamp", headers=tag).status_code == 200
    rows = [{"item_id": "lamp", "attributes": {"new": 1}}, {"item_id": 7}]
    stored = {"status": "ok", "created": 1, "changed": 1, "unchanged": 0}
    assert api.post("/items", json=rows).json() == stored
    assert api.post("/items", json=rows[1]).json()["unchanged"] == 1
    after = api.get("/items/lamp").json()["item"]
    assert (after["attributes"], after["categories"]) == ({"new": 1}, ["light", "home"])
    assert api.put("/items/lamp", json={}).json()["item"] == {
        "item_id": "lamp",
        **NOTHING,
        "in_catalogue": True,
    }


def test_nobodys_item_is_404(api):
    assert api.get("/items/none").status_code == 404
    assert api.patch("/items/none", json={"title": "x"}).status_code == 404
    assert api.delete("/items/none").status_code == 404
    api.post(
        "/user_interactions",
        json={"user_id": "u", "item_id": "touched", "interaction_type": "click"},
    )
    assert api.get("/items/touched").json()["item"]["in_catalogue"] is False
    assert api.delete("/items/touched").status_code == 404


@pytest.mark.parametrize("odd", ["a/b", " x ", "🎬 é", "100%", "..", "x" * 256])
def test_any_id_goes_through_bodies_and_paths(api, odd):
    assert api.post("/items", json={"item_id": odd, "title": "T"}).status_code == 200
    assert api.get(path_of(odd)).json()["item"]["item_id"] == odd
    assert api.get("/items", params={"q": odd}).json()["items"][0]["item_id"] == odd
    assert api.delete(path_of(odd)).json()["item_id"] == odd


def test_pages_follow_each_other(api):
    api.post("/items", json=[{"item_id": f"i{n:02}", "title": f"Film {n}"} for n in range(7)])
    api.patch("/items/i03", json={"available": False})
    found, after = [], None
    while True:
        asked = {"limit": 3} | ({"after": after} if after else {})
        page = api.get("/items", params=asked).json()
        found += [item["item_id"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert found == [f"i{n:02}" for n in range(7)]
    asked = {"q": "FILM", "available": "false"}
    page = api.get("/items", params=asked).json()
    assert [item["item_id"] for item in page["items"]] == ["i03"]
    assert len(api.get("/items", params={"available": "true"}).json()["items"]) == 6


TOO_LARGE = {"attributes": {"x": "y" * 70_000}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"titel": "x"}, "titel is not a field of an item; there are title"),
        ({"title": 5}, "title must be a valid string"),
        ({"title": ""}, "title must have at least 1 character"),
        ({"title": "x" * 1001}, "title must have at most 1000 characters"),
        ({"title": "a\0b"}, "title must be valid Unicode without NUL"),
        ({"categories": "light"}, "categories must be a valid list"),
        ({"categories": [1.5]}, "categories.0 must be a string or an integer"),
        ({"categories": ["x" * 257]}, "categories.0 must have 1 to 256 characters"),
        ({"categories": [str(n) for n in range(101)]}, "categories must have at most 100"),
        ({"attributes": [1]}, "attributes must be an object"),
        ({"attributes": {"n": 1e999}}, "attributes hold a number that is not finite"),
        (TOO_LARGE, "attributes have 70009 bytes as JSON; at most 65536"),
        ({"available": "no"}, "available must be a valid boolean"),
        ({"available_from": 1_700_000_000}, "available_from must be an RFC 3339 time"),
        ({"available_from": "2025-12-04T10:00:00"}, "available_from must have timezone info"),
        ({"available_until": "1969-01-01T00:00:00Z"}, "available_until must lie in the years"),
        ({"available_until": "9999-12-31T23:59:59-05:00"}, "available_until must lie in the"),
        (
            {"available_from": "2025-01-02T00:00:00Z", "available_until": "2025-01-01T00:00:00Z"},
            "available_until 2025-01-01T00:00:00.000000Z is not after available_from",
        ),
        ([], "Of an item an object is told"),
        (None, "Of an item an object is told"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_written(refusing, content, said):
    before = refusing.get("/items").json()
    ways = [("PUT", "/items/i", content), ("PATCH", "/items/i", content)]
    if isinstance(content, dict):
        row = {"item_id": "i", **content}
        ways.append(("POST", "/items", [{"item_id": "fine"}, row]))
    for method, path, body in ways:
        answer = refusing.request(
            method, path, content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 422, answer.text
        where = "Item 1: " if method == "POST" else ""
        assert answer.json()["message"].startswith(f"{where}{said}"), answer.text
        assert "Nothing was stored" in answer.text or not isinstance(content, dict)
    assert refusing.get("/items").json() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", f"/items/{'x' * 10_000}", None, 422),
        ("PUT", "/items/a%00b", b"{}", 422),
        ("PUT", "/items/a%FFb", b"{}", 422),
        ("PUT", "/items/a", b"{", 422),
        ("PATCH", "/items/a", b"", 422),
        ("POST", "/items", b"[]", 422),
        ("POST", "/items", b'[{"title": "x"}]', 422),
        ("POST", "/items", b'[{"item_id": ""}]', 422),
        ("POST", "/items", b'[{"item_id": "\\ud800"}]', 422),
        ("POST", "/items", b"[5]", 422),
        ("POST", "/items", b"[" + b'{"item_id": 1},' * 10_000 + b'{"item_id": 1}]', 413),
        ("POST", "/items", b"[" + b"[" * 5_000 + b"]" * 5_000 + b"]", 422),
        ("GET", "/items?limit=0", None, 422),
        ("GET", "/items?limit=1000000000", None, 422),
        ("GET", "/items?q=", None, 422),
        ("GET", "/items?q=%00", None, 422),
        ("GET", "/items?after=%00", None, 422),
        ("GET", "/items?available=maybe", None, 422),
        ("GET", "/items?search=x", None, 422),
        ("DELETE", "/items/a", None, 404),
        ("GET", "/items/a", None, 404),
    ],
)
def test_bad_requests_are_refused(refusing, method, path, body, status):
    answer = refusing.request(
        method, path, content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == "error"
    assert [item["title"] for item in refusing.get("/items").json()["items"]] == ["Whole"]
