"""The audit trail: who changed what, and whether it is whole."""

import dataclasses

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from reckeeper import audit, wire
from reckeeper.api.answers import failures
from reckeeper.api.parameters import Before, Limit
from reckeeper.api.runtime import Needs

router = APIRouter(tags=["audit"])


@router.get("/audit", responses=failures(422))
def list_audit_entries(runtime: Needs, limit: Limit = 50, before: Before = None) -> wire.AuditPage:
    """List who changed what, and why, the latest first."""
    entries = audit.entries(runtime.database, limit=limit, before=before)
    return wire.AuditPage.model_validate({"entries": entries})


@router.get("/audit/verify")
async def verify_audit(runtime: Needs) -> wire.AuditCheck:
    """Say whether the trail is whole: nothing altered, removed, reordered or cut."""
    async with runtime.transfers:
        found = await run_in_threadpool(audit.verify, runtime.database, runtime.settings)
    problem = found.problem and runtime.settings.without_folders(found.problem)
    return wire.AuditCheck.model_validate(dataclasses.replace(found, problem=problem))
