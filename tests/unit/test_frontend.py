"""The pages, run by Streamlit's own test runner against a server that speaks the API."""

import functools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from tests import samples

from reckeeper import errors, wire
from reckeeper.errors import Action, PinnedError, ReckeeperError
from reckeeper.page import actions

# Each AppTest would read what every installed package says of itself, for most of its time.
manifest_scanner.scan_component_manifests = functools.cache(
    manifest_scanner.scan_component_manifests
)

HOME = Path(__file__).parents[2] / "frontend" / "Home.py"
RETRAIN = "🚀 Retrain Model"
COMPARE = "🔎 Compare recipes"
REASON = "Reason (optional)"
STOP = "Stop tuning, use the best so far"
JOBS, COMPARED = "Recent training jobs", "Recipes compared"
DETAILS, TIMELINE = "Details of the versions", "What was active when"
NO_WORSE = "No worse than version 1: NDCG@10 0.181 against 0.178."
WORSE = "Significantly worse than version 1: NDCG@10 0.120 against 0.178."
ODD_ID = "films/🎬 100%?#1"
RECIPES: list[dict[str, Any]] = [
    {
        "name": "svd",
        "summary": "The plain decomposition.",
        "decomposes": True,
        "settings": [{"name": "n_components", "default": 10, "help": "Singular vectors."}],
    },
    {
        "name": "popularity",
        "summary": "The same for everybody.",
        "decomposes": False,
        "settings": [{"name": "half_life_days", "default": None, "help": "Days, or null."}],
    },
    {
        "name": "spectral",
        "summary": "The tuned one.",
        "decomposes": True,
        "settings": [
            {"name": "weighting", "default": "binary", "help": "binary, log or raw."},
            {"name": "mixing", "default": 0.5, "help": "A number."},
            {"name": "is_cut", "default": True, "help": "true or false."},
        ],
    },
]
ROLES = ["viewer", "ingest", "recommend", "operator", "admin"]
POLICY: dict[str, Any] = wire.Policy(weights={"click": 1.0}).model_dump(mode="json")
TITLES = {"i1": "The *Quiet* Harbour", "i2": "Nine $5 Days", "i3": "Salt & Iron"}


