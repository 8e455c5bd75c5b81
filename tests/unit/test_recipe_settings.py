"""Settings of recipes: what is taken, what is refused and how, and what is said of them."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pytest

from reckeeper.errors import DataError
from reckeeper.recipes.settings import RecipeSettings, setting


@dataclass(frozen=True, kw_only=True)
class Example(RecipeSettings):
    """One setting of each kind."""

    rank: int = setting(64, low=1, high=1000, help="Vectors kept.")
    power: float = setting(0.5, low=0, help="Exponent.")
    ceiling: float | None = setting(None, high=2.5, help="Largest weight; null: none.")
    seed: int = setting(0, help="Any.")
    weighting: Literal["binary", "log"] = setting("log", help="How repeats count.")
    centred: bool = setting(False, help="Whether means are taken off.")


def parse(**settings):
    return Example.parse(settings, recipe="example")


def test_what_is_not_given_has_its_default():
    assert parse() == Example()
    assert parse(rank=7) == Example(rank=7)
    assert dataclasses.asdict(parse(rank=7)) == {
        "rank": 7, "power": 0.5, "ceiling": None, "seed": 0, "weighting": "log", "centred": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 1),
        ("rank", 1000),
        ("power", 0.0),
        ("power", 1e300),
        ("ceiling", None),
        ("ceiling", 2.5),
        ("ceiling", -7.0),
        ("seed", -(10**9)),
        ("weighting", "binary"),
        ("centred", True),
    ],
)
def test_what_is_in_range_is_taken(name, value):
    assert getattr(parse(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["power", "ceiling"])
def test_a_whole_number_becomes_a_float(name):
    value = getattr(parse(**{name: 2}), name)
    assert (value, type(value)) == (2.0, float)


@pytest.mark.parametrize(
    ("name", "values", "wanted"),
    [
        ("rank", [0, 1001, 1.0, True, "7", None, [7]], "a whole number from 1 to 1000"),
        ("power", [-0.1, True, "1", None, 10**400], "a number from 0 on"),
        ("power", [float("nan"), float("inf"), -float("inf")], "a number from 0 on"),
        ("ceiling", [2.6, False, "null", float("nan")], "a number up to 2.5, or null"),
        ("seed", [0.5, None, 10**400], "a whole number"),
        ("weighting", ["raw", "", 1, None, ["log"]], "one of binary, log"),
        ("centred", [0, 1, "true", None], "true or false"),
    ],
    ids=str,
)
def test_what_is_refused_is_named_with_its_value_and_the_range(name, values, wanted):
    for value in values:
        with pytest.raises(DataError) as refused:
            parse(**{name: value})
        assert refused.value.message == f"{name} must be {wanted}, not {value!r}."


def test_an_unknown_setting_is_refused_with_those_that_there_are():
    with pytest.raises(DataError) as refused:
        parse(rank=7, speed=11)
    assert refused.value.message == (
        "The recipe example has no setting 'speed': it has rank, power, ceiling, seed, weighting, "
        "centred."
    )


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse().rank = 8


def test_each_is_described_with_its_range():
    assert Example.describe() == [
        {"name": "rank", "default": 64, "help": "Vectors kept. A whole number from 1 to 1000."},
        {"name": "power", "default": 0.5, "help": "Exponent. A number from 0 on."},
        {
            "name": "ceiling",
            "default": None,
            "help": "Largest weight; null: none. A number up to 2.5, or null.",
        },
        {"name": "seed", "default": 0, "help": "Any. A whole number."},
        {"name": "weighting", "default": "log", "help": "How repeats count. One of binary, log."},
        {
            "name": "centred",
            "default": False,
            "help": "Whether means are taken off. True or false.",
        },
    ]
