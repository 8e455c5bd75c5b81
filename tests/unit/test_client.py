"""Both clients, against a real HTTP server that answers what a test tells it."""

import asyncio
import copy
import http.server
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from client import generate
from tests import samples

import reckeeper.client
from reckeeper import wire
from reckeeper.client import AsyncClient, Client
from reckeeper.errors import (
    Action,
    DataError,
    JobRunningError,
    NotEnoughDataError,
    NotFoundError,
    ReckeeperError,
    UnavailableError,
)

OK = {"status": "ok", "accepted": 3, "duplicates": 0}
ENTRY, MODEL, JOB = samples.entry(), samples.details(), samples.job()
LISTED = {name: value for name, value in JOB.items() if name != "result"}
STORED = {
    "event_id": "e", "item_id": "i", "title": None, "interaction_type": "click", "weight": 1.0,
    "occurred_at": samples.AT,
}  # fmt: skip
WATCHED = {"item_id": "i", "title": "One", "attributes": {"genre": ["a"]}, "added_at": samples.AT}
ITEM = {"rank": 1, "item_id": "i", "score": 0.5, "title": None, "attributes": {}}
ABOUT = {
    "item_id": "i", "title": "One", "categories": ["a"], "attributes": {"b": 1}, "available": True,
    "available_from": None, "available_until": samples.AT, "available_now": False,
    "in_catalogue": True,
}  # fmt: skip
RECIPE = {"name": "svd", "summary": "Plain.", "decomposes": True, "settings": []}
DETAILS = {"training_samples": 9, "n_users": 6, "n_items": 12, "explained_variance": 0.989}

ANSWERS = {
    kind: kind.model_validate(fields)
    for kind, fields in {
        wire.AuditCheck: {"ok": False, "n_entries": 3, "problem": "Cut.", "entry_id": 2},
        wire.AuditPage: {"entries": [samples.audit_entry()]},
        wire.Comparison: samples.comparison(),
        wire.Deletion: {"version": 3},
        wire.Demo: {"loaded": True, "interactions": 7, "sample_users": ["u"]},
        wire.DemoCleared: {"interactions": 7, "versions": [1]},
        wire.InteractionList: {"user_id": "u", "interactions": [STORED]},
        wire.ItemAnswer: {"item": ABOUT},
        wire.ItemDeleted: {"item_id": "i"},
        wire.ItemPage: {"items": [ABOUT], "next": "i"},
        wire.ItemsStored: {"created": 1, "changed": 2, "unchanged": 3},
        wire.JobAnswer: {"job": JOB},
        wire.JobPage: {"jobs": [LISTED], "schedule": None, "next_scheduled_at": None},
        wire.ErasureAnswer: {"erasure": samples.erasure()},
        wire.ErasurePage: {"erasures": [samples.erasure()]},
        wire.PersonalData: {
            "user_id": "u",
            "exported_at": samples.AT,
            "merged_from": ["v"],
            "watchlist": [],
            "interactions": [],
        },
        wire.Merge: {"user_id": "u", "interactions": 3},
        wire.ModelAnswer: {"model": MODEL},
        wire.ModelList: {"models": [samples.model()]},
        wire.PolicyAnswer: samples.revision(),
        wire.PolicyHistory: {"policies": [samples.revision()]},
        wire.Readiness: {
            "status": "degraded", "problems": ["Slow."], "model_version": 3, "offer_version": None,
        },
        wire.RecipeList: {"recipes": [RECIPE]},
        wire.RecommendationList: {
            "user_id": "u", "model_version": 3, "strategy": "fold_in", "items": [ITEM],
            "request_id": "r", "generated_at": samples.AT,
        },
        wire.HistoryRecommendations: {
            "model_version": 3, "strategy": "fold_in", "items": [ITEM],
            "request_id": "r", "generated_at": samples.AT,
        },
        wire.BatchRecommendations: {
            "model_version": 3, "request_id": "r", "generated_at": samples.AT,
            "lists": [{"user_id": "u", "strategy": "model", "items": [ITEM]}],
        },
        wire.RetrainAnswer: {
            "message": "Model retrained in 2.3s - 9 samples, 98.90% variance explained",
            "details": DETAILS, "version": 3, "job_id": 7, "promoted": True, "verdict": None,
        },
        wire.SendAnswer: {"accepted": 1, "duplicates": 0},
        wire.SimilarItems: {
            "item_id": "i", "kind": "next", "model_version": 3, "strategy": "model",
            "items": [ITEM], "request_id": "r", "generated_at": samples.AT,
        },
        wire.SimilarToSeveral: {
            "item_ids": ["i", "j"], "kind": "alike", "model_version": None,
            "strategy": "categories", "items": [ITEM], "request_id": "r",
            "generated_at": samples.AT,
        },
        wire.TimelinePage: {"timeline": [ENTRY], "rollback_version": 2},
        wire.Watchlist: {"user_id": "u", "items": [WATCHED]},
    }.items()
}  # fmt: skip
PARTS = {
    wire.AuditPage: "entries",
    wire.ErasureAnswer: "erasure",
    wire.ErasurePage: "erasures",
    wire.InteractionList: "interactions",
    wire.ItemAnswer: "item",
    wire.JobAnswer: "job",
    wire.ModelAnswer: "model",
    wire.ModelList: "models",
    wire.PolicyHistory: "policies",
    wire.RecipeList: "recipes",
    wire.Watchlist: "items",
}
"""What a call returns of an answer that has nothing else."""


