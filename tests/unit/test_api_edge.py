"""What every answer of the server has: headers for caches and for pages of other origins."""

import pytest
from fastapi.testclient import TestClient

from reckeeper import audit
from reckeeper.api.app import create_app

SHOP, OTHER = "https://shop.example.org", "https://other.example.org"
ASKED = "Access-Control-Allow-Origin"


@pytest.fixture
def client(settings, database, taste, train, registry):
    train()
    registry.switch.activate(registry.versions.load(1), actor="test")
    app = create_app(settings.replaced(cors_origins=(SHOP,)))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_pages_of_the_origins_that_are_named_may_call_and_others_may_not(client):
    for origin, allowed in ((SHOP, SHOP), (OTHER, None)):
        answer = client.get("/models", headers={"Origin": origin})
        assert answer.headers.get(ASKED) == allowed
        preflight = client.options(
            "/user_interactions",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            },
        )
        assert preflight.headers.get(ASKED) == allowed
        assert (preflight.status_code == 200) == (origin == SHOP)
    refused = client.get("/jobs?limit=0", headers={"Origin": SHOP})
    assert (refused.status_code, refused.headers[ASKED]) == (422, SHOP)


def test_by_default_no_other_origin_may_call(settings, database):
    with TestClient(create_app(settings)) as client:
        assert ASKED not in client.get("/models", headers={"Origin": SHOP}).headers


def test_answers_that_change_are_not_kept_and_files_of_the_documentation_may_be(client):
    for path in ("/recommendations/u01", "/watchlist/u01", "/jobs", "/jobs/99", "/nothing"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    assert client.post("/user_interactions", json=[]).headers["Cache-Control"] == "no-store"
    assert "Cache-Control" not in client.get("/docs").headers
    assert client.get("/models").headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/models", "/models/1"])
def test_versions_are_sent_again_only_where_they_have_changed(client, path):
    whole = client.get(path)
    tag = whole.headers["ETag"]
    assert client.get(path).headers["ETag"] == tag
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", tag)
    assert client.patch("/models/1", json={"note": "seen"}).status_code == 200
    changed = client.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert changed.json() != whole.json()


def test_the_root_leads_to_the_documentation(client):
    answer = client.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/docs")


def test_answers_name_files_and_not_where_they_are(client, settings, registry):
    registry.store.native(1).rename(settings.data_dir / "elsewhere")
    (settings.model_dir / audit.HEAD_NAME).unlink()
    damaged = client.post("/models/1/activate")
    assert damaged.json()["code"] == "damaged_artifact"
    told = "model-000001.safetensors is missing from the model folder."
    assert told in damaged.json()["message"]
    verified = client.get("/audit/verify").json()
    assert verified["problem"].startswith(f"There is no {audit.HEAD_NAME}, so nobody can tell")
    for answer in (damaged.text, str(verified), client.get("/health/ready").text):
        assert str(settings.model_dir) not in answer
        assert str(settings.data_dir) not in answer
    # … but where the contract has a path.
    (listed,) = client.get("/models").json()["models"]
    assert listed["path"] == f"{settings.model_dir}/retrained_svd_model.pkl"
