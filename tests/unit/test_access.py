"""Every route of server and worker, tried without a key, with each role, and with keys that fail.

What is refused is refused before it is read; what is let in answers as it may.
"""

import contextlib
import re
import shutil
from concurrent import futures

import pytest
from fastapi.testclient import TestClient
from tests.conftest import settings_in
from tests.system.installation import wait_until

from reckeeper import clock, storage
from reckeeper.api.app import create_app
from reckeeper.security import keys
from reckeeper.security.roles import ANYONE, INCLUDED, MEANING, ROLES, SERVER, WORKER, Routes
from reckeeper.worker.app import create_app as create_worker

FAR = 4_000_000_000 * clock.SECOND
BROKEN = {
    "of nobody": "Bearer rk_0123456789ab_" + "0" * 64,
    "malformed": "Bearer rk_1_2",
    "empty": "Bearer ",
    "of another scheme": "Basic YWxpY2U6c2VjcmV0",
    "not ASCII": "Bearer rk_é",
    "very long": "Bearer rk_" + "a" * 60_000,
}
WITHHELD = {"expired", "revoked", *BROKEN}
"""What opens nothing, by what is wrong with it."""

PLACES = {
    "version": "1",
    "other": "2",
    "job_id": "7",
    "erasure_id": "7",
    "import_id": "7",
    "key_id": "nothing",
    "user_id": "u%2F1",
    "item_id": "i1",
    "file": "swagger-ui.css",
}


def concrete(path):
    return re.sub(r"\{(\w+)\}", lambda found: PLACES[found[1]], path)


def made_keys(database):
    """Make a key of each role, and one that has expired and one that was revoked, of an admin."""
    sent = {role: keys.create(database, role, role, actor="test").text for role in ROLES}
    for name in ("expired", "revoked"):
        sent[name] = keys.create(database, name, "admin", actor="test", expires_at=FAR).text
    keys.revoke(database, "revoked", actor="test")
    with database.write() as connection:
        past = storage.tables.api_keys.c.name == "expired"
        change = storage.tables.api_keys.update().where(past).values(expires_at=clock.now())
        connection.execute(change)
    return {name: f"Bearer {text}" for name, text in sent.items()} | BROKEN


@pytest.fixture(scope="module")
def place(tmp_path_factory, migrated):
    """Return settings of an installation with keys, and what is sent with each."""
    settings = settings_in(tmp_path_factory.mktemp("guarded"))
    shutil.copytree(migrated, settings.data_dir)
    database = storage.open_database(settings)
    sent = made_keys(database)
    database.close()
    return settings, sent


@pytest.fixture(scope="module")
def server(place):
    settings, sent = place
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client, sent


@pytest.fixture(autouse=True)
def forgiving(monkeypatch):
    """Have no address told to wait: that has a test of its own."""
    monkeypatch.setattr("reckeeper.security.access.FAILURES_PER_MINUTE", 10**9)


def with_key(sent):
    return {"Authorization": sent.encode("latin-1")}


def is_refused(answer, status, code):
    return (answer.status_code, answer.json().get("code")) == (status, code)


def test_every_route_of_the_server_is_in_the_table(server):
    client, _ = server
    document = client.get("/openapi.json").json()
    described = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    others = {("GET", "/"), ("GET", "/static-offline-docs/{file}"), ("GET", "/openapi.json")}
    others |= {("GET", path) for path in ("/docs", "/docs/oauth2-redirect", "/redoc")}
    assert described.keys() | others == SERVER.keys()
    assert all(SERVER[row] == ANYONE for row in others)
    for row, operation in described.items():
        taken = None if SERVER[row] == ANYONE else SERVER[row]
        assert operation.get("x-reckeeper-role") == taken, row
        assert (operation["security"] == [{"ApiKey": []}]) == (taken is not None)
        assert ({"401", "403", "429"} <= operation["responses"].keys()) == (taken is not None)