class Cut(bytes):
    """An answer whose connection breaks before its end."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        parts = urlsplit(self.path)
        self.server.requests.append(
            SimpleNamespace(
                method=self.command,
                path=parts.path,
                query=dict(parse_qsl(parts.query, keep_blank_values=True)),
                json=json.loads(raw) if raw[:1] == b"{" or raw[:1] == b"[" else None,
                raw=raw,
                headers=self.headers,
            )
        )
        status, body = (
            self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        )
        if status is None:  # the connection breaks
            self.close_connection = True
            return
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + isinstance(content, Cut)))
        kind = "zip" if content.startswith(b"PK") else "json"
        self.send_header("Content-Type", f"application/{kind}")
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = isinstance(content, Cut)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = answer

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.answers = [], [(200, OK)]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Awaited:
    """An `AsyncClient` that is called as a `Client` is: its calls are awaited on another thread.

    Where a browser is open in this process, this thread has a loop that runs.
    """

    def __init__(self, *address, **settings):
        self.thread = ThreadPoolExecutor(1)
        self.runner = self.thread.submit(asyncio.Runner).result()
        self.awaited = AsyncClient(*address, **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.run(self.awaited.close())
        self.thread.submit(self.runner.close).result()
        self.thread.shutdown()

    def run(self, coroutine):
        return self.thread.submit(self.runner.run, coroutine).result()

    def as_actor(self, actor):
        other = copy.copy(self)
        other.awaited = self.awaited.as_actor(actor)
        return other

    def __getattr__(self, name):
        if name == "awaited":  # while it is copied
            raise AttributeError(name)
        found = getattr(self.awaited, name)
        if inspect.iscoroutinefunction(found):
            return lambda *given, **named: self.run(found(*given, **named))
        return (lambda *given: self.steps(found(*given))) if callable(found) else found

    def steps(self, following):
        async def step():
            return await anext(following, None)

        try:
            while (state := self.run(step())) is not None:
                yield state
        finally:
            self.run(following.aclose())


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def new_client(request):
    return request.param


@pytest.fixture
def client(server, new_client):
    with new_client(f"http://127.0.0.1:{server.server_port}/", retry_seconds=0.1) as client:
        yield client


@pytest.fixture
def patient_client(server, new_client):
    with new_client(f"http://127.0.0.1:{server.server_port}", retry_seconds=10.0) as client:
        yield client


ODD = "films/🎬 100%?#1"
ODD_PATH = "films%2F%F0%9F%8E%AC%20100%25%3F%231"


@pytest.mark.parametrize(
    ("call", "request_line", "body", "answer"),
    [
        (lambda c: c.models(), ("GET", "/models", {}), None, wire.ModelList),
        (lambda c: c.model(3), ("GET", "/models/3", {}), None, wire.ModelAnswer),
        (lambda c: c.activate(3), ("POST", "/models/3/activate", {}), {}, wire.ModelAnswer),
        (
            lambda c: c.activate(3, reason="worse"),
            ("POST", "/models/3/activate", {}),
            {"reason": "worse"},
            wire.ModelAnswer,
        ),
        (lambda c: c.roll_back(), ("POST", "/models/rollback", {}), {}, wire.ModelAnswer),
        (
            lambda c: c.roll_back(reason="worse"),
            ("POST", "/models/rollback", {}),
            {"reason": "worse"},
            wire.ModelAnswer,
        ),
        (
            lambda c: c.set_note(3, "ours"),
            ("PATCH", "/models/3", {}),
            {"note": "ours"},
            wire.ModelAnswer,
        ),
        (
            lambda c: c.set_note(3, None),
            ("PATCH", "/models/3", {}),
            {"note": None},
            wire.ModelAnswer,
        ),
        (lambda c: c.pin(3), ("POST", "/models/3/pin", {}), {}, wire.ModelAnswer),
        (
            lambda c: c.pin(3, until="2126-01-01T00:00:00Z", reason="sale"),
            ("POST", "/models/3/pin", {}),
            {"until": "2126-01-01T00:00:00Z", "reason": "sale"},
            wire.ModelAnswer,
        ),
        (lambda c: c.unpin(3), ("DELETE", "/models/3/pin", {}), None, wire.ModelAnswer),
        (
            lambda c: c.unpin(3, reason="over"),
            ("DELETE", "/models/3/pin", {"reason": "over"}),
            None,
            wire.ModelAnswer,
        ),
        (lambda c: c.delete_model(3), ("DELETE", "/models/3", {}), None, wire.Deletion),
        (
            lambda c: c.delete_model(3, reason="old & bad"),
            ("DELETE", "/models/3", {"reason": "old & bad"}),
            None,
            wire.Deletion,
        ),
        (
            lambda c: c.compare(3, 4),
            ("GET", "/models/3/compare/4", {"k": "10", "users": "2000"}),
            None,
            wire.Comparison,
        ),
        (
            lambda c: c.compare(3, 4, k=5, users=7),
            ("GET", "/models/3/compare/4", {"k": "5", "users": "7"}),
            None,
            wire.Comparison,
        ),
        (lambda c: c.timeline(), ("GET", "/timeline", {"limit": "50"}), None, wire.TimelinePage),
        (
            lambda c: c.timeline(limit=2, before=9),
            ("GET", "/timeline", {"limit": "2", "before": "9"}),
            None,
            wire.TimelinePage,
        ),
        (lambda c: c.policy(), ("GET", "/policy", {}), None, wire.PolicyAnswer),
        (
            lambda c: c.set_policy({"margin": 0.1}),
            ("PUT", "/policy", {}),
            {"margin": 0.1},
            wire.PolicyAnswer,
        ),
        (
            lambda c: c.set_policy({}, if_revision=0, reason="grown"),
            ("PUT", "/policy", {"if_revision": "0", "reason": "grown"}),
            {},
            wire.PolicyAnswer,
        ),
        (
            lambda c: c.policy_history(),
            ("GET", "/policy/history", {"limit": "20"}),
            None,
            wire.PolicyHistory,
        ),
        (
            lambda c: c.policy_history(limit=2, before=9),
            ("GET", "/policy/history", {"limit": "2", "before": "9"}),
            None,
            wire.PolicyHistory,
        ),
        (lambda c: c.audit(), ("GET", "/audit", {"limit": "50"}), None, wire.AuditPage),
        (
            lambda c: c.audit(limit=2, before=9),
            ("GET", "/audit", {"limit": "2", "before": "9"}),
            None,
            wire.AuditPage,
        ),
        (lambda c: c.verify_audit(), ("GET", "/audit/verify", {}), None, wire.AuditCheck),
        (lambda c: c.cancel_job(4), ("POST", "/jobs/4/cancel", {}), {}, wire.JobAnswer),
        (
            lambda c: c.cancel_job(4, reason="too slow"),
            ("POST", "/jobs/4/cancel", {}),
            {"reason": "too slow"},
            wire.JobAnswer,
        ),
        (lambda c: c.retrain(), ("POST", "/retrain", {}), None, wire.RetrainAnswer),
        (
            lambda c: c.start_retrain(),
            ("POST", "/retrain", {"wait": "false"}),
            None,
            wire.JobAnswer,
        ),
        (
            lambda c: c.retrain(recipe="svd", settings={"n_components": 3}),
            ("POST", "/retrain", {}),
            {"recipe": "svd", "settings": {"n_components": 3}},
            wire.RetrainAnswer,
        ),
        (
            lambda c: c.retrain(settings={}),
            ("POST", "/retrain", {}),
            {"settings": {}},
            wire.RetrainAnswer,
        ),
        (
            lambda c: c.start_retrain(recipe="spectral", tune=True, tune_seconds=2.5),
            ("POST", "/retrain", {"wait": "false"}),
            {"recipe": "spectral", "tune": True, "tune_seconds": 2.5},
            wire.JobAnswer,
        ),
        (
            lambda c: c.start_retrain(tune=True, drift="mild"),
            ("POST", "/retrain", {"wait": "false"}),
            {"tune": True, "tuning": {"drift": "mild"}},
            wire.JobAnswer,
        ),
        (
            lambda c: c.start_evaluation(),
            ("POST", "/evaluations", {"wait": "false"}),
            None,
            wire.JobAnswer,
        ),
        (lambda c: c.finish_job(4), ("POST", "/jobs/4/finish", {}), None, wire.JobAnswer),
        (lambda c: c.recipes(), ("GET", "/recipes", {}), None, wire.RecipeList),
        (lambda c: c.jobs(), ("GET", "/jobs", {"limit": "20"}), None, wire.JobPage),
        (
            lambda c: c.jobs(limit=5, before=9),
            ("GET", "/jobs", {"limit": "5", "before": "9"}),
            None,
            wire.JobPage,
        ),
        (lambda c: c.job(4), ("GET", "/jobs/4", {}), None, wire.JobAnswer),
        (
            lambda c: c.interactions(ODD, n=7),
            ("GET", f"/user_interactions/{ODD_PATH}", {"n": "7"}),
            None,
            wire.InteractionList,
        ),
        (
            lambda c: c.merge(ODD, "v"),
            ("POST", f"/users/{ODD_PATH}/merge", {}),
            {"from": "v"},
            wire.Merge,
        ),
        (
            lambda c: c.erase(ODD, reason="r"),
            ("DELETE", f"/users/{ODD_PATH}", {"reason": "r"}),
            None,
            wire.ErasureAnswer,
        ),
        (
            lambda c: c.export_user(ODD),
            ("GET", f"/users/{ODD_PATH}/export", {}),
            None,
            wire.PersonalData,
        ),
        (lambda c: c.erasure(3), ("GET", "/erasures/3", {}), None, wire.ErasureAnswer),
        (
            lambda c: c.erasures(limit=5, before=9),
            ("GET", "/erasures", {"limit": "5", "before": "9"}),
            None,
            wire.ErasurePage,
        ),
        (lambda c: c.watchlist(ODD), ("GET", f"/watchlist/{ODD_PATH}", {}), None, wire.Watchlist),
        (
            lambda c: c.add_to_watchlist(ODD, "a/b"),
            ("POST", f"/watchlist/{ODD_PATH}/a%2Fb", {}),
            None,
            wire.SendAnswer,
        ),
        (
            lambda c: c.remove_from_watchlist(ODD, "a/b"),
            ("DELETE", f"/watchlist/{ODD_PATH}/a%2Fb", {}),
            None,
            wire.SendAnswer,
        ),
        (
            lambda c: c.recommendations(ODD, n=3),
            ("GET", f"/recommendations/{ODD_PATH}", {"n": "3"}),
            None,
            wire.RecommendationList,
        ),
        (
            lambda c: c.recommend_from(["a", 7], n=3),
            ("POST", "/recommendations", {}),
            {"history": ["a", 7], "n": 3},
            wire.HistoryRecommendations,
        ),
        (
            lambda c: c.recommend_from(
                [
                    {"item_id": "a", "occurred_at": samples.AT},
                    wire.HistoryItem(item_id=7, occurred_at=samples.AT),
                ]
            ),
            ("POST", "/recommendations", {}),
            {
                "history": [
                    {"item_id": "a", "occurred_at": samples.AT},
                    {"item_id": 7, "occurred_at": samples.AT},
                ],
                "n": 10,
            },
            wire.HistoryRecommendations,
        ),
        (
            lambda c: c.recommendations(
                "u",
                n=3,
                offset=5,
                exclude=iter([8]),
                allow=(),
                where={"x": [1, "y"]},
                include_seen=True,
                explain=False,
                diversity=0.3,
                per_category=2,
                model=1,
            ),
            (
                "GET",
                "/recommendations/u",
                {
                    "n": "3",
                    "offset": "5",
                    "exclude": "8",
                    "allow": "",
                    "where": '{"x": [1, "y"]}',
                    "include_seen": "true",
                    "explain": "false",
                    "diversity": "0.3",
                    "per_category": "2",
                    "model": "1",
                },
            ),
            None,
            wire.RecommendationList,
        ),
        (
            lambda c: c.recommend_from(["a"], explain=True, category=("b", "c")),
            ("POST", "/recommendations", {}),
            {"history": ["a"], "n": 10, "explain": True, "category": ["b", "c"]},
            wire.HistoryRecommendations,
        ),
        (
            lambda c: c.recommend_to(iter(["a", 7]), n=3, diversity=0.5),
            ("POST", "/recommendations/batch", {}),
            {"user_ids": ["a", 7], "n": 3, "diversity": 0.5},
            wire.BatchRecommendations,
        ),
        (lambda c: c.items(), ("GET", "/items", {"limit": "20"}), None, wire.ItemPage),
        (
            lambda c: c.items("a b", available=False, limit=3, after=ODD),
            ("GET", "/items", {"q": "a b", "available": "false", "limit": "3", "after": ODD}),
            None,
            wire.ItemPage,
        ),
        (lambda c: c.item(ODD), ("GET", f"/items/{ODD_PATH}", {}), None, wire.ItemAnswer),
        (
            lambda c: c.similar(ODD),
            ("GET", f"/items/{ODD_PATH}/similar", {"kind": "alike", "n": "10"}),
            None,
            wire.SimilarItems,
        ),
        (
            lambda c: c.similar(
                7,
                kind="next",
                n=3,
                offset=2,
                exclude=[8],
                allow=iter(["a"]),
                category=["b c"],
                where={"x": {"max": 5}},
                model=2,
            ),
            (
                "GET",
                "/items/7/similar",
                {
                    "kind": "next",
                    "n": "3",
                    "offset": "2",
                    "exclude": "8",
                    "allow": "a",
                    "category": "b c",
                    "where": '{"x": {"max": 5}}',
                    "model": "2",
                },
            ),
            None,
            wire.SimilarItems,
        ),
        (
            lambda c: c.similar_to(["a", 7]),
            ("POST", "/items/similar", {}),
            {"item_ids": ["a", 7], "kind": "alike", "n": 10},
            wire.SimilarToSeveral,
        ),
        (
            lambda c: c.similar_to(
                iter(["a"]),
                kind="next",
                n=3,
                offset=2,
                exclude=[8, "b"],
                allow=(),
                category=["b", "c"],
                where={"x": 1},
                model=2,
            ),
            ("POST", "/items/similar", {}),
            {
                "item_ids": ["a"],
                "kind": "next",
                "n": 3,
                "offset": 2,
                "exclude": [8, "b"],
                "allow": [],
                "category": ["b", "c"],
                "where": {"x": 1},
                "model": 2,
            },
            wire.SimilarToSeveral,
        ),
        (
            lambda c: c.put_item(ODD, wire.ItemContent(title="T", available_until=samples.AT)),
            ("PUT", f"/items/{ODD_PATH}", {}),
            {"title": "T", "available_until": samples.AT},
            wire.ItemAnswer,
        ),
        (
            lambda c: c.patch_item("i", {"title": None, "attributes": {"b": None}}),
            ("PATCH", "/items/i", {}),
            {"title": None, "attributes": {"b": None}},
            wire.ItemAnswer,
        ),
        (
            lambda c: c.withdraw("i"),
            ("PATCH", "/items/i", {}),
            {"available": False},
            wire.ItemAnswer,
        ),
        (
            lambda c: c.restore("i"),
            ("PATCH", "/items/i", {}),
            {"available": True},
            wire.ItemAnswer,
        ),
        (
            lambda c: c.store_items([wire.ItemRow(item_id=7), {"item_id": "b", "title": "B"}]),
            ("POST", "/items", {}),
            [{"item_id": 7}, {"item_id": "b", "title": "B"}],
            wire.ItemsStored,
        ),
        (
            lambda c: c.delete_item(ODD),
            ("DELETE", f"/items/{ODD_PATH}", {}),
            None,
            wire.ItemDeleted,
        ),
        (lambda c: c.demo(), ("GET", "/demo", {}), None, wire.Demo),
        (lambda c: c.clear_demo(), ("DELETE", "/demo", {}), None, wire.DemoCleared),
        (lambda c: c.ready(), ("GET", "/health/ready", {}), None, wire.Readiness),
    ],
)
def test_calls(client, server, call, request_line, body, answer):
    whole = ANSWERS[answer]
    server.answers = [(200, whole.model_dump(mode="json"))]
    assert call(client) == (getattr(whole, PARTS[answer]) if answer in PARTS else whole)
    (request,) = server.requests
    assert (request.method, request.path, request.query) == request_line
    assert request.json == body


def test_every_interaction_gets_an_event_id_that_stays_when_it_is_repeated(patient_client, server):
    server.answers = [(None, None), (200, OK)]
    patient_client.send(
        [
            {"user_id": "u", "item_id": 7, "interaction_type": "click"},
            {"event_id": "own", "user_id": "u", "item_id": "j", "interaction_type": "click"},
            {"user_id": "u", "item_id": 7, "interaction_type": "click"},
        ],
        on_error="skip",
    )
    first, second = server.requests
    assert (first.method, first.path, first.query) == (
        "POST", "/user_interactions", {"on_error": "skip"},
    )  # fmt: skip
    assert first.json == second.json
    ids = [row.pop("event_id") for row in first.json]
    assert ids[1] == "own"
    assert len(set(ids)) == 3
    assert first.json[0] == {"user_id": "u", "item_id": 7, "interaction_type": "click"}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", NotFoundError),
        (409, "job_running", JobRunningError),
        (409, "not_enough_data", NotEnoughDataError),
        (422, "invalid_data", DataError),
        (500, "of_a_later_release", ReckeeperError),
    ],
)
def test_errors_come_back_as_their_classes(client, server, status, code, kind):
    body = {"status": "error", "code": code, "message": "No.", "details": {"job_id": 3}}
    server.answers = [(status, body)]
    with pytest.raises(ReckeeperError) as caught:
        client.models()
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.details) == ("No.", {"job_id": 3})
    look = Action("see_job", {"job_id": 3}) if kind is JobRunningError else None
    assert caught.value.action == look
    assert len(server.requests) == 1


def test_an_error_says_what_to_do_next_for_each_surface_to_word(client, server):
    error = NotFoundError("There is no job 9.", details={"n": 1}, action=Action("list_jobs"))
    body = wire.error_body(error).model_dump(mode="json")
    assert body["message"] == "There is no job 9. GET /jobs lists the jobs."
    server.answers = [(404, body)]
    with pytest.raises(NotFoundError) as caught:
        client.job(9)
    told = caught.value
    assert (told.message, told.details, told.action) == (
        "There is no job 9.", {"n": 1}, Action("list_jobs"),
    )  # fmt: skip


UNAVAILABLE = {"status": "error", "code": "unavailable", "message": "The worker is down."}


@pytest.mark.parametrize(
    "failure",
    [(None, None), (503, UNAVAILABLE), (502, b"<html>Bad gateway</html>")],
    ids=["broken", "503", "502"],
)
def test_what_is_safe_is_tried_again(patient_client, server, failure):
    server.answers = [failure, failure, (200, {"status": "ok", "models": []})]
    assert patient_client.models() == []
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "call",
    [
        methodcaller("retrain"),
        methodcaller("start_retrain"),
        methodcaller("start_evaluation"),
        methodcaller("roll_back"),
        lambda client: client.delete_model(3),
        lambda client: client.set_policy({}),
    ],
)
def test_what_would_be_done_twice_is_not_tried_again(patient_client, server, call):
    server.answers = [(503, UNAVAILABLE)]
    with pytest.raises(UnavailableError, match="The worker is down"):
        call(patient_client)
    assert len(server.requests) == 1


def test_one_that_does_not_wait_for_a_server_tries_again_once_it_was_there(server, new_client):
    url = f"http://127.0.0.1:{server.server_port}"
    with new_client(url, retry_seconds=10.0, retry_first=False) as client:
        server.answers = [(200, {"status": "ok", "models": []})]
        assert client.models() == []
        server.answers = [(None, None), (200, {"status": "ok", "models": []})]
        assert client.models() == []
    with new_client(url, retry_seconds=10.0, retry_first=False) as client:
        server.answers = [(None, None)]
        asked = len(server.requests)
        with pytest.raises(UnavailableError, match="does not answer"):
            client.models()
        assert len(server.requests) == asked + 1


def test_tries_come_to_an_end(server, new_client):
    server.answers = [(503, UNAVAILABLE)]
    with (
        new_client(f"http://127.0.0.1:{server.server_port}", retry_seconds=1.5) as client,
        pytest.raises(UnavailableError, match="The worker is down"),
    ):
        client.models()
    assert len(server.requests) > 1


def test_a_server_that_is_not_there(server, new_client):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            new_client(url, retry_seconds=0.1) as client,
            pytest.raises(UnavailableError, match=f"^{url} does not answer"),
        ):
            client.models()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>Something else</html>"),
        (200, b"[1, 2]"),
        (200, {"status": "ok", "models": [{"version": 3}]}),
        (404, {"detail": "Not Found"}),
        (500, b""),
    ],
    ids=str,
)
def test_another_program_at_the_address_is_named(client, server, status, body):
    server.answers = [(status, body)]
    with pytest.raises(UnavailableError, match=f"answered {status} and not as Reckeeper does"):
        client.models()


def test_a_server_that_is_not_ready_says_so_without_an_error(client, server):
    body = {
        "status": "unavailable",
        "problems": ["The active version 3 cannot be loaded."],
        "model_version": None,
        "offer_version": 2,
    }
    server.answers = [(503, body)]
    assert client.ready() == wire.Readiness(**body)
    assert len(server.requests) == 1
    server.answers = [(503, UNAVAILABLE)]
    with pytest.raises(UnavailableError, match="The worker is down"):
        client.ready()


def test_a_slow_server_is_given_up(server, new_client):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            new_client(url, timeout_seconds=0.05, retry_seconds=0.1) as client,
            pytest.raises(UnavailableError, match="does not answer"),
        ):
            client.models()


# Who asks


def test_a_client_says_who_asks(server, new_client):
    with new_client(f"http://127.0.0.1:{server.server_port}", actor="page") as client:
        for caller in (client, client.as_actor("alice@example.org"), client):
            server.answers = [(200, {"status": "ok", "model": MODEL})]
            caller.activate(3)
    with new_client(f"http://127.0.0.1:{server.server_port}") as nobody:
        nobody.activate(3)
    names = [request.headers["X-Reckeeper-Actor"] for request in server.requests]
    assert names == ["page", "alice@example.org", "page", None]


# Files


BUNDLE = b"PK" + bytes(range(256)) * 10_000


def test_a_download_becomes_a_file(client, server, tmp_path):
    target = tmp_path / "bundle.zip"
    target.write_bytes(b"before")
    server.answers = [(200, BUNDLE)]
    assert client.download(3, target) == target
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/models/3/download")
    assert target.read_bytes() == BUNDLE
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_replaces_no_device_or_pipe(client, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match=r"pipe cannot be written: it is no regular file\."):
        client.download(3, pipe)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (
            (404, {"status": "error", "code": "not_found", "message": "No version 3."}),
            NotFoundError,
            "No version 3",
        ),
        ((503, UNAVAILABLE), UnavailableError, "The worker is down"),
        ((200, Cut(BUNDLE)), UnavailableError, "does not answer"),
    ],
    ids=["404", "503", "cut"],
)
def test_a_download_that_fails_leaves_what_was_there(
    client, server, tmp_path, answer, error, message
):
    target = tmp_path / "bundle.zip"
    target.write_bytes(b"before")
    server.answers = [answer]
    with pytest.raises(error, match=message):
        client.download(3, target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_breaks_is_begun_again(patient_client, server, tmp_path):
    server.answers = [(200, Cut(BUNDLE[:1000])), (200, BUNDLE)]
    assert patient_client.download(3, tmp_path / "bundle.zip").read_bytes() == BUNDLE
    assert len(server.requests) == 2


def test_a_file_that_cannot_be_is_named(client, server, tmp_path):
    server.answers = [(200, b"PK")]
    with pytest.raises(DataError, match=r"no-folder/bundle\.zip cannot be written"):
        client.download(3, tmp_path / "no-folder" / "bundle.zip")
    with pytest.raises(DataError, match=r"bundle\.zip cannot be read"):
        client.import_model(tmp_path / "bundle.zip")
    os.mkfifo(tmp_path / "pipe")  # to which nobody will ever write
    with pytest.raises(DataError, match="pipe is no file"):
        client.import_model(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is no file"):
        client.import_file(tmp_path / "pipe")


def test_an_import_sends_the_file_once(patient_client, server, tmp_path):
    path = tmp_path / "bundle.zip"
    path.write_bytes(BUNDLE)
    server.answers = [(200, {"status": "ok", "model": MODEL | {"version": 7}})]
    assert patient_client.import_model(path).version == 7
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/models/import")
    assert request.headers["Content-Type"] == "application/zip"
    assert request.raw == BUNDLE

    server.answers = [(503, UNAVAILABLE)]
    with pytest.raises(UnavailableError):
        patient_client.import_model(path)
    assert len(server.requests) == 2


# Streams


def states(*fractions, end=True):
    events = [
        f"event: job\ndata: {json.dumps(JOB | {'fraction': fraction})}\n\n: still here\n\n"
        for fraction in fractions
    ]
    return ("".join(events) + "event: end\ndata: {}\n\n" * end).encode()


def test_a_job_is_followed_to_its_end(client, server):
    server.answers = [(200, states(0.1, 0.5, 1.0))]
    assert [job.fraction for job in client.follow_job(4)] == [0.1, 0.5, 1.0]
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/jobs/4/stream")


@pytest.mark.parametrize("cut", [Cut, bytes], ids=["broken", "ended"])
def test_a_stream_that_breaks_is_opened_again(patient_client, server, cut):
    server.answers = [
        (200, cut(states(0.1, 0.5, end=False))),
        (None, None),
        (503, UNAVAILABLE),
        (200, states(0.7, 1.0)),
    ]
    followed = [job.fraction for job in patient_client.follow_job(4)]
    assert followed == [0.1, 0.5, 0.7, 1.0]
    assert len(server.requests) == 4


def test_a_stream_that_tells_nothing_is_given_up(client, server):
    for answer in ((200, b""), (200, Cut(b": still here\n\n")), (None, None), (503, UNAVAILABLE)):
        server.answers = [answer]
        with pytest.raises(UnavailableError):
            next(client.follow_job(4))
    server.answers = [(404, {"status": "error", "code": "not_found", "message": "No job 4."})]
    with pytest.raises(NotFoundError, match="No job 4"):
        next(client.follow_job(4))


def test_who_stops_following_lets_the_connection_go(client, server):
    server.answers = [(200, states(0.1, 0.5, 1.0)), (200, {"status": "ok", "job": JOB})]
    following = client.follow_job(4)
    assert next(following).fraction == 0.1
    following.close()
    assert client.job(4).job_id == 7


def test_a_password_is_sent_and_never_shown(new_client):
    with (
        new_client("http://ann:secret@127.0.0.1:9", retry_seconds=0) as client,
        pytest.raises(UnavailableError) as caught,
    ):
        client.models()
    assert caught.value.message.startswith("http://ann:***@127.0.0.1:9 does not answer")
    assert "secret" not in client.url


def test_what_is_no_bundle_is_not_kept(client, server, tmp_path):
    target = tmp_path / "bundle.zip"
    target.write_bytes(b"before")
    server.answers = [(200, b"<html>")]
    with pytest.raises(UnavailableError, match="not as Reckeeper does"):
        client.download(3, target)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_cannot_be_sent_is_bad_data(client, server, value):
    with pytest.raises(DataError, match="cannot be sent"):
        client.retrain(recipe="popularity", settings={"half_life_days": value})
    assert not server.requests


@pytest.mark.parametrize(
    ("call", "kind"), [("dismiss", "dismiss"), ("undo_dismiss", "dismiss_undo")]
)
def test_a_dismissal_is_an_interaction(client, server, call, kind):
    server.answers = [(200, ANSWERS[wire.SendAnswer].model_dump(mode="json"))]
    assert getattr(client, call)(ODD, "a/b") == ANSWERS[wire.SendAnswer]
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/user_interactions")
    (row,) = request.json
    assert row.pop("event_id")
    assert row == {"user_id": ODD, "item_id": "a/b", "interaction_type": kind}


# Its surface


def test_the_public_names():
    names = ["ACTOR_HEADER", "AsyncClient", "Client", "ImportOptions", "ItemRules", "ListRules"]
    assert reckeeper.client.__all__ == names
    methods = {name for name in dir(Client) if not name.startswith("_")}
    assert methods == {
        *("url", "close", "as_actor", "with_key"),
        *("access", "api_keys", "create_key", "revoke_key"),
        *("models", "model", "activate", "roll_back", "set_note", "pin", "unpin", "delete_model"),
        *("compare", "download", "import_model", "timeline"),
        *("recipes", "retrain", "start_retrain", "start_evaluation"),
        *("jobs", "job", "follow_job", "finish_job", "cancel_job"),
        *("policy", "set_policy", "policy_history", "audit", "verify_audit"),
        *("send", "interactions", "watchlist", "add_to_watchlist", "remove_from_watchlist"),
        *("dismiss", "undo_dismiss", "merge", "erase", "export_user", "erasure", "erasures"),
        *("latest_interactions", "interaction_summary", "dead_letters"),
        *("preview_import", "import_file", "imports", "import_status", "refused_rows"),
        "undo_import",
        *("items", "item", "similar", "similar_to"),
        *("put_item", "patch_item", "withdraw", "restore", "store_items"),
        "delete_item",
        *(
            "recommendations",
            "recommend_from",
            "recommend_to",
            "demo",
            "clear_demo",
            "ready",
            "is_live",
            "metrics",
        ),
    }


def test_both_clients_have_the_same_methods():
    def surface(client):
        methods = inspect.getmembers(client, lambda found: inspect.isfunction(found))
        return {
            name: (*inspect.signature(method).parameters.values(), inspect.getdoc(method))
            for name, method in methods
            if not name.startswith("_") and name != "follow_job"
        }

    assert surface(Client) == surface(AsyncClient)


def test_one_client_is_made_of_the_other():
    stale = [path.name for path, text in generate.made() if path.read_text("utf-8") != text]
    assert stale == [], "`python -m client.generate` writes them"


def test_a_transport_answers_in_place_of_a_server(new_client):
    def answer(request):
        assert str(request.url) == "http://anywhere/demo"
        return httpx.Response(200, json={"loaded": False, "interactions": 0, "sample_users": []})

    with new_client("http://anywhere", transport=httpx.MockTransport(answer)) as client:
        assert client.demo() == wire.Demo(loaded=False, interactions=0, sample_users=[])


def test_models_of_wire_are_sent_as_they_were_given(client, server):
    row = wire.Interaction(event_id="e", user_id="u", item_id=7, interaction_type="click")
    client.send([row])
    assert server.requests[-1].json == [
        {"event_id": "e", "user_id": "u", "item_id": 7, "interaction_type": "click"}
    ]
    server.answers = [(200, samples.revision())]
    stored = client.set_policy(wire.Policy(margin=0.1))
    assert server.requests[-1].json == wire.Policy(margin=0.1).model_dump(mode="json")
    assert stored.policy.webhook_secret == "***"


def test_an_import_brings_no_http():
    found = "import reckeeper.client, sys; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", found], check=True)
