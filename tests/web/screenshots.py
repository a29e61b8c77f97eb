"""Takes the pictures of docs/img: `python -m tests.web.screenshots`. Not a test.

Runs the service on the bundled model, uses it as a person would and photographs each tab. The
pictures there are in Inter (`apt-get install fonts-inter`); without it they are in another font.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import ROOT, free_port, running, write_models
from tests.web.conftest import ALONE, FLAGS, LAN, PASSWORD, ask, sign_in

FOLDER = ROOT / "docs" / "img"
TEXTS = Path(__file__).parent / "articles.csv"
DESK, PHONE = (1240, 780), (390, 780)
HIGHEST, TALL = 1500, 1900  # pixels of a picture; what is longer is cut there
MODELS = {
    "minilm": {"type": "sentence_transformer", "normalize": True,
               "model_name": "sentence-transformers/all-MiniLM-L6-v2"},
    "first-words": {"type": "sentence_transformer", "normalize": True, "max_seq_length": 5,
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
CROWDS = (2, 12, 5, 12)  # how many embed at once, for 7 seconds each
BUSY = ("the cat", "sat on the mat", "and looked out of the window", "at a bird in the tree")


def main() -> None:
    """Take every picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=[*FLAGS, ALONE]
        )
        with serving() as url:
            take(browser, url, "attempt-light", attempt)
            take(browser, url, "code-light", code, part="#try-code")
            take(browser, url, "collections-light", collections, highest=TALL)
            take(browser, url, "collections-dark", collections, highest=TALL)
            take(browser, url, "phone-light", collections, PHONE, highest=TALL)
            take(browser, url, "records-light", records, highest=DESK[1])
            take(browser, url, "file-light", file, part="#part-add", highest=900)
            elsewhere = url.replace("127.0.0.1", LAN)
            take(browser, elsewhere, "why-light", why, part="#panel-admin")
            take(browser, url, "models-light", models)
            with load(url):
                take(browser, url, "live-dark", live)
        with serving(**GUARDED) as url:
            take(browser, url, "admin-light", admin, part="#admin-people")
            take(browser, url, "history-light", history, part="#admin-settings > .card:last-child")
            take(browser, url, "settings-dark", history, part="#admin-settings > .card:first-child")
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
    browser: Browser,
    url: str,
    name: str,
    use: Callable[[Page], None],
    size: tuple[int, int] = DESK,
    part: str = "body",
    highest: int = HIGHEST,
) -> None:
    """Use the console and photograph the whole page, or a part of it."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if name.endswith("dark") else "light",
        reduced_motion="reduce",
    )
    page.goto(url)
    use(page)
    expect(page.locator(".toast")).to_have_count(0, timeout=15_000)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    box = page.locator(part).bounding_box()
    assert box
    clip = {**box, "height": min(box["height"], highest)}
    page.screenshot(path=FOLDER / f"{name}.png", full_page=True, clip=clip)  # type: ignore[arg-type]
    page.close()


def attempt(page: Page) -> None:
    """Embed the texts of the first tab; the second time, so that all is warm."""
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    with page.expect_response("**/v1/embeddings"):
        page.get_by_role("button", name="Embed").click()
    page.wait_for_timeout(500)


def code(page: Page) -> None:
    """Show the same call for OpenAI's client."""
    page.get_by_label("Texts", exact=True).fill("The cat sleeps.\nA kitten naps in the sun.")
    page.get_by_role("button", name="openai", exact=True).click()


def models(page: Page) -> None:
    """Compare the two models that are there."""
    page.get_by_role("tab", name="Models").click()
    page.locator(".model").nth(1).wait_for()
    page.get_by_role("button", name="Compare").click()
    page.locator("#compare-result .heat").nth(1).wait_for()


def collections(page: Page) -> None:
    """Fill a collection once, and search it."""
    page.get_by_role("tab", name="Collections").click()
    page.locator("#collection-detail > *").first.wait_for()
    if page.locator(".item").count() == 0:
        page.get_by_label("Name", exact=True).fill("articles")
        page.get_by_role("button", name="Create").click()
        page.locator("#file").set_input_files(TEXTS)
        page.get_by_role("button", name="Store 100 rows").click()
        page.get_by_role("button", name="See the map").click()
    page.locator(".map[data-points]").wait_for()
    page.get_by_text("similar texts lie close together").wait_for()
    page.get_by_label("Most results").select_option("5")
    page.locator("#search-text").fill("how to prepare a meal")
    page.locator("#search-text").press("Enter")
    page.locator(".map[data-lit]:not([data-lit='0'])").wait_for()


def records(page: Page) -> None:
    """Look at the table, and open one of its records."""
    page.get_by_role("tab", name="Collections").click()
    page.get_by_role("tab", name="Records").click()
    page.locator("#part-records tbody tr").nth(2).wait_for()
    page.locator("#part-records tbody tr").nth(2).click()
    page.locator(".drawer").wait_for()


def file(page: Page) -> None:
    """Choose a file, which is not stored yet."""
    page.get_by_role("tab", name="Collections").click()
    page.get_by_role("tab", name="Add a file").click()
    page.locator("#file").set_input_files(TEXTS)
    page.get_by_role("button", name="Store 100 rows").wait_for()


def why(page: Page) -> None:
    """Learn why one is no admin from another machine."""
    page.get_by_role("tab", name="Admin").click()
    page.locator(".ways").wait_for()


def live(page: Page) -> None:
    """Watch the charts for a while."""
    page.get_by_role("tab", name="Live").click()
    page.wait_for_timeout(1000 * WATCHED_S)


@contextmanager
def load(url: str) -> Iterator[None]:
    """Embed with a few threads, and now and then with more than the service keeps up with."""
    done = threading.Event()

    def embed(number: int) -> None:
        for turn in range(10**6):
            if number < CROWDS[int(time.monotonic() / 7) % len(CROWDS)]:
                texts = [f"{BUSY[i % 4]} {number} {turn} {i}" for i in range(8)]
                texts += [f"{BUSY[i]} {turn % 9}" for i in range(4)]  # these come again
                ask(url, "POST", "/v1/embeddings", {"model": "minilm", "input": texts})
            if done.wait(0.1):
                return

    threads = [threading.Thread(target=embed, args=[number]) for number in range(max(CROWDS))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
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


def history(page: Page) -> None:
    """Change some settings, the first time it is called."""
    sign_in(page, "admin")
    page.get_by_role("tab", name="Admin").click()
    page.locator(".setting").first.wait_for()
    if page.locator(".history li").count():
        return
    for key, value in (("max_texts", "512"), ("texts_per_minute_user", "6000")):
        page.locator(f"[data-key={key}] input").fill(value)
        page.locator(f"[data-key={key}] input").press("Enter")
        page.locator(f"[data-key={key}]").get_by_role("button", name="Revert").wait_for()
    page.get_by_role("button", name="Go back to before").first.click()
    page.locator("#confirm").get_by_role("button", name="Go back").click()
    page.locator(".history li").nth(2).wait_for()


if __name__ == "__main__":
    main()
