"""What is done with all that is known of a user."""

import tempfile
from typing import IO, Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import people, storage, wire
from reckeeper.api import bodies
from reckeeper.api.answers import failures
from reckeeper.api.parameters import ActorName, Before, Limit, ReasonQuery, UserId
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.interactions import checked_id
from reckeeper.security import actor_of

router = APIRouter(tags=["people"])

_IN_MEMORY_BYTES = 4 * 1024**2


@router.post("/users/{user_id:id}/merge", responses=failures(409, 413, 422))
def merge_users(
    runtime: Needs, actor_name: ActorName, user_id: UserId, asked: wire.MergeRequest
) -> wire.Merge:
    """Give a visitor's interactions and watchlist to an account, as after a login.

    Whatever comes under the visitor's id from then on is the account's too: give visitors a new
    id after a logout. Asked again it changes nothing. It cannot be taken back.
    """
    user_id = checked_id("user_id", user_id)
    n_moved = people.merge(
        runtime.database,
        user_id,
        checked_id("from", asked.from_),
        actor=actor_of(actor_name),
    )
    runtime.newer.follow_up()
    return wire.Merge(user_id=user_id, interactions=n_moved)


@router.delete("/users/{user_id:id}", responses=failures(422))
def erase_user(
    runtime: Needs, actor_name: ActorName, user_id: UserId, reason: ReasonQuery = None
) -> wire.ErasureAnswer:
    """Erase a person, known or not: everything that is kept of them goes for good.

    What occurred before now is not taken again from anywhere; what they do later is. The receipt
    says what was removed and what is left to be done: where the active version was shaped by
    them, the worker retrains. Asked again, it removes what there is by then.
    """
    erasure = people.erase(
        runtime.database,
        runtime.registry,
        runtime.settings,
        checked_id("user_id", user_id),
        actor=actor_of(actor_name),
        reason=reason,
    )
    runtime.newer.follow_up()
    return wire.ErasureAnswer(erasure=_told(runtime, erasure))


@router.get(
    "/users/{user_id:id}/export",
    response_model=wire.PersonalData,
    responses=failures(422),
)
async def export_user(runtime: Needs, user_id: UserId) -> Response:
    """Give a person all that is kept of them: interactions, watchlist, merged ids."""
    file, n_bytes = await run_in_threadpool(_exported, runtime, checked_id("user_id", user_id))
    return bodies.Streamed(
        bodies.content_of(file),
        media_type="application/json",
        headers={"Content-Length": str(n_bytes)},
    )


@router.get("/erasures", responses=failures(422))
def list_erasures(runtime: Needs, limit: Limit = 50, before: Before = None) -> wire.ErasurePage:
    """List the receipts of erasures, the latest first; they name nobody."""
    rows = people.receipts(runtime.database, limit=limit, before=before)
    return wire.ErasurePage(erasures=[_told(runtime, row) for row in rows])


@router.get("/erasures/{erasure_id}", responses=failures(404, 422))
def get_erasure(
    runtime: Needs, erasure_id: Annotated[int, Path(ge=1, lt=2**63, examples=[1])]
) -> wire.ErasureAnswer:
    """Give the receipt of an erasure, as far as it has come."""
    erasure = people.receipt(runtime.database, erasure_id)
    return wire.ErasureAnswer(erasure=_told(runtime, erasure))


def _exported(runtime: Runtime, user_id: str) -> tuple[IO[bytes], int]:
    """Return a person's data as an open file that is gone once it is closed, and its size."""
    # Most fit into memory; what does not has no name on the disk.
    file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115
    for part in people.export(runtime.database, user_id):
        file.write(part)
    n_bytes = file.tell()
    file.seek(0)
    return file, n_bytes


def _told(runtime: Runtime, erasure: storage.Erasure) -> wire.Erasure:
    told = {
        **vars(erasure),
        "state": erasure.status,
        "log_is_empty": erasure.is_wiped,
        "is_genuine": people.is_genuine(runtime.database, erasure),
    }
    return wire.Erasure.model_validate(told)
