"""No route reads more of a body than its own limit, whatever the body is and however it comes."""

import io
import json
import re
from collections.abc import Iterator

import pytest
import requests
from flask.testing import FlaskClient

from routes import ROUTES
from routes.table import SMALL, Route
from tests.routes.conftest import ADMIN, LARGE

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"
PART = '--xyz\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'


class Endless(io.RawIOBase):
    """A body that never ends, and counts what was read of it."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        buffer[:] = b"1" * len(buffer)
        self.read_bytes += len(buffer)
        return len(buffer)


def rows_and_kinds() -> Iterator[tuple[Route, str]]:
    for row in ROUTES:
        if row.file:  # MAX_FILE_MB: tests/collections/test_file_jobs.py
            continue
        yield row, JSON
        if row.form:
            yield from ((row, FORM), (row, MULTIPART))


each_row = pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, id=f"{row.method} {row.path} {kind}")
        for row, kind in rows_and_kinds()
    ],
)


def path_of(row: Route) -> str:
    return re.sub(r"<[^>]+>", "x", row.path)


@each_row
@pytest.mark.fault("Hostile clients")
def test_a_body_over_the_limit_of_its_route_is_refused_unread(
    signed_in: FlaskClient, row: Route, kind: str
) -> None:
    """A body over 64 KB on a route that neither embeds, writes nor searches -> 413 without reading
    it.
    """
    most, body = (LARGE if row.large else SMALL), Endless()
    environ = {"wsgi.input": body, "CONTENT_LENGTH": str(most + 1)}
    reply = signed_in.open(
        path_of(row), method=row.method, content_type=kind, environ_overrides=environ
    )
    assert (reply.status_code, body.read_bytes) == (413, 0)
    assert str(most) in reply.text


@each_row
def test_a_body_over_the_limit_of_its_route_is_refused_without_a_length(
    signed_in: FlaskClient, row: Route, kind: str
) -> None:
    most, body = (LARGE if row.large else SMALL), Endless()
    environ = {"wsgi.input": body, "wsgi.input_terminated": True}
    reply = signed_in.open(
        path_of(row), method=row.method, content_type=kind, environ_overrides=environ
    )
    assert reply.status_code == 413
    assert str(most) in reply.text
    assert body.read_bytes <= most + SMALL


def test_only_routes_that_embed_write_or_search_may_have_large_bodies() -> None:
    large = {f"{row.method} {row.path}" for row in ROUTES if row.large}
    assert {"POST /embed", "POST /v1/embeddings", "POST /embed-and-store"} <= large
    assert not {row.path for row in ROUTES if row.large and row.tag in ("accounts", "settings")}


def in_chunks(unit: bytes, megabytes: int) -> Iterator[bytes]:
    for _ in range(megabytes):
        yield unit * ((1 << 20) // len(unit))


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [("POST", "/token", FORM), ("POST", "/token", MULTIPART), ("POST", "/token", JSON),
     ("POST", "/users", JSON), ("GET", "/health", "text/plain"), ("DELETE", "/users/nobody", JSON)],
)  # fmt: skip
def test_on_the_wire_a_flood_without_a_length_ends_at_the_limit(
    service_url: str, method: str, path: str, kind: str
) -> None:
    token = requests.post(f"{service_url}/token", json=ADMIN, timeout=30).json()["access_token"]
    headers = {"Content-Type": kind, "Authorization": f"Bearer {token}"}
    try:
        reply = requests.request(
            method, service_url + path, data=in_chunks(b"a=1&", 8), headers=headers, timeout=30
        )
        assert reply.status_code == 413
        assert str(SMALL) in reply.text
    except requests.ConnectionError:  # the answer may be lost where the client still sends
        pass
    assert requests.get(f"{service_url}/health/live", timeout=30).status_code == 200


SIGN_IN = list(ADMIN.items())


def form_of(kind: str, fields: list[tuple[str, str]]) -> str:
    if kind == FORM:
        return "&".join(f"{name}={value}" for name, value in fields)
    return "".join(PART.format(name, value) for name, value in fields) + "--xyz--\r\n"


def sent(client: FlaskClient, kind: str, body: str | bytes):
    return client.post("/token", data=body, content_type=kind)


@pytest.mark.parametrize("kind", [FORM, MULTIPART])
def test_a_form_signs_in(signed_in: FlaskClient, kind: str) -> None:
    fields = [("grant_type", "password"), *SIGN_IN, ("scope", ""), ("client_id", "é")]
    assert sent(signed_in, kind, form_of(kind, fields)).status_code == 200


@pytest.mark.parametrize("kind", [FORM, MULTIPART])
@pytest.mark.fault("Hostile clients")
def test_a_form_of_many_fields_is_refused(signed_in: FlaskClient, kind: str) -> None:
    """A form of thousands of fields, also in parts -> 400; no field is kept in memory."""
    many = form_of(kind, [*SIGN_IN, *((str(i), "") for i in range(900))])
    reply = sent(signed_in, kind, many)
    assert reply.status_code == 400
    assert "20 fields" in reply.json["error"]


@pytest.mark.parametrize("kind", [FORM, MULTIPART])
def test_a_field_of_a_form_that_comes_twice_is_refused(signed_in: FlaskClient, kind: str) -> None:
    reply = sent(signed_in, kind, form_of(kind, [*SIGN_IN, SIGN_IN[1]]))
    assert reply.status_code == 422
    assert "password: it is given more than once" in reply.json["error"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [(FORM, b"username=admin&password=%E9"), (FORM, b"username=admin&password=\xe9"),
     (FORM, b"username=%ED%A0%80&password=x"), (MULTIPART, b"--xyz\r\nnothing"),
     (MULTIPART, form_of(MULTIPART, SIGN_IN).encode().replace(b"admin", b"\xe9dmin")),
     ("multipart/form-data", b"--xyz"), (MULTIPART, b"")],
)  # fmt: skip
def test_a_form_that_is_none_is_refused(signed_in: FlaskClient, kind: str, body: bytes) -> None:
    assert sent(signed_in, kind, body).status_code in (400, 422)


def test_a_key_is_limited_by_a_body_in_chunks_too(signed_in: FlaskClient) -> None:
    asked = json.dumps({"label": "narrow", "collections": ["notes"]}).encode()
    environ = {"wsgi.input": io.BytesIO(asked), "wsgi.input_terminated": True}
    reply = signed_in.post("/users/admin/api-key", content_type=JSON, environ_overrides=environ)
    assert (reply.status_code, reply.json["collections"]) == (201, ["notes"])
    reply = signed_in.post("/users/admin/api-key")
    assert (reply.status_code, reply.json["collections"]) == (201, None)
