"""`reckeeper up`: everything at one command, on free ports."""

import contextlib
import functools
import os
import re
import signal
import socket
import threading
import time

import httpx
import psutil
import pytest
from tests.system.installation import (
    Installation,
    clicks,
    free_port,
    is_alive,
    is_listening,
    wait_until,
)

EVERY_MINUTE = "* * * * *"


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory):
    """Give an installation that retrains every minute; what it did is looked at late."""
    with Installation(
        tmp_path_factory.mktemp("scheduled"), RECKEEPER_RETRAIN_SCHEDULE=EVERY_MINUTE
    ) as made:
        made.start_up()
        made.send(clicks(5, 6))
        yield made


@pytest.fixture(scope="module")
def demo(tmp_path_factory, scheduled):
    """Give an installation as a new user has it, beside another one."""
    with Installation(tmp_path_factory.mktemp("demo"), RECKEEPER_DEMO="1") as made:
        made.up = made.start_up()
        wait_until(
            lambda: made.server.get("/recommendations/user-0001").json().get("model_version"),
            "the first model serves",
            seconds=60,
        )
        yield made


def pid_of(made, program):
    """Return the process that runs a program, from the supervisor's log."""
    log = (made.data_dir / "logs" / "supervisor.log").read_text()
    return int(re.findall(rf"spawned: '{program}' with pid (\d+)", log)[-1])


def test_all_is_healthy_and_the_addresses_are_printed(demo):
    said = demo.up.text()

    assert demo.page_url in said
    assert f"{demo.server.base_url}/docs" in said
    assert str(demo.worker.base_url) in said
    assert str(demo.data_dir / "logs") in said
    assert "Traceback" not in said
    assert httpx.get(f"{demo.page_url}/_stcore/health", trust_env=False).text == "ok"
    for caller in (demo.server, demo.worker):
        assert caller.get("/health/ready").json()["status"] == "ok"


def test_an_empty_database_has_demo_data_and_a_first_model(demo):
    active = demo.active()
    loaded = demo.server.get("/demo").json()

    assert loaded["loaded"] is True
    assert 50_000 < loaded["interactions"] < 70_000
    assert (active["version"], active["trigger"], active["is_demo"]) == (1, "demo", True)
    assert 1_500 < active["n_users"] < 2_500
    assert 400 < active["n_items"] <= 500
    assert active["training_samples"] == loaded["interactions"]
    for user_id in loaded["sample_users"]:
        answer = demo.server.get(f"/recommendations/{user_id}").json()
        assert answer["strategy"] == "model"
        assert len(answer["items"]) == 10
        assert all(item["title"] for item in answer["items"])
        seen = demo.server.get(f"/user_interactions/{user_id}").json()["interactions"]
        assert seen
        assert all(row["title"] for row in seen)


def test_two_installations_stand_side_by_side(demo, scheduled):
    row = {"user_id": "only there", "item_id": "i1", "interaction_type": "click"}
    scheduled.send([row])

    assert demo.server.get("/user_interactions/only there").json()["interactions"] == []
    assert scheduled.server.get("/user_interactions/only there").json()["interactions"]
    assert scheduled.server.get("/demo").json()["loaded"] is False


@pytest.mark.fault(
    "`up` is started a second time on the same data",
    seen="the second one ends with what to do",
    kept="everything",
    heals="nothing is broken",
)
def test_a_second_one_on_the_same_data_is_refused(demo):
    ports = (f"RECKEEPER_{name}_PORT" for name in ("SERVER", "WORKER", "UI"))
    refused = demo.run("up", check=False, **{name: str(free_port()) for name in ports})
    assert refused.returncode == 2
    assert "Another `reckeeper up`" in refused.stderr
    assert "RECKEEPER_DATA_DIR" in refused.stderr
    assert demo.up.status is None


def test_jobs_fit_a_terminal(demo):
    said = demo.run("jobs", COLUMNS="110").stdout
    assert re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d ", said), said


@pytest.mark.fault(
    "Server or worker is killed under `up`",
    seen="no answer for some seconds",
    kept="everything that was accepted",
    heals="`up` starts it again",
)
def test_a_process_that_dies_is_started_again(demo):
    for program, caller in (("server", demo.server), ("worker", demo.worker)):
        killed = pid_of(demo, program)
        left = children(killed)  # which go on answering until there are others
        os.kill(killed, signal.SIGKILL)

        def is_back(program=program, caller=caller, killed=killed, left=left):
            try:
                return (
                    pid_of(demo, program) != killed
                    and not any(is_alive(pid) for pid in left)
                    and caller.get("/health/ready").json()["status"] == "ok"
                )
            except httpx.HTTPError:
                return False

        wait_until(is_back, f"the {program} is back")
        log = (demo.data_dir / "logs" / "supervisor.log").read_text()
        assert f"exited: {program} (terminated by SIGKILL" in log
    assert demo.active()["version"] == 1
    assert demo.up.status is None


