"""Attacks of foreign web pages, in a real browser: none has an effect, and none reads a thing."""

import http.server
import json
import threading

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import expect
from tests.system.conftest import EVIL
from tests.system.installation import Installation, free_port

ROW = {"user_id": "mallory", "item_id": "i1", "interaction_type": "click"}
POSTS = {
    "retrain": ("server", "/retrain?wait=false", None),
    "retrain by the worker": ("worker", "/retrain?wait=false", None),
    "evaluate": ("server", "/evaluations?wait=false", None),
    "evaluate by the worker": ("worker", "/evaluations?wait=false", None),
    "roll back": ("server", "/models/rollback", None),
    "activate": ("server", "/models/1/activate", None),
    "pin": ("server", "/models/2/pin", None),
    "cancel": ("server", "/jobs/1/cancel", None),
    "cancel by the worker": ("worker", "/jobs/1/cancel", None),
    "import a model": ("server", "/models/import", "not a bundle"),
    "import a file": ("server", "/imports", "user_id,item_id\nmallory,i1\n"),
    "store interactions": ("server", "/user_interactions", json.dumps([ROW])),
    "store items": ("server", "/items", json.dumps([{"item_id": "i1", "title": "Bought"}])),
    "watch": ("server", "/watchlist/mallory/i1", None),
}
"""What a page can have sent without being asked for consent: a simple POST."""
FORMS = {
    "retrain": None,
    "retrain by the worker": None,
    "store interactions": json.dumps([ROW | {"user_id": "mallory="}]),
}

