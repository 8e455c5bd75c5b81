"""API keys with the real processes: made on the machine, used, revoked, and left nowhere."""

import contextlib
import json
from pathlib import Path

import httpx
import psutil
import pytest
from tests.system.installation import BIN, Installation, clicks, wait_until

from reckeeper.client import Client
from reckeeper.errors import ForbiddenError, UnauthenticatedError

ELSEWHERE = {"RECKEEPER_HOST": "0.0.0.0"}  # never listened on: the start is refused
MAKES_ONE = "`reckeeper keys create NAME --role admin` makes one"


@pytest.mark.parametrize("program", ["server", "two servers", "worker", "up"])
def test_where_others_reach_it_nothing_starts_without_a_key(installation, program):
    settings = ELSEWHERE | {"RECKEEPER_SERVER_PROCESSES": "2" if "two" in program else "1"}
    if program == "up":
        done = installation.run("up", check=False, **settings)
        status, told = done.returncode, done.stderr
    else:
        module = "worker" if program == "worker" else "api"
        started = installation.start(
            program, [str(BIN / "python"), "-m", f"reckeeper.{module}"], **settings
        )
        status, told = started.wait(), started.text()
    assert status == 2
    assert "RECKEEPER_HOST='0.0.0.0' lets other machines in" in told
    assert MAKES_ONE in told
    assert "RECKEEPER_OPEN=1" in told


@pytest.fixture(scope="module")
def site(tmp_path_factory, trained_once):
    """Give an installation whose server is two processes, and the keys of three people."""
    with Installation(tmp_path_factory.mktemp("keys")) as made:
        made.take_over(trained_once)
        made.start_worker()
        made.start_server(is_copy=False, RECKEEPER_SERVER_PROCESSES="2")
        assert made.server.get("/models").status_code == 200  # open until now
        made.keys = {"alice": made.run("keys", "create", "alice", "--role", "admin").stdout.strip()}
        for url in (made.server.base_url, made.worker.base_url):
            wait_until(lambda url=url: are_closed(url), f"{url} takes no request without a key")
        made.as_alice = {"RECKEEPER_API_KEY": made.keys["alice"]}
        for name, role in (("shop", "recommend"), ("olga", "operator")):
            told = made.run("keys", "create", name, "--role", role, "--json", **made.as_alice)
            made.keys[name] = json.loads(told.stdout)["secret"]
        yield made


def are_closed(url):
    """Say whether all processes behind an address refuse: each connection finds one of them."""
    answers = [httpx.get(f"{url}/models", trust_env=False).status_code for _ in range(6)]
    return set(answers) == {401}


def caller(site, name, **more):
    return Client(str(site.server.base_url), key=site.keys[name], retry_seconds=0, **more)


def test_a_retrain_is_its_keys_through_server_and_worker(site):
    with caller(site, "olga", actor="night-job") as client:
        made = client.retrain()
        assert client.job(made.job_id).actor == "key:olga"
        entries = client.audit(limit=10)
    begun = next(entry for entry in entries if entry.action == "retrain")
    assert (begun.actor, begun.details["said"]) == ("key:olga", "night-job")
    # Nobody else proves to be the server.
    forged = {"X-Reckeeper-Caller": "key:alice"}
    assert site.worker.post("/retrain", headers=forged).status_code == 401
    with_key = forged | {"Authorization": f"Bearer {site.keys['olga']}"}
    answer = site.worker.post("/retrain?wait=false", headers=with_key)
    assert answer.status_code == 202
    assert answer.json()["job"]["actor"] == "key:olga"
    with caller(site, "olga") as client:
        for _ in client.follow_job(answer.json()["job"]["job_id"]):
            pass


def test_the_trail_tells_how_a_key_was_made(site):
    with caller(site, "alice") as client:
        entries = client.audit(limit=100)
        by_name = {key.name: key for key in client.api_keys()}
    made = {entry.subject: entry for entry in entries if entry.action == "create_key"}
    first, shop = made["key alice"], made["key shop"]
    assert (first.actor, first.details["way"]) == (
        "cli",
        "on the machine of the database, without a key",
    )
    assert (shop.actor, shop.details["said"]) == ("key:alice", "cli")
    assert "way" not in shop.details
    assert by_name["shop"].created_by == "key:alice"


def test_each_role_does_its_part_and_no_more(site):
    with caller(site, "shop") as client:
        assert client.recommendations("u1", n=3).items
        for refused in (client.models, client.retrain, client.api_keys):
            with pytest.raises(ForbiddenError, match="'shop' has the role 'recommend'"):
                refused()
        assert client.access().roles == ["recommend"]
        assert client.ready().status == "ok"  # as any probe
    with pytest.raises(UnauthenticatedError), Client(str(site.server.base_url), key="") as nobody:
        nobody.send(clicks(2, 2))
    assert site.run("models", "--json", **site.as_alice).returncode == 0
    refused = site.run("models", check=False)
    assert refused.returncode == 2
    assert "An API key is needed here" in refused.stderr


def test_a_key_that_is_revoked_is_refused_at_the_next_request_by_all_processes(site):
    made = site.run("keys", "create", "brief", "--role", "viewer", **site.as_alice)
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    url = f"{site.server.base_url}/models"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(trust_env=False)) for _ in range(8)]
        assert {each.get(url, headers=headers).status_code for each in clients} == {200}
        site.run("keys", "revoke", "brief", **site.as_alice)
        assert {each.get(url, headers=headers).status_code for each in clients} == {401}
    listed = json.loads(site.run("keys", "list", "--json", **site.as_alice).stdout)
    assert {key["name"]: key["state"] for key in listed} == {
        "alice": "active",
        "shop": "active",
        "olga": "active",
        "brief": "revoked",
    }


def test_a_rate_limit_counts_for_all_processes_together(site):
    made = site.run(
        *("keys", "create", "slow", "--role", "viewer", "--rate-limit", "5"), **site.as_alice
    )
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    url = f"{site.server.base_url}/models"
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(trust_env=False)) for _ in range(8)]
        answers = [each.get(url, headers=headers) for each in clients]
    statuses = [answer.status_code for answer in answers]
    assert (statuses[:5], statuses[-1]) == ([200] * 5, 429)  # one more comes every 12 seconds
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 12


def test_a_lost_key_of_an_administrator_is_replaced_on_the_machine(site):
    made = site.run("keys", "create", "second-admin", "--role", "admin").stdout.strip()

    def is_known():
        answer = site.server.get("/keys", headers={"Authorization": f"Bearer {made}"})
        return answer.status_code == 200

    wait_until(is_known, "the server knows the new key")
    site.keys["second"] = made


def test_no_key_and_no_secret_is_left_anywhere(site):
    secret = (site.data_dir / "worker.secret").read_text().strip()
    sought = [secret, *(key.rpartition("_")[2] for key in site.keys.values())]
    assert len(sought) == 5
    with caller(site, "shop") as client:
        assert not any(each in repr(client) + repr(vars(client)) for each in sought)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            assert not any(each in line for each in sought), process.pid
    for path in site.folder.rglob("*"):
        if path.is_file() and path.name != "worker.secret":
            content = path.read_bytes()
            assert not any(each.encode() in content for each in sought), path
    assert (site.data_dir / "worker.secret").stat().st_mode & 0o777 == 0o600
    assert Path(site.folder / "data" / "reckeeper.sqlite3").exists()
