"""A collection's map in a browser: laid out in a worker, coloured, pointed at, chosen from."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from routes.assets import STATIC, tree
from tests.web.conftest import Guarded, Seen, ask, sign_in, watched
from tests.web.test_accessible import faults
from tests.web.test_phone import PHONE, fits

COUNT = 80
WASM = "AGFzbQEAAAA="  # the smallest program
COMPILES = "b => WebAssembly.compile(Uint8Array.from(atob(b), c => c.charCodeAt(0)))"


@pytest.fixture(scope="module")
def docs(url: str) -> Iterator[str]:
    """A collection that no test changes; its map is laid out when it is first looked at."""
    fill(url, "charted")
    yield "charted"
    ask(url, "DELETE", "/collections/charted")


def fill(url: str, name: str, count: int = COUNT, token: str = "") -> None:
    body = {
        "collection": name,
        "ids": [f"doc-{i:03}" for i in range(count)],
        "texts": [f"text number {i} of {name}" for i in range(count)],
        "metadata": [{"kind": f"kind {i % 4}", "year": 1900 + i} for i in range(count)],
    }
    ask(url, "POST", "/embed-and-store", body, token)


def show(page: Page, url: str, name: str, query: str = "") -> None:
    """Open a collection's map, and wait until it is as it stays."""
    page.goto("about:blank")  # or only the hash would change
    page.goto(f"{url}/#/collections/{name}{query}")
    ready(page)


def ready(page: Page) -> None:
    page.locator(".map[aria-busy=false]").wait_for()


def painted(page: Page) -> dict[str, int]:
    """Return how many pixels of the map have each colour."""
    return page.locator(".map-field canvas").first.evaluate("""canvas => {
        const { width, height } = canvas, counts = {};
        const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
        for (let i = 0; i < data.length; i += 4) {
            const colour = data.slice(i, i + 3).join();
            counts[colour] = (counts[colour] ?? 0) + 1;
        }
        return counts;
    }""")


def ink(page: Page) -> int:
    """Return how many pixels of the map are not its ground."""
    counts = painted(page)
    return sum(counts.values()) - max(counts.values())


def test_a_map_is_drawn_laid_out_and_kept_for_the_next(page: Page, url: str) -> None:
    fill(url, "laid")
    show(page, url, "laid")
    box = page.locator(".map")
    expect(box).to_have_attribute("data-points", str(COUNT))
    expect(box).to_have_attribute("data-layout", "neighbours")
    expect(page.locator(".map-card .hint").first).to_have_text(
        f"{COUNT} texts · similar texts lie close together"
    )
    assert ink(page) > 10 * COUNT
    kept = ask(url, "GET", "/collections/laid/map")
    assert kept["layout"] == "neighbours" and max(map(abs, kept["x"])) == 1
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    ready(page)
    expect(box).to_have_attribute("data-layout", "neighbours")
    assert any(u.endswith("/map") for u in asked)
    assert not any("neighbours" in u or "umap" in u for u in asked)
    ask(url, "POST", "/embed-and-store", {"collection": "laid", "texts": ["another one"]})
    assert ask(url, "GET", "/collections/laid/map")["layout"] == "components"
    ask(url, "DELETE", "/collections/laid")


def test_few_texts_stay_on_their_principal_components(page: Page, url: str) -> None:
    fill(url, "few", 3)
    show(page, url, "few")
    expect(page.locator(".map")).to_have_attribute("data-layout", "components")
    expect(page.locator(".map-card .hint").first).to_contain_text("% of the differences")
    assert ink(page) > 0
    ask(url, "DELETE", "/collections/few")


@pytest.mark.fault("Console")
def test_a_layout_that_cannot_be_computed_leaves_the_first_picture(
    page: Page, seen: Seen, url: str
) -> None:
    """The layout's program does not load -> the map says so and stays as it is."""
    fill(url, "unlaid")
    page.route("**/umap.wasm", lambda route: route.abort())
    show(page, url, "unlaid")
    expect(page.locator(".map-card .error").first).to_be_visible()
    expect(page.locator(".map")).to_have_attribute("data-layout", "components")
    expect(page.locator(".map-legend .choice").first).to_be_visible()
    seen.problems.clear()
    ask(url, "DELETE", "/collections/unlaid")


