"""Whatever the console shows has an address: links, Back, Forward and a reload lead there."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.conftest import LAN, Seen, ask, watched
from tests.web.test_console import held, tab

TEXTS = ["one", "two", "three"]
READY = {
    "try": "#try-form",
    "collections": "#collection-detail .name",
    "models": ".model",
    "live": ".chart",
    "admin": ".setting",
}


@pytest.fixture
def docs(url: str) -> Iterator[str]:
    """A collection of three texts, beside another."""
    for name in ("docs", "others"):
        body = {"collection": name, "texts": TEXTS, "ids": ["a", "b", "c"]}
        ask(url, "POST", "/embed-and-store", body)
    yield "docs"
    for name in ("docs", "others"):
        ask(url, "DELETE", f"/collections/{name}")


def at(page: Page, place: str) -> None:
    """Wait until this is the address."""
    expect(page).to_have_url(re.compile(re.escape(f"/#/{place}") + "$"))


def opened(page: Page, name: str) -> None:
    """Wait until this collection is open."""
    expect(page.locator("#collection-detail .name")).to_have_text(name)


@pytest.mark.parametrize("name", READY)
def test_every_tab_opens_by_its_address_and_after_a_reload(
    docs: str, page: Page, url: str, name: str
) -> None:
    page.goto(f"{url}/#/{name}")
    for _ in range(2):
        page.locator(READY[name]).first.wait_for()
        chosen = page.locator("#tabs [aria-selected=true]")
        expect(chosen).to_have_attribute("data-name", name)
        page.reload()


def test_the_plain_address_becomes_that_of_the_first_tab(page: Page) -> None:
    at(page, "try")
    page.locator("#try-form").wait_for()


def test_back_and_forward_go_through_what_was_looked_at(docs: str, page: Page) -> None:
    tab(page, "Collections")
    page.locator(".item[data-name=others]").click()
    opened(page, "others")
    tab(page, "Records")
    at(page, "collections/others?show=records")
    page.locator(".item[data-name=docs]").click()
    opened(page, "docs")
    tab(page, "Models")
    page.locator(".model").first.wait_for()
    page.go_back()
    opened(page, "docs")
    page.go_back()
    opened(page, "others")
    expect(page.get_by_role("tab", name="Records")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_role("tab", name="Map")).to_have_attribute("aria-selected", "true")
    page.go_forward()
    expect(page.get_by_role("tab", name="Records")).to_have_attribute("aria-selected", "true")
    page.go_forward()
    opened(page, "docs")


def test_an_address_that_is_typed_into_an_open_page_leads_there(
    docs: str, page: Page, url: str
) -> None:
    page.goto(f"{url}/#/models")
    page.locator(".model").first.wait_for()
    page.evaluate("location.hash = '#/collections/others?show=manage'")
    opened(page, "others")
    expect(page.get_by_role("tab", name="Manage")).to_have_attribute("aria-selected", "true")
    page.evaluate("location.hash = '#live'")  # as it was before there were addresses
    page.locator(".chart").first.wait_for()


def test_a_search_is_kept_by_a_reload_and_by_a_copied_link(
    docs: str, page: Page, browser: Browser, url: str
) -> None:
    page.goto(f"{url}/#/collections/docs")
    page.get_by_label("Search by meaning").fill("two & more")
    page.keyboard.press("Enter")
    page.locator(".results li").first.wait_for()
    at(page, "collections/docs?q=two+%26+more")
    page.reload()
    page.locator(".results li").first.wait_for()
    expect(page.get_by_label("Search by meaning")).to_have_value("two & more")
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    with watched(browser, Seen(url)) as colleague:
        colleague.goto(link)
        colleague.locator(".results li").first.wait_for()
        expect(colleague.get_by_label("Search by meaning")).to_have_value("two & more")


def test_who_comes_back_to_the_tab_finds_what_was_open(docs: str, page: Page, url: str) -> None:
    page.goto(f"{url}/#/collections/others?show=manage")
    opened(page, "others")
    tab(page, "Models")
    page.locator(".model").first.wait_for()
    tab(page, "Collections")
    opened(page, "others")
    at(page, "collections/others?show=manage")


@pytest.mark.parametrize("name", ["gone", "a/b", "<img src=x>", "%", "ä"])
def test_a_collection_that_is_not_there_is_told_with_the_way_out(
    docs: str, page: Page, url: str, name: str
) -> None:
    page.goto(f"{url}/#/models")
    page.evaluate("name => { location.hash = `#/collections/${encodeURIComponent(name)}`; }", name)
    detail = page.locator("#collection-detail")
    expect(detail).to_contain_text(f"There is no collection “{name}”")
    detail.get_by_role("link", name="Show another").click()
    expect(page.locator("#collection-detail .name")).to_be_visible()


@pytest.mark.parametrize("name", ["nowhere", "<b>", "%E4%", "/"])
def test_a_tab_that_is_not_there_is_told_with_the_way_out(page: Page, url: str, name: str) -> None:
    page.locator("#try-form").wait_for()
    page.evaluate("name => { location.hash = `#/${name}`; }", name)
    if name == "/":  # it names nothing
        at(page, "try")
        return
    expect(page.locator("#notice")).to_contain_text("There is no such page")
    page.get_by_role("button", name="Go to Try").click()
    page.locator("#try-form").wait_for()
    expect(page.locator("#notice")).to_be_hidden()


def test_an_unknown_part_of_a_collection_is_its_map(docs: str, page: Page, url: str) -> None:
    page.goto(f"{url}/#/collections/docs?show=nowhere")
    expect(page.get_by_role("tab", name="Map")).to_have_attribute("aria-selected", "true")


def test_the_skip_link_leaves_the_address(docs: str, page: Page, url: str) -> None:
    page.goto(f"{url}/#/collections/docs")
    opened(page, "docs")
    page.get_by_role("link", name="Skip to the content").press("Enter")
    expect(page.locator("main")).to_be_focused()
    at(page, "collections/docs")


def test_the_title_says_what_is_shown(docs: str, page: Page, url: str) -> None:
    page.goto(f"{url}/#/collections/docs")
    expect(page).to_have_title("docs · Collections · Embedding Service")
    tab(page, "Models")
    expect(page).to_have_title("Models · Embedding Service")


def test_what_comes_late_does_not_take_the_address_of_another_tab(docs: str, page: Page) -> None:
    with held(page, "**/collections") as release:
        tab(page, "Collections")
        tab(page, "Models")
        page.locator(".model").first.wait_for()
        with page.expect_response("**/collections"):
            release()
    tab(page, "Live")
    page.locator(".chart").first.wait_for()
    at(page, "live")
    page.go_back()
    at(page, "models")
    page.go_back()
    opened(page, "docs")


# -- what is in the way ----------------------------------------------------------------------------


@pytest.mark.fault("Console")
def test_what_could_not_be_shown_is_shown_once_the_service_is_back(page: Page, seen: Seen) -> None:
    """The service is away while a tab is opened, and comes back -> the card that says so goes by
    itself, and the tab is shown.
    """
    page.locator("#try-form").wait_for()
    page.context.set_offline(True)
    tab(page, "Models")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator("#status")).to_contain_text("not answering")
    page.context.set_offline(False)
    page.locator(".model").first.wait_for()
    expect(page.locator("#notice")).to_be_hidden()
    assert all("ERR_INTERNET_DISCONNECTED" in problem for problem in seen.problems)
    seen.problems.clear()


def test_what_is_still_to_come_is_drawn_as_waiting(docs: str, page: Page) -> None:
    held_back = []
    page.route("**/collections", lambda route: held_back.append(route))
    tab(page, "Collections")
    panel = page.locator("#panel-collections")
    expect(panel).to_have_attribute("aria-busy", "true")
    assert (
        page.evaluate(
            "getComputedStyle(document.querySelector('#collection-detail'), '::after').height"
        )
        != "auto"
    )
    held_back[0].continue_()
    page.locator("#collection-detail .name").wait_for()
    expect(panel).not_to_have_attribute("aria-busy", "true")


def test_from_another_machine_it_is_told_why_one_is_no_admin(browser: Browser, url: str) -> None:
    with watched(browser, Seen(url.replace("127.0.0.1", LAN))) as page:
        tab(page, "Admin")
        card = page.locator("#admin-people .card")
        expect(card).to_contain_text("are sent to box.local")
        card.get_by_role("button", name="Copy").nth(1).click()
        expect(card).to_contain_text("Copied")
        option = card.locator("code").nth(1).inner_text()
        assert re.fullmatch(r"-e ADMIN_TOKEN=[\w-]{43}", option)
        expect(page.locator("#account")).to_be_hidden()  # nothing to sign in with yet
