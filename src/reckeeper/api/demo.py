"""The demo data: whether it is there, and its removal."""

from fastapi import APIRouter

from reckeeper import wire
from reckeeper.api.answers import failures
from reckeeper.api.parameters import ActorName
from reckeeper.api.runtime import Needs
from reckeeper.events import demo
from reckeeper.security import actor_of

router = APIRouter(tags=["demo data"])


@router.get("/demo")
def get_demo(runtime: Needs) -> wire.Demo:
    """Say whether the demo data is in the database."""
    info = demo.info(runtime.database)
    return wire.Demo(
        # A version that demo data went into outlives a database that was lost.
        loaded=info.is_loaded or runtime.registry.versions.has_demo(),
        interactions=info.n_interactions,
        sample_users=list(info.sample_users),
    )


@router.delete("/demo", responses=failures(422))
def delete_demo(runtime: Needs, actor_name: ActorName) -> wire.DemoCleared:
    """Remove the demo data, and the versions that were trained on it."""
    actor = actor_of(actor_name)
    cleared = demo.clear(runtime.database, actor=actor)
    versions = runtime.registry.switch.delete_demo(actor=actor)
    runtime.serving.refresh()
    return wire.DemoCleared(interactions=cleared, versions=versions)
