"""The message of an interaction: what is taken in, what is refused, and in which words."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from reckeeper import wire
from reckeeper.errors import DataError, TooLargeError
from reckeeper.events import message, parse
from reckeeper.interactions import MAX_BODY_BYTES, MAX_ROWS, WITHOUT_WEIGHT, checked_id, narrowed

TYPES = {"click": 1.0, "watchlist_add": 2.0}
GOOD = {"user_id": "u", "item_id": "i", "interaction_type": "click"}


def body(*rows):
    return json.dumps(list(rows)).encode()


def one(**fields):
    (interaction,) = parse(body({**GOOD, **fields}), types=TYPES).interactions
    return interaction


def refused(raw, **options):
    with pytest.raises(DataError) as caught:
        parse(raw, types=TYPES, **options)
    return caught.value


# Good rows


def test_a_message_becomes_an_interaction():
    before = time.time_ns() // 1000
    interaction = one(event_id="e", weight=2.5, occurred_at="2025-12-04T23:42:15.000001Z")
    moment = datetime(2025, 12, 4, 23, 42, 15, 1, tzinfo=UTC)
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert interaction == ("e", "u", "i", "click", 2.5, microseconds)
    defaults = one()
    assert defaults.weight == 1.0
    assert before <= defaults.occurred_at <= time.time_ns() // 1000


def test_one_message_may_come_without_a_list():
    assert parse(json.dumps(GOOD).encode(), types=TYPES).interactions[0].user_id == "u"


@pytest.mark.parametrize("field", ["user_id", "item_id", "event_id"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        ("x" * 256, "x" * 256),
        ("🎬" * 256, "🎬" * 256),
        ("a/b c?d#e%2F", "a/b c?d#e%2F"),
        (" ", " "),
        ("Ünï", "Ünï"),
        ("'; DROP TABLE items; --", "'; DROP TABLE items; --"),
        (7, "7"),
        (-7, "-7"),
        (0, "0"),
        (2**70, "1180591620717411303424"),
        (10**255, "1" + "0" * 255),
        ("007", "007"),
    ],
)
def test_ids(field, value, expected):
    assert getattr(one(**{field: value}), field) == expected


@pytest.mark.parametrize("kind", ["click", "watchlist_add", *WITHOUT_WEIGHT])
def test_types(kind):
    assert one(interaction_type=kind).interaction_type == kind


@pytest.mark.parametrize("weight", [1, 0, 0.5, 1e6, 1e-300])
def test_weights(weight):
    interaction = one(weight=weight)
    assert interaction.weight == weight
    assert type(interaction.weight) is float


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-12-04T23:42:15Z", "2025-12-04T23:42:15+00:00"),
        ("2025-12-04t23:42:15z", "2025-12-04T23:42:15+00:00"),
        ("2025-12-04 23:42:15Z", "2025-12-04T23:42:15+00:00"),
        ("2025-12-04T23:42:15-00:00", "2025-12-04T23:42:15+00:00"),
        ("2025-12-04T23:42:15+05:30", "2025-12-04T18:12:15+00:00"),
        ("2025-12-04T23:42:15-08:00", "2025-12-05T07:42:15+00:00"),
        ("2025-12-04T23:42:15.5Z", "2025-12-04T23:42:15.500000+00:00"),
        ("2025-12-04T23:42:15.123456789Z", "2025-12-04T23:42:15.123456+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_times(text, expected):
    found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one(occurred_at=text)[5])
    assert found == datetime.fromisoformat(expected)


def test_a_clock_that_is_a_little_fast_is_forgiven():
    soon = datetime.now(UTC) + timedelta(hours=23)
    assert one(occurred_at=soon.isoformat()).occurred_at > time.time_ns() // 1000


def test_null_is_as_good_as_absent():
    interaction = one(event_id=None, occurred_at=None)
    assert uuid.UUID(interaction.event_id).version == 7


def test_generated_event_ids_are_unique_and_sortable_by_time():
    first = parse(body(*[GOOD] * MAX_ROWS), types=TYPES).interactions
    ids = {interaction.event_id for interaction in first}
    assert len(ids) == MAX_ROWS
    parsed = [uuid.UUID(event_id) for event_id in ids]
    assert all(str(one) in ids for one in parsed)
    assert {(one.version, one.variant) for one in parsed} == {(7, uuid.RFC_4122)}
    milliseconds = {one.int >> 80 for one in parsed}
    assert milliseconds == {interaction.occurred_at // 1000 for interaction in first}
    while time.time_ns() // 1_000_000 <= max(milliseconds):
        pass
    assert max(ids) < one().event_id


# Bad rows

BAD = [
    *[
        (field, value, words)
        for field in ("user_id", "item_id", "event_id")
        for value, words in [
            ("", "must have 1 to 256 characters"),
            ("x" * 257, "must have 1 to 256 characters"),
            (10**256, "must have 1 to 256 characters"),
            ("a\x00b", "must have no control characters"),
            ("a\nb", "must have no control characters"),
            ("a\x7fb", "must have no control characters"),
            ("a\x85b", "must have no control characters"),
            (True, "must be a string or an integer"),
            (1.0, "must be a string or an integer"),
            (["x"], "must be a string or an integer"),
            ({}, "must be a string or an integer"),
        ]
    ],
    ("user_id", None, "must be a string or an integer"),
    ("item_id", None, "must be a string or an integer"),
    ("interaction_type", None, "input should be a valid string"),
    ("interaction_type", 1, "input should be a valid string"),
    ("interaction_type", "", "'' has no weight"),
    ("interaction_type", "Click", "'Click' has no weight"),
    (
        "interaction_type",
        "purchase",
        "'purchase' has no weight: use one of click, dismiss, dismiss_",
    ),
    ("weight", None, "input should be a valid number"),
    ("weight", "1", "input should be a valid number"),
    ("weight", True, "input should be a valid number"),
    ("weight", [1], "input should be a valid number"),
    ("weight", -1, "input should be greater than or equal to 0"),
    ("weight", -1e-300, "input should be greater than or equal to 0"),
    ("weight", 1.1e6, "input should be less than or equal to 1000000"),
    ("weight", 10**400, "input should be a valid number"),
    ("weight", float("nan"), "input should be a finite number"),
    ("weight", float("inf"), "input should be a finite number"),
    ("weight", float("-inf"), "input should be a finite number"),
    ("occurred_at", 1764891735, "must be an RFC 3339 time such as 2025-12-04T23:42:15Z"),
    ("occurred_at", 1.5, "must be an RFC 3339 time"),
    ("occurred_at", True, "must be an RFC 3339 time"),
    ("occurred_at", "1764891735", "must be an RFC 3339 time"),
    ("occurred_at", "1764891735.5", "must be an RFC 3339 time"),
    ("occurred_at", "-1", "must be an RFC 3339 time"),
    ("occurred_at", "", "must be an RFC 3339 time"),
    ("occurred_at", "yesterday", "must be an RFC 3339 time"),
    ("occurred_at", "2025-12-04", "input should have timezone info"),
    ("occurred_at", "2025-12-04T23:42:15", "input should have timezone info"),
    ("occurred_at", "2025-02-29T00:00:00Z", "input should be a valid datetime"),
    ("occurred_at", "2025-12-04T24:00:00Z", "input should be a valid datetime"),
    ("occurred_at", "2016-12-31T23:59:60Z", "input should be a valid datetime"),
    ("occurred_at", "1969-12-31T23:59:59.999999Z", "lies before 1970"),
    ("occurred_at", "0001-01-01T00:00:00+01:00", "lies before 1970"),
    ("occurred_at", "9999-12-31T23:59:59-01:00", "lies more than a day in the future"),
    ("colour", "red", "is not a field of an interaction"),
    (
        "userid",
        "u",
        "is not a field of an interaction; there are event_id, user_id, item_id, "
        "interaction_type, weight, occurred_at (did you mean user_id?)",
    ),
]


@pytest.mark.parametrize(("field", "value", "words"), BAD)
def test_a_bad_row_is_refused_whole_by_index_and_field(field, value, words):
    error = refused(body(GOOD, {**GOOD, field: value}, GOOD))
    assert error.message.startswith(f"Row 1: {field} {words}")
    assert "Nothing of this request was stored" in error.message
    (row,) = error.details["refused"]
    assert (row["index"], row["field"]) == (1, field)
    assert row["message"].startswith(words)


@pytest.mark.parametrize("field", ["user_id", "item_id", "interaction_type"])
def test_a_missing_field_is_named(field):
    row = {key: value for key, value in GOOD.items() if key != field}
    assert refused(body(row)).message.startswith(f"Row 0: {field} is missing.")


def test_a_time_in_the_far_future_is_refused():
    late = datetime.now(UTC) + timedelta(hours=25)
    error = refused(body({**GOOD, "occurred_at": late.isoformat()}))
    assert error.message.startswith("Row 0: occurred_at lies more than a day in the future")


@pytest.mark.parametrize("row", [1, "x", None, [], True])
def test_a_row_that_is_no_object_is_refused(row):
    error = refused(body(GOOD, row))
    assert error.message.startswith(
        "Row 1: interaction must be an object with user_id, item_id and interaction_type."
    )


def test_of_very_many_unknown_fields_one_is_named(monkeypatch):
    looked_for = []

    def alternatives(name, known):
        looked_for.append(name)
        return ""

    monkeypatch.setattr(message, "alternatives", alternatives)
    wide = {**GOOD, **{f"x{number}": number for number in range(1_000)}}
    error = refused(body(GOOD, wide, wide))
    assert error.details["refused"] == [
        {"index": index, "field": "x0", "message": "is not a field of an interaction"}
        for index in (1, 2)
    ]
    assert looked_for == ["x0", "x0"]  # to look among names for what was meant takes its time


def test_an_object_of_very_many_fields_is_reduced_to_an_unknown_one():
    known = ("a", "b")
    assert narrowed({"a": 1, "x": 2, "y": 3}, known) == {"x": None}
    for told in ({"a": 1, "x": 2}, {}, [1, 2, 3], "text", None):
        assert narrowed(told, known) is told


def test_a_long_unknown_field_is_not_sent_back_whole():
    error = refused(body({**GOOD, "x" * 100_000: 1}))
    assert len(wire.error_body(error).model_dump_json()) < 1000


def test_every_bad_row_is_listed_up_to_a_hundred():
    error = refused(body(*[{**GOOD, "user_id": ""}, GOOD] * 150))
    assert [row["index"] for row in error.details["refused"]] == list(range(0, 200, 2))


def test_on_skip_the_good_rows_stay_in_order():
    rows = [
        {**GOOD, "item_id": 0},
        {**GOOD, "user_id": "", "weight": -1},
        {**GOOD, "item_id": 1},
        {**GOOD, "interaction_type": "purchase"},
        5,
        {**GOOD, "occurred_at": "9999-01-01T00:00:00Z"},
        {**GOOD, "item_id": 2},
    ]
    parsed = parse(body(*rows), types=TYPES, skip_refused=True)
    assert [interaction.item_id for interaction in parsed.interactions] == ["0", "1", "2"]
    assert [(row.index, row.field) for row in parsed.refused] == [
        (1, "user_id"),
        (3, "interaction_type"),
        (4, "interaction"),
        (5, "occurred_at"),
    ]


def test_on_skip_nothing_may_be_left():
    parsed = parse(body({}), types=TYPES, skip_refused=True)
    assert parsed.interactions == []
    assert len(parsed.refused) == 1


# Bad bodies


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'user_id': 1}",
        b"user_id=1",
        b"\xff\xfe",
        b'{"user_id": "\xff"}',
        b'{"user_id": "\\ud800", "item_id": "i", "interaction_type": "click"}',
        b"[" * 100_000,
        b'{"a": 1} {"b": 2}',
        b'{"user_id": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
@pytest.mark.parametrize("skip_refused", [False, True])
def test_what_is_no_json_is_refused(raw, skip_refused):
    error = refused(raw, skip_refused=skip_refused)
    assert error.message.startswith("The body is not JSON: ")
    assert error.code == "invalid_data"


def test_an_empty_list_is_refused():
    assert refused(b"[]").message == "The list has no interaction. Send at least one."


def test_too_many_rows_are_refused():
    assert len(parse(body(*[GOOD] * MAX_ROWS), types=TYPES).interactions) == MAX_ROWS
    error = refused(body(*[GOOD] * (MAX_ROWS + 1)))
    assert isinstance(error, TooLargeError)
    assert "10001 interactions; at most 10000" in error.message


def test_a_body_over_the_limit_is_refused():
    raw = json.dumps(GOOD).encode()
    assert parse(raw.ljust(MAX_BODY_BYTES), types=TYPES).interactions
    error = refused(raw.ljust(MAX_BODY_BYTES + 1))
    assert isinstance(error, TooLargeError)
    assert str(MAX_BODY_BYTES) in error.message


# Ids outside a message


def test_checked_id():
    assert checked_id("user_id", "a/b 🎬") == "a/b 🎬"
    assert checked_id("user_id", 7) == "7"


@pytest.mark.parametrize("value", ["", "x" * 257, "a\tb", "\ud800", "a\udcffb", None, 1.5])
def test_checked_id_refuses_what_a_message_refuses(value):
    with pytest.raises(DataError, match=r"^item_id must "):
        checked_id("item_id", value)
