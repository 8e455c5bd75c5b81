"""What the documentation of the routes shows: examples by the name of the operation."""

from collections.abc import Mapping

from reckeeper import wire
from reckeeper.api import (
    catalogue_examples,
    import_examples,
    key_examples,
    list_examples,
    people_examples,
)

_BY_USER = [
    f"{name}@10"
    for name in ("recall", "ndcg", "hit_rate", "map", "precision", "mrr", "without_hit")
]
_OF_LISTS = [f"{name}@10" for name in ("coverage", "novelty", "gini", "popularity_lift")]
_METRICS = {
    "recall@10": {"mean": 0.151, "low": 0.143, "high": 0.159},
    "ndcg@10": {"mean": 0.181, "low": 0.174, "high": 0.188},
    "hit_rate@10": {"mean": 0.52, "low": 0.49, "high": 0.55},
    "map@10": {"mean": 0.094, "low": 0.089, "high": 0.099},
    "precision@10": {"mean": 0.083, "low": 0.078, "high": 0.088},
    "mrr@10": {"mean": 0.212, "low": 0.201, "high": 0.223},
    "without_hit@10": {"mean": 0.48, "low": 0.45, "high": 0.51},
    "coverage@10": {"mean": 0.41},
    "novelty@10": {"mean": 6.2},
    "gini@10": {"mean": 0.87},
    "popularity_lift@10": {"mean": 1.6},
}
_DIFFERENCES = {
    "recall@10": {"difference": 0.002, "low": -0.003, "high": 0.007},
    "ndcg@10": {"difference": 0.003, "low": -0.002, "high": 0.008},
    "hit_rate@10": {"difference": 0.01, "low": -0.01, "high": 0.03},
    "map@10": {"difference": 0.002, "low": -0.002, "high": 0.006},
    "precision@10": {"difference": 0.001, "low": -0.001, "high": 0.003},
    "mrr@10": {"difference": 0.004, "low": -0.003, "high": 0.011},
    "without_hit@10": {"difference": -0.01, "low": -0.03, "high": 0.01},
}
_SHORT_VERDICT = {
    "decision": "promote",
    "sentence": "No worse than version 3 on 1,204 users' newer interactions: NDCG@10 0.181 against "
    "0.178 (difference +0.003, 95% interval -0.002 to +0.008). Asked for: each newer interaction, "
    "from the history just before it.",
    "standing": "no_worse",
    "disposition": "activated",
    "outcome": "Version 4 is active.",
    "headline": {
        "ndcg@10": {
            "popularity": {"difference": 0.052, "low": 0.046, "high": 0.058},
            "active": {"difference": 0.003, "low": -0.002, "high": 0.008},
        },
        "hit_rate@10": {
            "popularity": {"difference": 0.11, "low": 0.08, "high": 0.14},
            "active": {"difference": 0.01, "low": -0.01, "high": 0.03},
        },
    },
    "active_version": 3,
}
_VERDICT = {
    **_SHORT_VERDICT,
    "decided_at": "2025-12-04T23:42:15.907113Z",
    "method": "new_interactions",
    "reasons": [],
    "warnings": ["Fewer users than usual could be judged."],
    "metric": "ndcg@10",
    "margin": 0.02,
    "k": 10,
    "how": "each newer interaction, from the history just before it",
    "n_users": 1204,
    "n_users_needed": 950,
    "candidate": _METRICS,
    "active": _METRICS,
    "popularity": _METRICS,
    "versus_active": _DIFFERENCES,
    "versus_popularity": _DIFFERENCES,
    "promotion": {"promote": "always", "because": "plain"},
    "segments": [
        {
            "by": "history_length",
            "name": "1-4",
            "n_users": 310,
            "candidate": {
                "ndcg@10": {"mean": 0.143, "low": 0.131, "high": 0.155},
                "hit_rate@10": {"mean": 0.41, "low": 0.38, "high": 0.44},
            },
            "active": {
                "ndcg@10": {"mean": 0.142, "low": 0.13, "high": 0.154},
                "hit_rate@10": {"mean": 0.4, "low": 0.37, "high": 0.43},
            },
            "versus_active": {
                "ndcg@10": {"difference": 0.001, "low": -0.004, "high": 0.006},
                "hit_rate@10": {"difference": 0.01, "low": -0.01, "high": 0.03},
            },
        },
    ],
    "data": {
        "interactions": {"before": 54002, "now": 56193},
        "users": {"before": 6, "now": 6},
        "items": {"before": 12, "now": 12},
        "per_day": {"usual": 313.0, "recent": 320.0},
    },
    "seconds": 1.2,
}
_CAUSE = {
    "rule": "schedule",
    "expression": "0 3 * * 0",
    "due_at": "2025-12-07T02:00:00.000000Z",
    "sentence": "Scheduled by 0 3 * * 0 (Europe/Berlin).",
}
_DATA: wire.JsonObject = {
    "weights": {"click": 1.0, "watchlist_add": 2.0},
    "half_life_days": 90.0,
    "window_days": 365.0,
    "left_out_users": ["test-*"],
    "max_interactions_per_user": 1000,
}
_ENTRY = {
    "entry_id": 7,
    "at": "2025-12-04T23:42:16.145920Z",
    "until": None,
    "version": 4,
    "action": "promote",
    "actor": "worker",
    "reason": "job 4",
    "job_id": 4,
}
_MODEL = {
    "name": "Retrained SVD Model",
    "path": "/app/models/retrained_svd_model.pkl",
    "type": "SVD",
    "status": "active",
    "n_users": 6,
    "n_items": 12,
    "explained_variance": "98.90%",
    "trained_on": "2025-12-04 23:42:15",
    "version": 1,
    "recipe": "svd",
    "settings": {"n_components": 10},
    "decided": {},
    "training_samples": 56193,
    "seconds": 2.3,
    "trigger": "manual",
    "job_id": 1,
    "is_demo": False,
    "note": "the one before the sale",
    "pinned": True,
    "pinned_until": "2026-01-31T12:00:00.000000Z",
    "verdict": _SHORT_VERDICT,
    "metrics": _METRICS,
    "served": True,
}
_WHOLE_MODEL = {
    **_MODEL,
    "verdict": _VERDICT,
    "fingerprint": "7a1c0ce3f2ab4b3f8f5a0b6f5b3a9d10",
    "watermark": 56193,
    "latest_at": "2025-12-04T23:41:58.002110Z",
    "data": _DATA,
    "actor": "api",
    "cause": _CAUSE,
    "peak_memory_bytes": 201326592,
    "libraries": {"reckeeper": "0.1.0", "python": "3.11.9", "numpy": "2.4.0"},
    "origin": {  # of an imported one alone
        "version": 12,
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "trained_at": "2025-12-01T03:00:12.000000Z",
        "timeline": [],
        "imported_at": "2025-12-04T20:00:00.000000Z",
    },
    "files": [{"name": "model-000004.safetensors", "bytes": 10240, "sha256": "9f86d081884c7d65"}],
    "timeline": [_ENTRY],
}
_SPECTRAL = {"n_components": 256}
_LISTED_JOB = {
    "job_id": 2,
    "kind": "retrain",
    "request": {"recipe": "spectral", "tune": True},
    "status": "running",
    "trigger": "manual",
    "actor": "api:alice",
    "cause": None,
    "stage": "tuning",
    "fraction": 0.6,
    "seconds_elapsed": 14.2,
    "seconds_left": 9.1,
    "progress": {
        "n_tried": 17,
        "ndcg": 0.214,
        "settings": _SPECTRAL,
        "history": [{"n_tried": 1, "ndcg": 0.207}, {"n_tried": 12, "ndcg": 0.214}],
        "seconds_left": 9.1,
    },
    "finish_requested": False,
    "cancel_requested": False,
    "started_at": "2025-12-04T23:42:12.911034Z",
    "finished_at": None,
    "version": None,
    "promoted": None,
    "verdict": None,
    "memory_bytes": 186646528,
    "estimated_memory_bytes": 402653184,
    "peak_memory_bytes": 201326592,
    "error": None,
}
_JOB = {**_LISTED_JOB, "result": None}
_FIGURE = {"mean": 0.21, "low": 0.2, "high": 0.22}
_PAIRED = {"difference": 0.09, "low": 0.08, "high": 0.1, "sd": 0.22, "n": 1873}
_BEHIND = {**_PAIRED, "difference": -0.09, "low": -0.1, "high": -0.08}
_LINE = {
    "name": "popularity",
    "recipe": "popularity",
    "settings": {"half_life_days": None},
    "tuned": False,
    "version": 1,
    "fit_seconds": 0.1,
    "tune_seconds": 0.0,
    "metrics": {
        **{key: {"mean": 0.12, "low": 0.11, "high": 0.13} for key in _BY_USER},
        **{key: {"mean": 0.41} for key in _OF_LISTS},
    },
    "versus": {
        "spectral (tuned)": {
            "standing": "worse",
            "n_users_needed": 1100,
            "metrics": dict.fromkeys(_BY_USER, _BEHIND),
        }
    },
}
_RESULT = {
    "split": "next",
    "how": "each interaction from 2025-11-20 12:00 UTC on, from the history just before it",
    "k": 10,
    "metric": "ndcg@10",
    "margin": 0.02,
    "min_users": 100,
    "n_users": 1873,
    "made_on": {
        "n_interactions": 56193,
        "n_users": 2400,
        "n_items": 1200,
        "latest_at": "2025-12-04T23:41:58.201000Z",
        "read_at": "2025-12-04T23:42:15.001000Z",
    },
    "policy_revision": 3,
    "active_version": 1,
    "state": "current",
    "changes": [],
    "advice": {
        "use": "spectral (tuned)",
        "sentence": "spectral (tuned) is better than the active one, popularity: NDCG@10 0.210 "
        "against 0.120 (difference +0.090, 95% interval +0.080 to +0.100).",
    },
    "problem": None,
    "recipes": [
        _LINE,
        {
            "name": "spectral (tuned)",
            "recipe": "spectral",
            "settings": _SPECTRAL,
            "tuned": True,
            "version": None,
            "fit_seconds": 1.9,
            "tune_seconds": 9.4,
            "metrics": {
                **dict.fromkeys(_BY_USER, _FIGURE),
                **{key: {"mean": 0.41} for key in _OF_LISTS},
            },
            "versus": {
                "popularity": {
                    "standing": "better",
                    "n_users_needed": 8300,
                    "metrics": dict.fromkeys(_BY_USER, _PAIRED),
                }
            },
        },
    ],
}
_EVALUATED = {
    **_JOB,
    "kind": "evaluate",
    "request": {},
    "status": "succeeded",
    "stage": "done",
    "fraction": 1.0,
    "seconds_left": None,
    "finished_at": "2025-12-04T23:42:36.145920Z",
    "result": _RESULT,
}
_RETRAINED = {
    "status": "ok",
    "message": "Model retrained in 2.3s - 56193 samples, 98.90% variance explained",
    "details": {
        "training_samples": 56193,
        "n_users": 6,
        "n_items": 12,
        "explained_variance": 0.989,
    },
    "version": 2,
    "job_id": 2,
    "promoted": True,
    "promotion": {"promote": "always", "because": "plain"},
    "verdict": _VERDICT,
}
_RECIPE = {
    "name": "svd",
    "summary": "The plain singular value decomposition of the interaction counts.",
    "decomposes": True,
    "settings": [{"name": "n_components", "default": 10, "help": "Singular vectors asked for."}],
}
_COMPARED = {
    "version": 1,
    "recipe": "svd",
    "settings": {"n_components": 10},
    "data": _DATA,
    "training_samples": 54002,
    "n_users": 6,
    "n_items": 12,
    "explained_variance": "98.90%",
    "metrics": _METRICS,
}
_COMPARISON = {
    "status": "ok",
    "first": _COMPARED,
    "second": {**_COMPARED, "version": 2, "settings": {"n_components": 8}},
    "settings": [{"name": "n_components", "first": 10, "second": 8}],
    "users": {"both": 6, "only_first": 0, "only_second": 0},
    "k": 10,
    "n_users": 6,
    "sentence": "The lists of 10 that 6 users get have 81% in common.",
    "overlap": {"mean": 0.81, "low": 0.78, "high": 0.84},
    "most_changed": [
        {"user_id": "u1", "overlap": 0.4, "first": ["i3", "i7"], "second": ["i3", "i9"]}
    ],
    "exposure": {
        "gained": [{"item_id": "i9", "first": 0.1, "second": 0.4}],
        "lost": [{"item_id": "i7", "first": 0.5, "second": 0.2}],
    },
    "coverage": {"first": 0.4, "second": 0.45},
    "popularity": {"first": 0.21, "second": 0.18},
}
_POLICY = {
    "policy": {
        "schedule": "0 3 * * 0",
        "timezone": "Europe/Berlin",
        "every_interactions": 10_000,
        "max_age_hours": 168.0,
        "min_minutes_between": 30.0,
        "skip_unchanged": True,
        "promotion": {"manual": "always", "schedule": "gate", "rule": "gate"},
        "tuning": {"drift": "none"},
        "metric": "ndcg@10",
        "margin": 0.02,
        "min_users": 100,
        "min_new_interactions": 1000,
        "min_coverage_share": 0.5,
        "max_segment_loss": None,
        "min_segment_users": 200,
        "max_fall": 0.5,
        "weights": {"click": 1.0, "watchlist_add": 2.0},
        "half_life_days": 90.0,
        "window_days": 365.0,
        "retention_days": 730.0,
        "left_out_users": ["test-*"],
        "max_interactions_per_user": 1000,
        "recommendations": {
            "seen_types": None,
            "popularity_half_life_days": 30.0,
            "new_items_share": 0.1,
            "new_items_days": 30.0,
            "daily_variation": 0.0,
        },
        "versions_kept": 10,
        "kept_days": 90.0,
        "backup_schedule": "30 2 * * *",
        "backup_folder": "/backups",
        "backup_keep": 14,
        "stale_after_hours": 200.0,
        "webhook_url": "https://hooks.example.org/reckeeper",
        "webhook_secret": "***",
    },
    "revision": 3,
    "source": "stored",
    "updated_at": "2025-12-04T23:42:15.000000Z",
    "actor": "api:alice",
    "reason": "the shop has grown",
}
_AUDIT_ENTRY = {
    "entry_id": 12,
    "at": "2025-12-04T23:42:15.000000Z",
    "actor": "api:alice",
    "action": "rollback",
    "subject": "model 3",
    "details": {"before": 4, "after": 3, "reason": "version 4 lost coverage"},
    "hash": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
}
_ACCEPTED = {"status": "ok", "accepted": 3, "duplicates": 0}
_READY = {"status": "ok", "problems": [], "model_version": 2, "offer_version": None}
_NOT_READY = {
    "status": "unavailable",
    "problems": [
        "The active version 2 cannot be loaded: model-000002.safetensors is missing from "
        "/app/models. No other version is sound: retrain."
    ],
    "model_version": None,
    "offer_version": None,
}
_EVENTS = """event: job
data: {"job_id": 2, "status": "running", "stage": "fitting", "fraction": 0.4}

event: job
data: {"job_id": 2, "status": "succeeded", "stage": "done", "fraction": 1.0}

event: end
data: {}
"""
_METRICS_TEXT = """# HELP reckeeper_served_version Model version in memory; 0 when there is none.
# TYPE reckeeper_served_version gauge
reckeeper_served_version 2.0
"""
_ONE_MODEL = {200: {"status": "ok", "model": _WHOLE_MODEL}}
_TAKEN = {
    200: _ACCEPTED,
    202: {**_ACCEPTED, "message": "Acknowledged by the broker; in the table shortly."},
}
_REASON = {"reason": "version 2 lost coverage"}


