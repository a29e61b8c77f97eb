"""The Live tab: the hour that the service keeps, as charts, for eyes, keys and screen readers."""

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.web.conftest import Seen, ask, watched
from tests.web.test_accessible import faults

SOME = re.compile(r"[1-9]")


def chart(page: Page, title: str) -> Locator:
    return page.locator(f"[data-chart='{title}']")


def highest(page: Page, title: str, line: str) -> Locator:
    """The highest value of a line, as the chart's table has it."""
    row = chart(page, title).locator("tbody tr").filter(has_text=line)
    return row.locator("td").nth(2)


def embed(url: str, *texts: str, model: str = "first") -> None:
    ask(url, "POST", "/v1/embeddings", {"model": model, "input": [*texts]})


@pytest.fixture
def busy(url: str) -> Iterator[None]:
    """Embed all the time, so that every reading has something to show."""
    stop = threading.Event()

    def work() -> None:
        for n in itertools.count():
            for model in ("first", "second"):
                embed(url, f"text {n}", "always the same", model=model)
            if stop.wait(0.2):
                return

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def answer(page: Page, change: Callable[[Any], None]) -> None:
    """Have the page get the service's answer, changed."""

    def changed(route: Route) -> None:
        body = route.fetch().json()
        change(body)
        route.fulfill(json=body)

    page.route("**/metrics/history*", changed)


def hour(body: Any) -> None:
    """Put an hour of readings into an answer, without any in ten minutes of it."""
    body["times"] = [1_800_000_000.0 + 5 * i for i in range(720)]
    for name in body["columns"]:
        body["columns"][name] = [None if 300 <= i < 420 else 0.5 for i in range(720)]


@pytest.mark.usefixtures("busy")
def test_the_last_hour_is_there_at_once_after_a_reload(page: Page) -> None:
    page.get_by_role("tab", name="Live").click()
    for title, line in (
        ("Requests", "all"), ("Latency", "p50"), ("Latency", "p99"), ("Texts", "a second"),
        ("Tokens", "a second"), ("Pass fill", "of a pass"), ("Cache hits", "found"),
        ("Wait", "p99"), ("Memory", "in use"), ("CPU", "cores busy"),
    ):  # fmt: skip
        expect(highest(page, title, line)).to_have_text(SOME)
    expect(highest(page, "Queue", "bulk")).to_have_text(re.compile(r"\d"))
    with page.expect_response("**/metrics/history") as reply:
        page.reload()
    assert reply.value.url.endswith("/history") and len(reply.value.json()["times"]) >= 2
    page.locator(".plot canvas").first.wait_for()
    expect(highest(page, "Texts", "a second")).to_have_text(SOME)


@pytest.mark.usefixtures("busy")
def test_a_model_and_a_lane_are_chosen_and_are_in_the_address(page: Page, url: str) -> None:
    page.goto(f"{url}/#/live")
    page.locator("#live-model").select_option("second")
    expect(highest(page, "Requests", "all")).to_have_text(SOME)
    expect(highest(page, "Latency", "p95")).to_have_text(SOME)
    page.locator("#live-lane").select_option("bulk")
    assert page.url.endswith("#/live?model=second&lane=bulk")
    expect(highest(page, "Requests", "all")).to_have_text("0")
    expect(highest(page, "Queue", "interactive")).to_have_text("–")
    page.reload()
    expect(page.locator("#live-model")).to_have_value("second")
    expect(page.locator("#live-lane")).to_have_value("bulk")
    page.locator("#live-span").select_option("An hour")
    assert page.url.endswith("&span=3600")


COLOURED = """(canvas) => {
    const { width, height } = canvas, found = [];
    const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const line = [15, 107, 92];
    for (let x = 0; x < width; x++)
        for (let y = 0; y < height; y++)
            if (line.every((part, i) => Math.abs(data[4 * (y * width + x) + i] - part) < 30)) {
                found.push(x);
                break;
            }
    return found;
}"""


def test_no_line_is_drawn_over_a_time_that_nobody_measured(page: Page, url: str) -> None:
    answer(page, hour)
    page.goto(f"{url}/#/live?span=3600")
    canvas = chart(page, "Texts").locator("canvas")
    canvas.wait_for()
    page.wait_for_function(
        f"canvas => ({COLOURED})(canvas).length > 100", arg=canvas.element_handle()
    )
    columns = canvas.evaluate(COLOURED)
    steps = [(b - a, a) for a, b in zip(columns, columns[1:], strict=False)]
    widest, at = max(steps)
    across = columns[-1] - columns[0]
    assert (
        abs(widest / across - 120 / 719) < 0.02
        and abs((at - columns[0]) / across - 300 / 719) < 0.02
    )
    assert sorted(steps)[-2][0] <= 2


