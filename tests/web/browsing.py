"""A collection to browse, and what a person does with it: used by the tests of browsing."""

import json
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.web.conftest import ask

COUNT = 130
LANGS, KINDS = ("en", "en", "de", "fr"), ("function", "class")


def stored(i: int) -> dict[str, Any]:
    """The metadata of the record `doc-i`."""
    return {
        "lang": LANGS[i % 4],
        "year": 1990 + i % 30,
        "kind": KINDS[i % 2],
        "tags": [f"t{i % 3}", "all"],
        "author": {"name": ("Ana", "Ben", "Cleo")[i % 3]},
        **({"draft": True} if i % 5 == 0 else {}),
    }


def fill(url: str, name: str, token: str = "", count: int = COUNT) -> None:
    body = {
        "collection": name,
        "ids": [f"doc-{i:03}" for i in range(count)],
        "texts": [f"text number {i} of {name}" for i in range(count)],
        "metadata": [stored(i) for i in range(count)],
    }
    ask(url, "POST", "/embed-and-store", body, token)


def go(page: Page, name: str, **query: str) -> None:
    """Open a collection by its address."""
    words = "&".join(f"{key}={quote(value)}" for key, value in query.items())
    page.goto(f"{page.url.split('#')[0]}#/collections/{name}?{words}")
    expect(page.locator(".collection .name")).to_have_text(name)


def address(page: Page) -> dict[str, str]:
    """What the address says of the collection."""
    return {
        key: each[0]
        for key, each in parse_qs(urlsplit(page.url).fragment.partition("?")[2]).items()
    }


def filter_of(page: Page) -> Any:
    return json.loads(address(page).get("filter", "{}"))


def shows(page: Page, count: int) -> None:
    """The filter bar tells that so many records match."""
    expect(page.locator(".filters > .hint")).to_contain_text(f"{count} of ")


def field(page: Page, name: str) -> Locator:
    """Open a field of the filter bar; returns what it offers."""
    button = page.locator(f".fields [data-key='{name}']")
    button.or_(page.locator(f".fields option[value='{name}']")).wait_for(state="attached")
    if button.count():
        if button.get_attribute("aria-expanded") == "false":
            button.click()
    else:
        page.get_by_label("Other fields").select_option(name)
    panel = page.locator(".filter-panel", has=page.get_by_role("heading", name=name, exact=True))
    panel.wait_for()
    return panel


def choice(panel: Locator, text: str) -> Locator:
    return panel.locator(f".choice[data-key='{text}']")


def ids_of(hits: Locator) -> list[str]:
    return [str(hit.get_attribute("data-id")) for hit in hits.all()]


def drawer(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Record")
