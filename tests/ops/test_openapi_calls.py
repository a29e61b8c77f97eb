"""Every route, asked at random by every kind of caller: it answers as its description says.

Schemathesis makes the requests of the description itself: some that fit it, some that do not. Most
name things that are there, and many begin as the shown example with parts exchanged, so that they
get past the first check. The requests are the same at each run; `SCHEMATHESIS_EXAMPLES=300` is the
long form, with new ones at each run.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from cryptography.fernet import Fernet
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.openapi.checks import UndefinedStatusCode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from config import Config
from factory import create_app
from routes.openapi import described, described_path, examples
from routes.table import Route
from tests.accounts.conftest import ADMIN, SECRET, add_user, bearer, token_of
from tests.conftest import write_models
from tests.providers.server import FakeProvider

LONG = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
# Requests a route gets of each caller; those who are only refused need few.
EXAMPLES = {"operator": 20, "anyone": 4, "admin": 20, "user": 10, "reader": 6, "nobody": 2}
CALLERS = [who if who in ("operator", "nobody") else pytest.param(who, marks=pytest.mark.long)
           for who in EXAMPLES]  # fmt: skip
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# The only errors of ours that may be: a model or a provider that cannot be had is no fault here.
AWAY = {502, 503}
WAYS = ("at random", "there", "as shown", "mixed")
THERE = {"alias_name": "papers", "id_": "cat", "model_id": "fake", "provider": "openai",
         "name": "notes"}  # fmt: skip


@dataclass
class Service:
    """An application with something in it, and the headers of its callers."""

    app: Flask
    schema: schemathesis.schemas.BaseSchema
    headers: dict[str, dict[str, str]]
    provider: FakeProvider
    there: dict[str, Any] = field(default_factory=lambda: dict(THERE))
    seen: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def fill(self, who: str) -> None:
        """Put back what the requests name, whatever became of it."""
        self.app.extensions["services"].settings.rollback(0, "tests")
        owner = self.there["username"] = {"user": "uma", "reader": "rita"}.get(who, "vera")
        self.call("DELETE", "/collections/notes")
        self.call("POST", "/users", username="vera", password="vera-password-1")
        for key in self.call("GET", f"/users/{owner}/api-keys").get("api_keys", []):
            if key["label"] == "spare":
                self.call("DELETE", f"/users/{owner}/api-keys/{key['id']}")
        self.there["key"] = self.call("POST", f"/users/{owner}/api-key", label="spare")["id"]
        self.call("POST", "/providers/openai/api-key", api_key="sk-no-key-at-all")
        made = self.call("POST", "/collections", name="notes", model="fake")
        self.there["vector"] = [0.5] * made["dimension"]
        self.call("POST", "/collections/notes/vectors", id="cat", text="The cat sits on the mat.")
        self.call("POST", "/collections/notes/aliases", alias="papers")
        self.there["state"] = self.call("GET", "/collections/notes/map")["state"]

    def call(self, method: str, path: str, **body: object) -> Any:
        who = self.headers.get("admin") or self.headers["operator"]
        reply = self.client.open(path, method=method, json=body or None, headers=who)
        assert reply.status_code in (200, 201, 202, 404, 409), f"{method} {path}: {reply.text}"
        return reply.json


def service(folder: Path, auth: bool) -> Service:
    models: dict[str, dict] = {
        name: {"type": "fake", "model_name": f"tests/{name}"} for name in ("fake", "other")
    }
    others = {"ranker": "+score", "terms": "+sparse", "classes": "+score+label"}
    for name, outputs in others.items():
        models[name] = {"type": "fake", "model_name": f"tests/{name}{outputs}"}
    provider = FakeProvider()
    models["remote"] = {"type": "openai", "model_name": "m", "base_url": f"{provider.url}/v1",
                        "provider": "openai"}  # fmt: skip
    file = write_models(folder / "m.json", models)
    given = {"model_config_file": file, "supported_models_file": folder / "none",
             "store_dir": folder / "store", "data_dir": folder / "data", "auth_enabled": auth,
             "db_url": f"sqlite:///{folder}/service.db",
             "encryption_key": Fernet.generate_key().decode(),
             "provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1"}  # fmt: skip
    if auth:
        given |= {"jwt_secret_key": SECRET, "admin_password": ADMIN[1]}
    else:
        given |= {"admin_token": SECRET}
    app = create_app(Config.model_validate(given), wait=True)
    client, headers = app.test_client(), {"anyone": {}, "operator": bearer(SECRET)}
    if auth:
        admin = bearer(token_of(client, *ADMIN))
        headers = {"nobody": {}, "admin": admin, "user": add_user(client, admin, "uma"),
                   "reader": add_user(client, admin, "rita", "reader")}  # fmt: skip
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    made = Service(app, schema, headers, provider)
    made.fill("admin")
    made.there["job"] = made.call("POST", "/collections/notes/reembed", model="other")["id"]
    who = made.headers.get("admin") or made.headers["operator"]
    path = "/collections/notes/files?filename=a.txt&start=false"
    made.there["given"] = made.client.post(path, data=b"one\n\0\n", headers=who).json["id"]
    return made


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """The service by caller: one that lets everybody in, and one where callers sign in."""
    off = service(tmp_path_factory.mktemp("off"), auth=False)
    on = service(tmp_path_factory.mktemp("on"), auth=True)
    yield {**dict.fromkeys(off.headers, off), **dict.fromkeys(on.headers, on)}
    for each in (off, on):
        parts = each.app.extensions["services"]
        parts.accounts.close()
        parts.documents.store.close()
        parts.providers.close()
        each.provider.shutdown()
        each.provider.server_close()
    # Nobody signs in where everybody may do everything.
    for each, who, never in (
        (on, "admin", set()),
        (off, "operator", {"POST /token", "POST /session"}),
    ):
        asked = {name for caller, name, _ in each.seen if caller == who}
        assert len(asked) < len(described()) or unmet(each, who) == never


def unmet(service: Service, who: str) -> set[str]:
    """Return the routes that a caller was never seen to succeed at."""
    worked = {name for caller, name, status in service.seen if caller == who and status < 300}
    return {f"{row.method} {described_path(row.path)}" for row in described()} - worked


def named(row: Route, there: dict[str, Any]) -> dict[str, str]:
    """Return the route's path values that are there."""
    other = {"/v1/models": {"name": "fake"}, "/openai": {"name": "fake"},
             "/jobs/<id_>/": {"id_": there["given"]}, "/jobs": {"id_": there["job"]},
             "/users": {"id_": there["key"]}, "/settings": {"key": "max_texts"}}  # fmt: skip
    return {**there, **next((v for k, v in other.items() if row.path.startswith(k)), {})}


