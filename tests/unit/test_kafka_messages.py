"""What stands on the topic: encoding, decoding, what is refused, and the published schema."""

import json
import math
import time
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from hypothesis import given
from hypothesis import strategies as st

from reckeeper.errors import ConfigError
from reckeeper.events.kafka import messages
from reckeeper.events.kafka.messages import Decoder, encode
from reckeeper.interactions import MAX_ROWS, Interaction

SCHEMA = Path(__file__).parents[2] / "docs" / "user_interactions.schema.json"
TYPES = {"click": 1.0, "watchlist_add": 2.0}
GOOD = {"user_id": "u", "item_id": "i", "interaction_type": "click"}
STAMP = 1_764_891_735_123  # 2025-12-04T23:42:15.123Z

IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
INTERACTIONS = st.builds(
    Interaction,
    event_id=IDS,
    user_id=IDS,
    item_id=IDS,
    interaction_type=st.sampled_from(["click", "watchlist_add", "watchlist_remove"]),
    weight=st.floats(min_value=0, max_value=1e6, exclude_min=True),
    occurred_at=st.integers(0, time.time_ns() // 1000),
)


def record(value, *, offset=7, partition=3, key=b"u", stamp=STAMP, headers=None):
    if isinstance(value, dict):
        value = json.dumps(value).encode()
    return Message(
        topic="t",
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp=(TIMESTAMP_CREATE_TIME, stamp),
    )


def decode(*records, fields=None, topic="t"):
    return Decoder(topic, fields).decode(list(records), types=TYPES)


def one(value, *, fields=None, **place):
    decoded = decode(record(value, **place), fields=fields)
    assert not decoded.refused, decoded.refused
    return decoded.interactions[0]


def refused(value, *, fields=None, **place):
    decoded = decode(record(value, **place), fields=fields)
    assert not decoded.interactions
    return decoded.refused[0]


# There and back


@given(st.lists(INTERACTIONS, max_size=20))
def test_what_is_encoded_is_decoded_as_it_was(interactions):
    decoded = decode(
        *(record(encode(row), offset=offset) for offset, row in enumerate(interactions))
    )
    assert decoded.interactions == interactions
    assert decoded.refused == []


def published():
    """Return what validates by the published schema."""
    import jsonschema  # its formats take a second and a half to import

    return jsonschema.Draft202012Validator(messages.schema())


@given(INTERACTIONS)
def test_what_is_encoded_keeps_the_published_schema(interaction):
    value = encode(interaction)
    published().validate(json.loads(value))
    assert json.loads(value)["version"] == 1


def test_a_message_without_id_is_named_by_its_place_and_without_time_dated_by_its_record():
    interaction = one(GOOD)
    assert interaction.event_id == f"t-3-7-{STAMP}"
    assert interaction.occurred_at == STAMP * 1000
    assert one({**GOOD, "event_id": None, "occurred_at": None}) == interaction
    whole = one({**GOOD, "event_id": "e", "occurred_at": "2025-12-04T23:42:15Z", "version": 1})
    assert whole[:2] == ("e", "u")
    assert whole.occurred_at == 1_764_891_735_000_000


def test_a_long_topic_name_still_makes_a_valid_id():
    (first,) = decode(record(GOOD), topic="x" * 245).interactions
    (second,) = decode(record(GOOD), topic="x" * 244 + "y").interactions
    assert first.event_id != second.event_id
    assert first.event_id.endswith(f"-3-7-{STAMP}")


def test_a_record_that_was_sent_again_keeps_the_name_and_the_time_of_its_origin():
    origin = messages.origin_of("t-0", 5, 9, STAMP)
    again = one(GOOD, headers=[("reckeeper.origin", origin.encode())], stamp=STAMP + 10_000)
    assert again.event_id == f"t-0-5-9-{STAMP}"
    assert again.occurred_at == STAMP * 1000
    for odd in (b"", b"t-1", b"\xff", b"t-1-2-x", b"t-" + b"9" * 5000 + b"-1-1"):
        interaction = one(GOOD, headers=[("reckeeper.origin", odd)])
        assert interaction.event_id == f"t-3-7-{STAMP}"


def test_a_record_without_timestamp_occurred_when_it_was_read():
    before = time.time_ns() // 1000
    bare = Message(
        topic="t", partition=0, offset=1, key=None, value=json.dumps(GOOD).encode(),
        timestamp=(TIMESTAMP_NOT_AVAILABLE, -1),
    )  # fmt: skip
    (interaction,) = decode(bare).interactions
    assert before <= interaction.occurred_at <= time.time_ns() // 1000
    assert interaction.event_id == "t-0-1--1"


def test_the_key_says_nothing():
    assert one(GOOD, key=None).user_id == "u"
    assert one(GOOD, key=b"\xff\x00 other").user_id == "u"


# What is refused


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (None, "no_value", "has no value"),
        (b"", "not_json", "EOF"),
        (b"not json", "not_json", "line 1 column 2"),
        (b'{"user_id":', "not_json", "EOF"),
        (b"\xff\xfe", "not_utf8", "at byte 0"),
        (b'{"user_id":"\xe4"}', "not_utf8", "at byte 12"),
        (b'{"user_id":"\\ud800"}', "not_json", "hex escape"),
        (b"[" * 100_000, "not_json", "recursion"),
        (b'{"a":' * 100_000, "not_json", "recursion"),
        (b"[{}]", "not_an_object", "not an object"),
        (b'"text"', "not_an_object", "not an object"),
        (b"7", "not_an_object", "not an object"),
        (b"null", "not_an_object", "not an object"),
        (b'{"a":1}, {"b":2}', "not_json", "trailing"),
        (b" " * (messages.MAX_VALUE_BYTES + 1), "too_large", "1048577 bytes"),
        ({**GOOD, "version": 2}, "unknown_version", "version 2 is not known"),
        ({**GOOD, "version": "1"}, "unknown_version", "is not known"),
        ({**GOOD, "version": True}, "unknown_version", "is not known"),
        ({**GOOD, "version": None}, "unknown_version", "is not known"),
        ({**GOOD, "version": 10**400}, "unknown_version", "is not known"),
        (b'{"version":1' + b"0" * 4999 + b"}", "not_json", "number"),
        ({}, "invalid_data", "user_id is missing"),
        ({"user_id": "u", "item_id": "i"}, "invalid_data", "interaction_type is missing"),
        ({**GOOD, "extra": 1}, "invalid_data", "extra is not a field"),
        ({**GOOD, "user_id": ""}, "invalid_data", "1 to 256 characters"),
        ({**GOOD, "user_id": "a\x00b"}, "invalid_data", "no control characters"),
        ({**GOOD, "weight": math.nan}, "invalid_data", "finite"),
        ({**GOOD, "interaction_type": "purchase"}, "invalid_data", "'purchase' has no weight"),
        ({**GOOD, "occurred_at": "2125-12-04T23:42:15Z"}, "invalid_data", "in the future"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:30],
)
def test_poison_is_refused_with_its_reason(value, code, words):
    bad = refused(value)
    assert bad.code == code
    assert words in bad.reason
    assert len(bad.reason) <= 1000
    assert bad.record.offset() == 7


