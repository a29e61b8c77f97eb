"""The API's description is valid and complete, and what it describes is what answers."""

import os
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis.specs.openapi.checks import status_code_conformance

from config import Config
from factory import create_app
from routes.openapi import described as described_routes
from routes.openapi import description
from tests.conftest import write_models

# How many requests each route gets; SCHEMATHESIS_EXAMPLES=500 is the long form.
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "8"))


def test_the_description_is_valid_openapi() -> None:
    validate(description("1"))


def test_every_route_of_the_table_is_described() -> None:
    described = {
        (method.upper(), path)
        for path, methods in description("1")["paths"].items()
        for method in methods
    }
    assert described == {
        (r.method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", r.path)) for r in described_routes()
    }


def test_operations_have_names_of_their_own() -> None:
    paths = description("1")["paths"].values()
    ids = [operation["operationId"] for methods in paths for operation in methods.values()]
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def api_schema(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("schema")
    file = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    config = Config(model_config_file=file, supported_models_file=folder / "none",
                    store_dir=folder / "store")  # fmt: skip
    return schemathesis.openapi.from_wsgi("/openapi.json", create_app(config, wait=True))


@pytest.mark.parametrize("row", described_routes(), ids=lambda row: f"{row.method} {row.path}")
def test_no_request_is_answered_500_or_by_an_undocumented_status(row, api_schema) -> None:
    path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", row.path)

    @given(case=api_schema[path][row.method].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def send(case) -> None:
        reply = case.call()
        assert reply.status_code < 500 or reply.status_code in (503, 507), case.as_curl_command()
        case.validate_response(reply, checks=[status_code_conformance])

    send()
