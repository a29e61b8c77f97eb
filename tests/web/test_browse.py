"""Browsing a collection: filter by what its metadata holds, search, open, change, export."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from store.file import FileStore
from store.filters import matches, parse
from store.transfer import import_jsonl
from tests.web.browsing import (
    COUNT,
    address,
    choice,
    drawer,
    field,
    fill,
    filter_of,
    go,
    ids_of,
    shows,
    stored,
)
from tests.web.conftest import Guarded, Seen, ask, sign_in, watched
from tests.web.test_accessible import faults
from tests.web.test_phone import PHONE, fits


@pytest.fixture(scope="module")
def docs(url: str) -> Iterator[str]:
    """A collection that no test changes."""
    fill(url, "docs")
    yield "docs"
    ask(url, "DELETE", "/collections/docs")


@pytest.fixture
def own(url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A collection of one test."""
    name = re.sub(r"\W", "-", request.node.name)[:60].strip("-")
    fill(url, name)
    yield name
    if any(one["name"] == name for one in ask(url, "GET", "/collections")["collections"]):
        ask(url, "DELETE", f"/collections/{name}")


def record(url: str, name: str, id_: str) -> dict[str, Any]:
    return ask(url, "POST", f"/collections/{name}/vectors/get", {"ids": [id_]})["vectors"][0]


def test_a_person_filters_by_a_value_and_a_range_searches_and_goes_on_from_a_hit(
    page: Page, docs: str
) -> None:
    go(page, docs)
    panel = field(page, "lang")
    expect(choice(panel, "en")).to_contain_text("66")
    choice(panel, "de").click()
    shows(page, 32)
    choice(panel, "fr").click()  # with any of both
    shows(page, 64)
    choice(panel, "de").click()
    shows(page, 32)
    assert filter_of(page) == {"lang": "fr"}
    panel = field(page, "year")
    ranges = panel.get_by_role("group", name="Ranges").locator(".choice")
    expect(ranges).to_have_count(5)
    ranges.nth(1).click()
    expect(ranges.nth(1)).to_have_attribute("aria-pressed", "true")
    both = filter_of(page)
    matching = [i for i in range(COUNT) if matches(parse(both), stored(i))]
    shows(page, len(matching))
    expect(ranges.nth(1).locator(".count")).to_have_text(str(len(matching)))
    page.get_by_label("Search by meaning").fill("text number 7")
    page.keyboard.press("Enter")
    hits = page.locator(".results li")
    expect(hits).to_have_count(min(10, len(matching)))
    assert {int(hit[4:]) for hit in ids_of(hits)} <= set(matching)
    hits.nth(1).get_by_role("link").click()
    expect(drawer(page).locator(".mono").first).to_have_text(ids_of(hits)[1])
    expect(drawer(page).locator(".fields-of")).to_contain_text("author.name")
    before = address(page)
    drawer(page).get_by_role("button", name="More like this").click()
    expect(drawer(page)).to_be_hidden()
    expect(page.locator(".like")).to_contain_text(before["id"])
    expect(page.locator(f".results li[data-id='{before['id']}']")).to_have_count(0)
    expect(hits).to_have_count(min(10, len(matching) - 1))
    page.go_back()
    expect(drawer(page).locator(".mono").first).to_have_text(before["id"])
    assert address(page) == before
    page.reload()
    expect(drawer(page).locator(".mono").first).to_have_text(before["id"])
    expect(page.locator(".chip")).to_have_count(3)
    expect(hits).to_have_count(min(10, len(matching)))
    expect(page.get_by_label("Search by meaning")).to_have_value("text number 7")


