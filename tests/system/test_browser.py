"""The page in a real browser, on real data where it is at hand."""

import contextlib
import csv
import os
import re
import signal
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import TimeoutError, expect
from tests.system.installation import (
    MOVIELENS,
    Installation,
    hold_still,
    some_ratings,
    training_pid,
    wait_until,
)

TIMEZONE = "Asia/Tokyo"
RETRAIN = "🚀 Retrain Model"
LONG = 120_000
"""Milliseconds that a job may take."""
STAGES = re.compile(
    "Starting the training process|Reading interactions|Judging against the active version|"
    "Fitting the model|Writing the model files|Registering the new version|Loading the new version"
)


class Site(Installation):
    """An installation whose processes a test stops and starts."""

    def start_all(self):
        self.worker_process = self.start_worker()
        self.server_process = self.start_server()
        self.page_process = self.start_page()


@pytest.fixture(scope="module")
def site(tmp_path_factory, browser):
    """Give a running installation with films, and no model if the films are real."""
    is_real = MOVIELENS.is_dir()
    folder = tmp_path_factory.mktemp("site")
    with Site(folder, RECKEEPER_DEMO="0" if is_real else "1") as made:
        made.migrate()
        if is_real:
            made.run("import", some_ratings(folder), "--preset", "movielens")
        made.start_all()
        made.user_id = "15" if is_real else "user-0001"
        if not is_real:
            wait_until(made.active, "the demo data has its model")
        yield made


@pytest.fixture(scope="module")
def window(browser):
    """Give a window that has run the page's scripts before: to compile them takes a second."""
    with window_of(browser) as window:
        yield window


@pytest.fixture
def page(site, window, tmp_path):
    """Give a browser's page, for a reader in Tokyo; a picture of its end is kept."""
    with shown(site, window, tmp_path):
        yield window


@contextlib.contextmanager
def window_of(browser):
    context = browser.new_context(
        timezone_id=TIMEZONE, locale="en-GB", viewport={"width": 1280, "height": 1100}
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    try:
        yield page
    finally:
        context.close()


@contextlib.contextmanager
def shown(made, page, folder):
    """Open the site, and see at the end that no page broke."""
    try:
        page.goto(made.page_url)
        yield
        expect(page.get_by_test_id("stException")).to_have_count(0)
    finally:
        page.screenshot(path=folder / "end.png", full_page=True)


@contextlib.contextmanager
def opened(made, browser, folder):
    """Open the site in a window of its own."""
    with window_of(browser) as page, shown(made, page, folder):
        yield page


@pytest.fixture
def model(site):
    """Give the active version, trained now if there is none."""
    if site.active() is None:
        site.retrain()
    return site.active()


def go_to(page, name):
    heading = page.get_by_role("heading", name=name, level=1)
    for _ in range(3):  # a click on a page that is being drawn can get lost
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
        with contextlib.suppress(AssertionError):
            expect(heading).to_be_visible(timeout=10_000)
            return
    expect(heading).to_be_visible()


def metric(page, name):
    return (
        page.get_by_test_id("stMetric")
        .filter(has=page.get_by_text(name, exact=True))
        .get_by_test_id("stMetricValue")
    )


def expect_statistics(page, model):
    expect(metric(page, "Users")).to_have_text(f"{model['n_users']:,}")
    expect(metric(page, "Items")).to_have_text(f"{model['n_items']:,}")
    expect(metric(page, "Explained variance")).to_have_text(model["explained_variance"])
    expect(metric(page, "Trained on")).to_have_text(local_time(model["trained_on"])[:16])


def local_time(trained_on):
    moment = datetime.fromisoformat(trained_on).replace(tzinfo=UTC)
    return f"{moment.astimezone(ZoneInfo(TIMEZONE)):%Y-%m-%d %H:%M:%S}"


def expect_row(page, model):
    """See a version's row in the table: status, counts, time."""
    table = page.get_by_role("table", name="Model versions")
    row = table.get_by_role("row").filter(
        has=page.get_by_role("cell", name=str(model["version"]), exact=True).first
    )
    row = row.filter(has_text=local_time(model["trained_on"]).replace(" ", "\N{NO-BREAK SPACE}"))
    expect(row).to_have_count(1)
    expect(row).to_contain_text("🟢" if model["status"] == "active" else "⚪")
    expect(row).to_contain_text(f"{model['n_users']:,}")
    expect(row).to_contain_text(model["explained_variance"])


@contextlib.contextmanager
def held(site):
    """Hold the running training still inside the block."""
    job = wait_until(
        lambda: next(
            (job for job in site.server.get("/jobs").json()["jobs"] if job["status"] == "running"),
            None,
        ),
        "a job runs",
    )
    pid = training_pid(site.worker_process, job["job_id"])
    hold_still(pid, site.data_dir)
    try:
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):  # cancelled meanwhile
            os.kill(pid, signal.SIGCONT)


