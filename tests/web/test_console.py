"""The console, used as a person would: in a real browser, against a real service."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.web.conftest import Seen, ask

NASTY = "<img src=x onerror=\"document['title']='owned'\">"


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_texts_become_vectors_and_a_heat_map(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("one two\nthree\none two")
    page.get_by_role("button", name="Embed").click()
    cells = page.locator(".heat tbody td")
    expect(cells).to_have_count(9)
    expect(cells.nth(2)).to_have_text("1.00")  # the same text twice
    expect(page.locator("#try-result .facts")).to_contain_text("Tokens5")
    page.get_by_label("Dimensions").fill("4")
    page.get_by_label("Texts", exact=True).press("Control+Enter")
    expect(page.locator("#try-result .facts")).to_contain_text("Dimensions4")


def shown_code(page: Page, language: str) -> str:
    """Copy the code of a language as a person would."""
    page.get_by_role("button", name=language, exact=True).click()
    page.locator("#try-code").get_by_role("button", name="Copy").click()
    return page.evaluate("navigator.clipboard.readText()")


def test_the_code_shown_can_be_copied_and_run(page: Page, url: str) -> None:
    texts = ['it\'s a "test" of $HOME', "naïve ☕\\n"]
    page.get_by_label("Texts", exact=True).fill("\n".join(texts))
    page.get_by_label("Dimensions").fill("4")
    page.get_by_label("Too long").select_option("left")
    body = {"model": "first", "input": texts, "dimensions": 4}
    rows = [row["embedding"] for row in ask(url, "POST", "/v1/embeddings", body)["data"]]
    wanted = [pytest.approx(row, abs=1e-6) for row in rows]
    reply = subprocess.run(["sh", "-c", shown_code(page, "curl")], capture_output=True, timeout=30)
    assert [row["embedding"] for row in json.loads(reply.stdout)["data"]] == wanted
    for language in ("requests", "openai"):
        code = shown_code(page, language) + "\nimport json; print(json.dumps(vectors))"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        assert json.loads(run.stdout or b"null") == wanted, run.stderr.decode()


def test_too_long_texts_are_told(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("word " * 100)
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-result .facts")).to_contain_text("Truncated1")


READY = {
    "Try": ".heat",
    "Collections": "#collection-detail > *",
    "Models": ".model",
    "Live": ".chart",
    "Admin": ".setting",
}


@contextmanager
def held(page: Page, pattern: str) -> Iterator[Callable[[], None]]:
    """Hold the requests to an address back until what is given is called."""
    waiting: list[Route] = []
    page.route(pattern, lambda route: waiting.append(route))

    def release() -> None:
        for one in waiting:
            one.continue_()
        page.unroute(pattern)

    yield release


FILES = {
    "rows.csv": 'id,text,topic\na,"red, ""bright"" apple",fruit\nb,green pear,fruit\nc,car,cars\n',
    "rows.jsonl": '{"id": "a", "text": "red apple"}\n{"text": "green pear"}\n{"text": "car"}\n',
    "rows.txt": "red apple\n\ngreen pear\nblue car\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_collection_is_made_filled_searched_seen_and_deleted(
    page: Page, url: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text(FILES[name])
    title = name.replace(".", "-")
    tab(page, "Collections")
    page.locator(".item, #collection-detail .empty").first.wait_for()
    if not page.get_by_label("Name", exact=True).is_visible():
        page.locator("#collection-new summary").click()
    page.get_by_label("Name", exact=True).fill(title)
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#collection-detail .name")).to_have_text(title)
    page.locator("#file").set_input_files(tmp_path / name)
    page.get_by_role("button", name="Store 3 rows").click()
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts3")
    page.get_by_role("button", name="See the map").click()
    expect(page.locator(".map")).to_have_attribute("data-points", "3")
    page.get_by_label("Search by meaning").fill("green pear")
    page.get_by_role("button", name="Search").click()
    hits = page.locator(".results li")
    expect(hits).to_have_count(3)
    expect(hits.filter(has_text="green pear")).to_have_text(re.compile(r"^-?\d\.\d{3}"))
    if name == "rows.csv":
        expect(hits.filter(has_text="green pear")).to_contain_text("topicfruit")
        assert 'red, "bright" apple' in page.locator(".results").inner_text()
    expect(page.locator(".map")).to_have_attribute("data-lit", "3")
    page.locator(".map .map-field").press("ArrowRight")
    expect(page.locator(".tip")).to_be_visible()
    tab(page, "Manage")
    page.get_by_role("button", name="Delete collection").click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    assert ask(url, "GET", f"/collections/{title}")["count"] == 3
    page.get_by_role("button", name="Delete collection").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator(f".item[data-name={title}]")).to_have_count(0)
    assert title not in json.dumps(ask(url, "GET", "/collections"))


def test_a_press_before_the_models_are_listed_is_not_lost(page: Page) -> None:
    with held(page, "**/models") as release:
        page.reload()
        page.get_by_role("button", name="Embed").click()
        expect(page.locator("#try-model option")).to_have_count(0)
        release()
        expect(page.locator(".heat")).to_be_visible()


def test_a_newcomer_gets_a_map_with_one_press(page: Page, url: str) -> None:
    tab(page, "Collections")
    page.get_by_role("button", name="Add a sample collection").click()
    expect(page.locator(".map")).to_have_attribute("data-points", "25")
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts25")
    ask(url, "DELETE", "/collections/samples")


def test_a_limit_that_is_reached_is_told_with_the_wait(page: Page, seen: Seen, url: str) -> None:
    seen.expected.add(429)
    ask(url, "POST", "/settings", {"key": "texts_per_minute_admin", "value": 6})
    for _ in range(2):
        page.get_by_role("button", name="Embed").click()  # five texts
        expect(page.get_by_role("button", name="Embed")).to_be_enabled()
    expect(page.locator("#try-error")).to_contain_text(re.compile(r"again in \d+ s"))
    ask(url, "DELETE", "/settings/texts_per_minute_admin")


def test_a_service_that_is_down_is_told_and_tried_again(page: Page, seen: Seen) -> None:
    page.context.set_offline(True)
    tab(page, "Models")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator(".model").first).to_be_visible()
    assert all("ERR_INTERNET_DISCONNECTED" in problem for problem in seen.problems)
    seen.problems.clear()


def test_the_fields_that_a_collection_declares_are_shown(page: Page, url: str) -> None:
    body = {"name": "declared", "dimension": 2, "indexed": ["year", "<b>topic</b>"]}
    ask(url, "POST", "/collections", body)
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item[data-name=declared]").click()
    facts = page.locator("#collection-detail .facts")
    expect(facts).to_contain_text("Fields kept ready for filtersyear, <b>topic</b>")
    ask(url, "DELETE", "/collections/declared")


def test_what_the_server_sends_is_text_and_never_markup(page: Page, url: str) -> None:
    body = {"collection": "nasty", "texts": [NASTY], "metadata": [{NASTY: NASTY}], "ids": [NASTY]}
    ask(url, "POST", "/embed-and-store", body)
    tab(page, "Collections")
    page.locator(".item[data-name=nasty]").click()
    page.get_by_label("Search by meaning").fill(NASTY)
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".results li")).to_contain_text(NASTY)
    page.locator(".map .map-field").press("ArrowRight")
    expect(page.locator(".tip")).to_have_text(NASTY)
    assert page.locator("main img").count() == 0
    assert page.title() == "nasty · Collections · Embedding Service"
    ask(url, "DELETE", "/collections/nasty")


def test_models_are_shown_compared_and_made_default(page: Page, url: str) -> None:
    tab(page, "Models")
    expect(page.locator(".model")).to_have_count(3)
    expect(page.locator("[data-model=away] .state")).to_have_text("needs a key")
    first, second = page.locator("[data-model=first]"), page.locator("[data-model=second]")
    known = ask(url, "GET", "/models/first")
    for fact in ("ready", str(known["dimension"]), str(known["max_seq_length"])):
        expect(first).to_contain_text(fact)
    expect(first.locator(".fingerprint")).to_have_text(known["fingerprint"])
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-result .heat")).to_have_count(2)
    expect(page.locator("#compare-result")).to_contain_text("Agreement")
    expect(page.locator("#compare-result")).to_contain_text("Dimensions24")
    with held(page, "**/settings") as release:
        second.get_by_role("button", name="Make default").click()
        expect(second.locator("progress")).to_be_visible()
        release()
        expect(second).to_contain_text("Default model")
    assert ask(url, "GET", "/models")["default"] == "second"
    ask(url, "DELETE", "/settings/model_name")


def test_a_model_that_cannot_be_loaded_changes_nothing(page: Page, seen: Seen, url: str) -> None:
    seen.expected.update({409, 422, 400, 503})
    tab(page, "Models")
    page.get_by_label("Name on the model hub").fill("/no/such/folder")
    page.get_by_role("button", name="Load and make default").click()
    expect(page.locator("#load-form .error")).to_contain_text("MODEL_DIRS")
    assert ask(url, "GET", "/models")["default"] == "first"


def test_a_setting_is_changed_and_rolled_back(page: Page, url: str) -> None:
    tab(page, "Admin")
    before = ask(url, "GET", "/settings/max_texts")["value"]
    row = page.locator("[data-key=max_texts]")
    row.locator("input").fill("77")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Revert")
    assert ask(url, "GET", "/settings/max_texts")["value"] == 77
    page.get_by_role("button", name="Go back to before").first.click()
    page.locator("#confirm").get_by_role("button", name="Go back").click()
    expect(page.locator("[data-key=max_texts] input")).to_have_value(str(before))
    assert ask(url, "GET", "/settings/max_texts")["value"] == before


def test_a_question_asked_again_at_once_gets_its_own_answer(page: Page, url: str) -> None:
    ask(url, "POST", "/embed-and-store", {"collection": "asked", "texts": ["one"]})
    tab(page, "Collections")
    page.locator(".item[data-name=asked]").click()
    tab(page, "Manage")
    page.get_by_role("button", name="Delete collection").evaluate("""delete_ => {
        delete_.click();
        document.getElementById("confirm").close("no");  // its event comes after this script
        delete_.click();
    }""")
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator(".item[data-name=asked]")).to_have_count(0)


def test_it_is_used_by_keyboard_alone(page: Page, url: str) -> None:
    body = {"collection": "keys", "texts": ["one", "two", "three"]}
    ask(url, "POST", "/embed-and-store", body)
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press("Tab")
    expect(page.get_by_role("tab", name="Try")).to_be_focused()
    page.get_by_label("Texts", exact=True).focus()
    press("Control+Enter")
    page.locator(".heat").wait_for()
    page.get_by_role("tab", name="Try").focus()
    press("ArrowRight")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    page.locator(".item[data-name=keys]").focus()
    press("Enter")
    expect(page.locator("#collection-detail .name")).to_have_text("keys")
    page.locator(".map[data-points]").wait_for()
    for _ in range(8):  # over other collections, "New collection" and "Delete"
        if page.evaluate("document.activeElement.id") == "search-text":
            break
        press("Tab")
    expect(page.get_by_label("Search by meaning")).to_be_focused()
    page.keyboard.type("two")
    press("Enter")
    expect(page.locator(".results li")).to_have_count(3)
    page.locator(".map .map-field").focus()
    press("ArrowRight")
    expect(page.locator(".tip")).to_have_text(re.compile("one|two|three"))
    expect(page.locator(".map .unseen")).to_have_text(page.locator(".tip").inner_text())
    press("Escape")
    expect(page.locator(".tip")).to_be_hidden()
    page.get_by_role("tab", name="Map").focus()
    press("End")
    expect(page.get_by_role("tab", name="Manage")).to_be_focused()
    delete = page.get_by_role("button", name="Delete collection")
    delete.focus()
    press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    press("Escape")
    expect(delete).to_be_focused()
    press("Enter")
    press("Tab")  # from what deletes, which comes first, to "Cancel" and back
    press("Shift+Tab")
    press("Enter")
    expect(page.locator(".item[data-name=keys]")).to_have_count(0)
    page.get_by_role("tab", name="Collections").focus()
    press("End")
    expect(page.locator("#panel-admin")).to_be_visible()


@pytest.mark.parametrize("width", [360, 390])
def test_it_fits_a_phone(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 780})
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    for name, ready in READY.items():
        tab(page, name)
        page.locator(ready).first.wait_for()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide"


def test_problems_and_strangers_would_be_seen(page: Page, seen: Seen) -> None:
    """The control: a console error and a request to another address are noted."""
    page.evaluate("console.error('a problem')")
    page.goto("about:blank")
    page.set_content("<img src='http://127.0.0.2:9/x.png'>")
    page.wait_for_function("document.images[0].complete")
    assert any("a problem" in problem for problem in seen.problems)
    assert seen.elsewhere
    seen.problems.clear()
    seen.requests[:] = [seen.base + "/"]
