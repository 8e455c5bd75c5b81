"""Every route around the contract's two, on the real processes."""

import asyncio
import json
import pickle
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from zoneinfo import ZoneInfo

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from tests.system.installation import BIN, Installation, clicks, wait_until

from reckeeper import errors, wire
from reckeeper.client import AsyncClient, Client
from reckeeper.worker.routes import routes as worker_routes

SCHEDULE, TIMEZONE = "30 3 * * 0", "Europe/Berlin"

ROUTES = {
    "/models": {"get"},
    "/models/rollback": {"post"},
    "/models/import": {"post"},
    "/models/{version}": {"get", "patch", "delete"},
    "/models/{version}/activate": {"post"},
    "/models/{version}/pin": {"post", "delete"},
    "/models/{version}/compare/{other}": {"get"},
    "/models/{version}/download": {"get"},
    "/timeline": {"get"},
    "/retrain": {"post"},
    "/evaluations": {"post"},
    "/jobs": {"get"},
    "/jobs/{job_id}": {"get"},
    "/jobs/{job_id}/stream": {"get"},
    "/jobs/{job_id}/cancel": {"post"},
    "/jobs/{job_id}/finish": {"post"},
    "/recipes": {"get"},
    "/policy": {"get", "put"},
    "/policy/history": {"get"},
    "/audit": {"get"},
    "/audit/verify": {"get"},
    "/access": {"get"},
    "/keys": {"get", "post"},
    "/keys/{key_id}": {"delete"},
    "/models/{version}/pickle": {"get"},
    "/users/{user_id}": {"delete"},
    "/users/{user_id}/export": {"get"},
    "/erasures": {"get"},
    "/erasures/{erasure_id}": {"get"},
    "/user_interactions": {"post"},
    "/user_interactions/{user_id}": {"get"},
    "/watchlist/{user_id}": {"get"},
    "/watchlist/{user_id}/{item_id}": {"post", "delete"},
    "/items": {"get", "post"},
    "/items/{item_id}": {"get", "put", "patch", "delete"},
    "/users/{user_id}/merge": {"post"},
    "/items/similar": {"post"},
    "/items/{item_id}/similar": {"get"},
    "/recommendations": {"post"},
    "/recommendations/batch": {"post"},
    "/recommendations/{user_id}": {"get"},
    "/imports": {"get", "post"},
    "/imports/preview": {"post"},
    "/imports/{import_id}": {"get", "delete"},
    "/imports/{import_id}/refused": {"get"},
    "/interactions/latest": {"get"},
    "/interactions/summary": {"get"},
    "/interactions/dead_letters": {"get"},
    "/demo": {"get", "delete"},
    "/health/live": {"get"},
    "/health/ready": {"get"},
    "/metrics": {"get"},
}

JSON = {"Content-Type": "application/json"}

ODD_IDS = [
    "a/b",
    "/",
    "with space",
    " ends ",
    "100%",
    "%2F",
    "%25",
    "a+b",
    "what?q=1#f",
    "🎬 émoji",
    "Ωmega",
    "semi;colon,comma",
    'quote"\\',
    "..",
    ".",
    "x" * 256,
]


@pytest.fixture(scope="module")
def site(tmp_path_factory, trained_once):
    """Give a running installation with two versions; its server reports a schedule."""
    with Installation(tmp_path_factory.mktemp("api")) as made:
        made.take_over(trained_once)
        made.start_worker()
        made.start_server(RECKEEPER_RETRAIN_SCHEDULE=SCHEDULE, RECKEEPER_TIMEZONE=TIMEZONE)
        yield made


@pytest.fixture(scope="module")
def client(site):
    with Client(str(site.server.base_url)) as made:
        yield made


def click(user_id, item_id="i1", **more):
    return {"user_id": user_id, "item_id": item_id, "interaction_type": "click", **more}


def path_of(user_id):
    # httpx takes "." and ".." out of paths, as browsers do.
    return quote(user_id, safe="").replace(".", "%2E")


