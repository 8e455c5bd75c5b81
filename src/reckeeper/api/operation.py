"""Operation: whether the process lives and works, and its metrics."""

from fastapi import APIRouter, Response

from reckeeper import telemetry, wire
from reckeeper.api.answers import Json, content, other
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
async def get_readiness(runtime: Needs) -> Json:
    """Say whether the process can do its work; 503 while it cannot."""
    readiness = runtime.readiness()
    status = 503 if readiness.status == "unavailable" else 200
    return Json(wire.Readiness.model_validate(readiness).in_words(), status)


@router.get(
    "/metrics", response_class=Response, responses=content("text/plain", {"type": "string"})
)
async def get_metrics() -> Response:
    """Return this process's metrics in Prometheus' text format."""
    return Response(telemetry.render_metrics(), media_type=telemetry.METRICS_CONTENT_TYPE)
