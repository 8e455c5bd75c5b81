"""Examples of the imports' routes, for `examples`."""

from collections.abc import Mapping

from reckeeper import wire

_REFUSAL: wire.JsonObject = {
    "file": "shop.csv",
    "column": "Datum",
    "reason": "is not a time",
    "rows": 4,
    "examples": [{"line": 18, "value": "gestern"}, {"line": 902, "value": "31.02.2013"}],
}
_COMPLETE: wire.JsonObject = {
    "import_id": 3,
    "source": "shop.csv",
    "is_demo": False,
    "status": "complete",
    "reason": None,
    "actor": "api:alice",
    "rows": 120_000,
    "accepted": 119_990,
    "duplicates": 6,
    "without_taste": 0,
    "refused": 4,
    "items": 0,
    "bytes_done": 6_120_312,
    "bytes_total": 6_120_312,
    "rows_per_second": 152_000.0,
    "seconds_left": None,
    "started_at": "2025-12-04T23:42:15.000000Z",
    "updated_at": "2025-12-04T23:42:15.789474Z",
    "finished_at": "2025-12-04T23:42:15.789474Z",
    "refusals": [_REFUSAL],
    "has_report": True,
}
_RUNNING: wire.JsonObject = _COMPLETE | {
    "status": "running",
    "rows": 0,
    "accepted": 0,
    "duplicates": 0,
    "refused": 0,
    "bytes_done": 0,
    "bytes_total": 0,
    "rows_per_second": None,
    "updated_at": "2025-12-04T23:42:15.000000Z",
    "finished_at": None,
    "refusals": [],
    "has_report": False,
}
_FAILED: wire.JsonObject = _RUNNING | {
    "import_id": 2,
    "status": "failed",
    "reason": "The process that ran it ended before it was done. Importing again adds what is "
    "missing.",
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "create_import": {202: {"status": "ok", "import": _RUNNING}},
    "list_imports": {200: {"status": "ok", "imports": [_COMPLETE, _FAILED]}},
    "get_import": {200: {"status": "ok", "import": _COMPLETE}},
    "get_refused": {
        200: "file,line,column,value,reason\r\nshop.csv,18,Datum,gestern,is not a time\r\n"
    },
    "undo_import": {
        200: {"status": "ok", "import_id": 3, "interactions": 119_990, "items": 0},
        202: {"status": "ok", "import_id": 3, "interactions": None, "items": None},
    },
}
"""Answers, by operation and status."""
