"""What stands on the topic: interactions to bytes and back, and why a record is none.

The format is versioned JSON, `docs/user_interactions.schema.json`; a topic of another
format is read by a mapping of fields.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from pydantic_core import from_json, to_json

from reckeeper import clock
from reckeeper.errors import ConfigError
from reckeeper.events import message
from reckeeper.interactions import MAX_ID_CHARACTERS, MAX_WEIGHT, Interaction

VERSION = 1
"""The version of the message's format."""

MAX_VALUE_BYTES = 1024 * 1024
"""Size of a message; a larger one is refused."""

VERSION_HEADER = "reckeeper.version"
"""Marks Reckeeper's own messages on a topic of another format."""

ORIGIN_HEADER = "reckeeper.origin"
"""Where a record that was sent again from the dead letters stood at first."""

_LONGEST_TOPIC_IN_ID = 180
_SLICE = 1000
_ORIGIN = re.compile(r".+-\d{1,10}-\d{1,19}-(-?\d{1,16})")


@dataclass(frozen=True)
class Refused:
    """A record that is no interaction.

    Attributes
    ----------
    record : confluent_kafka.Message
    code : str
        ``no_value``, ``too_large``, ``not_utf8``, ``not_json``, ``not_an_object``,
        ``unknown_version`` or ``invalid_data``.
    reason : str
        What was wrong, in words.
    """

    record: Message
    code: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """Records, sorted into interactions and refused ones; both in the order of the records."""

    interactions: list[Interaction]
    refused: list[Refused]


def encode(interaction: Interaction) -> bytes:
    """Return an interaction as the value of a record; its key is the user's id."""
    return to_json(
        {
            "version": VERSION,
            "event_id": interaction.event_id,
            "user_id": interaction.user_id,
            "item_id": interaction.item_id,
            "interaction_type": interaction.interaction_type,
            "weight": interaction.weight,
            "occurred_at": clock.rfc3339(interaction.occurred_at),
        }
    )


def origin_of(topic: str, partition: int, offset: int, timestamp: int) -> str:
    """Return the name of a place on a topic, which is the event id of a message without one.

    The record's timestamp (in milliseconds) is in it, so that a topic that is created again
    gives other names.
    """
    if len(topic) > _LONGEST_TOPIC_IN_ID:  # an id has 256 characters
        topic = hashlib.sha256(topic.encode()).hexdigest()
    return f"{topic}-{partition}-{offset}-{timestamp}"


class Decoder:
    """Reads the records of one topic.

    Parameters
    ----------
    topic : str
    fields : mapping of str to str, optional
        For a topic of another format, where each of our fields is: a path of names with dots,
        or a constant in single quotes; ``:s``, ``:ms`` or ``:us`` behind the path of
        ``occurred_at`` says that it is a number since 1970. Other fields are left alone.

    Raises
    ------
    ConfigError
        `fields` cannot be used.
    """

    def __init__(self, topic: str, fields: Mapping[str, str] | None = None) -> None:
        self._topic = topic
        self._places = None if fields is None else _places(fields)

    def decode(self, records: Sequence[Message], *, types: Collection[str]) -> Decoded:
        """Decode and validate records, each by itself.

        Parameters
        ----------
        records : sequence of confluent_kafka.Message
            Without error.
        types : collection of str
            Interaction types that are accepted.
        """
        interactions: list[Interaction] = []
        refused: list[Refused] = []
        # Little of what is made on the way lives at once: the garbage collector has less to do.
        for first in range(0, len(records), _SLICE):
            decoded = self._decode(records[first : first + _SLICE], types)
            interactions += decoded.interactions
            refused += decoded.refused
        return Decoded(interactions, refused)

    def _decode(self, records: Sequence[Message], types: Collection[str]) -> Decoded:
        refused: dict[int, Refused] = {}
        rows: list[dict[str, Any]] = []
        arrived_at: list[int] = []
        positions: list[int] = []
        for position, record in enumerate(records):
            try:
                row = self._row(record)
            except _RefusedError as exc:
                refused[position] = Refused(record, exc.code, exc.reason)
                continue
            kind, timestamp = record.timestamp()
            if row.get("event_id") is None or row.get("occurred_at") is None:
                origin, timestamp = self._origin(record)
                if row.get("event_id") is None:
                    row["event_id"] = origin
            arrived_at.append(clock.now() if kind == TIMESTAMP_NOT_AVAILABLE else timestamp * 1000)
            rows.append(row)
            positions.append(position)
        parsed = message.validate(rows, types=types, arrived_at=arrived_at)
        for bad in parsed.refused:
            position = positions[bad.index]
            reason = f"{bad.field} {bad.message}"[:1000]
            refused[position] = Refused(records[position], "invalid_data", reason)
        return Decoded(parsed.interactions, [refused[position] for position in sorted(refused)])

    def _row(self, record: Message) -> dict[str, Any]:
        value = record.value()
        if value is None:
            raise _RefusedError("no_value", "the record has no value")
        if len(value) > MAX_VALUE_BYTES:
            raise _RefusedError(
                "too_large",
                f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are accepted",
            )
        try:
            row = from_json(value)
        except ValueError as exc:
            raise _undecodable(value, exc) from exc
        if type(row) is not dict:
            raise _RefusedError(
                "not_an_object", "the value is JSON, but not an object with the fields of a message"
            )
        if self._places is not None and _header(record, VERSION_HEADER) is None:
            return _mapped(row, self._places)
        version = row.pop("version", VERSION)
        if version != VERSION or type(version) is not int:
            is_short = type(version) is int and 0 <= version < 10**9
            shown = f"version {version}" if is_short else "the version"
            raise _RefusedError(
                "unknown_version", f"{shown} is not known: this release reads {VERSION}"
            )
        return row

    def _origin(self, record: Message) -> tuple[str, int]:
        """Return where a record stood at first, and its timestamp there in milliseconds."""
        header = _header(record, ORIGIN_HEADER)
        if header is not None:
            origin = header.decode("utf-8", "replace")
            if (matched := _ORIGIN.fullmatch(origin)) is not None:
                return origin, int(matched[1])
        timestamp = record.timestamp()[1]
        partition, offset = record.partition() or 0, record.offset() or 0
        return origin_of(self._topic, partition, offset, timestamp), timestamp