def assert_error(answer, status, code):
    """Hold an answer against the one form of errors, and return its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert {"status", "code", "message"} <= body.keys() <= {"status", "code", "message", "details"}
    assert (body["status"], body["code"]) == ("error", code)
    assert body["message"].endswith((".", ":"))
    return body["message"]


# Errors


@pytest.mark.parametrize("api", ["server", "worker"])
def test_an_unknown_route_and_a_wrong_method_have_the_one_form(site, api):
    caller = getattr(site, api)

    assert "/nothing/here" in assert_error(caller.get("/nothing/here"), 404, "not_found")
    assert "PUT" in assert_error(caller.put("/models"), 405, "method_not_allowed")
    assert_error(caller.get("/retrain"), 405, "method_not_allowed")


def test_calls_may_be_awaited(site):
    async def calls():
        async with AsyncClient(str(site.server.base_url), actor="ann") as client:
            await client.send([click("of-async", item) for item in ("i1", "i2")])
            lists, latest, item, jobs = await asyncio.gather(
                client.recommendations("of-async", n=3),
                client.interactions("of-async"),
                client.item("i1"),
                client.jobs(),
            )
            assert lists.strategy == "fold_in"
            assert len(lists.items) == 3
            assert {row.item_id for row in latest} == {"i1", "i2"}
            assert item.item_id == "i1"
            followed = [job async for job in client.follow_job(jobs.jobs[-1].job_id)]
            assert [job.status for job in followed] == ["succeeded"]
            with pytest.raises(errors.NotFoundError, match="99"):
                await client.activate(99)

    with ThreadPoolExecutor(1) as thread:  # beside a browser's loop
        thread.submit(asyncio.run, calls()).result()


def test_every_answer_says_which_installation_it_is_of(site):
    with site.database() as connection:
        ((said,),) = connection.execute("SELECT installation_id FROM installation")
    answers = [
        *(site.server.get(path) for path in ("/models", "/health/live", "/no/such", "/docs")),
        *(site.worker.get(path) for path in ("/models", "/health/live", "/no/such", "/metrics")),
        site.server.post("/jobs/1/cancel", content=b"x" * (5 * 1024**2)),
    ]
    assert [answer.headers.get("X-Reckeeper-Installation") for answer in answers] == [
        said for _ in answers
    ]


def test_a_body_that_makes_no_sense_is_refused_before_it_is_parsed(site):
    for path, method in (("/models/1", "PATCH"), ("/policy", "PUT"), ("/retrain", "POST")):
        answer = site.server.request(method, path, content=b" " * (5 * 1024 * 1024))
        assert "larger than the 262144 bytes" in assert_error(answer, 413, "too_large")
        parts = (b" " * 65_536 for _ in range(80))
        assert_error(site.server.request(method, path, content=parts), 413, "too_large")
    answer = site.server.post("/retrain", content=b'{"recipe":', headers=JSON)
    assert assert_error(answer, 422, "invalid_data").startswith("the body: not JSON at character")


FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # as `curl -d` says of all it sends
BODIES = [
    *[("server", "POST", path) for path in ("/retrain", "/user_interactions", "/items")],
    *[("server", "POST", path) for path in ("/recommendations", "/jobs/1/cancel", "/imports")],
    *[("server", "PUT", path) for path in ("/policy", "/items/i1")],
    *[("worker", "POST", path) for path in ("/retrain", "/jobs/1/cancel")],
    ("server", "POST", "/models/import"),
]


@pytest.mark.parametrize(("api", "method", "path"), BODIES)
@pytest.mark.parametrize("headers", [FORM, {"Content-Type": "text/plain"}, {}], ids=str)
def test_a_body_of_another_type_is_refused_and_says_what_to_send(site, api, method, path, headers):
    is_file = path in {"/imports", "/models/import"}
    if is_file and not headers:
        return  # whatever it is
    before = site.server.get("/jobs").json()
    answer = getattr(site, api).request(method, path, content=b'{"recipe": "svd"}', headers=headers)
    message = assert_error(answer, 415, "unsupported_type")
    wanted = {"/imports": "application/octet-stream", "/models/import": "application/zip"}
    assert f"curl -H 'Content-Type: {wanted.get(path, 'application/json')}'" in message
    assert site.server.get("/jobs").json() == before


@pytest.mark.parametrize("api", ["server", "worker"])
@pytest.mark.parametrize("path", ["/models", "/health/live", "/metrics", "/no/such"])
def test_a_request_for_another_host_is_refused_and_says_which_setting(site, api, path):
    answer = getattr(site, api).get(path, headers={"Host": "evil.example:8000"})
    message = assert_error(answer, 421, "unknown_host")
    assert "'evil.example:8000'" in message
    assert "RECKEEPER_ALLOWED_HOSTS" in message


@pytest.mark.parametrize("path", ["/recommendations/u1", "/recommendations/u1?n=5"])
def test_lists_that_are_at_hand_are_for_our_hosts_alone(site, path):
    assert site.server.get(path).status_code == 200
    assert_error(site.server.get(path, headers={"Host": "evil.example"}), 421, "unknown_host")


@pytest.mark.parametrize("api", ["server", "worker"])
@pytest.mark.parametrize(
    "told", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}], ids=str
)
def test_a_change_that_a_foreign_page_asks_for_is_refused(site, api, told):
    before = site.server.get("/jobs").json()
    answer = getattr(site, api).post("/retrain", headers=told)
    assert "RECKEEPER_CORS_ORIGINS" in assert_error(answer, 403, "foreign_origin")
    assert site.server.get("/jobs").json() == before
    assert getattr(site, api).get("/models", headers=told).status_code == 200


def test_what_is_not_there_is_named(site):
    assert "99" in assert_error(site.server.get("/models/99"), 404, "not_found")
    assert "99" in assert_error(site.server.post("/models/99/activate"), 404, "not_found")
    assert "99" in assert_error(site.server.get("/jobs/99"), 404, "not_found")
    for path in ("/jobs/99/finish", "/jobs/99/cancel", "/models/99/pin"):
        assert "99" in assert_error(site.server.post(path), 404, "not_found")
    for path in ("/jobs/99/stream", "/models/99/download", "/models/1/compare/99"):
        assert "99" in assert_error(site.server.get(path), 404, "not_found")
    for path in ("/models/99", "/models/99/pin"):
        assert "99" in assert_error(site.server.delete(path), 404, "not_found")
    noted = site.server.patch("/models/99", json={"note": "x"})
    assert "99" in assert_error(noted, 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/models/none",
        "/models/0",
        "/models/1e3",
        "/jobs/-1",
        "/jobs?limit=0",
        "/jobs?limit=1001",
        "/jobs?before=x",
        "/timeline?before=0",
        "/audit?limit=1001",
        "/policy/history?limit=x",
        "/models/1/compare/0",
        "/models/1/compare/1?k=101",
        "/models/1/compare/1?users=0",
        "/recommendations/u1?n=0",
        "/recommendations/u1?n=1001",
        "/recommendations/u1?n=ten",
        "/user_interactions/u1?n=0",
        "/recommendations/%00",
        "/watchlist/" + "x" * 257,
    ],
)
def test_a_wrong_parameter_is_refused(site, path):
    assert_error(site.server.get(path), 422, "invalid_data")


def test_what_a_request_says_beyond_what_its_route_takes_is_refused(site):
    document = site.server.get("/openapi.json").json()
    before = site.server.get("/audit?limit=1").json()
    for path, operations in document["paths"].items():
        numbers = {"version": 1, "other": 2, "job_id": 1, "import_id": 1}
        address = path.format(**numbers, user_id="u1", item_id="i1", key_id="k1", erasure_id=1)
        for method, operation in operations.items():
            known = [
                each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
            ]
            names = ", ".join(known) or "there are none here"
            answer = site.server.request(method, address, params={"no_such": 1})
            message = assert_error(answer, 422, "invalid_data")
            assert message.startswith("no_such: there is no such parameter; "), (path, message)
            assert names in message
            sent = operation.get("requestBody", {"content": {"application/json": {}}})["content"]
            if method != "get" and "application/json" in sent:
                answer = site.server.request(method, address, json={"no_such": 1})
                message = assert_error(answer, 422, "invalid_data")
                if "requestBody" in operation:
                    assert "no_such" in message, (path, message)
                    assert "; there " in message, (path, message)
                else:
                    assert message.startswith("The route takes no body"), (path, message)
    assert "did you mean limit?" in site.server.get("/jobs?limt=3").json()["message"]
    assert site.server.get("/audit?limit=1").json() == before


def test_the_worker_refuses_what_its_routes_do_not_take(site):
    app = Flask("kafka_worker")
    app.register_blueprint(worker_routes)
    for rule in app.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        path = rule.rule.replace("<int:job_id>", "1")
        for method in rule.methods & {"GET", "POST"}:
            answer = site.worker.request(method, path, params={"no_such": 1})
            assert "no_such: there is no such parameter; there " in assert_error(
                answer, 422, "invalid_data"
            )
            if method == "POST":
                answer = site.worker.request(method, path, json={"no_such": 1})
                assert_error(answer, 422, "invalid_data")


@pytest.mark.parametrize("api", ["server", "worker"])
def test_a_wrong_wait_is_refused_and_trains_nothing(site, api):
    before = site.server.get("/jobs").json()["jobs"]

    message = assert_error(
        getattr(site, api).post("/retrain", params={"wait": "perhaps"}), 422, "invalid_data"
    )

    assert "wait" in message
    assert site.server.get("/jobs").json()["jobs"] == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models/{}"),
        ("GET", "/models/1/compare/{}"),
        ("GET", "/models/{}/download"),
        ("GET", "/timeline?before={}"),
        ("GET", "/jobs/{}"),
        ("GET", "/jobs/{}/stream"),
        ("GET", "/jobs?before={}"),
        ("GET", "/policy/history?before={}"),
        ("GET", "/audit?before={}"),
        ("POST", "/models/{}/activate"),
        ("POST", "/models/{}/pin"),
        ("DELETE", "/models/{}/pin"),
        ("DELETE", "/models/{}"),
        ("POST", "/jobs/{}/finish"),
        ("POST", "/jobs/{}/cancel"),
    ],
)
def test_a_number_beyond_all_numbers_is_no_failure_of_the_server(site, method, path):
    for number in (2**63 - 1, 2**63, 10**40):
        answer = site.server.request(method, path.format(number))
        assert answer.status_code in {200, 404, 422}, answer.text


# Interactions


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"item_id": "i1", "interaction_type": "click"}, "user_id"),
        ({"user_id": "bad", "interaction_type": "click"}, "item_id"),
        ({"user_id": "bad", "item_id": "i1"}, "interaction_type"),
        (click("bad", interaction_type="stare"), "interaction_type"),
        (click("bad", colour="red"), "colour"),
        (click(""), "user_id"),
        (click("x" * 257), "user_id"),
        (click("a\nb"), "user_id"),
        (click(True), "user_id"),
        (click(1.5), "user_id"),
        (click(None), "user_id"),
        (click("bad", item_id=["i1"]), "item_id"),
        (click("bad", event_id=""), "event_id"),
        (click("bad", weight=-1), "weight"),
        (click("bad", weight="2"), "weight"),
        (click("bad", weight=1e7), "weight"),
        (click("bad", occurred_at="yesterday"), "occurred_at"),
        (click("bad", occurred_at="2025-12-04T23:42:15"), "occurred_at"),
        (click("bad", occurred_at=1733355735), "occurred_at"),
        (click("bad", occurred_at="2999-01-01T00:00:00Z"), "occurred_at"),
        (click("bad", occurred_at="1969-12-31T23:59:59Z"), "occurred_at"),
        ("click", "interaction"),
    ],
)
def test_a_bad_row_refuses_the_whole_request_and_names_row_and_field(site, bad, field):
    user_id = f"refused {bad} {field}"[:256]

    answer = site.server.post("/user_interactions", json=[click(user_id), bad])

    message = assert_error(answer, 422, "invalid_data")
    assert message.startswith(f"Row 1: {field} "), message
    (refused,) = answer.json()["details"]["refused"]
    assert (refused["index"], refused["field"]) == (1, field)
    listed = site.server.get(f"/user_interactions/{path_of(user_id)}").json()
    assert listed["interactions"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"17", b'"text"', b"\xff\xfe"])
def test_a_body_that_is_no_interaction_is_refused(site, body):
    assert_error(
        site.server.post("/user_interactions", content=body, headers=JSON), 422, "invalid_data"
    )


def test_too_many_rows_are_refused(site):
    rows = [click("too many")] * 10_001

    message = assert_error(site.server.post("/user_interactions", json=rows), 413, "too_large")

    assert "10001" in message
    assert "10000" in message
    assert site.server.get("/user_interactions/too many").json()["interactions"] == []
    assert site.server.post("/user_interactions", json=rows[1:]).json() == {
        "status": "ok",
        "accepted": 10_000,
        "duplicates": 0,
    }


@pytest.mark.parametrize("way", ["whole", "in parts"])
def test_a_body_that_is_too_large_is_refused(site, way):
    row = json.dumps(click("too large", item_id="i" * 200)).encode()
    body = b"[" + b",".join([row] * (16 * 2**20 // len(row) + 100)) + b"]"
    parts = (body[first : first + 2**16] for first in range(0, len(body), 2**16))

    answer = site.server.post(
        "/user_interactions", content=body if way == "whole" else parts, headers=JSON
    )

    assert str(16 * 2**20) in assert_error(answer, 413, "too_large")
    assert site.server.get("/user_interactions/too large").json()["interactions"] == []


def test_a_url_that_is_too_long_is_refused(site):
    # By hand, since clients refuse it themselves.
    with socket.create_connection(("127.0.0.1", site.server.base_url.port)) as connection:
        connection.sendall(b"GET /recommendations/u1?exclude=%s HTTP/1.1\r\n\r\n" % (b"i" * 2**16))
        head, body = b"".join(iter(lambda: connection.recv(2**16), b"")).split(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 414 ")
    assert json.loads(body)["code"] == "too_large"


def test_good_rows_are_stored_and_bad_ones_listed_where_that_is_asked_for(site):
    rows = [click("skips", "i1"), click(""), click("skips", "i2"), click("skips", weight=-1)]

    answer = site.server.post("/user_interactions", params={"on_error": "skip"}, json=rows)

    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], body["duplicates"]) == (2, 0)
    assert [(row["index"], row["field"]) for row in body["refused"]] == [
        (1, "user_id"),
        (3, "weight"),
    ]
    assert all(row["message"] for row in body["refused"])
    listed = site.server.get("/user_interactions/skips").json()["interactions"]
    assert {row["item_id"] for row in listed} == {"i1", "i2"}


def test_the_same_event_again_is_a_duplicate_and_the_first_stands(site):
    first = click("twice", "i1", event_id="event 1", weight=2, occurred_at="2025-01-02T03:04:05Z")
    other = click("somebody else", "i2", event_id="event 1")

    answers = [
        site.server.post("/user_interactions", json=[first, other]).json(),
        site.server.post("/user_interactions", json=first).json(),
        site.server.post("/user_interactions", json=[other, click("twice", "i3")]).json(),
    ]

    assert [(row["accepted"], row["duplicates"]) for row in answers] == [(1, 1), (0, 1), (1, 1)]
    listed = site.server.get("/user_interactions/twice").json()["interactions"]
    assert [row["item_id"] for row in listed] == ["i3", "i1"]
    assert listed[1] == {
        "event_id": "event 1",
        "item_id": "i1",
        "title": None,
        "interaction_type": "click",
        "weight": 2.0,
        "occurred_at": "2025-01-02T03:04:05.000000Z",
    }
    assert site.server.get("/user_interactions/somebody else").json()["interactions"] == []


def test_an_interaction_without_a_time_happened_on_arrival(site):
    before = datetime.now(UTC)
    site.server.post("/user_interactions", json=click("now"))
    after = datetime.now(UTC)

    (row,) = site.server.get("/user_interactions/now").json()["interactions"]

    assert before <= datetime.fromisoformat(row["occurred_at"]) <= after
    assert row["event_id"]


def test_integers_become_their_decimal_form(site):
    site.server.post("/user_interactions", json=click(4711, 42, event_id=7))

    (row,) = site.server.get("/user_interactions/4711").json()["interactions"]

    assert (row["event_id"], row["item_id"]) == ("7", "42")


@pytest.mark.parametrize("odd", ODD_IDS)
def test_any_id_goes_through_bodies_and_paths(site, odd):
    sent = site.server.post("/user_interactions", json=click(odd, odd))
    assert sent.json()["accepted"] == 1

    listed = site.server.get(f"/user_interactions/{path_of(odd)}").json()
    assert listed["user_id"] == odd
    assert [row["item_id"] for row in listed["interactions"]] == [odd]
    recommended = site.server.get(f"/recommendations/{path_of(odd)}")
    assert recommended.status_code == 200
    assert recommended.json()["user_id"] == odd
    added = site.server.post(f"/watchlist/{path_of(odd)}/{path_of(odd)}")
    assert added.json() == {"status": "ok", "accepted": 1, "duplicates": 0}
    watched = site.server.get(f"/watchlist/{path_of(odd)}").json()
    assert watched["user_id"] == odd
    assert [item["item_id"] for item in watched["items"]] == [odd]
    removed = site.server.delete(f"/watchlist/{path_of(odd)}/{path_of(odd)}")
    assert removed.json() == {"status": "ok", "accepted": 1, "duplicates": 0}


@pytest.mark.parametrize("odd", ODD_IDS)
def test_the_client_takes_any_id(client, odd):
    user_id = f"{odd}"
    client.add_to_watchlist(user_id, odd)
    try:
        assert [item.item_id for item in client.watchlist(user_id)] == [odd]
        assert client.interactions(user_id)[0].item_id == odd
        assert client.recommendations(user_id, n=1).user_id == user_id
    finally:
        client.remove_from_watchlist(user_id, odd)


# The watchlist


def test_the_watchlist_shows_what_is_on_it(site):
    def listed():
        return [item["item_id"] for item in site.server.get("/watchlist/watcher").json()["items"]]

    def change(method, item_id):
        body = site.server.request(method, f"/watchlist/watcher/{item_id}").json()
        return body["accepted"], body["duplicates"]

    assert listed() == []
    assert change("POST", "i1") == (1, 0)
    assert change("POST", "i2") == (1, 0)
    assert change("POST", "i1") == (0, 1)
    assert listed() == ["i2", "i1"]
    assert change("DELETE", "i1") == (1, 0)
    assert change("DELETE", "i1") == (0, 1)
    assert change("DELETE", "never there") == (0, 1)
    assert listed() == ["i2"]
    assert change("POST", "i1") == (1, 0)
    assert listed() == ["i1", "i2"]


def test_of_several_additions_at_once_one_is_stored(site):
    with ThreadPoolExecutor(10) as clients:
        answers = list(
            clients.map(lambda _: site.server.post("/watchlist/many/i1").json(), range(10))
        )
    assert sum(answer["accepted"] for answer in answers) == 1
    assert sum(answer["duplicates"] for answer in answers) == 9


def test_a_removal_takes_back_an_addition_that_was_dated_ahead(site):
    ahead = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
    sent = {"user_id": "ahead", "item_id": "i1", "interaction_type": "watchlist_add"}
    site.server.post("/user_interactions", json={**sent, "occurred_at": ahead})
    assert site.server.delete("/watchlist/ahead/i1").json()["accepted"] == 1
    assert site.server.get("/watchlist/ahead").json()["items"] == []


def test_bytes_that_are_no_text_are_nobodys_id(site):
    for path in ("/watchlist/%ff/i1", "/watchlist/u/%fe"):
        answer = site.server.post(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_data")
    assert site.server.get("/recommendations/%ff").status_code == 422


def test_an_interaction_that_is_sent_changes_the_watchlist_too(site):
    for kind, expected in (("watchlist_add", ["i5"]), ("watchlist_remove", [])):
        row = {"user_id": "sender", "item_id": "i5", "interaction_type": kind}
        assert site.server.post("/user_interactions", json=row).json()["accepted"] == 1
        items = site.server.get("/watchlist/sender").json()["items"]
        assert [item["item_id"] for item in items] == expected
    (item,) = (
        site.server.post("/watchlist/sender/i6"),
        site.server.get("/watchlist/sender"),
    )[1].json()["items"]
    assert item.keys() == {"item_id", "title", "attributes", "added_at"}


def test_a_removal_takes_back_the_addition_and_no_click(site):
    site.send([click("mover", "kept"), click("mover", "taken"), click("mover", "kept")])
    for item_id in ("kept", "taken"):
        site.server.post(f"/watchlist/mover/{item_id}")
    site.server.delete("/watchlist/mover/taken")

    site.retrain()

    with Path(site.active()["path"]).open("rb") as stream:
        model = pickle.load(stream)
    users, items = model["metadata"]["users"], model["metadata"]["items"]
    row = model["rating_matrix"].toarray()[users.index("mover")]
    assert row[items.index("kept")] == 2 + 2  # two clicks, and an addition that weighs two
    assert row[items.index("taken")] == 1


# People


def test_after_a_login_the_visitors_history_is_the_accounts(site, client):
    site.send([click("visitor/1", "i1"), click("visitor/1", "i2"), click("account 1", "i3")])
    site.server.post("/watchlist/visitor%2F1/i4")
    merged = site.server.post("/users/account%201/merge", json={"from": "visitor/1"})
    assert merged.json() == {"status": "ok", "user_id": "account 1", "interactions": 3}
    assert client.merge("account 1", "visitor/1").interactions == 0
    found = client.recommendations("account 1", n=100)
    assert found.strategy == "fold_in"
    assert not {"i1", "i2", "i3", "i4"} & {item.item_id for item in found.items}
    assert [item.item_id for item in client.watchlist("account 1")] == ["i4"]
    # What is late, or done under the old id, is the account's.
    site.server.delete("/watchlist/visitor%2F1/i4")
    site.send([click("visitor/1", "i5")])
    assert client.watchlist("account 1") == []
    assert "i5" in {row.item_id for row in client.interactions("account 1", n=100)}
    assert client.interactions("visitor/1", n=100) == []
    other = site.server.post("/users/other/merge", json={"from": "visitor/1"})
    assert "account 1" in assert_error(other, 409, "conflict")
    for body in ({}, {"from": ""}, {"from": None}, {"from": True}, {"from": "a", "to": "b"}):
        assert_error(site.server.post("/users/a%2Fb/merge", json=body), 422, "invalid_data")
    said = site.server.post("/users/u/merge", json={"form": "v"}).json()["message"]
    assert "there is from (did you mean from?)" in said
    assert site.server.get("/audit?limit=1").json()["entries"][0]["action"] == "merge"
    told = site.run("users", "merge", "account 1", "visitor/2").stdout
    assert "what comes later goes to the account" in told


# Answers


def test_the_head_and_the_body_of_an_answer_come_at_once(site):
    with socket.create_connection(("127.0.0.1", site.server.base_url.port)) as connection:
        for _ in range(5):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head, body = connection.recv(65_536).split(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert f"content-length: {len(body)}".encode() in head
        connection.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 405")


# Recommendations


def test_a_known_user_is_recommended_what_they_have_not_seen(site):
    seen = {row["item_id"] for row in clicks(8, 12) if row["user_id"] == "u3"}

    answer = site.server.get("/recommendations/u3", params={"n": 1000}).json()

    assert answer["strategy"] == "model"
    assert answer["model_version"] == site.active()["version"]
    assert answer["request_id"]
    assert datetime.fromisoformat(answer["generated_at"]).tzinfo is not None
    items = answer["items"]
    assert not seen & {item["item_id"] for item in items}
    assert {f"i{number}" for number in range(12)} - seen <= {item["item_id"] for item in items}
    assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    short = site.server.get("/recommendations/u3", params={"n": 2}).json()["items"]
    assert short == items[:2]


def test_a_history_in_a_request_is_recommended_from_and_not_stored(site, client):
    before = site.server.get("/user_interactions/u3").json()
    answer = site.server.post("/recommendations", json={"history": ["i1", "i2"], "n": 5}).json()
    assert (answer["strategy"], answer["model_version"]) == ("fold_in", site.active()["version"])
    assert not {"i1", "i2"} & {item["item_id"] for item in answer["items"]}
    assert [item.item_id for item in client.recommend_from(["i1", "i2"], n=5).items] == [
        item["item_id"] for item in answer["items"]
    ]
    mixed = ["i1", {"item_id": "i2", "occurred_at": "2025-12-04T23:42:15Z"}]
    refused = site.server.post("/recommendations", json={"history": mixed})
    assert "history.0.occurred_at" in assert_error(refused, 422, "invalid_data")
    broken = site.server.post("/recommendations", content=b"[", headers=JSON)
    assert_error(broken, 422, "invalid_data")
    assert site.server.get("/user_interactions/u3").json() == before


def test_an_unknown_user_gets_what_is_popular_and_counts_at_once(site):
    unknown = site.server.get("/recommendations/new here").json()
    assert unknown["strategy"] == "popular"
    assert unknown["items"]

    first = unknown["items"][0]["item_id"]
    site.send([click("new here", first)])
    known = site.server.get("/recommendations/new here").json()

    assert known["strategy"] == "fold_in"
    assert first not in [item["item_id"] for item in known["items"]]


# Versions and jobs


def test_a_version_can_be_activated_and_both_processes_follow(site):
    active = site.active()["version"]
    try:
        answer = site.server.post("/models/1/activate", json={"reason": "it was better"})

        assert answer.status_code == 200
        assert answer.json()["model"] == site.server.get("/models/1").json()["model"]
        assert answer.json()["model"]["status"] == "active"
        assert site.server.get("/recommendations/u1").json()["model_version"] == 1
        wait_until(
            lambda: site.worker.get("/health/ready").json()["model_version"] == 1,
            "the worker serves version 1",
        )
        statuses = {
            row["version"]: row["status"] for row in site.server.get("/models").json()["models"]
        }
        assert [version for version, status in statuses.items() if status == "active"] == [1]
        link = site.model_dir / "retrained_svd_model.pkl"
        assert link.resolve() == (site.model_dir / "model-000001.pkl").resolve()
    finally:
        assert site.server.post(f"/models/{active}/activate").status_code == 200


def test_an_activation_takes_nothing_but_a_reason(site):
    assert_error(site.server.post("/models/1/activate", json={"because": "x"}), 422, "invalid_data")


def test_jobs_are_paged_from_the_latest_on(site):
    site.retrain()
    whole = site.server.get("/jobs", params={"limit": 1000}).json()["jobs"]
    numbers = [job["job_id"] for job in whole]
    assert len(numbers) >= 3
    assert numbers == sorted(numbers, reverse=True)

    first = site.server.get("/jobs", params={"limit": 2}).json()["jobs"]
    second = site.server.get("/jobs", params={"limit": 2, "before": numbers[1]}).json()["jobs"]

    assert first == whole[:2]
    assert second == whole[2:4]
    job = whole[0]
    alone = {**job, "result": None}  # which lists leave out
    assert site.server.get(f"/jobs/{numbers[0]}").json() == {"status": "ok", "job": alone}
    assert (job["kind"], job["request"], job["progress"]) == ("retrain", {}, None)
    assert job["finish_requested"] is False
    assert (job["status"], job["stage"], job["fraction"]) == ("succeeded", "done", 1.0)
    assert job["version"] == site.active()["version"]
    assert job["error"] is None
    assert job["peak_memory_bytes"] > 10 * 2**20
    started, finished = (
        datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at")
    )
    assert started < finished
    assert job["seconds_elapsed"] == pytest.approx((finished - started).total_seconds(), abs=0.06)


# What to train with


@pytest.mark.parametrize("api", ["server", "worker"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"recipe": "magic"}, "recipe"),
        ({"recipe": 7}, "recipe"),
        ({"recipe": "\ud800"}, "recipe"),
        ({"recipe": "svd", "settings": {"rank": 3}}, "settings"),
        ({"settings": {"n_components": "\ud800"}}, "settings"),
        ({"settings": {"n_components": 0}}, "settings"),
        ({"settings": "n_components=3"}, "settings"),
        ({"tune": "yes"}, "tune"),
        ({"tune": True, "settings": {}}, "settings"),
        ({"tune": True, "tune_seconds": 0}, "tune_seconds"),
        ({"tune": True, "tune_seconds": 86_401}, "tune_seconds"),
        ({"tune_seconds": 10}, "tune_seconds"),
        ({"tuna": True}, "tuna"),
        ({"\ud800": True}, ""),
        ([], ""),
        (7, ""),
    ],
    ids=ascii,
)
def test_a_retrain_that_cannot_be_is_refused_and_nothing_written(site, api, body, field):
    before = site.server.get("/jobs").json()["jobs"]

    # Their own encoder refuses what is no text.
    answer = getattr(site, api).post(
        "/retrain", content=json.dumps(body), headers={"content-type": "application/json"}
    )

    assert assert_error(answer, 422, "invalid_data").startswith(field)
    assert site.server.get("/jobs").json()["jobs"] == before


@pytest.mark.parametrize("api", ["server", "worker"])
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 60_000, b"recipe=svd"], ids=repr)
def test_a_body_that_is_no_json_trains_nothing(site, api, body):
    before = site.server.get("/jobs").json()["jobs"]

    answer = getattr(site, api).post(
        "/retrain", content=body, headers={"content-type": "application/json"}
    )

    assert_error(answer, 422, "invalid_data")
    assert site.server.get("/jobs").json()["jobs"] == before


@pytest.mark.parametrize("api", ["server", "worker"])
def test_a_body_without_wishes_is_a_plain_retrain(site, api):
    for kind, body in (
        ("x-www-form-urlencoded", ""),
        ("json", '{"recipe": null, "settings": null, "tune": false}'),
    ):
        answer = getattr(site, api).post(
            "/retrain", content=body, headers={"content-type": f"application/{kind}"}
        )
        assert answer.status_code == 200, answer.text
        job = site.server.get(f"/jobs/{answer.json()['job_id']}").json()["job"]
        assert (job["kind"], job["request"]) == ("retrain", {})


def test_a_retrain_takes_recipe_and_settings_and_the_next_keeps_them(trained):
    trained.start_worker()
    trained.start_server()
    with Client(str(trained.server.base_url)) as client:
        assert client.retrain(recipe="popularity").details.explained_variance == 0
        active = trained.active()
        assert (active["recipe"], active["type"]) == ("popularity", "popularity")
        assert trained.server.get("/recommendations/u1").json()["items"]

        client.retrain(recipe="svd", settings={"n_components": 3})
        assert trained.active()["settings"] == {"n_components": 3, "weighting": "raw"}
        trained.retrain()
        assert (trained.active()["recipe"], trained.active()["settings"]) == (
            "svd", {"n_components": 3, "weighting": "raw"},
        )  # fmt: skip

        job = client.start_retrain(settings={"n_components": 2})
        assert job.request == wire.JobRequest(recipe="svd", settings={"n_components": 2})
        assert trained.wait_for_job(job.job_id)["status"] == "succeeded"
        assert trained.active()["settings"] == {"n_components": 2, "weighting": "raw"}

        with pytest.raises(errors.ConflictError, match="tunes nothing"):
            client.finish_job(job.job_id)
        assert {"svd", "popularity"} <= {recipe.name for recipe in client.recipes()}


def test_without_the_worker_no_evaluation_starts(trained):
    trained.start_server()

    message = assert_error(trained.server.post("/evaluations"), 503, "unavailable")

    assert "RECKEEPER_WORKER_URL" in message
    assert_error(trained.server.post("/retrain", json={"recipe": "magic"}), 422, "invalid_data")


def test_too_few_users_are_not_compared(trained):
    trained.start_worker()
    trained.start_server()
    for api in (trained.server, trained.worker):
        message = assert_error(api.post("/evaluations"), 409, "not_enough_data")
        assert "at least 10 users" in message
        assert "only 8 of 8" in message
    assert trained.active()["version"] == 2


# Tuning and comparing, on data of the demo's size


@pytest.fixture(scope="module")
def demo_site(tmp_path_factory, demo_once):
    """Give a running installation with the demo data and the model of its first start."""
    with Installation(tmp_path_factory.mktemp("demo"), RECKEEPER_DEMO="1") as made:
        made.take_over(demo_once)
        made.start_worker()
        made.start_server()
        assert made.wait_for_job(1)["status"] == "succeeded"
        yield made


def wait_for(site, job_id, condition, what):
    """Wait until a job is as a condition says, and return it; it must not end before."""

    def there():
        job = site.server.get(f"/jobs/{job_id}").json()["job"]
        found = condition(job)
        assert found or job["status"] == "running", job
        return job if found else None

    return wait_until(there, what, seconds=120)


@pytest.mark.timeout(600)
def test_what_tuning_finds_serves_and_is_kept_by_the_next_retrain(demo_site):
    started = demo_site.server.post(
        "/retrain",
        params={"wait": "false"},
        json={"tune": True, "tune_seconds": 2, "tuning": {"drift": "mild"}},
    )
    assert started.status_code == 202, started.text
    job = started.json()["job"]
    assert job["request"] == {
        "recipe": "spectral",
        "tune": True,
        "tune_seconds": 2.0,
        "tuning": {"drift": "mild"},
    }

    tuning = wait_for(
        demo_site,
        job["job_id"],
        lambda job: (job["progress"] or {}).get("settings"),
        "tuning has found something",
    )
    assert tuning["progress"]["n_tried"] > 0
    assert 0 < tuning["progress"]["ndcg"] <= 1
    other = demo_site.server.post("/evaluations")
    assert_error(other, 409, "job_running")
    assert other.json()["details"] == {"job_id": job["job_id"], "kind": "retrain"}

    done = demo_site.wait_for_job(job["job_id"], seconds=300)
    assert done["status"] == "succeeded", done
    active = demo_site.active()
    assert (active["version"], active["recipe"]) == (done["version"], "spectral")
    assert active["settings"] == done["progress"]["settings"]
    assert demo_site.server.get("/recommendations/user-0001").json()["items"]

    demo_site.retrain()
    again = demo_site.active()
    assert again["version"] > active["version"]
    assert (again["recipe"], again["settings"]) == ("spectral", active["settings"])


@pytest.mark.timeout(600)
def test_tuning_can_be_finished_with_the_best_so_far(demo_site):
    with Client(str(demo_site.server.base_url)) as client:
        job_id = client.start_retrain(tune=True, tune_seconds=3600, promote="always").job_id
        tuning = wait_for(
            demo_site, job_id, lambda job: (job["progress"] or {}).get("settings"), "a trial"
        )
        assert (tuning["stage"], tuning["finish_requested"]) == ("tuning", False)
        assert tuning["seconds_left"] > 600

        for _ in range(2):  # asking again changes nothing
            asked = client.finish_job(job_id)
            assert asked.finish_requested is True

        done = demo_site.wait_for_job(job_id, seconds=300)
        assert done["status"] == "succeeded", done
        active = demo_site.active()
        assert (active["version"], active["recipe"]) == (done["version"], "spectral")
        assert active["settings"] == done["progress"]["settings"]
        with pytest.raises(errors.ConflictError, match=r"has ended \(succeeded\)"):
            client.finish_job(job_id)


@pytest.mark.timeout(600)
def test_ctrl_c_takes_the_best_that_tuning_has_found(demo_site):
    before = demo_site.active()["version"]
    command = ["retrain", "--tune", "--tune-seconds", "3600", "--promote", "always"]
    process = demo_site.start("retrain", [str(BIN / "reckeeper"), *command])

    def has_found():
        assert process.status is None, process.text()
        jobs = demo_site.server.get("/jobs", params={"limit": 1}).json()["jobs"]
        return jobs[0]["status"] == "running" and (jobs[0]["progress"] or {}).get("settings")

    wait_until(has_found, "tuning has found something", seconds=120)
    process.interrupt()
    assert process.wait(seconds=300) == 0, process.text()
    assert "Tuning ends with the best so far." in process.text()
    assert "is active." in process.text()
    active = demo_site.active()
    assert active["version"] > before
    assert active["recipe"] == "spectral"


def started_evaluation(api):
    started = api.post("/evaluations", params={"wait": "false"})
    assert started.status_code == 202, started.text
    job = started.json()["job"]
    assert (job["kind"], job["request"], job["result"]) == ("evaluate", {}, None)
    return job


@pytest.mark.timeout(600)
def test_an_evaluation_compares_and_leaves_the_active_version(demo_site):
    before = demo_site.server.get("/models").json()
    job = started_evaluation(demo_site.worker)  # the worker has the route too
    demo_site.server.post(f"/jobs/{job['job_id']}/cancel").raise_for_status()
    assert demo_site.wait_for_job(job["job_id"])["status"] == "cancelled"

    job = started_evaluation(demo_site.server)
    first = wait_for(demo_site, job["job_id"], lambda job: job["result"], "a recipe is measured")
    assert first["result"]["recipes"][0]["recipe"] == "popularity"
    refused = demo_site.server.post("/retrain")
    assert_error(refused, 409, "job_running")
    assert refused.json()["details"] == {"job_id": job["job_id"], "kind": "evaluate"}
    # Its tuning takes up to two minutes of the CPU: it is told to use the best so far.
    wait_for(demo_site, job["job_id"], lambda job: job["progress"], "tuning begins")
    demo_site.server.post(f"/jobs/{job['job_id']}/finish").raise_for_status()

    done = demo_site.wait_for_job(job["job_id"], seconds=300)
    assert (done["status"], done["stage"], done["version"]) == ("succeeded", "done", None), done
    rows = done["result"]["recipes"]
    assert [row["recipe"] for row in rows[:3]] == ["popularity", "svd", "spectral"]
    assert [row["version"] for row in rows if row["version"]] == [demo_site.active()["version"]]
    assert (done["result"]["split"], done["result"]["k"]) == ("next", 10)
    assert done["result"]["state"] == "current"
    assert rows[2]["metrics"]["ndcg@10"]["mean"] > rows[0]["metrics"]["ndcg@10"]["mean"]
    documented = demo_site.server.get("/openapi.json").json()["paths"]["/evaluations"]["post"]
    example = documented["responses"]["200"]["content"]["application/json"]["example"]
    assert compare(example["job"]["result"], done["result"]) == (set(), set())
    assert "result" not in demo_site.server.get("/jobs").json()["jobs"][0]
    assert demo_site.server.get("/models").json() == before
    assert demo_site.server.get("/recommendations/user-0001").status_code == 200


def test_the_schedule_and_its_next_time_are_told(site):
    body = site.server.get("/jobs").json()

    assert body["schedule"] == SCHEDULE
    here = datetime.now(ZoneInfo(TIMEZONE))
    expected = here.replace(hour=3, minute=30, second=0, microsecond=0)
    while expected <= here or expected.isoweekday() != 7:
        expected += timedelta(days=1)
    assert datetime.fromisoformat(body["next_scheduled_at"]) == expected
    assert body["next_scheduled_at"].endswith("Z")


# Documentation and metrics


def test_the_documentation_needs_no_other_host(site):
    for page in ("/docs", "/redoc"):
        html = site.server.get(page)
        assert html.status_code == 200
        assert "text/html" in html.headers["content-type"]
        fetched = re.findall(r"""(?:src|href)=["']([^"']+)["']""", html.text)
        fetched += re.findall(r"""url\(["']?([^"')]+)""", html.text)
        fetched += re.findall(r"""["'](https?://[^"']+)["']""", html.text)
        assert fetched
        for address in fetched:
            assert address.startswith("/"), f"{page} fetches {address}"
            assert not address.startswith("//"), f"{page} fetches {address}"
            assert site.server.get(address).status_code == 200, address
    assert site.server.get("/openapi.json").json()["info"]["title"] == "Reckeeper"


def test_every_route_is_described_with_examples(site):
    paths = site.server.get("/openapi.json").json()["paths"]

    assert {path: set(methods) for path, methods in paths.items()} == ROUTES
    for path, methods in paths.items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():
                    if status.startswith("2") and kind == "application/json":
                        assert content["example"], f"{where} {status}"
    sent = paths["/user_interactions"]["post"]["requestBody"]["content"]["application/json"]
    answer = site.server.post("/user_interactions", json=sent["example"])
    assert answer.json()["accepted"] == len(sent["example"])


def test_examples_have_the_fields_of_the_answers(site):
    openapi = site.server.get("/openapi.json")
    assert "HTTPValidationError" not in openapi.text, "errors have another form"
    paths = openapi.json()["paths"]
    site.server.post("/watchlist/documented/i1")
    site.server.put("/policy", json=site.server.get("/policy").json()["policy"])
    site.server.put("/items/documented", json={"title": "Documented"})
    for path, real in {
        "/models": "/models",
        "/models/{version}": "/models/2",
        "/models/{version}/compare/{other}": "/models/1/compare/2",
        "/timeline": "/timeline",
        "/policy": "/policy",
        "/policy/history": "/policy/history",
        "/audit": "/audit?limit=1",
        "/audit/verify": "/audit/verify",
        "/jobs": "/jobs?limit=1",
        "/jobs/{job_id}": "/jobs/1",
        "/recipes": "/recipes",
        "/user_interactions/{user_id}": "/user_interactions/documented",
        "/watchlist/{user_id}": "/watchlist/documented",
        "/items": "/items?q=documented",
        "/items/{item_id}": "/items/documented",
        "/recommendations/{user_id}": "/recommendations/documented?n=1",
        "/demo": "/demo",
        "/health/live": "/health/live",
        "/health/ready": "/health/ready",
    }.items():
        documented = paths[path]["get"]["responses"]["200"]["content"]["application/json"]
        missing, unknown = compare(documented["example"], site.server.get(real).json())
        assert not unknown, f"{path}: {unknown}"
        # FastAPI leaves null out of examples.
        assert missing <= {
            *("seconds_left", "finished_at", "version", "error", "result", "offer_version"),
            *("cause", "promoted", "verdict", "until", "problem", "entry_id"),
        }, f"{path}: {missing}"


def compare(example, answer):
    """Return the names that an example lacks, and those that it has and an answer lacks."""
    if isinstance(example, list) and isinstance(answer, list) and example and answer:
        return compare(example[0], answer[0])
    if not isinstance(example, dict) or not isinstance(answer, dict):
        return set(), set()
    missing, unknown = answer.keys() - example.keys(), example.keys() - answer.keys()
    free = {"attributes", "settings", "request", "details", "libraries", "weights", "cause"}
    free |= {"versus"}  # by the names of other recipes
    for name in example.keys() & answer.keys() - free:
        more_missing, more_unknown = compare(example[name], answer[name])
        missing, unknown = missing | more_missing, unknown | more_unknown
    return missing, unknown


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("phases", "n_examples"),
    [
        ("examples,fuzzing", 4),
        pytest.param("examples,coverage,fuzzing", 200, marks=pytest.mark.long),
    ],
)
def test_generated_requests_get_documented_answers(trained, tmp_path, phases, n_examples):
    # An installation of its own, since anything is asked for: versions go, policies come.
    # Retraining is left out for the time it takes, importing since no ZIP is generated; other
    # tests have both.
    trained.start_server()
    site = trained
    document = site.server.get("/openapi.json").json()
    # This tool takes the schema of a stream for that of each event, as generators do not.
    follow = document["paths"]["/jobs/{job_id}/stream"]["get"]
    stream = follow["responses"]["200"]["content"]["text/event-stream"]
    assert stream["schema"] == {"type": "string"}
    text = {"type": "string"}
    stream["schema"] = {"type": "object", "properties": {"event": text, "data": text}}
    del stream["example"]
    (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    done = subprocess.run(
        [
            BIN / "schemathesis",
            "run",
            "openapi.json",
            f"--url={site.server.base_url}",
            "--exclude-path=/retrain",
            "--exclude-path=/evaluations",
            "--exclude-path=/models/import",
            "--checks=not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance",
            f"--phases={phases}",
            f"--max-examples={n_examples}",
            "--generation-deterministic",
            "--no-color",
        ],
        cwd=tmp_path,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr


def metrics(caller):
    """Return a process's metrics by name and labels, read as Prometheus reads them."""
    answer = caller.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_the_server_counts(site):
    def values():
        found = metrics(site.server)
        return [
            found.get((name, frozenset(labels.items())), 0.0)
            for name, labels in (
                ("reckeeper_interactions_total", {"outcome": "accepted"}),
                ("reckeeper_interactions_total", {"outcome": "duplicate"}),
                ("reckeeper_recommendations_total", {"strategy": "model"}),
                (
                    "reckeeper_http_requests_total",
                    {"method": "GET", "route": "/recommendations/{user_id:id}", "status": "200"},
                ),
                (
                    "reckeeper_http_requests_total",
                    {"method": "GET", "route": "unknown", "status": "404"},
                ),
            )
        ]

    before = values()
    site.server.post("/user_interactions", json=[click("counted", event_id="c1")] * 3)
    site.server.get("/recommendations/u6")
    site.server.get("/recommendations/u7")
    site.server.get("/not/there")
    after = values()

    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2, 2, 2, 1]
    found = metrics(site.server)
    version = site.active()["version"]
    assert found["reckeeper_served_version", frozenset()] == version
    judged = site.server.get(f"/models/{version}").json()["model"]["verdict"]["candidate"]
    assert {name for name in judged if name.startswith(("ndcg@", "hit_rate@"))}
    for metric in (name for name in judged if name.startswith(("ndcg@", "hit_rate@"))):
        for figure, value in judged[metric].items():
            labels = frozenset({"metric": metric, "figure": figure}.items())
            assert found["reckeeper_served_quality", labels] == pytest.approx(value)


def test_the_worker_counts(site):
    def values():
        found = metrics(site.worker)
        succeeded = frozenset({"status": "succeeded"}.items())
        requests = {"method": "POST", "route": "/retrain", "status": "202"}
        return [
            found.get(("reckeeper_training_jobs_total", succeeded), 0.0),
            found.get(("reckeeper_training_seconds_count", frozenset()), 0.0),
            found.get(("reckeeper_http_requests_total", frozenset(requests.items())), 0.0),
        ]

    before = values()
    site.retrain()

    wait_until(lambda: values()[1] > before[1], "the worker counts the job")
    assert [new - old for new, old in zip(values(), before, strict=True)] == [1, 1, 1]


# What goes wrong with files


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, Path.unlink], ids=["a flipped bit", "no file"])
def test_a_damaged_active_version_is_told_and_another_one_offered(trained, harm):
    harm(trained.model_dir / "model-000002.safetensors")

    worker, server = trained.start_worker(), trained.start_server()

    for caller, process in ((trained.server, server), (trained.worker, worker)):
        assert caller.get("/health/live").status_code == 200
        ready = caller.get("/health/ready")
        assert ready.status_code == 200
        body = ready.json()
        assert (body["status"], body["model_version"]) == ("degraded", 1)
        assert body["offer_version"] == 1
        (problem,) = body["problems"]
        assert "model-000002.safetensors" in problem
        assert "Version 1 answers in its place" in problem
        assert "POST /models/1/activate" in problem
        (logged,) = process.events("active_model_not_loaded")
        assert (logged["version"], logged["offer"]) == (2, 1)
    assert trained.active()["version"] == 2
    assert trained.server.get("/recommendations/u1").json()["model_version"] == 1
    listed = trained.run("models", "list")
    assert "Version 1 answers in its place" in listed.stderr
    assert "`reckeeper models activate 1`" in listed.stderr
    assert_error(trained.server.post("/models/2/activate"), 409, "damaged_artifact")

    offered = trained.server.get("/health/ready").json()["offer_version"]
    assert trained.server.post(f"/models/{offered}/activate").status_code == 200

    assert trained.server.get("/recommendations/u1").json()["model_version"] == 1
    for caller in (trained.server, trained.worker):
        wait_until(
            lambda caller=caller: (
                caller.get("/health/ready").json()
                == {"status": "ok", "problems": [], "model_version": 1, "offer_version": None}
            ),
            f"{caller.base_url} is ready with version 1",
        )