def test_one_bad_record_harms_no_other_and_the_order_stays():
    records = [
        record({**GOOD, "event_id": f"e{offset}"} if offset % 3 else b"poison", offset=offset)
        for offset in range(10)
    ]
    decoded = decode(*records)
    assert [row.event_id for row in decoded.interactions] == ["e1", "e2", "e4", "e5", "e7", "e8"]
    assert [bad.record.offset() for bad in decoded.refused] == [0, 3, 6, 9]
    # Refused at two stages, and still in the order of the records.
    mixed = decode(
        record(b"{}", offset=0), record(b"x", offset=1), record(b"{}", offset=2), record(GOOD)
    )
    assert [bad.record.offset() for bad in mixed.refused] == [0, 1, 2]
    assert len(mixed.interactions) == 1


def test_a_batch_may_be_larger_than_a_request():
    decoded = decode(*(record(GOOD, offset=offset) for offset in range(MAX_ROWS + 1)))
    assert len({row.event_id for row in decoded.interactions}) == MAX_ROWS + 1


@given(st.binary(max_size=200))
def test_any_bytes_are_an_interaction_or_refused(value):
    decoded = decode(record(value))
    assert len(decoded.interactions) + len(decoded.refused) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["version", "event_id", "occurred_at", "weight", *GOOD]), JSON)
)
def test_any_object_is_an_interaction_that_can_be_encoded_or_refused(row):
    decoded = decode(record(json.dumps({**GOOD, **row}).encode()))
    assert len(decoded.interactions) + len(decoded.refused) == 1
    for interaction in decoded.interactions:
        assert decode(record(encode(interaction))).interactions == [interaction]


# Topics of another format

FIELDS = {
    "user_id": "customer.id",
    "item_id": "sku",
    "interaction_type": "'click'",
    "occurred_at": "ts:ms",
}
FOREIGN = {"customer": {"id": 17, "name": "x"}, "sku": "i7", "ts": STAMP, "page": {"a": [1]}}


def test_fields_are_taken_from_where_they_are():
    assert one(FOREIGN, fields=FIELDS) == (
        f"t-3-7-{STAMP}", "17", "i7", "click", 1.0, STAMP * 1000
    )  # fmt: skip
    more = {**FIELDS, "event_id": "id", "weight": "'2.5'", "interaction_type": "kind"}
    row = {**FOREIGN, "id": "e", "kind": "watchlist_add"}
    assert one(row, fields=more)[:5] == ("e", "17", "i7", "watchlist_add", 2.5)


