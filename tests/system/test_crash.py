"""Processes that die in the middle of a job, at every stage of it."""

import json
import os
import shutil
import signal

import psutil
import pytest
from tests.system.copies import CAN_COPY
from tests.system.installation import (
    Installation,
    clicks,
    is_alive,
    training_pid,
    wait_until,
)

# Read by Python at the start of each process that is no copy. A process that finds the
# file `die` dies, as by kill -9, when it comes to the place that the file names, and takes the
# file with it. The process of a job is the copy of another one, and reads it when it is copied;
# so does the one that keeps the job's lease, which never comes to the place.
DYING = """
import functools, importlib, json, os, signal, sys
from pathlib import Path

order = Path(__file__).with_name("die")


def die():
    order.unlink()
    os.kill(os.getpid(), signal.SIGKILL)


def obey():
    said = json.loads(order.read_text()) if order.exists() else {}
    if not said or not any(said["process"] in argument for argument in sys.orig_argv):
        return
    module, _, name = said["place"].partition(":")
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    calls = []

    @functools.wraps(function)
    def dying(*arguments, **options):
        calls.append(None)
        if len(calls) == said["call"] and said["when"] == "before":
            die()
        result = function(*arguments, **options)
        if len(calls) == said["call"]:
            die()
        return result

    setattr(owner, last, dying)


if any("forkserver" in argument for argument in sys.orig_argv):
    os.register_at_fork(after_in_child=obey)
else:
    obey()
"""

STAGES = {
    "starting": ("before", "reckeeper.training.memory:check"),
    "reading": ("after", "reckeeper.matrix:read_log"),
    "judging": ("before", "reckeeper.training.gate:judge"),
    "judged": ("after", "reckeeper.training.gate:judge"),
    "fitting": ("before", "reckeeper.registry.versions:Versions.reserve"),
    "writing": ("before", "reckeeper.artifact.store:ModelStore.write"),
    "one file written": ("before", "pickle:dump"),
    "both files written": ("after", "reckeeper.artifact.store:ModelStore.write"),
    "registering": ("before", "reckeeper.storage.models:insert"),
}


@pytest.fixture(scope="module")
def dying(tmp_path_factory):
    """An installation with one version, and its worker; a file decides who dies where."""
    folder = tmp_path_factory.mktemp("dying")
    overlay = folder / "overlay"
    overlay.mkdir()
    (overlay / "sitecustomize.py").write_text(DYING)
    with Installation(folder, PYTHONPATH=str(overlay)) as installation:
        installation.migrate()
        installation.start_server(is_copy=CAN_COPY)
        worker = installation.start_worker()
        installation.send(clicks(30, 20))
        installation.retrain()
        yield installation, worker, overlay / "die"


def files(installation):
    names = {path.name for path in installation.model_dir.iterdir()}
    return sorted(name for name in names if "audit-head" not in name)


def start_retrain(installation, **body):
    answer = installation.server.post("/retrain", params={"wait": "false"}, json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]["job_id"]


def served(installation):
    answer = installation.server.get("/recommendations/u1")
    assert answer.status_code == 200, answer.text
    return answer.json()["model_version"]


def assert_as_before(installation, job_id, *, version, before, seconds=60):
    """See that a job ended, changed nothing, and that the active version serves."""
    assert served(installation) == version
    job = installation.wait_for_job(job_id, seconds=seconds)
    assert (job["status"], job["error"]["code"]) == ("interrupted", "interrupted"), job
    assert installation.active()["version"] == version
    assert served(installation) == version
    wait_until(lambda: files(installation) == before, f"only {before} is left")
    listed = installation.server.get("/models").json()["models"]
    assert all(path["name"] for path in listed)


@pytest.mark.fault(
    "The training process is killed, at each of its stages",
    seen="the job reads `interrupted` and names the signal; lists go on",
    kept="versions and files, as they were",
    heals="by itself: the next retrain works",
)
@pytest.mark.parametrize("stage", [*STAGES, "tuning"])
def test_a_training_that_dies_changes_nothing_and_the_next_one_runs(dying, stage):
    installation, _, order = dying
    when, place = STAGES.get(stage, ("before", "reckeeper.training.tuning:tune"))
    body = {}
    if stage == "tuning":
        place, body = "reckeeper.training.pipeline:tune", {"tune": True, "tune_seconds": 1}
    version, before = installation.active()["version"], files(installation)
    order.write_text(json.dumps({"process": "training.child", "place": place, "when": when,
                                 "call": 1}))  # fmt: skip
    job_id = start_retrain(installation, **body)
    assert_as_before(installation, job_id, version=version, before=before)
    assert not order.exists()
    job = installation.server.get(f"/jobs/{job_id}").json()["job"]
    assert "signal 9" in job["error"]["message"]
    newer = installation.retrain()
    assert newer > version
    assert served(installation) == newer


