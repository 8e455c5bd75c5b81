"""The JSON shapes of the HTTP API."""

import string
import subprocess
import sys
from dataclasses import dataclass

import pytest

from reckeeper import errors, wire
from reckeeper.events import Message

MOMENT = 1_764_891_735_123_456


@dataclass(frozen=True)
class Entry:
    entry_id: int
    at: int
    until: int | None
    version: int | None = 4
    action: str = "promote"
    actor: str = "worker"
    reason: str | None = None
    job_id: int | None = 4


def test_a_record_becomes_an_answer_and_its_times_are_written():
    entry = wire.TimelineEntry.model_validate(Entry(7, MOMENT, None))
    assert entry.model_dump() == {
        "entry_id": 7,
        "at": "2025-12-04T23:42:15.123456Z",
        "until": None,
        "version": 4,
        "action": "promote",
        "actor": "worker",
        "reason": None,
        "job_id": 4,
    }
    assert wire.TimelineEntry.model_validate(entry.model_dump()) == entry


def test_the_contracts_formats(model_json):
    given = model_json | {"explained_variance": 0.989, "trained_on": MOMENT, "pinned_until": MOMENT}
    model = wire.Model.model_validate(given)
    assert model.explained_variance == "98.90%"
    assert model.trained_on == "2025-12-04 23:42:15"
    assert model.pinned_until == "2025-12-04T23:42:15.123456Z"
    assert wire.Model.model_validate(model.model_dump()) == model


@pytest.fixture
def model_json():
    numbers = dict.fromkeys(("n_users", "n_items", "version", "training_samples"), 6)
    texts = dict.fromkeys(("name", "path", "type", "recipe", "trigger"), "svd")
    nothing = dict.fromkeys(("job_id", "note", "pinned_until", "metrics", "verdict"))
    flags = dict.fromkeys(("is_demo", "pinned", "served"), False)
    return {
        **numbers,
        **texts,
        **nothing,
        **flags,
        "status": "active",
        "settings": {},
        "decided": {},
        "seconds": 2.3,
    }


def test_what_is_not_there_is_left_out_and_not_null():
    assert wire.Metric(mean=0.41).model_dump() == {"mean": 0.41}
    asked = wire.RetrainRequest(recipe="svd")
    assert asked.model_dump() == {"recipe": "svd"}
    assert wire.JobRequest.model_validate(asked.model_dump()).model_dump() == {"recipe": "svd"}


def test_what_a_later_release_adds_to_an_answer_is_passed_over():
    assert wire.Metric.model_validate({"mean": 1.0, "median": 2.0}) == wire.Metric(mean=1.0)
    assert wire.JobRequest.model_validate({"tune": True, "more": 1}).tune


def test_http_has_words_for_every_action():
    assert set(wire.ACTIONS) == set(errors.ACTION_NAMES)
    for words in wire.ACTIONS.values():
        assert words.endswith(".")


@pytest.mark.parametrize("name", errors.ACTION_NAMES)
def test_an_error_is_the_same_after_its_way_through_json(name):
    fields = {field for _, field, _, _ in string.Formatter().parse(wire.ACTIONS[name]) if field}
    action = errors.Action(name, dict.fromkeys(sorted(fields), 3))
    error = errors.PinnedError("Version 4 is pinned.", details={"field": "x"}, action=action)
    body = wire.error_body(error)
    assert body.code == "pinned"
    assert body.message.startswith("Version 4 is pinned. ")
    assert body.details is not None
    assert body.details["action"]["name"] == name
    back = wire.error_from(wire.Error.model_validate_json(body.model_dump_json()))
    assert (type(back), back.message, back.details, back.action) == (
        errors.PinnedError,
        error.message,
        error.details,
        action,
    )


def test_an_error_without_action_or_details_has_neither_in_its_body():
    body = wire.error_body(errors.NotFoundError("There is none."))
    assert body.model_dump() == {
        "status": "error",
        "code": "not_found",
        "message": "There is none.",
    }


def test_an_action_of_a_later_release_stays_in_words():
    body = wire.Error(code="conflict", message="No. Do.", details={"action": {"name": "do_it"}})
    back = wire.error_from(body)
    assert (back.message, back.action) == ("No. Do.", None)
    assert back.details == {"action": {"name": "do_it"}}


def test_an_action_that_lacks_what_it_is_about_stays_in_words():
    body = wire.Error(code="pinned", message="No. Do.", details={"action": {"name": "unpin"}})
    back = wire.error_from(body)
    assert (back.message, back.action, back.details) == ("No. Do.", None, body.details)


@pytest.mark.parametrize(
    "verdict",
    [{}, {"decision": "maybe"}, {"decision": "promote"}, {"decision": "reject", "sentence": [1]}],
)
def test_a_version_that_says_of_itself_what_is_none_is_shown_without(model_json, verdict):
    metrics = {"ndcg@10": {"mean": "good"}}
    model_json |= {"explained_variance": 0.5, "trained_on": MOMENT}
    shown = wire.ModelList.model_validate(
        {"models": [model_json | {"verdict": verdict, "metrics": metrics}]}
    ).models[0]
    assert (shown.version, shown.verdict, shown.metrics) == (6, None, None)
    about = {
        "verdict": verdict,
        "fingerprint": "",
        "watermark": 0,
        "latest_at": None,
        "data": {"left_out_users": 7, "weights": {"click": 1.0}},
        "actor": None,
        "cause": {"rule": "whim"},
        "peak_memory_bytes": 0,
        "libraries": {"numpy": 2},
        "decided": ["order"],
        "origin": {"timeline": [{"x": None}]},
        "files": [],
        "timeline": [],
    }
    shown = wire.ModelAnswer.model_validate({"model": model_json | about}).model
    assert (shown.verdict, shown.cause, shown.origin) == (None, None, None)
    assert (shown.data, shown.libraries, shown.decided) == (wire.TrainingData(), {}, {})


def test_a_policy_of_a_later_release_hides_none_of_those_that_were_stored():
    told = dict.fromkeys(("updated_at", "actor", "reason")) | {"source": "stored"}
    history = wire.PolicyHistory.model_validate(
        {
            "policies": [
                told | {"revision": 2, "policy": {"metric": "auc"}},
                told | {"revision": 1, "policy": {"margin": 0.1}},
            ]
        }
    )
    later, first = history.policies
    assert (later.revision, later.policy) == (2, None)
    assert first.policy is not None
    assert first.policy.margin == 0.1


def test_of_an_origin_with_another_form_of_timeline_the_rest_is_shown():
    told = {"version": 3, "sha256": "f", "trained_at": MOMENT, "imported_at": MOMENT}
    origin = wire.Origin.model_validate(told | {"timeline": [{"version": 3}]})
    assert (origin.version, origin.timeline) == (3, [])


def test_importing_it_is_light():
    code = """
import sys
import reckeeper.wire
print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stderr.split())
    assert "pydantic" in loaded
    assert not loaded & {"numpy", "pandas", "fastapi", "flask", "sqlalchemy", "httpx", "pyarrow"}


def test_an_interaction_is_described_as_the_library_checks_it():
    sent = wire.Interaction.model_json_schema()
    checked = Message.model_json_schema()
    assert sent["required"] == checked["required"]
    assert list(sent["properties"]) == list(checked["properties"])
    for name, field in checked["properties"].items():
        assert sent["properties"][name]["description"] == field["description"]
    assert sent["properties"]["weight"].items() >= {"minimum": 0, "maximum": 1e6}.items()
    assert checked["properties"]["weight"].items() >= {"minimum": 0}.items()
