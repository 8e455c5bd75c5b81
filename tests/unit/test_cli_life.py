"""`reckeeper models`, `jobs`, `policy`, `audit` and `retrain`: what they ask and what they show."""

import copy
import http.server
import io
import json
import sys
import threading
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit

import pytest
from tests import samples
from typer.testing import CliRunner

from reckeeper.cli.commands import app, run
from reckeeper.cli.policy import changed
from reckeeper.errors import ConflictError, DataError, TrainingError
from reckeeper.policy import Policy

AT, INTERVAL = samples.AT, samples.INTERVAL

TIMELINE = samples.entry(reason="why [not]")
VERDICT = samples.verdict(
    decision="reject", method="refit", standing="worse", sentence="Clearly worse.",
    reasons=["It fell."],
    warnings=["Few users."], active_version=2,
    candidate={"ndcg@10": INTERVAL, "coverage@10": {"mean": 0.5}},
    active={"ndcg@10": INTERVAL, "coverage@10": {"mean": 0.6}}, popularity=None,
    versus_active={"ndcg@10": {"difference": -0.05, "low": -0.07, "high": -0.03}},
    versus_popularity=None, outcome="Version 3 was rejected.",
)  # fmt: skip
MODEL = samples.details(
    n_users=8, seconds=2.34, job_id=7, note="keep [this]\nfor long", pinned=True, pinned_until=AT,
    metrics={"ndcg@10": INTERVAL}, served=True, verdict=VERDICT, actor="api:page",
    cause={"rule": "schedule", "sentence": "Scheduled by 0 3 * * 0 (UTC)."},
    origin={"version": 41, "sha256": "", "trained_at": AT, "timeline": [], "imported_at": AT},
    files=[{"name": "svd_model_3.safetensors", "bytes": 2000, "sha256": "cd" * 32}],
    timeline=[TIMELINE],
)  # fmt: skip
LISTED_MODEL = samples.model(
    **{name: value for name, value in MODEL.items() if name in samples.model()}
)
JOB = samples.job(
    status="succeeded", actor="api:cli", stage="done", fraction=1.0, seconds_elapsed=2.5,
    seconds_left=None, started_at=AT, finished_at=AT, version=3, promoted=True,
    memory_bytes=1_000_000, peak_memory_bytes=2_000_000, estimated_memory_bytes=3_000_000,
)  # fmt: skip
RUNNING = {
    **JOB, "status": "running", "stage": "fitting", "fraction": 0.5, "finished_at": None,
    "version": None, "promoted": None, "seconds_left": 4.0,
}  # fmt: skip
REVISION = samples.revision()
POLICY = REVISION["policy"]
AUDIT_ENTRY, COMPARISON = samples.audit_entry(), samples.comparison(k=5)
ERASURE = samples.erasure()
WHOLE_TIMELINE = {"timeline": [TIMELINE], "rollback_version": 2}


def with_(base, **values):
    return {**copy.deepcopy(base), **values}


def listed(job):
    return {name: value for name, value in job.items() if name != "result"}


def page(*jobs, schedule=None, next_at=None):
    return {
        "jobs": [listed(job) for job in jobs],
        "schedule": schedule,
        "next_scheduled_at": next_at,
    }


def stream(*jobs):
    events = [f"event: job\ndata: {json.dumps(job)}\n\n" for job in jobs]
    return "".join([": hello\n\n", *events, "event: end\ndata: {}\n\n"]).encode()


READY = {"status": "ok", "problems": [], "model_version": 3, "offer_version": None}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        request = SimpleNamespace(
            line=f"{self.command} {parts.path}",
            query=dict(parse_qsl(parts.query)),
            body=json.loads(raw) if raw[:1] in (b"{", b"[") else raw,
            actor=self.headers.get("X-Reckeeper-Actor"),
        )
        self.server.requests.append(request)
        status, body = self.server.answers[request.line]
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if content.startswith(b"PK"):
            self.send_header("Content-Type", "application/zip")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    """Give an HTTP server that answers what a test puts into its `answers`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests, server.answers = [], {"GET /health/ready": (200, READY)}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cli(server, monkeypatch):
    """Give a function that runs a command against `server`; what it raises is raised."""
    monkeypatch.setenv("RECKEEPER_SERVER_URL", f"http://127.0.0.1:{server.server_port}")

    def call(*arguments, exit_code=0, **more):
        done = CliRunner().invoke(app, list(map(str, arguments)), **more)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == exit_code, done.output
        return done

    return call


def answer(server, line, body, status=200):
    server.answers[line] = (status, body if isinstance(body, bytes) else {"status": "ok", **body})


def flat(text):
    """Return a table's text without the lines around cells, in which it may be broken."""
    return " ".join(text.replace("│", " ").replace("┃", " ").split())


