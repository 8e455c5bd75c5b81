"""Operation: whether the process lives and works, and its metrics."""

from fastapi import APIRouter, Response

from reckeeper import telemetry, wire
from reckeeper.api.answers import Json, content, other
from reckeeper.api.parameters import Asker
from reckeeper.api.runtime import Needs

router = APIRouter(tags=["operation"])


@router.get("/health/live")
async def get_liveness() -> wire.Liveness:
    """Say that the process runs."""
    return wire.Liveness()


@router.get(
    "/health/ready",
    response_model=wire.Readiness,
    responses=other(503, wire.Readiness, "Not ready"),
)
async def get_readiness(runtime: Needs, asker: Asker) -> Json:
    """Say whether the process can do its work; 503 while it cannot.

    A probe needs no key. What stands in the way is told to keys that may read everything, where
    keys are needed.
    """
    readiness = runtime.readiness()
    status = 503 if readiness.status == "unavailable" else 200
    told = wire.Readiness.model_validate(readiness).in_words()
    return Json(told if "viewer" in asker.roles else told.withheld(), status)


@router.get(
    "/metrics", response_class=Response, responses=content("text/plain", {"type": "string"})
)
async def get_metrics() -> Response:
    """Return this process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), media_type=telemetry.METRICS_CONTENT_TYPE)
