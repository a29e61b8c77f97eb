"""No serious accessibility fault by axe-core's rules, on any tab, in light and in dark."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.web.conftest import Seen

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RUN = "() => axe.run({resultTypes: ['violations']}).then(r => r.violations)"


def faults(page: Page) -> list[str]:
    page.evaluate(AXE)
    return [
        f"{one['id']}: {one['help']} {[n['target'] for n in one['nodes']][:4]}"
        for one in page.evaluate(RUN)
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_accessible(browser: Browser, url: str, scheme: str) -> None:
    seen = Seen(url)
    context = browser.new_context(color_scheme=scheme)
    seen.watch(context)
    page = context.new_page()
    page.goto(url)
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    assert faults(page) == []
    body = {"collection": f"axe-{scheme}", "texts": ["one", "two"], "metadata": [{"a": 1}, {}]}
    context.request.post(f"{url}/embed-and-store", data=json.dumps(body),
                         headers={"Content-Type": "application/json"})  # fmt: skip
    page.get_by_role("tab", name="Collections").click()
    page.locator(f".item[data-name=axe-{scheme}]").click()
    page.locator("#search-text").fill("one")
    page.locator("#search-text").press("Enter")
    page.locator(".results li").first.wait_for()
    page.locator(".map circle").first.wait_for()
    assert faults(page) == []
    context.request.delete(f"{url}/collections/axe-{scheme}")
    for name, ready in (("Models", ".model"), ("Live", ".chart"), ("Admin", ".setting")):
        page.get_by_role("tab", name=name).click()
        page.locator(ready).first.wait_for()
        assert faults(page) == [], name
    page.get_by_role("button", name="Sign in").click()
    assert faults(page) == []
    context.close()
    assert seen.problems == [] and seen.elsewhere == []


def test_a_fault_would_be_seen(browser: Browser) -> None:
    """The control: a field that nothing names is a fault."""
    page = browser.new_page()
    page.set_content("<html lang=en><title>t</title><main><input></main>")
    assert any(fault.startswith("label") for fault in faults(page))
    page.close()