@pytest.mark.fault(
    "The memory runs out in the middle of a training",
    seen="the job fails, and says so; lists go on",
    kept="versions and files, as they were",
    heals="the next retrain works, with more memory or less to train on",
)
def test_a_training_that_gets_no_more_memory_changes_nothing(dying):
    installation, worker, _ = dying
    version, before = installation.active()["version"], files(installation)
    with installation.held_training(worker) as job:
        training = psutil.Process(training_pid(worker, job["job_id"]))
        training.rlimit(psutil.RLIMIT_AS, (training.memory_info().vms, -1))
    ended = installation.wait_for_job(job["job_id"])
    assert ended["status"] in {"failed", "interrupted"}, ended
    assert "memory" in ended["error"]["message"], ended
    assert served(installation) == version
    wait_until(lambda: files(installation) == before, f"only {before} is left")
    assert served(installation) < installation.retrain()


@pytest.mark.fault(
    "The training process is killed after its version was registered",
    seen="the job reads `interrupted`; the version is listed, inactive",
    kept="the new version, whole",
    heals="a person may activate it",
)
def test_a_training_that_dies_after_its_version_is_registered_leaves_it_inactive(dying):
    installation, _, order = dying
    version = installation.active()["version"]
    place = "reckeeper.registry.versions:Versions.register"
    order.write_text(
        json.dumps({"process": "training.child", "when": "after", "call": 1, "place": place})
    )
    job = installation.wait_for_job(start_retrain(installation))
    assert job["status"] == "interrupted"
    assert served(installation) == version
    made = installation.server.get(f"/models/{job['version']}").json()["model"]
    assert (made["status"], made["job_id"]) == ("inactive", job["job_id"])
    answer = installation.server.post(f"/models/{job['version']}/activate")
    assert answer.status_code == 200, answer.text
    assert served(installation) == job["version"]


@pytest.fixture
def fresh(dying, tmp_path):
    """A copy of the installation of its own, and the order for its worker.

    Only what starts afresh reads the order.
    """
    original, _, order = dying
    overlay = tmp_path / "overlay"
    shutil.copytree(order.parent, overlay)
    with Installation(tmp_path, PYTHONPATH=str(overlay)) as installation:
        source = original.data_dir / "reckeeper.sqlite3"
        installation.data_dir.mkdir()
        with original.database() as connection:
            connection.execute("VACUUM INTO ?", (str(installation.data_dir / source.name),))
        for path in original.data_dir.glob("*.key"):
            shutil.copy2(path, installation.data_dir)
        shutil.copytree(original.model_dir, installation.model_dir, symlinks=True)
        installation.start_server(is_copy=CAN_COPY)
        yield installation, overlay / "die"


@pytest.mark.fault(
    "The worker is killed, and its training process still runs",
    seen="the job reads `interrupted` within seconds",
    kept="versions and files, as they were",
    heals="the training ends with its worker; the next worker trains again",
)
def test_a_worker_that_dies_takes_its_training_with_it(fresh):
    installation, _ = fresh
    worker = installation.start_worker()
    version, before = installation.active()["version"], files(installation)
    with installation.held_training(worker) as job:
        pid = training_pid(worker, job["job_id"])
        worker.kill()
        # The lease's holder is gone from this machine: nobody waits for it to lapse.
        assert_as_before(installation, job["job_id"], version=version, before=before, seconds=8)
    wait_until(lambda: not is_alive(pid), "the training has ended with its worker")
    installation.start_worker(is_copy=CAN_COPY)
    assert installation.retrain() > version


