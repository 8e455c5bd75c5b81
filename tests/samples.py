"""Answers of the API, whole and valid: JSON that is built from the models of `wire`."""

from typing import Any

from reckeeper import wire

AT = "2026-01-02T03:04:05.678901Z"
INTERVAL = {"mean": 0.2, "low": 0.1, "high": 0.3}
METRICS = ("recall@10", "ndcg@10", "hit_rate@10", "map@10", "mrr@10")
OF_LISTS = {"coverage@10": {"mean": 0.41}, "novelty@10": {"mean": 6.2}}


def _json(kind: type[wire.Answer], fields: dict[str, Any]) -> dict[str, Any]:
    unknown = fields.keys() - kind.model_fields.keys()
    assert not unknown, f"{kind.__name__} has no {unknown}"
    return kind.model_validate(fields).model_dump(mode="json")


def entry(**fields: Any) -> dict[str, Any]:
    """Return an entry of the timeline."""
    base = {
        "entry_id": 1,
        "at": AT,
        "until": None,
        "version": 3,
        "action": "activate",
        "actor": "api:cli",
        "reason": None,
        "job_id": None,
    }
    return _json(wire.TimelineEntry, base | fields)


def verdict(**fields: Any) -> dict[str, Any]:
    """Return a verdict of version 2 beside version 1: no worse."""
    base = {
        "decision": "promote",
        "standing": "no_worse",
        "sentence": "No worse than version 1.",
        "decided_at": AT,
        "method": "new_interactions",
        "reasons": [],
        "warnings": [],
        "metric": "ndcg@10",
        "margin": 0.02,
        "k": 10,
        "how": "each newer interaction, from the history just before it",
        "n_users": 1204,
        "n_users_needed": 950,
        "active_version": 1,
        "candidate": {"ndcg@10": INTERVAL},
        "active": {"ndcg@10": INTERVAL},
        "popularity": {"ndcg@10": INTERVAL},
        "versus_active": {"ndcg@10": {"difference": 0.003, "low": -0.002, "high": 0.008}},
        "versus_popularity": {"ndcg@10": {"difference": 0.003, "low": -0.002, "high": 0.008}},
        "segments": [
            {
                "by": "history_length",
                "name": "1-4",
                "n_users": 310,
                "candidate": {"ndcg@10": INTERVAL},
                "active": {"ndcg@10": INTERVAL},
                "versus_active": {"ndcg@10": {"difference": 0.001, "low": -0.004, "high": 0.006}},
            }
        ],
        "data": {
            **{name: {"before": 6, "now": 7} for name in ("interactions", "users", "items")},
            "per_day": {"usual": 6.0, "recent": 7.0},
        },
        "seconds": 1.2,
        "disposition": "activated",
        "outcome": "Version 2 is active.",
    }
    return _json(wire.Verdict, base | fields)


_MODEL: dict[str, Any] = {
    "name": "Retrained SVD Model",
    "path": "/app/models/retrained_svd_model.pkl",
    "type": "SVD",
    "status": "inactive",
    "n_users": 6,
    "n_items": 12,
    "explained_variance": "98.90%",
    "trained_on": "2025-12-04 23:42:15",
    "version": 3,
    "recipe": "svd",
    "settings": {"n_components": 10},
    "decided": {},
    "training_samples": 56193,
    "seconds": 2.3,
    "trigger": "manual",
    "job_id": None,
    "is_demo": False,
    "note": None,
    "pinned": False,
    "pinned_until": None,
    "verdict": None,
    "metrics": None,
    "served": False,
}


def model(**fields: Any) -> dict[str, Any]:
    """Return a version as the list has it."""
    return _json(wire.Model, _MODEL | fields)


def details(**fields: Any) -> dict[str, Any]:
    """Return a version with all that is known of it."""
    more = {
        "fingerprint": "ab" * 16,
        "watermark": 9,
        "latest_at": AT,
        "data": {"weights": {"click": 1.0}},
        "actor": None,
        "cause": None,
        "peak_memory_bytes": 123_000_000,
        "libraries": {"numpy": "2.4"},
        "origin": None,
        "files": [],
        "timeline": [],
    }
    return _json(wire.ModelDetails, _MODEL | more | fields)


