"""The console, used as a person would: in a real browser, against a real service."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.conftest import Seen

NASTY = "<img src=x onerror=\"document.title='owned'\">"


def api(url: str, method: str, path: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url + path, data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


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


def test_the_code_shown_can_be_copied_and_run(page: Page, url: str) -> None:
    page.get_by_label("Texts", exact=True).fill('it\'s a "test"')
    page.get_by_role("button", name="requests").click()
    page.locator("#try-code").get_by_role("button", name="Copy").click()
    code = page.evaluate("navigator.clipboard.readText()")
    scope: dict = {}
    exec(code, scope)  # noqa: S102
    assert len(scope["vectors"]) == 1
    page.get_by_role("button", name="openai").click()
    exec(page.locator("#try-code pre").inner_text(), scope)  # noqa: S102
    assert len(scope["vectors"]) == 1


def test_too_long_texts_are_told(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill("word " * 100)
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-result .facts")).to_contain_text("Truncated1")


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
    expect(page.locator(".progress")).to_contain_text("3 of 3 texts")
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts3")
    expect(page.locator(".map circle")).to_have_count(3)
    page.get_by_label("Search by meaning").fill("green pear")
    page.get_by_role("button", name="Search").click()
    hits = page.locator(".results li")
    expect(hits).to_have_count(3)
    expect(hits.filter(has_text="green pear")).to_have_text(re.compile(r"^-?\d\.\d{3}"))
    if name == "rows.csv":
        expect(hits.filter(has_text="green pear")).to_contain_text("topicfruit")
        assert 'red, "bright" apple' in page.locator(".results").inner_text()
    expect(page.locator(".map circle.hit")).to_have_count(3)
    page.locator(".map circle").first.hover(force=True)
    expect(page.locator(".tip")).to_be_visible()
    page.locator("#collection-detail").get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    assert api(url, "GET", f"/collections/{title}")["count"] == 3
    page.locator("#collection-detail").get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator(f".item[data-name={title}]")).to_have_count(0)
    assert title not in json.dumps(api(url, "GET", "/collections"))


def test_a_file_that_cannot_be_read_is_told_and_nothing_is_stored(
    page: Page, url: str, tmp_path: Path
) -> None:
    api(url, "POST", "/collections", {"name": "bad-file", "model": "first"})
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{oops\n')
    tab(page, "Collections")
    page.locator(".item[data-name=bad-file]").click()
    page.locator("#file").set_input_files(tmp_path / "bad.jsonl")
    expect(page.locator(".drop .error")).to_have_text("Line 2 is not JSON.")
    assert api(url, "DELETE", "/collections/bad-file")


def test_what_the_server_sends_is_text_and_never_markup(page: Page, url: str) -> None:
    body = {"collection": "nasty", "texts": [NASTY], "metadata": [{NASTY: NASTY}], "ids": [NASTY]}
    api(url, "POST", "/embed-and-store", body)
    tab(page, "Collections")
    page.locator(".item[data-name=nasty]").click()
    page.get_by_label("Search by meaning").fill(NASTY)
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".results li")).to_contain_text(NASTY)
    page.locator(".map circle").hover(force=True)
    expect(page.locator(".tip")).to_have_text(NASTY)
    assert page.locator("main img").count() == 0
    assert page.title() == "Embedding Service"
    api(url, "DELETE", "/collections/nasty")


def test_models_are_shown_compared_and_made_default(page: Page, url: str) -> None:
    tab(page, "Models")
    expect(page.locator(".model")).to_have_count(2)
    expect(page.locator("[data-model=first]")).to_contain_text("ready")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-result .heat")).to_have_count(2)
    expect(page.locator("#compare-result")).to_contain_text("Agreement")
    default = api(url, "GET", "/models")["default"]
    other = "second" if default == "first" else "first"
    page.locator(f"[data-model={other}]").get_by_role("button", name="Make default").click()
    expect(page.locator(f"[data-model={other}]")).to_contain_text("Default model")
    assert api(url, "GET", "/models")["default"] == other
    api(url, "DELETE", "/settings/model_name")


def test_the_live_charts_move(page: Page, url: str) -> None:
    tab(page, "Live")
    line = page.locator("[data-chart=Queue] .line")
    expect(line).to_have_attribute("d", re.compile("L"))
    before = line.get_attribute("d")
    expect(line).not_to_have_attribute("d", before or "")


def test_a_setting_is_changed_and_rolled_back(page: Page, url: str) -> None:
    tab(page, "Admin")
    before = api(url, "GET", "/settings/max_texts")["value"]
    row = page.locator("[data-key=max_texts]")
    row.locator("input").fill("77")
    row.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("Revert")
    assert api(url, "GET", "/settings/max_texts")["value"] == 77
    page.get_by_role("button", name="Go back to before").first.click()
    page.locator("#confirm").get_by_role("button", name="Go back").click()
    expect(page.locator("[data-key=max_texts] input")).to_have_value(str(before))
    assert api(url, "GET", "/settings/max_texts")["value"] == before


def test_the_tabs_work_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Try").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    expect(page.locator("#panel-collections")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#panel-admin")).to_be_visible()


def test_it_fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Embed").click()
    page.locator(".heat").wait_for()
    for name in ("Try", "Collections", "Models", "Live", "Admin"):
        tab(page, name)
        expect(page.locator(f"#panel-{name.lower()}")).to_be_visible()
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, f"{name} is {wide} wide"


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
