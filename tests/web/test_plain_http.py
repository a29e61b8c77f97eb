"""The console over plain HTTP from another machine, where browsers keep some functions back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.conftest import LAN, Seen, ask, watched


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with watched(browser, Seen(url.replace("127.0.0.1", LAN))) as page:
        assert page.evaluate("isSecureContext") is False
        yield page


def test_a_file_without_ids_is_stored(page: Page, url: str, tmp_path: Path) -> None:
    ask(url, "POST", "/collections", {"name": "plain", "model": "first"})
    (tmp_path / "rows.txt").write_text("one\ntwo\n")
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item[data-name=plain]").click()
    page.locator("#file").set_input_files(tmp_path / "rows.txt")
    page.get_by_role("button", name="Store 2 rows").click()
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts2")
    page.get_by_role("button", name="See the map").click()
    expect(page.locator(".map")).to_have_attribute("data-points", "2")
    ask(url, "DELETE", "/collections/plain")


def test_the_code_shown_can_be_copied(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("plain http")
    page.locator("#try-code").get_by_role("button", name="Copy").click()
    expect(page.locator("#try-code")).to_contain_text("Copied")
    code = page.locator("#try-code code").inner_text()
    page.get_by_label("Texts", exact=True).fill("")
    page.keyboard.press("Control+V")
    expect(page.get_by_label("Texts", exact=True)).to_have_value(code)
