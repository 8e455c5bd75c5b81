"""The description of the API: whole, and true to itself."""

import inspect

import pytest

from reckeeper import wire
from reckeeper.api import app, examples

DOCUMENT = app.document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    operation["operationId"]: operation
    for path in DOCUMENT["paths"].values()
    for operation in path.values()
}
OTHERWISE = {"follow_job": "text/event-stream", "get_metrics": "text/plain"}
OTHERWISE |= {"download_model": "application/zip", "get_refused": "text/csv"}
OTHERWISE |= {"download_pickle": "application/octet-stream"}


def contents():
    """Yield what is sent and answered: operation, status or ``sent``, media type, content."""
    for name, operation in OPERATIONS.items():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            yield name, "sent", media_type, content
        for status, answer in operation["responses"].items():
            for media_type, content in answer.get("content", {}).items():
                yield name, status, media_type, content


CONTENTS = {f"{name}-{status}": (media, it) for name, status, media, it in contents()}


def validator(schema):
    import jsonschema  # its formats take a second and a half to import

    return jsonschema.Draft202012Validator(
        {**schema, "components": {"schemas": SCHEMAS}},
        format_checker=jsonschema.FormatChecker(),
    )


def validate(value, schema):
    validator(schema).validate(value)


def test_names_of_operations_are_stable():
    assert list(OPERATIONS) == [
        *("list_models", "list_timeline", "roll_back", "import_model", "get_model"),
        *("update_model", "delete_model", "activate_model", "pin_model", "unpin_model"),
        *(
            "compare_models",
            "download_model",
            "download_pickle",
            "retrain",
            "evaluate",
            "list_jobs",
            "get_job",
        ),
        *("follow_job", "cancel_job", "finish_job", "list_recipes", "get_policy"),
        *("set_policy", "list_policies", "list_audit_entries", "verify_audit"),
        *("get_access", "list_keys", "create_key", "revoke_key"),
        *("create_interactions", "list_interactions", "get_watchlist", "add_to_watchlist"),
        *("remove_from_watchlist", "list_items", "store_items", "get_item", "put_item"),
        *("patch_item", "delete_item", "merge_users", "erase_user", "export_user"),
        *("list_erasures", "get_erasure", "get_recommendations"),
        *("recommend_from_history", "recommend_to_users"),
        *("find_similar_items", "find_similar_to_several"),
        *("create_import", "list_imports", "preview_import", "get_import", "undo_import"),
        *("get_refused", "list_latest", "summarize_interactions", "list_dead_letters"),
        *("get_demo", "delete_demo", "get_liveness", "get_readiness", "get_metrics"),
    ]


def test_no_schema_is_called_what_generators_call_the_choices_of_a_field():
    of_fields = {
        f"{name}{field.title().replace('_', '')}"
        for name, schema in SCHEMAS.items()
        for field, described in schema.get("properties", {}).items()
        if "enum" in described
    }
    assert "PromotionRule" in of_fields
    assert not of_fields & set(SCHEMAS)


@pytest.mark.parametrize("where", CONTENTS)
def test_every_answer_has_a_schema_of_wire(where):
    media_type, content = CONTENTS[where]
    name, status = where.rsplit("-", 1)
    if status == "200" and name in OTHERWISE:
        assert media_type == OTHERWISE[name]
    elif status == "sent":
        assert content["schema"]
    else:
        assert media_type == "application/json"
        model = content["schema"]["$ref"].rpartition("/")[2]
        assert issubclass(getattr(wire, model), wire.Answer)
        if not status.startswith("2") and name != "get_readiness":
            assert model == "Error"


@pytest.mark.parametrize("where", [where for where in CONTENTS if "example" in CONTENTS[where][1]])
def test_examples_are_as_the_schema_says(where):
    _, content = CONTENTS[where]
    validate(content["example"], content["schema"])


def test_every_answer_has_an_example():
    without = {where for where, (_, content) in CONTENTS.items() if "example" not in content}
    assert {where for where in without if not where.endswith("-sent")} == {
        "download_model-200",
        "download_pickle-200",
    }
    assert examples.ANSWERS.keys() | examples.REQUESTS.keys() <= OPERATIONS.keys()


def test_every_object_is_described():
    for name, schema in SCHEMAS.items():
        assert schema.get("description") or schema["type"] == "array", name


def test_every_model_of_wire_is_used():
    shapes = (wire.Answer, wire.Done)
    models = {
        name
        for name in wire.__all__
        if inspect.isclass(getattr(wire, name))
        and issubclass(getattr(wire, name), wire.Answer)
        and getattr(wire, name) not in shapes
    }
    assert models <= SCHEMAS.keys()


@pytest.mark.parametrize(
    "refused",
    [
        {"user_id": "u1", "item_id": "i7"},
        {"user_id": "u1", "item_id": "i7", "interaction_type": "click", "more": 1},
        [],
    ],
)
def test_the_schema_of_interactions_refuses_what_is_none(refused):
    schema = CONTENTS["create_interactions-sent"][1]["schema"]
    assert not validator(schema).is_valid(refused)
    validate({"user_id": 1, "item_id": "i7", "interaction_type": "click"}, schema)


def test_the_schema_of_a_history_takes_ids_and_rows():
    schema = CONTENTS["recommend_from_history-sent"][1]["schema"]
    for history in ([], ["a", 7], [{"item_id": "a", "occurred_at": "2025-12-04T23:42:15Z"}]):
        validate({"history": history}, schema)
    for refused in ({}, {"history": "a"}, {"history": [{"id": "a"}]}, {"history": [], "n": 0}):
        assert not validator(schema).is_valid(refused)