def choose(page, label, text):
    """Choose in a box what reads so."""
    box = page.get_by_role("combobox", name=re.compile(rf"\b{label}$"))

    def is_open():
        if box.get_attribute("aria-expanded") != "true":
            box.press("ArrowDown")
        return box.get_attribute("aria-expanded") == "true"

    # A box closes when the page scrolls or changes, and what is typed into a closed one is lost.
    for seconds in (5, 5, 20):
        box.scroll_into_view_if_needed()
        wait_until(is_open, f"the box {label!r} opens")
        box.fill(text)
        try:
            page.get_by_role("option", name=text, exact=True).click(timeout=1000 * seconds)
            return
        except TimeoutError:
            if seconds == 20:
                raise


def open_panel(page, recipe):
    """Open the retrain panel and choose a recipe that is to be tuned."""
    page.get_by_text("Retrain with another recipe or settings").click()
    choose(page, "Recipe", recipe)
    page.get_by_text("Tune", exact=True).click()
    expect(page.get_by_role("button", name="Tune and train")).to_be_visible()


def retrain(site, **request):
    """Train without the page, and return the answer."""
    answer = site.server.post("/retrain", json=request or None, timeout=LONG / 1000)
    assert answer.status_code == 200, answer.text
    return answer.json()


def good_version(site):
    """Have a version of `svd` active, trained now if there is none; give its number, and next.

    It is better than popularity, and refitted in less than a second to be judged beside. Next is
    the number that the next retrain gives.
    """
    models = site.server.get("/models").json()["models"]
    good = next((model["version"] for model in models if model["recipe"] == "svd"), None)
    if good is None:
        good = retrain(site, recipe="svd", promote="always")["version"]
        return good, good + 1
    site.server.post(f"/models/{good}/activate").raise_for_status()
    return good, 1 + max(model["version"] for model in models)


def set_policy(site, **fields):
    policy = site.server.get("/policy").json()["policy"] | fields
    answer = site.server.put("/policy", json=policy)
    assert answer.status_code == 200, answer.text
    return answer.json()


def train_popularity(page, *, promote):
    """Train, from the panel, a version that is sure to be worse; say when it is activated."""
    page.get_by_text("Retrain with another recipe or settings").click()
    choose(page, "Recipe", "popularity")
    expect(page.get_by_text("The fields start from the defaults")).to_be_visible()
    page.get_by_test_id("stRadio").get_by_text(promote, exact=True).click()
    page.get_by_role("button", name="Train with these settings").click()
    said = page.get_by_test_id("stAlertContentSuccess")
    expect(said).to_contain_text("Model retrained in", timeout=LONG)


def latest_job(site):
    listed = site.server.get("/jobs", params={"limit": 1}).json()["jobs"][0]
    return site.server.get(f"/jobs/{listed['job_id']}").json()["job"]


def recommended(page):
    """Return the text under the heading "Recommended"."""
    text = page.get_by_test_id("stMain").inner_text()
    return text.partition("\nRecommended\n")[2]


def titles(site, user_id):
    answer = site.server.get(f"/recommendations/{user_id}").json()
    return [item["title"] for item in answer["items"]]


def rated_films(site):
    """Return the pairs of user and film that the preset takes, liked or only seen."""
    with (site.folder / "ratings.csv").open(newline="") as stream:
        return [(row["userId"], row["movieId"]) for row in csv.DictReader(stream)]