def headers_of(record: Message) -> list[tuple[str, str | bytes | None]]:
    """Return a record's headers; none where a name of them is not UTF-8."""
    try:
        found = record.headers() or []
    except ValueError:
        return []
    return list(found.items()) if isinstance(found, dict) else found


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a message."""
    described = message.Message.model_json_schema()
    fields = described["properties"]
    identity: dict[str, Any] = {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARACTERS,
             "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"},
            {"type": "integer"},
        ]
    }  # fmt: skip
    moment = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d"}
    nothing = {"type": "null"}
    shapes = {
        "event_id": {"anyOf": [*identity["anyOf"], nothing]},
        "user_id": identity,
        "item_id": identity,
        "interaction_type": {"type": "string"},
        "weight": {
            "type": "number", "minimum": 0, "maximum": MAX_WEIGHT, "default": 1
        },
        "occurred_at": {"anyOf": [moment, nothing]},
    }  # fmt: skip
    described_as = {name: fields[name].get("description") for name in shapes}
    described_as["event_id"] = (
        "Names the event; the same id again is a duplicate. Default: from topic, partition, "
        "offset and timestamp of the record."
    )
    described_as["occurred_at"] = "RFC 3339 with an offset. Default: the record's timestamp."
    version = {"const": VERSION, "default": VERSION, "description": "The version of this format."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "User interaction",
        "description": "The value of a record on the topic user_interactions: one interaction "
        "as JSON in UTF-8. The record's key is user_id in UTF-8, which keeps a user's order.",
        "type": "object",
        "properties": {
            "version": version,
            **{name: {**shapes[name], "description": described_as[name]} for name in shapes},
        },
        "required": described["required"],
        "additionalProperties": False,
        "examples": [{"version": VERSION, **example} for example in described["examples"]],
    }


class _RefusedError(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def _undecodable(value: bytes, exc: ValueError) -> _RefusedError:
    try:
        value.decode()
    except UnicodeDecodeError as undecodable:
        return _RefusedError("not_utf8", f"the value is not UTF-8 at byte {undecodable.start}")
    return _RefusedError("not_json", f"the value is not JSON: {exc}")


def _header(record: Message, name: str) -> bytes | None:
    """Return the last header of a name, which is the one that counts."""
    found = None
    for header, value in headers_of(record):
        if header == name and isinstance(value, bytes):
            found = value
    return found


# Topics of another format

_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LATEST = 253_402_300_799_000_000  # the end of the year 9999
_MISSING = object()


@dataclass(frozen=True)
class _Place:
    """Where a field is: a constant, or a path; with a unit, it is a number since 1970."""

    field: str
    path: tuple[str, ...]
    constant: str | float | None
    unit: str | None

    def find(self, row: dict[str, Any]) -> Any:
        if self.constant is not None:
            return self.constant
        found: Any = row
        for name in self.path:
            if type(found) is not dict or name not in found:
                return _MISSING
            found = found[name]
        # Null means nothing in most formats; ours refuses it where it has no default.
        if found is None:
            return _MISSING
        return found if self.unit is None else self._moment(found, self.unit)

    def _moment(self, number: Any, unit: str) -> str:
        per_unit = _UNITS[unit]
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not abs(number) * per_unit <= _LATEST:  # NaN neither
            raise _RefusedError(
                "invalid_data",
                f"{self.field} must be a number since 1970 in {unit}, as "
                f"RECKEEPER_KAFKA_FIELDS says of {'.'.join(self.path)}",
            )
        return clock.rfc3339(round(number * per_unit))


def _places(fields: Mapping[str, str]) -> tuple[_Place, ...]:
    places = []
    for field, place in fields.items():
        constant, path, unit = None, "", ""
        if place.startswith("'"):
            constant = _constant(field, place)
        else:
            path, _, unit = place.partition(":")
        if unit and field != "occurred_at":
            raise ConfigError(
                f"RECKEEPER_KAFKA_FIELDS={field}={place} cannot be used: only occurred_at has a "
                f"unit. Write {field}={path}."
            )
        places.append(_Place(field, tuple(path.split(".")), constant, unit or None))
    return tuple(places)


def _constant(field: str, place: str) -> str | float:
    text = place[1:-1]
    if field != "weight":
        return text
    try:
        return float(text)
    except ValueError as exc:
        raise ConfigError(
            f"RECKEEPER_KAFKA_FIELDS={field}={place} cannot be used: a weight is a number."
        ) from exc


def _mapped(row: dict[str, Any], places: tuple[_Place, ...]) -> dict[str, Any]:
    found = {place.field: place.find(row) for place in places}
    return {field: value for field, value in found.items() if value is not _MISSING}
