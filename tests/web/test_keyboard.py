"""A task on each of the tabs that are mostly looked at, by keyboard alone."""

import re

from playwright.sync_api import Page, expect

from tests.web.conftest import ask


def open_tab(page: Page, name: str) -> None:
    """Go to a tab with the arrow keys."""
    page.get_by_role("tab", name="Try").focus()
    for _ in range(6):
        if page.get_by_role("tab", name=name).get_attribute("aria-selected") == "true":
            break
        page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name=name)).to_be_focused()


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(120):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is never reached")


def test_two_models_are_compared(page: Page) -> None:
    open_tab(page, "Models")
    page.locator(".model").first.wait_for()
    tab_to(page, "#compare-b")
    page.keyboard.press("ArrowUp")  # the first of the list, and back
    expect(page.locator("#compare-b")).to_have_value("first")
    page.keyboard.press("ArrowDown")
    tab_to(page, "#compare-texts")
    page.keyboard.press("Control+A")
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    tab_to(page, "#compare-form [type=submit]")
    page.keyboard.press("Enter")
    expect(page.locator("#compare-result .heat")).to_have_count(2)
    expect(page.locator("#compare-said")).to_have_text(re.compile("first and second compared"))


def test_another_model_is_made_the_default(page: Page, url: str) -> None:
    open_tab(page, "Models")
    page.locator(".model").first.wait_for()
    tab_to(page, "[data-model=second] button")
    page.keyboard.press("Enter")
    expect(page.locator("[data-model=second]")).to_contain_text("Default model")
    ask(url, "DELETE", "/settings/model_name")


def test_a_setting_is_changed_and_taken_back(page: Page, url: str) -> None:
    open_tab(page, "Admin")
    page.locator(".setting").first.wait_for()
    before = ask(url, "GET", "/settings/max_texts")["value"]
    tab_to(page, "#setting-max_texts")
    page.keyboard.press("Control+A")
    page.keyboard.type("66")
    page.keyboard.press("Enter")
    row = page.locator("[data-key=max_texts]")
    expect(row.get_by_role("button", name="Revert")).to_be_visible()
    assert ask(url, "GET", "/settings/max_texts")["value"] == 66
    expect(row.locator("input")).to_be_focused()  # all was drawn anew
    tab_to(page, "[data-key=max_texts] button")
    page.keyboard.press("Enter")
    expect(row.locator("input")).to_have_value(str(before))
    expect(row.locator("input")).to_be_focused()