def test_ctrl_c_stops_all_and_the_next_start_finds_all_again(demo):
    version = demo.retrain()
    before = demo.server.get("/models").json()
    interactions = demo.server.get("/demo").json()["interactions"]
    pids = demo.pids()

    demo.up.interrupt()
    assert demo.up.wait() == 0

    assert demo.up.text().rstrip().endswith("All stopped.")
    assert "Traceback" not in demo.up.text()
    assert not demo.pids(), f"of {pids} some still run"
    for port in (demo.server_port, demo.worker_port, demo.page_port):
        assert not is_listening(port)

    demo.up = demo.start_up()

    assert demo.server.get("/models").json() == before
    assert demo.active()["version"] == version
    assert demo.server.get("/demo").json()["interactions"] == interactions
    with demo.database() as connection:
        (n_interactions,) = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
        (n_imports,) = connection.execute("SELECT count(*) FROM imports").fetchone()
    assert (n_interactions, n_imports) == (interactions, 1)
    recommended = demo.server.get("/recommendations/user-0001").json()
    assert recommended["model_version"] == version


def test_demo_data_that_was_cleared_does_not_come_back(demo):
    row = {"user_id": "real", "item_id": "i1", "interaction_type": "click"}
    demo.send([row])

    said = demo.run("demo", "clear").stdout

    assert said.strip()
    assert demo.server.get("/demo").json() == {
        "status": "ok",
        "loaded": False,
        "interactions": 0,
        "sample_users": [],
    }
    assert demo.server.get("/models").json()["models"] == []
    assert not list(demo.model_dir.glob("*.pkl"))
    assert not list(demo.model_dir.glob("*.safetensors"))
    assert demo.server.get("/user_interactions/user-0001").json()["interactions"] == []
    assert len(demo.server.get("/user_interactions/real").json()["interactions"]) == 1
    with demo.database() as connection:
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,)
        connection.execute("DELETE FROM user_interactions")
    demo.run("demo", "clear")  # nothing is left to clear, and that is no error

    demo.up.stop(signal.SIGTERM)
    assert not demo.pids()
    demo.up = demo.start_up()

    assert demo.server.get("/demo").json()["loaded"] is False
    assert demo.server.get("/jobs").json()["jobs"][0]["trigger"] == "manual"
    with demo.database() as connection:
        assert connection.execute("SELECT count(*) FROM user_interactions").fetchone() == (0,)


@pytest.mark.fault(
    "A port is taken",
    seen="`up` ends, and names the port and its setting",
    kept="everything",
    heals="set another port",
)
@pytest.mark.parametrize(
    "name", ["RECKEEPER_SERVER_PORT", "RECKEEPER_WORKER_PORT", "RECKEEPER_UI_PORT"]
)
def test_a_port_in_use_is_named_with_its_setting(tmp_path, name):
    with Installation(tmp_path) as made, socket.socket() as listener:
        port = int(made.environ[name])
        listener.bind(("127.0.0.1", port))
        listener.listen()

        refused = made.run("up", check=False)

        assert refused.returncode == 2
        said = refused.stdout + refused.stderr
        assert f"Port {port} is in use" in said
        assert f"Set {name}" in said
        assert "Traceback" not in said
        assert not made.pids()


def test_the_same_port_twice_is_named(tmp_path):
    with Installation(tmp_path) as made:
        refused = made.run(
            "up", check=False, RECKEEPER_UI_PORT=made.environ["RECKEEPER_SERVER_PORT"]
        )

        assert refused.returncode == 2
        assert "RECKEEPER_SERVER_PORT" in refused.stderr
        assert "RECKEEPER_UI_PORT" in refused.stderr


