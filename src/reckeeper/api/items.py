"""The catalogue: what items are, and whether they may be in a list."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from reckeeper import catalogue, clock, storage, wire
from reckeeper.api import bodies, openapi
from reckeeper.api.answers import UNCHANGED, IfNoneMatch, Json, failures, tagged
from reckeeper.api.parameters import ActorName, ItemId, Limit
from reckeeper.api.runtime import Needs, Runtime
from reckeeper.interactions import MAX_ID_CHARACTERS, checked_id
from reckeeper.security import actor_of

router = APIRouter(tags=["catalogue"])

_CONTENT = openapi.body(openapi.reference("ItemContent"))


@router.get("/items", responses=failures(422))
def list_items(
    runtime: Needs,
    q: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_ID_CHARACTERS,
            description="what title or id have in them, in whatever case",
            examples=["toy story"],
        ),
    ] = None,
    available: Annotated[
        bool | None,
        Query(description="those alone that may be in a list now, or may not", examples=[True]),
    ] = None,
    limit: Limit = 20,
    after: Annotated[
        str | None,
        Query(description="ids behind this one: `next` of the page before", examples=["i8"]),
    ] = None,
) -> wire.ItemPage:
    """List the items of the catalogue by id, a page at a time."""
    now = clock.now()
    if q is not None:
        q = checked_id("q", q)
    if after is not None:
        after = checked_id("after", after)
    with runtime.database.read() as connection:
        items = storage.items.page(
            connection, limit=limit + 1, after=after, text=q, available=available, moment=now
        )
    page = [_shown(item, in_catalogue=True, now=now) for item in items[:limit]]
    return wire.ItemPage(items=page, next=page[-1].item_id if len(items) > limit else None)


@router.post(
    "/items",
    response_model=wire.ItemsStored,
    responses=failures(413, 422),
    openapi_extra=openapi.body(
        {"anyOf": [openapi.reference("ItemRow"), openapi.reference("ItemBatch")]}
    ),
)
async def store_items(runtime: Needs, actor_name: ActorName, request: Request) -> Json:
    """Add or change one item, or a list of up to 10,000: all of them, or none.

    A field that is given takes the place of what is there, `attributes` as a whole; one that is
    left out stays as it is, and has its default in an item that is new.
    """
    body = await bodies.whole(request)

    def store() -> wire.ItemsStored:
        changes = catalogue.parse_items(body)
        done = catalogue.upsert(runtime.database, changes, actor=actor_of(actor_name))
        runtime.note_items_changed()
        return wire.ItemsStored.model_validate(done)

    return Json(await run_in_threadpool(store))


@router.get(
    "/items/{item_id:id}",
    response_model=wire.ItemAnswer,
    responses=UNCHANGED | failures(404, 422),
)
def get_item(runtime: Needs, item_id: ItemId, known: IfNoneMatch = None) -> Response:
    """Describe an item that the catalogue or an interaction knows."""
    item_id = checked_id("item_id", item_id)
    with runtime.database.read() as connection:
        found = catalogue.find(connection, item_id)
    shown = _shown(found.item, in_catalogue=found.in_catalogue, now=clock.now())
    return tagged(wire.ItemAnswer(item=shown), known)


@router.put(
    "/items/{item_id:id}",
    response_model=wire.ItemAnswer,
    responses=failures(413, 422),
    openapi_extra=_CONTENT,
)
async def put_item(
    runtime: Needs, actor_name: ActorName, item_id: ItemId, request: Request
) -> Json:
    """Say all of an item, known or not: what is left out has its default.

    With `"available": false` it is in no list from the next request on.
    """
    body = await bodies.whole(request)

    def put() -> wire.ItemAnswer:
        name, given = checked_id("item_id", item_id), catalogue.parse_content(body)
        after = catalogue.put(runtime.database, name, given, actor=actor_of(actor_name))
        return _changed(runtime, after)

    return Json(await run_in_threadpool(put))


@router.patch(
    "/items/{item_id:id}",
    response_model=wire.ItemAnswer,
    responses=failures(404, 413, 422),
    openapi_extra=_CONTENT,
)
async def patch_item(
    runtime: Needs, actor_name: ActorName, item_id: ItemId, request: Request
) -> Json:
    """Change some fields of an item: a JSON merge patch, in the attributes too.

    What is left out stays; null takes away what is there. An item that interactions alone know
    comes into the catalogue.
    """
    body = await bodies.whole(request)

    def patch() -> wire.ItemAnswer:
        name, given = checked_id("item_id", item_id), catalogue.parse_content(body)
        after = catalogue.patch(runtime.database, name, given, actor=actor_of(actor_name))
        return _changed(runtime, after)

    return Json(await run_in_threadpool(patch))


@router.delete("/items/{item_id:id}", responses=failures(404, 422))
def delete_item(runtime: Needs, actor_name: ActorName, item_id: ItemId) -> wire.ItemDeleted:
    """Take an item out of the catalogue; its interactions stay, and so it stays in lists.

    To keep it out of lists, set `available` to false instead.
    """
    item_id = checked_id("item_id", item_id)
    catalogue.delete(runtime.database, item_id, actor=actor_of(actor_name))
    runtime.note_items_changed()
    return wire.ItemDeleted(item_id=item_id)


def _changed(runtime: Runtime, item: storage.Item) -> wire.ItemAnswer:
    """Have a change count from the next request on, and return its answer."""
    runtime.note_items_changed()
    return wire.ItemAnswer(item=_shown(item, in_catalogue=True, now=clock.now()))


def _shown(item: storage.Item, *, in_catalogue: bool, now: int) -> wire.Item:
    said = {"available_now": item.is_available(now), "in_catalogue": in_catalogue}
    return wire.Item.model_validate({**item._asdict(), **said})
