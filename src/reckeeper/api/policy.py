"""The policy in force, and those before it."""

import functools
from typing import Annotated

from fastapi import APIRouter, Body

from reckeeper import policy as policies
from reckeeper import wire
from reckeeper.api import openapi
from reckeeper.api.answers import failures
from reckeeper.api.parameters import ActorName, Before, Limit, ReasonQuery, Revision
from reckeeper.api.runtime import Needs
from reckeeper.security import actor_of, see_that_may_change

router = APIRouter(tags=["policy"])


@router.get("/policy")
def get_policy(runtime: Needs) -> wire.PolicyAnswer:
    """Return the policy in force: the last that was stored, or else the environment's."""
    with runtime.database.read() as connection:
        stored = policies.current(connection, runtime.settings)
    return policies.describe(stored)


@router.put(
    "/policy",
    responses=failures(409, 413, 422),
    openapi_extra=openapi.body(openapi.reference("PolicyChange")),
)
def set_policy(
    runtime: Needs,
    actor_name: ActorName,
    policy: Annotated[wire.JsonObject, Body()],
    if_revision: Revision = None,
    reason: ReasonQuery = None,
) -> wire.PolicyAnswer:
    """Store a policy, which is in force from now on; a field that is left out has its default.

    One that cannot be used is refused as a whole, and `details` names the field. The secret
    given as `***` stays as it is. What begins with `backup_` only the role `admin` changes.
    """
    stored = policies.store(
        runtime.database,
        runtime.settings,
        policy,
        actor=actor_of(actor_name),
        reason=reason,
        if_revision=if_revision,
        see_that_may_change=functools.partial(see_that_may_change, actor_name),
    )
    return policies.describe(stored)


@router.get("/policy/history", responses=failures(422))
def list_policies(runtime: Needs, limit: Limit = 20, before: Before = None) -> wire.PolicyHistory:
    """List the policies that were stored, the latest first."""
    with runtime.database.read() as connection:
        listed = policies.history(connection, limit=limit, before=before)
    return wire.PolicyHistory(policies=listed)