def kept_in_files(model):
    """Return a version without what only the database knew: its job, and what came after it."""
    verdict = {name: model["verdict"][name] for name in ("decision", "sentence")}
    return {**model, "job_id": None, "served": None, "verdict": verdict}


def interactions_of(made, user_id):
    return made.server.get(f"/user_interactions/{user_id}").json()["interactions"]


def test_a_lost_database_comes_back_with_its_versions(trained):
    trained.start_server()
    trained.server.post("/models/1/activate")
    before = trained.server.get("/models").json()["models"]
    seen = [row["item_id"] for row in interactions_of(trained, "u3")]
    recommended = trained.server.post("/recommendations", json={"history": seen}).json()["items"]
    trained.stop_all()
    shutil.rmtree(trained.data_dir)

    # As installed, demo data wanted: it must not cover what comes back.
    trained.run("migrate")
    trained.start_worker(RECKEEPER_DEMO="1")
    trained.start_server(RECKEEPER_DEMO="1")

    after = trained.server.get("/models").json()["models"]
    assert [model["version"] for model in after] == [2, 1]
    assert [kept_in_files(model) for model in before] == [kept_in_files(model) for model in after]
    assert [model["job_id"] for model in after] == [None, None]
    assert [model["served"] for model in after] == [False, True]
    assert trained.active()["version"] == 1
    assert not trained.server.get("/demo").json()["loaded"]
    assert trained.server.get("/jobs").json()["jobs"] == []
    answer = trained.server.post("/recommendations", json={"history": seen}).json()
    assert (answer["model_version"], answer["items"]) == (1, recommended)
    # What users had done is lost with the database: model files have no users.
    answer = trained.server.get("/recommendations/u3").json()
    assert (answer["model_version"], answer["strategy"]) == (1, "popular")
    assert trained.worker.get("/health/ready").json()["model_version"] == 1


@pytest.mark.parametrize(
    ("program", "environ"),
    [
        ("server/server.py", {}),
        ("kafka_worker/kafka_worker.py", {}),
        ("server/server.py", {"RECKEEPER_SERVER_PORT": "eighty"}),
        ("kafka_worker/kafka_worker.py", {"RECKEEPER_RETRAIN_SCHEDULE": "on Sundays"}),
    ],
)
def test_a_process_that_cannot_start_says_why_in_a_line(tmp_path, program, environ):
    with Installation(tmp_path) as empty:
        if environ:
            empty.run("migrate")
        process = empty.start("process", [str(BIN / "python"), program], **environ)

        assert process.wait() != 0
        said = process.text()
        assert "Traceback" not in said
        name = next(iter(environ), "reckeeper migrate")
        assert name in said


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(trained):
    trained.environ |= {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    trained.start_worker()
    trained.start_server()

    assert trained.retrain() == 3
    assert "active" in trained.run("models", "list").stdout


def test_what_the_server_refuses_is_the_clients_error_class(client):
    with pytest.raises(errors.DataError, match="Row 0: user_id"):
        client.send([click("")])
    with pytest.raises(errors.NotFoundError, match="99"):
        client.model(99)