def requests_of(row: Route, schema: schemathesis.schemas.BaseSchema) -> st.SearchStrategy:
    """Make requests that fit the description and, where it says anything, some that do not."""
    operation = schema[described_path(row.path)][row.method]
    fit = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not (row.body or row.query or row.optional_body):
        return fit
    return fit | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("row", described(), ids=lambda row: row.name)
def test_every_request_is_answered_as_described(
    row: Route, who: str, services: dict[str, Service]
) -> None:
    service = services[who]
    service.fill(who)
    there = named(row, service.there)
    count = LONG if LONG and who in ("operator", "admin") else LONG // 5 or EXAMPLES[who]

    shown = examples().get(row.name, {})

    @given(requests_of(row, service.schema), st.sampled_from(WAYS))
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck),
              derandomize=not LONG, database=None, phases=[Phase.generate])  # fmt: skip
    def send(case: schemathesis.Case, way: str) -> None:
        if way != "at random" and case.path_parameters:
            case.path_parameters |= {name: there[name] for name in case.path_parameters}
            if "/map/" in row.path and isinstance(case.query, dict):
                case.query |= {"state": there["state"]}
        if way in ("as shown", "mixed") and isinstance(shown.get("body"), dict):
            case.body = mixed(shown["body"], case.body if way == "mixed" else None, there)
            case.media_type = "application/json"
        check(case, service, who)

    send()


def mixed(shown: dict, other: object, there: dict[str, str]) -> dict:
    """Return the shown body about what is there, with the values that another has for its names."""
    names = {"collection": "notes", "alias": "papers", "model": "fake", "vector": there["vector"],
             "password": ADMIN[1], "state": there["state"], "points": "AAAAAAAAAAA="}  # fmt: skip
    body = {name: names.get(name, value) for name, value in shown.items()}
    if body.keys() == {"model"}:  # to re-embed is to take another
        body["model"] = "other"
    return {**body, **other} if isinstance(other, dict) else body


def check(case: schemathesis.Case, service: Service, who: str) -> None:
    plain = {"Accept-Encoding": "identity"}  # Schemathesis would not unpack what is compressed
    reply = case.call(headers=service.headers[who] | plain)
    service.seen[who, f"{case.method} {case.path}", reply.status_code] += 1
    told = f"{who}: {case.as_curl_command()} -> {reply.status_code} {reply.content[:300]!r}"
    assert reply.status_code < 500 or reply.status_code in AWAY, told
    if who == "nobody" and case.operation.definition.raw.get("security"):
        assert reply.status_code == 401, told
    case.validate_response(reply, checks=CHECKS)


@pytest.mark.parametrize("planted", ["status", "schema", "crash"])
def test_a_wrong_answer_would_be_seen(planted: str, tmp_path: Path) -> None:
    """The control: a status, a body and a crash that are not described."""
    wrong = service(tmp_path, auth=False)
    answers = {"status": ("{}", 418), "schema": ('{"status": "dying"}', 200)}

    def view() -> object:
        body, status = answers[planted]  # a KeyError is the crash
        return wrong.app.response_class(body, status, content_type="application/json")

    wrong.app.view_functions["GET /health/live"] = view
    case = wrong.schema["/health/live"]["GET"].Case()
    with pytest.raises((AssertionError, BaseExceptionGroup, UndefinedStatusCode)):
        check(case, wrong, "anyone")
