"""The demo shop of examples/shop: a client made of the OpenAPI document, in a real browser."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import expect
from tests.system.installation import ROOT, Installation, free_port


@pytest.fixture(scope="module")
def shop(tmp_path_factory, browser, demo_once):
    """Give the address of the shop, on an installation with the demo data and its model."""
    url = f"http://localhost:{(port := free_port())}"
    settings = {"RECKEEPER_DEMO": "1", "RECKEEPER_CORS_ORIGINS": url}
    with Installation(tmp_path_factory.mktemp("shop"), **settings) as made:
        made.take_over(demo_once)
        made.start_worker()
        made.start_server()
        program = [sys.executable, ROOT / "examples" / "shop" / "serve.py", "--port", str(port)]
        program += ["--api", str(made.server.base_url).rstrip("/")]
        with subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as serving:
            assert url.encode() in serving.stdout.readline()
            yield url
            serving.terminate()


@pytest.fixture
def page(shop, browser, tmp_path):
    """Give the shop in a window; a picture of its end is kept, and nothing may have failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    failed = []
    page.on("pageerror", lambda error: failed.append(error))
    page.on("response", lambda answer: answer.ok or failed.append(answer.url))
    try:
        page.goto(shop)
        yield page
        assert failed == []
        expect(page.get_by_role("alert")).to_be_hidden()
    finally:
        page.screenshot(path=tmp_path / "end.png", full_page=True)
        context.close()


def titles(section):
    """Return what a list shows, once it has its six items."""
    links = section.locator("ul.items a")
    expect(links).to_have_count(6)
    return links.all_text_contents()


def test_a_customer_looks_buys_and_is_told_why(page):
    for_you, product = page.get_by_label("For you"), page.get_by_label("Product")
    listed = titles(for_you)
    expect(for_you.locator("small").first).to_contain_text("Because you liked")

    page.get_by_role("link", name=listed[0], exact=True).first.click()
    expect(product.get_by_role("heading", level=2)).to_have_text(listed[0])
    liked = titles(product)
    assert listed[0] not in liked
    expect(for_you.get_by_role("link", name=listed[0], exact=True)).to_have_count(0)

    basket = page.get_by_label("Basket")
    product.get_by_role("button").click()
    expect(basket.locator(".basket")).to_contain_text(listed[0])
    assert listed[0] not in titles(basket)
    basket.get_by_role("button", name="Remove").click()
    expect(basket.locator("li")).to_have_count(0)


def test_a_visitor_has_personal_offers_after_the_first_click(page):
    page.get_by_label("Customer").select_option("New visitor")
    for_you = page.get_by_label("For you")
    expect(for_you.locator("small", has_text="Popular with everybody")).to_have_count(6)

    search = page.get_by_role("searchbox")
    search.fill("The ")
    search.press("Enter")
    found = page.get_by_label("Search results").get_by_role("link")
    title = found.first.text_content()
    found.first.click()
    expect(page.get_by_label("Product").get_by_role("heading", level=2)).to_have_text(title)
    expect(for_you.locator("small", has_text=f"Because you liked {title}")).to_have_count(6)


def test_the_tutorial_shows_the_shop_as_it_is():
    shown = re.findall("```js\n(.*?)```", (ROOT / "docs/start/shop.md").read_text("utf-8"), re.S)
    program = (ROOT / "examples" / "shop" / "shop.js").read_text("utf-8")
    assert len(shown) == 6
    assert [block for block in shown if block not in program] == []
