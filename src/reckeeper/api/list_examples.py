"""Examples of the routes that answer with lists of items, for `examples`."""

from collections.abc import Mapping

from reckeeper import wire

_ITEM: wire.JsonObject = {
    "rank": 1,
    "item_id": "i3",
    "score": 0.87,
    "title": "Toy Story (1995)",
    "attributes": {"genres": ["Animation", "Comedy"], "year": 1995},
}
_NAMED: wire.JsonObject = {
    "request_id": "6d1b4f0e-5a53-4f8b-9d53-0d5f3fd0b7c1",
    "generated_at": "2025-12-04T23:42:15.000000Z",
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "get_recommendations": {
        200: {
            "status": "ok",
            "user_id": "u1",
            "model_version": 1,
            "strategy": "model",
            "items": [_ITEM],
            **_NAMED,
        }
    },
    "recommend_from_history": {
        200: {
            "status": "ok",
            "model_version": 1,
            "strategy": "fold_in",
            "items": [_ITEM],
            **_NAMED,
        }
    },
    "recommend_to_users": {
        200: {
            "status": "ok",
            "model_version": 1,
            "lists": [
                {"user_id": "u1", "strategy": "model", "items": [_ITEM]},
                {"user_id": "u2", "strategy": "popular", "items": []},
            ],
            **_NAMED,
        }
    },
}

REQUESTS: Mapping[str, object] = {
    "recommend_from_history": {"history": ["i7", "i9"], "n": 5},
    "recommend_to_users": {
        "user_ids": ["u1", "u2"],
        "n": 1,
        "category": ["Comedy"],
        "where": {"year": {"min": 1990}},
    },
}
