"""The public API: takes events in, answers recommendations, shows and steers the versions.

Start it with ``python server/server.py``. Settings come from the environment.
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import uvicorn
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import reckeeper
from reckeeper import errors, events, recipes, registry, serving, storage, telemetry, training
from reckeeper.client import Client, Job
from reckeeper.config import Settings
from reckeeper.events import demo
from reckeeper.training.jobs import job_error, rfc3339

STATUS: Mapping[type[errors.ReckeeperError], int] = {
    errors.NotEnoughDataError: 409,
    errors.TooLargeError: 413,
    errors.DataError: 422,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.ArtifactError: 409,
    errors.NoModelError: 503,
    errors.UnavailableError: 503,
    errors.StorageError: 503,
    errors.ReckeeperError: 500,
}

_JOB_POLL_SECONDS = 0.1
_MOST = 2**63 - 1  # the largest number that a database knows
_LARGE_BODY_BYTES = 16 * 1024
_log = telemetry.get_logger("server")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What one server process holds between its start and its stop."""

    settings: Settings
    database: storage.Database
    registry: registry.Registry
    serving: serving.Serving
    writer: events.DatabaseWriter
    worker: Client


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings.from_env()
    database = storage.open_database(settings)
    versions = registry.Registry(database, settings.model_dir)
    versions.rebuild()
    versions.repair_link()
    runtime = Runtime(
        settings=settings,
        database=database,
        registry=versions,
        serving=serving.Serving(database, versions, type_weights=settings.interaction_weights),
        writer=events.DatabaseWriter(database),
        worker=Client(settings.worker_url, retry_seconds=0),
    )
    runtime.serving.start()
    runtime.writer.start()
    app.state.runtime = runtime
    _log.info("server_started", version=runtime.serving.version)
    yield
    runtime.serving.stop()
    runtime.writer.close()
    runtime.worker.close()
    database.close()


class _IdConvertor(Convertor[str]):
    """A path segment that may hold any id, percent-encoded."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        # Bytes that are not UTF-8 become what `checked_id` refuses, and never another's id.
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _IdConvertor())

app = FastAPIOffline(  # its /docs needs no other host
    title="Reckeeper",
    version=reckeeper.__version__,
    summary="Keeps the recommendation models of a product.",
    lifespan=_lifespan,
)


class _Edge:
    """Keeps encoded slashes inside path segments, and counts and times requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope.get("raw_path"):
            scope["path"] = scope["raw_path"].decode("latin-1")
        began = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"]
            telemetry.HTTP_REQUESTS.labels(method, path, status).inc()
            telemetry.HTTP_SECONDS.labels(method, path).observe(time.perf_counter() - began)


app.add_middleware(_Edge)


async def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


# Errors: one form, one table.


def _error(exc: errors.ReckeeperError) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(exc.to_json(), status, headers)


@app.exception_handler(errors.ReckeeperError)
async def _on_reckeeper_error(_request: Request, exc: errors.ReckeeperError) -> JSONResponse:
    if isinstance(exc, errors.StorageError):
        _log.error("storage_failed", error=exc.message)
    return _error(exc)


@app.exception_handler(RequestValidationError)
async def _on_bad_request(_request: Request, exc: RequestValidationError) -> JSONResponse:
    first = exc.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return _error(errors.DataError(f"{field}: {first['msg']}. /docs shows what the route takes."))


@app.exception_handler(HTTPException)
async def _on_http_exception(request: Request, exc: HTTPException) -> JSONResponse:
    if exc.status_code == 400:
        return _error(errors.DataError(f"{exc.detail}. /docs shows what the route takes."))
    code = {404: "not_found", 405: "method_not_allowed"}.get(exc.status_code, "http_error")
    body = {
        "status": "error",
        "code": code,
        "message": f"{request.method} {request.url.path}: {exc.detail}. /docs lists the routes.",
    }
    return JSONResponse(body, exc.status_code, exc.headers)


