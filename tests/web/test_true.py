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
    sent: list[str] = []
    page.on("request", lambda each: sent.append(each.url) if each.method == "POST" else None)
    for given in ("1e400", "-5000", "5000.5", "1023"):
        row.locator("input").fill("")
        row.locator("input").press_sequentially(given)
        row.locator("input").press("Enter")
        expect(row.locator(".error")).to_be_visible()
    assert sent == []
    row.locator("input").fill("9007199254740993")  # which JavaScript would round
    with page.expect_response("**/settings") as reply:
        row.locator("input").press("Enter")
    assert reply.value.status == 422
    assert reply.value.request.post_data_json["value"] == "9007199254740993"
    assert ask(url, "GET", "/settings/max_queue_tokens")["value"] == before