# What is asked


@pytest.mark.parametrize(
    ("arguments", "line", "query", "body", "reply", "printed"),
    [
        ("models", "GET /models", {}, b"", {"models": [LISTED_MODEL]}, [LISTED_MODEL]),
        ("models list", "GET /models", {}, b"", {"models": [LISTED_MODEL]}, [LISTED_MODEL]),
        ("models show 3", "GET /models/3", {}, b"", {"model": MODEL}, MODEL),
        (
            "models activate 3 --reason better",
            *("POST /models/3/activate", {}, {"reason": "better"}, {"model": MODEL}, MODEL),
        ),
        (
            "models rollback --reason worse",
            *("POST /models/rollback", {}, {"reason": "worse"}, {"model": MODEL}, MODEL),
        ),
        (
            "models pin 3 --until 2026-01-31T12:00:00Z --reason r",
            "POST /models/3/pin",
            {},
            {"until": "2026-01-31T12:00:00Z", "reason": "r"},
            {"model": MODEL},
            MODEL,
        ),
        (
            "models unpin 3 --reason r",
            *("DELETE /models/3/pin", {"reason": "r"}, b"", {"model": MODEL}, MODEL),
        ),
        ("models note 3 text", "PATCH /models/3", {}, {"note": "text"}, {"model": MODEL}, MODEL),
        ("models note 3 --clear", "PATCH /models/3", {}, {"note": None}, {"model": MODEL}, MODEL),
        (
            "models delete 3 --reason r",
            *("DELETE /models/3", {"reason": "r"}, b"", {"version": 3}),
            {"status": "ok", "version": 3},
        ),
        (
            "models compare 3 2 --k 5 --users 50",
            *("GET /models/3/compare/2", {"k": "5", "users": "50"}, b"", COMPARISON, COMPARISON),
        ),
        (
            "models timeline --limit 3 --before 9",
            *("GET /timeline", {"limit": "3", "before": "9"}, b"", WHOLE_TIMELINE),
            [TIMELINE],
        ),
        (
            "jobs --limit 5",
            *("GET /jobs", {"limit": "5"}, b"", page(JOB), {"status": "ok", **page(JOB)}),
        ),
        (
            "jobs list --before 8",
            *("GET /jobs", {"limit": "20", "before": "8"}, b"", page(), {"status": "ok", **page()}),
        ),
        ("jobs show 7", "GET /jobs/7", {}, b"", {"job": JOB}, JOB),
        ("jobs finish 7", "POST /jobs/7/finish", {}, b"", {"job": JOB}, JOB),
        (
            "jobs cancel 7 --reason r",
            *("POST /jobs/7/cancel", {}, {"reason": "r"}, {"job": JOB}, JOB),
        ),
        ("policy", "GET /policy", {}, b"", REVISION, {"status": "ok", **REVISION}),
        ("policy show", "GET /policy", {}, b"", REVISION, {"status": "ok", **REVISION}),
        (
            "users merge a/b v",
            *("POST /users/a%2Fb/merge", {}, {"from": "v"}, {"user_id": "a/b", "interactions": 3}),
            {"status": "ok", "user_id": "a/b", "interactions": 3},
        ),
        (
            "users erase a/b --reason r",
            *("DELETE /users/a%2Fb", {"reason": "r"}, b"", {"erasure": ERASURE}, ERASURE),
        ),
        (
            "users erasures --limit 2",
            *("GET /erasures", {"limit": "2"}, b"", {"erasures": [ERASURE]}, [ERASURE]),
        ),
        (
            "audit list --limit 2 --before 9",
            *("GET /audit", {"limit": "2", "before": "9"}, b"", {"entries": [AUDIT_ENTRY]}),
            [AUDIT_ENTRY],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_command_asks_the_server_as_the_command_line(
    cli, server, arguments, line, query, body, reply, printed
):
    answer(server, line, reply)
    done = cli(*arguments.split(), "--json")
    assert json.loads(done.stdout) == printed
    (request,) = server.requests
    assert (request.line, request.query, request.body) == (line, query, body)
    assert request.actor == "cli"


def test_a_version_is_downloaded_and_imported(cli, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer(server, "GET /models/3/download", b"PK-content")
    assert "reckeeper-model-000003.zip" in cli("models", "download", 3).stdout
    assert (tmp_path / "reckeeper-model-000003.zip").read_bytes() == b"PK-content"
    folder, file = tmp_path / "folder", tmp_path / "some.zip"
    folder.mkdir()
    cli("models", "download", 3, folder)
    assert (folder / "reckeeper-model-000003.zip").read_bytes() == b"PK-content"
    told = json.loads(cli("models", "download", 3, file, "--json").stdout)
    assert told == {"version": 3, "path": str(file), "bytes": 10}

    answer(server, "POST /models/import", {"model": MODEL})
    assert "models activate 3" in cli("models", "import", file).stdout
    assert server.requests[-1].body == b"PK-content"
    assert json.loads(cli("models", "import", file, "--json").stdout) == MODEL
    with pytest.raises(DataError, match="nothing here"):
        cli("models", "import", tmp_path / "nothing here")


def test_a_note_is_either_given_or_cleared(cli, server):
    cli("models", "note", 3, exit_code=2)
    cli("models", "note", 3, "text", "--clear", exit_code=2)
    assert server.requests == []


def test_a_refusal_is_one_line_and_status_2(server, monkeypatch, capsys):
    monkeypatch.setenv("RECKEEPER_SERVER_URL", f"http://127.0.0.1:{server.server_port}")
    body = {"status": "error", "code": "pinned", "message": "Version 3 [is] pinned: unpin it."}
    answer(server, "POST /models/rollback", body, status=409)
    monkeypatch.setattr(sys, "argv", ["reckeeper", "models", "rollback"])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    asked, refusal = capsys.readouterr().err.splitlines()
    assert asked == f"Using the server at http://127.0.0.1:{server.server_port}."
    assert refusal == "Version 3 [is] pinned: unpin it."


class Terminal(io.StringIO):
    """What somebody types."""

    def isatty(self):
        return True


def test_on_a_terminal_a_deletion_is_confirmed(cli, server, monkeypatch):
    monkeypatch.setenv("RECKEEPER_SERVER_URL", f"http://127.0.0.1:{server.server_port}")
    answer(server, "DELETE /models/3", {"version": 3})
    for typed, more, n_asked in [("n\n", [], 0), ("y\n", [], 1), ("", ["--yes"], 2)]:
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        monkeypatch.setattr(sys, "argv", ["reckeeper", "models", "delete", "3", *more])
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == (1 if typed == "n\n" else 0)
        assert len(server.requests) == n_asked


# What is shown


def test_a_version_is_shown_with_all_that_is_known(cli, server):
    answer(server, "GET /models/3", {"model": MODEL})
    shown = flat(cli("models", "show", 3).stdout)
    for text in (
        *(
            "until 2026-01-02 03:04:05",
            "n_components=10",
            "56,193 interactions",
            "weights={click=1.0}",
        ),
        *("manual, by api:page", "Scheduled by 0 3 * * 0 (UTC).", "123.0 MB", "numpy=2.4"),
        *("version 41 there", "2.0 kB, SHA-256 cdcd", "keep [this]", "why [not]"),
        *("Gate: reject, worse. Clearly worse.", "Against it: It fell.", "Note: Few users."),
        *("Version 3 was rejected.", "1,204 users", "-0.0500 ±0.0200", "0.2000 ±0.1000"),
    ):
        assert text in shown, text


def test_the_list_says_what_is_special_about_a_version(cli, server):
    bare = with_(LISTED_MODEL, version=2, pinned=False, pinned_until=None, verdict=None, note=None)
    answer(server, "GET /models", {"models": [LISTED_MODEL, bare]})
    shown = flat(cli("models").stdout)
    assert "pinned until 2026-01-02 03:04:05; gate: reject; keep [this]" in shown
    assert "for long" not in shown


def test_the_list_warns_of_an_active_version_that_cannot_be_loaded(cli, server):
    answer(server, "GET /models", {"models": [LISTED_MODEL]})
    lost = with_(READY, status="degraded", problems=["It is gone."], offer_version=2)
    answer(server, "GET /health/ready", lost)
    shown = cli("models").stderr
    assert "It is gone." in shown
    assert "`reckeeper models activate 2` activates it." in shown
    assert "gone" not in cli("models", "--json").stderr


def test_what_people_wrote_cannot_steer_the_terminal(cli, server):
    evil = "\x1b[2J\x9b31m\rnote"
    answer(server, "GET /models", {"models": [with_(LISTED_MODEL, note=evil)]})
    answer(server, "GET /jobs/7/stream", stream(with_(JOB, verdict=with_(VERDICT, sentence=evil))))
    answer(server, "GET /models/3", {"model": with_(MODEL, note=evil)})
    for arguments in (("models",), ("models", "show", 3), ("jobs", "follow", 7)):
        shown = cli(*arguments).output
        assert "\x1b" not in shown
        assert "\x9b" not in shown
        assert "\r" not in shown


def test_two_versions_side_by_side(cli, server):
    side = with_(
        COMPARISON["first"],
        training_samples=1000,
        data={"half_life_days": 30.0},
        metrics={"ndcg@10": INTERVAL},
    )
    body = samples.comparison(
        first=side,
        second=with_(side, version=2, recipe="spectral", metrics=None, data={}),
        settings=[{"name": "n_components", "first": 10, "second": None}],
        most_changed=[
            {"user_id": "[u]", "overlap": 0.1, "first": ["a", "b"], "second": ["b", "c"]}
        ],
        exposure={"gained": [{"item_id": "a", "first": 0.1, "second": 0.45}], "lost": []},
    )
    answer(server, "GET /models/3/compare/2", body)
    shown = flat(cli("models", "compare", 3, 2).stdout)
    for text in (
        *("version 3 version 2", "recipe svd spectral", "n_components 10 null", "50.0% 25.0%"),
        *("half_life_days=30.0", "2,000 sampled users find 62.5%", "60.0% to 65.0%"),
        *("[u] 10% a, b b, c", "a 10.0% 45.0%"),
    ):
        assert text in shown, text
    answer(server, "GET /models/3/compare/2", {**body, "overlap": None, "coverage": None})
    assert "no user in common" in cli("models", "compare", 3, 2).stdout


def test_jobs_of_every_kind_are_shown(cli, server):
    failed = {"code": "training_failed", "message": "Too [little] memory."}
    measured = samples.evaluation()
    jobs = [
        with_(RUNNING, job_id=9, cancel_requested=True),
        with_(JOB, job_id=8, status="failed", version=None, promoted=None, error=failed),
        with_(JOB, promoted=False),
        with_(JOB, job_id=6, promoted=False, version=None),
        with_(JOB, job_id=5, kind="evaluate", promoted=None, version=None, result=measured),
    ]
    answer(server, "GET /jobs", page(*jobs, schedule="0 3 * * 0", next_at="2026-01-04T03:00:00Z"))
    shown = flat(cli("jobs").stdout)
    for text in (
        *("fitting 50%", "is asked to end", "Too [little] memory.", "not promoted"),
        *("nothing new", "evaluate", "Next scheduled: 2026-01-04T03:00:00Z (0 3 * * 0)"),
    ):
        assert text in shown, text
    told = {
        9: ("fitting, 50% done", "about 4 s left, 1.0 MB", "3.0 MB"),
        8: ("Too [little] memory.",),
        7: ("promoted no",),
        5: (
            "popularity 0.2000 (0.1000 to 0.3000)",
            "1,873 users judged, of 2,400 with 56,193 interactions until 2026-01-02 03:04:05 UTC.",
            "Held out: each interaction from 2025-11-01 12:00 UTC on",
            "Policy revision 3: ndcg@10, margin 2.0%.",
        ),
    }
    for job in jobs:
        answer(server, f"GET /jobs/{job['job_id']}", {"job": job})
        shown = flat(cli("jobs", "show", job["job_id"]).stdout)
        for text in told.get(job["job_id"], ()):
            assert text in shown, text


# Following


def test_a_job_is_followed_to_its_end(cli, server):
    answer(server, "GET /jobs/7/stream", stream(RUNNING, JOB))
    answer(server, "GET /models/3", {"model": MODEL})
    done = cli("jobs", "follow", 7)
    assert "56193 samples, 98.90% variance explained. Version 3 is active." in done.stdout
    lines = cli("jobs", "follow", 7, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [RUNNING, JOB]


def test_a_job_that_ended_badly_is_an_error(cli, server):
    error = {"code": "training_failed", "message": "No memory."}
    answer(server, "GET /jobs/7/stream", stream(with_(JOB, status="failed", error=error)))
    for command in (("follow", 7), ("follow", 7, "--json")):
        with pytest.raises(TrainingError, match="No memory"):
            cli("jobs", *command)
    answer(server, "GET /jobs/7/stream", stream(with_(JOB, status="interrupted")))
    with pytest.raises(TrainingError, match="interrupted"):
        cli("jobs", "follow", 7)


def test_an_evaluation_ends_with_its_table(cli, server):
    result = samples.evaluation()
    job = with_(JOB, kind="evaluate", version=None, promoted=None, result=result)
    answer(server, "GET /jobs/7/stream", stream(job))
    answer(server, "GET /jobs/7", {"job": {**job, "result": result}})
    assert "popularity" in cli("jobs", "follow", 7).stdout


def test_a_comparison_says_what_it_advises_and_what_has_changed(cli, server):
    ahead, behind = samples.beside(0.09, "better"), samples.beside(-0.09, "too_few")
    settings = {"weighting": "log", "rank": 64, "half_life_days": None}
    lines = (
        samples.measured("popularity", versus={"spectral (tuned)": behind}),
        samples.measured(
            "spectral", name="spectral (tuned)", settings=settings, versus={"popularity": ahead}
        ),
    )
    advice = {"use": "spectral (tuned)", "sentence": "spectral (tuned) is better than popularity."}

    def shown(**fields):
        result = samples.evaluation(*lines, **fields)
        job = with_(JOB, kind="evaluate", version=None, promoted=None, result=result)
        answer(server, "GET /jobs/7", {"job": job})
        done = cli("jobs", "show", 7)
        return flat(done.stdout), flat(done.stderr)

    told, _ = shown(advice=advice)
    for text in (
        "+0.0900 (+0.0800 to +0.1000), better",
        "-0.0900 (-0.1000 to -0.0800), too few to tell: 900 users needed",
        "spectral (tuned) is better than popularity.",
        "`reckeeper retrain --recipe spectral --set 'weighting=\"log\"' --set rank=64 "
        "--set half_life_days=null`",
    ):
        assert text in told, text
    told, _ = shown(n_users=40)
    assert "too few to tell" in told
    assert "users needed" not in told
    change = {"code": "data_removed", "sentence": "The data that it was made on are gone."}
    told, warned = shown(changes=[change], state="gone", recipes=[])
    assert "The data that it was made on are gone." in warned
    assert "spectral" not in told


RETRAINED = [
    pytest.param(
        with_(JOB, verdict=with_(VERDICT, decision="promote", reasons=[], warnings=[])),
        "Version 3 is active.",
        [],
        id="good",
    ),
    pytest.param(
        with_(JOB, verdict=VERDICT),
        "Version 3 is active.",
        ["The gate speaks against version 3. It fell.", "Few users.", "reckeeper models rollback"],
        id="worse, and active",
    ),
    pytest.param(
        with_(JOB, promoted=False, verdict=VERDICT),
        "Version 3 was not promoted and is not active.",
        ["The gate speaks against version 3. It fell.", "reckeeper models activate 3"],
        id="worse, and was rejected",
    ),
    pytest.param(
        with_(
            JOB,
            promoted=False,
            verdict=with_(
                VERDICT, decision="promote", reasons=[], warnings=[], outcome="A person decides."
            ),
        ),
        "Version 3 was not promoted and is not active.",
        ["A person decides.", "reckeeper models activate 3"],
        id="waits",
    ),
    pytest.param(
        with_(
            JOB,
            promoted=False,
            version=None,
            verdict=samples.verdict(decision="unchanged", sentence="Nothing has changed."),
        ),
        "Job 7 made no version. Nothing has changed.",
        [],
        id="nothing new",
    ),
]


@pytest.mark.parametrize(("job", "told", "warned"), RETRAINED)
def test_a_retrain_says_what_became_of_it(cli, server, job, told, warned):
    answer(server, "POST /retrain", {"job": RUNNING})
    answer(server, "GET /jobs/7/stream", stream(RUNNING, job))
    answer(server, "GET /models/3", {"model": MODEL})
    done = cli("retrain", "--recipe", "svd", "--set", "n_components=3")
    assert server.requests[0].body == {"recipe": "svd", "settings": {"n_components": 3}}
    assert told in done.stdout
    assert all(text in done.stderr for text in warned), done.stderr
    asked, _, rest = done.stderr.partition("\n")
    assert asked == f"Using the server at http://127.0.0.1:{server.server_port}."
    assert bool(rest) == bool(warned)
    whole = json.loads(cli("retrain", "--json").stdout)
    assert whole == {"job": job, "model": MODEL if job["version"] else None}


def test_a_plain_retrain_waits_for_the_job_that_runs(cli, server):
    body = {
        "status": "error", "code": "job_running", "message": "Job 7 runs.",
        "details": {"job_id": 7, "kind": "retrain"},
    }  # fmt: skip
    answer(server, "POST /retrain", body, status=409)
    answer(server, "GET /jobs/7/stream", stream(JOB))
    answer(server, "GET /models/3", {"model": MODEL})
    done = cli("retrain")
    assert "Job 7 runs already" in done.stderr
    assert "Version 3 is active." in done.stdout
    for arguments in (["--recipe", "svd"], ["--tune"]):
        with pytest.raises(ConflictError, match="Job 7 runs"):
            cli("retrain", *arguments)


# The policy


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["margin=0.05"], {"margin": 0.05}),
        (["skip_unchanged=false"], {"skip_unchanged": False}),
        (["schedule=0 3 * * 0", "timezone=Europe/Berlin"],
         {"schedule": "0 3 * * 0", "timezone": "Europe/Berlin"}),
        (["schedule=null"], {"schedule": None}),
        (["webhook_url=https://a/?b=c"], {"webhook_url": "https://a/?b=c"}),
        (["webhook_secret=1234567890123456"], {"webhook_secret": "1234567890123456"}),
        (["metric=recall@10"], {"metric": "recall@10"}),
        (['left_out_users=["bot-*"]'], {"left_out_users": ["bot-*"]}),
        (["promotion.schedule=manual", "promotion.rule=always"],
         {"promotion": {"manual": "always", "schedule": "manual", "rule": "always"}}),
        (["weights.view=0.5"], {"weights": {"click": 1.0, "watchlist_add": 2.0, "view": 0.5}}),
        (["weights.watchlist_add=null", "weights.gone=null"], {"weights": {"click": 1.0}}),
        (["recommendations.popularity_half_life_days=null", "recommendations.new_items_share=0.2",
          "promotion.rule=null"],
         {"recommendations": {**POLICY["recommendations"], "popularity_half_life_days": None,
                              "new_items_share": 0.2},
          "promotion": {"manual": "always", "schedule": "gate"}}),
        (['weights={"buy": 3}'], {"weights": {"buy": 3}}),
        (["new_field=later"], {"new_field": "later"}),
    ],
    ids=str,
)  # fmt: skip
def test_pairs_change_a_policy(pairs, expected):
    before = copy.deepcopy(POLICY)
    assert changed(POLICY, pairs) == {**POLICY, **expected}
    assert before == POLICY


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["margin"], "'margin' is not of the form KEY=VALUE"),
        (["=1"], "'=1' is not of the form"),
        (["margin=1", "margin=2"], "margin is given twice"),
        (["schedule.every=5"], "'schedule' has no entries"),
        (["none.every=5"], "'none' has no entries"),
    ],
)
def test_pairs_that_change_no_policy(pairs, told):
    with pytest.raises(DataError, match=told):
        changed(POLICY, pairs)


