"""Recommendations, from memory."""

from typing import Annotated

from fastapi import APIRouter, Query

from reckeeper import events, wire
from reckeeper.api.answers import Json, failures
from reckeeper.api.parameters import UserId
from reckeeper.api.runtime import Needs

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
    and what the user has done since. ``popular``: nothing is known of the user.
    """
    answer = runtime.serving.recommend(events.checked_id("user_id", user_id), n=n)
    return Json(wire.RecommendationList.model_validate(answer))
