"""Takes the pictures of docs/img: `python -m tests.web.screenshots`. Not a test.

Runs the service on the bundled model, uses it as a person would and photographs each tab.
"""

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import ROOT, free_port, running, write_models
from tests.web.conftest import ALONE, FLAGS, PASSWORD, ask, sign_in

FOLDER = ROOT / "docs" / "img"
TEXTS = Path(__file__).parent / "articles.csv"
DESK, PHONE = (1240, 780), (390, 780)
MODELS = {
    "minilm": {"type": "sentence_transformer", "normalize": True,
               "model_name": "sentence-transformers/all-MiniLM-L6-v2"},
    "small": {"type": "openai", "model_name": "text-embedding-3-small"},
}  # fmt: skip
GUARDED = {
    "AUTH_ENABLED": "true",
    "JWT_SECRET_KEY": "pictures-" * 6,
    "ADMIN_PASSWORD": PASSWORD,
    "ENCRYPTION_KEY": Fernet.generate_key().decode(),
}
WATCHED_S = 45  # how long the charts run before their picture
BUSY = ("the cat", "sat on the mat", "and looked out of the window", "at a bird in the tree")


def main() -> None:
    """Take every picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*FLAGS, ALONE]
        )
        with serving() as url:
            take(browser, url, "attempt-light", attempt)
            take(browser, url, "collections-light", collections)
            take(browser, url, "collections-dark", collections)
            take(browser, url, "phone-light", collections, PHONE)
            take(browser, url, "live-dark", lambda page: live(page, url))
        with serving(**GUARDED) as url:
            take(browser, url, "admin-light", admin)
        browser.close()


@contextmanager
def serving(**env: str) -> Iterator[str]:
    """Run the service on the bundled model; yields its address."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder, "models.json"), MODELS)
        given = {"HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "WARNING",
                 "MODEL_CONFIG": str(models), "SUPPORTED_MODELS_FILE": "none", **env}  # fmt: skip
        with running([sys.executable, "-m", "gunicorn", "app:app"], port, given):
            yield f"http://127.0.0.1:{port}"


def take(
    browser: Browser, url: str, name: str, use: Callable[[Page], None], size: tuple = DESK
) -> None:
    """Use the console and photograph what is seen without scrolling."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if name.endswith("dark") else "light",
    )
    page.goto(url)
    use(page)
    expect(page.locator(".toast")).to_have_count(0, timeout=15_000)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.screenshot(path=FOLDER / f"{name}.png")
    page.close()


def attempt(page: Page) -> None:
    """Embed the texts of the first tab."""
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()


def collections(page: Page) -> None:
    """Fill a collection once, and search it."""
    page.get_by_role("tab", name="Collections").click()
    page.locator("#collection-detail > *").first.wait_for()
    if page.locator(".item").count() == 0:
        page.get_by_label("Name", exact=True).fill("articles")
        page.get_by_role("button", name="Create").click()
        page.locator("#file").set_input_files(TEXTS)
    page.locator(".map circle").first.wait_for()
    page.locator("#search-text").fill("food and cooking")
    page.locator("#search-text").press("Enter")
    page.locator(".map circle.hit").last.wait_for()


def live(page: Page, url: str) -> None:
    """Watch the charts while somebody embeds, now more and now less."""
    page.get_by_role("tab", name="Live").click()
    done = threading.Event()

    def load() -> None:
        for turn in range(10**6):
            size = 1 + 4 * (turn // 15 % 5)
            texts = [f"{BUSY[i % 4]} {(turn * size + i) // 2}" for i in range(size)]
            ask(url, "POST", "/v1/embeddings", {"model": "minilm", "input": texts})
            if done.wait(0.05 + 0.05 * (turn // 40 % 3)):
                return

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    page.wait_for_timeout(1000 * WATCHED_S)
    done.set()
    for thread in threads:
        thread.join()


def admin(page: Page) -> None:
    """Add users, and a key of one."""
    sign_in(page, "admin")
    page.get_by_role("tab", name="Admin").click()
    for name, role in (("ana", "user"), ("ben", "reader")):
        page.locator("#user-name").fill(name)
        page.locator("#user-password").fill(PASSWORD)
        page.locator("#user-role").select_option(role)
        page.get_by_role("button", name="Add user").click()
        page.locator(f"[data-user={name}]").wait_for()
    page.get_by_role("button", name="Keys of ana").click()
    page.locator("#key-ana-label").fill("notebook")
    page.locator("[data-user=ana]").get_by_role("button", name="New key").click()
    page.locator(".secret").wait_for()


if __name__ == "__main__":
    main()