@app.exception_handler(Exception)
async def _on_unexpected(request: Request, exc: Exception) -> JSONResponse:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=exc)
    body = {
        "status": "error",
        "code": "internal",
        "message": "The server failed on this request; its log has the details. Try again, and "
        "report it if it happens again.",
    }
    return JSONResponse(body, 500)


# The documentation of the routes.

_MODEL = {
    "name": "Retrained SVD Model",
    "path": "/app/models/retrained_svd_model.pkl",
    "type": "SVD",
    "status": "active",
    "n_users": 6,
    "n_items": 12,
    "explained_variance": "98.90%",
    "trained_on": "2025-12-04 23:42:15",
    "version": 1,
    "recipe": "svd",
    "settings": {"n_components": 10},
    "training_samples": 56193,
    "seconds": 2.3,
    "trigger": "manual",
    "job_id": 1,
    "is_demo": False,
}
_SPECTRAL = {"n_components": 256}
_LISTED_JOB = {
    "job_id": 2,
    "kind": "retrain",
    "request": {"recipe": "spectral", "tune": True},
    "status": "running",
    "trigger": "manual",
    "stage": "tuning",
    "fraction": 0.6,
    "seconds_elapsed": 14.2,
    "seconds_left": 9.1,
    "progress": {"n_tried": 17, "ndcg": 0.214, "settings": _SPECTRAL, "seconds_left": 9.1},
    "finish_requested": False,
    "started_at": "2025-12-04T23:42:12.911034Z",
    "finished_at": None,
    "version": None,
    "peak_memory_bytes": 201326592,
    "error": None,
}
_JOB = {**_LISTED_JOB, "result": None}
_RESULT = {
    "split": "user_time",
    "k": 20,
    "n_users": 1873,
    "recipes": [
        {
            "recipe": "spectral",
            "settings": _SPECTRAL,
            "tuned": True,
            "fit_seconds": 1.9,
            "tune_seconds": 9.4,
            "metrics": {
                "recall@20": {"mean": 0.31, "low": 0.29, "high": 0.33},
                "ndcg@20": {"mean": 0.21, "low": 0.2, "high": 0.22},
                "hit_rate@20": {"mean": 0.62, "low": 0.6, "high": 0.64},
                "map@20": {"mean": 0.12, "low": 0.11, "high": 0.13},
                "coverage@20": {"mean": 0.41},
                "novelty@20": {"mean": 6.2},
            },
            "versus_popularity": {
                "recall@20": {"difference": 0.12, "low": 0.1, "high": 0.14},
                "ndcg@20": {"difference": 0.09, "low": 0.08, "high": 0.1},
                "hit_rate@20": {"difference": 0.15, "low": 0.13, "high": 0.17},
                "map@20": {"difference": 0.05, "low": 0.04, "high": 0.06},
            },
        }
    ],
}
_EVALUATED = {
    **_JOB,
    "kind": "evaluate",
    "request": {},
    "status": "succeeded",
    "stage": "done",
    "fraction": 1.0,
    "seconds_left": None,
    "finished_at": "2025-12-04T23:42:36.145920Z",
    "result": _RESULT,
}
_ACCEPTED = {"status": "ok", "accepted": 3, "duplicates": 0}
_WHY = {
    404: ("not_found", "There is no version 7: GET /models lists those that there are."),
    409: ("job_running", "Training job 2 runs already: wait for it, then retrain."),
    413: ("too_large", "The request has 12000 interactions; at most 10000 are taken."),
    422: ("invalid_data", "Row 0: user_id is missing. Nothing of this request was stored."),
    500: ("training_failed", "The training process was ended by signal 9 before it was done."),
    503: ("unavailable", "The worker does not answer, so nothing was trained."),
}


def _answers(example: Any, *statuses: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's description of an answer, and of the errors that a route may give."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": "Done", "content": {"application/json": {"example": example}}}
    }
    for number in statuses:
        code, message = _WHY[number]
        body = {"status": "error", "code": code, "message": message}
        described[number] = {
            "description": code.replace("_", " "),
            "content": {"application/json": {"example": body}},
        }
    return described


