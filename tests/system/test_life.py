"""The life of a model, through real processes: versions, policy, trail and streams."""

import contextlib
import json
import os
import re
import resource
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.system.installation import Installation, wait_until

from reckeeper import errors
from reckeeper.client import Client

ACTOR = "X-Reckeeper-Actor"


@pytest.fixture
def served(trained):
    """Give an installation with two versions and a server; the worker is down."""
    trained.server_process = trained.start_server()
    return trained


@pytest.fixture
def client(served):
    """Give a client of the server alone."""
    with Client(str(served.server.base_url), actor="tester") as made:
        yield made


@pytest.fixture
def working(trained):
    """Give an installation with two versions whose server and worker run, and the worker."""
    worker = trained.start_worker()
    trained.server_process = trained.start_server()
    return trained, worker


def assert_error(answer, status, code):
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["status"], body["code"]) == ("error", code)
    return body["message"]


def recommended(site, user_id="u3"):
    answer = site.server.get(f"/recommendations/{user_id}", params={"n": 1000}).json()
    return answer["model_version"], answer["items"]


def content_of(folder):
    return sorted(path.name for path in folder.iterdir())


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# Versions


def test_what_served_comes_back_without_the_worker(served, client):
    first = client.activate(1, reason="it was better")
    assert (first.version, first.status) == (1, "active")
    assert recommended(served)[0] == 1

    back = client.roll_back(reason="it was not")
    assert (back.version, back.status) == (2, "active")
    assert recommended(served)[0] == 2

    timeline = client.timeline().timeline
    assert [entry.version for entry in timeline] == [2, 1, 2, 1]
    latest, before = timeline[:2]
    assert (latest.action, latest.actor) == ("rollback", "api:tester")
    assert (latest.reason, latest.until) == ("it was not", None)
    assert (before.action, before.reason) == ("activate", "it was better")
    assert before.until == latest.at
    assert client.timeline(limit=1, before=latest.entry_id).timeline == [before]
    assert client.model(1).timeline == [entry for entry in timeline if entry.version == 1]
    assert [entry.action for entry in client.audit(limit=2)] == ["rollback", "activate"]


def test_a_second_roll_back_leads_further_back_and_the_end_says_so(working):
    site, _ = working
    site.retrain()
    assert [site.server.post("/models/rollback").json()["model"]["version"] for _ in range(2)] == [
        2, 1,
    ]  # fmt: skip
    assert_error(site.server.post("/models/rollback"), 409, "conflict")
    assert site.active()["version"] == 1


@pytest.mark.fault(
    "The file of the version to return to is damaged",
    seen="409, `damaged_artifact`; what serves goes on",
    kept="everything",
    heals="activate another version, or retrain",
)
def test_a_damaged_target_is_refused_with_what_to_do(served):
    damage(served.model_dir / "model-000001.safetensors")
    before = served.server.get("/audit").json()

    for path in ("/models/rollback", "/models/1/activate"):
        message = assert_error(served.server.post(path), 409, "damaged_artifact")
        assert message.startswith("Version 1 cannot be activated: ")
        assert message.endswith("Activate another version, or retrain.")

    assert recommended(served)[0] == 2
    assert served.server.get("/audit").json() == before


