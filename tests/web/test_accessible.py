"""No serious accessibility fault by axe-core's rules, on any tab, in light and
dark, before and after signing in."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.web.conftest import Guarded, Seen, ask, sign_in, watched

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RUN = "() => axe.run({resultTypes: ['violations']}).then(r => r.violations)"


def faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    return [
        f"{one['id']}: {one['help']} {[n['target'] for n in one['nodes']][:4]}"
        for one in page.evaluate(RUN)
        if one["impact"] in ("serious", "critical")
    ]


def visit_every_tab(page: Page, last: str) -> None:
    """Fill each tab with what it shows, and look for faults there."""
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    assert faults(page) == []
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item[data-name=axe]").click()
    page.locator("#search-text").fill("one")
    page.locator("#search-text").press("Enter")
    page.locator(".results li").first.wait_for()
    page.locator(".map[data-points]").wait_for()
    assert faults(page) == []
    for name, ready in (("Models", ".model"), ("Live", ".chart"), (last, "#panel-admin .card")):
        page.get_by_role("tab", name=name).click()
        page.locator(ready).first.wait_for()
        assert faults(page) == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_accessible(browser: Browser, url: str, scheme: str) -> None:
    with watched(browser, Seen(url), color_scheme=scheme) as page:
        page.get_by_role("tab", name="Collections").click()
        page.get_by_role("button", name="Add a sample collection").wait_for()
        assert faults(page) == []
        ask(url, "POST", "/embed-and-store", {"collection": "axe", "texts": ["one", "two"]})
        page.get_by_role("tab", name="Try").click()
        visit_every_tab(page, "Admin")
        page.get_by_role("tab", name="Collections").click()
        page.get_by_role("tab", name="Manage").click()
        page.get_by_role("button", name="Delete collection").click()
        assert faults(page) == []
        page.keyboard.press("Escape")
        ask(url, "DELETE", "/collections/axe")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_goes_wrong_and_what_is_compared_is_accessible(
    browser: Browser, url: str, scheme: str
) -> None:
    with watched(browser, Seen(url, expected={422, 503}), color_scheme=scheme) as page:
        page.get_by_label("Texts", exact=True).fill("")
        page.get_by_role("button", name="Embed").click()
        page.locator("#try-error").wait_for()
        assert faults(page) == []
        page.get_by_role("tab", name="Models").click()
        page.locator(".model").first.wait_for()
        page.get_by_role("button", name="Compare").click()
        page.locator("#compare-result .heat").nth(1).wait_for()
        page.get_by_label("Name on the model hub").fill("/no/such/folder")
        page.get_by_role("button", name="Load and make default").click()
        page.locator("#load-form .error").wait_for()
        assert faults(page) == []
        busy = {"error": "the store is busy"}
        page.route("**/collections", lambda route: route.fulfill(status=503, json=busy))
        page.get_by_role("tab", name="Collections").click()
        page.locator("#notice").get_by_role("button", name="Try again").wait_for()
        assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signing_in_and_what_follows_is_accessible(
    browser: Browser, guarded: Guarded, scheme: str
) -> None:
    body = {"collection": "axe", "texts": ["one", "two"], "metadata": [{"a": 1}, {}]}
    guarded.ask("POST", "/embed-and-store", body)
    with watched(browser, Seen(guarded.url), color_scheme=scheme) as page:
        page.locator("#sign-in").wait_for()
        assert faults(page) == []
        page.keyboard.press("Escape")
        assert faults(page) == []
        page.locator("#account").click()
        sign_in(page, "ada" if scheme == "light" else "uma")
        visit_every_tab(page, "Admin" if scheme == "light" else "Account")
        if scheme == "light":
            page.get_by_role("button", name="Keys of uma").click()
            page.get_by_role("button", name="Store a key: cohere").click()
        page.locator(".keys form").filter(visible=True).first.wait_for()
        assert faults(page) == []
    guarded.ask("DELETE", "/collections/axe")


def test_a_fault_would_be_seen(browser: Browser) -> None:
    """The control: a field that nothing names is a fault."""
    page = browser.new_page()
    page.set_content("<html lang=en><title>t</title><main><input></main>")
    assert any(fault.startswith("label") for fault in faults(page))
    page.close()
