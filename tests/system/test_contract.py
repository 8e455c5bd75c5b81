"""The contract's page, example by example, on both APIs, by a client that knows nothing else."""

import json
import os
import pickle
import random
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.system.installation import Installation, clicks, wait_until

# The contract's two examples, as it has them.
GET_MODELS = json.loads("""
{
  "status": "ok",
  "models": [
    {
      "name": "Retrained SVD Model",
      "path": "/app/models/retrained_svd_model.pkl",
      "type": "SVD",
      "status": "active",
      "n_users": 6,
      "n_items": 12,
      "explained_variance": "98.90%",
      "trained_on": "2025-12-04 23:42:15"
    }
  ]
}
""")
POST_RETRAIN = json.loads("""
{
  "status": "ok",
  "message": "Model retrained in 2.3s - 56193 samples, 98.90% variance explained",
  "details": {
    "training_samples": 56193,
    "n_users": 6,
    "n_items": 12,
    "explained_variance": 0.989
  }
}
""")
MODEL = GET_MODELS["models"][0]
MESSAGE = re.compile(
    r"^Model retrained in \d+\.\ds - 56193 samples, (\d{1,3}\.\d\d%) variance explained$"
)
APIS = ["server", "worker"]


def example_interactions():
    """Return 56,193 interactions of 6 users on 12 items, a few favourites each."""
    draw = random.Random(0)
    rows = []
    for number in range(56_193):
        user = number % 6
        favourite = draw.random() < 0.7
        item = (user * 2 + draw.randrange(3)) % 12 if favourite else draw.randrange(12)
        rows.append(
            {
                "user_id": f"user {user}",
                "item_id": f"item {item:02}",
                "interaction_type": "watchlist_add" if number % 50 == 0 else "click",
            }
        )
    return rows


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Give the contract's example, with no version yet, on a machine far from UTC."""
    with Installation(tmp_path_factory.mktemp("example"), TZ="Asia/Kolkata") as made:
        made.migrate()
        made.worker_process = made.start_worker()
        made.start_server()
        made.send(example_interactions())
        yield made


@pytest.fixture(scope="module", params=APIS)
def api(request, example):
    """Give a client of one of the two APIs."""
    return getattr(example, request.param)


@pytest.fixture(scope="module")
def retrained(api):
    """Retrain by this API; give when, and the answer."""
    began = datetime.now(UTC)
    answer = api.post("/retrain")
    return began, answer, datetime.now(UTC)


