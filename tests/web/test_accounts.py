"""The console where callers must sign in: who sees what, and what an admin does there."""

import os
import re
import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.providers.server import KEY
from tests.web.conftest import PASSWORD, Guarded, Seen, ask, sign_in, watched
from tests.web.test_console import held, shown_code, tab

KEPT = """async () => [localStorage.length, sessionStorage.length, document.cookie, window.name,
    (await indexedDB.databases()).length, (await caches.keys()).length]"""


@pytest.fixture
def seen(guarded: Guarded) -> Seen:
    return Seen(guarded.url)


@pytest.fixture
def page(browser: Browser, seen: Seen) -> Iterator[Page]:
    with watched(browser, seen) as page:
        yield page


@pytest.fixture
def admin(page: Page) -> Page:
    sign_in(page, "admin")
    tab(page, "Admin")
    expect(page.locator("[data-key=max_texts]")).to_be_visible()
    return page


def tabs(page: Page) -> list[str]:
    return page.locator("[role=tab]:visible").all_inner_texts()


def test_a_stranger_may_only_sign_in(page: Page, seen: Seen) -> None:
    expect(page.locator("#sign-in")).to_be_visible()
    page.keyboard.press("Escape")
    assert tabs(page) == []
    expect(page.locator("#notice")).to_contain_text("sign in")
    page.locator("#notice").get_by_role("button", name="Sign in").click()
    seen.expected.add(401)
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("not this one")
    page.keyboard.press("Enter")
    expect(page.locator("#sign-in .error")).to_have_text("The username or the password is wrong.")
    page.get_by_label("API key").fill("emb_no_such-key")
    page.keyboard.press("Enter")
    expect(page.locator("#sign-in .error")).to_contain_text("unknown, expired or revoked")
    assert tabs(page) == []


def test_the_token_is_in_memory_only(page: Page, guarded: Guarded) -> None:
    with page.expect_response("**/token") as reply:
        sign_in(page, "uma")
    token = reply.value.json()["access_token"]
    expect(page.locator("#who")).to_have_text("uma · user")
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    assert page.evaluate(KEPT) == [0, 0, "", "", 0, 0]
    state = page.context.storage_state()
    assert state["cookies"] == [] and state["origins"] == []
    assert token not in page.url and token not in page.content()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#sign-in")).to_be_visible()
    assert tabs(page) == [] and page.locator(".heat").count() == 0


@pytest.mark.parametrize("name", ["rita", "uma", "ada"])
def test_each_role_sees_what_it_may(page: Page, guarded: Guarded, name: str) -> None:
    body = {"collection": "shared", "texts": ["one", "two"], "ids": ["1", "2"]}
    guarded.ask("POST", "/embed-and-store", body)
    sign_in(page, name)
    last = "Admin" if name == "ada" else "Account"
    expect(page.get_by_role("tab", name=last)).to_be_visible()
    assert tabs(page) == ["Try", "Collections", "Models", "Live", last]
    tab(page, "Collections")
    page.locator(".map circle").first.wait_for()
    writes = name != "rita"
    expect(page.locator("#collection-new")).to_be_visible(visible=writes)
    expect(page.locator("#file")).to_have_count(int(writes))
    expect(page.locator("#collection-detail")).not_to_contain_text("null")  # what is left out
    expect(page.locator("#collection-detail").get_by_role("button", name="Delete")).to_have_count(
        int(writes)
    )
    page.get_by_label("Search by meaning").fill("one")
    page.keyboard.press("Enter")
    expect(page.locator(".results li")).to_have_count(2)
    tab(page, "Models")
    page.locator(".model").first.wait_for()
    expect(page.locator("#load-form")).to_be_visible(visible=name == "ada")
    tab(page, last)
    ready = ".setting" if name == "ada" else ".keys"
    expect(page.locator(f"#panel-admin {ready}").first).to_be_visible()
    expect(page.locator(".setting").first).to_be_visible(visible=name == "ada")


