"""Similar items: what goes together with an item, and what people take after it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from reckeeper import serving, wire
from reckeeper.api import bodies, openapi
from reckeeper.api.answers import Json, failures
from reckeeper.api.parameters import ItemId
from reckeeper.api.rules import AskedItemRules
from reckeeper.api.runtime import Needs
from reckeeper.interactions import checked_id
from reckeeper.serving import Kind

router = APIRouter(tags=["recommendations"])


@router.get(
    "/items/{item_id:id}/similar",
    response_model=wire.SimilarItems,
    responses=failures(404, 409, 414, 422),
)
def find_similar_items(
    runtime: Needs,
    item_id: ItemId,
    rules: AskedItemRules,
    kind: Annotated[
        Kind,
        Query(
            description="alike: what goes together with it; next: what people take after it",
            examples=["alike"],
        ),
    ] = "alike",
) -> Json:
    """Find what is like an item, or what people take after it; nobody's history counts.

    Where the model does not know what comes next, the answer is what is alike, and its `kind`
    says so. `strategy` says how the list was made: from the model, from shared categories where
    the model knows nothing that is like the item, or popular items where there is none of these.
    """
    found = runtime.serving.similar_to([checked_id("item_id", item_id)], rules, kind=kind)
    return Json(wire.SimilarItems.model_validate(found))


@router.post(
    "/items/similar",
    response_model=wire.SimilarToSeveral,
    responses=failures(404, 409, 413, 422),
    openapi_extra=openapi.body(openapi.reference("SimilarRequest")),
)
async def find_similar_to_several(runtime: Needs, request: Request) -> Json:
    """Find what is like several items together, such as those of a basket.

    What each of them says is added up, and they themselves are left out. Those that nobody knows
    are passed over; where nobody knows any, 404.
    """
    body = await bodies.whole(request)

    def answer() -> wire.SimilarToSeveral:
        item_ids, kind, rules = serving.parse_basket(body)
        found = runtime.serving.similar_to(item_ids, rules, kind=kind)
        return wire.SimilarToSeveral.model_validate(found)

    return Json(await run_in_threadpool(answer))
