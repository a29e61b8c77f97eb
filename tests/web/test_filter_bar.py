"""The filter bar: every operator by hand, values and ranges to press, and JSON."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from store.filters import matches, parse
from tests.store.contract import FILTERS, METADATA
from tests.web.browsing import COUNT, address, choice, field, fill, filter_of, go, shows, stored
from tests.web.conftest import Seen, ask


@pytest.fixture(scope="module")
def docs(url: str) -> Iterator[str]:
    """A collection that no test changes."""
    fill(url, "barred")
    yield "barred"
    ask(url, "DELETE", "/collections/barred")


MADE: list[tuple[list[tuple[str, str, str, str]], bool, Any]] = [
    # (field, operator, kind, value) of each alternative, whether negated, the filter
    ([("lang", "is", "text", "en")], False, {"lang": "en"}),
    ([("lang", "is not", "text", "en")], False, {"lang": {"$ne": "en"}}),
    ([("year", "is above", "number", "2010")], False, {"year": {"$gt": 2010}}),
    ([("year", "is at least", "number", "2010.5")], False, {"year": {"$gte": 2010.5}}),
    ([("author.name", "is below", "text", "Bz")], False, {"author.name": {"$lt": "Bz"}}),
    ([("year", "is at most", "number", "1e3")], False, {"year": {"$lte": 1000}}),
    ([("year", "is one of", "number", "2000\n2001")], False, {"year": {"$in": [2000, 2001]}}),
    ([("lang", "is none of", "text", "en\nde")], False, {"lang": {"$nin": ["en", "de"]}}),
    ([("tags", "contains", "text", "t1")], False, {"tags": {"$contains": "t1"}}),
    ([("draft", "exists", "", "no")], False, {"draft": {"$exists": False}}),
    ([("draft", "is", "yes or no", "true")], False, {"draft": True}),
    ([("draft", "is", "nothing", "")], False, {"draft": None}),
    ([("lang", "is", "text", "fr"), ("year", "is", "number", "1990")], False,
     {"$or": [{"lang": "fr"}, {"year": 1990}]}),
    ([("lang", "is", "text", "fr"), ("draft", "exists", "", "yes")], True,
     {"$not": {"$or": [{"lang": "fr"}, {"draft": {"$exists": True}}]}}),
    ([("kind", "is", "text", "class")], True, {"$not": {"kind": "class"}}),
]  # fmt: skip


def fill_condition(row: Locator, field: str, op: str, kind: str, value: str) -> None:
    row.get_by_label("Field").fill(field)
    row.get_by_label("Operator").select_option(op)
    if kind:
        row.get_by_label("Kind of value").select_option(kind)
    if "one of" in op or "none of" in op:
        row.get_by_label("Values, one a line").fill(value)
    elif op == "exists" or kind == "yes or no":
        row.get_by_label("Value", exact=True).select_option(value)
    elif kind != "nothing":
        row.get_by_label("Value", exact=True).fill(value)


def test_every_operator_can_be_built_and_changed_by_hand(page: Page, docs: str) -> None:
    go(page, docs)
    for conditions, negated, wanted in MADE:
        page.get_by_role("button", name="Condition", exact=True).click()
        for at, condition in enumerate(conditions):
            if at:
                page.get_by_role("button", name="Or …").click()
            fill_condition(page.locator(".condition").nth(at), *condition)
        if negated:
            page.get_by_label("Leave these records out instead").check()
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator(".chip")).to_have_count(1)
        assert filter_of(page) == wanted
        shows(page, sum(matches(parse(wanted), stored(i)) for i in range(COUNT)))
        page.locator(".chip .change").click()
        expect(page.locator(".condition")).to_have_count(len(conditions))
        page.get_by_role("button", name="Change", exact=True).click()  # it was read as it was made
        assert filter_of(page) == wanted
        page.get_by_role("button", name=re.compile("^Remove ")).click()
        expect(page.locator(".chip")).to_have_count(0)
        assert "filter" not in address(page)


def test_what_is_typed_wrong_is_said_and_nothing_is_filtered(
    page: Page, seen: Seen, docs: str
) -> None:
    seen.expected.add(400)
    go(page, docs)
    page.get_by_role("button", name="Condition", exact=True).click()
    fill_condition(page.locator(".condition"), "year", "is", "number", "12 apples")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator(".condition-form .error")).to_contain_text("“12 apples” is not a number")
    page.get_by_role("button", name="JSON", exact=True).click()
    area = page.get_by_label("Filter as JSON")
    for typed, told in (
        ("{year", "not JSON"),
        ("[1]", "is an object"),
        ('{"a": {"$near": 1}}', "$near"),
    ):
        area.fill(typed)
        page.get_by_role("button", name="Apply").click()
        expect(page.locator(".filter-panel .error")).to_contain_text(told)
    assert "filter" not in address(page)
    area.fill(
        '{"$or": [{"lang": "en", "year": 1990}, {"$and": [{"kind": "class"}, {"year": 1991}]}]}'
    )
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".chip")).to_have_count(1)
    shows(page, sum(matches(parse(filter_of(page)), stored(i)) for i in range(COUNT)))
    page.locator(".chip .change").click()  # no form has this one
    expect(area).to_have_value(re.compile(r'"\$or"'))
    go(page, docs, filter="{oops")
    expect(page.locator(".filters > .error")).to_contain_text("not JSON")
    go(page, docs, filter='{"a": {"$near": 1}}')
    expect(page.locator(".filters > .error")).to_contain_text("unknown operator")


def test_any_filter_is_read_and_written_back_with_the_same_meaning(page: Page) -> None:
    rng = random.Random(0)
    filters = [
        *FILTERS,
        {"__proto__": 1},
        {"a": {"$in": [2**53 + 1]}},
        {"$and": [{"a": 1}, {"a": 2}]},
    ]
    for _ in range(300):
        some = rng.sample(FILTERS[:-1], 3)
        inner = {rng.choice(("$and", "$or")): some}
        filters.append(
            rng.choice([inner, {"$not": inner}, {"$and": [inner, some[0]]}, {**some[1], **inner}])
        )
    script = """async (texts) => {
        const { partsOf, read, textOf, told } = await import("/static/js/filters.js");
        const again = (text) => textOf(partsOf(read(text)));
        texts.forEach((text) => partsOf(read(text)).map(told));
        return texts.map((text) => [again(text), again(again(text))]);
    }"""
    written = page.evaluate(script, [json.dumps(each) for each in filters])
    for filter, (text, again) in zip(filters, written, strict=True):
        assert text == again, filter
        back = parse(json.loads(text or "{}"))
        wrong = [m for m in METADATA if matches(parse(filter), m) != matches(back, m)]
        assert not wrong, (filter, text)


def test_lists_bounds_and_missing_fields_are_pressed_too(page: Page, docs: str) -> None:
    go(page, docs)
    values = field(page, "lang").get_by_role("group", name="Values").locator(".choice")
    values.evaluate_all("all => all.slice(0, 2).forEach(each => each.click())")  # in one moment
    assert filter_of(page) == {"lang": {"$in": ["en", "de"]}}
    page.get_by_role("button", name=re.compile("^Remove lang")).click()
    choice(field(page, "tags"), "t1").click()
    shows(page, 43)
    choice(field(page, "tags"), "all").click()  # a list that has both
    shows(page, 43)
    choice(field(page, "draft"), "missing").click()
    shows(page, sum(i % 3 == 1 and i % 5 > 0 for i in range(COUNT)))
    panel = field(page, "year")
    panel.get_by_label("year from").fill("2000")
    panel.get_by_label("year to").fill("2010")
    panel.get_by_role("button", name="Set range").click()
    wanted = {
        "tags": {"$contains": "t1"},
        "draft": {"$exists": False},
        "year": {"$gte": 2000, "$lte": 2010},
    }
    expect(page.locator(".chip")).to_have_count(5)
    assert filter_of(page) == {"$and": [wanted, {"tags": {"$contains": "all"}}]}
    shows(page, sum(matches(parse(filter_of(page)), stored(i)) for i in range(COUNT)))
    panel.get_by_role("button", name="Another condition").click()
    expect(page.get_by_label("Field", exact=True)).to_have_value("year")
    expect(page.get_by_label("Kind of value")).to_have_value("number")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".chip")).to_have_count(0)
    assert "filter" not in address(page)
