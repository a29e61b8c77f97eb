"""The console on a slow line: 800 ms until an answer begins, then 300 kB a second."""

import re

import pytest
from playwright.sync_api import Browser, Page

from tests.web.conftest import Seen, ask

LATENCY_MS, BYTES_PER_S = 800, 300_000
# The aims are 3 s and 8 s; on two shared cores it took 1.8 and 5.3 to 7.8 (2026-11-30). A machine
# that is slow itself has twice as long, and some tries.
PAINTED_MS, USEFUL_MS = 6000, 16_000
TRIES = 4


@pytest.fixture(scope="module")
def described(url: str) -> str:
    """A service with a collection to open."""
    body = {"collection": "slow", "texts": [f"text {i}" for i in range(60)]}
    ask(url, "POST", "/embed-and-store", body)
    return url


def times(browser: Browser, url: str, useful: str) -> tuple[float, float]:
    """Open an address on the slow line; return when something and what is `useful` was there."""
    context = browser.new_context()
    page = context.new_page()
    line = context.new_cdp_session(page)
    line.send("Network.enable")
    conditions = {"offline": False, "latency": LATENCY_MS}
    speed = {"downloadThroughput": BYTES_PER_S, "uploadThroughput": BYTES_PER_S}
    line.send("Network.emulateNetworkConditions", {**conditions, **speed})
    page.goto(url, wait_until="commit")
    page.locator(useful).first.wait_for(state="attached", timeout=60_000)
    there = page.evaluate("performance.now()")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return painted, there


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "useful"),
    [("/", "#try-model option"), ("/#/collections", ".item"), ("/#/models", ".model")],
)
def test_it_is_painted_and_useful_soon(
    browser: Browser, described: str, path: str, useful: str
) -> None:
    seen = []
    for _ in range(TRIES):
        seen.append(times(browser, f"{described}{path}", useful))
        if seen[-1][0] < PAINTED_MS and seen[-1][1] < USEFUL_MS:
            return
    pytest.fail(f"painted and useful after, in ms: {seen}")


def test_no_module_is_found_late(page: Page, seen: Seen, url: str) -> None:
    """Each would cost a round trip: the page names all that any of its modules imports."""
    named = set(page.locator("link[rel=modulepreload]").evaluate_all("all => all.map(l => l.href)"))
    for name in ("Collections", "Models", "Live", "Admin"):
        page.get_by_role("tab", name=name).click()
        page.locator(f"#panel-{name.lower()}:not([aria-busy])").wait_for()
    # The map's worker is asked for when a map is laid out.
    of_worker = "map-worker|embedding-atlas"
    loaded = [each for each in seen.requests
              if each.endswith(".js") and not re.search(of_worker, each)]  # fmt: skip
    assert set(loaded) <= named and len(loaded) == len(set(loaded)), "each once, by one address"
    first = page.locator("link[rel=modulepreload]:not([fetchpriority])").count()
    assert 1 < first < 10, "what asks who is calling takes two rounds of six connections"