def test_the_keys_go_from_point_to_point(page: Page, url: str, docs: str) -> None:
    show(page, url, docs)
    field, spoken = page.locator(".map .map-field"), page.locator(".map .unseen")
    field.focus()
    expect(field).to_have_accessible_name(re.compile(f"Map of {COUNT} texts"))
    page.keyboard.press("ArrowRight")
    expect(spoken).to_have_text(re.compile(r"text number \d+ of charted"))
    first = spoken.inner_text()
    expect(page.locator(".tip")).to_have_text(first)
    read = {first}
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        expect(page.locator(".tip")).not_to_have_text("…")
        expect(spoken).to_have_text(page.locator(".tip").inner_text())
        read.add(spoken.inner_text())
    assert len(read) > 2
    page.keyboard.press("Escape")
    expect(page.locator(".tip")).to_be_hidden()
    before = painted(page)
    page.keyboard.press("+")
    page.wait_for_function("() => new Promise(requestAnimationFrame)")
    assert painted(page) != before
    page.keyboard.press("0")
    page.keyboard.press("ArrowDown")
    expect(spoken).to_have_text(first)  # all is as it was at the start
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"[?&]id=doc-\d+"))
    number = re.search(r"id=doc-0*(\d+)", page.url)
    assert number and f"number {number[1]} " in first


def test_a_point_is_read_under_the_mouse_and_opened_by_a_click(
    page: Page, url: str, docs: str
) -> None:
    show(page, url, docs)
    field, tip = page.locator(".map .map-field"), page.locator(".tip")
    field.press("ArrowRight")
    expect(tip).to_be_visible()
    expect(tip).not_to_have_text("…")
    text = tip.inner_text()
    place = tip.evaluate("tip => [parseFloat(tip.style.left), parseFloat(tip.style.top)]")
    field.press("Escape")
    expect(tip).to_be_hidden()
    field.hover(position={"x": place[0] + 2, "y": place[1]})
    expect(tip).to_have_text(text)
    field.click(position={"x": place[0] + 2, "y": place[1]})
    expect(page).to_have_url(re.compile(r"[?&]id=doc-\d+"))
    page.go_back()
    expect(page).not_to_have_url(re.compile("id="))
    before = painted(page)
    field.hover(position={"x": 60, "y": 60})
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => new Promise(requestAnimationFrame)")
    zoomed = painted(page)
    assert zoomed != before
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("() => new Promise(requestAnimationFrame)")
    assert painted(page) == before


def test_colours_are_of_a_field_and_in_the_address(page: Page, url: str, docs: str) -> None:
    show(page, url, docs)
    page.get_by_label("Colour by").select_option("kind")
    legend = page.locator(".map-legend .choice")
    expect(legend).to_have_text([f"kind {i}20" for i in range(4)])
    expect(page).to_have_url(re.compile("color=kind"))
    ground = max(painted(page), key=painted(page).__getitem__)
    of_kinds = painted(page)
    page.get_by_label("Colour by").select_option("year")
    expect(page.locator(".map-scale")).to_have_text("1,9021,977")
    expect(page).to_have_url(re.compile("color=year"))
    page.reload()
    ready(page)
    expect(page.get_by_label("Colour by")).to_have_value("year")
    expect(page.locator(".map-scale")).to_be_visible()
    assert painted(page)[ground] == of_kinds[ground] and painted(page) != of_kinds
    page.go_back()
    expect(legend).to_have_count(4)
    page.get_by_label("Colour by").select_option("Nothing")
    expect(page.locator(".map-legend")).to_be_empty()


