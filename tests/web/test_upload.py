"""Files given to the console: what is refused is told in sight, and nothing goes wrong silently."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect

from tests.web.conftest import Seen, ask, watched
from tests.web.test_console import held

NAME = "given"
TABLE = "id,text,stars,zip\na,one,4,01234\nb,two,5.5,99999\n"
LONG = "".join(f"text {i}\n" for i in range(100))


@pytest.fixture
def filled(url: str) -> Iterator[str]:
    """A collection of three texts, whose map fills the screen."""
    ask(url, "POST", "/embed-and-store", {"collection": NAME, "texts": ["x", "y", "z"]})
    yield f"/collections/{NAME}"
    ask(url, "DELETE", f"/collections/{NAME}")


@pytest.fixture
def page(browser: Browser, seen: Seen, filled: str) -> Iterator[Page]:
    """A page of the console, which is closed before the collection that it shows is deleted."""
    with watched(browser, seen) as page:
        yield page


def opened(page: Page) -> None:
    page.get_by_role("tab", name="Collections").click()
    page.locator(f".item[data-name={NAME}]").click()
    page.locator(".map circle").nth(2).wait_for()


def give(page: Page, name: str, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": data}
    page.locator("#file").set_input_files(file)  # type: ignore[arg-type]


def count(url: str) -> int:
    return int(ask(url, "GET", f"/collections/{NAME}")["count"])


@pytest.mark.fault("Console")
@pytest.mark.parametrize("size", [(1366, 768), (360, 780)])
def test_a_file_that_cannot_be_read_rightly_is_refused_in_sight(
    browser: Browser, url: str, filled: str, tmp_path: Path, size: tuple[int, int]
) -> None:
    """A file with semicolons, without a text column, not in UTF-8, cut, or binary -> the screen
    shows file, line and remedy; nothing of it is stored.
    """
    wrong: dict[str, tuple[str | bytes, str]] = {
        "semicolons.csv": (TABLE.replace(",", ";"), "save the file with commas"),
        "columns.csv": ("a,b\n1,2\n", "(a, b) is text, content,"),
        "latin.csv": ("text\none\ncafé\n".encode("latin-1"), "line 3 is not UTF-8; save it as"),
        "open.csv": ('text\none\n"two\nthree\n', "line 3 opens a quote that is never closed"),
        "short.csv": ("text,a\none,1\ntwo\n", "line 3 has 1 cell and the header 2"),
        "sheet.csv": (b"PK\x03\x04\x14\x00\x08\x00", "export a sheet as “CSV UTF-8”"),
        "table.parquet": (b"PAR1\x15\x04", "embed_file.py also reads .parquet"),
        "list.jsonl": ('[{"text": "one"}]', "write one object a line"),
    }
    look: dict[str, Any] = {"viewport": {"width": size[0], "height": size[1]}}
    with watched(browser, Seen(url), **look) as page:
        opened(page)
        error = page.locator(".drop .error")
        for name, (content, told) in wrong.items():
            page.evaluate("scrollTo(0, 0)")
            give(page, name, content)
            expect(error).to_contain_text(f"Nothing of {name} is stored: ")
            expect(error).to_contain_text(told)
            expect(error).to_be_in_viewport(ratio=1)
            expect(page.locator("#file")).to_be_enabled()
        with (tmp_path / "big.txt").open("wb") as big:
            big.truncate((50 << 20) + 1)
        page.locator("#file").set_input_files(tmp_path / "big.txt")
        expect(error).to_contain_text("it has more than 50 MB; send it by embed_file.py")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert count(url) == 3


@pytest.mark.fault("Console")
def test_numbers_of_a_table_stay_numbers(page: Page, url: str, filled: str) -> None:
    """A CSV with a column of numbers -> metadata of numbers; `007` and card numbers stay text."""
    opened(page)
    give(page, "rows.csv", TABLE)
    expect(page.locator(".progress")).to_contain_text("2 of 2 texts")
    found = ask(url, "POST", f"{filled}/vectors/count", {"filter": {"stars": {"$gte": 5}}})
    assert found["count"] == 1
    records = ask(url, "POST", f"{filled}/vectors/get", {"ids": ["a"]})["vectors"]
    assert records[0]["metadata"] == {"stars": 4, "zip": "01234"}


@pytest.mark.fault("Console")
def test_a_file_that_is_given_again_is_not_doubled(page: Page, url: str, filled: str) -> None:
    """The same file given twice, rows without ids -> overwritten, not doubled."""
    opened(page)
    for content, there in (("one\ntwo\none\n", 6), ("one\ntwo\none\n", 6), ("one\nnew\n", 7)):
        give(page, "rows.txt", content)
        expect(page.locator("#collection-detail .facts").first).to_contain_text(f"Texts{there}")
        expect(page.locator("#file")).to_be_enabled()
    give(page, "others.txt", "one\n")  # another file's row is another row
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts8")
    assert count(url) == 8


def test_what_becomes_of_the_rows_is_told(page: Page, url: str, filled: str) -> None:
    opened(page)
    give(page, "rows.csv", f"id,text\na,one\nb,{'word ' * 100}\na,three\n")
    told = page.locator(".progress")
    expect(told).to_contain_text("1 row left out: a later row has the same id")
    expect(told).to_contain_text("1 longer than the model takes, and cut")
    expect(told).to_be_in_viewport()
    assert ask(url, "GET", f"{filled}/vectors/a")["text"] == "three"


@pytest.mark.fault("Console")
def test_leaving_while_a_file_is_stored_asks_and_the_file_goes_on(
    page: Page, url: str, filled: str
) -> None:
    """The page is left, or `Stop` is pressed, in the middle of a file -> the page asks first, and
    shows how many rows are stored; the same file again stores the others, no row twice.
    """
    opened(page)
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    with held(page, "**/embed-and-store") as release:
        give(page, "rows.txt", LONG)
        expect(page.locator(".progress")).to_contain_text("0 of 100 texts")
        with page.expect_event("dialog"):
            page.evaluate("setTimeout(() => location.reload())")
        page.locator(".progress").get_by_role("button", name="Stop").click()
        error = page.locator(".drop .error")
        expect(error).to_contain_text("0 of 100 texts are stored; give the same file again")
        expect(error).to_be_in_viewport(ratio=1)
        release()
    assert asked == ["beforeunload"]
    give(page, "rows.txt", LONG)
    expect(page.locator(".progress")).to_contain_text("100 of 100 texts")
    give(page, "rows.txt", LONG)
    expect(page.locator("#file")).to_be_enabled()
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts103")
    page.reload()  # nothing is under way: nobody asks
    assert asked == ["beforeunload"] and count(url) == 103


def test_a_refusal_in_the_middle_names_the_line_and_what_is_stored(
    page: Page, seen: Seen, url: str, filled: str
) -> None:
    seen.expected.add(422)
    opened(page)
    answer = {"error": "texts.0: this one is not wanted", "error_type": "invalid_input"}
    page.route(
        "**/embed-and-store",
        lambda route: (
            route.fulfill(status=422, json=answer)
            if '"text 32"' in (route.request.post_data or "")
            else route.continue_()
        ),
    )
    give(page, "rows.txt", LONG)
    error = page.locator(".drop .error")
    expect(error).to_contain_text(re.compile("From line 33: .* is not wanted"))
    expect(error).to_contain_text("32 of 100 texts are stored")
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts35")
    expect(error).to_be_in_viewport(ratio=1)


def test_a_file_goes_into_no_collection_of_the_same_name(page: Page, url: str, filled: str) -> None:
    opened(page)
    with held(page, "**/embed-and-store") as release:
        give(page, "rows.txt", LONG)
        expect(page.locator(".progress")).to_contain_text("0 of 100 texts")
        ask(url, "DELETE", filled)
        page.get_by_role("tab", name="Live").click()
        with page.expect_event("requestfailed", lambda one: "embed-and-store" in one.url):
            page.get_by_role("tab", name="Collections").click()
        ask(url, "POST", "/collections", {"name": NAME, "model": "first"})
        release()
    assert count(url) == 0


def test_several_files_or_a_folder_are_refused(page: Page, url: str, filled: str) -> None:
    opened(page)
    drop = """(files) => {
        const data = new DataTransfer();
        for (const name of files) data.items.add(new File(["one"], name));
        const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true });
        document.querySelector(".drop").dispatchEvent(drop);
    }"""
    page.evaluate(drop, ["a.txt", "b.txt"])
    expect(page.locator(".drop .error")).to_contain_text("give one file at a time")
    assert count(url) == 3
    page.evaluate(drop, ["a.txt"])
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts4")


@pytest.mark.fault("Console")
def test_whole_numbers_are_stored_and_shown_as_they_are(page: Page, url: str, filled: str) -> None:
    """Whole numbers beyond 2^53 in a JSONL file -> stored and shown digit by digit."""
    opened(page)
    numbers = {"n": 9007199254740993, "m": [-9223372036854775807], "f": 0.1234567890123456789}
    give(page, "rows.jsonl", '{"id": "big", "text": "big", "n": 9007199254740993, '
         '"m": [-9223372036854775807], "f": 0.1234567890123456789}')  # fmt: skip
    expect(page.locator("#collection-detail .facts").first).to_contain_text("Texts4")
    assert ask(url, "GET", f"{filled}/vectors/big")["metadata"] == numbers
    page.get_by_label("Search by meaning").fill("big")
    page.keyboard.press("Enter")
    hit = page.locator(".results li", has_text="9007199254740993")
    expect(hit).to_contain_text("m[-9223372036854775807]")


@pytest.mark.fault("Console")
def test_a_map_that_cannot_be_had_leaves_the_rest(
    page: Page, seen: Seen, url: str, filled: str
) -> None:
    """A map that is refused -> the map's card says why; search and files still work."""
    seen.expected.add(413)
    answer = {"error": "the map is too large; ask for less", "error_type": "too_large"}
    page.route(f"**{filled}/map", lambda route: route.fulfill(status=413, json=answer))
    page.get_by_role("tab", name="Collections").click()
    page.locator(f".item[data-name={NAME}]").click()
    expect(page.locator(".map-card .error")).to_contain_text("The map is too large")
    page.get_by_label("Search by meaning").fill("x")
    page.keyboard.press("Enter")
    expect(page.locator(".results li")).to_have_count(3)
    expect(page.locator("#file")).to_be_visible()