def test_more_results_come_page_by_page_and_low_scores_stay_out(
    page: Page, url: str, docs: str
) -> None:
    go(page, docs, q="text number 7", k="50")
    hits = page.locator(".results li")
    expect(hits).to_have_count(50)
    for shown in (100, 130):
        page.get_by_role("button", name="More results").click()
        expect(hits).to_have_count(shown)
    expect(page.get_by_role("button", name="More results")).to_have_count(0)
    assert len(set(ids_of(hits))) == COUNT
    found = ask(url, "POST", f"/collections/{docs}/search", {"text": "text number 7", "k": 100})
    least = found["results"][20]["score"]
    page.get_by_label("Lowest score").fill(str(least))
    page.keyboard.press("Enter")
    expect(hits).to_have_count(21)
    assert ids_of(hits) == [hit["id"] for hit in found["results"][:21]]
    assert float(address(page)["min_score"]) == least
    page.get_by_label("Search by meaning").fill("")
    expect(hits).to_have_count(0)


def test_the_table_is_paged_ordered_and_has_the_chosen_columns(page: Page, docs: str) -> None:
    go(page, docs, show="records")
    rows = page.locator(".records tbody tr")
    said = page.locator(".records-card .heading .hint")
    expect(said).to_have_text("1–50 of 130 records, by id")
    assert ids_of(rows) == [f"doc-{i:03}" for i in range(50)]
    page.locator(".columns summary").click()
    for name in ("lang", "year"):
        page.locator(f".columns input[data-key='{name}']").set_checked(name == "year")
    expect(page.locator(".records thead")).to_contain_text("year")
    expect(page.locator(".records thead")).not_to_contain_text("lang")
    expect(rows.nth(3)).to_contain_text("1993")
    page.get_by_role("button", name="Next").click()
    expect(said).to_have_text("51–100 of 130 records, by id")
    page.get_by_role("button", name="Next").click()
    expect(said).to_have_text("101–130 of 130 records, by id")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_role("button", name="Previous").click()
    expect(said).to_have_text("51–100 of 130 records, by id")
    page.go_back()  # by the browser, as by the buttons
    expect(rows.first).to_have_attribute("data-id", "doc-100")
    page.go_back()
    expect(said).to_have_text("50 records by id, of 130")
    page.reload()
    expect(rows.first).to_have_attribute("data-id", "doc-050")
    expect(page.locator(".records thead")).to_contain_text("year")
    panel = field(page, "lang")
    choice(panel, "de").click()
    expect(said).to_have_text("1–32 of 32 records, by id")
    expect(page.locator(".pager")).to_be_hidden()
    assert "after" not in address(page)
    rows.nth(2).locator("td.text").click()
    expect(drawer(page).locator(".mono").first).to_have_text("doc-010")
    expect(rows.nth(2)).to_have_class("open")
    page.keyboard.press("Escape")
    expect(drawer(page)).to_be_hidden()


def test_a_text_is_changed_and_embedded_again_and_metadata_keeps_the_vector(
    page: Page, url: str, own: str
) -> None:
    before = record(url, own, "doc-004")
    go(page, own, id="doc-004")
    drawer(page).get_by_role("button", name="Edit").click()
    area = drawer(page).get_by_label("Metadata, as a JSON object")
    area.fill('{"lang": "en", "big": 9007199254740993, "n": {"deep": [1.5, null]}')
    drawer(page).get_by_role("button", name="Save").click()
    expect(drawer(page).locator(".error")).to_contain_text("not JSON")
    area.fill('{"lang": "en", "big": 9007199254740993, "n": {"deep": [1.5, null]}}')
    drawer(page).get_by_role("button", name="Save").click()
    expect(drawer(page).locator(".fields-of")).to_contain_text("n.deep[1.5,null]")
    expect(drawer(page).locator(".fields-of")).to_contain_text("9007199254740993")
    now = record(url, own, "doc-004")
    assert now["vector"] == before["vector"] and now["text"] == before["text"]
    assert now["metadata"] == {"lang": "en", "big": 2**53 + 1, "n": {"deep": [1.5, None]}}
    drawer(page).get_by_role("button", name="Edit").click()
    drawer(page).get_by_label("Text", exact=True).fill("a new text\nof two lines")
    drawer(page).get_by_role("button", name="Save").click()
    expect(drawer(page).locator(".whole-text")).to_have_text("a new text\nof two lines")
    after = record(url, own, "doc-004")
    fresh = ask(url, "POST", "/v1/embeddings", {"model": "first", "input": after["text"]})
    assert after["vector"] == pytest.approx(fresh["data"][0]["embedding"], abs=1e-6)
    assert after["vector"] != before["vector"] and after["metadata"] == now["metadata"]
    drawer(page).get_by_role("button", name="Edit").click()
    drawer(page).get_by_label("Text", exact=True).fill("not saved")
    drawer(page).get_by_role("button", name="Close").click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    expect(drawer(page).get_by_label("Text", exact=True)).to_have_value("not saved")
    drawer(page).get_by_role("button", name="Cancel").click()
    expect(drawer(page).locator(".whole-text")).to_have_text("a new text\nof two lines")


