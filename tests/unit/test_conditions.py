"""What a list may ask of the attributes of its items."""

import itertools

import pytest

from reckeeper.catalogue import Condition, conditions_of
from reckeeper.errors import DataError


def met(where, attributes):
    return all(each.is_met_by(attributes.get(each.attribute)) for each in conditions_of(where))


@pytest.mark.parametrize(
    ("where", "yes", "no"),
    [
        ("fr", ["fr", ["de", "fr"]], ["FR", "", None, ["de"], {"fr": 1}, 0]),
        (["eu", "uk"], ["eu", "uk", ["us", "uk"]], ["us", ["us"], [], None]),
        (1, [1, 1.0, [0, 1]], ["1", True, 2, [True], None]),
        (True, [True, [False, True]], [1, "true", False, None]),
        (False, [False], [0, None, "", []]),
        (2**60 + 1, [2**60 + 1], [2**60, float(2**60)]),
        (["1", 1], ["1", 1], [True, 1.5]),
        ({"min": 5, "max": 20}, [5, 20, 7.5, [1, 6]], [4.9, 21, "7", True, None, [4, 21]]),
        ({"min": 0}, [0, 1e300], [-1e-9, False, "1"]),
        ({"max": 0.5}, [0.5, -3], [1, True, ""]),
        ({"min": "2020-01-01", "max": "2020-12-31"}, ["2020-06"], ["2019-12-31", "2021", 2020]),
        ({"min": "b"}, ["b", "c", ["a", "ü"]], ["a", "B", 3, None]),
    ],
)
def test_values_are_compared_as_json_has_them(where, yes, no):
    assert [value for value in yes if not met({"a": where}, {"a": value})] == []
    assert [value for value in no if met({"a": where}, {"a": value})] == []
    assert not met({"a": where}, {})


def test_all_conditions_must_be_met_and_their_order_makes_no_difference():
    where = {"language": "fr", "region": ["eu", "uk"], "price": {"min": 5, "max": 20}}
    for order in itertools.permutations(where):
        turned = {name: where[name] for name in order}
        assert conditions_of(turned) == conditions_of(where)
        assert hash(conditions_of(turned)) == hash(conditions_of(where))
    item = {"language": "fr", "region": "uk", "price": 5}
    assert met(where, item)
    for name, other in (("language", "de"), ("region", "us"), ("price", 21)):
        assert not met(where, {**item, name: other})
    assert conditions_of({}) == ()
    assert conditions_of({"a": [1, 1.0]}) == (Condition("a", any_of=frozenset({"1"})),)


@pytest.mark.parametrize(
    ("where", "field", "told"),
    [
        ([], "where", "must be an object such as"),
        (None, "where", "must be an object"),
        ("language", "where", "must be an object"),
        ({str(n): 1 for n in range(21)}, "where", "has 21 attributes; at most 20 are taken"),
        ({"": 1}, "where.", "1 to 256 characters"),
        ({"x" * 300: 1}, "where." + "x" * 64, "1 to 256 characters"),
        ({"a": None}, "where.a", "must be a text, a number or a boolean"),
        ({"a": ["b", None]}, "where.a", "must be a text"),
        ({"a": [["b"]]}, "where.a", "must be a text"),
        ({"a": []}, "where.a", "has 0 values; 1 to 1000 are taken"),
        ({"a": list(range(1001))}, "where.a", "has 1001 values"),
        ({"a": {}}, "where.a", "must have min, max or both"),
        ({"a": {"min": 1, "mx": 2}}, "where.a.mx", r"there are min, max \(did you mean max\?\)"),
        ({"a": {"min": None}}, "where.a.min", "must be a number"),
        ({"a": {"min": True}}, "where.a.min", "must be a number"),
        ({"a": {"max": float("nan")}}, "where.a.max", "must be a number"),
        ({"a": {"min": [1]}}, "where.a.min", "must be a number"),
        ({"a": {"min": -(10**400)}}, "where.a.min", "is larger than any number"),
        ({"a": {"min": 2, "max": 1}}, "where.a", "max 1 is below min 2"),
        ({"a": {"min": "b", "max": "a"}}, "where.a", "max a is below min b"),
        ({"a": {"min": 1, "max": "2"}}, "where.a", "numbers for both"),
    ],
)
def test_what_is_no_condition_is_refused_by_name(where, field, told):
    with pytest.raises(DataError, match=told) as caught:
        conditions_of(where)
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")
