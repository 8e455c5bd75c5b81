"""Errors: a drawn tree, stable codes, bodies of JSON."""

import json
import re

import pytest

from reckeeper import errors, wire
from reckeeper.cli.actions import sentence
from reckeeper.errors import ReckeeperError

CODES = {
    "ReckeeperError": "error",
    "ConfigError": "invalid_setting",
    "DataError": "invalid_data",
    "TooLargeError": "too_large",
    "MediaTypeError": "unsupported_type",
    "NotEnoughDataError": "not_enough_data",
    "UnauthenticatedError": "unauthenticated",
    "ForbiddenError": "forbidden",
    "RateLimitError": "rate_limited",
    "UnknownHostError": "unknown_host",
    "ForeignOriginError": "foreign_origin",
    "NotFoundError": "not_found",
    "GoneError": "gone",
    "ConflictError": "conflict",
    "JobRunningError": "job_running",
    "StorageError": "storage_failed",
    "SchemaError": "schema_mismatch",
    "ArtifactError": "damaged_artifact",
    "TrainingError": "training_failed",
    "JobInterruptedError": "interrupted",
    "NoModelError": "no_model",
    "UnavailableError": "unavailable",
    "PinnedError": "pinned",
    "MemoryLimitError": "not_enough_memory",
    "JobCancelledError": "cancelled",
    "JobTimeoutError": "timed_out",
}


def classes():
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, ReckeeperError)
    ]


def test_codes_do_not_change():
    assert {error.__name__: error.code for error in classes()} == CODES


def test_the_drawing_shows_every_class_below_its_parent():
    drawn = {}
    above = ["ReckeeperError"]
    for line in errors.__doc__.splitlines():
        entry = re.match(r"    ([ │├└─]+)(\w+) +(\w+) {2,}", line)
        if entry:
            depth = len(entry[1]) // 4
            above[depth:] = [entry[2]]
            drawn[entry[2]] = (above[depth - 1], entry[3])
    assert drawn == {
        error.__name__: (error.__base__.__name__, error.code)
        for error in classes()
        if error is not ReckeeperError
    }


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_an_error_is_made_again_from_its_code(error):
    made = errors.error_of(error.code, "Broken.", details={"job_id": 3})
    assert type(made) is error
    assert (made.message, made.details, str(made)) == ("Broken.", {"job_id": 3}, "Broken.")


def test_an_unknown_code_gives_the_root():
    assert type(errors.error_of("of_a_later_release", "Broken.")) is ReckeeperError


def test_body():
    body = wire.error_body(
        errors.JobRunningError("Job 3 runs.", details={"job_id": 3})
    ).model_dump()
    assert json.loads(json.dumps(body)) == {
        "status": "error",
        "code": "job_running",
        "message": "Job 3 runs.",
        "details": {"job_id": 3},
    }


def test_body_without_details():
    body = wire.error_body(errors.NotFoundError("No such thing.")).model_dump()
    assert set(body) == {"status", "code", "message"}


def test_what_is_private_is_told_on_the_machine_and_in_no_answer():
    error = errors.StorageError("Gone.", private="anna@db/shop", action=errors.Action("migrate"))
    assert "anna" not in wire.error_body(error).model_dump_json() + str(error)
    assert error.in_full == "Gone. (anna@db/shop)"
    assert sentence(error).startswith("Gone. (anna@db/shop) `reckeeper migrate`")
    assert wire.with_private(error).endswith("(anna@db/shop)")
    plain = errors.StorageError("Gone.")
    assert plain.in_full == wire.with_private(plain) == "Gone."
