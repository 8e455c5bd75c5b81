"""Examples of the routes of imports and of what came in of late, for `examples`."""

from collections.abc import Mapping

from reckeeper import wire

_REFUSAL: wire.JsonObject = {
    "file": "shop.csv",
    "column": "Datum",
    "reason": "is not a time",
    "rows": 4,
    "unit": "line",
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
    "notes": [],
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

_PREVIEW: wire.JsonObject = {
    "status": "ok",
    "form": {
        "words": "text in cp1252, semicolons between values",
        "kind": "text",
        "unit": "line",
        "layout": "rows",
        "sheet": None,
        "compression": "none",
        "encoding": "cp1252",
        "delimiter": ";",
        "has_quotes": True,
        "has_escapes": False,
        "has_header": True,
        "skip_lines": 0,
    },
    "columns": ["Kunde", "Artikel", "Aktion", "Datum"],
    "parts": [
        {"part": "user_id", "column": "Kunde", "rule": "guessed"},
        {"part": "item_id", "column": "Artikel", "rule": "guessed"},
        {"part": "interaction_type", "column": "Aktion", "rule": "given"},
        {"part": "occurred_at", "column": "Datum", "rule": "guessed"},
    ],
    "choices": [],
    "notes": [],
    "rows": [
        {
            "line": 2,
            "user_id": "u1",
            "item_id": "i9",
            "interaction_type": "click",
            "weight": 1.0,
            "occurred_at": "2013-05-28T14:03:00.000000Z",
        }
    ],
    "cells": [["u1", "i9", "click", "28.05.2013 14:03"]],
    "refused": [],
    "types": {"click": 118_000, "kauf": 2_000},
}

ANSWERS: Mapping[str, Mapping[int, object]] = {
    "create_import": {202: {"status": "ok", "import": _RUNNING}},
    "preview_import": {200: _PREVIEW},
    "list_imports": {200: {"status": "ok", "imports": [_COMPLETE, _FAILED]}},
    "get_import": {200: {"status": "ok", "import": _COMPLETE}},
    "get_refused": {
        200: "file,line,column,value,reason\r\nshop.csv,18,Datum,gestern,is not a time\r\n"
    },
    "list_latest": {
        200: {
            "status": "ok",
            "interactions": [
                {
                    "event_id": "0b5f8e1c-visit-17",
                    "user_id": "u1",
                    "item_id": "i9",
                    "title": "Toy Story (1995)",
                    "interaction_type": "click",
                    "weight": 1.0,
                    "occurred_at": "2025-12-04T23:42:15.000000Z",
                }
            ],
        }
    },
    "summarize_interactions": {
        200: {
            "status": "ok",
            "n": 100_000,
            "first_at": "2025-12-03T00:00:07.000000Z",
            "last_at": "2025-12-04T23:42:15.000000Z",
            "types": {"click": 96_000, "watchlist_add": 4_000},
            "bucket_seconds": 3600,
            "rates": [
                {
                    "start": "2025-12-03T00:00:00.000000Z",
                    "interaction_type": "click",
                    "n": 2_012,
                }
            ],
            "users": [{"user_id": "u1", "n": 412}],
            "items": [{"item_id": "i9", "title": "Toy Story (1995)", "n": 1_204}],
        }
    },
    "list_dead_letters": {
        200: {
            "status": "ok",
            "uses_kafka": True,
            "letters": [
                {
                    "place": "0:17",
                    "at": "2025-12-04T23:42:15.000000Z",
                    "reason": "user_id is missing",
                    "value": '{"item_id": "i9"}',
                    "is_replayed": False,
                }
            ],
        }
    },
    "undo_import": {
        200: {"status": "ok", "import_id": 3, "interactions": 119_990, "items": 0},
        202: {"status": "ok", "import_id": 3, "interactions": None, "items": None},
    },
}
"""Answers, by operation and status."""
