"""A shop's files, as its owner has them: imported in a browser, and by one command."""

import sqlite3

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import expect
from tests.system.installation import Installation, wait_until
from tests.system.test_browser import opened

N_CUSTOMERS, N_ARTICLES, N_ORDERS = 7, 5, 60


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Write orders and articles as a German shop exports them: semicolons, day first, latin-1."""
    folder = tmp_path_factory.mktemp("shop")
    orders = [
        f"K{n % N_CUSTOMERS};A{n % N_ARTICLES};{28 - n % 20:02d}.05.2013 14:{n % 60:02d}"
        for n in range(N_ORDERS)
    ]
    articles = [f"A{n};Gläser für {n} Gäste;{n},50" for n in range(N_ARTICLES)]
    files = {"bestellungen": ("Kunde;Artikel;Datum", orders)}
    files["artikel"] = ("Artikel;Titel;Preis", articles)
    for name, (head, rows) in files.items():
        text = "".join(f"{row}\r\n" for row in (head, *rows))
        (folder / f"{name}.csv").write_bytes(text.encode("latin-1"))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give an installation that is empty before each test, and after it."""
    with Installation(tmp_path_factory.mktemp("browser")) as made:
        made.migrate()
        made.start_server()
        made.start_page()
        yield made


def content_of(made):
    """Return what was stored, but for the numbers of rows and imports."""
    with sqlite3.connect(made.data_dir / "reckeeper.sqlite3") as database:
        interactions = database.execute(
            "SELECT user_id, item_id, interaction_type, weight, occurred_at "
            "FROM user_interactions ORDER BY occurred_at, user_id, item_id"
        ).fetchall()
        items = database.execute("SELECT item_id, title, attributes FROM items ORDER BY 1")
        return interactions, items.fetchall()


def test_a_shops_files_go_in_by_the_page_and_by_one_command(shop, made, browser, tmp_path):
    orders, articles = shop / "bestellungen.csv", shop / "artikel.csv"
    (tmp_path / "terminal").mkdir()
    with Installation(tmp_path / "terminal") as terminal:
        terminal.run("import", str(orders), "--catalogue", str(articles))
        by_command = content_of(terminal)
    assert len(by_command[0]) == N_ORDERS
    assert by_command[0][-1][-1] == 1_369_752_000_000_000  # 28.05.2013 14:40
    assert by_command[1][2][:2] == ("A2", "Gläser für 2 Gäste")

    with opened(made, browser, tmp_path) as page:
        page.get_by_role("link", name="Import a file").click()
        page.locator("input[type=file]").first.set_input_files(orders)
        rows = page.get_by_role("table", name="The first rows, as they would be stored")
        expect(rows.get_by_role("row")).to_have_count(21)
        expect(rows).to_contain_text("2013-05-28T14:00:00")
        page.locator("input[type=file]").nth(1).set_input_files(articles)
        begin = page.get_by_role("button", name="Import bestellungen.csv with artikel.csv")
        expect(begin).to_be_visible()
        page.screenshot(path=tmp_path / "before.png", full_page=True)
        begin.click()
        expect(page.get_by_text("Complete")).to_be_visible()
        report = page.get_by_test_id("stMetric").filter(has_text="New")
        expect(report.first).to_contain_text(str(N_ORDERS))
        latest = page.get_by_role("table", name="The interactions that came last")
        expect(latest).to_contain_text("Gläser für")
        assert content_of(made) == by_command
        page.get_by_role("button", name="Undo").click()
        page.get_by_role("button", name="Yes, take it out").click()
        expect(page.get_by_text("No interactions so far.")).to_be_visible()
        # What is being taken out is not shown any more, a moment before it is gone.
        wait_until(lambda: content_of(made) == ([], []), "all is taken out")


def test_an_import_that_runs_is_stopped_and_undone(made, browser, tmp_path):
    path, n_rows = tmp_path / "long.csv", 2_000_000
    rows = "".join(f"u{n % 997},i{n % 101}\n" for n in range(n_rows // 100))
    path.write_text("user_id,item_id\n" + rows * 100)
    with opened(made, browser, tmp_path) as page:
        page.get_by_role("link", name="Import a file").click()
        page.locator("input[type=file]").first.set_input_files(path)
        page.get_by_role("button", name="Import long.csv").click()
        expect(page.get_by_text("Running · long.csv")).to_be_visible()
        wait_until(lambda: latest_import(made)["accepted"], "rows are stored")
        page.get_by_role("button", name="Stop and undo").click()
        page.screenshot(path=tmp_path / "running.png", full_page=True)
        page.get_by_role("button", name="Yes, take it out").click()
        expect(page.get_by_text("Undone · long.csv")).to_be_visible()
        expect(page.get_by_text("No interactions so far.")).to_have_count(1)
    stopped = latest_import(made)
    assert stopped["status"] == "undone"
    assert stopped["rows"] < n_rows
    assert content_of(made) == ([], [])


def latest_import(made):
    return made.server.get("/imports").json()["imports"][0]
