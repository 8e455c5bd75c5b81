"""Versions: which there are, which one is active, and which was when."""

import dataclasses
import functools
import os
from typing import IO, Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import artifact, clock, errors, origins, serving, snapshot, wire
from reckeeper.api import bodies, openapi, parameters
from reckeeper.api.answers import (
    BINARY,
    UNCHANGED,
    IfNoneMatch,
    content,
    failures,
    tagged,
)
from reckeeper.api.parameters import ActorName, Before, Limit, ReasonQuery, Version
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.registry import ActiveModel
from reckeeper.security import actor_of

router = APIRouter(tags=["versions"])


@router.get("/models", response_model=wire.ModelList, responses=UNCHANGED)
def list_models(runtime: Needs, known: IfNoneMatch = None) -> Response:
    """List all versions with their metadata, the newest first."""
    listed = wire.ModelList.model_validate({"models": runtime.registry.versions.all()})
    return tagged(listed, known)


@router.get("/timeline", responses=failures(422))
def list_timeline(runtime: Needs, limit: Limit = 50, before: Before = None) -> wire.TimelinePage:
    """List what was active when, who switched, and why, the latest first."""
    entries = runtime.registry.switch.timeline(limit=limit, before=before)
    return wire.TimelinePage.model_validate(
        {"timeline": entries, "rollback_version": runtime.registry.switch.rollback_version()}
    )


@router.post("/models/rollback", responses=failures(404, 409, 413, 422))
def roll_back(
    runtime: Needs, actor_name: ActorName, why: wire.Explanation | None = None
) -> wire.ModelAnswer:
    """Activate the version again that was active before; once more: the one before that."""
    version = runtime.registry.switch.rollback_target()
    model = _sound(runtime, version)
    with runtime.serving.expecting(model):
        runtime.registry.switch.roll_back(
            model, actor=actor_of(actor_name), reason=parameters.given(why)
        )
    return _answer(runtime, version)


@router.post(
    "/models/import",
    responses=failures(413, 422, 503),
    openapi_extra=openapi.bodies(dict.fromkeys(("application/zip", origins.UNTYPED), BINARY)),
)
async def import_model(runtime: Needs, actor_name: ActorName, request: Request) -> wire.ModelAnswer:
    """Take in a version of another installation; it gets a number of its own, and is inactive.

    The body is what `GET /models/{version}/download` gave, here or elsewhere.
    """
    with bodies.scratch(runtime.settings.model_dir) as folder:
        path = folder / "bundle.zip"
        await bodies.save(request, path, limit=artifact.MAX_BUNDLE_BYTES)
        take_in = functools.partial(
            runtime.registry.transfer.import_bundle,
            path,
            actor=actor_of(actor_name),
            cell_limit=runtime.settings.prediction_cell_limit,
        )
        async with runtime.transfers:
            try:
                version = await run_in_threadpool(take_in)
            except errors.ArtifactError as exc:
                raise errors.DataError(f"The file was not imported: {exc.message}") from exc
    return await run_in_threadpool(_answer, runtime, version)


@router.get(
    "/models/{version}",
    response_model=wire.ModelAnswer,
    responses=UNCHANGED | failures(404, 422),
)
def get_model(runtime: Needs, version: Version, known: IfNoneMatch = None) -> Response:
    """Describe one version, with all that is known of it."""
    return tagged(_answer(runtime, version), known)


@router.patch("/models/{version}", responses=failures(404, 413, 422))
def update_model(
    runtime: Needs, actor_name: ActorName, version: Version, note: wire.ModelChange
) -> wire.ModelAnswer:
    """Write a note on a version."""
    runtime.registry.versions.note(version, note.note, actor=actor_of(actor_name))
    return _answer(runtime, version)


@router.delete(
    "/models/{version}",
    responses=failures(404, 409, 422),
)
def delete_model(
    runtime: Needs, actor_name: ActorName, version: Version, reason: ReasonQuery = None
) -> wire.Deletion:
    """Delete a version that is neither active nor pinned, with its files; the trail stays."""
    runtime.registry.versions.delete(version, actor=actor_of(actor_name), reason=reason)
    return wire.Deletion(version=version)