def test_a_path_has_the_row_of_the_route_that_answers_it(server):
    client, _ = server
    rows = Routes({row: str(number) for number, row in enumerate(SERVER)})
    for number, (method, path) in enumerate(SERVER):
        assert rows.role(method, concrete(path)) == str(number)
    # What could be taken for a parameter, and what is nobody's.
    for method, path, role in (
        ("POST", "/models/import", "admin"),
        ("POST", "/models/rollback", "operator"),
        ("GET", "/models/import", "viewer"),
        ("DELETE", "/models/rollback", "admin"),
        ("GET", "/imports/preview", "viewer"),
        ("GET", "/items/similar", "viewer"),
        ("POST", "/items/similar", "recommend"),
    ):
        assert Routes(SERVER).role(method, path) == role
    for path in ("/models/", "//models", "/models/1/", "/nothing", "/Models", "/models/1/2", ""):
        assert Routes(SERVER).role("GET", path) is None
        if path:
            assert is_refused(client.get(f"http://testserver{path}"), 401, "unauthenticated")


@pytest.mark.parametrize("row", SERVER, ids=" ".join)
def test_a_route_of_the_server_takes_its_role_and_no_other(server, row):
    client, sent = server
    method, path = row
    taken = SERVER[row]

    def ask(headers):
        # What a route cannot read refuses it behind the guard.
        return client.request(
            method, concrete(path), headers=headers, content=b"{", follow_redirects=False
        )

    if taken == ANYONE:
        assert ask({}).status_code < 400
        for name in WITHHELD:
            assert ask(with_key(sent[name])).status_code < 400, name
        return
    answer = ask({})
    assert is_refused(answer, 401, "unauthenticated")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    for name in WITHHELD:
        assert is_refused(ask(with_key(sent[name])), 401, "unauthenticated"), name
    for role in ROLES:
        answer = ask(with_key(sent[role]))
        if taken in INCLUDED[role]:
            assert answer.status_code not in {401, 403, 429, 500}, (role, answer.text)
        else:
            assert is_refused(answer, 403, "forbidden"), role
            assert answer.json()["details"] == {"role": role, "needed": taken}


@pytest.fixture(scope="module")
def worker(place):
    settings, sent = place
    app = create_worker(settings)
    yield app, sent
    app.extensions["worker"].stop()


def test_every_route_of_the_worker_is_in_the_table(worker):
    app, _ = worker
    found = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert found == WORKER.keys()


@pytest.mark.parametrize("row", WORKER, ids=" ".join)
def test_a_route_of_the_worker_takes_its_role_and_no_other(worker, row):
    app, sent = worker
    method, path = row
    client, taken = app.test_client(), WORKER[row]

    def ask(name=None, method=method):
        headers = {} if name is None else {"Authorization": sent[name]}
        return client.open(concrete(path), method=method, headers=headers, data=b"{")

    for name in (None, *WITHHELD):
        answer = ask(name)
        if taken == ANYONE:
            assert answer.status_code in {200, 503}
            continue
        assert (answer.status_code, answer.json["code"]) == (401, "unauthenticated"), name
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for role in ROLES:
        answer = ask(role)
        if taken == ANYONE or taken in INCLUDED[role]:
            assert answer.status_code not in {401, 403, 429, 500}, role
        else:
            assert (answer.status_code, answer.json["code"]) == (403, "forbidden"), role
    if method == "GET" and taken != ANYONE:
        assert ask(method="HEAD").status_code == 401
        assert ask("viewer", method="HEAD").status_code == 200


def test_what_is_in_no_table_takes_a_key(server, worker):
    client, sent = server
    for path in ("/nothing", "/models/1/nothing"):
        assert is_refused(client.post(path), 401, "unauthenticated")
        assert is_refused(
            client.post(path, headers={"Authorization": sent["ingest"]}), 404, "not_found"
        )
    app, _ = worker
    for path in ("/nothing", "/static/nothing"):
        assert app.test_client().get(path).status_code == 401
        assert (
            app.test_client().get(path, headers={"Authorization": sent["ingest"]}).status_code
            == 404
        )


def test_roles_include_what_they_say():
    assert set(MEANING) == set(INCLUDED) == set(ROLES)
    assert INCLUDED["admin"] == set(ROLES)
    assert INCLUDED["ingest"] == {"ingest"}
    assert INCLUDED["recommend"] == {"recommend"}
    assert INCLUDED["viewer"] < INCLUDED["operator"] < INCLUDED["admin"]


