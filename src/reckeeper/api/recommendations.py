"""Recommendations, from memory."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from reckeeper import events, wire
from reckeeper.api import bodies, openapi
from reckeeper.api.answers import Json, failures
from reckeeper.api.parameters import UserId
from reckeeper.api.runtime import Needs
from reckeeper.interactions import MAX_BODY_BYTES, checked_id

router = APIRouter(tags=["recommendations"])


@router.get(
    "/recommendations/{user_id:id}",
    response_model=wire.RecommendationList,
    responses=failures(422),
)
def get_recommendations(
    runtime: Needs,
    user_id: UserId,
    n: Annotated[int, Query(ge=1, le=1000, description="Length of the list", examples=[10])] = 10,
) -> Json:
    """Recommend items that a user has not seen; `strategy` says how the list was made.

    ``model``: from what the user did, as the model was trained on it. ``fold_in``: from that
    and what the user has done since. ``popular``: nothing is known of the user, or no version
    is active yet.
    """
    answer = runtime.serving.recommend(checked_id("user_id", user_id), n=n)
    return Json(wire.RecommendationList.model_validate(answer))


@router.post(
    "/recommendations",
    response_model=wire.HistoryRecommendations,
    responses=failures(413, 422),
    openapi_extra=openapi.body(openapi.reference("HistoryRequest")),
)
async def recommend_from_history(runtime: Needs, request: Request) -> Json:
    """Recommend items to somebody who did what the request tells; nothing is stored.

    Where the model knows the order of things, what came last says most. ``fold_in``: from the
    history. ``popular``: the model knows nothing of these items, or no version is active yet.
    """
    body = b"".join([part async for part in bodies.parts(request, limit=MAX_BODY_BYTES)])

    def answer() -> wire.HistoryRecommendations:
        asked = events.parse_history(body)
        found = runtime.serving.recommend_from(asked.item_ids, asked.occurred_at, n=asked.n)
        return wire.HistoryRecommendations.model_validate(found)

    return Json(await run_in_threadpool(answer))
