"""What requests are made of, and how their answers are read: both clients have this."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from .. import errors, wire

if TYPE_CHECKING:  # half of what an import would take; the first client brings it
    import httpx

ACTOR_HEADER = "X-Reckeeper-Actor"

Params = Mapping[str, str | int | list[str]]
"""What a query says; of a list, each value under the same name."""

_Given = TypeVar("_Given")
_Answer = TypeVar("_Answer", bound=wire.Answer)


def given(**values: _Given | None) -> dict[str, _Given]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def segment(external_id: str) -> str:
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