def test_pinned_noted_and_deleted(served, client):
    pinned = client.pin(1, until="2126-01-31T13:00:00+01:00", reason="for the sale")
    assert (pinned.pinned, pinned.pinned_until) == (True, "2126-01-31T12:00:00.000000Z")
    with pytest.raises(errors.ConflictError, match="pinned"):
        client.delete_model(1)
    assert client.unpin(1, reason="over").pinned is False
    assert client.pin(1).pinned_until is None
    client.unpin(1)

    assert client.set_note(1, "Zoë's: 🎬").note == "Zoë's: 🎬"
    assert client.models()[1].note == "Zoë's: 🎬"
    assert client.set_note(1, None).note is None

    with pytest.raises(errors.ConflictError, match="active"):
        client.delete_model(2)
    assert client.delete_model(1, reason="old").version == 1
    assert [model.version for model in client.models()] == [2]
    with pytest.raises(errors.NotFoundError, match="1"):
        client.model(1)
    assert not [name for name in content_of(served.model_dir) if "000001" in name]
    entries = client.audit(limit=7)
    assert [entry.action for entry in entries] == [
        *("delete", "note", "note", "unpin", "pin", "unpin", "pin"),
    ]  # fmt: skip
    assert {entry.actor for entry in entries} == {"api:tester"}
    assert entries[0].details["reason"] == "old"
    assert client.verify_audit().ok


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/models/1/activate", {"json": {"because": "x"}}),
        ("POST", "/models/1/activate", {"json": {"reason": 7}}),
        ("POST", "/models/1/activate", {"json": {"reason": "x" * 1001}}),
        ("POST", "/models/1/activate", {"content": '{"reason": "\\ud800"}'}),
        ("POST", "/models/1/activate", {"content": '{"reason": "\\u0000"}'}),
        ("POST", "/models/rollback", {"json": []}),
        ("POST", "/models/rollback", {"json": {"version": 1}}),
        ("POST", "/models/1/pin", {"json": {"until": "tomorrow"}}),
        ("POST", "/models/1/pin", {"json": {"until": "2126-01-31T12:00:00"}}),
        ("POST", "/models/1/pin", {"json": {"until": "2020-01-31T12:00:00Z"}}),
        ("POST", "/models/1/pin", {"json": {"until": "9999-12-31T23:59:59-23:59"}}),
        ("POST", "/models/1/pin", {"json": {"until": 4102444800}}),
        ("DELETE", "/models/1/pin", {"params": {"reason": "x" * 1001}}),
        ("PATCH", "/models/1", {"json": {}}),
        ("PATCH", "/models/1", {"json": {"note": 7}}),
        ("PATCH", "/models/1", {"json": {"note": "x" * 10_001}}),
        ("PATCH", "/models/1", {"json": {"note": "x", "status": "active"}}),
        ("DELETE", "/models/1", {"params": {"reason": "x" * 1001}}),
        ("DELETE", "/models/1", {"headers": {ACTOR: "no name"}}),
        ("POST", "/models/1/activate", {"headers": {ACTOR: ""}}),
        ("POST", "/jobs/1/cancel", {"json": {"why": "x"}}),
        ("PUT", "/policy", {"json": []}),
        ("PUT", "/policy", {"content": ""}),
        ("PUT", "/policy", {"json": {}, "params": {"if_revision": "x"}}),
        ("PUT", "/policy", {"json": {}, "headers": {ACTOR: "x" * 65}}),
        ("GET", "/models/1/compare/2", {"params": {"k": 0}}),
        ("GET", "/models/1/compare/2", {"params": {"users": 20_001}}),
        ("GET", "/timeline", {"params": {"limit": 0}}),
        ("GET", "/audit", {"params": {"before": 2**63}}),
    ],
    ids=lambda value: re.sub(r"(.)\1{20,}", r"\1…", ascii(value)),
)
def test_what_cannot_be_is_refused_and_nothing_written(served_once, method, path, more):
    def written():
        with served_once.database() as connection:
            return [
                connection.execute(f"SELECT * FROM {table}").fetchall()
                for table in ("models", "timeline", "policies", "audit_log", "notices")
            ]

    before = written()
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    answer = served_once.server.request(method, path, headers=headers, **more)
    assert_error(answer, 422, "invalid_data")
    assert written() == before


@pytest.fixture(scope="module")
def served_once(tmp_path_factory, trained_once):
    """Give an installation with a server that no test changes."""
    with Installation(tmp_path_factory.mktemp("served")) as made:
        made.take_over(trained_once)
        made.server_process = made.start_server()
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory, trained_once):
    """Give an installation whose server and worker run, for tests that add versions and jobs."""
    with Installation(tmp_path_factory.mktemp("running"), RECKEEPER_VERSIONS_KEPT="100") as made:
        made.take_over(trained_once)
        worker = made.start_worker()
        made.server_process = made.start_server()
        yield made, worker