def test_the_films_are_real():
    if not MOVIELENS.is_dir():
        pytest.skip(f"no {MOVIELENS.name} beside the checkout: the page is tried on demo data")


def test_retrain_from_the_page(site, browser, page, tmp_path):
    before = site.active()

    go_to(page, "Model Management")
    if before is None:
        expect(page.get_by_text("No model has been trained yet")).to_be_visible()
    else:
        expect_statistics(page, before)

    with opened(site, browser, tmp_path) as later:
        page.get_by_role("button", name=RETRAIN).click()
        with held(site) as job:
            expect(page.get_by_role("progressbar")).to_be_visible()
            expect(page.get_by_test_id("stProgress")).to_contain_text(STAGES)
            expect(page.get_by_test_id("stProgress")).to_contain_text(f"job {job['job_id']}")
            expect(page.get_by_role("button", name=RETRAIN)).to_be_disabled()
            page.screenshot(path=tmp_path / "progress.png")
            # Who comes later sees the same job's progress.
            go_to(later, "Model Management")
            expect(later.get_by_test_id("stProgress")).to_contain_text(f"job {job['job_id']}")
        for reader in (page, later):
            said = reader.get_by_test_id("stAlertContentSuccess")
            expect(said).to_contain_text("Model retrained in", timeout=LONG)
    after = site.active()
    assert before is None or after["version"] > before["version"]
    said = page.get_by_test_id("stAlertContentSuccess")
    expect(said).to_contain_text(
        re.compile(
            rf"Model retrained in \d+\.\ds - {after['training_samples']} samples, "
            rf"{re.escape(after['explained_variance'])} variance explained"
        )
    )
    expect(said).to_contain_text(f"{after['n_users']:,} users")
    expect(said).to_contain_text(f"{after['n_items']:,} items")
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect_statistics(page, after)
    for listed in site.server.get("/models").json()["models"]:
        expect_row(page, listed)
    expect(page.get_by_role("button", name=RETRAIN)).to_have_count(1)  # that of before may still go
    expect(page.get_by_role("button", name=RETRAIN)).to_be_enabled()
    page.screenshot(path=tmp_path / "retrained.png", full_page=True)
    if MOVIELENS.is_dir():
        rated = rated_films(site)
        assert after["training_samples"] == len(rated)
        assert after["n_users"] == len({user for user, _ in rated})
        assert after["n_items"] == len({film for _, film in rated})


def test_recommendations_are_films_and_follow_what_a_user_does(site, model, page, tmp_path):
    before = titles(site, site.user_id)
    assert len(before) == 10
    assert all(before)

    go_to(page, "Recommendations")
    page.get_by_label("User id").fill(site.user_id)
    page.get_by_label("User id").press("Enter")
    wait_until(
        lambda: all(map(recommended(page).__contains__, before)), f"{before} are recommended"
    )
    shown = recommended(page)
    assert sorted(before, key=shown.index) == before
    page.screenshot(path=tmp_path / "recommended.png", full_page=True)

    # A click on the page counts at once …
    page.get_by_role("button", name="👆 Click").first.click()
    wait_until(
        lambda: before[0] not in recommended(page) and titles(site, site.user_id)[0] != before[0],
        f"{before[0]!r} is not recommended to one who clicked it",
    )
    folded = site.server.get(f"/recommendations/{site.user_id}").json()
    assert folded["strategy"] == "fold_in"
    (clicked, *_) = site.server.get(f"/user_interactions/{site.user_id}").json()["interactions"]
    assert (clicked["title"], clicked["interaction_type"]) == (before[0], "click")

    # … and so do those that another system sends.
    others = [item["item_id"] for item in folded["items"][3:8]]
    site.send(
        [
            {"user_id": site.user_id, "item_id": item_id, "interaction_type": "click"}
            for item_id in others
        ]
        * 3
    )
    go_to(page, "Model Management")
    page.get_by_role("button", name=RETRAIN).click()
    expect(page.get_by_test_id("stAlertContentSuccess")).to_contain_text(
        "Model retrained in", timeout=LONG
    )
    after = site.active()
    assert after["version"] == model["version"] + 1
    assert after["training_samples"] == model["training_samples"] + 16
    expect_row(page, after)

    go_to(page, "Recommendations")
    page.get_by_label("User id").fill(site.user_id)
    page.get_by_label("User id").press("Enter")
    changed = titles(site, site.user_id)
    assert changed != before
    assert not {before[0], *(item["title"] for item in folded["items"][3:8])} & set(changed)
    wait_until(lambda: changed[0] in recommended(page), f"{changed[0]!r} is recommended")
    assert all(title in recommended(page) for title in changed)
    assert site.server.get(f"/recommendations/{site.user_id}").json()["strategy"] == "model"