def _job(**more: object) -> wire.JsonObject:
    return {"status": "ok", "job": {**_JOB, **more}}


ANSWERS: Mapping[str, Mapping[int, object]] = {
    "list_models": {200: {"status": "ok", "models": [_MODEL]}},
    "list_timeline": {200: {"status": "ok", "timeline": [_ENTRY], "rollback_version": 3}},
    **dict.fromkeys(
        (
            "get_model",
            "update_model",
            "activate_model",
            "roll_back",
            "pin_model",
            "unpin_model",
            "import_model",
        ),
        _ONE_MODEL,
    ),
    "delete_model": {200: {"status": "ok", "version": 1}},
    "compare_models": {200: _COMPARISON},
    "retrain": {200: _RETRAINED, 202: _job()},
    "evaluate": {
        200: {"status": "ok", "job": _EVALUATED},
        202: _job(kind="evaluate", request={}),
    },
    "list_jobs": {
        200: {
            "status": "ok",
            "jobs": [_LISTED_JOB],
            "schedule": "0 3 * * 0",
            "next_scheduled_at": "2025-12-07T03:00:00.000000Z",
        }
    },
    "get_job": {200: _job()},
    "follow_job": {200: _EVENTS},
    "cancel_job": {200: _job(cancel_requested=True)},
    "finish_job": {200: _job(finish_requested=True)},
    "list_recipes": {200: {"status": "ok", "recipes": [_RECIPE]}},
    "get_policy": {200: {"status": "ok", **_POLICY}},
    "set_policy": {200: {"status": "ok", **_POLICY}},
    "list_policies": {200: {"status": "ok", "policies": [_POLICY]}},
    "list_audit_entries": {200: {"status": "ok", "entries": [_AUDIT_ENTRY]}},
    "verify_audit": {
        200: {"status": "ok", "ok": True, "n_entries": 12, "problem": None, "entry_id": None}
    },
    "create_interactions": _TAKEN,
    "add_to_watchlist": _TAKEN,
    "remove_from_watchlist": _TAKEN,
    "list_interactions": {
        200: {
            "status": "ok",
            "user_id": "u1",
            "interactions": [
                {
                    "event_id": "e-18",
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "interaction_type": "watchlist_add",
                    "weight": 1.0,
                    "occurred_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        }
    },
    "get_watchlist": {
        200: {
            "status": "ok",
            "user_id": "u1",
            "items": [
                {
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "attributes": {"genres": ["Animation"]},
                    "added_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        }
    },
    **catalogue_examples.ANSWERS,
    **import_examples.ANSWERS,
    **list_examples.ANSWERS,
    **key_examples.ANSWERS,
    **people_examples.ANSWERS,
    "get_demo": {
        200: {
            "status": "ok",
            "loaded": True,
            "interactions": 60000,
            "sample_users": ["user-0001"],
        }
    },
    "delete_demo": {200: {"status": "ok", "interactions": 60000, "versions": [1]}},
    "get_liveness": {200: {"status": "ok"}},
    "get_readiness": {200: _READY, 503: _NOT_READY},
    "get_metrics": {200: _METRICS_TEXT},
}
"""Answers, by operation and status."""

REQUESTS: Mapping[str, object] = {
    "create_interactions": [
        {"user_id": "u1", "item_id": "i7", "interaction_type": "click"},
        {
            "event_id": "e-18",
            "user_id": "u1",
            "item_id": "i9",
            "interaction_type": "watchlist_add",
            "weight": 1.0,
            "occurred_at": "2025-12-04T23:42:15Z",
        },
        {"user_id": "u1", "item_id": "i8", "interaction_type": "dismiss"},
    ],
    **catalogue_examples.REQUESTS,
    **list_examples.REQUESTS,
    **key_examples.REQUESTS,
    "merge_users": {"from": "visitor-8f3a"},
    "set_policy": _POLICY["policy"],
    "retrain": {"recipe": "svd", "settings": {"n_components": 20}},
    "update_model": {"note": "the one before the sale"},
    "pin_model": {"until": "2126-01-31T12:00:00Z", "reason": "the sale must not change"},
    "activate_model": _REASON,
    "roll_back": _REASON,
    "cancel_job": _REASON,
}
"""Bodies, by operation."""


def _error(code: str, message: str) -> dict[str, str]:
    return {"status": "error", "code": code, "message": message}


FAILURES: Mapping[int, object] = {
    401: _error("unauthenticated", "An API key is needed here: send one that is valid."),
    403: _error("forbidden", "The key 'shop' has the role 'ingest', and this takes 'operator'."),
    404: _error("not_found", "There is no version 7. GET /models lists the versions."),
    409: _error("conflict", "Version 4 is active and cannot be deleted: activate another first."),
    410: _error("gone", "The pickle of version 4 had a person in it who was erased."),
    413: _error("too_large", "The request has 12000 interactions; at most 10000 are accepted."),
    414: _error("too_large", "The URL is longer than 65535 bytes. Name fewer ids."),
    415: _error("unsupported_type", "The body is sent as 'text/plain', and application/json is …"),
    421: _error("unknown_host", "The request is for the host 'evil.example', which is none of …"),
    422: _error("invalid_data", "Row 0: user_id is missing. Nothing of this request was stored."),
    429: _error("rate_limited", "The key 'shop' may ask 600 times a minute: try again in 1 s."),
    500: _error("training_failed", "Signal 9 ended the training process before it was done."),
    503: _error("unavailable", "The worker does not answer, so nothing was trained."),
}
"""Errors, by status."""