def test_a_service_that_was_away_leaves_a_gap(page: Page, url: str) -> None:
    """The first answer is of before, the others of after a restart, five minutes later."""
    answers = iter(range(10**6))

    def body(body: Any) -> None:
        n = next(answers)
        body["every_s"] = 1
        body["times"] = (
            [1_800_000_000.0 + i for i in range(60)] if n == 0 else [1_800_000_359.0 + n]
        )
        for name in body["columns"]:
            body["columns"][name] = [0.5] * len(body["times"])

    answer(page, body)
    page.goto(f"{url}/#/live")
    canvas = chart(page, "Memory").locator("canvas")
    canvas.wait_for()
    whole = page.wait_for_function(
        f"canvas => {{ const found = ({COLOURED})(canvas); "
        "return found.some((x, i) => i && x - found[i - 1] > 100) && found; }",
        arg=canvas.element_handle(),
    ).json_value()
    assert len(whole) > 20


def test_the_charts_are_read_by_keyboard_and_have_one_cursor(page: Page, url: str) -> None:
    answer(page, hour)
    page.goto(f"{url}/#/live?span=3600")
    plot = chart(page, "Latency").locator(".plot")
    plot.locator("canvas").wait_for()
    expect(plot).to_have_attribute("aria-label", re.compile("Latency.*Now: p50 500 ms, p95 500 ms"))
    plot.focus()
    page.keyboard.press("Home")
    said = page.locator("#panel-live [role=status]")
    expect(said).to_have_text(re.compile(r"^\d\d:\d\d:\d\d: p50 500 ms, p95 500 ms, p99 500 ms$"))
    first = said.text_content() or ""
    page.keyboard.press("ArrowRight")
    expect(said).not_to_have_text(first)
    for title in ("Latency", "Texts", "CPU"):  # the cursor is at one time in all charts
        expect(chart(page, title).locator(".heading .hint")).to_have_text(
            (said.text_content() or "")[:8]
        )
    page.keyboard.press("End")
    box = chart(page, "Texts").locator(".u-over").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)  # in the gap: the nearest reading
    expect(chart(page, "CPU").locator(".heading .hint")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))


def test_each_gpu_is_a_line_where_there_are_some(page: Page, url: str) -> None:
    def with_gpus(body: Any) -> None:
        hour(body)
        used = [40e9] * 720
        body["gpus"] = {
            "0": {"busy": [0.93] * 720, "memory_used": used, "memory": [80e9] * 720},
            "1": {"busy": [0.02] * 720, "memory_used": [None] * 720, "memory": [None] * 720},
        }

    answer(page, with_gpus)
    page.goto(f"{url}/#/live")
    expect(highest(page, "GPU use", "GPU 0")).to_have_text("93 %")
    expect(highest(page, "GPU use", "GPU 1")).to_have_text("2 %")
    expect(highest(page, "GPU memory", "GPU 0 used")).to_have_text("40 GB")
    expect(highest(page, "GPU memory", "GPU 1 has")).to_have_text("–")


def test_who_may_not_see_the_metrics_is_told_so(page: Page, url: str, seen: Seen) -> None:
    seen.expected.add(403)
    refused = {"status": 403, "body": "<html>403 Forbidden</html>", "content_type": "text/html"}
    page.route("**/metrics/history*", lambda route: route.fulfill(**refused))
    page.goto(f"{url}/#/live")
    expect(page.locator("#live-error")).to_contain_text("You may not see this service's metrics")
    page.unroute("**/metrics/history*")  # it asks again by itself
    expect(page.locator("#live-error")).to_be_hidden()
    page.locator(".plot canvas").first.wait_for()


def test_the_charts_fit_and_are_accessible_on_a_phone_and_in_the_dark(
    browser: Browser, url: str
) -> None:
    for look in (
        {"viewport": {"width": 360, "height": 780}, "color_scheme": "dark"},
        {"color_scheme": "light", "reduced_motion": "reduce"},
    ):
        with watched(browser, Seen(url), **look) as page:
            answer(page, hour)
            page.goto(f"{url}/#/live")
            page.locator(".plot canvas").first.wait_for()
            chart(page, "Latency").locator("summary").click()
            expect(chart(page, "Latency").locator("table")).to_be_visible()
            assert faults(page) == []
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0