def bare_post(port, path):
    """Send the least that HTTP calls a request: no body, no header that HTTP does not ask for."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        stream = connection.makefile("rb")
        status = int(stream.readline().split()[1])
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, json.loads(stream.read(int(headers["content-length"])))


def assert_like(answer, example):
    """Hold an answer against an example: every field is there, and of the same type."""
    assert type(answer) is type(example)
    if isinstance(example, dict):
        assert example.keys() <= answer.keys()
        for name, value in example.items():
            assert_like(answer[name], value)
    if isinstance(example, list):
        assert answer
        for element in answer:
            assert_like(element, example[0])


def test_retrain_answers_as_the_example(retrained):
    _, answer, _ = retrained

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert_like(body, POST_RETRAIN)
    assert body["status"] == "ok"
    assert MESSAGE.match(body["message"]), body["message"]
    assert body["details"].keys() == POST_RETRAIN["details"].keys()
    assert body["details"]["training_samples"] == 56193
    assert body["details"]["n_users"] == 6
    assert body["details"]["n_items"] == 12
    percentage = MESSAGE.match(body["message"]).group(1)
    assert f"{body['details']['explained_variance']:.2%}" == percentage
    assert 0.5 < body["details"]["explained_variance"] <= 1


def test_models_answer_as_the_example(example, api, retrained):
    began, answer, ended = retrained

    listed = api.get("/models")

    assert listed.status_code == 200
    assert listed.headers["content-type"].startswith("application/json")
    body = listed.json()
    assert_like(body, GET_MODELS)
    assert body.keys() == GET_MODELS.keys()
    assert body["status"] == "ok"
    (active,) = [model for model in body["models"] if model["status"] == "active"]
    assert active["version"] == answer.json()["version"]
    assert active["name"] == MODEL["name"]
    assert active["type"] == MODEL["type"]
    assert active["n_users"] == MODEL["n_users"]
    assert active["n_items"] == MODEL["n_items"]
    assert active["explained_variance"] == MESSAGE.match(answer.json()["message"]).group(1)
    assert re.fullmatch(r"\d{1,3}\.\d\d%", active["explained_variance"])
    trained_on = datetime.strptime(active["trained_on"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert active["trained_on"] == f"{trained_on:%Y-%m-%d %H:%M:%S}"
    assert began - timedelta(seconds=1) <= trained_on <= ended
    assert active["path"] == str(example.model_dir / "retrained_svd_model.pkl")
    for model in body["models"]:
        assert model["status"] in {"active", "inactive"}
        if model is not active:
            assert model["status"] == "inactive"
            assert Path(model["path"]).is_file()
            assert Path(model["path"]) != Path(active["path"])


def test_both_apis_list_the_same(example, retrained):
    assert example.server.get("/models").json() == example.worker.get("/models").json()


def test_the_current_model_is_a_file_of_four_parts(example, retrained):
    _, answer, _ = retrained
    path = Path(example.active()["path"])

    assert path.is_symlink()
    assert not os.path.isabs(os.readlink(path))
    with path.open("rb") as stream:
        model = pickle.load(stream)

    assert set(model) == {"rating_matrix", "svd_model", "predicted_ratings", "metadata"}
    users, items = model["metadata"]["users"], model["metadata"]["items"]
    assert users == [f"user {user}" for user in range(6)]
    assert items == [f"item {item:02}" for item in range(12)]
    assert model["metadata"]["version"] == answer.json()["version"]
    assert f"{model['metadata']['explained_variance']:.2%}" == MESSAGE.match(
        answer.json()["message"]
    ).group(1)
    expected = np.zeros((6, 12))
    for row in example_interactions():
        weight = 2 if row["interaction_type"] == "watchlist_add" else 1
        expected[users.index(row["user_id"]), items.index(row["item_id"])] += weight
    assert (model["rating_matrix"].toarray() == expected).all()
    # Ten components are asked for, and a matrix of 6 users has 5 to give.
    assert model["svd_model"].components_.shape == (5, 12)
    left, values, right = np.linalg.svd(expected)
    approximation = left[:, :5] * values[:5] @ right[:5]
    predicted = model["predicted_ratings"]
    assert predicted.index.tolist() == users
    assert predicted.columns.tolist() == items
    np.testing.assert_allclose(predicted.to_numpy(), approximation, rtol=1e-8, atol=1e-8)


def test_the_new_version_serves_without_a_restart(example, api, retrained):
    version = api.post("/retrain").json()["version"]

    # Who answered serves it already; the other one follows by itself.
    answered = api.get("/health/ready").json()
    assert answered["model_version"] == version
    for other in (example.server, example.worker):
        wait_until(
            lambda other=other: other.get("/health/ready").json()["model_version"] == version,
            f"{other.base_url} serves version {version}",
        )
    recommended = example.server.get("/recommendations/user 1").json()
    assert recommended["model_version"] == version


@pytest.mark.parametrize("name", APIS)
def test_a_request_with_nothing_but_its_line_retrains(example, name):
    port = example.server_port if name == "server" else example.worker_port

    status, headers, body = bare_post(port, "/retrain")

    assert status == 200
    assert headers["content-type"].startswith("application/json")
    assert_like(body, POST_RETRAIN)


def test_a_retrain_uses_recipe_and_settings_of_the_active_version(example, retrained):
    with example.database() as connection:
        changed = connection.execute(
            """UPDATE models SET settings = '{"n_components": 3}' WHERE is_active"""
        )
        assert changed.rowcount == 1
    try:
        before = example.active()
        example.retrain()
        after = example.active()

        assert after["version"] > before["version"]
        assert (after["recipe"], after["settings"]) == (
            "svd",
            {"n_components": 3, "weighting": "raw"},
        )
        with Path(after["path"]).open("rb") as stream:
            assert pickle.load(stream)["svd_model"].components_.shape == (3, 12)
    finally:
        with example.database() as connection:
            connection.execute("""UPDATE models SET settings = '{"n_components": 10}'""")


def test_one_training_at_a_time(example, api):
    with example.held_training(example.worker_process) as job:
        for other in (example.server, example.worker):
            for wait in ("true", "false"):
                refused = other.post("/retrain", params={"wait": wait})
                assert refused.status_code == 409, refused.text
                body = refused.json()
                assert body["status"] == "error"
                assert body["code"] == "job_running"
                assert body["details"] == {"job_id": job["job_id"], "kind": "retrain"}
                assert str(job["job_id"]) in body["message"]
            assert other.get("/models").status_code == 200

    assert example.wait_for_job(job["job_id"])["status"] == "succeeded"


def test_a_retrain_that_is_not_waited_for_answers_with_its_job(example, api):
    answer = api.post("/retrain", params={"wait": "false"})

    assert answer.status_code == 202
    assert answer.json()["status"] == "ok"
    job = answer.json()["job"]
    assert job["status"] == "running"
    assert job["trigger"] == "manual"
    done = example.wait_for_job(job["job_id"])
    assert (done["status"], done["stage"], done["fraction"]) == ("succeeded", "done", 1.0)
    assert done["version"] == example.active()["version"]


def test_a_training_process_that_dies_is_an_error_with_what_to_do(example):
    before = example.active()
    with example.held_training(example.worker_process) as job:
        (started,) = [
            row
            for row in example.worker_process.events("job_started")
            if row["job_id"] == job["job_id"]
        ]
        os.kill(started["pid"], 9)

    ended = example.wait_for_job(job["job_id"])
    assert ended["status"] == "interrupted"
    assert ended["error"]["code"] == "interrupted"
    assert "signal 9" in ended["error"]["message"]
    assert example.active() == before
    assert example.retrain() > before["version"]


def test_without_the_worker_the_list_is_there_and_a_retrain_is_refused(example):
    # What is more is deleted after a retrain has answered.
    wait_until(lambda: len(example.server.get("/models").json()["models"]) <= 10, "10 are kept")
    listed = example.server.get("/models").json()
    example.worker_process.stop()
    try:
        assert example.server.get("/models").json() == listed
        assert example.server.get("/recommendations/user 1").status_code == 200

        refused = example.server.post("/retrain")

        assert refused.status_code == 503
        body = refused.json()
        assert (body["status"], body["code"]) == ("error", "unavailable")
        assert "worker" in body["message"]
        assert "reckeeper up" in body["message"]  # what to do
        assert "Traceback" not in body["message"]
        assert "Errno" not in body["message"]
    finally:
        example.worker_process = example.start_worker()
    assert example.retrain() > listed["models"][0]["version"]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Give an installation with a model whose interactions a test may replace."""
    with Installation(tmp_path_factory.mktemp("sparse")) as made:
        made.migrate()
        made.start_worker()
        made.start_server()
        made.send(clicks(4, 5))
        made.retrain()
        yield made


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no interactions"),
        ([("u1", "i1"), ("u1", "i2")], r"2 users.*\b1 user"),
        ([("u1", "i1"), ("u2", "i1")], r"2 items.*\b1 item"),
    ],
    ids=["no interactions", "one user", "one item"],
)
def test_too_little_data_is_refused_and_changes_nothing(sparse, name, rows, said):
    with sparse.database() as connection:
        connection.execute("DELETE FROM user_interactions")
    if rows:
        sparse.send(
            [{"user_id": user, "item_id": item, "interaction_type": "click"} for user, item in rows]
        )
    before = sparse.server.get("/models").json()
    link = os.readlink(sparse.model_dir / "retrained_svd_model.pkl")

    refused = getattr(sparse, name).post("/retrain")

    assert refused.status_code == 409
    body = refused.json()
    assert (body["status"], body["code"]) == ("error", "not_enough_data")
    assert re.search(said, body["message"]), body["message"]
    assert sparse.server.get("/models").json() == before
    assert os.readlink(sparse.model_dir / "retrained_svd_model.pkl") == link
    recommended = sparse.server.get("/recommendations/u1").json()
    assert recommended["model_version"] == before["models"][0]["version"]


