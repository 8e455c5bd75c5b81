"""`reckeeper models|jobs|policy|audit` and `retrain` on the real processes, and without them."""

import json
import shutil

import pytest
from tests.system.installation import BIN, Installation, wait_until
from typer.testing import CliRunner

from reckeeper.cli.commands import app
from reckeeper.errors import ReckeeperError


@pytest.fixture(scope="module")
def site(tmp_path_factory, trained_once):
    """Give a running installation with two versions."""
    with Installation(tmp_path_factory.mktemp("cli")) as made:
        made.take_over(trained_once)
        made.worker_process = made.start_worker()
        made.start_server()
        yield made


def run(made, *arguments, **environ):
    """Run a command that asks the server; in this process, for its start takes a second."""
    environ = {"RECKEEPER_SERVER_URL": str(made.server.base_url), **environ}
    done = CliRunner().invoke(app, list(map(str, arguments)), env=environ)
    if isinstance(done.exception, ReckeeperError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def told(made, *arguments):
    """Return what a command that asks the server prints as JSON."""
    return json.loads(run(made, *arguments, "--json").stdout)


def refused(made, *arguments):
    """Return the message with which a command that asks the server fails."""
    with pytest.raises(ReckeeperError) as error:
        run(made, *arguments)
    return error.value.message


def active(made):
    (version,) = [row["version"] for row in told(made, "models") if row["status"] == "active"]
    return version


def test_a_users_list_is_shown(site):
    found = told(site, "recommend", "u1", "--n", "2")
    assert [item["rank"] for item in found["items"]] == [1, 2]
    shown = run(site, "recommend", "u1", "--n", "2").stdout
    assert f"u1: {found['strategy']}, version {found['model_version']}" in shown
    assert all(item["item_id"] in shown for item in found["items"])


def test_versions_are_switched_pinned_annotated_and_deleted(site):
    assert [row["version"] for row in told(site, "models", "list")][-2:] == [2, 1]
    run(site, "models", "activate", "1", "--reason", "to compare")
    assert active(site) == 1
    (entry,) = told(site, "models", "timeline", "--limit", "1")
    assert (entry["version"], entry["reason"]) == (1, "to compare")
    assert "Version 2 is active again." in run(site, "models", "rollback").stdout
    assert "no version" in refused(site, "models", "show", "999")

    run(site, "models", "pin", "2", "--until", "2999-01-01T00:00:00Z", "--reason", "the sale")
    done = run(site, "retrain")
    assert "was not promoted and is not active." in done.stdout
    assert "pinned" in done.stderr
    made = told(site, "models")[0]["version"]
    assert f"`reckeeper models activate {made}`" in done.stderr
    assert active(site) == 2
    run(site, "models", "unpin", "2")
    assert told(site, "models", "show", "2")["pinned"] is False

    run(site, "models", "note", str(made), "not this [one]")
    assert "not this [one]" in run(site, "models").stdout
    run(site, "models", "note", str(made), "--clear")
    assert told(site, "models", "show", str(made))["note"] is None
    assert told(site, "models", "delete", str(made), "--reason", "not needed") == {
        "status": "ok", "version": made,
    }  # fmt: skip
    assert "active" in refused(site, "models", "delete", "2")

    entries = told(site, "audit", "list", "--limit", "50")
    mine = [entry for entry in entries if entry["actor"] == "api:cli"]
    assert {entry["action"] for entry in mine} >= {
        "activate", "rollback", "pin", "unpin", "retrain", "delete",
    }  # fmt: skip
    assert run(site, "audit").stdout
    assert run(site, "models", "show", "2").stdout
    assert "to compare" in run(site, "models", "timeline").stdout


def test_versions_are_compared(site):
    answer = told(site, "models", "compare", "1", "2", "--k", "3", "--users", "5")
    assert (answer["first"]["version"], answer["second"]["version"]) == (1, 2)
    assert (answer["k"], answer["n_users"]) == (3, 5)
    shown = run(site, "models", "compare", "1", "2", "--k", "3").stdout
    assert "8 sampled users find 100.0% of their lists of 3 the same in both" in shown


def test_a_version_goes_out_and_comes_back_in(site):
    file = told(site, "models", "download", "1", site.folder)["path"]
    made = told(site, "models", "import", file)
    assert (made["status"], made["origin"]["version"]) == ("inactive", 1)
    assert made["version"] > 2
    nothing = site.folder / "nothing.zip"
    nothing.write_text("nothing")
    assert refused(site, "models", "import", nothing)


def test_the_policy_is_read_and_changed(site):
    assert told(site, "policy")["revision"] == 0
    run(site, "policy", "set", "margin=0.05", "promotion.manual=manual", "--reason", "careful")
    done = run(site, "retrain")
    assert "was not promoted and is not active." in done.stdout
    assert "by the policy a person decides" in done.stderr
    assert refused(site, "policy", "set", "margin=2").startswith("margin")
    assert "margni" in refused(site, "policy", "set", "margni=0.1")

    editor = """sed -i.bak s/"margin":.0.05/"margin":0.07/"""
    changed = run(site, "policy", "edit", EDITOR=editor).stdout
    assert "margin from 0.05 to 0.07" in changed
    run(site, "policy", "set", "promotion.manual=always")
    rules = told(site, "policy", "show")
    assert (rules["revision"], rules["policy"]["margin"]) == (3, 0.07)
    assert rules["policy"]["promotion"]["manual"] == "always"
    shown = run(site, "policy", "history").stdout
    assert "margin from 0.05 to 0.07" in shown
    assert "careful" in shown


def test_an_item_is_withdrawn_and_comes_back(site):
    def listed():
        items = site.server.get("/recommendations/u1", params={"n": 1000}).json()["items"]
        return [item["item_id"] for item in items]

    whole = listed()
    best = whole[0]
    assert "by interactions alone" in run(site, "items", "show", best).stdout
    assert "withdrawn" in run(site, "items", "withdraw", best).stdout
    assert listed() == whole[1:]
    page = told(site, "items", "list", "--unavailable", "--limit", "1")
    assert [(item["item_id"], item["available"]) for item in page["items"]] == [(best, False)]
    run(site, "items", "restore", best)
    found = told(site, "items", "similar", best, "i1", "--next", "-n", "2")
    assert (found["item_ids"], len(found["items"])) == ([best, "i1"], 2)
    assert "Kind alike, strategy model, version" in run(site, "items", "similar", best).stdout
    assert listed() == whole

    file = site.folder / "items.jsonl"
    row = {"item_id": best, "title": "Best", "price": 5, "available_until": "2020-01-01T00:00:00Z"}
    file.write_text(json.dumps(row) + '\n{"item_id": ""}\n')
    settings = {name: site.environ[name] for name in ("RECKEEPER_DATA_DIR", "RECKEEPER_MODEL_DIR")}
    done = run(site, "items", "import", file, **settings)
    assert "1 item is new or changed" in done.stdout
    assert "must have 1 to 256 characters" in done.stdout
    wait_until(lambda: listed() == whole[1:], "the server follows the import")
    assert told(site, "items", "show", best)["attributes"] == {"price": 5}
    assert "no until 2020-01-01 00:00 UTC" in run(site, "items", "list", "best").stdout
    assert "Nobody knows" in refused(site, "items", "withdraw", "no such item")


def test_a_job_is_followed_left_and_cancelled(site):
    with site.held_training(site.worker_process) as job:
        number = str(job["job_id"])
        follow = [str(BIN / "reckeeper"), "jobs", "follow", number]
        left = site.start("follow", [*follow, "--json"])
        wait_until(lambda: '"running"' in left.text(), f"a state is printed: {left.log}")
        left.interrupt()
        assert left.wait() == 130
        assert f"Job {number} goes on" in left.text()
        assert told(site, "jobs", "show", number)["status"] == "running"
        assert number in run(site, "jobs").stdout
        assert "tunes nothing" in refused(site, "jobs", "finish", number)

        kept = site.start("follow", follow)
        run(site, "jobs", "cancel", number, "--reason", "enough")
        assert kept.wait() == 2
        assert "was cancelled" in kept.text()
    assert told(site, "jobs", "--limit", "1")["jobs"][0]["status"] == "cancelled"
    assert "nothing to cancel" not in run(site, "jobs", "cancel", number).stdout
    assert "cancelled" in run(site, "jobs", "show", number).stdout


@pytest.mark.timeout(600)
def test_the_trail_is_verified_without_a_server(trained):
    found = json.loads(trained.run("audit", "verify", "--json").stdout)
    assert found["ok"] is True
    assert found["n_entries"] > 0
    with trained.database() as connection:
        connection.execute("UPDATE audit_log SET actor = 'nobody' WHERE entry_id = 2")
    done = trained.run("audit", "verify", check=False)
    assert done.returncode == 1
    assert "Entry 2 is not as it was written" in done.stderr


def test_models_of_a_lost_database_are_taken_in(trained):
    shutil.rmtree(trained.data_dir)
    (trained.model_dir / "model-000007.safetensors").write_bytes(b"\x80\x04nothing")
    refused = trained.run("models", "rebuild", check=False)
    assert refused.returncode == 2
    assert "`reckeeper migrate`" in refused.stderr
    assert not trained.data_dir.exists()
    trained.run("migrate")
    done = trained.run("models", "rebuild")
    assert "Version 1 was added." in done.stdout
    assert "Version 2 was added and is active." in done.stdout
    assert "model-000007.safetensors was not added" in done.stderr
    trained.start_server()
    assert active(trained) == 2


def test_models_newer_than_a_restored_database_are_taken_in(trained, trained_once):
    trained.start_worker()
    trained.start_server()
    assert trained.retrain() == 3
    answer = trained.server.get("/recommendations/u1").json()["items"]
    trained.stop_all()
    shutil.rmtree(trained.data_dir)
    shutil.copytree(trained_once.data_dir, trained.data_dir)
    assert "cut off" in trained.run("audit", "verify", check=False).stderr

    taken_in = json.loads(trained.run("models", "rebuild", "--json").stdout)
    assert taken_in == {"taken_in": [3], "refused": [], "active": None}
    again = trained.run("models", "rebuild").stdout
    assert "knows every model file" in again
    trained.start_server()
    assert active(trained) == 2
    run(trained, "models", "activate", "3")
    assert trained.server.get("/recommendations/u1").json()["items"] == answer