def test_a_film_goes_on_the_watchlist_and_off_it(site, model, page):
    go_to(page, "Recommendations")
    page.get_by_label("User id").fill("watcher")
    page.get_by_label("User id").press("Enter")
    first = titles(site, "watcher")[0]
    wait_until(lambda: first in recommended(page), f"{first!r} is recommended")

    page.get_by_role("button", name="Watchlist").first.click()

    expect(page.get_by_role("button", name="Remove", exact=True)).to_have_count(1)
    (item,) = site.server.get("/watchlist/watcher").json()["items"]
    assert item["title"] == first
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_role("button", name="Remove", exact=True)).to_have_count(0)
    assert site.server.get("/watchlist/watcher").json()["items"] == []


def test_a_film_that_is_not_wanted_goes_and_comes_back(site, model, page, tmp_path):
    go_to(page, "Recommendations")
    page.get_by_label("User id").fill(site.user_id)
    page.get_by_label("User id").press("Enter")
    first = titles(site, site.user_id)[0]
    wait_until(lambda: first in recommended(page), f"{first!r} is recommended")

    page.get_by_role("button", name="Not interested").first.click()

    wait_until(lambda: first not in recommended(page), f"{first!r} is not recommended any more")
    assert first not in titles(site, site.user_id)
    page.screenshot(path=tmp_path / "dismissed.png", full_page=True)
    page.get_by_role("button", name="Undo", exact=True).click()
    wait_until(lambda: first in recommended(page), f"{first!r} is recommended again")
    expect(page.get_by_role("button", name="Undo", exact=True)).to_have_count(0)
    assert titles(site, site.user_id)[0] == first


def test_after_a_restart_of_everything_the_same_version_is_active(site, model, page):
    site.stop_all()
    assert not site.pids()
    site.start_all()

    assert site.active() == model
    page.goto(site.page_url)
    go_to(page, "Model Management")
    expect_statistics(page, model)
    expect(page.get_by_text(f"Version {model['version']} ·").first).to_be_visible()
    for listed in site.server.get("/models").json()["models"]:
        expect_row(page, listed)


def test_without_the_worker_a_retrain_is_refused_in_words(site, model, page):
    go_to(page, "Model Management")
    expect_statistics(page, model)
    site.worker_process.stop()
    try:
        page.get_by_role("button", name=RETRAIN).click()

        said = page.get_by_test_id("stAlertContentError")
        expect(said).to_contain_text("worker")
        expect(said).to_contain_text("does not answer")
        expect(said).not_to_contain_text("Traceback")
        expect_statistics(page, model)
        expect_row(page, model)
    finally:
        site.worker_process = site.start_worker()


def test_without_the_server_every_page_says_so_and_comes_back(site, model, page):
    site.server_process.stop()
    try:
        for name in ("Model Management", "Recommendations"):
            go_to(page, name)
            said = page.get_by_test_id("stAlertContentError")
            expect(said).to_have_count(1)
            expect(said).to_contain_text("does not answer")
            expect(said).not_to_contain_text("Traceback")
            expect(page.get_by_test_id("stException")).to_have_count(0)
        go_to(page, "Model Management")
        expect(page.get_by_test_id("stAlertContentError")).to_be_visible()
    finally:
        site.server_process = site.start_server()

    # By itself, without a click.
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)
    expect_statistics(page, model)