class Api(ThreadingHTTPServer):
    """The API's answers, from state that a test sets."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.models: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []
        self.timeline: list[dict[str, Any]] = []
        self.rollback_version: int | None = None
        self.schedule: tuple[str, str] | None = None
        self.policy: dict[str, Any] = dict(POLICY)
        self.policy_source: dict[str, Any] = {"revision": 0, "source": "environment"}
        self.comparison: dict[str, Any] | None = None
        self.problems: list[str] = []
        self.offer_version: int | None = None
        self.has_worker = True
        self.refusal: ReckeeperError | None = None
        self.has_data = True
        self.requests: list[Any] = []
        self.demo: dict[str, Any] = {"loaded": False, "interactions": 0, "sample_users": []}
        self.interactions: dict[str, list[dict[str, Any]]] = {}
        self.attributes: dict[str, Any] = {"genres": "Comedy|Drama"}
        self.item_ids = ["i1", "i2", "i3", ODD_ID]
        self.seen_by_model: set[str] = set()
        self.calls: list[str] = []
        self.keys: dict[str, tuple[str, str]] = {}  # names and roles
        self.sent = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add_model(self, *, is_active: bool = True, **fields: Any) -> dict[str, Any]:
        version = len(self.models) + 1
        model = samples.details(version=version, **fields)
        self.models.insert(0, model)
        if is_active:
            self.serve(version)
        return model

    def serve(self, version: int, *, action: str = "promote", **more: Any) -> None:
        """Make a version active from now on; a roll back leads to the one that was."""
        active = self._active()
        self.rollback_version = None if active is None else active["version"]
        for model in self.models:
            model["status"] = "active" if model["version"] == version else "inactive"
            model["served"] |= model["version"] == version
        at = f"2025-12-04T23:{len(self.timeline):02d}:00.000000Z"
        if self.timeline:
            self.timeline[0]["until"] = at
        entry = samples.entry(
            entry_id=len(self.timeline) + 1,
            at=at,
            version=version,
            actor="api:page",
            **{"action": action, **more},
        )
        self.timeline.insert(0, entry)

    def add_job(self, **fields: Any) -> dict[str, Any]:
        job = samples.job(job_id=len(self.jobs) + 1, **fields)
        self.jobs.insert(0, job)
        return job

    def finish_job(
        self, *, promoted: bool | None = None, verdict: dict[str, Any] | None = None
    ) -> None:
        job = self.jobs[0]
        model = self.add_model(
            job_id=job["job_id"],
            trigger=job["trigger"],
            verdict=verdict,
            is_active=promoted is not False,
        )
        job |= {
            "promoted": promoted,
            "verdict": verdict,
            "status": "succeeded",
            "stage": "done",
            "fraction": 1.0,
            "seconds_left": None,
            "finished_at": "2025-12-04T23:42:15.300000Z",
            "version": model["version"],
        }

    def add_comparison(self, **fields: Any) -> dict[str, Any]:
        return self.add_job(
            kind="evaluate",
            status="succeeded",
            finished_at="2025-12-04T23:42:36.145920Z",
            result=compared(),
            **fields,
        )

    def fail_job(self, code: str, message: str, *, status: str = "failed") -> None:
        self.jobs[0] |= {
            "status": status,
            "finished_at": "2025-12-04T23:42:15.300000Z",
            "error": {"code": code, "message": message},
        }

    def answer(self, method: str, target: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.calls.append(f"{method} {target}")
        parts = urlsplit(target)
        path = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        name, role = self.keys.get(self.sent.removeprefix("Bearer "), (None, None))
        match method, *path:
            case "GET", "access":
                roles = ([role] if role else []) if self.keys else ROLES
                roles = {"admin": ROLES, "operator": ROLES[:4]}.get(role or "", roles)
                told = {"needs_key": bool(self.keys), "name": name, "role": role, "roles": roles}
                return 200, {"status": "ok", **told}
            case _ if self.keys and name is None:
                return _error(401, "unauthenticated", "The API key is not valid.")
            case "GET", "keys":
                return 200, {"status": "ok", "keys": [_key(*each) for each in self.keys.values()]}
            case "POST", "keys":
                secret = f"rk_{body['name']}"
                self.keys[secret] = (body["name"], body["role"])
                made = _key(body["name"], body["role"], expires_at=body.get("expires_at"))
                return 200, {"status": "ok", "key": made, "secret": secret}
            case "DELETE", "keys", key_id:
                role = self.keys.pop(f"rk_{key_id}")[1]
                return 200, {"status": "ok", "key": _key(key_id, role, state="revoked")}
            case "GET", "demo":
                return 200, {"status": "ok", **self.demo}
            case "DELETE", "demo":
                cleared = self.demo["interactions"]
                self.demo = {"loaded": False, "interactions": 0, "sample_users": []}
                self.models = [model for model in self.models if not model["is_demo"]]
                return 200, {"status": "ok", "interactions": cleared, "versions": [1]}
            case "GET", "health", "ready":
                return self._ready()
            case "GET", "models":
                return 200, {"status": "ok", "models": [_listed(model) for model in self.models]}
            case "POST", "models", "rollback":
                assert self.rollback_version is not None
                self.serve(self.rollback_version, action="rollback", reason=body.get("reason"))
                return 200, {"status": "ok", "model": self._active()}
            case "POST", "models", _version, "activate" if self.refusal is not None:
                return 409, wire.error_body(self.refusal).model_dump(mode="json")
            case "POST", "models", version, "activate":
                self.serve(int(version), action="activate", reason=body.get("reason"))
                self.problems, self.offer_version = [], None
                return 200, {"status": "ok", "model": self._active()}
            case (("POST" | "DELETE"), "models", version, "pin"):
                model = self._model(version)
                model["pinned"] = method == "POST"
                return 200, {"status": "ok", "model": model}
            case "DELETE", "models", version:
                model = self._model(version)
                if model["status"] == "active":
                    return _error(
                        409, "conflict", f"Version {version} is active: activate another."
                    )
                self.models.remove(model)
                return 200, {"status": "ok", "version": int(version)}
            case "GET", "models", _first, "compare", _second if self.comparison is None:
                return _error(404, "not_found", "There is no such version.")
            case "GET", "models", _first, "compare", _second:
                return 200, {"status": "ok", **self.comparison}
            case "GET", "timeline":
                entries = self.timeline[: int(query["limit"])]
                return 200, {
                    "status": "ok",
                    "timeline": entries,
                    "rollback_version": self.rollback_version,
                }
            case "GET", "policy":
                stored = {"updated_at": None, "actor": None, "reason": None} | self.policy_source
                return 200, {"status": "ok", "policy": self.policy, **stored}
            case "PUT", "policy":
                assert query["if_revision"] == str(self.policy_source["revision"])
                self.policy = body or {}
                self.policy_source = {
                    "revision": self.policy_source["revision"] + 1,
                    "source": "stored",
                    "updated_at": "2025-12-04T23:42:15.000000Z",
                    "actor": "api:anna",
                    "reason": query["reason"],
                }
                return 200, {"status": "ok", "policy": self.policy, **self.policy_source}
            case "GET", "recipes":
                return 200, {"status": "ok", "recipes": RECIPES}
            case "POST", "retrain" if query == {"wait": "false"}:
                return self._start("retrain", body or {})
            case "POST", "evaluations" if query == {"wait": "false"}:
                return self._start("evaluate", {})
            case "GET", "jobs":
                schedule, next_at = self.schedule or (None, None)
                return 200, {
                    "status": "ok",
                    "jobs": [
                        {name: value for name, value in job.items() if name != "result"}
                        for job in self.jobs[: int(query["limit"])]
                    ],
                    "schedule": schedule,
                    "next_scheduled_at": next_at,
                }
            case "GET", "jobs", job_id:
                job = next(job for job in self.jobs if job["job_id"] == int(job_id))
                return 200, {"status": "ok", "job": job}
            case "POST", "jobs", job_id, "finish":
                job = next(job for job in self.jobs if job["job_id"] == int(job_id))
                if job["stage"] != "tuning":
                    return _error(409, "conflict", f"Job {job_id} tunes nothing.")
                job["finish_requested"] = True
                return 200, {"status": "ok", "job": job}
            case "POST", "jobs", job_id, "cancel":
                job = next(job for job in self.jobs if job["job_id"] == int(job_id))
                if job["status"] != "running":
                    return _error(409, "conflict", f"Job {job_id} has ended already.")
                job["cancel_requested"] = True
                return 200, {"status": "ok", "job": job}
            case "POST", "user_interactions":
                for row in body:
                    self._append(row["user_id"], row["item_id"], row["interaction_type"])
                return 200, {"status": "ok", "accepted": len(body), "duplicates": 0}
            case "GET", "user_interactions", user_id:
                rows = self.interactions.get(user_id, [])[: int(query["n"])]
                return 200, {"status": "ok", "user_id": user_id, "interactions": rows}
            case "GET", "watchlist", user_id:
                return 200, {"status": "ok", "user_id": user_id, "items": self._watchlist(user_id)}
            case (("POST" | "DELETE"), "watchlist", user_id, item_id):
                kind = "watchlist_add" if method == "POST" else "watchlist_remove"
                self._append(user_id, item_id, kind)
                return 200, {"status": "ok", "accepted": 1, "duplicates": 0}
            case "GET", "recommendations", user_id:
                return self._recommend(user_id, n=int(query["n"]))
        return _error(404, "not_found", f"{method} {target}: Not Found. /docs lists the routes.")

    def _model(self, version: str) -> dict[str, Any]:
        return next(model for model in self.models if model["version"] == int(version))

    def _active(self) -> dict[str, Any] | None:
        return next((model for model in self.models if model["status"] == "active"), None)

    def _ready(self) -> tuple[int, dict[str, Any]]:
        active = self._active()
        return (503 if self.problems else 200), {
            "status": "unavailable" if self.problems else "ok",
            "problems": self.problems,
            "model_version": None if self.problems or active is None else active["version"],
            "offer_version": self.offer_version,
        }

    def _start(self, kind: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests.append(request)
        running = next((job for job in self.jobs if job["status"] == "running"), None)
        if not self.has_worker:
            return _error(503, "unavailable", "The worker does not answer: nothing was trained.")
        if running is not None:
            details = {"job_id": running["job_id"], "kind": running["kind"]}
            return _error(409, "job_running", "A job runs already.", details=details)
        if not self.has_data:
            return _error(409, "not_enough_data", "There are no interactions to train on.")
        return 202, {"status": "ok", "job": self.add_job(kind=kind, request=request)}

    def _append(self, user_id: str, item_id: str, interaction_type: str) -> None:
        rows = self.interactions.setdefault(user_id, [])
        rows.insert(
            0,
            {
                "event_id": f"e{len(rows)}",
                "item_id": item_id,
                "title": TITLES.get(item_id),
                "interaction_type": interaction_type,
                "weight": 1.0,
                "occurred_at": "2025-12-04T23:42:15.000000Z",
            },
        )

    def _watchlist(self, user_id: str) -> list[dict[str, Any]]:
        listed: dict[str, dict[str, Any]] = {}
        for row in reversed(self.interactions.get(user_id, [])):
            listed.pop(row["item_id"], None)
            if row["interaction_type"] == "watchlist_add":
                listed[row["item_id"]] = {
                    "item_id": row["item_id"],
                    "title": row["title"],
                    "attributes": {},
                    "added_at": row["occurred_at"],
                }
        return list(reversed(listed.values()))

    def _recommend(self, user_id: str, *, n: int) -> tuple[int, dict[str, Any]]:
        active = self._active()
        if active is None and self.problems:
            return _error(503, "no_model", self.problems[0])
        history = self.interactions.get(user_id, [])
        in_model = user_id in self.seen_by_model and active is not None
        strategy = (
            "popular"
            if active is None
            else "fold_in"
            if history
            else "model"
            if in_model
            else "popular"
        )
        seen = {row["item_id"] for row in history}
        unseen = [item_id for item_id in self.item_ids if item_id not in seen][:n]
        return 200, {
            "status": "ok",
            "user_id": user_id,
            "model_version": None if active is None else active["version"],
            "strategy": strategy,
            "items": [
                {
                    "rank": rank,
                    "item_id": item_id,
                    "score": 10.0 / rank,
                    "title": TITLES.get(item_id),
                    "attributes": self.attributes if item_id in TITLES else {},
                    "reasons": [
                        {"item_id": row["item_id"], "title": row["title"], "contribution": share}
                        for row, share in zip(history, (2.0, -0.25), strict=False)
                    ],
                    "rest": 10.0 / rank - 1.75 if len(history) > 1 else 0.0,
                }
                for rank, item_id in enumerate(unseen, start=1)
            ],
            "request_id": "6d1b4f0e-5a53-4f8b-9d53-0d5f3fd0b7c1",
            "generated_at": "2025-12-04T23:42:15.000000Z",
        }


def _listed(model: dict[str, Any]) -> dict[str, Any]:
    return samples.model(
        **{name: model[name] for name in wire.Model.model_fields if name != "verdict"},
        verdict=model["verdict"],
    )


ADVICE = "spectral (tuned) is better than the active one, svd: NDCG@10 0.210 against 0.100."
MADE_ON = "each interaction from 2025-11-01 12:00 UTC on, from the history just before it"


def compared(**fields: Any) -> dict[str, Any]:
    """Return what a comparison of three recipes gives; spectral is ahead, and svd is active."""
    means = {"popularity": 0.12, "svd": 0.10, "spectral (tuned)": 0.21}

    def measured(name: str, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
        mean = means[name]
        figure = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        return samples.measured(
            name.split()[0],
            name=name,
            settings=settings,
            metrics=dict.fromkeys(samples.METRICS, figure)
            | {"hit_rate@10": {"mean": 0.6 - mean, "low": 0.3, "high": 0.7}}
            | samples.OF_LISTS,
            versus={
                other: samples.beside(mean - theirs, standing(name, other))
                for other, theirs in means.items()
                if other != name
            },
            **more,
        )

    def standing(name: str, other: str) -> str:
        if name == "spectral (tuned)":
            return "better"
        return "too_few" if name == "popularity" and other == "svd" else "worse"

    recipes = [
        measured("popularity", {"half_life_days": None}),
        measured("svd", {"n_components": 10}, version=1),
        measured(
            "spectral (tuned)",
            {"weighting": "log", "mixing": 0.25, "is_cut": True},
            tuned=True,
            tune_seconds=9.4,
        ),
    ]
    advice = {"use": "spectral (tuned)", "sentence": ADVICE}
    return samples.evaluation(
        *recipes, **{"how": MADE_ON, "active_version": 1, "advice": advice, **fields}
    )


def judged(
    decision: str = "promote", *, gain: float = 0.003, reasons: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a verdict whose candidate is ahead of version 1 by `gain`."""
    score = {"ndcg@10": {"mean": 0.178, "low": 0.172, "high": 0.184}}
    ahead = {"ndcg@10": {"difference": gain, "low": gain - 0.005, "high": gain + 0.005}}
    fields = {
        "decision": decision,
        "standing": "better" if gain > 0.005 else "worse" if gain < -0.005 else "no_worse",
        "sentence": NO_WORSE if decision == "promote" else WORSE,
        "reasons": reasons or [],
        **dict.fromkeys(("candidate", "active", "popularity"), score),
        **dict.fromkeys(("versus_active", "versus_popularity"), ahead),
    }
    return samples.verdict(**fields | more)


def rejected(*, is_active: bool) -> dict[str, Any]:
    became = (
        {
            "disposition": "activated",
            "outcome": "Version 2 is active, as the policy has it for this kind of retrain.",
            "action": {"name": "roll_back"},
        }
        if is_active
        else {
            "disposition": "rejected",
            "outcome": "Version 2 was rejected and is not active.",
            "action": {"name": "activate", "version": 2},
        }
    )
    return judged("reject", gain=-0.058, reasons=[WORSE, "Coverage fell."], **became)


