"""Files to import: sent, watched, and undone."""

import asyncio
import csv
import dataclasses
import io
import itertools
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import IO, Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import clock, errors, storage, wire
from reckeeper.api import bodies, importing, openapi, uploads
from reckeeper.api.answers import BINARY, Json, content, failures, other
from reckeeper.api.parameters import ActorName, Before, ImportId, Limit
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.api.uploads import Upload
from reckeeper.events import imports
from reckeeper.security import actor_of
from reckeeper.wire.imports import as_fields

router = APIRouter(tags=["imports"])

_UNDO_SECONDS = 5.0
_ROWS_AT_ONCE = 5_000

Options = Annotated[wire.ImportOptions, Query()]

_FILE = openapi.bodies(
    {
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "type": "object",
            "properties": {uploads.FILE: BINARY, uploads.CATALOGUE: BINARY},
            "required": [uploads.FILE],
        },
    }
)


@router.post(
    "/imports",
    status_code=202,
    response_model=wire.ImportAnswer,
    response_description="Stored; its import runs",
    responses=failures(409, 413, 422),
    openapi_extra=_FILE,
)
async def create_import(
    runtime: Needs, request: Request, actor_name: ActorName, options: Options
) -> Json:
    """Import interactions from a file, which is the body, or the part `file` of a form.

    The file is stored first, a part at a time, and read once it is here: the answer is 202 with
    the import's number as soon as its form and columns are known. A form may have a second part
    `catalogue`, a file of items. `GET /imports/{import_id}` tells how far it is. Sending the same
    file again adds what is missing.
    """
    asked = importing.asked(options, actor=actor_of(actor_name))
    upload = await _received(runtime, request, options)
    import_id = await asyncio.wrap_future(runtime.imports.start(upload, asked))
    response = Json(await run_in_threadpool(_answer, runtime, import_id), 202)
    response.headers["Location"] = f"/imports/{import_id}"
    return response


@router.post("/imports/preview", responses=failures(413, 422), openapi_extra=_FILE)
async def preview_import(runtime: Needs, request: Request, options: Options) -> wire.ImportPreview:
    """Tell what a file is found to be, and show its first 20 rows; nothing is stored.

    It is sent as to `POST /imports`, with the same options.
    """
    asked = importing.asked(options, actor="api")
    types = runtime.policy.current().policy.weights
    with await _received(runtime, request, options) as upload:
        return await run_in_threadpool(importing.previewed, upload, asked, types=types)


@router.get("/imports", responses=failures(422))
def list_imports(runtime: Needs, limit: Limit = 20, before: Before = None) -> wire.ImportPage:
    """List imports, the latest first: what they brought, how far they are, why one failed."""
    rows = imports.page(runtime.database, limit=limit, before=before)
    return wire.ImportPage.model_validate({"imports": [_described(runtime, row) for row in rows]})


@router.get("/imports/{import_id}", responses=failures(404, 422))
def get_import(runtime: Needs, import_id: ImportId) -> wire.ImportAnswer:
    """Describe one import: how far it is, at what rate, and why rows were refused."""
    return _answer(runtime, import_id)


@router.get(
    "/imports/{import_id}/refused",
    response_class=Response,
    responses=content("text/csv", {"type": "string"}) | failures(404, 422),
)
async def get_refused(runtime: Needs, import_id: ImportId) -> Response:
    """Give all rows that an import refused as CSV: file, line, column, value and reason."""
    file = await run_in_threadpool(_report, runtime, import_id)
    return bodies.Streamed(
        _in_fields(file),
        media_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="import-{import_id}-refused.csv"'},
    )


@router.delete(
    "/imports/{import_id}",
    response_model=wire.ImportUndone,
    responses=failures(404, 409, 422)
    | other(202, wire.ImportUndone, "It takes longer: the import says when it is undone"),
)
async def undo_import(runtime: Needs, actor_name: ActorName, import_id: ImportId) -> Json:
    """Take out what an import brought, interactions and items; one that runs ends first.

    Models keep what they learned until the next retrain. Asked again after a crash, it takes out
    the rest.
    """
    undone = asyncio.wrap_future(runtime.imports.undo(import_id, actor=actor_of(actor_name)))
    done, _ = await asyncio.wait({undone}, timeout=_UNDO_SECONDS)
    if not done:
        return Json(wire.ImportUndone(import_id=import_id, interactions=None, items=None), 202)
    found = undone.result()
    return Json(
        wire.ImportUndone(import_id=import_id, interactions=found.interactions, items=found.items)
    )


async def _received(runtime: Runtime, request: Request, options: wire.ImportOptions) -> Upload:
    """Store what is sent; whoever gets it deletes it."""
    upload = await run_in_threadpool(Upload, runtime.settings.data_dir / "imports")
    try:
        await uploads.receive(
            request, upload, name=options.filename, limit=runtime.settings.max_upload_bytes
        )
    except BaseException:
        upload.remove()
        raise
    return upload


async def _in_fields(report: IO[str]) -> AsyncGenerator[bytes, None]:
    """Yield a report of refused rows with reasons that name the fields of `wire.ImportOptions`."""
    with report:
        rows = csv.reader(report)
        while part := await run_in_threadpool(lambda: [*itertools.islice(rows, _ROWS_AT_ONCE)]):
            text = io.StringIO()
            csv.writer(text).writerows([*row[:-1], as_fields(row[-1])] for row in part)
            yield text.getvalue().encode()


def _answer(runtime: Runtime, import_id: int) -> wire.ImportAnswer:
    row = imports.find_import(runtime.database, import_id)
    return wire.ImportAnswer.model_validate({"import": _described(runtime, row)})


def _described(runtime: Runtime, row: storage.Import) -> wire.JsonObject:
    is_running = row.status == storage.imports.RUNNING
    ended_at = row.finished_at or (clock.now() if is_running else row.updated_at)
    seconds = max(0, ended_at - row.started_at) / 1e6
    n_rows = row.accepted + row.duplicates + row.refused + row.items
    left = None
    if is_running and 0 < row.bytes_done < row.bytes_total:  # what is read is not yet written
        left = seconds * (row.bytes_total - row.bytes_done) / row.bytes_done
    return {
        **{each.name: getattr(row, each.name) for each in dataclasses.fields(row)},
        "source": Path(row.source).name if row.source.startswith("/") else row.source,
        "reason": row.reason and _by_names(runtime, row),
        "rows": n_rows,
        "rows_per_second": n_rows / seconds if seconds > 0 and n_rows else None,
        "seconds_left": left,
        "has_report": row.report is not None,
    }


def _by_names(runtime: Runtime, row: storage.Import) -> str:
    """Return why an import failed; files are named, and not where they are."""
    reason = uploads.by_name(runtime.settings.data_dir / "imports", row.reason or "")
    for file in (row.source, row.report or ""):
        if file.startswith("/"):
            reason = reason.replace(file, Path(file).name)
    return runtime.settings.without_folders(reason)


def _report(runtime: Runtime, import_id: int) -> IO[str]:
    row = imports.find_import(runtime.database, import_id)
    path = runtime.settings.data_dir / "imports" / f"{import_id}-refused.csv"
    try:
        return path.open(newline="", encoding="utf-8")
    except OSError as exc:
        said = (
            "refused no row."
            if row.report is None
            else f"has its report elsewhere, in {Path(row.report).name} where it was told to."
        )
        raise errors.NotFoundError(f"Import {import_id} {said}") from exc