def test_set_stores_the_whole_policy_over_the_one_it_has_read(cli, server):
    after = with_(REVISION, revision=5)
    after["policy"]["margin"] = 0.05
    answer(server, "GET /policy", REVISION)
    answer(server, "PUT /policy", after)
    done = cli("policy", "set", "margin=0.05", "--reason", "stricter")
    assert "Revision 5 is in force now: margin from 0.02 to 0.05." in done.stdout
    request = server.requests[-1]
    assert request.query == {"if_revision": "4", "reason": "stricter"}
    assert request.body == {**POLICY, "margin": 0.05}
    assert json.loads(cli("policy", "set", "margin=0.05", "--json").stdout)["revision"] == 5
    answer(server, "PUT /policy", REVISION)
    assert "Nothing is changed" in cli("policy", "set", "margin=0.02").stdout


def test_set_takes_the_place_of_a_policy_that_cannot_be_used(cli, server):
    failure = {"status": "error", "code": "storage_failed", "message": "It cannot be used."}
    failure["details"] = {"action": {"name": "change_policy"}}
    answer(server, "GET /policy", failure, status=503)
    answer(server, "PUT /policy", with_(REVISION, revision=5))
    done = cli("policy", "set", "margin=0.05")
    assert "A field that is not named here gets its default." in done.stderr
    assert "Revision 5 is in force now." in done.stdout
    request = server.requests[-1]
    assert request.query == {}
    assert request.body == {**Policy().model_dump(), "margin": 0.05}