def test_a_tuned_retrain_from_the_panel_is_ended_with_the_best_so_far(site, model, page, tmp_path):
    go_to(page, "Model Management")
    open_panel(page, "spectral")
    page.get_by_test_id("stRadio").get_by_text("Always", exact=True).click()
    # What was typed counts without leaving the field first.
    page.get_by_role("spinbutton", name="Time budget in seconds").fill("600")
    page.get_by_role("button", name="Tune and train").click()

    expect(page.get_by_test_id("stProgress")).to_contain_text("Tuning", timeout=LONG)
    expect(page.get_by_text("tried · best NDCG so far")).to_be_visible(timeout=LONG)
    page.screenshot(path=tmp_path / "tuning.png", full_page=True)
    page.get_by_role("button", name="Stop tuning, use the best so far").click()

    said = page.get_by_test_id("stAlertContentSuccess")
    expect(said).to_contain_text("Model retrained in", timeout=LONG)
    expect(said).to_contain_text("Recipe spectral, settings found by tuning:")
    job = latest_job(site)
    assert job["request"] == {
        "recipe": "spectral", "tune": True, "tune_seconds": 600, "promote": "always",
    }  # fmt: skip
    assert job["finish_requested"]
    after = site.active()
    assert job["version"] == after["version"] == model["version"] + 1
    assert after["recipe"] == "spectral"
    expect_row(page, after)
    page.get_by_text("Details of the versions").click()
    listed = page.get_by_role("table", name="Details of the versions")
    expect(listed).to_contain_text(f"weighting={after['settings']['weighting']}")


def test_recipes_are_compared_and_one_is_trained(site, model, page, tmp_path):
    popular = retrain(site, recipe="popularity")["version"]
    site.server.post(f"/models/{popular}/activate").raise_for_status()
    model = site.active()  # something that others are better than
    go_to(page, "Model Management")
    page.get_by_role("button", name="🔎 Compare recipes").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_role("button", name=RETRAIN)).to_be_disabled()
    expect(page.get_by_text("The recipes are being compared")).to_be_visible()
    page.get_by_role("button", name="Stop tuning, use the best so far").click(timeout=LONG)

    use = page.get_by_role("button", name=re.compile("^Use "))
    expect(use).to_be_enabled(timeout=LONG)
    assert site.active() == model, "to compare changes nothing"
    result = latest_job(site)["result"]
    [used] = [row for row in result["recipes"] if row["name"] == result["advice"]["use"]]
    assert used["recipe"] in {"svd", "spectral"}
    chart = page.get_by_test_id("stVegaLiteChart").locator("svg, canvas").first
    for seen in ("first", "again, after a reload"):
        table = page.get_by_role("table", name="Recipes compared")
        expect(table).to_have_count(1, timeout=LONG)  # that of the progress may still go
        for name in ("popularity", "svd", "spectral (tuned)"):
            expect(table.get_by_role("columnheader", name=name)).to_be_visible()
        for metric in ("ndcg@10", "hit_rate@10"):
            for measured in result["recipes"]:
                expect(table).to_contain_text(f"{measured['metrics'][metric]['mean']:.3f}")
        against = table.get_by_role("row", name="NDCG against popularity")
        expect(against).to_contain_text("better")
        expect(chart).to_be_visible()
        expect(page.get_by_text(result["advice"]["sentence"])).to_be_visible()
        expect(page.get_by_text(f"{result['n_users']:,} users were judged.")).to_be_visible()
        page.screenshot(path=tmp_path / f"compared, {seen}.png", full_page=True)
        page.reload()

    use.click(timeout=LONG)
    said = page.get_by_test_id("stAlertContentSuccess")
    expect(said).to_contain_text("Model retrained in", timeout=LONG)
    after = site.active()
    assert after["version"] == model["version"] + 1
    assert latest_job(site)["request"] == {
        "recipe": used["recipe"],
        "settings": used["settings"],
    }
    assert after["settings"] == used["settings"]
    expect_row(page, after)


