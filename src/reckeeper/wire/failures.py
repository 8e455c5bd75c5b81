"""Errors as JSON, and what to do next as HTTP words it."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from .. import errors
from ..errors import Action, ActionName, ReckeeperError
from .forms import Answer, JsonObject, is_none

ACTIONS: Mapping[ActionName, str] = {
    "activate": "POST /models/{version}/activate activates it.",
    "change_policy": "PUT /policy changes the policy.",
    "create_admin_key": "`reckeeper keys create NAME --role admin` makes one.",
    "give_history": "`reckeeper evaluate --history FILE` gives it.",
    "import_file": "`reckeeper import` reads a file in.",
    "import_query": "`reckeeper import --database URL --query SQL` imports what is there.",
    "list_dead_letters": "`reckeeper dlq list` lists the dead letters.",
    "list_imports": "GET /imports lists the imports.",
    "list_jobs": "GET /jobs lists the jobs.",
    "list_keys": "GET /keys lists the keys.",
    "list_recipes": "GET /recipes lists the recipes.",
    "list_versions": "GET /models lists the versions.",
    "migrate": "`reckeeper migrate` makes or updates the database.",
    "retrain": "POST /retrain trains a new version.",
    "roll_back": "POST /models/rollback rolls back.",
    "see_job": "GET /jobs/{job_id} shows the job.",
    "see_policy": "GET /policy shows the policy in force.",
    "send_interactions": "POST /user_interactions takes interactions.",
    "start": "`reckeeper up` starts worker, server and page.",
    "undo_import": "DELETE /imports/{import_id} undoes it.",
    "unpin": "DELETE /models/{version}/pin unpins it.",
    "verify_audit": "GET /audit/verify checks the audit trail.",
    "weigh_type": "PUT /policy gives an interaction type a weight.",
}
"""What to do next, as a sentence about a route."""

STATUSES: Mapping[type[ReckeeperError], int] = {
    errors.NotEnoughDataError: 409,
    errors.TooLargeError: 413,
    errors.MediaTypeError: 415,
    errors.DataError: 422,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.RateLimitError: 429,
    errors.GoneError: 410,
    errors.UnknownHostError: 421,
    errors.ForeignOriginError: 403,
    errors.NotFoundError: 404,
    errors.ConflictError: 409,
    errors.JobCancelledError: 409,
    errors.ArtifactError: 409,
    errors.NoModelError: 503,
    errors.UnavailableError: 503,
    errors.StorageError: 503,
    ReckeeperError: 500,
}
"""The status that a process answers an error with: that of its class, or else of the next above."""

RETRY_SECONDS = 5
"""So long the header ``Retry-After`` of a 503 asks to wait."""


class Error(Answer):
    """Why a request was refused or failed, and what to do next."""

    status: Literal["error"] = "error"
    code: str = Field(description="Stable; see the reference of error codes.")
    message: str
    details: JsonObject | None = Field(default=None, exclude_if=is_none)


def error_body(error: ReckeeperError) -> Error:
    """Return the body with which every process answers an error.

    The message ends with the HTTP words for the error's action, and ``details``
    has the action itself: ``{"action": {"name": "activate", "version": 3}}``, unless the
    code says it with the job's number.
    """
    details = dict(error.details or {})
    message = error.message
    if error.action is not None:
        if error.action != _implied(error.code, details):
            details["action"] = error.action.to_json()
        message = with_words(message, error.action)
    return Error(code=error.code, message=message, details=details or None)


def with_words(sentence: str, action: Action) -> str:
    """Return a sentence, and the HTTP words for what to do next behind it."""
    return f"{sentence} {action.in_words(ACTIONS)}"


def without_words(sentence: str, action: Action) -> str:
    """Return what `with_words` was given."""
    return sentence.removesuffix(f" {action.in_words(ACTIONS)}")


def status_of(error: ReckeeperError) -> int:
    """Return the HTTP status that goes with an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def with_private(error: ReckeeperError) -> str:
    """Return the message as `error_body` has it, and what is private: for a log."""
    message = error_body(error).message
    return message if error.private is None else f"{message} ({error.private})"


def headers_of(error: ReckeeperError) -> dict[str, str]:
    """Return the headers that go with an error: when to try again, how to say who one is."""
    status = status_of(error)
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status in {429, 503}:
        seconds = (error.details or {}).get("retry_seconds", RETRY_SECONDS)
        return {"Retry-After": str(seconds)}
    return {}


def error_from(body: Error) -> ReckeeperError:
    """Return the error that `error_body` was made from: its action, and its message alone.

    An action that this release does not know stays in the message and in ``details``.
    """
    details = dict(body.details or {})
    message, action = body.message, action_from(details.get("action"))
    if action is not None:
        del details["action"]
    else:
        action = _implied(body.code, details)
    if action is not None:
        message = without_words(message, action)
    return errors.error_of(body.code, message, details=details or None, action=action)


def _implied(code: str, details: Mapping[str, object]) -> Action | None:
    """Return the action that goes without saying: a job that runs already is looked at."""
    if code == errors.JobRunningError.code and "job_id" in details:
        return Action("see_job", {"job_id": details["job_id"]})
    return None


def action_from(told: object) -> Action | None:
    """Return the action that is told of; None where it is none that this release knows."""
    if not isinstance(told, dict) or told.get("name") not in errors.ACTION_NAMES:
        return None
    action = Action.from_json(told)
    try:
        action.in_words(ACTIONS)
    except KeyError:  # it lacks what it is about
        return None
    return action
