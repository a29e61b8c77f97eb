"""A file is dropped, looked at, changed, stored; it goes on while nobody looks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from tests.collections.test_jobs import serving as held_service
from tests.conftest import free_port
from tests.web.conftest import Seen, ask, watched
from tests.web.test_accessible import faults
from tests.web.test_console import held

NAME = "given"
TABLE = (
    "nr;title;body;stars;ok;zip\n"
    + "".join(
        f"{i};T{i};Some caf\xe9 text {i};{i % 5};{'true' if i % 2 else 'false'};0{i}\n"
        for i in range(30)
    )
    + "x;broken\n"
)  # fmt: skip
ROWS = "".join(f"text {i}\n" for i in range(600))


@pytest.fixture
def filled(url: str) -> Iterator[str]:
    """A collection of three texts."""
    ask(url, "POST", "/embed-and-store", {"collection": NAME, "texts": ["x", "y", "z"]})
    yield f"/collections/{NAME}"
    ask(url, "DELETE", f"/collections/{NAME}")


@pytest.fixture
def page(browser: Browser, seen: Seen, filled: str) -> Iterator[Page]:
    """A page of the console, which is closed before the collection that it shows is deleted."""
    with watched(browser, seen) as page:
        opened(page)
        yield page


def opened(page: Page, name: str = NAME) -> None:
    page.goto(f"{page.url.partition('#')[0]}#/collections/{name}?show=add")
    page.locator("#file").wait_for()


def give(page: Page, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]


def store(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Store ")).click()


def test_a_file_is_looked_at_changed_and_stored(page: Page, url: str, filled: str) -> None:
    """Semicolons, Latin-1, a text column of another name: all of it is guessed, and told."""
    give(page, "rows.csv", TABLE.encode("latin-1"))
    expect(page.locator(".preview .hint").first).to_contain_text("31 rows · 1 row cannot be stored")
    expect(page.locator("#file-encoding")).to_have_value("windows-1252")
    expect(page.locator("#file-delimiter")).to_have_value(";")
    expect(page.locator(".problems")).to_contain_text("Line 32 has another number of cells")
    expect(page.get_by_label("Use of body")).to_have_value("text")
    expect(page.get_by_label("Type of stars")).to_have_value("number")
    rows = page.get_by_role("region", name="First rows")
    expect(rows.locator("tbody tr")).to_have_count(20)
    expect(rows).to_contain_text("Some café text 0")
    assert faults(page) == []
    page.get_by_label("Type of zip").select_option("number")  # `00` is none
    expect(page.locator(".preview .hint").first).to_contain_text("31 rows cannot be stored")
    expect(page.get_by_role("button", name="Store 0 rows")).to_be_disabled()
    page.get_by_label("Type of zip").select_option("text")
    page.get_by_label("Use of nr").select_option("id")
    page.get_by_label("Use of title").select_option("none")
    expect(rows.locator("thead th").first).to_have_text("id")
    expect(page.get_by_label("Type of title")).to_have_count(0)
    page.get_by_role("button", name="Store 30 rows").click()
    done = page.locator(".file-job[data-state=done]")
    expect(done).to_contain_text("30 rows stored.")
    expect(done).to_contain_text("1 row could not be stored.")
    expect(page.locator(".collection .facts").first).to_contain_text("Texts33")
    record = ask(url, "GET", f"{filled}/vectors/7")
    assert record["text"] == "Some café text 7"
    assert record["metadata"] == {"stars": 2, "ok": True, "zip": "07"}
    with page.expect_download() as saved:
        done.get_by_role("button", name="Download rejected rows").click()
    assert saved.value.suggested_filename == "rows.csv.rejects.jsonl"
    (out,) = Path(saved.value.path()).read_text().splitlines()
    assert json.loads(out)["row"] == ["x", "broken"]
    done.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".file-job")).to_have_count(0)


def test_what_is_chosen_while_the_rows_are_still_read_again_is_kept(page: Page) -> None:
    give(page, "rows.csv", TABLE.encode("latin-1"))
    expect(page.get_by_label("Use of body")).to_have_value("text")
    with held(page, "**/preview") as release:
        page.get_by_label("Use of nr").select_option("id")
        page.get_by_label("Type of zip").select_option("number")
        page.get_by_label("Use of title").select_option("none")
        expect(page.get_by_role("button", name=re.compile("^Store "))).to_be_disabled()
        release()
    expect(page.get_by_label("Type of title")).to_have_count(0)
    expect(page.get_by_label("Use of nr")).to_have_value("id")
    expect(page.get_by_label("Type of zip")).to_have_value("number")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator(".preview")).to_have_count(0)


@pytest.mark.fault("Console")
@pytest.mark.parametrize("size", [(1366, 768), (360, 780)])
def test_what_is_wrong_with_a_file_is_told_in_sight(
    browser: Browser, url: str, filled: str, size: tuple[int, int]
) -> None:
    """A file that is no table, or without a row that can be stored -> the screen shows what it is;
    nothing of it is stored.
    """
    wrong: dict[str, tuple[str | bytes, str]] = {
        "sheet.csv": (b"PK\x03\x04\x14\x00\x08\x00", "sheet.csv: is a ZIP archive"),
        "table.parquet": (b"PAR1\x15\x04", "is no Parquet file that can be read"),
        "empty.csv": (b"", "empty.csv is empty"),
    }
    look: dict[str, Any] = {"viewport": {"width": size[0], "height": size[1]}}
    seen = Seen(url)
    seen.expected.add(422)
    with watched(browser, seen, **look) as page:
        opened(page)
        error = page.locator(".drop > .error")
        for name, (content, told) in wrong.items():
            page.evaluate("scrollTo(0, 0)")
            give(page, name, content)
            expect(error).to_contain_text(told)
            expect(error).to_be_in_viewport(ratio=1)
            expect(page.locator("#file")).to_be_enabled()
        page.evaluate("scrollTo(0, 0)")
        give(page, "short.csv", "text,a\none\ntwo\n")
        expect(page.get_by_role("button", name="Store 0 rows")).to_be_in_viewport(ratio=1)
        expect(page.get_by_role("button", name="Store 0 rows")).to_be_disabled()
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        page.get_by_role("button", name="Discard").click()
        expect(page.locator(".preview")).to_have_count(0)
    assert ask(url, "GET", filled)["count"] == 3
    assert [job for job in ask(url, "GET", "/jobs")["jobs"] if job["collection"] == NAME] == []


@pytest.mark.fault("Console")
def test_a_file_goes_on_when_the_page_is_closed(browser: Browser, tmp_path: Path) -> None:
    """The page is closed while a file is stored -> it goes on; whoever comes back sees how far it
    is, and the end. `Stop` keeps what is stored; the same file again stores the rest, no row twice.
    """
    allowed = tmp_path / "allowed"
    allowed.write_text("300")
    with held_service(tmp_path, free_port(), 1) as service:
        assert service.ask("/collections", {"name": "docs", "model": "slow"})[0] == 201
        with watched(browser, Seen(service.url)) as page:
            opened(page, "docs")
            give(page, "rows.txt", ROWS)
            store(page)
            running = page.locator(".file-job[data-state=running]")
            expect(running).to_contain_text("of 600 rows")
            asked: list[str] = []

            def stay(dialog: Dialog) -> None:
                asked.append(dialog.type)
                dialog.accept()

            page.on("dialog", stay)
            page.reload()
            expect(running).to_contain_text("of 600 rows")
            assert asked == []
        # A look at the job may come just after it was stopped.
        with watched(browser, Seen(service.url, expected={404})) as page:
            opened(page, "docs")
            expect(running := page.locator(".file-job[data-state=running]")).to_be_visible()
            expect(running.get_by_role("progressbar")).to_be_visible()
            running.get_by_role("button", name="Stop").click()
            page.locator("#confirm").get_by_role("button", name="Stop").click()
            expect(page.locator(".file-job")).to_have_count(0)
            allowed.unlink()
            for _ in range(2):
                give(page, "rows.txt", ROWS)
                store(page)
                expect(page.locator(".file-job[data-state=running]")).to_have_count(0)
                done = page.locator(".file-job[data-state=done]").first
                expect(done).to_contain_text("600 rows stored.")
                expect(page.locator(".collection .facts").first).to_contain_text("Texts600")
                done.get_by_role("button", name="Dismiss").click()
                expect(page.locator(".file-job")).to_have_count(0)


def test_a_file_that_was_sent_waits_for_who_comes_back(page: Page, url: str) -> None:
    give(page, "rows.txt", "one\ntwo\n")
    page.locator(".preview").wait_for()
    page.reload()
    waiting = page.locator(".file-job[data-state=waiting]")
    expect(waiting).to_contain_text("sent and not stored")
    waiting.get_by_role("button", name="Look at it").click()
    page.get_by_role("button", name="Store 2 rows").click()
    expect(page.locator(".file-job[data-state=done]")).to_contain_text("2 rows stored.")


def test_the_first_file_makes_a_collection_of_its_name(browser: Browser, tmp_path: Path) -> None:
    with (
        held_service(tmp_path, free_port(), 1) as service,
        watched(browser, Seen(service.url)) as page,
    ):
        page.goto(f"{service.url}/#/collections")
        file = {"name": "My notes (2).csv", "mimeType": "text/csv", "buffer": b"text,n\none,1\n"}
        page.locator("#first-file").set_input_files(file)  # type: ignore[arg-type]
        expect(page.get_by_label("Name of the collection")).to_have_value("My-notes-2")
        assert faults(page) == []
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Store 1 row").click()
        expect(page.locator(".file-job[data-state=done]")).to_contain_text("1 row stored.")
        expect(page).to_have_url(re.compile("#/collections/My-notes-2"))


def test_a_dropped_file_is_taken_and_elsewhere_it_is_not(page: Page) -> None:
    drop = """(selector) => {
        const files = new DataTransfer();
        files.items.add(new File(["one\\n"], "dropped.txt"));
        const how = { dataTransfer: files, bubbles: true, cancelable: true };
        const event = (name) => new DragEvent(name, how);
        const element = document.querySelector(selector);
        const over = event("dragover");
        element.dispatchEvent(over);
        element.dispatchEvent(event("drop"));
        return [over.defaultPrevented, over.dataTransfer.dropEffect];
    }"""
    assert page.evaluate(drop, "h1") == [True, "none"]
    expect(page.locator(".preview")).to_have_count(0)
    page.evaluate(drop, ".drop h2")
    expect(page.locator(".preview h3")).to_have_text("dropped.txt")
    page.get_by_role("button", name="Discard").click()