def test_a_user_makes_a_key_and_changes_the_password(page: Page, guarded: Guarded) -> None:
    body = {"username": "once", "password": PASSWORD, "role": "user"}
    guarded.ask("POST", "/users", body)
    sign_in(page, "once")
    tab(page, "Account")
    page.get_by_label("Label").fill("my notebook")
    page.get_by_role("button", name="New key").click()
    expect(page.locator(".secret code")).to_have_text(re.compile("^emb_"))
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password").fill(PASSWORD + "-2")
    page.get_by_role("button", name="Change").click()
    expect(page.locator(".toast").last).to_contain_text("password is changed")
    tab(page, "Models")  # still signed in
    expect(page.locator(".model").first).to_be_visible()
    guarded.ask("DELETE", "/users/once")


def test_a_key_is_shown_once_copied_and_revoked(admin: Page, seen: Seen, guarded: Guarded) -> None:
    row = admin.locator("[data-user=rita]")
    row.get_by_role("button", name="Keys of rita").click()
    row.get_by_label("Label").fill("laptop")
    row.get_by_role("button", name="New key").click()
    row.locator(".secret").get_by_role("button", name="Copy").click()
    key = admin.evaluate("navigator.clipboard.readText()")
    assert ask(guarded.url, "GET", "/users/me", None, key)["role"] == "reader"
    tab(admin, "Try")
    tab(admin, "Admin")
    row.get_by_role("button", name="Keys of rita").click()
    expect(row.locator("li")).to_contain_text("laptop")
    assert key not in admin.content()
    row.get_by_role("button", name="Revoke laptop").click()
    admin.locator("#confirm").get_by_role("button", name="Revoke").click()
    expect(row.locator(".keys li")).to_have_count(0)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(guarded.url, "GET", "/users/me", None, key)


def test_the_tab_shows_no_stale_rows_while_it_is_drawn_anew(admin: Page) -> None:
    with held(admin, "**/users") as release:
        tab(admin, "Try")
        with admin.expect_request("**/users"):
            tab(admin, "Admin")
        expect(admin.locator("[data-user]")).to_have_count(0)
        release()
    expect(admin.locator("[data-user=rita]")).to_be_visible()