def test_the_policy_is_shown_with_its_help(cli, server):
    answer(server, "GET /policy", REVISION)
    shown = flat(cli("policy").stdout)
    assert "manual=always, schedule=gate, rule=gate" in shown
    assert Policy.model_fields["max_fall"].description in shown
    assert "Revision 4, stored 2026-01-02 03:04:05 UTC by api:page" in shown
    answer(server, "GET /policy", with_(REVISION, revision=0, source="environment"))
    assert "comes from the environment" in cli("policy").stdout


def test_the_history_says_what_each_changed(cli, server):
    older = with_(REVISION, revision=3, reason="first")
    older["policy"]["margin"] = 0.5
    answer(server, "GET /policy/history", {"policies": [REVISION, older]})
    shown = flat(cli("policy", "history").stdout)
    assert "margin from 0.5 to 0.02" in shown
    assert "the first first" in shown
    assert len(json.loads(cli("policy", "history", "--limit", 1, "--json").stdout)) == 1
    assert server.requests[-1].query == {"limit": "2"}


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Give a function that makes the editor a script of its lines; ``$1`` is the file."""

    def install(*lines):
        script = tmp_path / "some editor.sh"
        script.write_text("\n".join(["set -e", *lines, ""]))
        linked = tmp_path / "editor.sh"
        linked.unlink(missing_ok=True)
        linked.symlink_to(script)
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"/bin/sh {linked}")

    return install


def test_the_policy_is_edited(cli, server, editor):
    answer(server, "GET /policy", REVISION)
    answer(server, "PUT /policy", with_(REVISION, revision=5))
    editor("""sed 's/"margin": 0.02/"margin": 0.05/' "$1" > "$1.new"; mv "$1.new" "$1" """)
    assert "Revision 5 is in force now" in cli("policy", "edit", "--reason", "r").stdout
    assert server.requests[-1].body == {**POLICY, "margin": 0.05}
    assert server.requests[-1].query == {"if_revision": "4", "reason": "r"}


def test_an_edit_without_a_change_stores_nothing(cli, server, editor):
    answer(server, "GET /policy", REVISION)
    editor("true")
    assert "Nothing is changed" in cli("policy", "edit").stdout
    assert [request.line for request in server.requests] == ["GET /policy"]


def test_an_edit_that_is_refused_can_be_mended(cli, server, editor):
    answer(server, "GET /policy", REVISION)
    answer(server, "PUT /policy", with_(REVISION, revision=5))
    editor('if [ "$(head -c 1 "$1")" = "{" ]; then echo oops > "$1"; else echo "{}" > "$1"; fi')
    done = cli("policy", "edit", input="y\n")
    assert "not JSON" in done.stderr
    assert server.requests[-1].body == {}
    editor('echo oops > "$1"')
    assert "not JSON" in cli("policy", "edit", input="n\n", exit_code=2).stderr


def test_an_editor_that_fails_changes_nothing(cli, server, editor):
    answer(server, "GET /policy", REVISION)
    editor("exit 3")
    with pytest.raises(DataError, match="status 3"):
        cli("policy", "edit")


# The trail


def test_the_trail_is_listed(cli, server):
    entry = {
        "entry_id": 8, "at": AT, "actor": "api:page", "action": "activate", "subject": "model 3",
        "details": {"before": 2, "after": 3, "reason": None}, "hash": "ab",
    }  # fmt: skip
    answer(server, "GET /audit", {"entries": [entry]})
    shown = flat(cli("audit").stdout)
    assert "8 2026-01-02 03:04:05 api:page activate model 3 before=2, after=3" in shown
