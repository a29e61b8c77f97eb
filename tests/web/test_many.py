"""The console with more than fits: many lines, large collections, uploads that take a while."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.web.conftest import ask
from tests.web.test_console import held

LINES = "\n".join(f"line {i}" for i in range(500))


def test_five_hundred_lines_are_embedded_and_the_first_are_drawn(page: Page) -> None:
    page.get_by_label("Texts", exact=True).fill(LINES)
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-result .facts")).to_contain_text("Texts500", timeout=30_000)
    expect(page.locator("#try-result caption")).to_contain_text("the first 30 of 500")
    expect(page.locator("#try-result .heat tbody tr")).to_have_count(30)


def test_five_hundred_lines_are_compared(page: Page) -> None:
    page.get_by_role("tab", name="Models").click()
    page.locator(".model").first.wait_for()
    page.get_by_label("Texts, one a line").fill(LINES)
    page.get_by_role("button", name="Compare").click()
    heats = page.locator("#compare-result .heat")
    expect(heats).to_have_count(2, timeout=30_000)
    expect(heats.first.locator("tbody tr")).to_have_count(30)
    expect(page.locator("#compare-result .facts").first).to_contain_text("Agreement")


def test_a_file_that_is_sent_stays_in_sight_while_others_are_looked_at(
    page: Page, url: str, tmp_path: Path
) -> None:
    for name in ("filling", "other"):
        ask(url, "POST", "/collections", {"name": name, "model": "first"})
    (tmp_path / "rows.txt").write_text("".join(f"text {i}\n" for i in range(40)))
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item[data-name=filling]").click()
    with held(page, "**/filling/files?*") as release:
        page.locator("#file").set_input_files(tmp_path / "rows.txt")
        sent = page.locator(".stage .progress")
        expect(sent).to_contain_text("rows.txt")
        page.locator(".item[data-name=other]").click()
        expect(page.locator("#collection-detail .name")).to_have_text("other")
        expect(sent).to_be_hidden()
        page.get_by_role("tab", name="Live").click()
        page.get_by_role("tab", name="Collections").click()
        page.locator(".item[data-name=filling]").click()
        expect(sent).to_contain_text("rows.txt")
        expect(page.locator("#file")).to_be_disabled()
        release()
        page.get_by_role("button", name="Store 40 rows").click()
    page.get_by_role("button", name="See the map").click()
    expect(page.locator(".map")).to_have_attribute("data-points", "40")
    page.goto("about:blank")  # it still asks about what is deleted below
    for name in ("filling", "other"):
        ask(url, "DELETE", f"/collections/{name}")


def test_scores_are_coloured_by_the_best_one(page: Page, url: str) -> None:
    """Scores of real texts are often small: their differences must be seen all the same."""
    vectors = [[1, 0], [0.3, 1], [0.2, 1], [-1, 0]]
    ask(url, "POST", "/collections", {"name": "scored", "dimension": 8, "model": "first"})
    ask(url, "POST", "/collections/scored/vectors", {
        "vectors": [{"id": str(i), "vector": [*v, *[0] * 6]} for i, v in enumerate(vectors)]
    })  # fmt: skip
    found = {"results": [
        {"id": str(i), "score": score} for i, score in enumerate((0.322, 0.207, 0.1, -0.05))
    ], "exact": True}  # fmt: skip
    page.route("**/scored/search", lambda route: route.fulfill(json=found))
    page.get_by_role("tab", name="Collections").click()
    page.locator(".item[data-name=scored]").click()
    page.locator(".map[data-points]").wait_for()
    page.get_by_label("Search by meaning").fill("any")
    page.keyboard.press("Enter")
    page.locator(".results li").first.wait_for()
    shares = "all => all.map(one => Number(one.style.getPropertyValue('--share')))"
    assert page.locator(".score").evaluate_all(shares) == [1, 0.643, 0.311, 0]
    expect(page.locator(".search [role=status]")).to_contain_text("4 results in")
    ask(url, "DELETE", "/collections/scored")
