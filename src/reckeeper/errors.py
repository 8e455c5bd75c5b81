"""Every error that Reckeeper raises on purpose.

::

    ReckeeperError
    ├── ConfigError            invalid_setting      a setting cannot be used
    ├── DataError              invalid_data         input that is wrong as it stands
    │   ├── TooLargeError      too_large            input over a limit
    │   ├── MediaTypeError     unsupported_type     a body of a type that is not taken
    │   └── NotEnoughDataError not_enough_data      too little to train on
    ├── UnauthenticatedError   unauthenticated      no key, or none that is valid
    ├── ForbiddenError         forbidden            the key's role does not allow it
    ├── RateLimitError         rate_limited         too much in too short a time
    ├── UnknownHostError       unknown_host         a request for a host that is not ours
    ├── ForeignOriginError     foreign_origin       a page of another origin asks for a change
    ├── NotFoundError          not_found            no such thing
    │   └── GoneError          gone                 it was there, and was taken away for good
    ├── ConflictError          conflict             not now: something else stands in the way
    │   ├── JobRunningError    job_running          a training job runs already
    │   ├── PinnedError        pinned               the active version is pinned
    │   └── MemoryLimitError   not_enough_memory    a training or a version would not fit
    ├── StorageError           storage_failed       the database did not do what was asked
    │   └── SchemaError        schema_mismatch      the database has another schema
    ├── ArtifactError          damaged_artifact     a model file is missing or not sound
    ├── TrainingError          training_failed      a training job did not succeed
    │   ├── JobInterruptedError interrupted         its worker ended before it was done
    │   ├── JobCancelledError  cancelled            somebody cancelled it
    │   └── JobTimeoutError    timed_out            it took longer than it may
    ├── NoModelError           no_model             the active version cannot be loaded
    └── UnavailableError       unavailable          a process that is needed does not answer

Codes are part of the API and never change. The library knows no HTTP:
`wire.STATUSES` maps these classes to statuses.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

ActionName = Literal[
    "activate",  # version
    "change_policy",
    "create_admin_key",
    "give_history",
    "import_file",
    "import_query",
    "list_dead_letters",
    "list_imports",
    "list_jobs",
    "list_keys",
    "list_recipes",
    "list_versions",
    "migrate",
    "retrain",
    "roll_back",
    "see_job",  # job_id
    "see_policy",
    "send_interactions",
    "start",
    "undo_import",  # import_id
    "unpin",  # version
    "verify_audit",
    "weigh_type",
]
ACTION_NAMES: tuple[ActionName, ...] = get_args(ActionName)


@dataclass(frozen=True)
class Action:
    """What to do next, which each surface puts in its own words: a route, a command, a button.

    Attributes
    ----------
    name : str
        One of `ACTION_NAMES`.
    arguments : mapping of str to JSON value
        What it is about, such as ``{"version": 3}``.
    """

    name: ActionName
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def in_words(self, words: Mapping[ActionName, str]) -> str:
        """Return a surface's sentence for this action, with the arguments filled in.

        Parameters
        ----------
        words : mapping of str to str
            A sentence for each of `ACTION_NAMES`, with ``{argument}`` in it.
        """
        return words[self.name].format(**self.arguments)

    def to_json(self) -> dict[str, Any]:
        """Return the action in JSON values: its ``name`` beside its arguments."""
        return {"name": self.name, **self.arguments}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Action":
        """Return the action that `to_json` gave."""
        return cls(told["name"], {name: told[name] for name in told if name != "name"})


class ReckeeperError(Exception):
    """Root of all deliberate errors.

    Parameters
    ----------
    message : str
        What was wrong, with the value, and what to do about it, in words that
        hold on every surface.
    details : mapping, optional
        Machine-readable facts, made of JSON values.
    action : Action, optional
        What to do next where a surface has a route, a command or a button for it.
    private : str, optional
        What names users, hosts or databases: for the log, and for who is on the machine, but no
        answer and no page.
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        action: Action | None = None,
        private: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.private = private
        self.details = dict(details) if details else None
        self.action = action

    @property
    def in_full(self) -> str:
        """The message, and behind it what is private."""
        return self.message if self.private is None else f"{self.message} ({self.private})"


