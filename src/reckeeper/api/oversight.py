"""The policy, and the trail of who changed what."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from reckeeper import audit
from reckeeper import policy as policies
from reckeeper.api import examples
from reckeeper.api.parameters import ActorName, Before, Limit, ReasonQuery, Revision
from reckeeper.api.runtime import Needs
from reckeeper.security import actor_of

router = APIRouter()

_POLICY = {"status": "ok", **examples.POLICY}
_SCHEMA = policies.Policy.model_json_schema()
_SCHEMA["properties"]["promotion"] = _SCHEMA.pop("$defs")["Promotion"]
_CHECKED = {"status": "ok", "ok": True, "n_entries": 12, "problem": None, "entry_id": None}


@router.get("/policy", tags=["policy"], responses=examples.answers(_POLICY))
def get_policy(runtime: Needs) -> JSONResponse:
    """Return the policy in force: the last that was stored, or else the environment's."""
    with runtime.database.read() as connection:
        stored = policies.current(connection, runtime.settings)
    return JSONResponse({"status": "ok", **policies.describe(stored)})


@router.put(
    "/policy",
    tags=["policy"],
    responses=examples.answers(_POLICY, 409, 422),
    openapi_extra={
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": _SCHEMA,
                    "example": examples.POLICY["policy"],
                }
            }
        }
    },
)
def put_policy(
    runtime: Needs,
    actor_name: ActorName,
    policy: Annotated[dict[str, Any], Body()],
    if_revision: Revision = None,
    reason: ReasonQuery = None,
) -> JSONResponse:
    """Store a policy, in force from now on; a field that is left out has its default.

    One that cannot be used is refused as a whole, and `details` names the field. The secret
    given as `***` stays as it is.
    """
    stored = policies.store(
        runtime.database,
        runtime.settings,
        policy,
        actor=actor_of(actor_name),
        reason=reason,
        if_revision=if_revision,
    )
    return JSONResponse({"status": "ok", **policies.describe(stored)})


@router.get(
    "/policy/history",
    tags=["policy"],
    responses=examples.answers({"status": "ok", "policies": [examples.POLICY]}, 422),
)
def get_policy_history(runtime: Needs, limit: Limit = 20, before: Before = None) -> JSONResponse:
    """List the policies that were stored, the latest first."""
    with runtime.database.read() as connection:
        listed = policies.history(connection, limit=limit, before=before)
    return JSONResponse({"status": "ok", "policies": listed})


@router.get(
    "/audit",
    tags=["audit"],
    responses=examples.answers({"status": "ok", "entries": [examples.AUDIT_ENTRY]}, 422),
)
def get_audit(runtime: Needs, limit: Limit = 50, before: Before = None) -> JSONResponse:
    """List who changed what, and why, the latest first."""
    entries = audit.entries(runtime.database, limit=limit, before=before)
    return JSONResponse({"status": "ok", "entries": entries})


@router.get("/audit/verify", tags=["audit"], responses=examples.answers(_CHECKED))
async def verify_audit(runtime: Needs) -> JSONResponse:
    """Say whether the trail is whole: nothing altered, removed, reordered or cut."""
    async with runtime.transfers:
        found = await run_in_threadpool(audit.verify, runtime.database, runtime.settings)
    return JSONResponse(
        {
            "status": "ok",
            "ok": found.ok,
            "n_entries": found.n_entries,
            "problem": found.problem,
            "entry_id": found.entry_id,
        }
    )
