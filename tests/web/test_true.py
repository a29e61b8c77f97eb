"""What the console shows is what the service has: nothing is left out, rounded or joined."""

import re

from playwright.sync_api import Page, Route, expect

from tests.web.conftest import Seen, ask
from tests.web.test_console import tab


def test_a_list_of_collections_that_comes_in_parts_is_shown_whole(page: Page, url: str) -> None:
    names = ["part-a", "part-b", "part-c"]
    for name in names:
        ask(url, "POST", "/collections", {"name": name, "model": "first"})

    def one_at_a_time(route: Route) -> None:
        asked = route.request.url
        route.continue_(url=f"{asked}{'&' if '?' in asked else '?'}limit=1")

    page.route(re.compile(r"/collections(\?.*)?$"), one_at_a_time)
    tab(page, "Collections")
    for name in names:
        expect(page.locator(f".item[data-name={name}]")).to_be_visible()
    for name in names:
        ask(url, "DELETE", f"/collections/{name}")


def test_a_number_of_a_setting_is_never_read_as_another(page: Page, seen: Seen, url: str) -> None:
    seen.expected.add(422)
    tab(page, "Admin")
    row = page.locator("[data-key=max_queue_tokens]")
    before = ask(url, "GET", "/settings/max_queue_tokens")["value"]
    for given in ("0x100000", "1e400", "5000 0", "Infinity"):
        row.locator("input").fill(given)
        with page.expect_response("**/settings") as reply:
            row.locator("input").press("Enter")
        assert reply.value.status == 422
    expect(row.locator(".error")).to_contain_text("it should be a valid integer")
    assert ask(url, "GET", "/settings/max_queue_tokens")["value"] == before


def test_charts_that_nobody_looked_at_have_a_gap(page: Page, url: str) -> None:
    tab(page, "Live")
    line = page.locator("[data-chart=Queue] .line")
    expect(line).to_have_attribute("d", re.compile("M.*L"))
    tab(page, "Try")
    tab(page, "Live")
    expect(line).to_have_attribute("d", re.compile("M.*L.*M.*L"))