def test_what_is_worse_is_said_and_taken_back_in_one_click(site, page, tmp_path):
    good, following = good_version(site)
    set_policy(site, metric="ndcg@50")  # in lists of 10 these users are too few to tell
    try:
        go_to(page, "Model Management")
        train_popularity(page, promote="Always")
    finally:
        set_policy(site, metric="ndcg@10")

    worse = site.active()
    assert (worse["version"], worse["recipe"]) == (following, "popularity")
    warned = page.get_by_test_id("stAlertContentWarning").filter(
        has_text=f"Version {worse['version']} is active"
    )
    expect(warned).to_contain_text(latest_job(site)["verdict"]["sentence"])
    table = page.get_by_role("table", name="Model versions")
    expect(table.get_by_role("row").nth(1)).to_contain_text("worse")
    page.screenshot(path=tmp_path / "worse.png", full_page=True)
    page.get_by_role("button", name=f"Roll back to version {good}").first.click()

    expect(page.get_by_text(f"Version {good} is active again.")).to_be_visible()
    expect(warned).to_have_count(0)
    assert site.active()["version"] == good
    expect_row(page, site.active())

    # The next roll back would lead further; to undo this one is a click too.
    expect(page.get_by_role("button", name=f"Roll back to version {good}")).to_have_count(0)
    choose(page, "Version", f"Version {worse['version']} · popularity")
    page.get_by_label("Reason (optional)").fill("People <like> it")
    page.get_by_role("button", name="Activate", exact=True).click()
    expect(page.get_by_text(f"Version {worse['version']} is active.")).to_be_visible()
    assert site.active()["version"] == worse["version"]
    page.get_by_text("What was active when").click()
    served = page.get_by_role("table", name="What was active when").get_by_role("row")
    expect(served.nth(1)).to_contain_text("activated: People <like> it")
    expect(served.nth(2)).to_contain_text("rolled back")
    expect(served.nth(2)).to_contain_text("api:page")
    page.screenshot(path=tmp_path / "switched.png", full_page=True)


def test_what_is_rejected_waits_and_can_be_activated(site, page, tmp_path):
    good, following = good_version(site)
    set_policy(site, promotion={"manual": "gate"})
    try:
        go_to(page, "Model Management")
        expect(page.get_by_text("the environment's settings do not count")).to_be_visible()
        train_popularity(page, promote="As the policy says")
        assert site.active()["version"] == good
        said = page.get_by_test_id("stAlertContentInfo")
        expect(said).to_contain_text(f"Version {following} was rejected and is not active")
        expect(said).to_contain_text(latest_job(site)["verdict"]["sentence"])
        page.screenshot(path=tmp_path / "rejected.png", full_page=True)

        page.get_by_role("button", name=f"Activate version {following}").click()
        expect(page.get_by_text(f"Version {following} is active.")).to_be_visible()
        expect(said).to_have_count(0)
        assert site.active()["version"] == following
    finally:
        set_policy(site, promotion={"manual": "always"})


def test_a_retrain_is_cancelled(site, model, page, tmp_path):
    files = sorted(site.model_dir.iterdir())
    go_to(page, "Model Management")
    page.get_by_role("button", name=RETRAIN).click()
    with held(site):
        expect(page.get_by_text("Memory:")).to_be_visible()
        page.screenshot(path=tmp_path / "running.png", full_page=True)
        page.get_by_role("button", name="Cancel").click()
        said = page.get_by_test_id("stAlertContentInfo")
        expect(said).to_contain_text("was cancelled; the active version stays active")
    expect(page.get_by_role("button", name=RETRAIN)).to_be_enabled()
    assert latest_job(site)["status"] == "cancelled"
    assert site.active() == model
    assert sorted(site.model_dir.iterdir()) == files
    page.get_by_text("Recent jobs").click()
    listed = page.get_by_role("table", name="Recent training jobs").get_by_role("row")
    expect(listed.nth(1)).to_contain_text("cancelled")
    page.screenshot(path=tmp_path / "cancelled.png", full_page=True)