@pytest.mark.parametrize("api", ["server", "worker"])
def test_the_trail_says_who_asked(running, api):
    site, _ = running
    caller = getattr(site, api)
    for name, actor in (("alice@example.org", "api:alice@example.org"), (None, "api")):
        headers = {} if name is None else {ACTOR: name}
        job_id = caller.post("/retrain", headers=headers).json()["job_id"]
        job = site.server.get(f"/jobs/{job_id}").json()["job"]
        assert job["actor"] == actor
        entries = site.server.get("/audit").json()["entries"]
        (started,) = [entry for entry in entries if entry["subject"] == f"job {job_id}"]
        assert (started["action"], started["actor"]) == ("retrain", actor)
    assert_error(caller.post("/retrain", headers={ACTOR: "no name"}), 422, "invalid_data")


def test_two_versions_are_compared(served, client):
    compared = client.compare(1, 2, k=5, users=7)

    assert (compared.first.version, compared.second.version) == (1, 2)
    for found, version in ((compared.first, 1), (compared.second, 2)):
        model = client.model(version)
        assert (found.recipe, found.settings) == (model.recipe, model.settings)
        assert found.data.weights == model.data.weights == {"click": 1.0, "watchlist_add": 2.0}
    assert (compared.k, compared.n_users) == (5, 7)
    assert compared.overlap.mean == pytest.approx(1.0)  # of the same data
    with pytest.raises(errors.NotFoundError, match="99"):
        client.compare(1, 99)
    damage(served.model_dir / "model-000001.safetensors")
    with pytest.raises(errors.ArtifactError, match="model-000001"):
        client.compare(1, 2)


def test_however_many_comparisons_are_asked_for_others_are_answered(served_once):
    with ThreadPoolExecutor(60) as callers:
        asked = [
            callers.submit(served_once.server.get, "/models/1/compare/2", params={"users": 8})
            for _ in range(60)
        ]
        assert served_once.server.get("/health/ready").status_code == 200
        assert recommended(served_once)[0] == 2
        assert {call.result().status_code for call in asked} == {200}


# From one installation to another


def test_a_version_travels_and_answers_the_same(served, client, tmp_path_factory):
    client.set_note(2, "the good one")
    before = client.model(2)
    bundle = client.download(2, served.folder / "bundle.zip")
    head = served.server.get("/models/2/download")
    assert head.headers["content-type"] == "application/zip"
    assert 'filename="reckeeper-model-000002.zip"' in head.headers["content-disposition"]
    assert head.content == bundle.read_bytes()

    with Installation(tmp_path_factory.mktemp("other")) as other:
        other.migrate()
        other.start_server()
        with Client(str(other.server.base_url), actor="mover") as there:
            taken_in = there.import_model(bundle)
            assert (taken_in.status, taken_in.trigger) == ("inactive", "import")
            for name in ("recipe", "settings", "metrics", "training_samples", "explained_variance"):
                assert getattr(taken_in, name) == getattr(before, name), name
            assert taken_in.origin.version == 2
            assert taken_in.origin.timeline
            assert there.audit(limit=1)[0].action == "import"
            there.activate(taken_in.version)
        asked = {"history": ["i1", "i2"], "model": 2}
        before = served.server.post("/recommendations", json=asked).json()["items"]
        del asked["model"]
        assert other.server.post("/recommendations", json=asked).json()["items"] == before
        assert not [name for name in content_of(other.model_dir) if name.startswith(".transfer")]
    assert not [name for name in content_of(served.model_dir) if name.startswith(".transfer")]


def test_what_is_no_bundle_is_refused_and_leaves_nothing(served, client, tmp_path):
    before = content_of(served.model_dir), client.models()
    bundle = client.download(1, tmp_path / "bundle.zip")
    broken = tmp_path / "broken.zip"
    whole = bundle.read_bytes()
    with zipfile.ZipFile(tmp_path / "escapes.zip", "w") as escapes:
        escapes.writestr("../../escaped.txt", "x")
    for content in (
        b"",
        b"no zip at all",
        whole[:-100],
        bytes([*whole[:2000], whole[2000] ^ 1, *whole[2001:]]),
        (tmp_path / "escapes.zip").read_bytes(),
    ):
        broken.write_bytes(content)
        with pytest.raises(errors.DataError, match="was not imported"):
            client.import_model(broken)
    assert (content_of(served.model_dir), client.models()) == before
    assert not list(served.folder.rglob("escaped*"))


