"""What the documentation of the routes shows of keys."""

from collections.abc import Mapping

_KEY = {
    "key_id": "3f9c2a71b0de",
    "name": "shop-backend",
    "role": "recommend",
    "state": "active",
    "created_at": "2025-12-04T23:42:15.907113Z",
    "created_by": "key:alice",
    "expires_at": None,
    "revoked_at": None,
    "revoked_by": None,
    "last_used_at": None,
    "rate_limit": 6000,
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "get_access": {
        200: {
            "status": "ok",
            "needs_key": True,
            "name": "shop-backend",
            "role": "recommend",
            "roles": ["recommend"],
        }
    },
    "list_keys": {200: {"status": "ok", "keys": [_KEY]}},
    "create_key": {200: {"status": "ok", "key": _KEY, "secret": f"rk_3f9c2a71b0de_{'0' * 64}"}},
    "revoke_key": {
        200: {
            "status": "ok",
            "key": _KEY
            | {
                "state": "revoked",
                "revoked_at": "2025-12-05T08:00:00.000000Z",
                "revoked_by": "key:alice",
            },
        }
    },
}
"""Answers, by operation and status."""

REQUESTS: Mapping[str, object] = {
    "create_key": {"name": "shop-backend", "role": "recommend", "rate_limit": 6000}
}
"""Bodies, by operation."""
