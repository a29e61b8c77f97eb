"""The console where callers must sign in: who sees what, and what an admin does there."""

import re
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import free_port, running, write_models
from tests.web.conftest import MODELS, PASSWORD, Guarded, Seen, ask, sign_in, watched
from tests.web.test_console import held, tab

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


def session_of(page: Page) -> list[dict]:
    return [dict(one) for one in page.context.cookies()]


def test_no_script_sees_the_token_and_a_reload_keeps_it(page: Page, guarded: Guarded) -> None:
    with page.expect_response("**/session") as reply:
        sign_in(page, "uma")
    expect(page.locator("#who")).to_have_text("uma · user")
    page.get_by_role("button", name="Embed", exact=True).last.click()
    page.locator(".heat").wait_for()
    (cookie,) = session_of(page)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert page.evaluate(KEPT) == [0, 0, "", "", 0, 0]
    assert page.context.storage_state()["origins"] == []
    token = cookie["value"]
    assert all(token not in text for text in (page.url, page.content(), reply.value.text()))
    page.reload()
    expect(page.locator("#who")).to_have_text("uma · user")
    expect(page.locator("#sign-in")).to_be_hidden()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#sign-in")).to_be_visible()
    assert tabs(page) == [] and page.locator(".heat").count() == 0
    assert session_of(page) == []
    page.reload()
    expect(page.locator("#sign-in")).to_be_visible()


def test_who_signs_in_or_out_in_one_tab_does_so_in_all(page: Page, guarded: Guarded) -> None:
    other = page.context.new_page()
    other.goto(guarded.url)
    expect(other.locator("#sign-in")).to_be_visible()
    sign_in(page, "uma")
    expect(other.locator("#who")).to_have_text("uma · user")
    other.get_by_role("button", name="Sign out").click()
    expect(page.locator("#sign-in")).to_be_visible()
    assert tabs(page) == []


def test_an_address_is_shown_after_signing_in(page: Page, guarded: Guarded) -> None:
    page.goto(guarded.url + "/#/models")
    page.reload()
    sign_in(page, "rita")
    expect(page.locator(".model").first).to_be_visible()


CALLS = """async (service) => {
    const send = (method, path, options) =>
        fetch(service + path, {method, credentials: "include", ...options}).catch(() => null);
    const eve = JSON.stringify({username: "eve", password: "eve-password-1"});
    await send("DELETE", "/users/rita");
    await send("POST", "/users", {mode: "no-cors", body: eve});
    await send("POST", "/users/rita/password", {mode: "no-cors", body: eve});
    await send("GET", "/users", {mode: "no-cors"});
}"""


@pytest.mark.fault("Console")
def test_a_page_of_another_port_does_nothing_with_the_cookie(
    browser: Browser, url: str, guarded: Guarded
) -> None:
    """A page of another port of the console's host, for which a browser sends the cookie too, calls
    the service -> 401, and nothing is changed.
    """
    context = browser.new_context()
    console, other = context.new_page(), context.new_page()
    console.goto(guarded.url)
    sign_in(console, "ada")
    expect(console.locator("#who")).to_have_text("ada · admin")
    other.goto(f"{url}/health")  # another service of the same host
    answers: list[int] = []
    other.on("response", lambda answer: answers.append(answer.status))
    sent: list[dict[str, str]] = []
    wire = context.new_cdp_session(other)
    wire.on("Network.requestWillBeSentExtraInfo", lambda event: sent.append(event["headers"]))
    wire.send("Network.enable")
    other.evaluate(CALLS, guarded.url)
    assert answers.count(401) == 3 and max(answers) < 404  # the preflight of DELETE is refused
    cookies = [one["Cookie"] for one in sent if "Cookie" in one]
    assert len(cookies) == 3 and all("embedding-session-" in one for one in cookies)
    assert len(guarded.ask("GET", "/users")["users"]) == 4
    context.close()


def test_a_key_signs_in_and_outlasts_a_restart(browser: Browser, tmp_path: Path) -> None:
    """With API_KEY_SECRET alone; the page says why that is no admin, and waits for the service."""
    port, key = free_port(), "the-key-of-this-test"
    models = write_models(tmp_path / "models.json", MODELS)
    env = {
        "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(models), "DATA_DIR": "data",
        "SUPPORTED_MODELS_FILE": "none", "REQUIRE_AUTH": "true", "API_KEY_SECRET": key,
        "LOG_LEVEL": "WARNING", "EMBEDDING_DB_URL": f"sqlite:///{tmp_path}/db",
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "app:app"]
    seen = Seen(f"http://127.0.0.1:{port}")
    with ExitStack() as first:
        first.enter_context(running(command, port, env))
        with watched(browser, seen) as page:
            expect(page.get_by_label("Password", exact=True)).to_be_hidden()
            page.get_by_label("API key").fill(key)
            page.keyboard.press("Enter")
            expect(page.locator("#who")).to_have_text("API_KEY_SECRET · user")
            tab(page, "Account")
            expect(page.locator("#panel-admin code").first).to_contain_text("JWT_SECRET_KEY=")
            first.close()
            tab(page, "Models")
            expect(page.locator("#notice")).to_contain_text("does not answer")
            with running(command, port, env):
                page.locator(".model").first.wait_for()
                page.reload()
                expect(page.locator("#who")).to_have_text("API_KEY_SECRET · user")
            assert all("ERR_CONNECTION" in problem for problem in seen.problems)
            seen.problems.clear()


@pytest.mark.parametrize("name", ["rita", "uma", "ada"])
def test_each_role_sees_what_it_may(page: Page, guarded: Guarded, name: str) -> None:
    body = {"collection": "shared", "texts": ["one", "two"], "ids": ["1", "2"]}
    guarded.ask("POST", "/embed-and-store", body)
    sign_in(page, name)
    last = "Admin" if name == "ada" else "Account"
    expect(page.get_by_role("tab", name=last)).to_be_visible()
    assert tabs(page) == ["Try", "Collections", "Models", "Live", last]
    tab(page, "Collections")
    page.locator(".map[data-points]").wait_for()
    writes = name != "rita"
    expect(page.locator("#collection-new")).to_be_visible(visible=writes)
    expect(page.locator("#collection-detail")).not_to_contain_text("null")  # what is left out
    expect(page.locator("#subtab-add")).to_have_count(int(writes))
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
