"""Who may do what: every route of server and worker, and the role that it takes."""

import re
from collections.abc import Mapping
from typing import Literal, get_args

Role = Literal["viewer", "ingest", "recommend", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

INCLUDED: Mapping[Role, frozenset[Role]] = {
    "recommend": frozenset({"recommend"}),
    "ingest": frozenset({"ingest"}),
    "viewer": frozenset({"viewer", "recommend"}),
    "operator": frozenset({"operator", "viewer", "ingest", "recommend"}),
    "admin": frozenset(ROLES),
}
"""By role: all that its keys may do. `recommend` and `ingest` see nothing else."""

MEANING: Mapping[Role, str] = {
    "recommend": "lists for users, and items that are like others; nothing else",
    "ingest": "sends interactions, watchlists and items, and merges a visitor into an account; "
    "reads nothing",
    "viewer": "reads everything, and lists as `recommend` gets them; changes nothing",
    "operator": "what `viewer` and `ingest` may; retrains, activates, rolls back, changes the "
    "policy, imports files",
    "admin": "everything: keys, backups, models from elsewhere, and what deletes for good",
}

_Taken = Role | Literal["anyone"]

ANYONE: Literal["anyone"] = "anyone"
"""The role of a route that takes no key."""

SERVER: Mapping[tuple[str, str], _Taken] = {
    # Versions
    ("GET", "/models"): "viewer",
    ("GET", "/timeline"): "viewer",
    ("POST", "/models/rollback"): "operator",
    ("POST", "/models/import"): "admin",
    ("GET", "/models/{version}"): "viewer",
    ("PATCH", "/models/{version}"): "operator",
    ("DELETE", "/models/{version}"): "admin",
    ("POST", "/models/{version}/activate"): "operator",
    ("POST", "/models/{version}/pin"): "operator",
    ("DELETE", "/models/{version}/pin"): "operator",
    ("GET", "/models/{version}/compare/{other}"): "viewer",
    ("GET", "/models/{version}/download"): "viewer",
    ("GET", "/models/{version}/pickle"): "operator",
    # Training
    ("POST", "/retrain"): "operator",
    ("POST", "/evaluations"): "operator",
    ("GET", "/jobs"): "viewer",
    ("GET", "/jobs/{job_id}"): "viewer",
    ("GET", "/jobs/{job_id}/stream"): "viewer",
    ("POST", "/jobs/{job_id}/cancel"): "operator",
    ("POST", "/jobs/{job_id}/finish"): "operator",
    ("GET", "/recipes"): "viewer",
    # Policy, trail and keys
    ("GET", "/policy"): "viewer",
    ("PUT", "/policy"): "operator",
    ("GET", "/policy/history"): "viewer",
    ("GET", "/audit"): "viewer",
    ("GET", "/audit/verify"): "viewer",
    ("GET", "/access"): ANYONE,
    ("GET", "/keys"): "admin",
    ("POST", "/keys"): "admin",
    ("DELETE", "/keys/{key_id}"): "admin",
    # Events and items
    ("POST", "/user_interactions"): "ingest",
    ("GET", "/user_interactions/{user_id}"): "viewer",
    ("GET", "/watchlist/{user_id}"): "viewer",
    ("POST", "/watchlist/{user_id}/{item_id}"): "ingest",
    ("DELETE", "/watchlist/{user_id}/{item_id}"): "ingest",
    ("GET", "/items"): "viewer",
    ("POST", "/items"): "ingest",
    ("GET", "/items/{item_id}"): "viewer",
    ("PUT", "/items/{item_id}"): "ingest",
    ("PATCH", "/items/{item_id}"): "ingest",
    ("DELETE", "/items/{item_id}"): "ingest",
    ("POST", "/users/{user_id}/merge"): "ingest",
    ("DELETE", "/users/{user_id}"): "admin",
    ("GET", "/users/{user_id}/export"): "admin",
    ("GET", "/erasures"): "admin",
    ("GET", "/erasures/{erasure_id}"): "admin",
    ("GET", "/interactions/latest"): "viewer",
    ("GET", "/interactions/summary"): "viewer",
    ("GET", "/interactions/dead_letters"): "viewer",
    # Answers
    ("GET", "/recommendations/{user_id}"): "recommend",
    ("POST", "/recommendations"): "recommend",
    ("POST", "/recommendations/batch"): "recommend",
    ("GET", "/items/{item_id}/similar"): "recommend",
    ("POST", "/items/similar"): "recommend",
    # Files
    ("POST", "/imports"): "operator",
    ("GET", "/imports"): "viewer",
    ("POST", "/imports/preview"): "operator",
    ("GET", "/imports/{import_id}"): "viewer",
    ("DELETE", "/imports/{import_id}"): "operator",
    ("GET", "/imports/{import_id}/refused"): "viewer",
    ("GET", "/demo"): "viewer",
    ("DELETE", "/demo"): "admin",
    # Operation
    ("GET", "/health/live"): ANYONE,
    ("GET", "/health/ready"): ANYONE,
    ("GET", "/metrics"): "viewer",
    # The description of the API, which is the same everywhere
    ("GET", "/"): ANYONE,
    ("GET", "/docs"): ANYONE,
    ("GET", "/docs/oauth2-redirect"): ANYONE,
    ("GET", "/redoc"): ANYONE,
    ("GET", "/openapi.json"): ANYONE,
    ("GET", "/static-offline-docs/{file}"): ANYONE,
}
"""By method and path. A route that is not here takes a key, of any role, until it is."""

WORKER: Mapping[tuple[str, str], _Taken] = {
    ("GET", "/models"): "viewer",
    ("POST", "/retrain"): "operator",
    ("POST", "/evaluations"): "operator",
    ("POST", "/jobs/{job_id}/cancel"): "operator",
    ("GET", "/health/live"): ANYONE,
    ("GET", "/health/ready"): ANYONE,
    ("GET", "/metrics"): "viewer",
}
"""As `SERVER`. Where others reach the worker, only the server's secret counts but for reading."""


class Routes:
    """Finds the role that a request takes, in a microsecond.

    Parameters
    ----------
    table : mapping of (str, str) to str
        `SERVER` or `WORKER`.
    """

    def __init__(self, table: Mapping[tuple[str, str], _Taken]) -> None:
        self._table = table
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], _Taken]]] = {}
        # A word in a path comes before a parameter that could be that word.
        for method, path in sorted(table, key=lambda row: ["{" in part for part in _parts(row[1])]):
            if "{" in path:
                pattern = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
                there = self._patterns.setdefault((method, _parts(path)[1]), [])
                there.append((pattern, table[method, path]))

    def role(self, method: str, path: str) -> _Taken | None:
        """Return the role of a route; None for what is in no row.

        Parameters
        ----------
        method : str
        path : str
            As it was sent: what is percent-encoded stays so. Or as the table has it.
        """
        role = self._table.get((method, path))
        if role is None:
            for pattern, found in self._patterns.get((method, path[1:].partition("/")[0]), ()):
                if pattern.fullmatch(path):
                    return found
        return role


def _parts(path: str) -> list[str]:
    return path.split("/")