def test_a_record_is_deleted_after_a_question_and_its_link_says_that_it_is_gone(
    page: Page, url: str, own: str
) -> None:
    go(page, own, show="records", id="doc-001")
    rows = page.locator(".records tbody tr")
    expect(rows).to_have_count(50)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drawer(page).get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    drawer(page).get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Cancel").click()
    assert record(url, own, "doc-001")
    drawer(page).get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(drawer(page)).to_be_hidden()
    expect(page.locator(".records-card .heading .hint")).to_contain_text("of 129 records")
    expect(page.locator(".records tr[data-id='doc-001']")).to_have_count(0)
    page.goto("about:blank")
    page.goto(link)
    expect(drawer(page)).to_contain_text("There is no record with this id here")


def test_chosen_rows_are_exported_and_deleted(
    page: Page, url: str, own: str, tmp_path: Path
) -> None:
    go(page, own, show="records", filter='{"lang":"de"}')
    rows = page.locator(".records tbody tr")
    expect(rows).to_have_count(32)
    for at in (0, 3):
        rows.nth(at).get_by_role("checkbox").check()
    wanted = [ids_of(rows)[0], ids_of(rows)[3]]
    expect(page.locator(".selection")).to_contain_text("2 records chosen")
    with page.expect_download() as download:
        page.locator(".selection").get_by_role("button", name="Export").click()
    lines = lines_of(download.value, tmp_path)
    assert [line["id"] for line in lines] == wanted
    assert lines[0]["metadata"] == stored(2) and "vector" not in lines[0]
    page.locator(".selection").get_by_role("button", name="Delete").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(rows).to_have_count(30)
    expect(page.locator(".selection")).to_be_hidden()
    body = {"ids": wanted, "include": []}
    assert ask(url, "POST", f"/collections/{own}/vectors/get", body)["vectors"] == []
    assert ask(url, "GET", f"/collections/{own}")["count"] == COUNT - 2


def lines_of(download: Any, folder: Path) -> list[dict[str, Any]]:
    download.save_as(folder / "file.jsonl")
    return [json.loads(line) for line in (folder / "file.jsonl").read_text().splitlines()]


def test_a_collection_is_exported_whole_or_under_the_filter(
    page: Page, url: str, docs: str, tmp_path: Path
) -> None:
    go(page, docs, show="manage")
    card = page.locator("section.card", has=page.get_by_role("heading", name="Export"))
    card.get_by_label("With vectors").check()
    with page.expect_download() as download:
        card.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "docs.jsonl"
    lines = lines_of(download.value, tmp_path)
    body = {"limit": 1000, "include": ["text", "metadata", "vector"]}
    assert lines[1:] == ask(url, "POST", "/collections/docs/vectors/scroll", body)["vectors"]
    with FileStore(tmp_path / "store") as store, (tmp_path / "file.jsonl").open("rb") as file:
        made = import_jsonl(store, file)
    assert (made.count, made.dim, made.model) == (COUNT, lines[0]["dim"], "tests/first")
    expect(card).to_contain_text("130 records saved as docs.jsonl")
    go(page, docs, show="manage", filter='{"year":{"$lt":1995}}')
    card.get_by_label("With vectors").uncheck()
    with page.expect_download() as download:
        card.get_by_role("button", name="Export").click()
    assert {line["metadata"]["year"] for line in lines_of(download.value, tmp_path)} == {
        *range(1990, 1995)
    }


