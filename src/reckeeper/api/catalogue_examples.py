"""Examples of the catalogue's routes, for `examples`."""

from collections.abc import Mapping

from reckeeper import wire

_ITEM: wire.JsonObject = {
    "item_id": "i3",
    "title": "Toy Story (1995)",
    "categories": ["Animation", "Comedy"],
    "attributes": {"price": 9.99, "regions": ["eu", "us"]},
    "available": True,
    "available_from": "2025-12-01T00:00:00.000000Z",
    "available_until": None,
    "available_now": True,
    "in_catalogue": True,
}
_ONE: Mapping[int, object] = {200: {"status": "ok", "item": _ITEM}}
_SIMILAR: wire.JsonObject = {
    "status": "ok",
    "kind": "alike",
    "model_version": 2,
    "strategy": "model",
    "items": [
        {
            "rank": 1,
            "item_id": "i7",
            "score": 0.4127,
            "title": "A Bug's Life (1998)",
            "attributes": {"year": 1998},
        }
    ],
    "request_id": "5d0e0c1b-2a9e-4c64-9d3a-4f6c2a1b7e55",
    "generated_at": "2025-12-04T23:42:15.000000Z",
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "list_items": {200: {"status": "ok", "items": [_ITEM], "next": None}},
    "store_items": {200: {"status": "ok", "created": 2, "changed": 1, "unchanged": 0}},
    "get_item": _ONE,
    "put_item": _ONE,
    "patch_item": _ONE,
    "delete_item": {200: {"status": "ok", "item_id": "i3"}},
    "find_similar_items": {200: {**_SIMILAR, "item_id": "i3"}},
    "find_similar_to_several": {200: {**_SIMILAR, "item_ids": ["i3", "i4"]}},
}

REQUESTS: Mapping[str, object] = {
    "store_items": [
        {"item_id": "i3", "title": "Toy Story (1995)", "categories": ["Animation", "Comedy"]},
        {"item_id": "i4", "attributes": {"price": 4.5}, "available_until": "2126-01-31T12:00:00Z"},
    ],
    "put_item": {"title": "Toy Story (1995)", "categories": ["Animation", "Comedy"]},
    "find_similar_to_several": {
        "item_ids": ["i3", "i4"],
        "kind": "next",
        "n": 5,
        "category": ["Animation"],
        "where": {"regions": ["eu", "us"], "price": {"max": 20}},
    },
    "patch_item": {"available": False, "attributes": {"price": None}},
}
