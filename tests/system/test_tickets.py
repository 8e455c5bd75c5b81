"""A job that was answered with 503 does not start later, and one that has started is told."""

import dataclasses
import os
import signal

import httpx
import pytest
from fastapi.testclient import TestClient
from tests.system.installation import wait_until

from reckeeper.api import worker
from reckeeper.api.app import create_app
from reckeeper.config import Settings


@pytest.fixture
def asked(trained):
    """Give a server in this process that waits half a second for the worker, and the worker."""
    running = trained.start_worker()
    app = create_app(Settings.from_env(trained.environ))
    runtime = app.state.runtime
    impatient = worker.Worker(
        runtime.settings.worker_url, retry_seconds=0, key="", timeout_seconds=0.5
    )
    runtime.worker.close()
    app.state.runtime = dataclasses.replace(runtime, worker=impatient)
    with TestClient(app, "http://localhost") as client:
        yield client, running, trained


def n_refused(made, path):
    name = f'reckeeper_http_requests_total{{method="POST",route="{path}",status="409"}} '
    lines = made.worker.get("/metrics").text.splitlines()
    return sum(float(line[len(name) :]) for line in lines if line.startswith(name))


@pytest.mark.fault(
    "The worker holds still while it is asked to train, and wakes after the server has given up",
    seen="503, and that nothing was started and nothing will be",
    kept="versions, as they were",
    heals="the worker refuses what it was asked in its sleep",
)
@pytest.mark.parametrize("path", ["/retrain", "/evaluations"])
def test_a_worker_that_wakes_late_starts_nothing(asked, path):
    client, running, made = asked
    before = client.get("/jobs").json()["jobs"]
    os.kill(running.pid, signal.SIGSTOP)
    try:
        answer = client.post(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "Nothing was started, and nothing will be" in answer.json()["message"]
    finally:
        os.kill(running.pid, signal.SIGCONT)
    wait_until(lambda: n_refused(made, path) == 1, "the worker has seen what it was asked")
    assert client.get("/jobs").json()["jobs"] == before
    started = client.post("/retrain", params={"wait": "false"})
    assert started.status_code == 202, started.text


def test_a_job_that_has_started_is_told_though_the_answer_was_lost(asked):
    client, *_ = asked

    class Losing(httpx.HTTPTransport):
        def handle_request(self, request):
            super().handle_request(request).read()
            raise httpx.ReadTimeout("the answer was lost", request=request)

    state = client.app.state
    losing = worker.Worker(
        state.runtime.settings.worker_url, retry_seconds=0, key="", transport=Losing()
    )
    state.runtime.worker.close()
    state.runtime = dataclasses.replace(state.runtime, worker=losing)
    answer = client.post("/retrain", params={"wait": "false"})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["job"]["job_id"]
    ended = wait_until(
        lambda: (job := client.get(f"/jobs/{job_id}").json()["job"])["status"] != "running" and job,
        "it ends",
        seconds=60,
    )
    assert ended["status"] == "succeeded"
