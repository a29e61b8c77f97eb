"""docs/api.md lists every route there is and none that is not."""

import re

from routes.table import ROUTES
from tests.conftest import ROOT

LISTED = re.findall(r"^\| `([A-Z]+ [^`]+)` \|", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
PARAMETER = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")


def test_the_page_lists_every_route_once() -> None:
    there = [row.method + " " + PARAMETER.sub(r"{\1}", row.path) for row in ROUTES]
    assert sorted(LISTED) == sorted(there)
