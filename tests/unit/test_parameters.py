"""What the routes refuse in paths, queries and bodies, by what each of them declares."""

import shutil

import pytest
from fastapi.testclient import TestClient
from flask import Flask
from tests.conftest import settings_in

from reckeeper.api.app import create_app
from reckeeper.errors import DataError
from reckeeper.worker.routes import routes as worker_routes

ODD = ["5_0", "+5", " 5", "5 ", "5.0", "\u0665", "0x5", "1e2", "", "ten"]


@pytest.fixture(scope="module")
def api(tmp_path_factory, migrated):
    """Return the API of an installation that no request of these tests changes."""
    settings = settings_in(tmp_path_factory.mktemp("refusing"))
    shutil.copytree(migrated, settings.data_dir)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def parameters(api):
    """Return method, path with every parameter in place, parameter and its schema, of all."""
    found = []
    for path, operations in api.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            for each in operation.get("parameters", ()):
                kinds = each["schema"].get("anyOf", [each["schema"]])
                if each["in"] != "header":
                    types = {kind.get("type") for kind in kinds}
                    found.append((method, path, each["in"], each["name"], types))
    return found


def assert_refused(answer, field, told):
    assert answer.status_code == 422, answer.text
    refused = answer.json()
    assert (refused["code"], refused["details"]) == ("invalid_data", {"field": field})
    assert refused["message"].startswith(f"{field}: ")
    assert told in refused["message"]


def address(path, **given):
    rest = {"version": "1", "other": "2", "job_id": "1", "user_id": "u1", "item_id": "i1"}
    rest["key_id"] = "k1"
    return path.format(**{**rest, **given})


def test_a_parameter_that_takes_one_value_is_not_given_twice(api, parameters):
    repeated = set()
    for method, path, where, name, types in parameters:
        if where == "query" and "array" in types:
            repeated.add(name)
        elif where == "query":
            answer = api.request(method, address(path), params={name: ["5", "7"]})
            assert_refused(answer, name, "is given 2 times and takes one value")
    assert repeated == {"exclude", "allow", "category", "null"}
    many = {name: ["i1", "i2"] for name in ("exclude", "allow")}
    assert api.get("/recommendations/u1", params={**many, "n": 5}).status_code == 200


def test_whole_numbers_are_written_in_plain_digits(api, parameters):
    numbers = [each for each in parameters if "integer" in each[-1]]
    assert {name for _, _, _, name, _ in numbers} >= {"n", "offset", "limit", "version", "job_id"}
    for method, path, where, name, _ in numbers:
        for value in ODD if (path, name) == ("/recommendations/{user_id}", "n") else ODD[:2]:
            query = {name: value} if where == "query" else {}
            path_with = address(path, **({} if query else {name: value}))
            answer = api.request(method, path_with, params=query)
            assert_refused(answer, name, f"{value!r} is no whole number in plain digits")
    for value in ("5", "005", "1000"):
        assert api.get("/recommendations/u1", params={"n": value}).status_code == 200
    for value in ("-1", "0", "1001"):
        answer = api.get("/recommendations/u1", params={"n": value})
        assert_refused(answer, "n", "Input should be")


def test_fields_have_the_names_that_a_request_gives_them(api):
    """And not those of the types that a value may be of."""
    kind, short = "Input should be a valid string or a valid integer", "String should have at least"
    for value, told in ((None, kind), (1.5, kind), ([], kind), ({"from": 1}, kind), ("", short)):
        answer = api.post("/users/u1/merge", json={"from": value})
        assert_refused(answer, "from", f"from: {told}")
    assert_refused(api.post("/users/u1/merge", json={}), "from", "Field required")


ODD_VALUES = [True, 1.5, "", [None], {"a": {}}, [[1]]]


def test_no_answer_names_a_type_where_a_field_is_wrong(api):
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    fields = {name for schema in schemas.values() for name in schema.get("properties", ())} | {"a"}
    n_refused = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {"content": {}})["content"]
            schema = body.get("application/json", {"schema": {}})["schema"]
            schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
            for name in schema.get("properties", {}):
                for value in ODD_VALUES:
                    sent = dict.fromkeys(schema.get("required", ()), "u9") | {name: value}
                    answer = api.request(method, address(path), json=sent).json()
                    if answer["status"] == "error" and answer["code"] == "invalid_data":
                        n_refused += 1
                        parts = answer["details"]["field"].split(".")
                        assert all(each in fields or each.isdecimal() for each in parts), answer
    assert n_refused > 150


def test_the_worker_refuses_the_same():
    app = Flask("kafka_worker")
    app.register_blueprint(worker_routes)
    app.testing = True
    with app.test_client() as client, pytest.raises(DataError, match="wait: is given 2 times"):
        client.post("/retrain?wait=true&wait=false")