@pytest.mark.fault(
    "The folder of the data or of the models is a file",
    seen="`up` ends, and names the setting",
    kept="everything",
    heals="name another folder",
)
@pytest.mark.parametrize("name", ["RECKEEPER_DATA_DIR", "RECKEEPER_MODEL_DIR"])
def test_a_folder_that_is_a_file_is_named_with_its_setting(tmp_path, name):
    file = tmp_path / "file"
    file.touch()
    with Installation(tmp_path) as made:
        refused = made.run("up", check=False, **{name: str(file)})

        assert refused.returncode == 2
        (line,) = refused.stderr.strip().splitlines()
        assert f"{name}={str(file)!r}" in line
        assert not made.pids()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECKEEPER_SERVER_PORT", "eighty"),
        ("RECKEEPER_SERVER_PORT", "70000"),
        ("RECKEEPER_DEMO", "perhaps"),
        ("RECKEEPER_TIMEZONE", "Europe/Atlantis"),
        ("RECKEEPER_RETRAIN_SCHEDULE", "every Sunday"),
        ("RECKEEPER_INTERACTION_WEIGHTS", "click"),
        ("RECKEEPER_SERVER_URL", "localhost:8000"),
        ("RECKEEPER_VERSIONS_KEPT", "1"),
        ("DATABASE_URL", "oracle://db"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_clear_line(tmp_path, name, value):
    with Installation(tmp_path) as made:
        refused = made.run("up", check=False, **{name: value})

        assert refused.returncode == 2
        (line,) = refused.stderr.strip().splitlines()
        assert name in line
        assert value in line
        assert not made.pids()


def test_the_schedule_retrains(scheduled):
    body = scheduled.server.get("/jobs").json()
    assert body["schedule"] == EVERY_MINUTE
    assert body["next_scheduled_at"]

    def by_schedule():
        jobs = scheduled.server.get("/jobs").json()["jobs"]
        return [job for job in jobs if job["trigger"] == "schedule" and job["version"]]

    jobs = wait_until(by_schedule, "a scheduled job made a version", seconds=75)

    done = scheduled.wait_for_job(jobs[0]["job_id"])
    assert done["status"] == "succeeded"
    assert scheduled.server.get(f"/models/{done['version']}").json()["model"]["trigger"] == (
        "schedule"
    )
    wait_until(
        lambda: (
            (scheduled.server.get("/recommendations/u1").json().get("model_version") or 0)
            >= done["version"]
        ),
        "the server serves what the schedule made",
    )


def test_an_import_of_real_data_replaces_the_demo_data_and_says_so(tmp_path, demo_once):
    with Installation(tmp_path, RECKEEPER_DEMO="1") as made:
        made.take_over(demo_once)
        made.start_worker()
        made.start_server()
        file = tmp_path / "events.csv"
        file.write_text("user_id,item_id\n" + "".join(f"u{n % 5},i{n % 7}\n" for n in range(70)))

        done = made.run("import", file)

        assert "demo data" in (done.stdout + done.stderr).lower()
        assert made.server.get("/demo").json()["loaded"] is False
        assert not [row for row in made.server.get("/models").json()["models"] if row["is_demo"]]
        version = made.retrain()
        active = made.active()
        assert (active["version"], active["is_demo"]) == (version, False)
        assert (active["n_users"], active["n_items"], active["training_samples"]) == (5, 7, 70)


@contextlib.contextmanager
def asking(site):
    """Ask whether the server lives, each time on a connection of its own, within the block."""
    answered, failed, stop = [], [], threading.Event()
    # To read the certificates, which nothing here has, takes longer than the request.
    call = functools.partial(httpx.get, trust_env=False, verify=False, timeout=30)

    def ask():
        while not stop.is_set():
            began = time.monotonic()
            try:
                call(f"{site.server.base_url}/health/live")
                answered.append(time.monotonic() - began)
            except httpx.HTTPError as exc:
                failed.append(exc)
            stop.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered, failed
    finally:
        stop.set()
        thread.join()


@pytest.mark.fault(
    "The process that answers is killed, or the one that has started it",
    seen="requests that it had begun fail; others wait for less than two seconds, or not at all",
    kept="everything that was accepted",
    heals="another process takes its place",
)
@pytest.mark.parametrize("who", ["answers", "has started it"])
def test_nobody_finds_the_server_gone(demo, who):
    parent = pid_of(demo, "server")
    child = wait_until(lambda: children(parent), "the server has a process")[0]
    with asking(demo) as (answered, failed):
        wait_until(lambda: len(answered) > 5, "it answers")
        os.kill(child if who == "answers" else parent, signal.SIGKILL)
        n_before = len(answered)

        def is_replaced():
            there = children(pid_of(demo, "server"))
            return there and child not in there and not is_alive(child)

        wait_until(is_replaced, "others are in their place", seconds=60)
        wait_until(lambda: len(answered) > n_before + 20, "the new one answers")
    assert not [exc for exc in failed if isinstance(exc, httpx.ConnectError)]
    assert len(failed) <= 1, failed


def children(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return [each.pid for each in psutil.Process(pid).children()]
    return []


@pytest.mark.fault(
    "The supervisor of `up` is killed",
    seen="`up` ends and says so; the three processes end with their supervisor",
    kept="everything that was accepted",
    heals="the next `reckeeper up` waits for those before, and starts",
)
def test_what_a_killed_supervisor_has_started_ends_with_it(installation):
    first = installation.start_up()
    log = (installation.data_dir / "logs" / "supervisor.log").read_text()
    supervisor = int(re.findall(r"supervisord started with pid (\d+)", log)[-1])
    programs = [pid_of(installation, name) for name in ("server", "worker", "ui")]
    os.kill(supervisor, signal.SIGKILL)
    assert first.wait(seconds=20) == 1
    assert "supervisord ended by itself" in first.text()
    again = installation.start_up()
    assert "is in use" not in again.text()
    assert not any(is_alive(pid) for pid in programs)
    assert installation.server.get("/health/ready").status_code == 200
