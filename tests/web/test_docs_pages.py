"""Swagger UI and Redoc in a real browser: they show every route and ask no other machine."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.web.conftest import Seen, serving

PASSWORD = "a-password-for-the-docs"


def tried(page: Page, operation: str) -> Locator:
    """Call a route from Swagger UI, and return where the reply is shown."""
    row = page.locator(f"#operations-{operation}")
    row.locator(".opblock-summary-control").click()
    row.get_by_role("button", name="Try it out").click()
    row.get_by_role("button", name="Execute").click()
    return row.locator(".live-responses-table")


EXAMPLE = "This is an example sentence"


def test_swagger_shows_the_routes_with_examples_and_calls_one(page: Page, url: str) -> None:
    page.goto(f"{url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_have_text("/embed")
    shown = page.locator(".opblock-tag").all_inner_texts()
    assert [text.strip() for text in shown[:4]] == ["embed", "openai", "rerank", "tei"]
    page.locator("#operations-embed-post_embed_embed .opblock-summary-control").click()
    expect(page.get_by_text(EXAMPLE).first).to_be_visible()
    expect(tried(page, "service-get_health_health_health")).to_contain_text("healthy")


def test_redoc_shows_the_routes_with_examples(page: Page, url: str) -> None:
    page.goto(f"{url}/redoc")
    expect(page.locator("[data-item-id^='tag/']").first).to_have_attribute(
        "data-item-id", "tag/embed"
    )
    heading = page.get_by_role("heading", name="Embed one text or many: dense")
    expect(heading.first).to_be_visible()  # it stands under each of its dialects
    expect(page.get_by_text(EXAMPLE).first).to_be_visible()
    page.get_by_placeholder("Search...").fill("collection")
    expect(page.locator("[data-role='search:results']")).to_be_visible()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_description_that_cannot_be_had_is_told(
    page: Page, url: str, seen: Seen, path: str
) -> None:
    seen.expected.add(429)
    busy = {"error": "too many requests; try again in 7 s"}
    page.route("**/openapi.json", lambda route: route.fulfill(status=429, json=busy))
    page.goto(url + path)
    expect(page.locator("#docs").get_by_role("alert")).to_contain_text(busy["error"])
    page.unroute("**/openapi.json")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service whose description is for callers only."""
    env = {"AUTH_ENABLED": "true", "DOCS_PUBLIC": "false", "ADMIN_PASSWORD": PASSWORD,
           "JWT_SECRET_KEY": "signs-the-tokens-of-these-tests-alone"}  # fmt: skip
    with serving(tmp_path_factory.mktemp("closed"), **env) as base:
        yield base


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_closed_page_asks_for_a_sign_in_and_keeps_nothing(
    browser: Browser, closed: str, path: str
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{closed}/openapi.json", timeout=60)
    context, seen = browser.new_context(), Seen(closed)
    seen.watch(context)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(closed + path)
    expect(page.get_by_role("heading", name="Sign in to read the API")).to_be_visible()
    assert "/embed" not in page.content()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("not-the-password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("the username or the password is wrong")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Embed one text or many").locator("visible=true").first).to_be_visible()
    if path == "/docs":
        expect(tried(page, "accounts-get_accounts_me")).to_contain_text('"role": "admin"')
    assert (
        page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    )
    page.reload()
    expect(page.get_by_role("heading", name="Sign in to read the API")).to_be_visible()
    context.close()
    refused = [problem for problem in seen.problems if "401" not in problem]  # those were meant
    assert refused == [] and seen.elsewhere == []


def test_a_request_to_another_machine_would_be_seen(browser: Browser, url: str) -> None:
    """The control: a page that asks elsewhere is in the log, and its own policy stops it."""
    context, seen = browser.new_context(), Seen(url)
    seen.watch(context)
    page = context.new_page()
    page.goto(f"{url}/docs")
    refused = "fetch('http://elsewhere.example/x').then(() => false, () => true)"
    assert page.evaluate(refused) is True
    assert any("Content Security Policy" in problem for problem in seen.problems)
    page.goto("about:blank")
    with page.expect_request("http://elsewhere.example/x"):
        page.evaluate("fetch('http://elsewhere.example/x', {mode: 'no-cors'}).catch(() => null)")
    context.close()
    assert "http://elsewhere.example/x" in seen.elsewhere