@pytest.mark.parametrize(
    ("unit", "number", "expected"),
    [
        ("s", 1_764_891_735, 1_764_891_735_000_000),
        ("s", 1_764_891_735.25, 1_764_891_735_250_000),
        ("ms", 1_764_891_735_123, 1_764_891_735_123_000),
        ("us", 1_764_891_735_123_456, 1_764_891_735_123_456),
        ("s", 0, 0),
    ],
)
def test_units_of_time(unit, number, expected):
    fields = {**FIELDS, "occurred_at": f"ts:{unit}"}
    assert one({**FOREIGN, "ts": number}, fields=fields).occurred_at == expected


def test_a_time_without_unit_is_text():
    fields = {**FIELDS, "occurred_at": "ts"}
    row = {**FOREIGN, "ts": "2025-12-04T23:42:15Z"}
    assert one(row, fields=fields).occurred_at == 1_764_891_735_000_000


@pytest.mark.parametrize("absent", [{}, {"ts": None}])
def test_what_is_absent_or_null_has_its_default(absent):
    row = {"customer": {"id": 17}, "sku": "i7", **absent}
    assert one(row, fields=FIELDS).occurred_at == STAMP * 1000


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sku": "i7"}, "user_id is missing"),
        ({"customer": None, "sku": "i7"}, "user_id is missing"),
        ({"customer": [17], "sku": "i7"}, "user_id is missing"),
        ({"customer": {"id": {"x": 1}}, "sku": "i7"}, "user_id must be a string or an integer"),
        ({**FOREIGN, "ts": "soon"}, "occurred_at must be a number since 1970 in ms"),
        ({**FOREIGN, "ts": True}, "occurred_at must be a number"),
        ({**FOREIGN, "ts": math.nan}, "occurred_at must be a number"),
        ({**FOREIGN, "ts": math.inf}, "occurred_at must be a number"),
        ({**FOREIGN, "ts": 10**400}, "occurred_at must be a number"),
        ({**FOREIGN, "ts": -1000}, "occurred_at lies before 1970"),
        ({**FOREIGN, "ts": STAMP * 10}, "occurred_at lies more than a day in the future"),
    ],
    ids=repr,
)
def test_foreign_poison(row, words):
    bad = refused(row, fields=FIELDS)
    assert bad.code == "invalid_data"
    assert bad.reason.startswith(words)


@given(JSON)
def test_any_foreign_object_is_an_interaction_or_refused(row):
    decoded = decode(record(json.dumps(row).encode()), fields=FIELDS)
    assert len(decoded.interactions) + len(decoded.refused) == 1


def test_our_own_messages_on_a_foreign_topic_are_known_by_their_header():
    interaction = Interaction("e", "u", "i", "click", 1.0, STAMP * 1000)
    own = [(messages.VERSION_HEADER, b"1")]
    assert one(encode(interaction), fields=FIELDS, headers=own) == interaction
    assert refused(encode(interaction), fields=FIELDS).code == "invalid_data"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**FIELDS, "user_id": "id:ms"}, "only occurred_at has a unit"),
        ({**FIELDS, "weight": "'heavy'"}, "a weight is a number"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        Decoder("t", fields)


# The schema


def test_the_published_schema_is_that_of_the_code():
    text = json.dumps(messages.schema(), indent=2, ensure_ascii=False) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == text, f"write it to {SCHEMA.name} again"
    published().check_schema(messages.schema())


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"user_id": ""},
        {"user_id": "a\nb"},
        {"user_id": 1.5},
        {"user_id": None},
        {"item_id": "x" * 257},
        {"interaction_type": 1},
        {"weight": -1},
        {"weight": 2e6},
        {"weight": "1"},
        {"weight": None},
        {"occurred_at": 1},
        {"occurred_at": "yesterday"},
        {"extra": 1},
    ],
    ids=repr,
)
def test_what_the_schema_refuses_the_code_refuses(changed):
    row = {**GOOD, **changed}
    assert not published().is_valid(row)
    refused(row)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"version": 1},
        {"user_id": 17},
        {"event_id": None, "occurred_at": None},
        {"event_id": "🎬" * 256},
        {"weight": 0},
        {"interaction_type": "dismiss"},
        {"interaction_type": "dismiss_undo"},
        {"weight": 0.5, "occurred_at": "2025-12-04T23:42:15+01:00"},
    ],
    ids=repr,
)
def test_what_the_code_takes_the_schema_takes(changed):
    row = {**GOOD, **changed}
    published().validate(row)
    one(row)
    missing = {name: value for name, value in row.items() if name != "item_id"}
    assert not published().is_valid(missing)
    refused(missing)
