"""What a version from elsewhere says of itself: of the right type and range, and plain text."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reckeeper.artifact.format import Metadata
from reckeeper.errors import DataError

_LONGEST_TEXT = 10_000
_LARGEST_FIGURE = 1e12
_LARGEST_WEIGHT = 1e6
_MOST_DAYS = 100_000
_SHOWN = 60

# Line ends and tabs are no harm; what steers a terminal, or turns the reading around, is.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_METRIC = re.compile(r"[a-z][a-z0-9_]{0,39}(?:@\d{1,6})?")
_DECISIONS = {"promote", "reject", "unchanged"}


def check_claims(metadata: Metadata, timeline: list[dict[str, Any]]) -> None:
    """Refuse what nobody could be shown, and what no version says of itself.

    Parameters
    ----------
    metadata : Metadata
    timeline : list of dict
        When it was active where it was made.

    Raises
    ------
    DataError
        A part is not of its type, out of range, or no plain text.
    """
    for name, value in (*vars(metadata).items(), ("timeline", timeline)):
        for text in _texts(value):
            if len(text) > _LONGEST_TEXT or _UNSAFE.search(text):
                raise DataError(f"a text of its {name} is too long or has control characters")
    if metadata.explained_variance < 0:
        raise DataError("its explained variance is below 0")
    _metrics(metadata.metrics, "metrics")
    if metadata.verdict:
        _verdict(metadata.verdict)
    if metadata.cause is not None:
        _strings(metadata.cause, ("rule", "sentence"), "cause")
    _strings(metadata.libraries, tuple(metadata.libraries), "libraries")
    _data(metadata.data)
    for entry in timeline:
        _strings(entry, ("at", "action", "actor"), "timeline")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        parts = [*value, *value.values()] if isinstance(value, Mapping) else value
        for part in parts:
            yield from _texts(part)


def _verdict(verdict: Mapping[str, Any]) -> None:
    _strings(verdict, ("decision", "sentence"), "verdict")
    if verdict["decision"] not in _DECISIONS:
        raise DataError(f"its verdict decides {verdict['decision'][:_SHOWN]!r}")
    for name in ("candidate", "active", "popularity"):
        _metrics(verdict.get(name), f"verdict's {name}")
    for name in ("versus_active", "versus_popularity"):
        _differences(verdict.get(name), f"verdict's {name}")
    for beside in _parts(verdict.get("headline"), "verdict's headline").values():
        _differences(beside, "verdict's headline")
    for name in ("reasons", "warnings", "segments"):
        parts, kind = verdict.get(name, []), dict if name == "segments" else str
        if not isinstance(parts, list) or not all(isinstance(part, kind) for part in parts):
            raise DataError(f"its verdict's {name} are none")


def _data(data: Mapping[str, Any]) -> None:
    if any(abs(weight) > _LARGEST_WEIGHT for weight in data.get("weights", {}).values()):
        raise DataError("a weight of its interaction types is out of range")
    for name, most in (
        ("half_life_days", _MOST_DAYS),
        ("window_days", _MOST_DAYS),
        ("max_interactions_per_user", _LARGEST_FIGURE),
    ):
        if (data.get(name) or 0) > most:
            raise DataError(f"its {name} is out of range")
    users = data.get("left_out_users", [])
    if not isinstance(users, list) or not all(isinstance(user, str) for user in users):
        raise DataError("its users that were left out are none")


def _metrics(metrics: object, what: str) -> None:
    for figures in _parts(metrics, what).values():
        if not isinstance(figures, Mapping) or "mean" not in figures:
            raise DataError(f"its {what} have no mean")
        _figures(figures, what)


def _differences(differences: object, what: str) -> None:
    for figures in _parts(differences, what, are_named=False).values():
        if figures is not None:
            if not isinstance(figures, Mapping) or "difference" not in figures:
                raise DataError(f"its {what} has no difference")
            _figures(figures, what)


def _parts(value: object, what: str, *, are_named: bool = True) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DataError(f"its {what} are none")
    for name in value:
        if are_named and not _METRIC.fullmatch(name):
            raise DataError(f"its {what} name {name[:_SHOWN]!r}")
    return value


def _figures(figures: Mapping[str, Any], what: str) -> None:
    for figure in figures.values():
        is_number = type(figure) in (int, float) and abs(figure) <= _LARGEST_FIGURE
        if figure is not None and not is_number:
            raise DataError(f"its {what} tell {str(figure)[:_SHOWN]!r} as a figure")


def _strings(told: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    for name in names:
        if type(told.get(name)) is not str:
            raise DataError(f"its {what} tell {str(told.get(name))[:_SHOWN]!r} as {name[:_SHOWN]}")