@pytest.mark.fault(
    "The worker is killed before, inside or after the promotion",
    seen="one version serves all along: the old or the new one",
    kept="both versions",
    heals="the next start moves the link to what serves",
)
@pytest.mark.parametrize(
    ("place", "call", "is_active"),
    [
        ("reckeeper.serving:check", 1, False),
        ("reckeeper.storage.timeline:insert", 1, False),
        ("reckeeper.artifact.store:ModelStore.point_link", 2, True),
    ],
    ids=["before the check", "inside the transaction", "between row and link"],
)
def test_a_worker_that_dies_while_it_promotes(fresh, place, call, is_active):
    installation, order = fresh
    version = installation.active()["version"]
    order.write_text(json.dumps({"process": "kafka_worker.py", "place": place, "call": call,
                                 "when": "before"}))  # fmt: skip
    worker = installation.start_worker()
    job_id = start_retrain(installation)
    wait_until(lambda: worker.status is not None, "the worker has died", seconds=60)
    job = installation.wait_for_job(job_id)
    expected = job["version"] if is_active else version
    assert job["status"] == ("succeeded" if is_active else "interrupted")
    assert installation.active()["version"] == expected
    wait_until(lambda: served(installation) == expected, f"version {expected} serves")
    installation.start_worker(is_copy=CAN_COPY)
    link = os.readlink(installation.model_dir / "retrained_svd_model.pkl")
    assert link == f"model-{expected:06d}.pkl"
    newer = installation.retrain()
    assert newer > job["version"]
    assert served(installation) == newer


@pytest.mark.fault(
    "A worker is stopped (SIGSTOP) past its lease while another trains, and woken",
    seen="its job reads `interrupted`; the other's version serves",
    kept="what the other worker made",
    heals="what the sleeper writes is refused, and its files are deleted",
)
def test_of_two_workers_one_trains_and_a_sleeper_changes_nothing(fresh):
    """One worker is stopped past its lease while the other trains, and then woken."""
    installation, _ = fresh
    first = installation.start_worker(is_copy=CAN_COPY)
    version = installation.active()["version"]
    with installation.held_training(first) as job:
        pid = training_pid(first, job["job_id"])
        os.kill(first.pid, signal.SIGSTOP)
        try:
            second = installation.start_worker(
                "second worker",
                is_copy=CAN_COPY,
                RECKEEPER_WORKER_PORT=str(installation.page_port),
            )
            url = f"http://127.0.0.1:{installation.page_port}/retrain"
            busy = installation.worker.post(url)
            assert (busy.status_code, busy.json()["code"]) == (409, "job_running")
            lapsed = installation.wait_for_job(job["job_id"], seconds=30)
            assert lapsed["status"] == "interrupted"
            answer = installation.worker.post(url)
            assert answer.status_code == 200, answer.text
            newer = answer.json()["version"]
            assert newer > version
        finally:
            os.kill(first.pid, signal.SIGCONT)
    # The training that was held goes on, and finds that what it writes is refused.
    wait_until(lambda: not is_alive(pid), "the sleeper's training has ended")
    wait_until(lambda: first.events("job_ended_by_others"), "the sleeper knows that it lost")
    assert installation.active()["version"] == newer
    assert second.status is None
    rows = installation.server.get("/jobs").json()["jobs"]
    states = {row["job_id"]: row["status"] for row in rows}
    assert states[job["job_id"]] == "interrupted"
    known = {row["version"] for row in installation.server.get("/models").json()["models"]}
    on_disk = {name for name in files(installation) if name.startswith("model-")}
    assert on_disk == {
        f"model-{number:06d}.{ending}" for number in known for ending in ("pkl", "safetensors")
    }


@pytest.mark.fault(
    "Two workers are asked for a retrain at once",
    seen="one answers 409, `job_running`",
    kept="everything",
    heals="nothing is broken",
)
def test_two_workers_that_race_run_one_job_at_a_time(fresh):
    installation, _ = fresh
    installation.start_worker(is_copy=CAN_COPY)
    installation.start_worker(
        "second worker", is_copy=CAN_COPY, RECKEEPER_WORKER_PORT=str(installation.page_port)
    )
    urls = [
        f"http://127.0.0.1:{port}/retrain?wait=false"
        for port in (installation.worker_port, installation.page_port)
    ]
    started, refused = [], 0
    for turn in range(12):
        answers = [installation.worker.post(url) for url in urls[:: 1 if turn % 2 else -1]]
        for answer in answers:
            assert answer.status_code in {202, 409}, answer.text
            if answer.status_code == 202:
                started.append(answer.json()["job"]["job_id"])
            else:
                refused += 1
        assert sum(row["status"] == "running" for row in
                   installation.server.get("/jobs").json()["jobs"]) <= 1  # fmt: skip
        if turn % 3 == 2:
            installation.wait_for_job(started[-1])
    installation.wait_for_job(started[-1])
    assert refused
    assert len(set(started)) == len(started)
    ended = [installation.wait_for_job(job_id) for job_id in started]
    assert {job["status"] for job in ended} == {"succeeded"}
    assert len({job["version"] for job in ended}) == len(started)
