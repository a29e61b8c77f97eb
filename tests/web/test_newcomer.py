"""A newcomer opens the address while the real model still loads, and gets to a map unaided."""

import sys

from playwright.sync_api import Browser, expect

from tests.conftest import free_port, running
from tests.web.conftest import Seen, watched
from tests.web.screenshots import TEXTS


def test_a_newcomer_embeds_uploads_searches_and_sees_a_map(browser: Browser) -> None:
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "WARNING"}
    seen = Seen(f"http://127.0.0.1:{port}", expected={503})
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    with (
        running(command, port, env, ready="/health/live"),
        watched(browser, seen) as page,
    ):
        page.get_by_role("button", name="Embed").click()  # at once, ready or not
        cells = page.locator(".heat tbody td")
        expect(cells).to_have_count(25, timeout=60_000)
        alike, unlike = (float(cells.nth(i).inner_text()) for i in (1, 2))
        assert alike > unlike + 0.3  # cat and kitten; cat and interest rates
        page.get_by_role("tab", name="Collections").click()
        page.get_by_label("Name", exact=True).fill("articles")
        page.get_by_role("button", name="Create").click()
        page.locator("#file").set_input_files(TEXTS)
        expect(page.locator(".map circle")).to_have_count(20, timeout=30_000)
        page.get_by_label("Search by meaning").fill("food and cooking")
        page.keyboard.press("Enter")
        expect(page.locator(".results li").first).to_contain_text("topicfood")
        expect(page.locator(".map circle.hit")).to_have_count(5)
