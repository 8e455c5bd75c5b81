"""Versions: what there is, what serves, and what served when."""

import functools
from datetime import UTC, datetime
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import artifact, clock, errors, serving, training
from reckeeper.api import bodies, examples, parameters
from reckeeper.api.parameters import ActorName, Before, Limit, Reason, ReasonQuery, Version
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.registry import ActiveModel
from reckeeper.security import actor_of

router = APIRouter(tags=["versions"])

_ANSWER = {"status": "ok", "model": examples.WHOLE_MODEL}
_ZIP_SCHEMA = {"type": "string", "format": "binary"}


@router.get("/models", responses=examples.answers({"status": "ok", "models": [examples.MODEL]}))
def get_models(runtime: Needs) -> JSONResponse:
    """List all versions with their metadata, the newest first."""
    return JSONResponse({"status": "ok", "models": runtime.registry.versions()})


@router.get(
    "/timeline",
    responses=examples.answers({"status": "ok", "timeline": [examples.ENTRY]}, 422),
)
def get_timeline(runtime: Needs, limit: Limit = 50, before: Before = None) -> JSONResponse:
    """List what served when, who switched, and why, the latest first."""
    entries = runtime.registry.timeline(limit=limit, before=before)
    return JSONResponse({"status": "ok", "timeline": entries})


@router.post("/models/rollback", responses=examples.answers(_ANSWER, 404, 409, 422))
def roll_back(runtime: Needs, actor_name: ActorName, why: Reason | None = None) -> JSONResponse:
    """Let the version serve again that served before; once more: the one before that."""
    version = runtime.registry.rollback_target()
    runtime.registry.roll_back(
        _sound(runtime, version), actor=actor_of(actor_name), reason=parameters.given(why)
    )
    runtime.serving.refresh()
    return _answer(runtime, version)


@router.post(
    "/models/import",
    responses=examples.answers(_ANSWER, 413, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "What `GET /models/{version}/download` gave, here or elsewhere.",
            "content": {"application/zip": {"schema": _ZIP_SCHEMA}},
        }
    },
)
async def import_model(runtime: Needs, actor_name: ActorName, request: Request) -> JSONResponse:
    """Take in a version of another installation; it gets a number of its own, and is inactive."""
    with bodies.scratch(runtime.settings.model_dir) as folder:
        path = folder / "bundle.zip"
        await bodies.save(request, path, limit=artifact.MAX_BUNDLE_BYTES)
        take_in = functools.partial(
            runtime.registry.import_bundle,
            path,
            actor=actor_of(actor_name),
            cell_limit=runtime.settings.prediction_cell_limit,
        )
        async with runtime.transfers:
            try:
                version = await run_in_threadpool(take_in)
            except errors.ArtifactError as exc:
                raise errors.DataError(f"The file is not taken in: {exc.message}") from exc
    return await run_in_threadpool(_answer, runtime, version)


@router.get("/models/{version}", responses=examples.answers(_ANSWER, 404, 422))
def get_model(runtime: Needs, version: Version) -> JSONResponse:
    """Describe one version, with all that is known of it."""
    return _answer(runtime, version)


class Note(BaseModel):
    """What people write on a version; null takes it away."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"note": "the one before the sale"}]}
    )
    note: Annotated[str, Field(max_length=10_000)] | None


@router.patch("/models/{version}", responses=examples.answers(_ANSWER, 404, 422))
def set_note(runtime: Needs, actor_name: ActorName, version: Version, note: Note) -> JSONResponse:
    """Write a note on a version."""
    runtime.registry.note(version, note.note, actor=actor_of(actor_name))
    return _answer(runtime, version)


@router.delete(
    "/models/{version}",
    responses=examples.answers({"status": "ok", "version": 1}, 404, 409, 422),
)
def delete_model(
    runtime: Needs, actor_name: ActorName, version: Version, reason: ReasonQuery = None
) -> JSONResponse:
    """Delete a version that neither serves nor is pinned, with its files; the trail stays."""
    runtime.registry.delete(version, actor=actor_of(actor_name), reason=reason)
    return JSONResponse({"status": "ok", "version": version})


@router.post("/models/{version}/activate", responses=examples.answers(_ANSWER, 404, 409, 422))
def activate(
    runtime: Needs, actor_name: ActorName, version: Version, why: Reason | None = None
) -> JSONResponse:
    """Let a version serve; every process takes it up within half a second."""
    runtime.registry.activate(
        _sound(runtime, version), actor=actor_of(actor_name), reason=parameters.given(why)
    )
    runtime.serving.refresh()
    return _answer(runtime, version)


def _only_text(value: Any) -> Any:
    if not isinstance(value, str) or "T" not in value:
        raise ValueError("must be a time as 2026-01-31T12:00:00Z")
    return value


def _to_come(moment: datetime) -> datetime:
    if not datetime.now(UTC) < moment < datetime(9999, 1, 1, tzinfo=UTC):
        raise ValueError("must lie in the future, and before the year 9999")
    return moment


class Pin(Reason):
    """Until when a version is pinned, and why; both may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"until": "2126-01-31T12:00:00Z", "reason": "the sale must not change"}]
        },
    )
    until: (
        Annotated[AwareDatetime, BeforeValidator(_only_text), AfterValidator(_to_come)] | None
    ) = None