def test_a_bundle_that_is_too_large_is_refused_before_it_is_sent(served_once):
    with socket.create_connection(("127.0.0.1", served_once.server_port), timeout=30) as caller:
        caller.sendall(
            b"POST /models/import HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99999999999999\r\n\r\n"
        )
        with caller.makefile("r") as stream:
            answer = "".join(iter(lambda: stream.read(1), "}"))
    assert answer.startswith("HTTP/1.1 413 ")
    assert "99999999999999" in answer


@pytest.mark.fault(
    "A client hangs up during an upload",
    seen="nothing",
    kept="everything; the part that came is removed",
    heals="nothing is broken",
)
def test_a_sender_that_hangs_up_leaves_nothing(served_once):
    with socket.create_connection(("127.0.0.1", served_once.server_port), timeout=30) as caller:
        caller.sendall(
            b"POST /models/import HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
            + b"x" * 3_000_000
        )
        wait_until(
            lambda: [name for name in content_of(served_once.model_dir) if name.startswith(".tr")],
            "the import has begun",
        )
    wait_until(
        lambda: not [name for name in content_of(served_once.model_dir) if name.startswith(".tr")],
        "nothing is left of the import",
    )
    assert len(served_once.server.get("/models").json()["models"]) == 2


def test_a_reader_that_hangs_up_leaves_nothing(served_once):
    def left():
        folder = Path(f"/proc/{served_once.server_process.pid}/fd")
        opened = [os.readlink(link) for link in folder.iterdir() if link.is_symlink()]
        return [name for name in opened + content_of(served_once.model_dir) if ".transfer-" in name]

    with socket.create_connection(("127.0.0.1", served_once.server_port), timeout=30) as caller:
        caller.sendall(b"GET /models/2/download HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert caller.recv(10)
    wait_until(lambda: not left(), "the server has let go of the file")


# The policy


def test_the_environments_policy_is_in_force_until_one_is_stored(trained):
    trained.start_server(RECKEEPER_RETRAIN_SCHEDULE="30 3 * * 0", RECKEEPER_VERSIONS_KEPT="7")
    with Client(str(trained.server.base_url), actor="tester") as client:
        first = client.policy()
        assert (first.revision, first.source) == (0, "environment")
        assert (first.policy.schedule, first.policy.versions_kept) == ("30 3 * * 0", 7)
        assert client.policy_history() == []

        stored = client.set_policy(
            {"margin": 0.1, "schedule": None, "webhook_secret": "0123456789abcdef"},
            if_revision=0,
            reason="quiet",
        )
        assert (stored.revision, stored.source) == (1, "stored")
        assert (stored.actor, stored.reason) == ("api:tester", "quiet")
        assert stored.policy.webhook_secret == "***"
        assert client.policy() == stored
        jobs = client.jobs()
        assert (jobs.schedule, jobs.next_scheduled_at) == (None, None)

        with pytest.raises(errors.ConflictError, match="Revision 1"):
            client.set_policy({"margin": 0.2}, if_revision=0)
        again = client.set_policy({"schedule": "@daily", "webhook_secret": "***"}, if_revision=1)
        assert (again.revision, again.policy.margin) == (2, 0.02)
        assert client.jobs().schedule == "@daily"
        assert client.jobs().next_scheduled_at
        assert [row.revision for row in client.policy_history()] == [2, 1]
        assert [row.revision for row in client.policy_history(before=2)] == [1]
        assert "0123456789abcdef" not in trained.server.get("/audit").text
        assert "0123456789abcdef" not in trained.server.get("/policy/history").text
    with trained.database() as connection:
        (kept,) = connection.execute("SELECT policy FROM policies WHERE revision = 2").fetchone()
    assert json.loads(kept)["webhook_secret"] == "0123456789abcdef"


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"margin": 2}, "margin"),
        ({"margin": "0.1"}, "margin"),
        ({"schedule": "on Sundays"}, "schedule"),
        ({"timezone": "Moon/Crater"}, "timezone"),
        ({"promotion": {"manual": "perhaps"}}, "promotion"),
        ({"weights": {}}, "weights"),
        ({"colour": "red"}, "colour"),
        ({"margin": 0.1, "versions_kept": 1}, "versions_kept"),
    ],
    ids=str,
)
def test_a_bad_policy_is_refused_as_a_whole_naming_the_field(served_once, policy, field):
    answer = served_once.server.put("/policy", json=policy)

    message = assert_error(answer, 422, "invalid_data")
    assert message.startswith(field)
    assert answer.json()["details"]["field"].startswith(field)
    assert served_once.server.get("/policy").json()["revision"] == 0