def test_a_lasso_makes_a_table_of_its_records(page: Page, url: str, docs: str) -> None:
    show(page, url, docs)
    page.get_by_role("button", name="Lasso").click()
    box = page.locator(".map .map-field").bounding_box()
    assert box
    x, y, w, h = box["x"], box["y"], box["width"], box["height"]
    page.mouse.move(x + 2, y + 2)
    page.mouse.down()
    for px, py in ((x + w - 3, y + 2), (x + w - 3, y + h - 3), (x + 2, y + h - 3)):
        page.mouse.move(px, py, steps=4)
    page.mouse.up()
    table = page.get_by_role("region", name="Chosen records")
    expect(table.get_by_role("heading")).to_have_text(f"Within the lasso {COUNT} texts")
    expect(page.get_by_role("button", name="Lasso")).to_have_attribute("aria-pressed", "false")
    expect(table.locator("thead")).to_have_text("Textkindyear")
    expect(table.locator("tbody tr")).to_have_count(50)
    table.get_by_role("button", name="Show more (30)").click()
    expect(table.locator("tbody tr")).to_have_count(COUNT)
    table.get_by_role("button", name="Copy ids").click()
    expect(table.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()").split("\n")
    assert copied == [f"doc-{i:03}" for i in range(COUNT)]
    with page.expect_download() as download:
        table.get_by_role("button", name="Export JSONL").click()
    assert download.value.suggested_filename == "charted.jsonl"
    lines = Path(download.value.path()).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == copied
    first = {"id": "doc-000", "text": "text number 0 of charted",
             "metadata": {"kind": "kind 0", "year": 1900}}  # fmt: skip
    assert json.loads(lines[0]) == first
    table.get_by_role("button", name="text number 7 of charted").click()
    expect(page).to_have_url(re.compile("id=doc-007"))
    page.go_back()
    table.get_by_role("button", name="Clear").click()
    expect(table).to_be_hidden()
    expect(page.locator(".map")).to_have_attribute("data-chosen", "0")


def test_an_entry_of_the_legend_makes_a_table_too(page: Page, url: str, docs: str) -> None:
    show(page, url, docs, "?color=kind")
    entry = page.locator(".map-legend .choice").nth(2)
    entry.focus()
    page.keyboard.press("Enter")
    table = page.get_by_role("region", name="Chosen records")
    expect(table.get_by_role("heading")).to_have_text("kind 2 20 texts")
    expect(table.locator("tbody tr")).to_have_count(20)
    expect(page.locator(".map")).to_have_attribute("data-chosen", "20")
    page.keyboard.press("Enter")
    expect(table).to_be_hidden()


def test_hits_are_lit_also_those_that_the_map_does_not_show(
    page: Page, url: str, docs: str
) -> None:
    def without_some(route: Route) -> None:
        reply = route.fetch()
        whole = reply.json()
        for column in ("ids", "x", "y"):
            whole[column] = whole[column][:-20]
        route.fulfill(response=reply, json=whole)

    def between_two(route: Route) -> None:
        if route.request.method == "GET":
            without_some(route)
            return
        reply = route.fetch()
        placed = reply.json()
        for one in placed["points"]:
            if one["near"][0] >= COUNT - 20:
                one |= {"near": [0, 1], "weights": [0.5, 0.5]}
        route.fulfill(response=reply, json=placed)

    show(page, url, docs)
    page.route("**/charted/map", between_two)
    page.reload()
    ready(page)
    expect(page.locator(".map")).to_have_attribute("data-points", str(COUNT - 20))
    expect(page.locator(".map-card .hint").first).to_contain_text("60 of 80 texts, drawn at random")
    page.get_by_label("Search by meaning").fill("text number 70 of charted")
    page.get_by_label("Most results").select_option("50")
    page.keyboard.press("Enter")
    expect(page.locator(".map")).to_have_attribute("data-lit", "50")


def test_a_map_that_is_out_of_date_is_read_again(page: Page, seen: Seen, url: str) -> None:
    seen.expected.add(409)
    fill(url, "changing", 5)
    show(page, url, "changing")
    expect(page.locator(".map")).to_have_attribute("data-points", "5")
    for i in range(3):  # so many newer states are kept
        body = {"collection": "changing", "texts": [f"new {i}"], "metadata": [{"kind": "new"}]}
        ask(url, "POST", "/embed-and-store", body)
        ask(url, "GET", "/collections/changing/map")
    page.get_by_label("Colour by").select_option("kind")
    expect(page.locator(".map")).to_have_attribute("data-points", "8")
    expect(page.locator(".map-legend .choice", has_text="new")).to_have_text("new3")
    expect(page.locator(".map-card .error").first).to_be_hidden()
    ask(url, "DELETE", "/collections/changing")


def test_webassembly_runs_in_the_worker_and_nowhere_else(page: Page, url: str) -> None:
    def policy(path: str) -> str:
        request = urllib.request.Request(url + path, headers={"Accept": "text/html"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(reply.headers["Content-Security-Policy"])

    usual = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    worker = "js/map-worker.js"
    for name in [*STATIC, ""]:
        for path in (f"/static/{name}", f"/static/{tree()}/{name}") if name else ("/",):
            more = " 'wasm-unsafe-eval'" if name == worker else ""
            assert policy(path) == usual.replace("script-src 'self'", f"script-src 'self'{more}")
    refused = page.evaluate(f"b => ({COMPILES})(b).catch((e) => String(e))", WASM)
    assert "Content Security Policy" in refused


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_map_with_its_table_is_accessible(
    browser: Browser, url: str, docs: str, scheme: str
) -> None:
    with watched(browser, Seen(url), color_scheme=scheme) as page:
        show(page, url, docs, "?color=kind")
        page.locator(".map-legend .choice").first.click()
        page.locator(".chosen tbody tr").first.wait_for()
        page.locator(".map .map-field").press("ArrowRight")
        page.locator(".tip").wait_for()
        assert faults(page) == []


def test_a_map_with_its_table_fits_a_phone(browser: Browser, url: str, docs: str) -> None:
    with watched(browser, Seen(url), **PHONE) as page:
        show(page, url, docs)
        page.locator(".map-legend .choice").first.click()
        page.locator(".chosen tbody tr").first.wait_for()
        assert fits(page)


def test_two_fingers_zoom_the_map_and_one_moves_it(browser: Browser, url: str, docs: str) -> None:
    with watched(browser, Seen(url), **PHONE) as page:
        show(page, url, docs)
        field = page.locator(".map .map-field")
        field.scroll_into_view_if_needed()
        box = field.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        fingers = page.context.new_cdp_session(page)

        def touch(kind: str, *places: float) -> None:
            points = [{"x": x + place, "y": y, "id": i} for i, place in enumerate(places)]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        seen = [painted(page)]
        touch("touchStart", -20, 20)
        for apart in (30, 50, 80):
            touch("touchMove", -apart, apart)
        touch("touchEnd")
        expect(field).to_have_class(re.compile("zoomed"))
        seen.append(painted(page))
        touch("touchStart", 0)
        for place in (20, 40, 60):
            touch("touchMove", place)
        touch("touchEnd")
        page.wait_for_function("() => new Promise(requestAnimationFrame)")
        seen.append(painted(page))
        page.get_by_role("button", name="Show all").click()
        expect(field).not_to_have_class(re.compile("zoomed"))
        assert seen[0] != seen[1] != seen[2]
        assert painted(page) == seen[0]


def test_a_reader_sees_a_layout_and_keeps_none(browser: Browser, guarded: Guarded) -> None:
    fill(guarded.url, "read", token=guarded.token)
    with watched(browser, Seen(guarded.url)) as page:
        page.locator("#sign-in").wait_for()
        sign_in(page, "rita")
        page.goto(f"{guarded.url}/#/collections/read")
        page.locator(".map[data-layout=neighbours]").wait_for()
        ready(page)
    assert guarded.ask("GET", "/collections/read/map")["layout"] == "components"
    guarded.ask("DELETE", "/collections/read")