def test_a_list_that_is_at_hand_takes_a_key_too(server):
    client, sent = server
    for _ in range(2):
        answer = client.get("/recommendations/u1", headers=with_key(sent["recommend"]))
        assert answer.status_code == 200
    for refused in ({}, with_key(sent["revoked"]), with_key(sent["expired"])):
        assert client.get("/recommendations/u1", headers=refused).status_code == 401
    refused = client.get("/recommendations/u1", headers=with_key(sent["ingest"]))
    assert refused.status_code == 403


def test_what_is_wrong_is_told_to_those_who_may_read(server):
    client, sent = server
    database = client.app.state.runtime.database

    def store(policy):
        with database.write() as connection:
            storage.policies.insert(connection, policy=policy, actor="test", reason=None)

    def problems(headers):
        return client.get("/health/ready", headers=headers).json()["problems"]

    store({"schedule": "never ever"})
    try:
        wait_until(lambda: problems({}), "the policy cannot be read")
        for headers in ({}, with_key(sent["recommend"]), with_key(sent["expired"])):
            assert problems(headers) == ["There is 1 problem: ask with an API key."]
        (told,) = problems(with_key(sent["viewer"]))
        assert "never ever" in told
    finally:
        store({})


def test_who_asks_is_told_what_it_may(server):
    client, sent = server
    nobody = {"status": "ok", "needs_key": True, "name": None, "role": None, "roles": []}
    for name in (None, *WITHHELD):
        headers = {} if name is None else with_key(sent[name])
        assert client.get("/access", headers=headers).json() == nobody
    told = client.get("/access", headers=with_key(sent["viewer"])).json()
    assert told == nobody | {"name": "viewer", "role": "viewer", "roles": ["viewer", "recommend"]}


def test_pages_of_origins_that_are_named_may_send_a_key(place):
    settings, sent = place
    shop = "https://shop.example.org"
    app = create_app(settings.replaced(cors_origins=(shop,)))
    with TestClient(app, raise_server_exceptions=False) as client:
        asked = {"Access-Control-Request-Method": "GET"}
        asked |= {"Access-Control-Request-Headers": "authorization", "Origin": shop}
        preflight = client.options("/models", headers=asked)  # a browser sends no key with it
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
        for headers, status in (({}, 401), (with_key(sent["viewer"]), 200)):
            answer = client.get("/models", headers={"Origin": shop, **headers})
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == shop


def test_only_administrators_change_what_is_backed_up_where(server):
    client, sent = server

    def put(role, *left_out, **changed):
        in_force = client.get("/policy", headers=with_key(sent["viewer"])).json()["policy"]
        policy = {name: in_force[name] for name in in_force if name not in left_out} | changed
        return client.put("/policy", json=policy, headers=with_key(sent[role]))

    refused = put("operator", backup_folder="/backups")
    assert is_refused(refused, 403, "forbidden")
    assert refused.json()["message"].startswith("backup_folder: only the role 'admin' changes")
    assert put("admin", backup_folder="/backups", backup_keep=3).status_code == 200
    assert put("operator", versions_kept=7).status_code == 200
    assert is_refused(put("operator", "backup_folder"), 403, "forbidden")
    assert is_refused(put("operator", backup_keep=1), 403, "forbidden")
    in_force = put("admin", "backup_folder", "backup_keep").json()["policy"]
    assert (in_force["versions_kept"], in_force["backup_folder"]) == (7, None)


def test_a_stream_ends_with_the_key_that_it_was_opened_with(server, place):
    client, _ = server
    settings, _ = place
    with (
        contextlib.closing(storage.open_database(settings)) as database,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        with database.write() as connection:
            job_id = storage.jobs.insert(connection, trigger="manual")
        key = with_key(f"Bearer {keys.create(database, 'follower', 'viewer', actor='test').text}")
        wait_until(lambda: client.get("/jobs", headers=key).status_code == 200, "it is valid")
        following = pool.submit(client.get, f"/jobs/{job_id}/stream", headers=key)
        feed = client.app.state.runtime.feed
        wait_until(lambda: feed._n_streams == 1, "it follows")
        keys.revoke(database, "follower", actor="test")
        told = following.result(timeout=15).text
        assert (told.count("event: job"), told.count("event: end")) == (1, 0)
        with database.write() as connection:
            storage.jobs.end(connection, job_id, status="cancelled")
