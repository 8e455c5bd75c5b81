"""What requests are made of, and how their answers are read: both clients have this."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypedDict, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from .. import errors, wire

if TYPE_CHECKING:  # half of what an import would take; the first client brings it
    import httpx

ACTOR_HEADER = "X-Reckeeper-Actor"

KEY_VARIABLE = "RECKEEPER_API_KEY"
"""Names in the environment the key of a client that is given none."""

Params = Mapping[str, str | int | list[str]]
"""What a query says; of a list, each value under the same name."""

Files = Mapping[str, tuple[str, BinaryIO]]
"""The parts of a form, each a name and a file."""

_LISTS = ("exclude", "allow", "category")

_Given = TypeVar("_Given")
_Answer = TypeVar("_Answer", bound=wire.Answer)


def own_key(given: str | None) -> str:
    """Return the key that a client sends: the one it is given, or else the environment's."""
    return os.environ.get(KEY_VARIABLE, "").strip() if given is None else given


def key_header(key: str) -> dict[str, str]:
    """Return the header with which a key is sent, an empty one without a key.

    Raises
    ------
    DataError
        It has characters that no key has.
    """
    if not key.isascii() or not key.isprintable():
        raise errors.DataError("The API key has characters that no key has: copy it once more.")
    return {"Authorization": f"Bearer {key}" if key else ""}


def given(**values: _Given | None) -> dict[str, _Given]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


class ImportOptions(TypedDict, total=False):
    """What the columns of a file mean, where that cannot be found out.

    Attributes
    ----------
    preset : str
        Columns of a known data set: ``movielens``.
    user_column, item_column, type_column, weight_column, time_column : str
    event_id_column, rating_column : str
        Names of columns.
    interaction_type : str
        Type of all rows without a column of types.
    weights : str
        Of interaction types, as ``view=1,cart=3``; the policy has them from then on.
    time_unit : str
        Of times that are numbers: ``s``, ``ms``, ``us`` or ``ns``.
    time_format, timezone : str
        How times are written, as for `strptime`, and where the clock hangs that showed them.
    default_time : str
        What an empty time is taken for: ``now``, or a time.
    allow_old : bool
        Whether times before 1990 are taken.
    null : list of str
        Words that stand for nothing.
    decimal : {"comma", "point"}
        What stands before the fraction of a number.
    min_rating : float
        Rows with a lower rating are seen, not liked.
    layout : {"rows", "lists", "wide"}
        How a table is laid out: ``lists`` has the ids of a user and of items in each line,
        ``wide`` users down and items across.
    sheet : str
        Of a workbook.
    encoding, delimiter, quote : str
        What a text file is; `quote` is ``double``, ``backslash`` or
        ``none``.
    skip_lines : int
        Lines before the names of the columns.
    no_header : bool
        Whether there are no names: columns are numbers then.
    catalogue_item_column, title_column, category_column : str
        Columns of the catalogue.
    category_separator : {"|", ";", ",", "json", "none"}
        What stands between an item's categories; ``json``: they are lists in brackets.
    """

    preset: Literal["movielens"]
    user_column: str
    item_column: str
    type_column: str
    interaction_type: str
    weight_column: str
    weights: str
    time_column: str
    time_unit: str
    time_format: str
    timezone: str
    default_time: str
    allow_old: bool
    event_id_column: str
    null: list[str]
    decimal: Literal["comma", "point"]
    rating_column: str
    min_rating: float
    layout: Literal["rows", "lists", "wide"]
    sheet: str
    encoding: str
    skip_lines: int
    delimiter: str
    quote: str
    no_header: bool
    catalogue_item_column: str
    title_column: str
    category_column: str
    category_separator: Literal["|", ";", ",", "json", "none"]


def options_in_query(options: ImportOptions) -> Params:
    """Return the parameters of a query that say what the columns of a file mean."""
    return {name: _parameter(value) for name, value in options.items()}


def _parameter(value: object) -> str | list[str]:
    if isinstance(value, list):
        return [str(each) for each in value]
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def opened(
    stack: contextlib.ExitStack, file: Path | BinaryIO, name: str | None
) -> tuple[str, BinaryIO]:
    """Return the name and the content of a file to send, which `stack` closes if need be.

    Raises
    ------
    DataError
        It is no file, or cannot be opened.
    """
    if not isinstance(file, Path):
        file.seek(0)
        return name or Path(str(getattr(file, "name", "upload"))).name, file
    if file.exists() and not file.is_file():
        raise errors.DataError(f"{file} is no file. Name one.")
    try:
        return name or file.name, stack.enter_context(file.open("rb"))
    except OSError as exc:
        raise errors.DataError(f"{file} cannot be read: {exc.strerror or exc}.") from exc


