"""docs/api.md says of every route who may call it, what it takes and what it answers."""

import re

import routes
from routes.__main__ import label, page
from routes.openapi import statuses
from tests.conftest import ROOT

PAGE = (ROOT / "docs/api.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| `[A-Z]+ /", line)]


def test_the_page_is_what_the_table_says() -> None:
    assert page() == PAGE, "run: python -m routes > docs/api.md"


def test_the_page_lists_every_route_once_with_all_its_parts() -> None:
    listed = {row[0].removeprefix("| "): row for row in ROWS}
    there = {label(row): row for row in routes.ROUTES}
    assert len(ROWS) == len(listed) and listed.keys() == there.keys()
    for name, (_, what, who, body, reply, answers) in listed.items():
        assert what and who and reply, name
        assert (body != "none") == any(
            (there[name].body, there[name].optional_body, there[name].query)
        )
        said = {int(status) for status in re.findall(r"\d{3}", answers)}
        assert said | {500} == {*there[name].success, *statuses(there[name])}, name


def test_every_link_of_the_page_leads_to_a_part_of_it() -> None:
    parts = {heading.lower() for heading in re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#(\w+)\)", PAGE))
    assert linked and linked <= parts
