"""What whoever is on call works with: metrics, rules, status, traces, and a backup of it all."""

import http.server
import itertools
import json
import re
import shutil
import subprocess
import threading

import pytest
from tests.system.installation import BIN, ROOT, Installation, free_port, require, wait_until

PROMTOOL = ROOT / ".services" / "promtool"


@pytest.fixture(scope="module")
def site(tmp_path_factory, trained_once):
    """Give a running installation with two versions, of which the second is active."""
    with Installation(tmp_path_factory.mktemp("watch")) as made:
        made.take_over(trained_once)
        made.start_worker()
        made.start_server()
        assert made.server.get("/recommendations/u1").status_code == 200
        yield made


@pytest.fixture(scope="module")
def exported(site):
    """Give the folder with the exported dashboard and rules."""
    site.run("dashboards", "export", site.folder / "dashboards")
    return site.folder / "dashboards"


# Metrics


def expressions(folder):
    """Yield every expression of dashboard and rules."""
    dashboard = json.loads((folder / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (one["expr"] for one in dashboard["annotations"]["list"])
    rules = (folder / "alerts.yaml").read_text()
    yield from re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n +(?:for|labels):", rules)


def test_dashboard_and_rules_ask_for_metrics_that_there_are(site, exported):
    asked = [*expressions(exported)]
    assert len(asked) > 20
    names = set(re.findall(r"reckeeper_[a-z_]+", " ".join(asked)))
    text = site.server.get("/metrics").text + site.worker.get("/metrics").text
    there = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert {name.removesuffix("_bucket") for name in names} <= there
    # What a filter names is among the labels that there are.
    for metric, label, value in (
        ("reckeeper_http_request_seconds_bucket", "route", "/recommendations/{user_id:id}"),
        ("reckeeper_training_jobs_total", "status", "failed"),
        ("reckeeper_training_jobs_total", "status", "interrupted"),
        ("reckeeper_disk_free_bytes", "folder", "data"),
    ):
        assert re.search(rf'^{metric}\{{[^}}]*{label}="{re.escape(value)}"', text, re.MULTILINE)
    worker = site.worker.get("/metrics").text
    assert "\nreckeeper_active_version 2.0\n" in worker
    (trained_at,) = re.findall(r"^reckeeper_active_version_trained\S+ (\S+)$", worker, re.MULTILINE)
    assert float(trained_at) > 1.7e9


def test_promtool_takes_the_rules(exported):
    found = shutil.which("promtool") or (PROMTOOL if PROMTOOL.exists() else None)
    require(found, "promtool is not installed (`make promtool`)")
    done = subprocess.run(
        [found, "check", "rules", exported / "alerts.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 rules found" in done.stdout
    # It reads the dashboard's expressions as rules too.
    rules = [
        {"record": f"asked:number{number}", "expr": asked}
        for number, asked in enumerate(expressions(exported))
    ]
    asked = exported / "asked.yaml"
    asked.write_text(json.dumps({"groups": [{"name": "asked", "rules": rules}]}))
    done = subprocess.run([found, "check", "rules", asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


# Status and backup


def status(installation):
    done = installation.run("status", "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_nothing_is_restored_where_a_server_answers(site, tmp_path):
    (tmp_path / "backup.tar").write_bytes(b"")
    folders = {name: str(tmp_path / name) for name in ("RECKEEPER_DATA_DIR", "RECKEEPER_MODEL_DIR")}
    refused = site.run("restore", tmp_path / "backup.tar", check=False, **folders)
    assert refused.returncode != 0
    assert "belongs to the installation" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar"]


def test_a_backup_under_load_gives_the_same_answers_elsewhere(site, tmp_path):
    users = [f"u{number}" for number in range(8)]

    def answers(installation):
        found = [installation.server.get(f"/recommendations/{user}").json() for user in users]
        return [[(row["item_id"], row["score"]) for row in answer["items"]] for answer in found]

    before = answers(site)
    code, told = status(site)
    assert (code, told["ok"], told["facts"]["told_by"]) == (0, True, "server")
    assert [process["status"] for process in told["processes"][1:]] == ["ok", "not running"]
    assert (told["facts"]["version"], told["facts"]["last_backup_at"]) == (2, None)
    assert told["disks"]["data"]["free"] > 0

    stopping, posted = threading.Event(), []

    def post():
        for number in itertools.count():
            if stopping.is_set():
                return
            row = {"user_id": f"new{number}", "item_id": "i1", "interaction_type": "click"}
            answer = site.server.post("/user_interactions", json=[row])
            posted.append((answer.status_code, answer.json()["accepted"]))

    poster = threading.Thread(target=post)
    poster.start()
    try:
        wait_until(lambda: len(posted) > 5, "posts come in")
        n_before = len(posted)
        secret = {"RECKEEPER_BACKUP_PASSPHRASE": "a passphrase of words"}
        done = site.run("backup", tmp_path / "backup.tar", "--json", **secret)
        n_after = len(posted)
    finally:
        stopping.set()
        poster.join()
    assert set(posted) == {(200, 1)}
    assert json.loads(done.stdout)["versions"] == [1, 2]

    (tmp_path / "elsewhere").mkdir()
    with Installation(tmp_path / "elsewhere") as other:
        other.run("restore", tmp_path / "backup.tar", **secret)
        with other.database() as connection:
            (n_rows,) = connection.execute(
                "SELECT count(*) FROM user_interactions WHERE user_id LIKE 'new%'"
            ).fetchone()
        assert n_before <= n_rows <= n_after + 1
        assert "whole" in other.run("audit", "verify").stdout
        code, told = status(other)
        assert (code, told["facts"]["told_by"], told["facts"]["version"]) == (1, "database", 2)
        assert told["processes"][0]["status"] == "not running"
        other.start_server()
        assert answers(other) == before
        assert other.active()["version"] == 2
        refused = other.run("restore", tmp_path / "backup.tar", check=False, **secret)
        assert refused.returncode == 2
    assert status(site)[1]["facts"]["last_backup_at"]
    shown = site.run("status", check=False).stdout
    assert re.search(r"last backup.*\d+ seconds ago", shown)
    assert "2 (svd)" in shown


# Traces


@pytest.fixture
def receiver():
    """Give the port of a receiver of OTLP over HTTP, and the names of the spans that came."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    names = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            import gzip

            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        names.extend(span.name for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_port, names
        server.shutdown()


def test_requests_are_traced_by_opentelemetrys_own_switches(site, receiver):
    port, names = receiver
    own = str(free_port())
    site.start(
        "traced",
        [str(BIN / "opentelemetry-instrument"), str(BIN / "python"), "server/server.py"],
        health_url=f"http://127.0.0.1:{own}/health/ready",
        RECKEEPER_SERVER_PORT=own,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_SERVICE_NAME="reckeeper-server",
    )
    wait_until(lambda: "GET /health/ready" in names, "a span of a request comes")