def test_an_alias_is_added_moved_and_removed(page: Page, seen: Seen, url: str, own: str) -> None:
    seen.expected.add(404)  # the page asks whom a new alias belongs to
    ask(url, "POST", "/collections", {"name": "alias-target", "dimension": 4})
    go(page, own, show="manage")
    page.get_by_label("New alias").fill("latest")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".aliases")).to_contain_text("latest")
    assert ask(url, "GET", "/collections/latest")["name"] == own
    go(page, "alias-target", show="manage")
    page.get_by_label("New alias").fill("latest")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#confirm")).to_contain_text(own)
    page.locator("#confirm").get_by_role("button", name="Move").click()
    expect(page.locator(".aliases")).to_contain_text("latest")
    assert ask(url, "GET", "/collections/latest")["name"] == "alias-target"
    page.get_by_role("button", name="Remove alias latest").click()
    page.locator("#confirm").get_by_role("button", name="Remove").click()
    expect(page.locator(".aliases")).to_contain_text("None yet")
    assert ask(url, "GET", "/collections/alias-target")["aliases"] == []
    page.get_by_role("button", name="Delete collection").click()
    page.locator("#confirm").get_by_role("button", name="Delete").click()
    expect(page.locator(".item[data-name='alias-target']")).to_have_count(0)
    expect(page.locator(".collection .name")).not_to_have_text("alias-target")


def test_a_collection_is_embedded_again_with_another_model(page: Page, url: str, own: str) -> None:
    go(page, own, show="manage")
    page.locator("#reembed-model").select_option("second")
    page.get_by_role("button", name="Re-embed").click()
    page.locator("#confirm").get_by_role("button", name="Re-embed").click()
    expect(page.locator(".jobs")).to_contain_text("Re-embedding with second")
    expect(page.locator(".jobs")).to_contain_text("done, 130 records")
    expect(page.locator(".collection .facts").first).to_contain_text("Dimensions24")
    assert ask(url, "GET", f"/collections/{own}")["dimension"] == 24
    page.get_by_role("button", name="Forget: Re-embedding with second").click()
    expect(page.locator(".jobs")).to_contain_text("None.")


def test_a_job_under_way_is_seen_and_stopped(browser: Browser, guarded: Guarded) -> None:
    fill(guarded.url, "slowly", guarded.token)
    guarded.ask("POST", "/settings", {"key": "texts_per_minute_user", "value": 20})
    try:
        with watched(browser, Seen(guarded.url)) as page:
            sign_in(page, "uma")
            go(page, "slowly", show="manage")
            page.locator("#reembed-model").select_option("second")
            page.get_by_role("button", name="Re-embed").click()
            page.locator("#confirm").get_by_role("button", name="Re-embed").click()
            expect(page.locator(".jobs")).to_contain_text(re.compile(r"\d+ of 130"))
            page.reload()  # it goes on without the page
            page.get_by_role("button", name="Stop: Re-embedding with second").click()
            page.locator("#confirm").get_by_role("button", name="Stop").click()
            expect(page.locator(".jobs")).to_contain_text("None.")
            assert guarded.ask("GET", "/collections/slowly")["model"] == "tests/first"
    finally:
        guarded.ask("DELETE", "/settings/texts_per_minute_user")
        guarded.ask("DELETE", "/collections/slowly")