def _key(name: str, role: str, **fields: Any) -> dict[str, Any]:
    times = dict.fromkeys(("expires_at", "revoked_at", "revoked_by", "last_used_at"))
    told = {"key_id": name, "name": name, "role": role, "state": "active", "rate_limit": None}
    made = {"created_at": "2025-12-04T23:42:15Z", "created_by": "cli"}
    return {**told, **made, **times, **fields}


def _error(status: int, code: str, message: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return status, wire.Error(code=code, message=message, **more).model_dump(mode="json")


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def _handle(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.sent = self.headers.get("Authorization", "")
        status, body = self.server.answer(
            self.command, self.path, json.loads(text) if text else None
        )
        answer = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        api.shutdown()
        thread.join()
        api.server_close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with serving(Api()) as api:
        monkeypatch.setenv("RECKEEPER_SERVER_URL", api.url)
        yield api
    st.cache_resource.clear()


def opened(page: str = "Home.py", **context: str) -> AppTest:
    """Run a page as Streamlit does: by Home.py, whose folder the pages import from."""
    at = AppTest.from_file(HOME, default_timeout=30)
    at.context = {"timezone": "Europe/Berlin", **context}
    return run(at.switch_page(page) if page != "Home.py" else at)


def model_management() -> AppTest:
    return opened("pages/2_Model_Management.py")


def recommendations(user_id: str = "") -> AppTest:
    at = opened("pages/1_Recommendations.py")
    return run(at.text_input(key="user_id").set_value(user_id)) if user_id else at


def run(runnable: Any) -> AppTest:
    at: AppTest = runnable.run()
    assert [exception.value for exception in at.exception] == []
    return at


def press(at: AppTest, label: str) -> AppTest:
    [button] = [button for button in at.button if button.label == label]
    assert not button.disabled
    return run(button.click())


def read(elements: Any) -> list[str]:
    """Return texts as a reader sees them, without Markdown's escapes."""
    return [plain(element.value) for element in elements]


def plain(text: str) -> str:
    for shown, meant in {"\\": "", "\N{NO-BREAK SPACE}": " ", "\N{MINUS SIGN}": "-"}.items():
        text = text.replace(shown, meant)
    return text


def metrics(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def rows(at: AppTest, alt: str = "Model versions") -> list[dict[str, Any]]:
    [frame] = [table.value for table in at.table if table.proto.alt == alt]
    return [
        {
            str(name): plain(value) if isinstance(value, str) else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]


# Model Management


def test_models_are_listed_with_the_statistics_of_the_active_one(api: Api) -> None:
    api.add_model(n_users=2000, explained_variance="31.07%", trigger="schedule")
    api.add_model()
    at = model_management()
    assert at.title[0].value == "Model Management"
    assert metrics(at) == {
        "Users": "6",
        "Items": "12",
        "Explained variance": "98.90%",
        "Trained on": "2025-12-05 00:42",
    }
    assert "Version 2 · recipe svd (n_components=10) · times are in Europe/Berlin" in read(
        at.caption
    )
    assert rows(at)[0] == {
        "Version": 2,
        "Status": ":green-badge[🟢 active]",
        "Recipe": "svd",
        "Verdict": "–",
        "NDCG@10": "–",
        "Hit rate@10": "–",
        "Over popularity": "–",
        "Over the one before": "–",
        "Users": 6,
        "Items": 12,
        "Explained variance": 98.9,
        "Trained on": "2025-12-05 00:42:15",
    }
    inactive = rows(at)[1]
    assert (inactive["Version"], inactive["Status"]) == (1, ":gray-badge[⚪ inactive]")
    assert inactive["Users"] == 2000


@pytest.mark.parametrize("timezone", ["Etc/Unknown", "../nonsense"])
def test_a_time_zone_that_is_not_known_is_utc(api: Api, timezone: str) -> None:
    api.add_model()
    at = opened("pages/2_Model_Management.py", timezone=timezone)
    assert metrics(at)["Trained on"] == "2025-12-04 23:42"
    assert any("times are in UTC" in text for text in read(at.caption))


def test_a_retrain_shows_its_progress_then_its_outcome_until_the_next_action(api: Api) -> None:
    api.add_model()
    at = press(model_management(), RETRAIN)
    [progress] = at.progress
    assert progress.value == 25
    assert plain(progress.text) == (
        "**Reading interactions** · 25% · 1.0 s elapsed · about 3.0 s left · job 1, by hand"
    )
    [button] = [button for button in at.button if button.label == RETRAIN]
    assert button.disabled

    api.jobs[0] |= {"stage": "some_later_stage", "fraction": 0.6, "seconds_left": None}
    [progress] = run(at).progress
    assert plain(progress.text) == ("**Some later stage** · 60% · 1.0 s elapsed · job 1, by hand")

    api.finish_job()
    at = run(at)
    assert not at.progress
    message, details = at.success[0].value.split("\n\n")
    assert message == "Model retrained in 2.3s - 56193 samples, 98.90% variance explained"
    assert details == (
        "Version **2** · **56,193** samples · **6** users · **12** items · "
        "**98.90%** explained variance"
    )
    assert [row["Version"] for row in rows(at)] == [2, 1]
    assert run(at).success, "the outcome survives a rerun"
    assert not press(at, RETRAIN).success


def test_the_outcome_does_not_follow_to_another_page_and_back(api: Api) -> None:
    at = press(model_management(), RETRAIN)
    api.finish_job()
    assert run(at).success
    at = run(at.switch_page("pages/1_Recommendations.py"))
    assert not at.success
    assert not run(at.switch_page("pages/2_Model_Management.py")).success


def test_a_running_job_of_another_is_joined_when_the_page_opens(api: Api) -> None:
    api.add_job(trigger="schedule")
    at = model_management()
    assert "job 1, by schedule" in at.progress[0].text
    api.finish_job()
    assert "Model retrained in 2.3s" in run(at).success[0].value


def test_a_job_that_another_started_meanwhile_is_joined_by_the_button(api: Api) -> None:
    at = model_management()
    api.add_job(trigger="schedule")
    at = press(at, RETRAIN)
    assert read(at.info)[-1] == "A retrain was already running: this is its progress."
    assert at.progress[0].value == 25
    api.finish_job()
    at = run(at)
    assert at.success
    assert not at.info


@pytest.mark.parametrize(
    ("code", "kind"), [("training_failed", "error"), ("not_enough_data", "warning")]
)
def test_a_failed_job_says_why(api: Api, code: str, kind: str) -> None:
    at = press(model_management(), RETRAIN)
    api.fail_job(code, "Signal 9. Give it `more` memory_now.")
    at = run(at)
    assert read(at.get(kind)) == ["Signal 9. Give it `more` memory_now."]
    assert not at.success
    [job] = rows(at, JOBS)
    assert job["Outcome"] == "Signal 9. Give it `more` memory_now."


def test_too_little_data_is_said_plainly(api: Api) -> None:
    api.has_data = False
    at = press(model_management(), RETRAIN)
    assert read(at.warning) == ["There are no interactions to train on."]


def test_without_a_worker_the_list_stays(api: Api) -> None:
    api.add_model()
    api.has_worker = False
    at = press(model_management(), RETRAIN)
    assert read(at.error) == ["The worker does not answer: nothing was trained."]
    assert [row["Version"] for row in rows(at)] == [1]


def test_the_next_scheduled_retrain_is_told_in_local_time(api: Api) -> None:
    assert any("RECKEEPER_RETRAIN_SCHEDULE" in text for text in read(model_management().markdown))
    api.schedule = ("0 3 * * 0", "2025-12-07T03:00:00.000000Z")
    words = "Next scheduled retrain: **2025-12-07 04:00** (Europe/Berlin), by `0 3 * * 0`"
    assert f":small[{words}]" in read(model_management().markdown)


def test_a_damaged_active_version_can_be_replaced_by_the_offered_one(api: Api) -> None:
    api.add_model()
    api.add_model()
    api.problems = ["The active version 2 cannot be loaded. Version 1 is sound."]
    api.offer_version = 1
    at = model_management()
    assert read(at.warning) == api.problems
    at = press(at, "Activate version 1")
    assert not at.warning
    assert rows(at)[1]["Status"] == ":green-badge[🟢 active]"
    assert read(at.toast) == ["Version 1 is active."]


def test_recent_jobs_are_listed(api: Api) -> None:
    api.add_job()
    api.finish_job()
    api.add_job()
    at = model_management()
    assert [(job["Job"], job["Status"], job["Outcome"]) for job in rows(at, JOBS)] == [
        (2, ":blue-badge[🔵 running]", ""),
        (1, ":green-badge[🟢 succeeded]", "Version 1"),
    ]


def test_what_each_job_was_for_is_listed(api: Api) -> None:
    api.add_job(request={"recipe": "spectral", "tune": True}, status="succeeded", version=3)
    api.add_comparison()
    assert [(job["What"], job["Outcome"]) for job in rows(model_management(), JOBS)] == [
        ("comparison", "Recipes compared"),
        ("tuned retrain", "Version 3"),
    ]


def test_the_details_of_each_version_are_listed(api: Api) -> None:
    api.add_model(recipe="popularity", settings={"half_life_days": None}, trigger="schedule")
    api.add_model(recipe="spectral", settings={"mixing": 1.0, "filter": "sum", "n_neighbours": 9})
    at = model_management()
    assert [row["Recipe"] for row in rows(at)] == ["spectral", "popularity"]
    assert rows(at, "Details of the versions") == [
        {
            "Version": 2,
            "Recipe": "spectral",
            "Trigger": "by hand",
            "Took": 2.3,
            "Interactions": 56193,
            "Settings": "mixing=1, filter=sum, n_neighbours=9",
            "Verdict": "–",
            "Note": "",
        },
        {
            "Version": 1,
            "Recipe": "popularity",
            "Trigger": "by schedule",
            "Took": 2.3,
            "Interactions": 56193,
            "Settings": "half_life_days=null",
            "Verdict": "–",
            "Note": "",
        },
    ]


# Verdicts, and switching


def retrained(api: Api, **outcome: Any) -> AppTest:
    """Activate version 1, and the page show how the retrain by hand of version 2 ended."""
    api.add_model()
    at = press(model_management(), RETRAIN)
    api.finish_job(**outcome)
    return run(at)


def badges(at: AppTest) -> list[str]:
    return [re.sub(r":\w+-badge\[(.*)\]", r"\1", row["Verdict"]) for row in rows(at)]


def test_a_good_verdict_is_part_of_the_success(api: Api) -> None:
    at = retrained(api, promoted=True, verdict=judged(warnings=["Users fell by half."]))
    [said] = read(at.success)
    assert said.startswith("Model retrained in 2.3s - 56193 samples")
    assert said.endswith(f"{NO_WORSE}\n\n- Users fell by half.")
    assert not at.warning
    assert not [info.value for info in at.info]


def test_a_bad_verdict_is_a_warning_with_a_way_back(api: Api) -> None:
    at = retrained(api, promoted=True, verdict=rejected(is_active=True))
    assert "Model retrained in" in at.success[0].value
    [said] = read(at.warning)
    done = "Version 2 is active, as the policy has it for this kind of retrain."
    assert said == f"**{done}** {WORSE}\n\n- Coverage fell."
    assert read(model_management().warning) == [said], "whoever comes later sees it too"

    at = run(at.button(key="Roll back to version 1 verdict").click())
    assert "POST /models/rollback" in api.calls
    assert read(at.toast) == ["Version 1 is active again."]
    assert not at.warning
    assert [row["Status"] for row in rows(at)] == [
        ":gray-badge[⚪ inactive]",
        ":green-badge[🟢 active]",
    ]


def test_an_inactive_version_says_why_and_can_be_activated(api: Api) -> None:
    at = retrained(api, promoted=False, verdict=rejected(is_active=False))
    [said] = read(at.info)
    assert said.startswith(f"**Version 2 was rejected and is not active.** {WORSE}")
    assert "POST" not in said
    assert not at.warning

    run(at.text_input(key="verdict_reason").set_value("The test set is *odd*."))
    at = press(at, "Activate version 2")
    assert (api.timeline[0]["version"], api.timeline[0]["reason"]) == (2, "The test set is *odd*.")
    assert read(at.toast) == ["Version 2 is active."]
    assert not [info.value for info in at.info]


def test_a_refusal_has_a_button_for_what_to_do_next(api: Api) -> None:
    api.add_model()
    api.add_model(pinned=True)
    api.refusal = PinnedError("Version 2 is pinned.", action=Action("unpin", {"version": 2}))
    at = press(model_management(), "Activate")
    assert read(at.error) == ["Version 2 is pinned."], "the page words the rest"
    api.refusal = None
    at = press(at, "Unpin version 2")
    assert "DELETE /models/2/pin" in api.calls
    assert read(at.toast) == ["Version 2 is not pinned."]
    assert not at.error


def test_the_page_has_words_for_every_action() -> None:
    assert actions.ACTIONS.keys() == {*errors.ACTION_NAMES}


def test_an_older_verdict_is_no_longer_urged(api: Api) -> None:
    at = retrained(api, promoted=False, verdict=rejected(is_active=False))
    at = press(at, RETRAIN)
    api.finish_job(promoted=True, verdict=judged())
    assert not run(at).info


@pytest.mark.parametrize(
    ("verdict", "badge"),
    [
        (None, "–"),
        (judged(), "no worse"),
        (judged(gain=0.03), "better"),
        (judged("reject", gain=-0.06), "worse"),
        (judged("reject", reasons=["Coverage fell."]), "rejected"),
        (judged(standing="slightly_worse"), "slightly worse"),
        (judged(standing="not_compared", method="none", versus_active=None), "not compared"),
        (judged(standing="too_few"), "too few to tell"),
        (judged(standing="not_compared", versus_active=None), "not compared"),
    ],
)
def test_the_verdict_is_a_badge_in_the_table(
    api: Api, verdict: dict[str, Any] | None, badge: str
) -> None:
    at = retrained(api, promoted=True, verdict=verdict)
    assert badges(at) == [badge, "–"]
    found = "–" if verdict is None else verdict["sentence"]
    assert [row["Verdict"] for row in rows(at, DETAILS)] == [found, "–"]


def test_a_version_is_shown_by_segment_beside_the_active_one(api: Api) -> None:
    at = retrained(api, promoted=True, verdict=judged())
    [shown] = [part for part in at.expander if "by segment" in part.label]
    assert shown.label == "Version 2 beside version 1, by segment"
    [row] = rows(at, shown.label)
    assert (row["Segment"], row["Users"]) == ("1-4 items in the history", 310)
    assert row["Difference"] == "+0.001 (-0.004 to +0.006)"
    alone = retrained(api, promoted=True, verdict=judged(segments=[]))
    assert not [part for part in alone.expander if "by segment" in part.label]


def test_quality_pin_and_note_are_in_the_tables(api: Api) -> None:
    ndcg = {"ndcg@10": {"mean": 0.1778, "low": 0.172, "high": 0.184}}
    api.add_model(metrics=ndcg, note="For the *autumn*", pinned=True)
    api.add_model(pinned=True, pinned_until="2026-01-31T12:00:00Z")
    newer, older = rows(model_management())
    assert older["NDCG@10"] == "0.178 ± 0.006"
    assert newer["NDCG@10"] == "–"
    assert older["Status"] == ":gray-badge[⚪ inactive] 📌"
    newer, older = rows(model_management(), DETAILS)
    assert older["Note"] == "For the *autumn* · 📌 pinned"
    assert newer["Note"] == "📌 pinned until 2026-01-31 13:00"


def test_a_roll_back_is_one_click_and_says_where_it_leads(api: Api) -> None:
    api.add_model()
    [button] = [button for button in model_management().button if button.label == "Roll back"]
    assert button.disabled
    api.add_model()
    at = model_management()
    run(at.text_input(key="switch_reason").set_value("  Clicks fell. "))
    at = press(at, "Roll back to version 1")
    assert (api.timeline[0]["action"], api.timeline[0]["reason"]) == ("rollback", "Clicks fell.")
    assert read(at.toast) == ["Version 1 is active again."]
    assert at.text_input(key="switch_reason").value == "", "a reason is for one switch"
    assert rows(at, TIMELINE) == [
        {
            "Version": "1",
            "From": "2025-12-05 00:02:00",
            "Until": "now",
            "By": "api:page",
            "Why": "rolled back: Clicks fell.",
        },
        {
            "Version": "2",
            "From": "2025-12-05 00:01:00",
            "Until": "2025-12-05 00:02:00",
            "By": "api:page",
            "Why": "promoted after its training",
        },
        {
            "Version": "1",
            "From": "2025-12-05 00:00:00",
            "Until": "2025-12-05 00:01:00",
            "By": "api:page",
            "Why": "promoted after its training",
        },
    ]


@pytest.mark.parametrize("leads_to", [None, 1, 2])
def test_a_roll_back_leads_where_the_server_says(api: Api, leads_to: int | None) -> None:
    for _ in range(3):
        api.add_model()
    api.rollback_version = leads_to
    [label] = [b.label for b in model_management().button if b.label.startswith("Roll back")]
    assert label == ("Roll back" if leads_to is None else f"Roll back to version {leads_to}")


def test_a_chosen_version_is_activated(api: Api) -> None:
    for _ in range(3):
        api.add_model()
    at = model_management()
    assert at.selectbox(key="switch_version").value == 2
    at.selectbox(key="switch_version").set_value(1)
    at = press(at, "Activate")  # … before the page has run again
    assert read(at.toast) == ["Version 1 is active."]
    assert rows(at)[2]["Status"] == ":green-badge[🟢 active]"
    [button] = [button for button in at.button if button.label == "Activate"]
    assert button.disabled, "it is active already"


def test_a_version_is_pinned_unpinned_and_deleted(api: Api) -> None:
    api.add_model()
    api.add_model()
    at = press(model_management(), "Pin")
    assert read(at.toast) == ["Version 1 is pinned."]
    assert rows(at)[1]["Status"].endswith("📌")
    at = press(at, "Unpin")
    assert read(at.toast) == ["Version 1 is not pinned."]
    at = press(at, "Delete version 1")
    assert read(at.toast) == ["Version 1 is deleted."]
    assert [row["Version"] for row in rows(at)] == [2]
    assert at.selectbox(key="switch_version").value == 2


def test_a_switch_that_is_refused_says_so_where_it_was_asked(api: Api) -> None:
    api.add_model()
    api.add_model()
    at = model_management()
    api.serve(1)
    at = press(at, "Delete version 1")
    assert read(at.error) == ["Version 1 is active: activate another."]


def test_two_versions_are_compared(api: Api) -> None:
    def side(version: int, **fields: Any) -> dict[str, Any]:
        return samples.comparison()["first"] | {
            "version": version,
            "n_users": 671,
            "n_items": 6170,
            "explained_variance": "24.67%",
            "metrics": {"ndcg@10": {"mean": 0.178, "low": 0.172, "high": 0.184}},
            **fields,
        }

    api.add_model()
    api.add_model()
    at = model_management()
    assert not any("compare/" in call for call in api.calls), "only who asks waits for it"
    at = press(at, "Compare versions")
    assert read(at.error) == ["There is no such version."]

    api.comparison = samples.comparison(
        first=side(2, data={"weights": {"click": 1.0}, "half_life_days": 30.0}, metrics=None),
        second=side(1, recipe="spectral"),
        settings=[{"name": "n_components", "first": 10, "second": None}],
        k=10,
        n_users=2000,
        users={"both": 2300, "only_first": 3, "only_second": 0},
        sentence="On 2,000 of the 2,300 users the lists of 10 have 62.0% in common.",
        overlap={"mean": 0.62, "low": 0.6, "high": 0.64},
        most_changed=[
            {"user_id": "u*1", "overlap": 0.0, "first": list("abcdefg"), "second": ["x", "y"]},
            {"user_id": "u2", "overlap": 1.0, "first": ["a"], "second": ["a"]},
        ],
        exposure={"gained": [{"item_id": ODD_ID, "first": 0.1, "second": 0.25}], "lost": []},
        coverage={"first": 0.31, "second": 0.12},
        popularity={"first": 0.08, "second": 0.13},
    )
    at = press(at, "Compare versions")
    assert api.calls.count("GET /models/2/compare/1?k=10&users=2000") == 2
    assert (
        "On 2,000 of the 2,300 users the lists of 10 have 62.0% in common. The 95% interval is "
        "60.0% to 64.0%."
    ) in read(at.markdown)
    assert [tuple(row.values()) for row in rows(at, "Two versions side by side")] == [
        ("Recipe", "svd", "spectral"),
        ("Interactions", "56,193", "56,193"),
        ("Users", "671", "671"),
        ("Items", "6,170", "6,170"),
        ("Explained variance", "24.67%", "24.67%"),
        ("n_components", "10", "null"),
        ("half_life_days", "30", "null"),
        ("NDCG@10", "–", "0.178 (0.172 to 0.184)"),
        ("Items in anybody's list", "31.0%", "12.0%"),
        ("Users who have a listed item, on average", "8.0%", "13.0%"),
    ]
    assert [tuple(row.values()) for row in rows(at, "Users whose lists change most")] == [
        ("u*1", "0%", "a, b, c, d, e, and 2 more", "x, y"),
        ("u2", "100%", "none", "none"),
    ]
    assert [tuple(row.values()) for row in rows(at, "Items that gain")] == [
        (ODD_ID, "10.0%", "25.0%")
    ]
    assert "None." in read(at.caption)
    assert rows(run(at), "Two versions side by side"), "it survives a rerun"
    at = run(at.selectbox(key="second_version").set_value(2))
    assert not [table for table in at.table if table.proto.alt == "Two versions side by side"]

    at = run(at.selectbox(key="second_version").set_value(1))
    sentence = "Versions 2 and 1 have no user in common."
    api.comparison |= {"overlap": None, "coverage": None, "popularity": None, "most_changed": []}
    api.comparison |= {"sentence": sentence}
    at = press(at, "Compare versions")
    assert sentence in read(at.markdown)


# Policy


def policy_line(at: AppTest) -> str:
    [line] = [text for text in read(at.markdown) if "Retrains start" in text]
    return line.removeprefix(":small[").removesuffix("]")


def test_the_policy_is_told_in_a_line(api: Api) -> None:
    assert policy_line(model_management()) == (
        "Retrains start by hand; what is trained by hand always becomes active. A retrain "
        "by hand with another recipe, settings or tuning must pass the gate first. This policy "
        "comes from the environment; `reckeeper policy set` changes it."
    )
    api.policy |= {
        "schedule": "0 3 * * 0",
        "timezone": "Europe/Berlin",
        "every_interactions": 1000,
        "max_age_hours": 24.0,
    }
    api.policy_source = {
        "revision": 3,
        "source": "stored",
        "updated_at": "2025-12-04T23:42:13.000000Z",
        "actor": "api:anna",
    }
    at = model_management()
    assert policy_line(at) == (
        "Retrains start by hand, by the schedule `0 3 * * 0` (Europe/Berlin), after **1,000** new "
        "interactions or **24** hours after the last; what is trained by hand always becomes "
        "active; what is trained by schedule or by rule becomes active if it passes the gate. "
        "A retrain by hand with another recipe, settings or tuning must pass the gate first. "
        "Stored policy, revision 3, by api:anna at 2025-12-05 00:42: it is in force, and the "
        "environment's settings do not count."
    )
    assert not any("RECKEEPER_RETRAIN_SCHEDULE" in text for text in read(at.markdown))
    api.policy |= {"promotion": {"manual": "gate", "schedule": "manual", "rule": "gate"}}
    assert (
        "what is trained by hand or by rule becomes active if it passes the gate; what is trained "
        "by schedule becomes active when somebody activates it."
    ) in policy_line(model_management())


# Jobs that are cancelled, or end without a version


def test_a_job_tells_its_cause_and_its_memory_and_is_cancelled(api: Api) -> None:
    cause = {"rule": "every_interactions", "n": 1043, "sentence": "1,043 new *interactions*."}
    api.add_job(trigger="rule", cause=cause, stage="judging", estimated_memory_bytes=1_600_000_000)
    at = model_management()
    assert at.progress[0].text.startswith("**Judging against the active version** · 25%")
    background = ":small[1,043 new *interactions*. · Memory: about 1.6 GB may be needed]"
    assert background in read(at.markdown)
    api.jobs[0]["memory_bytes"] = 412_300_000
    at = run(at)
    assert any(
        "Memory: **412 MB** of about 1.6 GB that it may need" in text for text in read(at.markdown)
    )

    at = press(at, "Cancel")
    assert "POST /jobs/1/cancel" in api.calls
    assert ":small[The job is being cancelled.]" in read(at.markdown)
    assert "Cancel" not in {button.label for button in at.button}

    words = "Training job 1 was cancelled; the active version stays active."
    api.fail_job("cancelled", words, status="cancelled")
    at = run(at)
    assert words in read(at.info)
    assert not at.error
    [job] = rows(at, JOBS)
    assert (job["Status"], job["Trigger"], job["Outcome"]) == (
        ":gray-badge[⚪ cancelled]",
        "1,043 new *interactions*.",
        words,
    )
    assert metrics(opened())["Last retrain"] == "⚪ Cancelled"


def test_a_job_that_has_just_ended_needs_no_cancel(api: Api) -> None:
    api.add_model()
    api.add_job()
    at = model_management()
    api.finish_job()
    at = press(at, "Cancel")
    assert not at.error
    assert "Model retrained in" in at.success[0].value


def test_an_interrupted_job_is_a_warning(api: Api) -> None:
    at = press(model_management(), RETRAIN)
    api.fail_job("interrupted", "Its worker was silent.", status="interrupted")
    at = run(at)
    assert read(at.warning) == ["Its worker was silent."]
    assert rows(at, JOBS)[0]["Status"] == ":orange-badge[🟠 interrupted]"


def test_a_cancelled_comparison_is_no_error(api: Api) -> None:
    api.add_job(kind="evaluate")
    api.fail_job("cancelled", "It was cancelled.", status="cancelled")
    at = model_management()
    assert "It was cancelled.\n\n:small[Job 1, 2025-12-05 00:42]" in read(at.info)
    assert not at.error


def test_jobs_say_whether_their_version_was_promoted(api: Api) -> None:
    api.add_job(status="succeeded", version=1, promoted=True)
    api.add_job(status="succeeded", version=2, promoted=False, trigger="rule")
    api.add_job(status="succeeded", promoted=False, trigger="schedule")
    assert [(job["Trigger"], job["Outcome"]) for job in rows(model_management(), JOBS)] == [
        ("by schedule", "Nothing had changed since the last version: no new one was made"),
        ("by rule", "Version 2, not promoted"),
        ("by hand", "Version 1, promoted"),
    ]


# The retrain panel


def choose(at: AppTest, recipe: str, *, tune: bool = False) -> AppTest:
    at = run(at.selectbox(key="recipe").set_value(recipe))
    return run(at.radio(key="way").set_value("Tune")) if tune else at


def fields(at: AppTest) -> dict[str, Any]:
    """Return what stands in the fields of the settings, by label."""
    kinds = (at.number_input, at.text_input, at.checkbox)
    every = [field for kind in kinds for field in kind if field.label != REASON]
    return {field.label: field.value for field in every}


def test_the_panel_starts_from_the_active_version(api: Api) -> None:
    api.add_model(recipe="spectral", settings={"weighting": "raw", "mixing": 2.5, "is_cut": False})
    at = model_management()
    assert at.selectbox(key="recipe").value == "spectral"
    assert "The tuned one. The fields start from those of version 1." in read(at.caption)
    assert fields(at) == {"weighting": "raw", "mixing": 2.5, "is_cut": False}
    at = choose(at, "svd")
    assert "The plain decomposition. The fields start from the defaults." in read(at.caption)
    assert fields(at) == {"n_components": 10}


def test_the_panel_trains_with_the_settings_in_its_fields(api: Api) -> None:
    at = choose(model_management(), "spectral")
    [mixing] = [field for field in at.number_input if field.label == "mixing"]
    [weighting] = [field for field in at.text_input if field.label == "weighting"]
    run(mixing.set_value(1.25))
    run(weighting.set_value("log"))
    at = press(at, "Train with these settings")
    settings = {"weighting": "log", "mixing": 1.25, "is_cut": True}
    assert api.requests == [{"recipe": "spectral", "settings": settings}]
    assert at.progress[0].value == 25
    assert all(button.disabled for button in at.button if button.label.startswith("Train"))
    api.finish_job()
    api.models[0] |= {"recipe": "spectral", "settings": settings}
    words = run(at).success[0].value.split("\n\n")[-1]
    assert plain(words) == "Recipe **spectral**: weighting=log, mixing=1.25, is_cut=true"


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("30", 30), ("0.5", 0.5), ("soon", "soon")]
)
def test_a_setting_that_may_be_null_is_typed_as_it_is(api: Api, text: str, value: Any) -> None:
    at = choose(model_management(), "popularity")
    [field] = at.text_input
    assert field.value == ""
    press(run(field.set_value(text)), "Train with these settings")
    assert api.requests == [{"recipe": "popularity", "settings": {"half_life_days": value}}]


@pytest.mark.parametrize(("seconds", "more"), [(None, {}), (90, {"tune_seconds": 90})])
def test_the_panel_asks_for_tuning(api: Api, seconds: int | None, more: dict[str, int]) -> None:
    at = choose(model_management(), "spectral", tune=True)
    at = run(at.number_input(key="tune_seconds").set_value(seconds))
    press(at, "Tune and train")
    assert api.requests == [{"recipe": "spectral", "tune": True, **more}]


@pytest.mark.parametrize("drift", ["none", "mild", "strong"])
def test_the_panel_asks_whether_taste_drifts(api: Api, drift: str) -> None:
    at = choose(model_management(), "spectral", tune=True)
    question = at.selectbox(key="drift")
    assert question.label == "Does taste drift to what is popular?"
    assert question.value is None
    press(run(question.set_value(drift)), "Tune and train")
    assert api.requests == [{"recipe": "spectral", "tune": True, "tuning": {"drift": drift}}]


def test_tuning_shows_the_best_so_far_and_can_be_stopped(api: Api) -> None:
    at = press(choose(model_management(), "spectral", tune=True), "Tune and train")
    api.jobs[0] |= {"stage": "tuning", "progress": None}
    at = run(at)
    assert ":small[The first settings are being measured.]" in read(at.markdown)
    assert next(button for button in at.button if button.label == STOP).disabled

    best = {"mixing": 0.25, "weighting": "log"}
    found = {
        "n_tried": 1234,
        "ndcg": 0.21389,
        "settings": best,
        "history": [{"n_tried": 1, "ndcg": 0.2}, {"n_tried": 900, "ndcg": 0.21389}],
        "seconds_left": 9.1,
    }
    api.jobs[0] |= {"progress": found, "seconds_left": 9.1}
    at = run(at)
    assert plain(at.progress[0].text).startswith("**Tuning: trying settings** · 25%")
    assert "about 9.1 s left" in plain(at.progress[0].text)
    assert (
        ":small[**1,234** tried · best NDCG so far **0.2139**, with mixing=0.25, weighting=log]"
    ) in read(at.markdown)
    [chart] = at.get("vega_lite_chart")
    assert "Best NDCG so far" in chart.proto.spec

    at = press(at, STOP)
    assert "POST /jobs/1/finish" in api.calls
    assert STOP not in {button.label for button in at.button}
    assert any("Tuning is being ended" in text for text in read(at.markdown))

    api.finish_job()
    api.models[0] |= {"recipe": "spectral", "settings": best}
    words = run(at).success[0].value.split("\n\n")[-1]
    assert plain(words) == (
        "Recipe **spectral**, settings found by tuning: mixing=0.25, weighting=log"
    )


def test_a_tuning_that_has_just_ended_needs_no_stop(api: Api) -> None:
    found = {
        "n_tried": 1,
        "ndcg": 0.2,
        "settings": {"mixing": 1.0},
        "history": [{"n_tried": 1, "ndcg": 0.2}],
        "seconds_left": 1.0,
    }
    api.add_job(stage="tuning", progress=found)
    at = model_management()
    api.jobs[0]["stage"] = "fitting"
    at = press(at, STOP)
    assert not at.error
    assert at.progress[0].text.startswith("**Fitting the model**")


def test_a_retrain_that_another_started_is_joined_by_the_panel(api: Api) -> None:
    at = choose(model_management(), "svd")
    api.add_job(trigger="schedule")
    at = press(at, "Train with these settings")
    assert "A retrain was already running: this is its progress." in read(at.info)
    assert at.progress[0].value == 25


# Which recipe suits my data


def test_recipes_are_compared_in_one_table_and_one_chart(api: Api) -> None:
    at = press(model_management(), COMPARE)
    assert "POST /evaluations?wait=false" in api.calls
    assert len(at.progress) == 1
    [button] = [button for button in at.button if button.label == RETRAIN]
    assert button.disabled
    assert any("The recipes are being compared" in text for text in read(at.markdown))

    api.jobs[0]["result"] = compared() | {"recipes": compared()["recipes"][:1]}
    at = run(at)
    assert set(rows(at, COMPARED)[0]) == {"Recipe", "popularity"}

    api.jobs[0] |= api.add_comparison() | {"job_id": 1}
    del api.jobs[0]
    at = run(at)
    assert not at.progress
    table = {row["Recipe"]: row for row in rows(at, COMPARED)}
    assert [*table] == [
        *("NDCG@10", "Hit rate@10", "NDCG against popularity", "NDCG against svd"),
        *("NDCG against spectral (tuned)", "Recall@10", "MAP@10", "Coverage", "Novelty"),
        *("Time to fit", "Settings"),
    ]
    shown = {name: row["spectral (tuned)"] for name, row in table.items()}
    assert shown == {
        "NDCG@10": "**0.210 (0.200 to 0.220)**",
        "Hit rate@10": "0.390 (0.300 to 0.700)",
        "NDCG against popularity": "+0.090 ± 0.010 :green-badge[better]",
        "NDCG against svd": "+0.110 ± 0.010 :green-badge[better]",
        "NDCG against spectral (tuned)": "–",
        "Recall@10": "0.210",
        "MAP@10": "0.210",
        "Coverage": "41.0%",
        "Novelty": "6.2",
        "Time to fit": "1.9 s",
        "Settings": "weighting=log, mixing=0.25, is_cut=true",
    }
    assert table["Hit rate@10"]["svd"] == "**0.500 (0.300 to 0.700)**"
    assert table["NDCG against popularity"]["svd"] == "-0.020 ± 0.010 :red-badge[worse]"
    assert table["NDCG against svd"]["popularity"] == (
        "+0.020 ± 0.010 :orange-badge[too few to tell] :small[900 users needed]"
    )
    assert len(at.get("vega_lite_chart")) == 1
    [protocol] = [text for text in read(at.caption) if "Held out" in text]
    assert protocol.startswith(f"1,873 users were judged. Held out: {MADE_ON}. Each recipe")
    assert "higher is better" in protocol
    assert (
        "Made on 56,193 interactions of 2,400 users, up to 2026-01-02 04:04, under revision 3 of "
        "the policy (margin 2.0%)." in protocol
    )
    assert protocol.endswith("Measured 2025-12-05 00:42, job 1.")
    # A reload of the page finds it again.
    assert rows(model_management(), COMPARED) == rows(at, COMPARED)


def test_the_recipe_that_the_gates_rule_advises_is_used_as_it_was_measured(api: Api) -> None:
    api.add_comparison()
    at = model_management()
    assert ADVICE in read(at.markdown)
    assert [b.label for b in at.button if b.label.startswith("Use ")] == ["Use spectral (tuned)"]
    at = press(at, "Use spectral (tuned)")
    settings = {"weighting": "log", "mixing": 0.25, "is_cut": True}
    assert api.requests == [{"recipe": "spectral", "settings": settings}]
    assert len(at.progress) == 1
    assert any("A retrain runs: the progress is shown below." in text for text in read(at.markdown))
    assert rows(at, COMPARED), "what was measured stays in sight"
    api.finish_job(promoted=True, verdict=rejected(is_active=True))
    at = run(at)
    assert "Model retrained in" in at.success[0].value
    assert "Its verdict is shown above" in at.success[0].value
    assert at.warning


def test_nothing_is_advised_where_it_is_too_few_to_tell(api: Api) -> None:
    sentence = "Too few to tell whether svd is better: 40 users were judged, and it takes 900."
    advice = {"use": None, "sentence": sentence}
    problem = "Version 4 could not be measured beside them."
    result = compared(advice=advice, problem=problem, n_users=40)
    api.add_comparison()["result"] = result
    at = model_management()
    assert sentence in read(at.markdown)
    assert problem in read(at.warning)
    assert not [button for button in at.button if button.label.startswith("Use ")]
    [row] = [row for row in rows(at, COMPARED) if row["Recipe"] == "NDCG against svd"]
    assert row["popularity"] == "+0.020 ± 0.010 :orange-badge[too few to tell]"


def test_a_comparison_is_called_out_of_date_with_the_reason(api: Api) -> None:
    change = {"code": "new_interactions", "sentence": "At least 50 interactions have come in."}
    api.add_comparison()["result"] = compared(state="out_of_date", changes=[change], advice=None)
    at = model_management()
    [warning] = [text for text in read(at.warning) if "out of date" in text]
    assert warning.endswith("Compare again. At least 50 interactions have come in.")
    assert rows(at, COMPARED)
    assert not [button for button in at.button if button.label.startswith("Use ")]


def test_what_was_measured_on_data_that_is_gone_goes(api: Api) -> None:
    change = {"code": "data_removed", "sentence": "The data that it was made on are gone."}
    fields = {"state": "gone", "changes": [change], "advice": None, "recipes": []}
    api.add_comparison()["result"] = compared(**fields)
    at = model_management()
    said = "The last comparison is no longer shown. The data that it was made on are gone."
    assert said in read(at.info)
    assert not at.get("vega_lite_chart")
    assert not any("Held out" in text for text in read(at.caption))


@pytest.mark.parametrize(
    ("code", "kind"), [("training_failed", "error"), ("not_enough_data", "warning")]
)
def test_a_failed_comparison_says_why_beside_the_last_that_succeeded(
    api: Api, code: str, kind: str
) -> None:
    api.add_comparison()
    api.add_job(kind="evaluate")
    api.fail_job(code, "Of the 3 users there are 2 with several items.")
    at = model_management()
    assert read(at.get(kind)) == [
        "Of the 3 users there are 2 with several items.\n\n:small[Job 2, 2025-12-05 00:42]"
    ]
    assert rows(at, COMPARED)


def test_without_a_worker_no_comparison_starts_and_its_place_says_so(api: Api) -> None:
    api.has_worker = False
    at = press(model_management(), COMPARE)
    assert read(at.error) == ["The worker does not answer: nothing was trained."]
    assert not at.progress


def test_a_comparison_waits_for_the_job_that_another_started(api: Api) -> None:
    at = model_management()
    api.add_job(trigger="schedule")
    at = press(at, COMPARE)
    assert not at.error
    assert at.progress[0].value == 25
    assert any("A retrain runs: the progress is shown above." in text for text in read(at.markdown))


# Every page


PAGES = ["Home.py", "pages/1_Recommendations.py", "pages/2_Model_Management.py"]


@pytest.mark.parametrize("page", PAGES)
def test_no_server_is_one_sentence_until_it_is_back(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Api()) as gone:
        monkeypatch.setenv("RECKEEPER_SERVER_URL", gone.url)
    at = opened(page)
    [sentence] = read(at.error)
    assert gone.url in sentence
    assert "`reckeeper up`" in sentence
    with serving(Api(gone.server_port)):
        assert not press(at, "Try again").error
    st.cache_resource.clear()


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECKEEPER_SERVER_URL", "nonsense")
    [sentence] = read(opened().error)
    assert "RECKEEPER_SERVER_URL='nonsense'" in sentence


@pytest.mark.parametrize("page", PAGES)
def test_the_demo_badge_offers_to_remove_the_demo_data(api: Api, page: str) -> None:
    api.demo = {"loaded": True, "interactions": 60000, "sample_users": ["user-0001"]}
    api.add_model(is_demo=True)
    at = opened(page)
    assert any("Demo data" in text for text in read(at.markdown))
    assert any("60,000 generated interactions" in text for text in read(at.markdown))
    at = press(at, "Yes, remove it")
    assert "DELETE /demo" in api.calls
    assert not any("Demo data" in text for text in read(at.markdown))
    assert read(at.toast) == ["The demo data is removed."]


# Keys


def signed_in(at: AppTest, key: str) -> AppTest:
    at.text_input(key="api_key_typed").set_value(key)
    return press(at, "Sign in")


@pytest.mark.parametrize("page", PAGES)
def test_a_key_is_asked_for_where_the_server_wants_one(
    api: Api, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECKEEPER_API_KEY", "rk_everybodys")  # of whoever started the page
    api.keys = {"rk_alice": ("alice", "operator"), "rk_everybodys": ("admin", "admin")}
    at = opened(page)
    assert api.calls == ["GET /access"]
    assert any("wants an API key" in text for text in read(at.markdown))
    at = signed_in(at, "rk_wrong")
    assert read(at.error) == ["That key is not valid: it is none, has expired, or was revoked."]
    at = signed_in(at, " rk_alice ")
    assert not at.error
    assert not at.text_input or at.text_input[0].label != "API key"
    assert any("alice" in text for text in read(at.sidebar.caption))
    at = press(at, "Sign out")
    assert any("wants an API key" in text for text in read(at.markdown))


def test_each_reader_has_a_key_of_its_own(api: Api) -> None:
    api.keys = {"rk_alice": ("alice", "operator"), "rk_bob": ("bob", "viewer")}
    alice, bob = signed_in(opened(), "rk_alice"), signed_in(opened(), "rk_bob")
    for at, name in ((alice, "alice"), (bob, "bob"), (alice, "alice")):
        assert any(name in text for text in read(run(at).sidebar.caption))
    del api.keys["rk_bob"]
    assert any("wants an API key" in text for text in read(run(bob).markdown))
    assert any("alice" in text for text in read(run(alice).sidebar.caption))


def test_the_page_says_where_everything_is_open(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any("No API key is needed here" in text for text in read(opened().sidebar.caption))
    monkeypatch.setenv("RECKEEPER_HOST", "0.0.0.0")
    at = opened()
    assert any("Other machines reach this page" in text for text in read(at.error))
    assert api.calls[-1] == "GET /access"
    monkeypatch.setenv("RECKEEPER_OPEN", "1")
    assert not opened().error


ACCESS = "pages/6_Access.py"


def test_the_first_key_is_an_admins_and_this_page_uses_it(api: Api) -> None:
    at = opened(ACCESS)
    assert any("No key is needed here so far" in text for text in read(at.markdown))
    assert at.radio(key="key_role").options == ["admin"]
    at.text_input(key="key_name").set_value("alice")
    at.number_input(key="key_days").set_value(30)
    at = press(at, "Make the key")
    assert read(at.code) == ["rk_alice"]
    assert any("Copy it now" in text for text in read(at.markdown))
    assert any("Signed in as alice" in text.replace("*", "") for text in read(at.sidebar.caption))
    assert at.radio(key="key_role").options == ROLES
    at = press(at, "I have copied it")
    assert not at.code
    assert "rk_alice" not in "".join(read(at.markdown))


def test_keys_are_listed_and_revoked(api: Api) -> None:
    api.keys = {"rk_root": ("root", "admin"), "rk_shop": ("shop", "recommend")}
    at = signed_in(opened(ACCESS), "rk_root")
    shown = at.table[0].value
    assert list(shown["Name"]) == ["root", "shop"]
    assert list(shown["Role"]) == ["admin", "recommend"]
    at.selectbox(key="revoked_key").set_value("shop")
    at = press(at, "Yes, revoke it")
    assert "DELETE /keys/shop" in api.calls
    assert list(at.table[0].value["Name"]) == ["root"]


@pytest.mark.parametrize(
    ("role", "shown", "hidden"),
    [
        (
            "viewer",
            set(),
            {"🚀 Retrain Model", "🔎 Compare recipes", "Activate", "Delete version 1"},
        ),
        ("operator", {"🚀 Retrain Model", "🔎 Compare recipes", "Activate"}, {"Delete version 1"}),
        ("admin", {"🚀 Retrain Model", "Activate", "Delete version 1"}, set()),
    ],
)
def test_only_what_a_role_may_do_is_shown(
    api: Api, role: str, shown: set[str], hidden: set[str]
) -> None:
    for _ in range(2):
        api.add_job()
        api.finish_job()
    api.keys = {"rk_me": ("me", role)}
    at = signed_in(model_management(), "rk_me")
    labels = {button.label for button in at.button}
    assert shown <= labels
    assert not hidden & labels


def test_whoever_only_reads_sends_nothing(api: Api) -> None:
    api.add_job()
    api.finish_job()
    api.keys = {"rk_me": ("me", "viewer")}
    at = signed_in(opened("pages/1_Recommendations.py"), "rk_me")
    at = run(at.text_input(key="user_id").set_value("u1"))
    assert not {"👆 Click", "🔖 Watchlist", "Save"} & {button.label for button in at.button}
    at = run(at.switch_page("pages/3_Interactions.py"))
    assert not any("Import a file" in text for text in read(at.subheader))
    at = run(at.switch_page(ACCESS))
    assert any("does not make or revoke keys" in text for text in read(at.markdown))


# Home


def test_home_shows_the_installation_at_a_glance(api: Api) -> None:
    api.add_job()
    api.finish_job()
    at = opened(url="http://reckeeper.example:8501/")
    assert metrics(at) == {
        "Server": "🟢 Ready",
        "Active model": "Version 1",
        "Last retrain": "🟢 Succeeded",
    }
    assert "6 users · 12 items · 98.90% explained" in read(at.caption)
    assert [link.label for link in at.page_link] == [
        "See recommendations for a user",
        "Manage and retrain models",
        "See and import interactions",
    ]
    # The page knows the server by loopback; the reader's browser found the page elsewhere.
    assert f"curl http://reckeeper.example:{api.server_port}/user_interactions" in at.code[0].value
    assert f"http://reckeeper.example:{api.server_port}/docs" in at.markdown[-1].value


def test_home_takes_no_comparison_for_a_retrain(api: Api) -> None:
    api.add_job(kind="evaluate")
    at = opened()
    assert metrics(at)["Last retrain"] == "None yet"
    assert "Retrain to get the first one." in read(at.caption)


def test_without_a_model_each_page_says_what_to_do(api: Api) -> None:
    assert metrics(opened())["Active model"] == "None yet"
    [words] = read(model_management().info)
    assert words == "No model has been trained yet. Press the button to train one."
    api.add_job(trigger="demo")
    assert "One is being trained." in read(opened().caption)
    [words] = read(model_management().info)
    assert words == "No model has been trained yet. One is being trained."
    at = recommendations("u1")
    assert any("No version is active yet" in words for words in read(at.markdown))
    assert [link.label for link in at.page_link] == ["Go to Model Management"]
    api.problems = ["The active version 1 cannot be loaded."]
    at = recommendations("u1")
    assert "The active version 1 cannot be loaded." in read(at.info)
    assert [link.label for link in at.page_link] == ["Go to Model Management"]


# Recommendations


@pytest.mark.parametrize(
    ("value", "badges"),
    [
        ("Comedy|Drama", ["Comedy", "Drama"]),
        (["Comedy", 7], ["Comedy", "7"]),
        ([], []),
        ("", []),
        (7, ["7"]),
        (True, ["True"]),
        (None, []),
    ],
)
def test_a_category_may_be_of_any_kind(api: Api, value: Any, badges: list[str]) -> None:
    api.add_model()
    api.attributes = {"category": value}
    [shown] = [text for text in read(recommendations("u").markdown) if TITLES["i3"] in text]
    assert re.findall(r":gray-badge\[(\w+)\]", shown) == badges


def test_each_strategy_is_explained(api: Api) -> None:
    api.add_model()
    api.seen_by_model = {"known"}
    api._append("active", "i1", "click")
    words = {
        user_id: next(text for text in read(recommendations(user_id).markdown) if "badge" in text)
        for user_id in ("known", "active", "stranger")
    }
    assert words["known"].startswith(":blue-badge[model] :small[From what **known** had done")
    assert words["active"].startswith(":blue-badge[fold_in] :small[From version 1 and what")
    assert words["stranger"].startswith(":blue-badge[popular] :small[Version 1 knows nothing")


def test_an_item_says_what_its_score_is_made_of(api: Api) -> None:
    api.add_model()

    def helps() -> list[str]:
        shown = recommendations("u1").markdown
        return [plain(element.help) for element in shown if "score" in element.help]

    assert helps() == []
    for item_id in ("i1", ODD_ID):
        api._append("u1", item_id, "click")
    first, *_ = helps()
    lines = [f"- **+2.000** {ODD_ID}", f"- **-0.250** {TITLES['i1']}", "- **+8.250** all others"]
    assert first.splitlines()[2:] == lines


def test_items_show_title_categories_and_score_as_they_are(api: Api) -> None:
    api.add_model()
    at = recommendations("u1")
    shown = [element.value for element in at.markdown]
    assert (
        "**The \\*Quiet\\* Harbour**  \n:gray-badge[Comedy] :gray-badge[Drama] "
        ":small[:gray[score\N{NO-BREAK SPACE}10]]"
    ) in shown
    assert f"**{ODD_ID}**  \n :small[:gray[score 2.5]]" in read(at.markdown)
    at = run(at.number_input(key="n").set_value(2))
    assert len([button for button in at.button if button.label == "👆 Click"]) == 2


def test_what_new_users_get_is_set_on_the_page(api: Api) -> None:
    api.add_model()
    api.policy |= {"margin": 0.1, "webhook_secret": "***"}
    at = recommendations("u1")
    assert at.multiselect(key="seen types 0").value == []
    assert at.number_input(key="half life 0").value == 30
    assert "comes from the environment" in read(at.main.caption)[-1]
    at.multiselect(key="seen types 0").set_value(["click"])
    at.number_input(key="half life 0").set_value(0.0)
    at.slider(key="new share 0").set_value(20)
    at.number_input(key="new days 0").set_value(7)
    at.slider(key="variation 0").set_value(0.5)
    at = run(at.button(key="save lists").click())
    assert read(at.toast) == ["Lists follow these settings now."]
    assert api.policy == {
        **POLICY,
        "margin": 0.1,
        "webhook_secret": "***",
        "recommendations": {
            "seen_types": ["click"],
            "popularity_half_life_days": None,
            "new_items_share": 0.2,
            "new_items_days": 7.0,
            "daily_variation": 0.5,
        },
    }
    assert at.slider(key="new share 1").value == 20
    assert not any("environment" in text for text in read(at.caption))
    api.policy["recommendations"]["seen_types"] = []  # by none: the page leaves it so
    at = run(recommendations("u1").button(key="save lists").click())
    assert api.policy["recommendations"]["seen_types"] == []


@pytest.mark.parametrize("item_id", ["i1", ODD_ID])
def test_a_click_counts_at_once(api: Api, item_id: str) -> None:
    api.add_model()
    at = recommendations("u/1 🎬")
    at = run(at.button(key=f"click {item_id}").click())
    [stored] = api.interactions["u/1 🎬"]
    assert (stored["item_id"], stored["interaction_type"]) == (item_id, "click")
    title = TITLES.get(item_id, item_id)
    assert read(at.toast) == [f"Recorded a click on {title}."]
    assert f"click {item_id}" not in {button.key for button in at.button}
    assert f"{title}  \n:small[:gray[👆 clicked · 2025-12-05 00:42]]" in read(at.markdown)
    assert any(text.startswith(":blue-badge[fold_in]") for text in read(at.markdown))


@pytest.mark.parametrize("item_id", ["i1", ODD_ID])
def test_the_watchlist_takes_items_in_and_lets_them_go(api: Api, item_id: str) -> None:
    api.add_model()
    at = recommendations("u1")
    assert "Empty." in read(at.caption)
    at = run(at.button(key=f"add {item_id}").click())
    assert "Empty." not in read(at.caption)
    at = run(at.button(key=f"remove {item_id}").click())
    assert "Empty." in read(at.caption)
    kinds = [row["interaction_type"] for row in api.interactions["u1"]]
    assert kinds == ["watchlist_remove", "watchlist_add"]


def test_what_weighs_nothing_was_seen(api: Api) -> None:
    api.add_model()
    for kind in ("click", "dismiss"):
        api._append("u1", "i1", kind)
        api.interactions["u1"][0]["weight"] = 0.0
    shown = "\n".join(read(recommendations("u1").markdown))
    assert ("👁️ seen, not liked" in shown, "🚫 not interested" in shown) == (True, True)
    assert "clicked" not in shown


@pytest.mark.parametrize("item_id", ["i1", ODD_ID])
def test_what_is_not_wanted_is_dismissed_and_that_is_undone_once(api: Api, item_id: str) -> None:
    api.add_model()
    at = recommendations("u1")
    at = run(at.button(key=f"dismiss {item_id}").click())
    assert read(at.toast) == [f"{TITLES.get(item_id, item_id)} is not recommended any more."]
    at = run(at.button(key=f"undo {item_id}").click())
    kinds = [(row["item_id"], row["interaction_type"]) for row in api.interactions["u1"]]
    assert kinds == [(item_id, "dismiss_undo"), (item_id, "dismiss")]
    assert f"undo {item_id}" not in {button.key for button in at.button}
    api._append("u1", item_id, "dismiss")
    assert f"undo {item_id}" in {button.key for button in run(at).button}


def test_nobody_is_asked_for_first(api: Api) -> None:
    at = recommendations()
    assert read(at.info) == ["Enter the id of a user to see what is recommended to them."]


def test_demo_users_are_one_press_away(api: Api) -> None:
    api.add_model(is_demo=True)
    users = ["user-0001", "user-0042"]
    api.demo = {"loaded": True, "interactions": 60000, "sample_users": users}
    at = recommendations()
    assert at.text_input(key="user_id").value == "user-0001"
    assert at.pills(key="sample_user").value == "user-0001"
    at = run(at.pills(key="sample_user").set_value("user-0042"))
    assert at.text_input(key="user_id").value == "user-0042"
    at = run(at.text_input(key="user_id").set_value("somebody"))
    assert at.pills(key="sample_user").value is None