_Needs = Annotated[Runtime, Depends(_runtime)]
_UserId = Annotated[
    str, Path(description="Percent-encode slashes, spaces and emoji.", examples=["u1"])
]
_ItemId = Annotated[
    str, Path(description="Percent-encode slashes, spaces and emoji.", examples=["i9"])
]
_JobId = Annotated[int, Path(ge=1, le=_MOST, description="Number of the job.", examples=[2])]
_Wait = Annotated[
    bool, Query(description="false: answer 202 with the job at once", examples=[False])
]
_Version = Annotated[int, Path(ge=1, le=_MOST, description="Number of the version.", examples=[1])]


# Versions


@app.get("/models", tags=["versions"], responses=_answers({"status": "ok", "models": [_MODEL]}))
def get_models(runtime: _Needs) -> JSONResponse:
    """List all versions with their metadata, the newest first."""
    return JSONResponse({"status": "ok", "models": runtime.registry.versions()})


@app.get(
    "/models/{version}",
    tags=["versions"],
    responses=_answers({"status": "ok", "model": _MODEL}, 404, 422),
)
def get_model(runtime: _Needs, version: _Version) -> JSONResponse:
    """Describe one version."""
    return JSONResponse({"status": "ok", "model": runtime.registry.version(version)})


class Activation(BaseModel):
    """Why a version is activated; the reason may be left out."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "version 2 lost coverage"}]}
    )
    reason: str | None = None


@app.post(
    "/models/{version}/activate",
    tags=["versions"],
    responses=_answers({"status": "ok", "model": _MODEL}, 404, 409, 422),
)
def activate(
    runtime: _Needs, version: _Version, activation: Activation | None = None
) -> JSONResponse:
    """Let a version serve; every process takes it up within half a second."""
    try:
        model = runtime.registry.load(version)
        serving.trial(model)
    except errors.ArtifactError as exc:
        raise errors.ArtifactError(
            f"Version {version} cannot serve: {exc.message} Activate another version, or retrain."
        ) from exc
    reason = activation.reason if activation is not None else None
    runtime.registry.activate(model, actor="api", reason=reason)
    runtime.serving.refresh()
    return JSONResponse({"status": "ok", "model": runtime.registry.version(version)})


# Training

_RETRAINED = {
    "status": "ok",
    "message": "Model retrained in 2.3s - 56193 samples, 98.90% variance explained",
    "details": {
        "training_samples": 56193,
        "n_users": 6,
        "n_items": 12,
        "explained_variance": 0.989,
    },
    "version": 2,
    "job_id": 2,
}


@app.post(
    "/retrain",
    tags=["training"],
    responses=_answers(_RETRAINED, 409, 422, 500, 503)
    | _answers({"status": "ok", "job": _JOB}, status=202),
)
async def retrain(
    runtime: _Needs, asked: training.RetrainRequest | None = None, wait: _Wait = True
) -> JSONResponse:
    """Train on the latest interactions, and answer when the new version serves.

    Without a body recipe and settings are those of the active version. A body names others, or
    lets them be found: `tune`.
    """
    request = {} if asked is None else asked.model_dump(exclude_defaults=True)
    if request:
        await run_in_threadpool(_check, runtime, request)
    job = await _start(functools.partial(runtime.worker.start_retrain, **request))
    if not wait:
        return JSONResponse({"status": "ok", "job": job}, 202)
    row = await _success(runtime, job["job_id"])
    await run_in_threadpool(runtime.serving.refresh)
    answer = functools.partial(
        runtime.registry.retrain_answer, row["version"], job_id=row["job_id"]
    )
    return JSONResponse(await run_in_threadpool(answer))


@app.post(
    "/evaluations",
    tags=["training"],
    responses=_answers({"status": "ok", "job": _EVALUATED}, 409, 422, 500, 503)
    | _answers({"status": "ok", "job": _JOB | {"kind": "evaluate", "request": {}}}, status=202),
)
async def evaluate(runtime: _Needs, wait: _Wait = True) -> JSONResponse:
    """Measure which recipe suits the data, and answer when that is done; nothing else changes.

    The last part of each user's interactions is held out, and `popularity`, `svd` and a tuned
    `spectral` fitted on the rest. The result grows while the job runs: `GET /jobs/{id}` shows it.
    """
    job = await _start(runtime.worker.start_evaluation)
    if not wait:
        return JSONResponse({"status": "ok", "job": job}, 202)
    row = await _success(runtime, job["job_id"])
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


def _check(runtime: Runtime, request: Mapping[str, Any]) -> None:
    """Refuse here what the worker would refuse, and cannot while it is down."""
    with runtime.database.read() as connection:
        active = storage.models.active(connection)
    training.checked_request(request, active=active)


async def _start(start: Callable[[], Job]) -> Job:
    try:
        return await run_in_threadpool(start)
    except errors.UnavailableError as exc:
        raise errors.UnavailableError(
            f"The worker could not be asked to train: {exc.message} RECKEEPER_WORKER_URL names "
            "its address; GET /jobs shows whether a job has started."
        ) from exc


async def _success(runtime: Runtime, job_id: int) -> dict[str, Any]:
    """Wait for a job to succeed, and return its row."""
    while True:
        row = await run_in_threadpool(training.find_job, runtime.database, job_id)
        if row["status"] == storage.jobs.SUCCEEDED:
            return row
        if row["status"] != storage.jobs.RUNNING:
            raise job_error(row)
        await asyncio.sleep(_JOB_POLL_SECONDS)


@app.get(
    "/jobs",
    tags=["training"],
    responses=_answers(
        {
            "status": "ok",
            "jobs": [_LISTED_JOB],
            "schedule": "0 3 * * 0",
            "next_scheduled_at": "2025-12-07T03:00:00.000000Z",
        },
        422,
    ),
)
def get_jobs(
    runtime: _Needs,
    limit: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20,
    before: Annotated[
        int | None, Query(ge=1, le=_MOST, description="numbers below this one", examples=[40])
    ] = None,
) -> JSONResponse:
    """List jobs, the latest first, and when the schedule starts the next one."""
    training.expire_silent(runtime.database)
    with runtime.database.read() as connection:
        rows = storage.jobs.page(connection, limit=limit, before=before)
    next_at = training.next_run(runtime.settings)
    return JSONResponse(
        {
            "status": "ok",
            "jobs": [training.describe_job(row) for row in rows],
            "schedule": runtime.settings.retrain_schedule,
            "next_scheduled_at": None
            if next_at is None
            else rfc3339(int(next_at.timestamp()) * 1_000_000),
        }
    )


@app.get(
    "/jobs/{job_id}", tags=["training"], responses=_answers({"status": "ok", "job": _JOB}, 404, 422)
)
def get_job(runtime: _Needs, job_id: _JobId) -> JSONResponse:
    """Describe a job: its stage, how far it is, the time left, and what it has found so far."""
    row = training.find_job(runtime.database, job_id)
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


@app.post(
    "/jobs/{job_id}/finish",
    tags=["training"],
    responses=_answers({"status": "ok", "job": _JOB | {"finish_requested": True}}, 404, 409, 422),
)
def finish_job(runtime: _Needs, job_id: _JobId) -> JSONResponse:
    """Let tuning end now, with the best settings that it has; the job goes on with them."""
    row = training.request_finish(runtime.database, job_id, actor="api")
    return JSONResponse({"status": "ok", "job": training.describe_job(row)})


_RECIPE = {
    "name": "svd",
    "summary": "The plain singular value decomposition of the interaction counts.",
    "decomposes": True,
    "settings": [{"name": "n_components", "default": 10, "help": "Singular vectors asked for."}],
}


@app.get("/recipes", tags=["training"], responses=_answers({"status": "ok", "recipes": [_RECIPE]}))
async def get_recipes() -> JSONResponse:
    """List the recipes that a version can be trained with, and the settings that each has."""
    return JSONResponse({"status": "ok", "recipes": recipes.describe_recipes()})


# Events in


async def _body(request: Request) -> bytes:
    """Read a request's body; FastAPI's own limit would answer in another form."""
    parts: list[bytes] = []
    n_bytes = 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes <= events.MAX_BODY_BYTES:
            parts.append(part)
        elif n_bytes > 16 * events.MAX_BODY_BYTES:
            break  # up to here it is read to its end, so that the sender gets to the answer
    if n_bytes > events.MAX_BODY_BYTES:
        raise errors.TooLargeError(
            f"The body is larger than the {events.MAX_BODY_BYTES} bytes that are taken. Split it "
            "into several requests."
        )
    return b"".join(parts)


_MESSAGE_SCHEMA = events.Message.model_json_schema()


@app.post(
    "/user_interactions",
    tags=["interactions"],
    responses=_answers(_ACCEPTED, 413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [
                            _MESSAGE_SCHEMA,
                            {
                                "type": "array",
                                "items": _MESSAGE_SCHEMA,
                                "minItems": 1,
                                "maxItems": events.MAX_ROWS,
                            },
                        ]
                    },
                    "example": [
                        {"user_id": "u1", "item_id": "i7", "interaction_type": "click"},
                        {
                            "event_id": "e-18",
                            "user_id": "u1",
                            "item_id": "i9",
                            "interaction_type": "watchlist_add",
                            "weight": 1.0,
                            "occurred_at": "2025-12-04T23:42:15Z",
                        },
                    ],
                }
            },
        }
    },
)
async def post_interactions(
    runtime: _Needs,
    request: Request,
    on_error: Annotated[
        Literal["refuse", "skip"],
        Query(description="skip: store the good rows and list the refused", examples=["skip"]),
    ] = "refuse",
) -> JSONResponse:
    """Store one interaction, or a list of up to 10,000; what is answered is on disk."""
    body = await _body(request)
    parse = functools.partial(
        events.parse,
        body,
        types=runtime.settings.interaction_weights,
        skip_refused=on_error == "skip",
    )
    # Thousands of rows would hold up every other request.
    parsed = await run_in_threadpool(parse) if len(body) > _LARGE_BODY_BYTES else parse()
    answer = await _store(runtime, parsed.interactions)
    if on_error == "skip":
        telemetry.INTERACTIONS.labels("refused").inc(len(parsed.refused))
        answer["refused"] = [dataclasses.asdict(row) for row in parsed.refused]
    return JSONResponse(answer)


async def _store(runtime: Runtime, interactions: list[storage.Interaction]) -> dict[str, Any]:
    stored = await asyncio.wrap_future(runtime.writer.append(interactions))
    return {"status": "ok", "accepted": stored.accepted, "duplicates": stored.duplicates}


@app.get(
    "/user_interactions/{user_id:id}",
    tags=["interactions"],
    responses=_answers(
        {
            "status": "ok",
            "user_id": "u1",
            "interactions": [
                {
                    "event_id": "e-18",
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "interaction_type": "watchlist_add",
                    "weight": 1.0,
                    "occurred_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        },
        422,
    ),
)
def get_interactions(
    runtime: _Needs, user_id: _UserId, n: Annotated[int, Query(ge=1, le=1000, examples=[20])] = 20
) -> JSONResponse:
    """List a user's latest interactions, with titles."""
    user_id = events.checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        rows = storage.interactions.latest_of_user(connection, user_id, n=n)
        catalogue = storage.items.get_many(connection, {row["item_id"] for row in rows})
    for row in rows:
        item = catalogue.get(row["item_id"])
        row["title"] = None if item is None else item.title
        row["occurred_at"] = rfc3339(row["occurred_at"])
    return JSONResponse({"status": "ok", "user_id": user_id, "interactions": rows})


