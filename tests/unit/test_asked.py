"""What the body of a request for lists says, and what is refused by name."""

import json

import pytest

from reckeeper.errors import DataError
from reckeeper.interactions import MAX_ROWS
from reckeeper.serving import parse_history

TYPES = {"click", "watchlist_add"}


def history(value, **more):
    told, rules = parse_history(json.dumps({"history": value, **more}).encode(), types=TYPES)
    return told.item_ids, told.occurred_at, rules.n


def test_a_history_is_a_list_the_oldest_first_or_items_with_times():
    assert history([]) == ([], [], 10)
    assert history(["a", 7, "a"], n=3) == (["a", "7", "a"], [0, 1, 2], 3)
    assert history([{"item_id": "b"}, "a"]) == (["b", "a"], [0, 1], 10)
    timed = [
        {"item_id": 7, "occurred_at": "1970-01-01T00:00:01.000001Z"},
        {"item_id": "a", "occurred_at": "1970-01-01T01:00:00+01:00"},
    ]
    assert history(timed) == (["7", "a"], [1_000_001, 0], 10)


TIMED = {"item_id": "i", "occurred_at": "2025-12-04T23:42:15Z"}


@pytest.mark.parametrize(
    ("value", "field", "told"),
    [
        (None, "history", "input should be a valid list"),
        ("ab", "history", "input should be a valid list"),
        (["a", None], "history.1.item_id", "must be a string or an integer"),
        (["a", ""], "history.1.item_id", "must have 1 to 256 characters"),
        (["a", ["b"]], "history.1.item_id", "must be a string or an integer"),
        ([{"occurred_at": TIMED["occurred_at"]}], "history.0.item_id", "is missing"),
        ([{**TIMED, "user_id": "u"}], "history.0.user_id", "there are item_id, occurred_at"),
        ([{**TIMED, "occurred_at": "yesterday"}], "history.0.occurred_at", "RFC 3339"),
        ([{**TIMED, "occurred_at": 1764891735}], "history.0.occurred_at", "RFC 3339"),
        ([{**TIMED, "occurred_at": "2025-12-04T23:42:15"}], "history.0.occurred_at", "timezone"),
        ([TIMED, "b"], "history.1.occurred_at", "is missing, and other items have one"),
        ([{"item_id": "b"}, TIMED], "history.0.occurred_at", "give all items their times, or none"),
        (["a"] * (MAX_ROWS + 1), "history", "at most 10000 items"),
    ],
)
def test_a_bad_history_is_refused_by_name(value, field, told):
    with pytest.raises(DataError) as caught:
        history(value)
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"[", "The body is not JSON"),
        (b"\xff", "The body is not JSON"),
        (b"[]", "the body: "),
        (b"{}", "history: is missing"),
        (b'{"history": [], "n": 0}', "n: input should be greater than or equal to 1"),
        (b'{"history": [], "n": 1001}', "n: "),
        (b'{"history": [], "n": "5"}', "n: "),
        (
            b'{"history": [], "user_id": "u"}',
            "user_id: there is no such field; there are history, n",
        ),
        (b'{"histroy": []}', r"histroy: .*did you mean history\?"),
    ],
)
def test_a_request_that_is_none_is_refused(raw, told):
    with pytest.raises(DataError, match=told):
        parse_history(raw, types=TYPES)