@router.post("/models/{version}/pin", responses=examples.answers(_ANSWER, 404, 409, 422))
def pin(
    runtime: Needs, actor_name: ActorName, version: Version, asked: Pin | None = None
) -> JSONResponse:
    """Let no training replace a version while it serves, and nothing delete it."""
    until = None if asked is None else asked.until
    runtime.registry.pin(
        version,
        actor=actor_of(actor_name),
        until=None if until is None else clock.microseconds(until),
        reason=parameters.given(asked),
    )
    return _answer(runtime, version)


@router.delete("/models/{version}/pin", responses=examples.answers(_ANSWER, 404, 409, 422))
def unpin(
    runtime: Needs, actor_name: ActorName, version: Version, reason: ReasonQuery = None
) -> JSONResponse:
    """Take a pin away."""
    runtime.registry.unpin(version, actor=actor_of(actor_name), reason=reason)
    return _answer(runtime, version)


@router.get(
    "/models/{version}/compare/{other}",
    responses=examples.answers(examples.COMPARISON, 404, 409, 422),
)
async def compare(
    runtime: Needs,
    version: Version,
    other: Version,
    k: Annotated[int, Query(ge=1, le=100, description="Length of the lists", examples=[10])] = 10,
    users: Annotated[
        int, Query(ge=1, le=20_000, description="Users to draw by lot", examples=[2000])
    ] = 2000,
) -> JSONResponse:
    """Compare two versions: what they are, and what users would see of each."""
    async with runtime.comparisons:
        compared = await run_in_threadpool(_compared, runtime, version, other, k=k, n_users=users)
    return JSONResponse({"status": "ok", **compared})


def _compared(
    runtime: Runtime, version: int, other: int, *, k: int, n_users: int
) -> dict[str, Any]:
    versions = runtime.registry
    return training.compare_versions(
        versions.load(version),
        versions.load(other),
        first_row=versions.version(version),
        second_row=versions.version(other),
        k=k,
        n_users=n_users,
    )


@router.get(
    "/models/{version}/download",
    response_class=Response,
    responses=examples.media("application/zip", {"schema": _ZIP_SCHEMA}, 404, 409, 422, 503),
)
async def download(runtime: Needs, version: Version) -> Response:
    """Give a version with its metrics and history as a file that another installation imports."""
    async with runtime.transfers:
        file, n_bytes = await run_in_threadpool(_exported, runtime, version)
    return bodies.Streamed(
        bodies.content_of(file),
        media_type="application/zip",
        headers={
            "Content-Length": str(n_bytes),
            "Content-Disposition": f'attachment; filename="reckeeper-model-{version:06d}.zip"',
        },
    )


def _exported(runtime: Runtime, version: int) -> tuple[IO[bytes], int]:
    """Return a version as an open file that is gone once it is closed, and its size."""
    with bodies.scratch(runtime.settings.model_dir) as folder:
        path = folder / "bundle.zip"
        runtime.registry.export_bundle(version, path)
        return path.open("rb"), path.stat().st_size


def _answer(runtime: Runtime, version: int) -> JSONResponse:
    return JSONResponse({"status": "ok", "model": runtime.registry.version(version)})


def _sound(runtime: Runtime, version: int) -> ActiveModel:
    """Return a version that can be loaded and answers.

    Raises
    ------
    NotFoundError
        There is none of this number.
    ArtifactError
        Its file is not sound; the message says what to do.
    """
    try:
        model = runtime.registry.load(version)
        serving.trial(model)
    except errors.ArtifactError as exc:
        raise errors.ArtifactError(
            f"Version {version} cannot serve: {exc.message} Activate another version, or retrain."
        ) from exc
    return model
