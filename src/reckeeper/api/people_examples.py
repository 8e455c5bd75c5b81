"""What the documentation of the routes shows of people."""

from collections.abc import Mapping

_ERASURE = {
    "erasure_id": 1,
    "subject": "5a0c1d2e3f405162",
    "erased_at": "2025-12-04T23:42:15.907113Z",
    "until": "2025-12-04T23:42:15.907113Z",
    "actor": "key:alice",
    "reason": "asked for by the person",
    "state": "retraining",
    "removed": {"user_interactions": 214, "watchlist": 3, "pickles": 1},
    "shaped_versions": [4, 5],
    "pickles_deleted": [4],
    "pickles_rewritten": [5],
    "pickles_left": [],
    "log_is_empty": True,
    "remains": [],
    "job_id": None,
    "version": None,
    "completed_at": None,
    "signature": "0" * 64,
    "is_genuine": True,
}
_COMPLETE = _ERASURE | {
    "state": "complete",
    "job_id": 9,
    "version": 6,
    "completed_at": "2025-12-04T23:43:02.118204Z",
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "merge_users": {200: {"status": "ok", "user_id": "u1", "interactions": 12}},
    "erase_user": {200: {"status": "ok", "erasure": _ERASURE}},
    "get_erasure": {200: {"status": "ok", "erasure": _COMPLETE}},
    "list_erasures": {200: {"status": "ok", "erasures": [_COMPLETE]}},
    "export_user": {
        200: {
            "status": "ok",
            "user_id": "u1",
            "exported_at": "2025-12-04T23:42:15.907113Z",
            "merged_from": ["visitor-8f3a"],
            "watchlist": [{"item_id": "i9", "added_at": "2025-12-03T08:00:00.000000Z"}],
            "interactions": [
                {
                    "event_id": "e-18",
                    "user_id": "u1",
                    "item_id": "i9",
                    "interaction_type": "watchlist_add",
                    "weight": 1.0,
                    "occurred_at": "2025-12-03T08:00:00.000000Z",
                }
            ],
        }
    },
}
"""Answers, by operation and status."""