def test_the_policy_says_which_interactions_are_taken_in(served, client):
    row = {"user_id": "u1", "item_id": "i1", "interaction_type": "purchase"}
    with pytest.raises(errors.DataError, match="interaction_type"):
        client.send([row])

    client.set_policy({"weights": {"click": 1, "watchlist_add": 2, "purchase": 5}})

    def taken_in():
        with contextlib.suppress(errors.DataError):
            return client.send([row]).accepted

    assert wait_until(taken_in, "the server takes purchases in") == 1


def test_the_policy_decides_what_serves(working):
    site, _ = working
    assert site.server.put("/policy", json={"promotion": {"manual": "manual"}}).status_code == 200

    answer = site.server.post("/retrain").json()

    assert (answer["status"], answer["version"], answer["promoted"]) == ("ok", 3, False)
    assert answer["verdict"]["decision"] in {"promote", "reject"}
    assert answer["verdict"]["sentence"]
    assert site.active()["version"] == 2
    assert site.server.get("/models/3").json()["model"]["served"] is False
    assert site.server.post("/models/3/activate").status_code == 200
    assert site.active()["version"] == 3


# The trail


def test_an_altered_entry_is_found(served, client):
    for reason in ("one", "two", "three"):
        client.activate(1, reason=reason)
        client.roll_back(reason=reason)
    sound = client.verify_audit()
    assert (sound.ok, sound.problem, sound.entry_id) == (True, None, None)
    entries = client.audit(limit=100)
    assert sound.n_entries == len(entries)
    altered = entries[2].entry_id

    with served.database() as connection:
        connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE entry_id = ?", (altered,))

    found = client.verify_audit()
    assert (found.ok, found.entry_id) == (False, altered)
    assert str(altered) in found.problem


# Jobs