FETCH = """async ([url, body, type]) => {
    const sent = {method: "POST", mode: "no-cors"};
    if (body !== null) sent.body = type === null ? new Blob([body]) : new Blob([body], {type});
    try { return (await fetch(url, sent)).type } catch (error) { return error.name }
}"""
FORM = """([url, body, type]) => {
    const form = document.createElement("form");
    Object.assign(form, {method: "POST", action: url, enctype: type});
    if (body !== null) {
        // As text/plain it is sent as NAME=VALUE: JSON, if that stands within a string of it.
        const [name, value] = body.split("=");
        form.append(Object.assign(document.createElement("input"), {name, value}));
    }
    document.body.append(form);
    form.submit();
}"""
ASK = """async ([method, path, body]) => {
    const headers = body === null ? {} : {"Content-Type": "application/json"};
    const answer = await fetch(path, {method, headers, body});
    return [answer.status, await answer.text()];
}"""
OPEN_SOCKET = """(url) => new Promise((resolve) => {
    const socket = new WebSocket(url, ["streamlit"]);
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("refused");
})"""
FRAME = """(url) => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.onload = () => resolve(null);
    frame.src = url;
    document.body.append(frame);
})"""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<title>You have won</title><body></body>")

    def log_message(self, *_arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def foreign():
    """Give the port of a server of foreign pages."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory, browser, demo_once):
    """Give a running installation with the demo and two versions."""
    with Installation(tmp_path_factory.mktemp("site"), RECKEEPER_DEMO="1") as made:
        made.take_over(demo_once)
        made.start_worker()
        made.start_server()
        made.start_page()
        made.retrain()
        yield made


@pytest.fixture(scope="module")
def window(browser):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    yield page
    context.close()


@pytest.fixture(params=[EVIL, "localhost"])
def page(request, window, foreign):
    """Give a foreign page: of another site, and of another port of this machine."""
    window.goto(f"http://{request.param}:{foreign}/")
    return window


@pytest.fixture
def unchanged(site):
    """See that nothing has changed between the beginning and the end of a test."""
    before = state(site)
    yield
    assert state(site) == before


def state(site):
    """Return all that a page could have changed."""
    paths = ("/models", "/jobs", "/timeline", "/policy", "/audit", "/imports", "/demo", "/items")
    with site.database() as connection:
        (count,) = connection.execute("SELECT count(*) FROM user_interactions").fetchone()
    return count, [site.server.get(path).json() for path in paths]


def url_of(site, process):
    # By its name: a page of "localhost" on another port is of the same site.
    port = {"server": site.server_port, "worker": site.worker_port, "page": site.page_port}
    return f"http://localhost:{port[process]}"


@pytest.mark.parametrize("what", POSTS)
def test_a_simple_post_has_no_effect(what, site, page, unchanged):
    process, path, body = POSTS[what]
    url = url_of(site, process) + path
    # Nor does a body without a type, of which a page needs no consent either.
    for type in ("text/plain", None) if body is not None else (None,):
        # CORP keeps even what came back from the page.
        assert page.evaluate(FETCH, [url, body, type]) == "TypeError"


@pytest.mark.parametrize("type", ["text/plain", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("what", FORMS)
def test_a_form_has_no_effect(what, type, site, page, unchanged):
    process, path, _ = POSTS[what]
    with page.expect_navigation() as navigation:
        page.evaluate(FORM, [url_of(site, process) + path, FORMS[what], type])
    assert navigation.value.status == 403
    assert navigation.value.json()["code"] == "foreign_origin"


def test_what_needs_consent_gets_none(site, page, unchanged):
    """JSON, and other methods than POST, are asked for beforehand."""
    send = """async ([url, method]) => {
        const headers = {"Content-Type": "application/json"};
        try { return (await fetch(url, {method, headers, body: "{}"})).status }
        catch (error) { return error.name }
    }"""
    for method, path in (("PUT", "/policy"), ("DELETE", "/demo"), ("POST", "/retrain?wait=false")):
        for process in ("server", "worker"):
            assert page.evaluate(send, [url_of(site, process) + path, method]) == "TypeError"


READ = [("GET", path, None) for path in ("/audit", "/models", "/policy", "/models/1/download")]
READ += [("GET", "/interactions/latest", None), ("GET", "/recommendations/user-0001", None)]
CHANGE = [("PUT", "/policy", '{"margin": 0.5}'), ("DELETE", "/demo", None)]
CHANGE += [("DELETE", "/models/1", None), ("POST", "/retrain?wait=false", "{}")]
CHANGE += [("POST", "/user_interactions", json.dumps([ROW]))]


@pytest.mark.parametrize(("method", "path", "body"), READ + CHANGE)
@pytest.mark.parametrize("process", ["server", "worker", "page"])
def test_a_rebound_name_reads_and_changes_nothing(
    process, method, path, body, site, window, unchanged
):
    """The page is of the very origin that it asks: only its name tells."""
    home = url_of(site, process).replace("localhost", EVIL)
    if not window.url.startswith(f"{home}/"):
        answer = window.goto(f"{home}/")
        assert (answer.status, answer.json()["code"]) == (421, "unknown_host")
    status, text = window.evaluate(ASK, [method, path, body])
    assert (status, json.loads(text)["code"]) == (421, "unknown_host")
    assert "RECKEEPER_ALLOWED_HOSTS" in text


def test_nobody_else_steers_the_page(site, page, unchanged):
    url = url_of(site, "page").replace("http", "ws") + "/_stcore/stream"
    assert page.evaluate(OPEN_SOCKET, url) == "refused"
    rebound = url_of(site, "page").replace("localhost", EVIL)
    page.goto(f"{rebound}/")
    rebound_socket = rebound.replace("http", "ws") + "/_stcore/stream"
    assert page.evaluate(OPEN_SOCKET, rebound_socket) == "refused"


@pytest.mark.parametrize("process", ["server", "worker", "page"])
def test_none_is_framed(process, site, page):
    path = {"server": "/docs", "worker": "/models", "page": "/"}[process]
    page.evaluate(FRAME, url_of(site, process) + path)
    (frame,) = page.main_frame.child_frames
    frame.wait_for_url("chrome-error://**")


def test_our_own_pages_work(site, window):
    """The documentation asks its own server; Model Management opens its own socket."""
    window.goto(f"{url_of(site, 'server')}/docs")
    expect(window.get_by_role("heading", name="Reckeeper").first).to_be_visible()
    status, text = window.evaluate(ASK, ["PUT", "/policy", '{"margin": 0.01}'])
    assert (status, json.loads(text)["policy"]["margin"]) == (200, 0.01)
    window.goto(url_of(site, "page"))
    expect(window.get_by_role("heading", name="Reckeeper", level=1)).to_be_visible()
    own = url_of(site, "page").replace("http", "ws") + "/_stcore/stream"
    assert window.evaluate(OPEN_SOCKET, own) == "open"


@pytest.mark.parametrize("process", ["server", "worker", "page"])
def test_every_answer_says_how_it_may_be_used(process, site):
    ask = {"server": site.server, "worker": site.worker}.get(process)
    paths = {"server": ["/docs", "/models", "/recommendations/user-0001", "/nothing"]}
    for path in paths.get(process, ["/", "/nothing"]):
        url = path if ask is not None else f"{site.page_url}{path}"
        headers = (ask or site.server).get(url).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
