"""The route table says everything about a route: nothing depends on its path or its tag."""

import re

import pytest

from routes import ROUTES
from routes.table import Route

each_row = pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.name)
# Path values and body fields that hold a collection's name.
PATH, BODY = ("alias_name",), ("alias", "collection")
# What is asked with POST, and only told.
TELL = {"/v1/check-api-key", "/api/show", "/api/pull"}


def collections_named_by(row: Route) -> set[str]:
    values = re.findall(r"<(?:\w+:)?(\w+)>", row.path)
    fields = list(row.body.model_fields) if row.body else []
    found = {name for name in values if name in PATH} | {name for name in fields if name in BODY}
    if row.path.startswith("/collections/<name>") or row.name == "POST /collections":
        found.add("name")
    return found


@each_row
def test_every_collection_that_a_request_names_is_in_the_scope_of_its_route(row: Route) -> None:
    assert set(row.scope) == collections_named_by(row)


@each_row
def test_what_embeds_stores_or_searches_is_refused_under_overload(row: Route) -> None:
    store = row.path.startswith(("/collections", "/embed-and-store", "/jobs"))
    embed = row.access == "embed" and row.tag != "accounts"
    computes = row.method == "POST" and embed and row.path not in TELL
    assert row.works == (store or computes)


@each_row
def test_only_probes_and_pages_do_not_count_against_the_limit(row: Route) -> None:
    assert row.counted == (row.access != "public" or row.path in ("/token", "/session"))


@each_row
def test_routes_of_an_own_account_read_the_credential_from_the_database(row: Route) -> None:
    assert row.own_account == row.path.startswith("/users/<username>/")