class ConfigError(ReckeeperError):
    """A setting cannot be used; the message names it."""

    code = "invalid_setting"


class DataError(ReckeeperError):
    """Input is wrong as it stands; nothing of it was written."""

    code = "invalid_data"


class TooLargeError(DataError):
    """Input is over a limit; nothing of it was written."""

    code = "too_large"


class MediaTypeError(DataError):
    """A body is of a type that is not taken; `details` has those ``accepted``."""

    code = "unsupported_type"


class NotEnoughDataError(DataError):
    """There is too little to train on; the active model stays as it was."""

    code = "not_enough_data"


class UnauthenticatedError(ReckeeperError):
    """The request has no API key, or none that is valid; nothing was done."""

    code = "unauthenticated"


class ForbiddenError(ReckeeperError):
    """The role of the API key does not allow this; nothing was done."""

    code = "forbidden"


class RateLimitError(ReckeeperError):
    """Too much was asked in too short a time; `details` has ``retry_seconds``."""

    code = "rate_limited"


class UnknownHostError(ReckeeperError):
    """A request is for a host that is none of this installation's names."""

    code = "unknown_host"


class ForeignOriginError(ReckeeperError):
    """A page of another origin asks for a change; nothing was done."""

    code = "foreign_origin"


class NotFoundError(ReckeeperError):
    """There is no such thing."""

    code = "not_found"


class GoneError(NotFoundError):
    """It was there, and was taken away for good; the message says why."""

    code = "gone"


class ConflictError(ReckeeperError):
    """Something else stands in the way at the moment."""

    code = "conflict"


class JobRunningError(ConflictError):
    """A training job runs already; `details` has its ``job_id``."""

    code = "job_running"


class PinnedError(ConflictError):
    """The active version is pinned: only an explicit activation replaces it."""

    code = "pinned"


class MemoryLimitError(ConflictError):
    """A training or a version would not fit into the memory that is left; nothing was done."""

    code = "not_enough_memory"


class StorageError(ReckeeperError):
    """The database did not do what was asked; nothing was written."""

    code = "storage_failed"


class SchemaError(StorageError):
    """The database has a schema that this release does not know."""

    code = "schema_mismatch"


class ArtifactError(ReckeeperError):
    """A model file is missing or not sound."""

    code = "damaged_artifact"


class TrainingError(ReckeeperError):
    """A training job did not succeed; the active model stays as it was."""

    code = "training_failed"


class JobInterruptedError(TrainingError):
    """The worker ended before the training job was done; another one may be started."""

    code = "interrupted"


class JobCancelledError(TrainingError):
    """Somebody cancelled the training job; the active model stays as it was."""

    code = "cancelled"


class JobTimeoutError(TrainingError):
    """The training job took longer than it may; the active model stays as it was."""

    code = "timed_out"


class NoModelError(ReckeeperError):
    """The active version cannot be loaded, and no other answers in its place."""

    code = "no_model"


class UnavailableError(ReckeeperError):
    """A process that is needed does not answer."""

    code = "unavailable"


def alternatives(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: all names, and the nearest one.

    ``; there are recipe, settings, tune (did you mean tune?)``
    """
    names = list(known)
    if not names:
        return "; there are none here"
    close = difflib.get_close_matches(name[:64], names, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"; there {'are' if len(names) > 1 else 'is'} {', '.join(names)}{meant}"


def error_of(
    code: str,
    message: str,
    *,
    details: Mapping[str, Any] | None = None,
    action: Action | None = None,
) -> ReckeeperError:
    """Return the error that another process reported; an unknown code gives the root."""

    def tree(root: type[ReckeeperError]) -> Iterator[type[ReckeeperError]]:
        yield root
        for child in root.__subclasses__():
            yield from tree(child)

    matching = (error for error in tree(ReckeeperError) if error.code == code)
    return next(matching, ReckeeperError)(message, details=details, action=action)
