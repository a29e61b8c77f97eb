"""At a phone's width nothing is wider than the page, whatever is shown, and all is accessible."""

import pytest
from playwright.sync_api import Browser, Page

from tests.web.conftest import Guarded, Seen, ask, sign_in, watched
from tests.web.test_accessible import faults

WIDTH = 360
PHONE = {"viewport": {"width": WIDTH, "height": 780}}
LONG = "w" * 300


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth") <= WIDTH)


def test_results_with_long_ids_and_metadata_fit(browser: Browser, url: str) -> None:
    name = "c" * 64
    texts = [LONG, "word " * 80]
    body = {"ids": ["i" * 300, "j" * 300], "metadata": [{"k" * 80: LONG}, {"nested": {LONG: [1]}}]}
    ask(url, "POST", "/embed-and-store", {"collection": name, "texts": texts, **body})
    vectors = [{"id": "x" * 300, "vector": [1] * 8}]  # without a text: the id is shown
    ask(url, "POST", f"/collections/{name}/vectors", {"vectors": vectors})
    with watched(browser, Seen(url), **PHONE) as page:
        page.get_by_role("tab", name="Collections").click()
        page.locator(f".item[data-name={name}]").click()
        page.locator(".map[data-points]").wait_for()
        page.get_by_label("Search by meaning").fill("any")
        page.keyboard.press("Enter")
        page.locator(".map[data-lit]:not([data-lit='0'])").wait_for()
        assert fits(page) and faults(page) == []
        page.locator(".map .map-field").focus()
        page.keyboard.press("ArrowRight")
        assert fits(page)
    ask(url, "DELETE", f"/collections/{name}")


def test_a_comparison_fits(browser: Browser, url: str) -> None:
    with watched(browser, Seen(url), **PHONE) as page:
        page.get_by_role("tab", name="Models").click()
        page.locator(".model").first.wait_for()
        page.get_by_label("Texts, one a line").fill(
            "\n".join([LONG, "two", "three", "four", "five"])
        )
        page.get_by_role("button", name="Compare").click()
        page.locator("#compare-result .heat").nth(1).wait_for()
        assert fits(page) and faults(page) == []


@pytest.mark.parametrize("name", ["ada", "uma"])
def test_open_keys_fit(browser: Browser, guarded: Guarded, name: str) -> None:
    with watched(browser, Seen(guarded.url), **PHONE) as page:
        sign_in(page, name)
        page.get_by_role("tab", name="Admin" if name == "ada" else "Account").click()
        if name == "ada":
            page.get_by_role("button", name="Keys of rita").click()
            page.get_by_role("button", name="Store a key: openai").click()
        keys = page.locator(".keys").filter(visible=True)
        keys.get_by_label("Label").fill("l" * 120)
        keys.get_by_role("button", name="New key").click()
        keys.locator(".secret").wait_for()
        assert fits(page) and faults(page) == []
        keys.get_by_role("button", name="Revoke").click()
        page.locator("#confirm").get_by_role("button", name="Revoke").click()
        keys.get_by_text("No key yet.").wait_for()