def job(**fields: Any) -> dict[str, Any]:
    """Return a retrain that runs."""
    base = {
        "job_id": 7,
        "kind": "retrain",
        "request": {},
        "status": "running",
        "trigger": "manual",
        "actor": "api:page",
        "cause": None,
        "stage": "reading",
        "fraction": 0.25,
        "seconds_elapsed": 1.0,
        "seconds_left": 3.0,
        "progress": None,
        "finish_requested": False,
        "cancel_requested": False,
        "started_at": "2025-12-04T23:42:13.000000Z",
        "finished_at": None,
        "version": None,
        "promoted": None,
        "verdict": None,
        "memory_bytes": None,
        "estimated_memory_bytes": None,
        "peak_memory_bytes": None,
        "error": None,
        "result": None,
    }
    return _json(wire.Job, base | fields)


def measured(recipe: str = "popularity", **fields: Any) -> dict[str, Any]:
    """Return how well a recipe did."""
    base = {
        "name": recipe,
        "recipe": recipe,
        "settings": {},
        "tuned": False,
        "version": None,
        "fit_seconds": 1.9,
        "tune_seconds": 0.0,
        "metrics": dict.fromkeys(METRICS, INTERVAL) | OF_LISTS,
        "versus": {},
    }
    return _json(wire.MeasuredRecipe, base | fields)


def beside(difference: float, standing: str, **fields: Any) -> dict[str, Any]:
    """Return how a recipe stands beside another, its interval 0.01 on either side."""
    paired = {"difference": difference, "low": difference - 0.01, "high": difference + 0.01}
    base = {
        "standing": standing,
        "n_users_needed": 900,
        "metrics": dict.fromkeys(METRICS, paired | {"sd": 0.2, "n": 1873}),
    }
    return _json(wire.Beside, base | fields)


def evaluation(*recipes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return recipes compared, by default one."""
    rows = list(recipes) or [measured()]
    base = {
        "split": "next",
        "how": "each interaction from 2025-11-01 12:00 UTC on, from the history just before it",
        "k": 10,
        "metric": "ndcg@10",
        "margin": 0.02,
        "min_users": 100,
        "n_users": 1873,
        "made_on": {
            "n_interactions": 56_193,
            "n_users": 2_400,
            "n_items": 1_200,
            "latest_at": AT,
            "read_at": AT,
        },
        "policy_revision": 3,
        "active_version": None,
        "state": "current",
        "changes": [],
        "advice": None,
        "problem": None,
        "recipes": rows,
    }
    return _json(wire.Evaluation, base | fields)


def revision(**fields: Any) -> dict[str, Any]:
    """Return a policy that was stored."""
    base = {
        "policy": {"webhook_secret": "***"},
        "revision": 4,
        "source": "stored",
        "updated_at": AT,
        "actor": "api:page",
        "reason": None,
    }
    return _json(wire.PolicyRevision, base | fields)


def audit_entry(**fields: Any) -> dict[str, Any]:
    """Return an entry of the audit trail."""
    base = {
        "entry_id": 8,
        "at": AT,
        "actor": "api:page",
        "action": "activate",
        "subject": "model 3",
        "details": {"reason": None},
        "hash": None,
    }
    return _json(wire.AuditEntry, base | fields)


def erasure(**fields: Any) -> dict[str, Any]:
    """Return the receipt of an erasure."""
    base = {
        "erasure_id": 3,
        "subject": "5a0c1d2e3f405162",
        "erased_at": AT,
        "until": AT,
        "actor": "api:page",
        "reason": None,
        "state": "complete",
        "removed": {"user_interactions": 7},
        "shaped_versions": [2],
        "pickles_deleted": [2],
        "pickles_rewritten": [],
        "pickles_left": [],
        "log_is_empty": True,
        "remains": [],
        "job_id": 9,
        "version": 3,
        "completed_at": AT,
        "signature": "0" * 64,
        "is_genuine": True,
    }
    return _json(wire.Erasure, base | fields)


def comparison(**fields: Any) -> dict[str, Any]:
    """Return two versions beside each other."""
    side = {name: _MODEL[name] for name in wire.ComparedModel.model_fields.keys() & _MODEL.keys()}
    side |= {"data": {"weights": {"click": 1.0}}}
    base = {
        "sentence": "Both show users much the same.",
        "users": {"both": 6, "only_first": 0, "only_second": 0},
        "first": side,
        "second": side | {"version": 2},
        "settings": [],
        "k": 10,
        "n_users": 2000,
        "overlap": {"mean": 0.625, "low": 0.6, "high": 0.65},
        "most_changed": [],
        "exposure": {"gained": [], "lost": []},
        "coverage": {"first": 0.5, "second": 0.25},
        "popularity": {"first": 0.01, "second": 0.02},
    }
    return _json(wire.Comparison, base | fields)
