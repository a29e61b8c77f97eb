"""Takes the pictures of docs/img: `python -m tests.web.screenshots`. Not a test.

Runs the service on the bundled model, uses it as a person would and photographs each tab.
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.conftest import ROOT, free_port, running
from tests.web.conftest import ALONE, FLAGS

TEXTS = Path(__file__).parent / "articles.csv"
SHOTS = (("light", 1240, 780),)  # also ("dark", 1240, 780), ("phone", 390, 780) to look at


def main() -> None:
    """Take every picture."""
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "WARNING"}
    folder = ROOT / "docs" / "img"
    with (
        running([sys.executable, "-m", "gunicorn", "app:app"], port, env),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*FLAGS, ALONE]
        )
        for name, width, height in SHOTS:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if name == "dark" else "light",
            )
            page.goto(f"http://127.0.0.1:{port}")
            for tab in (attempt, collections):
                tab(page)
                page.screenshot(path=folder / f"{tab.__name__}-{name}.png")
            page.close()
        browser.close()


def attempt(page: Page) -> None:
    """Embed the texts of the first tab."""
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    page.evaluate("window.scrollTo(0, 0)")


def collections(page: Page) -> None:
    """Fill a collection once, and search it."""
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item, #collection-detail .empty").first.wait_for()
    if page.locator(".item").count() == 0:
        page.get_by_label("Name", exact=True).fill("articles")
        page.get_by_role("button", name="Create").click()
        page.locator("#file").set_input_files(TEXTS)
    page.locator(".map circle").first.wait_for()
    page.locator("#search-text").fill("food and cooking")
    page.locator("#search-text").press("Enter")
    page.locator(".map circle.hit").last.wait_for()
    page.locator(".toast").last.wait_for(state="detached")
    page.evaluate("window.scrollTo(0, 0)")


if __name__ == "__main__":
    main()