def test_who_may_only_read_sees_no_way_to_change_anything(
    browser: Browser, guarded: Guarded
) -> None:
    fill(guarded.url, "read-only", guarded.token, count=12)
    with watched(browser, Seen(guarded.url)) as page:
        sign_in(page, "rita")
        go(page, "read-only", show="records", id="doc-003")
        expect(drawer(page).get_by_role("button", name="More like this")).to_be_visible()
        expect(drawer(page).get_by_role("button", name=re.compile("Edit|Delete"))).to_have_count(0)
        page.keyboard.press("Escape")
        drawer(page).get_by_role("button", name="Close").click()
        page.locator(".records tbody tr input").first.check()
        selection = page.locator(".selection")
        expect(selection.get_by_role("button", name="Export")).to_be_visible()
        expect(selection.get_by_role("button", name="Delete")).to_have_count(0)
        page.get_by_role("tab", name="Manage").click()
        expect(page.get_by_role("heading", name="Export")).to_be_visible()
        expect(page.get_by_text("None yet.")).to_be_visible()
        for gone in ("Add", "Re-embed", "Delete collection"):
            expect(page.get_by_role("button", name=gone, exact=True)).to_have_count(0)
    guarded.ask("DELETE", "/collections/read-only")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_wild_records_fit_a_phone_and_are_accessible(
    browser: Browser, url: str, scheme: str
) -> None:
    long = "w" * 300
    metadata = [
        {f"field{i}": "v" * (i % 50) for i in range(200)},
        {"nested": {"k" * 80: {"in": [1, {"a": long}]}}},
    ]
    body = {
        "collection": "wild",
        "texts": [long, "plain"],
        "ids": ["i" * 300, "a/b?c#d"],
        "metadata": metadata,
    }
    ask(url, "POST", "/embed-and-store", body)
    vectors = [{"id": "no-text", "vector": [1] * 8}]
    ask(url, "POST", "/collections/wild/vectors", {"vectors": vectors})
    with watched(browser, Seen(url), color_scheme=scheme, **PHONE) as page:
        if scheme == "light":
            wild_lists(page)
        else:
            wild_drawers(page)
    ask(url, "DELETE", "/collections/wild")


def wild_lists(page: Page) -> None:
    go(page, "wild", show="records", q="plain")
    page.locator(".records tbody tr").nth(2).wait_for()
    page.locator(".results li").nth(2).wait_for()
    field(page, "field10")
    assert fits(page) and faults(page) == []
    page.get_by_role("button", name="Condition", exact=True).click()
    page.get_by_role("button", name="Or …").click()
    assert fits(page) and faults(page) == []


def wild_drawers(page: Page) -> None:
    for id_ in ("i" * 300, "a/b?c#d", "no-text"):
        go(page, "wild", show="manage", id=id_)
        expect(drawer(page).locator(".mono").first).to_have_text(id_)
        drawer(page).get_by_role("heading", name="Vector").wait_for()
        assert fits(page)
    expect(drawer(page)).to_contain_text("This record has no text")
    assert faults(page) == []
    drawer(page).get_by_role("button", name="Edit").click()
    assert fits(page) and faults(page) == []


def test_all_of_it_is_done_by_keyboard(page: Page, docs: str) -> None:
    go(page, docs)
    button = page.locator(".fields [data-key=lang]")
    button.focus()
    page.keyboard.press("Enter")
    choice(page.locator(".filter-panel"), "de").wait_for()
    choice(page.locator(".filter-panel"), "de").focus()
    page.keyboard.press("Space")
    shows(page, 32)
    expect(choice(page.locator(".filter-panel"), "de")).to_be_focused()  # all was drawn anew
    page.keyboard.press("Escape")
    expect(page.locator(".filter-panel")).to_be_hidden()
    expect(button).to_be_focused()
    page.get_by_label("Search by meaning").focus()
    page.keyboard.type("text number 2")
    page.keyboard.press("Enter")
    first = page.locator(".results li a").first
    first.wait_for()
    first.focus()
    page.keyboard.press("Enter")
    expect(drawer(page).get_by_role("heading", name="Record")).to_be_focused()
    page.keyboard.press("Escape")
    expect(drawer(page)).to_be_hidden()
    expect(first).to_be_focused()
    page.get_by_role("button", name=re.compile("^Remove lang")).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(0)
    expect(page.locator(".fields button").first).to_be_focused()
