"""The console's models, providers' keys and settings: what is green, offered and taken."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.providers.server import KEY
from tests.web.conftest import Guarded, Seen, ask, serving, sign_in, watched
from tests.web.test_console import tab

WRONG = "sk-wrong-but-long-enough-to-be-one"


@pytest.fixture
def closed(guarded: Guarded) -> Seen:
    return Seen(guarded.url, expected={502, 503})


@pytest.fixture
def admin(browser: Browser, closed: Seen) -> Iterator[Page]:
    """The console of a service with a provider, with an admin signed in."""
    with watched(browser, closed) as page:
        sign_in(page, "admin")
        yield page


def keep(page: Page, key: str) -> None:
    """Store a key of openai in the row of that provider."""
    row = page.locator("[data-provider=openai]")
    row.get_by_role("button", name="key").first.click()
    row.get_by_label("API key of openai").fill(key)
    row.get_by_role("button", name="Store", exact=True).click()


@pytest.mark.fault("Console")
def test_a_wrong_key_is_found_at_once_and_replaced_by_one_that_works(
    admin: Page, guarded: Guarded
) -> None:
    """A provider's key that is wrong -> the console says so as soon as it is stored, the model is
    not green, and cannot be made the default.
    """
    row, model = admin.locator("[data-provider=openai]"), admin.locator("[data-model=away]")
    state = model.locator(".state")
    tab(admin, "Models")
    expect(state).to_have_text("needs a key")
    expect(state).to_have_class("state grey")
    expect(model.get_by_role("button")).to_have_count(0)
    guarded.provider.always = (401, {})
    model.get_by_role("link", name="Store it under Admin").click()
    expect(row).to_contain_text("no key")
    keep(admin, WRONG)
    expect(row.locator(".error:visible")).to_contain_text("its key is refused; replace it")
    expect(row).to_contain_text(f"stored key ending in {WRONG[-4:]}")
    expect(row.locator(".hosts")).to_contain_text("key refused")
    expect(row.locator(".dot.healthy")).to_have_count(0)
    assert WRONG not in admin.content()
    tab(admin, "Models")
    expect(state).to_have_text("key refused")
    expect(state).to_have_class("state ")
    expect(model.get_by_role("button")).to_have_count(0)
    assert guarded.ask("GET", "/models")["default"] == "first"
    guarded.provider.always = "good"
    model.get_by_role("link", name="Replace it under Admin").click()
    keep(admin, KEY)
    expect(row.locator(".well")).to_contain_text("text-embedding-3-small answered with 8 dimen")
    assert guarded.provider.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    expect(row.locator(".hosts")).to_contain_text("127.0.0.1")
    expect(row.locator(".hosts")).to_contain_text("reachable")
    expect(row.locator(".dot.healthy")).to_have_count(1)
    tab(admin, "Models")
    expect(state).to_have_text("reachable")
    expect(state).to_have_class("state ready")
    expect(model.get_by_role("button", name="Make default")).to_be_visible()
    guarded.ask("DELETE", "/providers/openai/api-key")


def test_a_key_that_was_never_tried_is_grey_and_is_tried_before_its_model_becomes_the_default(
    admin: Page, guarded: Guarded
) -> None:
    """Stored by a program, or of the environment: nothing has called the provider with it."""
    guarded.ask("POST", "/providers/openai/api-key", {"api_key": WRONG})
    model, row = admin.locator("[data-model=away]"), admin.locator("[data-provider=openai]")
    tab(admin, "Admin")
    expect(row.locator(".hosts")).to_contain_text("not checked yet")
    expect(row.locator(".dot.healthy")).to_have_count(0)
    tab(admin, "Models")
    expect(model.locator(".state")).to_have_text("not checked yet")
    expect(model.locator(".state")).to_have_class("state grey")
    guarded.provider.always = (403, {})
    model.get_by_role("button", name="Make default").click()
    expect(model.locator(".state")).to_have_text("key refused")
    expect(model.get_by_role("button")).to_have_count(0)
    assert guarded.ask("GET", "/models")["default"] == "first"
    guarded.provider.always = "good"
    guarded.ask("DELETE", "/providers/openai/api-key")


def test_a_provider_that_fails_is_told_and_its_key_deleted(admin: Page, guarded: Guarded) -> None:
    guarded.ask("POST", "/providers/openai/api-key", {"api_key": KEY})
    row = admin.locator("[data-provider=openai]")
    tab(admin, "Admin")
    guarded.provider.always = (500, {})
    for told in ("failing", "not called for a while"):
        # Three tries each, and five failures in a row open the breaker.
        row.get_by_role("button", name="Test").click()
        expect(row.locator(".hosts")).to_contain_text(told)
        expect(row.get_by_role("button", name="Test")).to_be_enabled()
    tab(admin, "Models")
    away = admin.locator("[data-model=away]")
    expect(away.locator(".state")).to_have_text("not called for a while after failures")
    expect(away.get_by_role("button")).to_have_count(0)
    guarded.provider.always = "good"
    tab(admin, "Admin")
    row.get_by_role("button", name="Delete").click()
    admin.locator("#confirm").get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("stored key")
    row.get_by_role("button", name="Delete").click()
    admin.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(row).to_contain_text("no key")


def test_who_may_not_store_a_key_is_told_who_may(browser: Browser, closed: Seen) -> None:
    with watched(browser, closed) as page:
        sign_in(page, "uma")
        tab(page, "Models")
        model = page.locator("[data-model=away]")
        expect(model).to_contain_text("An admin can store one.")
        expect(model.get_by_role("link")).to_have_count(0)


def test_models_are_compared_only_if_two_give_vectors(
    browser: Browser, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    one = {
        "alone": {"type": "fake", "model_name": "tests/alone"},
        "away": {"type": "openai", "model_name": "text-embedding-3-small"},
        "ranks": {"type": "fake", "model_name": "tests/ranks+score"},
    }
    with (
        serving(tmp_path_factory.mktemp("alone"), one) as base,
        watched(browser, Seen(base)) as page,
    ):
        tab(page, "Models")
        expect(page.locator(".model")).to_have_count(3)
        expect(page.locator("#compare-form")).to_be_hidden()
        ranks = page.locator("[data-model=ranks]")
        expect(ranks).to_contain_text("Givesscores")
        expect(ranks.get_by_role("button")).to_have_count(0)  # no default without vectors
    with watched(browser, Seen(url)) as page:
        tab(page, "Models")
        expect(page.locator("#compare-form")).to_be_visible()


# -- settings ----------------------------------------------------------------------------------


def test_a_setting_of_a_few_values_is_a_choice_of_those(page: Page, url: str) -> None:
    tab(page, "Admin")
    settings = ask(url, "GET", "/settings")["settings"]
    page.locator("[data-key=log_level] select").wait_for()
    for key, told in settings.items():
        row = page.locator(f"[data-key={key}]")
        if told["type"] == "list" and told["choices"]:
            assert row.locator("label:has(input)").all_inner_texts() == told["choices"]
        elif told["choices"]:
            assert row.locator("option").all_inner_texts() == told["choices"]
            assert row.locator("select").input_value() == told["value"]
    row = page.locator("[data-key=truncate]")
    row.locator("select").select_option("left")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Revert")
    assert ask(url, "GET", "/settings/truncate")["value"] == "left"
    roles = page.locator("[data-key=bulk_roles]")
    roles.get_by_label("reader").check()
    roles.get_by_label("anonymous").check()
    roles.get_by_role("button", name="Save").click()
    expect(roles).to_contain_text("Revert")
    assert ask(url, "GET", "/settings/bulk_roles")["value"] == ["reader", "anonymous"]
    for key in ("truncate", "bulk_roles"):
        ask(url, "DELETE", f"/settings/{key}")


def test_a_number_out_of_bounds_is_told_before_it_is_sent(page: Page, url: str) -> None:
    tab(page, "Admin")
    row = page.locator("[data-key=max_batch_size]")
    number = row.get_by_label("max_batch_size")
    expect(row).to_contain_text("texts")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else 0)
    for given, says in (("0", "1"), ("65537", "65536"), ("1.5", "1")):
        number.fill(given)
        number.press("Enter")
        expect(row.locator(".error")).to_contain_text(says)
        expect(number).to_be_focused()
    required = page.locator("[data-key=max_texts]")
    required.get_by_label("max_texts").fill("")
    required.get_by_label("max_texts").press("Enter")
    expect(required.locator(".error")).to_be_visible()
    assert sent == []
    number.fill("64")
    number.press("Enter")
    expect(row).to_contain_text("Revert")
    assert ask(url, "GET", "/settings/max_batch_size")["value"] == 64
    number.fill("")  # unset is a value of this one
    with page.expect_response("**/settings") as reply:
        number.press("Enter")
    assert reply.value.json()["value"] is None
    ask(url, "DELETE", "/settings/max_batch_size")


def test_a_setting_with_many_values_offers_some(page: Page) -> None:
    tab(page, "Admin")
    offered = page.locator("[data-key=device] datalist option")
    expect(offered).to_have_count(5)
    values = offered.evaluate_all("all => all.map(one => one.value)")
    assert values == ["auto", "cpu", "cuda", "cuda:0", "mps"]