class ItemRules(TypedDict, total=False):
    """What may be asked of the items of a list, whoever it is for; all of it holds before the cut.

    Attributes
    ----------
    offset : int
        Passes over so many of the best: the next page of the same list.
    exclude, allow : iterable of str
        Items that must not be in it, and the only ones that may be.
    category : iterable of str
        Its items have any of these categories.
    where : mapping
        What their attributes must be, all of them: a value, a list of values of
        which they must have any, or a range:
        ``{"language": "fr", "region": ["eu", "uk"], "price": {"max": 20}}``.
    model : int
        A version that answers in place of the active one.
    """

    offset: int
    exclude: Iterable[str | int]
    allow: Iterable[str | int]
    category: Iterable[str]
    where: Mapping[str, object]
    model: int


class ListRules(ItemRules, total=False):
    """What may be asked of a list beside `ItemRules`.

    Attributes
    ----------
    include_seen : bool
        Whether what the user has seen already may be in it.
    explain : bool
        Whether each item has reasons, the user's own items.
    diversity : float
        0 to 1: how much it counts against an item that it is like one before it.
    per_category : int
        How many items of one category it may have.
    """

    include_seen: bool
    explain: bool
    diversity: float
    per_category: int


_Rules = ItemRules | ListRules


def in_body(n: int, rules: _Rules) -> dict[str, object]:
    """Return the fields of a body that say what is asked of a list."""
    told: dict[str, object] = {"n": n, **rules}
    for name in _LISTS:
        if name in told:
            told[name] = list(cast("Iterable[object]", told[name]))
    return told


def in_query(n: int, rules: _Rules) -> Params:
    """Return the parameters of a query that say what is asked of a list."""
    params = {name: _parameter(value) for name, value in in_body(n, rules).items()}
    if (
        params.get("allow") == []
    ):  # that nothing is cannot be said in a query; an empty id is refused
        params["allow"] = [""]
    return params


def segment(external_id: str | int) -> str:
    """Return an id as a segment of a path."""
    # As they stand, "." and ".." would be taken out of the path on its way.
    return quote(str(external_id), safe="").replace(".", "%2E")


def plain(told: BaseModel | Mapping[str, object]) -> dict[str, object]:
    """Return as JSON what a model of `wire` was given, or a mapping with its fields."""
    if isinstance(told, BaseModel):
        return told.model_dump(mode="json", exclude_unset=True)
    return dict(told)


def retrain_request(
    recipe: str | None,
    settings: Mapping[str, object] | None,
    *,
    tune: bool,
    tune_seconds: float | None,
    drift: wire.Drift | None,
    promote: wire.Promote | None,
) -> dict[str, object] | None:
    """Return the body that says what was given; None, and so no body, if nothing was."""
    request: dict[str, object] = given(
        recipe=recipe,
        settings=None if settings is None else dict(settings),
        tune=tune or None,
        tune_seconds=tune_seconds,
        tuning=None if drift is None else {"drift": drift},
        promote=promote,
    )
    return request or None


def read(answer: type[_Answer], content: bytes | str, response: "httpx.Response") -> _Answer:
    """Return the answer that a response, or a part of it, has."""
    try:
        return answer.model_validate_json(content)
    except ValidationError as exc:
        raise foreign(response) from exc


def error_of(response: "httpx.Response") -> errors.ReckeeperError:
    """Return what a response that is no success reports."""
    try:
        return wire.error_from(wire.Error.model_validate_json(response.content))
    except ValidationError:
        return foreign(response)


def foreign(response: "httpx.Response") -> errors.UnavailableError:
    """Return the error that some other program answers at the address."""
    return errors.UnavailableError(
        f"{masked(response.url)} answered {response.status_code} and not as Reckeeper does. "
        "Check that the address is that of a Reckeeper server, of the same release as this client."
    )


def unavailable(url: str, reason: Exception | str) -> errors.UnavailableError:
    """Return the error that the server does not answer, with the reason in brackets."""
    why = re.sub(r"\[Errno -?\d+\] ", "", str(reason)) or type(reason).__name__
    return errors.UnavailableError(
        f"{url} does not answer ({why}). Check that it is running there, then try again.",
        action=errors.Action("start"),
    )


def masked(url: "httpx.URL") -> str:
    """Return an address without its password."""
    return str(url.copy_with(username=url.username, password="***") if url.password else url)