@pytest.mark.parametrize("name", APIS)
def test_without_any_taste_no_job_starts_and_nothing_changes(sparse, name):
    with sparse.database() as connection:
        connection.execute("DELETE FROM user_interactions")
    sparse.send([{**row, "weight": 0} for row in clicks(4, 5)])
    before = sparse.server.get("/models").json()
    n_jobs = len(sparse.server.get("/jobs").json()["jobs"])

    for path in ("/retrain", "/retrain?wait=false"):
        refused = getattr(sparse, name).post(path)

        assert (refused.status_code, refused.json()["code"]) == (409, "not_enough_data")
        assert "No interaction says that a user likes an item" in refused.json()["message"]
        assert "POST /user_interactions" in refused.json()["message"]
    assert sparse.server.get("/models").json() == before
    assert len(sparse.server.get("/jobs").json()["jobs"]) == n_jobs


def test_the_first_retrain_without_data_is_refused_and_leaves_no_model(installation):
    installation.start_worker()
    installation.start_server()

    for api in (installation.server, installation.worker):
        assert api.get("/models").json() == {"status": "ok", "models": []}
        assert api.post("/retrain").json()["code"] == "not_enough_data"
    answer = installation.server.get("/recommendations/u1").json()
    assert (answer["strategy"], answer["model_version"], answer["items"]) == ("popular", None, [])
    assert not list(installation.model_dir.glob("model-*"))