def test_a_tab_chosen_while_the_page_learns_who_signed_in_is_drawn_once(
    browser: Browser, guarded: Guarded
) -> None:
    asked: list[Route] = []

    def answer_the_first(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            route.continue_()

    with watched(browser, Seen(guarded.url)) as page:
        page.route("**/users/me", answer_the_first)
        sign_in(page, "ada")
        tab(page, "Admin")
        page.get_by_role("button", name="Keys of rita").click()
        label = page.locator("[data-user=rita]").get_by_label("Label")
        expect(label).to_be_visible()
        for late in asked[1:]:
            late.continue_()
        page.wait_for_load_state("networkidle")
        expect(label).to_be_visible()


def test_users_are_added_given_another_role_and_deleted(admin: Page, guarded: Guarded) -> None:
    admin.locator("#user-name").fill("new")
    admin.locator("#user-password").fill(PASSWORD)
    admin.locator("#user-role").select_option("reader")
    admin.get_by_role("button", name="Add user").click()
    row = admin.locator("[data-user=new]")
    admin.get_by_label("Role of new").select_option("user")
    expect(admin.locator(".toast").last).to_contain_text("new is user now")
    assert {"new": "user"}.items() <= {
        one["username"]: one["role"] for one in guarded.ask("GET", "/users")["users"]
    }.items()
    row.get_by_role("button", name="Delete new").click()
    admin.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    assert "new" not in [one["username"] for one in guarded.ask("GET", "/users")["users"]]


def test_a_taken_name_is_told(admin: Page, seen: Seen) -> None:
    seen.expected.add(409)
    admin.locator("#user-name").fill("rita")
    admin.locator("#user-password").fill(PASSWORD)
    admin.get_by_role("button", name="Add user").click()
    expect(admin.locator("#admin-people form > .error:visible")).to_contain_text("rita")


@pytest.mark.fault("Console")
def test_a_providers_key_is_stored_tried_and_deleted(
    admin: Page, seen: Seen, guarded: Guarded
) -> None:
    """A provider's key that is wrong, or was not used yet -> no green dot, and its model does not
    become the default.
    """
    row, model = admin.locator("[data-provider=openai]"), admin.locator("[data-model=away]")
    expect(row).to_contain_text("no key")
    row.get_by_role("button", name="Store a key").click()
    row.get_by_label("API key of openai").fill(KEY)
    row.get_by_role("button", name="Store", exact=True).click()
    expect(row).to_contain_text(f"stored key ending in {KEY[-4:]}")
    assert KEY not in admin.content()
    expect(row.locator(".hosts")).to_contain_text("not called yet")
    expect(row.locator(".dot.healthy")).to_have_count(0)
    seen.expected.update({502, 503})
    guarded.provider.always = (401, {})
    admin.get_by_role("tab", name="Models").click()
    model.get_by_role("button", name="Make default").click()
    expect(model).to_contain_text("its key is refused")
    admin.get_by_role("tab", name="Admin").click()
    expect(row.locator(".hosts")).to_contain_text("failing")
    row.get_by_role("button", name="Test").click()
    expect(row.locator(".error").first).to_contain_text("its key is refused")
    expect(row.locator(".dot.healthy")).to_have_count(0)
    admin.get_by_role("tab", name="Models").click()
    expect(model).to_contain_text("unavailable")
    expect(model.get_by_role("button")).to_have_count(0)
    assert guarded.ask("GET", "/models")["default"] == "first"
    admin.get_by_role("tab", name="Admin").click()
    guarded.provider.always = "good"
    row.get_by_role("button", name="Test").click()
    expect(row.locator(".well")).to_contain_text("text-embedding-3-small answered with 8 dimen")
    assert guarded.provider.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    expect(row.locator(".hosts")).to_contain_text("127.0.0.1")
    expect(row.locator(".hosts")).to_contain_text("well")
    expect(row.locator(".dot.healthy")).to_have_count(1)
    guarded.provider.always = (500, {})
    for _ in range(2):  # three tries each, and five failures in a row open the breaker
        row.get_by_role("button", name="Test").click()
        expect(row.locator(".error").first).to_be_visible()
        expect(row.get_by_role("button", name="Test")).to_be_enabled()
    expect(row.locator(".hosts")).to_contain_text("left alone")
    guarded.provider.always = "good"
    row.get_by_role("button", name="Delete").click()
    admin.locator("#confirm").get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("stored key")
    row.get_by_role("button", name="Delete").click()
    admin.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(row).to_contain_text("no key")


def test_the_history_says_who_changed_what(admin: Page, guarded: Guarded) -> None:
    row = admin.locator("[data-key=max_texts]")
    row.locator("input").fill("99")
    row.locator("input").press("Enter")
    entry = admin.locator(".history li").first
    expect(entry).to_contain_text("by admin")
    expect(entry).to_contain_text("max_textsunset → 99")
    entry.get_by_role("button", name="Go back to before").click()
    admin.locator("#confirm").get_by_role("button", name="Go back").click()
    expect(row.locator("input")).to_have_value("2048")


def test_the_code_shown_takes_the_key_from_the_environment(page: Page, guarded: Guarded) -> None:
    sign_in(page, "uma")
    key = guarded.ask("POST", "/users/uma/api-key")
    env = {**os.environ, "EMBEDDING_API_KEY": key["api_key"]}
    page.get_by_label("Texts", exact=True).fill("one")
    programs = [["sh", "-c", shown_code(page, "curl")]]
    programs += [[sys.executable, "-c", shown_code(page, name)] for name in ("requests", "openai")]
    for program in programs:
        assert "Bearer eyJ" not in program[-1]
        run = subprocess.run(program, env=env, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0 and "error" not in run.stdout, run.stderr
    guarded.ask("DELETE", f"/users/uma/api-keys/{key['id']}")


def test_an_ended_sign_in_asks_again_and_goes_on(page: Page, seen: Seen, guarded: Guarded) -> None:
    body = {"username": "brief", "password": PASSWORD, "role": "user"}
    guarded.ask("POST", "/users", body)
    sign_in(page, "brief")
    expect(page.locator("#who")).to_contain_text("brief")
    guarded.ask("POST", "/users/brief/password", {"password": PASSWORD + "-2"})
    seen.expected.add(401)
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#sign-in-reason")).to_contain_text("signed out")
    sign_in(page, "brief", PASSWORD + "-2")
    page.locator(".heat").wait_for()  # the call that was refused was made again
    guarded.ask("DELETE", "/users/brief")