def test_two_versions_are_compared(site, model, page, tmp_path):
    recipe = "svd" if model["recipe"] == "popularity" else "popularity"
    other = retrain(site, recipe=recipe)["version"]
    go_to(page, "Model Management")
    page.get_by_text("Compare two versions").click()
    expect(page.get_by_role("combobox", name="First")).to_have_value(f"Version {other} · {recipe}")
    choose(page, "Second", f"Version {model['version']} · {model['recipe']}")
    page.get_by_role("button", name="Compare versions").click()

    found = site.server.get(f"/models/{other}/compare/{model['version']}").json()
    expect(page.get_by_text(found["sentence"])).to_be_visible()
    sides = page.get_by_role("table", name="Two versions side by side")
    expect(sides.get_by_role("row", name="Recipe")).to_contain_text(model["recipe"])
    users = page.get_by_role("table", name="Users whose lists change most")
    expect(users).to_contain_text(found["most_changed"][0]["user_id"])
    gained = page.get_by_role("table", name="Items that gain")
    expect(gained).to_contain_text(found["exposure"]["gained"][0]["item_id"])
    page.screenshot(path=tmp_path / "compared.png", full_page=True)


def test_demo_data_is_marked_and_can_be_removed(browser, demo_once, tmp_path):
    with Site(tmp_path, RECKEEPER_DEMO="1") as made:
        made.take_over(demo_once)
        made.start_all()
        with opened(made, browser, tmp_path) as page:
            for name in ("Recommendations", "Model Management"):
                go_to(page, name)
                expect(page.get_by_text("🧪 Demo data")).to_be_visible()
            page.screenshot(path=tmp_path / "demo.png", full_page=True)

            page.get_by_role("button", name="Remove demo data").click()
            page.get_by_role("button", name="Yes, remove it").click()

            expect(page.get_by_text("🧪 Demo data")).to_have_count(0)
            expect(page.get_by_text("No model has been trained yet")).to_be_visible()
            assert made.server.get("/demo").json()["loaded"] is False
            assert made.server.get("/models").json()["models"] == []

            # Without data a retrain says what is missing.
            page.get_by_role("button", name=RETRAIN).click()
            expect(page.get_by_test_id("stAlertContentWarning")).to_contain_text(
                "no interactions to train on"
            )
            expect(page.get_by_text("No model has been trained yet")).to_be_visible()


def made_key(page, name, role=None):
    """Make a key on the page Access, and return it."""
    page.get_by_label("Name", exact=True).fill(name)
    if role is not None:
        page.get_by_test_id("stRadio").get_by_text(role, exact=True).click()
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text(f"The key of {name}")).to_be_visible()
    key = page.get_by_test_id("stCode").inner_text().strip()
    assert re.fullmatch(r"rk_\w+", key)
    return key


def test_people_use_the_page_with_keys_of_their_own(site, model, browser, page, tmp_path):
    keys = []
    try:
        go_to(page, "Access")
        keys.append(made_key(page, "alice"))
        expect(page.get_by_text("Signed in as alice (admin)")).to_be_visible()
        keys.append(made_key(page, "bob", "viewer"))
        page.screenshot(path=tmp_path / "keys.png", full_page=True)
        (tmp_path / "bob").mkdir()
        with opened(site, browser, tmp_path / "bob") as other:
            expect(other.get_by_text("This server wants an API key")).to_be_visible()
            other.get_by_label("API key").fill(keys[1])
            other.get_by_role("button", name="Sign in").click()
            expect(other.get_by_text("Signed in as bob (viewer)")).to_be_visible()
            go_to(other, "Model Management")
            expect_statistics(other, model)
            expect(other.get_by_role("button", name=RETRAIN)).to_have_count(0)
            other.screenshot(path=tmp_path / "bob.png", full_page=True)
            assert keys[1] not in other.url + other.content()

            site.run("keys", "revoke", "bob")
            sent = {"Authorization": f"Bearer {keys[1]}"}
            wait_until(
                lambda: site.server.get("/models", headers=sent).status_code == 401,
                "the server knows that it is revoked",
            )
            go_to(other, "Recommendations")
            expect(other.get_by_text("That key is not valid")).to_be_visible()
        go_to(page, "Model Management")
        expect(page.get_by_role("button", name=RETRAIN)).to_be_enabled()
    finally:
        for name in ("bob", "alice"):
            site.run("keys", "revoke", name, check=False)
        wait_until(lambda: site.server.get("/models").status_code == 200, "all is open again")