@app.get(
    "/watchlist/{user_id:id}",
    tags=["interactions"],
    responses=_answers(
        {
            "status": "ok",
            "user_id": "u1",
            "items": [
                {
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "attributes": {"genres": ["Animation"]},
                    "added_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        },
        422,
    ),
)
def get_watchlist(runtime: _Needs, user_id: _UserId) -> JSONResponse:
    """List a user's watchlist, the latest addition first."""
    user_id = events.checked_id("user_id", user_id)
    with runtime.database.read() as connection:
        listed = storage.interactions.watchlist_of(connection, user_id)
        catalogue = storage.items.get_many(connection, [item_id for item_id, _ in listed])
    items = []
    for item_id, added_at in listed:
        item = catalogue.get(item_id, storage.Item(item_id, None, {}))
        items.append({**item._asdict(), "added_at": rfc3339(added_at)})
    return JSONResponse({"status": "ok", "user_id": user_id, "items": items})


@app.post(
    "/watchlist/{user_id:id}/{item_id:id}",
    tags=["interactions"],
    responses=_answers(_ACCEPTED, 422, 503),
)
async def add_to_watchlist(runtime: _Needs, user_id: _UserId, item_id: _ItemId) -> JSONResponse:
    """Put an item on a user's watchlist; one that is there already is a duplicate."""
    return await _change_watchlist(runtime, user_id, item_id, "watchlist_add")


@app.delete(
    "/watchlist/{user_id:id}/{item_id:id}",
    tags=["interactions"],
    responses=_answers(_ACCEPTED, 422, 503),
)
async def remove_from_watchlist(
    runtime: _Needs, user_id: _UserId, item_id: _ItemId
) -> JSONResponse:
    """Take an item off a user's watchlist; one that is not there is a duplicate."""
    return await _change_watchlist(runtime, user_id, item_id, "watchlist_remove")


async def _change_watchlist(
    runtime: Runtime, user_id: str, item_id: str, interaction_type: str
) -> JSONResponse:
    user_id = events.checked_id("user_id", user_id)
    item_id = events.checked_id("item_id", item_id)
    row = {"user_id": user_id, "item_id": item_id, "interaction_type": interaction_type}
    parsed = events.validate([row], types=runtime.settings.interaction_weights)
    if parsed.refused:
        raise errors.DataError(f"{parsed.refused[0].field} {parsed.refused[0].message}.")
    state = await run_in_threadpool(_watchlist_state, runtime, user_id, item_id)
    is_listed, changed_at = state or (False, 0)
    if is_listed == (interaction_type == "watchlist_add"):
        return JSONResponse({"status": "ok", "accepted": 0, "duplicates": 1})
    # Of several such requests at once, each makes the same event, and one is stored. It
    # comes after the change that it answers, even one that was dated ahead.
    change = json.dumps([user_id, item_id, interaction_type, changed_at]).encode()
    interaction = parsed.interactions[0]._replace(
        event_id=f"watchlist-{hashlib.sha256(change).hexdigest()[:32]}",
        occurred_at=max(parsed.interactions[0].occurred_at, changed_at),
    )
    return JSONResponse(await _store(runtime, [interaction]))


def _watchlist_state(runtime: Runtime, user_id: str, item_id: str) -> tuple[bool, int] | None:
    with runtime.database.read() as connection:
        return storage.interactions.watchlist_state(connection, user_id, item_id)


# Answers


@app.get(
    "/recommendations/{user_id:id}",
    tags=["recommendations"],
    responses=_answers(
        {
            "status": "ok",
            "user_id": "u1",
            "model_version": 1,
            "strategy": "model",
            "items": [
                {
                    "rank": 1,
                    "item_id": "i3",
                    "score": 0.87,
                    "title": "Toy Story (1995)",
                    "attributes": {"genres": ["Animation", "Comedy"]},
                }
            ],
            "request_id": "6d1b4f0e-5a53-4f8b-9d53-0d5f3fd0b7c1",
            "generated_at": "2025-12-04T23:42:15.000000Z",
        },
        422,
        503,
    ),
)
def get_recommendations(
    runtime: _Needs,
    user_id: _UserId,
    n: Annotated[int, Query(ge=1, le=1000, description="Length of the list", examples=[10])] = 10,
) -> JSONResponse:
    """Recommend items that a user has not seen; `strategy` says how the list was made.

    ``model``: from what the user did, as the model was trained on it. ``fold_in``: from that
    and what the user has done since. ``popular``: nothing is known of the user.
    """
    answer = runtime.serving.recommend(events.checked_id("user_id", user_id), n=n)
    return JSONResponse(
        {
            "status": "ok",
            **vars(answer),
            "items": [vars(item) for item in answer.items],
            "generated_at": rfc3339(answer.generated_at),
        }
    )


# The demo data

_DEMO = {"status": "ok", "loaded": True, "interactions": 60000, "sample_users": ["user-0001"]}


@app.get("/demo", tags=["demo data"], responses=_answers(_DEMO))
def get_demo(runtime: _Needs) -> JSONResponse:
    """Say whether the demo data is in the database."""
    info = demo.info(runtime.database)
    return JSONResponse(
        {
            "status": "ok",
            # A version that demo data went into outlives a database that was lost.
            "loaded": info.is_loaded
            or any(version["is_demo"] for version in runtime.registry.versions()),
            "interactions": info.n_interactions,
            "sample_users": info.sample_users,
        }
    )


@app.delete(
    "/demo",
    tags=["demo data"],
    responses=_answers({"status": "ok", "interactions": 60000, "versions": [1]}, 503),
)
def delete_demo(runtime: _Needs) -> JSONResponse:
    """Remove the demo data, and the versions that were trained on it."""
    cleared = demo.clear(runtime.database, actor="api")
    versions = runtime.registry.delete_demo(actor="api")
    runtime.serving.refresh()
    return JSONResponse({"status": "ok", "interactions": cleared, "versions": versions})


# Operation


@app.get("/health/live", tags=["operation"], responses=_answers({"status": "ok"}))
async def live() -> JSONResponse:
    """Say that the process runs."""
    return JSONResponse({"status": "ok"})


_READY = {"status": "ok", "problems": [], "model_version": 2, "offer_version": None}
_NOT_READY = {
    "status": "unavailable",
    "problems": [
        "The active version 2 cannot be loaded: model-000002.safetensors is missing from "
        "/app/models. Version 1 is sound: POST /models/1/activate, or retrain."
    ],
    "model_version": None,
    "offer_version": 1,
}


@app.get(
    "/health/ready",
    tags=["operation"],
    responses=_answers(_READY)
    | {
        503: {
            "description": "Not ready",
            "content": {"application/json": {"example": _NOT_READY}},
        }
    },
)
def ready(runtime: _Needs) -> JSONResponse:
    """Say whether the process can do its work; 503 while it cannot."""
    readiness = runtime.serving.readiness()
    status = 503 if readiness.status == "unavailable" else 200
    return JSONResponse(dataclasses.asdict(readiness), status)


_METRICS = """# HELP reckeeper_served_version Model version in memory; 0 when there is none.
# TYPE reckeeper_served_version gauge
reckeeper_served_version 2.0
"""


@app.get(
    "/metrics",
    tags=["operation"],
    response_class=Response,
    responses={200: {"description": "Done", "content": {"text/plain": {"example": _METRICS}}}},
)
async def metrics() -> Response:
    """Return this process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), media_type=telemetry.METRICS_CONTENT_TYPE)


def main() -> None:
    """Serve until a signal ends the process."""
    telemetry.configure_logging("server")
    try:
        settings = Settings.from_env()
        training.next_run(settings)
        storage.open_database(settings).close()
    except errors.ReckeeperError as exc:
        _log.error("server_not_started", error=exc.message)
        sys.exit(2)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.server_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