@router.post("/models/{version}/activate", responses=failures(404, 409, 413, 422))
def activate_model(
    runtime: Needs, actor_name: ActorName, version: Version, why: wire.Explanation | None = None
) -> wire.ModelAnswer:
    """Activate a version; every process takes it up within half a second."""
    model = _sound(runtime, version)
    with runtime.serving.expecting(model):
        runtime.registry.switch.activate(
            model, actor=actor_of(actor_name), reason=parameters.given(why)
        )
    return _answer(runtime, version)


@router.post("/models/{version}/pin", responses=failures(404, 409, 413, 422))
def pin_model(
    runtime: Needs, actor_name: ActorName, version: Version, asked: wire.Pin | None = None
) -> wire.ModelAnswer:
    """Let no training replace a version while it is active, and nothing delete it."""
    until = None if asked is None else asked.until
    runtime.registry.versions.pin(
        version,
        actor=actor_of(actor_name),
        until=None if until is None else clock.microseconds(until),
        reason=parameters.given(asked),
    )
    return _answer(runtime, version)


@router.delete("/models/{version}/pin", responses=failures(404, 409, 422))
def unpin_model(
    runtime: Needs, actor_name: ActorName, version: Version, reason: ReasonQuery = None
) -> wire.ModelAnswer:
    """Unpin a version."""
    runtime.registry.versions.unpin(version, actor=actor_of(actor_name), reason=reason)
    return _answer(runtime, version)


@router.get(
    "/models/{version}/compare/{other}",
    responses=failures(404, 409, 422),
)
async def compare_models(
    runtime: Needs,
    version: Version,
    other: Version,
    k: Annotated[int, Query(ge=1, le=100, description="Length of the lists", examples=[10])] = 10,
    users: Annotated[
        int, Query(ge=1, le=20_000, description="Users to draw at random", examples=[2000])
    ] = 2000,
) -> wire.Comparison:
    """Compare two versions: what they are, and what users would see of each."""
    async with runtime.comparisons:
        return await run_in_threadpool(_compared, runtime, version, other, k=k, n_users=users)


def _compared(
    runtime: Runtime, version: int, other: int, *, k: int, n_users: int
) -> wire.Comparison:
    versions = runtime.registry.versions
    first, second = versions.load(version), versions.load(other)
    mapped = snapshot.opened(runtime.settings.model_dir, installation_id=runtime.installation_id)
    with runtime.database.read() as connection:
        everybody = serving.Everybody(connection, mapped, policy=runtime.policy)
        compared = serving.compare_versions(
            first, second, everybody, catalogue=runtime.catalogue, k=k, n_users=n_users
        )
    return wire.Comparison.model_validate(
        {
            **dataclasses.asdict(compared),
            "first": versions.describe(version),
            "second": versions.describe(other),
        }
    )


@router.get(
    "/models/{version}/download",
    response_class=Response,
    responses=content("application/zip", BINARY) | failures(404, 409, 422),
)
async def download_model(runtime: Needs, version: Version) -> Response:
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


@router.get(
    "/models/{version}/pickle",
    response_class=Response,
    responses=content("application/octet-stream", BINARY) | failures(404, 410, 422),
)
async def download_pickle(runtime: Needs, version: Version) -> Response:
    """Give a version's pickle, with its users; 410 once somebody in it was erased.

    That of a version which is active after an erasure, or becomes so, has no users.
    """
    path = await run_in_threadpool(runtime.registry.pickles.path, version)
    file = path.open("rb")
    return bodies.Streamed(
        bodies.content_of(file),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="{path.name}"',
        },
    )


def _exported(runtime: Runtime, version: int) -> tuple[IO[bytes], int]:
    """Return a version as an open file that is gone once it is closed, and its size."""
    with bodies.scratch(runtime.settings.model_dir) as folder:
        path = folder / "bundle.zip"
        runtime.registry.transfer.export_bundle(version, path)
        return path.open("rb"), path.stat().st_size


def _answer(runtime: Runtime, version: int) -> wire.ModelAnswer:
    return wire.ModelAnswer.model_validate({"model": runtime.registry.versions.describe(version)})


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
        model = runtime.registry.versions.load(version)
        serving.check(model)
    except errors.ArtifactError as exc:
        raise errors.ArtifactError(
            f"Version {version} cannot be activated: {exc.message} Activate another version, or "
            "retrain."
        ) from exc
    return model
