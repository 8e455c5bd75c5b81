"""What the body of a request for lists says, and what is refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reckeeper.errors import DataError
from reckeeper.interactions import MAX_ROWS
from reckeeper.serving import asked, parse_history

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


GOOD_TIMES = [
    "2025-12-04T23:42:15Z",
    "2024-02-29T00:00:00.5+05:30",
    "1000-01-01T00:00:00.123456-00:00",
    "9999-12-31T23:59:59-23:59",
]
ODD_TIMES = [
    *("2025-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"),
    *("2025-12-04T24:00:00Z", "2025-12-04T23:42:60Z", "2025-12-04T23:42:15+24:00"),
    *("2025-12-04T23:42:15.1234567Z", "2025-12-04T23:42:15+05:60", "2025-12-04T23:42:15"),
    *("2025-12-04 23:42:15z", "2025-12-04T23:42Z", "2025-12-04T23:42:15+0100"),
    *("2025-12-04T23:42:15Z\n", "1764891735", "1.0e-5", "", None, 1764891735, []),
]
GOOD_IDS = ["a", "b", "ü/🎬 x", "i" * 256, 7, -(10**40)]
ODD_IDS = ["", "i" * 257, "a\x00", "a\u00a0b", 10**300, True, 1.0, None, ["a"], {}]
GOOD_TYPES = ["click", "watchlist_add", "dismiss", None]
ODD_TYPES = ["Click", "", "view", 1, ["click"], {}]
GOOD_WEIGHTS = [1, 1.0, 0, 0.5, -0.0, 10**6]
ODD_WEIGHTS = [-1, 10**6 + 1, 10**400, float("nan"), float("inf"), True, "1", None, []]


def mostly(good, odd):
    """Values of which many lists have none that is odd."""
    return st.integers(0, 14).flatmap(lambda draw: st.sampled_from(good if draw else odd))


ROWS = {
    "item_id": mostly(GOOD_IDS, ODD_IDS),
    "occurred_at": mostly(GOOD_TIMES, ODD_TIMES),
    "interaction_type": mostly(GOOD_TYPES, ODD_TYPES),
    "weight": mostly(GOOD_WEIGHTS, ODD_WEIGHTS),
    "item": st.just("a"),
}


@st.composite
def histories(draw):
    if draw(st.booleans()):
        return draw(st.lists(ROWS["item_id"], max_size=6))
    names = {"item_id", *draw(st.sets(st.sampled_from([*ROWS][1:4])))}
    at_times = draw(st.sets(st.sampled_from([*ROWS]), max_size=1))
    row = st.fixed_dictionaries(
        {name: ROWS[name] for name in names - at_times},
        optional={name: ROWS[name] for name in at_times},
    )
    return draw(st.lists(mostly([None], [draw(ROWS["item_id"])]).flatmap(
        lambda odd: row if odd is None else st.just(odd)), max_size=6))  # fmt: skip


def outcome(body):
    try:
        return parse_history(body, types=TYPES)
    except DataError as exc:
        return exc.message, exc.details, exc.action


def assert_as_one_by_one(history, more):
    body = json.dumps({"history": history, **more}).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asked, "told_alike", lambda *_: None)
        wanted = outcome(body)
    # As text: what is equal may be of another type.
    assert repr(outcome(body)) == repr(wanted)


@settings(max_examples=200)
@given(
    history=histories(),
    more=st.sampled_from([{}, {}, {"n": 3}, {"n": 0}, {"modle": 1}, {"where": {"a": {"mn": 1}}}]),
)
def test_items_told_alike_are_read_and_refused_as_each_is_by_itself(history, more):
    assert_as_one_by_one(history, more)


def test_each_odd_value_is_read_or_refused_as_by_itself():
    for odd in ODD_IDS:
        assert_as_one_by_one(["a", odd], {})
    odd_values = {
        "item_id": ODD_IDS,
        "occurred_at": ODD_TIMES,
        "interaction_type": ODD_TYPES,
        "weight": ODD_WEIGHTS,
        "item": ["a"],
    }
    for name, values in odd_values.items():
        for odd in values:
            assert_as_one_by_one([TIMED, {**TIMED, name: odd}], {})


@pytest.mark.parametrize(
    "history",
    [
        [],
        GOOD_IDS,
        [{"item_id": item_id} for item_id in GOOD_IDS],
        [{"item_id": "a", "occurred_at": time} for time in GOOD_TIMES],
        [{"item_id": 7, "interaction_type": name} for name in GOOD_TYPES],
        [{"item_id": 7, "weight": weight} for weight in GOOD_WEIGHTS],
    ],
)
def test_what_is_usual_takes_the_short_way(history):
    assert asked.told_alike(history, {*TYPES, "dismiss"}) is not None