def events_of(response):
    """Yield the events of a stream as they come: name and content."""
    event = None
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def open_files(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def n_threads(process):
    return len(os.listdir(f"/proc/{process.pid}/task"))


@contextlib.contextmanager
def many_callers(site):
    """Give a client that opens a connection for each request."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    with httpx.Client(base_url=site.server.base_url, trust_env=False, limits=limits) as caller:
        yield caller


def test_a_job_is_followed_to_its_end(running):
    site, worker = running
    with Client(str(site.server.base_url)) as client:
        with site.held_training(worker) as job:
            following = client.follow_job(job["job_id"])
            first = next(following)
            assert (first.job_id, first.status) == (job["job_id"], "running")
        states = [first, *following]
        assert states[-1] == client.job(job["job_id"])
        assert (states[-1].status, states[-1].version) == ("succeeded", site.active()["version"])
        fractions = [state.fraction for state in states]
        assert fractions == sorted(fractions)


def test_a_job_that_has_ended_is_told_once(served_once):
    with served_once.server.stream("GET", "/jobs/1/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        (event, job), end = events_of(stream)
    assert (event, end) == ("job", ("end", {}))
    assert job == served_once.server.get("/jobs/1").json()["job"]
    assert_error(served_once.server.get("/jobs/99/stream"), 404, "not_found")


def test_many_streams_starve_nobody_and_leave_nothing_behind(running):
    site, worker = running
    server, active = site.server_process, site.active()["version"]
    with many_callers(site) as many, contextlib.ExitStack() as stack:
        with site.held_training(worker) as job:
            path = f"/jobs/{job['job_id']}/stream"
            files, threads = open_files(server), n_threads(server)
            streams = [stack.enter_context(many.stream("GET", path)) for _ in range(200)]
            followed = [events_of(stream) for stream in streams]
            assert {next(events)[1]["status"] for events in followed} == {"running"}

            for _ in range(20):
                assert recommended(site)[0] == active
                assert site.server.get(f"/jobs/{job['job_id']}").status_code == 200
            row = {"user_id": "u1", "item_id": "i1", "interaction_type": "click"}
            assert site.server.post("/user_interactions", json=row).status_code == 200
            # A file a stream; what is beyond belongs to the requests that were answered beside.
            assert open_files(server) < files + 200 + 100
            assert n_threads(server) <= threads + 40

            for stream in streams[:190]:
                stream.close()
            wait_until(
                lambda: open_files(server) < files + 100,
                "those that hung up are let go",
                seconds=60,
            )
        for events in followed[190:]:
            *_, (_, last), end = events
            assert (last["status"], end) == ("succeeded", ("end", {}))


def test_streams_do_not_hold_up_the_end_of_the_process(working):
    site, worker = working
    with (
        site.held_training(worker) as job,
        many_callers(site) as caller,
        caller.stream("GET", f"/jobs/{job['job_id']}/stream") as stream,
    ):
        events = events_of(stream)
        assert next(events)[1]["status"] == "running"
        site.server_process.stop()
        assert "end" not in [event for event, _ in events]
        assert "timeout graceful shutdown exceeded" not in site.server_process.text()


def test_streams_leave_files_for_the_rest(trained):
    worker = trained.start_worker()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    try:
        trained.start_server(is_copy=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with (
        trained.held_training(worker) as job,
        many_callers(trained) as many,
        contextlib.ExitStack() as stack,
    ):
        path = f"/jobs/{job['job_id']}/stream"
        streams = [stack.enter_context(many.stream("GET", path)) for _ in range(101)]
        assert [stream.status_code for stream in streams] == [200] * 100 + [503]
        streams[-1].read()
        assert "100 streams are open" in streams[-1].json()["message"]
        assert recommended(trained)[0] == 2
        streams[0].close()

        def opened():
            with many.stream("GET", path) as stream:
                return stream.status_code == 200

        wait_until(opened, "there is room for another stream")


@pytest.mark.parametrize("api", ["server", "worker"])
def test_a_cancelled_job_ends_and_who_waits_is_told(running, api):
    site, worker = running
    files = content_of(site.model_dir)
    with ThreadPoolExecutor(1) as callers, site.held_training(worker) as job:
        started = getattr(site, api).post(
            f"/jobs/{job['job_id']}/cancel", json={"reason": "the wrong day"}
        )
        assert started.status_code == 200, started.text
        assert started.json()["job"]["cancel_requested"] is True
        ended = site.wait_for_job(job["job_id"])
        assert (ended["status"], ended["version"]) == ("cancelled", None)
        assert ended["error"]["code"] == "cancelled"
        again = getattr(site, api).post(f"/jobs/{job['job_id']}/cancel")
        assert again.json()["job"]["status"] == "cancelled"

        waiting = callers.submit(getattr(site, api).post, "/retrain")
        job_id = job["job_id"] + 1
        wait_until(
            lambda: site.server.get(f"/jobs/{job_id}").status_code == 200, "another job runs"
        )
        answer = site.server.post(f"/jobs/{job_id}/cancel")
        # It may have been quicker.
        if answer.status_code == 200 and site.wait_for_job(job_id)["status"] == "cancelled":
            assert_error(waiting.result(), 409, "cancelled")
        else:
            assert waiting.result().status_code == 200
    assert set(files) <= set(content_of(site.model_dir))
    assert site.server.get("/audit/verify").json()["ok"]
    entries = site.server.get("/audit").json()["entries"]
    (cancelled,) = [
        entry
        for entry in entries
        if (entry["action"], entry["subject"]) == ("cancel", f"job {job['job_id']}")
    ]
    assert cancelled["details"]["reason"] == "the wrong day"
    for path, status, code in (
        ("/jobs/1/cancel", 409, "conflict"),
        ("/jobs/99/cancel", 404, "not_found"),
        (f"/jobs/{2**63}/cancel", 404 if api == "worker" else 422, None),
    ):
        refused = getattr(site, api).post(path)
        assert refused.status_code == status
        assert code in (None, refused.json()["code"])


@pytest.mark.fault(
    "Who waits for a retrain hangs up",
    seen="the job goes on",
    kept="everything",
    heals="nothing is broken",
)
@pytest.mark.parametrize("api", ["server", "worker"])
@pytest.mark.parametrize("wait", ["true", "false"])
def test_a_retrain_goes_on_when_its_client_hangs_up(running, api, wait):
    site, worker = running
    before = {event["job_id"] for event in worker.events("job_started")}

    def started():
        return {event["job_id"] for event in worker.events("job_started")} - before

    port = site.server_port if api == "server" else site.worker_port
    with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
        caller.sendall(
            f"POST /retrain?wait={wait} HTTP/1.1\r\nHost: localhost\r\n".encode()
            + b"Content-Length: 0\r\n\r\n"
        )
        wait_until(started, "the job has started")
        # Reset: the process finds out at once.
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    (job_id,) = started()
    job = site.wait_for_job(job_id)
    assert (job["status"], job["promoted"]) == ("succeeded", True)
    assert job["version"] == site.server.get("/models").json()["models"][0]["version"]
    wait_until(lambda: recommended(site)[0] == job["version"], "the server serves it")
    assert site.server.get("/health/ready").status_code == 200


def test_a_retrain_tells_what_the_gate_thinks(running):
    site, _ = running
    answer = site.server.post("/retrain").json()

    job = site.server.get(f"/jobs/{answer['job_id']}").json()["job"]
    model = site.server.get(f"/models/{answer['version']}").json()["model"]
    assert answer["promoted"] is job["promoted"] is True
    assert answer["verdict"] == job["verdict"] == model["verdict"]
    assert answer["verdict"]["outcome"].startswith(f"Version {answer['version']} is active")
    assert site.worker.post("/retrain").json().keys() == answer.keys()


def test_who_follows_a_job_goes_on_when_the_server_comes_back(working):
    site, worker = working
    with Client(str(site.server.base_url), retry_seconds=60) as client:
        with site.held_training(worker) as job:
            following = client.follow_job(job["job_id"])
            assert next(following).status == "running"
            site.server_process.kill()
            site.start_server()
            assert next(following).status == "running"
        *_, last = following
    assert last.status == "succeeded"


def test_nothing_of_a_person_is_left_once_the_worker_has_retrained(working):
    site, worker = working
    who = "erased-person-4711"
    site.send([{"user_id": who, "item_id": f"i{n}", "interaction_type": "click"} for n in range(5)])
    before = site.retrain()
    erased = site.server.delete(f"/users/{who}").json()["erasure"]
    assert (erased["state"], erased["pickles_rewritten"]) == ("retraining", [before])
    at = f"/erasures/{erased['erasure_id']}"

    def ended():
        told = site.server.get(at).json()["erasure"]
        return told if told["state"] == "complete" else None

    receipt = wait_until(ended, "the retrain has ended what they shaped")
    assert receipt["version"] == site.active()["version"] > before
    with site.database() as connection:
        assert who not in "\n".join(connection.iterdump())
    files = [
        path
        for folder in (site.data_dir, site.model_dir)
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert {"reckeeper.sqlite3", "retrained_svd_model.pkl"} <= {path.name for path in files}
    assert [path for path in files if who.encode() in path.read_bytes()] == []
    assert who not in worker.text() + site.server_process.text()
