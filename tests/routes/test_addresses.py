"""What a path or a query says is taken as it came: never repaired, merged, or taken for another."""

import http.client
import json
from collections.abc import Iterator
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pytest
from flask.testing import FlaskClient

from routes import ROUTES
from tests.routes.conftest import ADMIN

NO_UTF8 = ["%E9", "caf%E9", "%ED%A0%80", "%C0%AF", "%FF%FE", "%F4%90%80%80", "a%C3", "%E2%82"]
JSON = "application/json"


def raw(client: FlaskClient, method: str, path: str, query: str = "", **more):
    """Send a request whose path and query are not touched on the way."""
    environ = {"PATH_INFO": unquoted(path), "QUERY_STRING": query}
    return client.open("/", method=method, environ_overrides=environ, **more)


def unquoted(path: str) -> str:
    """Return a path as WSGI servers hand it over: its bytes as Latin-1."""
    return unquote_to_bytes(path).decode("latin-1")


@pytest.fixture
def notes(signed_in: FlaskClient) -> Iterator[FlaskClient]:
    """A client; there is a collection `c` with a few records."""
    records = [{"id": id_, "vector": [1.0, 2.0]} for id_ in ("a", "notes.md", "caf\ufffd")]
    assert signed_in.post("/collections", json={"name": "c", "dimension": 2}).status_code == 201
    assert signed_in.post("/collections/c/vectors", json={"vectors": records}).status_code == 201
    yield signed_in
    assert signed_in.delete("/collections/c").status_code == 200


def ids(client: FlaskClient) -> set[str]:
    page = client.post("/collections/c/vectors/scroll", json={}).json
    return {record["id"] for record in page["vectors"]}


@pytest.mark.parametrize("bytes_", NO_UTF8)
@pytest.mark.fault("Malformed requests")
def test_percent_escapes_that_are_no_utf8_are_refused(signed_in: FlaskClient, bytes_: str) -> None:
    """Percent escapes that are not UTF-8, in a path or a query -> 400; they are never read as
    U+FFFD.
    """
    asked = [
        raw(signed_in, "POST", "/embed/single", f"text={bytes_}"),
        raw(signed_in, "POST", "/embed/single", f"text=a&{bytes_}=b"),
        raw(signed_in, "GET", "/model/info", f"model_id={bytes_}"),
        raw(signed_in, "GET", "/health", bytes_),
        *(raw(signed_in, row.method, row.path.partition("<")[0] + bytes_) for row in ROUTES),
    ]
    for reply in asked:
        assert reply.status_code == 400
        assert reply.content_type == JSON
        assert "UTF-8" in reply.text


def test_no_record_is_deleted_by_bytes_that_are_no_text(notes: FlaskClient) -> None:
    assert raw(notes, "DELETE", "/collections/c/vectors/caf%E9").status_code == 400
    path = "/collections/c/vectors/" + quote("caf\ufffd")
    assert raw(notes, "DELETE", path).status_code == 200
    assert ids(notes) == {"a", "notes.md"}


@pytest.mark.parametrize("text", ["é", "a+b c", "100%", "%zz", "𝄞", "a&b=c", "\u0085", "\x00"])
def test_any_text_comes_through_a_query_and_a_path(notes: FlaskClient, text: str) -> None:
    query = f"text={quote(text, safe='')}"
    assert raw(notes, "POST", "/embed/single", query).status_code == 200
    reply = raw(notes, "GET", f"/models/{quote(text, safe='')}")
    assert reply.status_code == 404
    assert repr(text) in reply.json["error"]


@pytest.mark.parametrize(
    ("query", "status"),
    [("text=a&text=b", 422), ("text=a&text=a", 422), ("text=a&model_id=x&model_id=y", 422),
     ("text=a&text", 422), ("text=a&%74ext=b", 422), ("text=a", 200), ("text=", 200)],
)  # fmt: skip
@pytest.mark.fault("Malformed requests")
def test_a_query_parameter_that_comes_twice_is_refused(
    signed_in: FlaskClient, query: str, status: int
) -> None:
    """A query parameter twice -> 422 with its name."""
    reply = raw(signed_in, "POST", "/embed/single", query)
    assert reply.status_code == status
    assert status == 200 or "more than once" in reply.json["error"]


def test_every_query_is_read_that_strictly(signed_in: FlaskClient) -> None:
    for row in (row for row in ROUTES if row.query):
        name = next(iter(row.query.model_fields))
        path = row.path.replace("<name>", "c")
        body = {"json": {}} if row.body else {}
        reply = raw(signed_in, row.method, path, f"{name}=1&{name}=2", **body)
        assert reply.status_code in (400, 422), row.path  # OpenAI's clients expect 400
        assert "more than once" in reply.text, row.path


def test_a_thousand_parameters_are_one_error(signed_in: FlaskClient) -> None:
    query = "&".join(f"a{i}=1" for i in range(1000))
    reply = raw(signed_in, "POST", "/embed/single", query)
    assert reply.status_code == 422
    assert len(reply.text) < 500


# What a client sends that resolves `..` in a path, or loses an empty name.
LOST = [
    "/collections/c/", "/collections/c%2F", "/collections//", "/collections/c//",
    "/collections/c/vectors/", "/collections/c/vectors", "/collections/c/aliases/",
    "/collections/", "/users/", "/users/admin/", "/users//", "/users/admin/api-keys/",
    "/users//api-keys/x", "/settings/", "/settings//", "/settings/max_texts/", "/jobs/x/",
    "/providers//api-key", "//collections/c/", "/collections//c", "//collections//c",
    "//collections/c", "///collections/c", "/%2Fcollections/c", "//users/admin",
]  # fmt: skip


@pytest.mark.parametrize("path", LOST)
@pytest.mark.fault("The store")
def test_a_path_that_lost_its_name_deletes_nothing(notes: FlaskClient, path: str) -> None:
    """DELETE of a path that ends in a slash, or has lost a name between two -> 404 or 405; nothing
    is deleted, above all not what the path without the name means.
    """
    reply = raw(notes, "DELETE", path)
    assert reply.status_code in (404, 405)
    assert reply.content_type == JSON
    assert ids(notes) == {"a", "notes.md", "caf\ufffd"}


def test_no_path_that_ends_in_a_name_may_end_in_a_slash(signed_in: FlaskClient) -> None:
    rules = {rule.endpoint: rule for rule in signed_in.application.url_map.iter_rules()}
    for row in ROUTES:
        rule = rules[f"{row.method} {row.path}"]
        assert rule.strict_slashes == row.path.endswith(">")
        assert not rule.merge_slashes


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: f"{row.method} {row.path}")
@pytest.mark.fault("On the wire")
def test_two_slashes_are_never_a_redirect(signed_in: FlaskClient, row) -> None:
    """Two slashes in a path -> 404 in JSON, never a redirect, which would use the Host that was
    sent and lose the body.
    """
    path = row.path.replace("<path:", "<").replace("<", "").replace(">", "")
    for double in (path.replace("/", "//"), f"{path}//", path[:1] + "/" + path[1:]):
        reply = raw(signed_in, row.method, double, headers={"Host": "evil.example"})
        assert not 300 <= reply.status_code < 400
        assert "Location" not in reply.headers
        assert "evil.example" not in reply.text


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health/", 200), ("/v1/models/", 200), ("//health", 404), ("/v1//models", 404),
     ("/models/fake/", 404), ("/users/me/", 200), ("/collections/", 200), ("/", 200)],
)  # fmt: skip
def test_a_slash_at_the_end_of_a_fixed_path_does_not_count(
    signed_in: FlaskClient, path: str, status: int
) -> None:
    assert raw(signed_in, "GET", path).status_code == status


IDS = ["/notes.md", "//x", "/a//b/", "/", "a/b", "notes.md/", "a b", "ü/é", "?#%&+", "vectors",
       "delete", "-", "a%2Fb", "x" * 500]  # fmt: skip


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.fault("The store")
def test_an_id_reaches_its_own_record_by_path(notes: FlaskClient, id_: str) -> None:
    """A record's id that begins or ends with a slash, or holds two -> exactly that record is read
    and deleted by its path.
    """
    stored = notes.post("/collections/c/vectors", json={"id": id_, "vector": [3.0, 4.0]})
    if stored.status_code == 422:
        return  # an id that no path can carry is refused where it is stored
    path = f"/collections/c/vectors/{quote(id_, safe='')}"
    assert raw(notes, "GET", path).json["id"] == id_
    assert raw(notes, "DELETE", path).status_code == 200
    assert ids(notes) == {"a", "notes.md", "caf\ufffd"}


def test_an_id_that_nobody_stored_is_not_taken_for_another(notes: FlaskClient) -> None:
    for id_ in ("/notes.md", "//notes.md", "notes.md/", "/a", "a/", "a\n", "\na", "./a", "c/../a"):
        reply = raw(notes, "DELETE", f"/collections/c/vectors/{quote(id_, safe='')}")
        assert reply.status_code in (404, 422)
    assert ids(notes) == {"a", "notes.md", "caf\ufffd"}


def test_on_the_wire_a_path_is_taken_as_it_came(service_url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(service_url).netloc, timeout=30)

    def ask(method: str, path: str, body: object = None) -> tuple[int, dict]:
        headers = {"Content-Type": JSON, "Authorization": f"Bearer {token}"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        reply = connection.getresponse()
        assert reply.getheader("Location") is None
        return reply.status, json.loads(reply.read())

    token = ""
    token = ask("POST", "/token", ADMIN)[1]["access_token"]
    assert ask("POST", "/collections", {"name": "c", "dimension": 2})[0] == 201
    records = [{"id": id_, "vector": [1, 2]} for id_ in ("notes.md", "/notes.md")]
    assert ask("POST", "/collections/c/vectors", {"vectors": records})[0] == 201
    for path in ("/collections/c/", "/collections/c/vectors/", "/collections//c"):
        assert ask("DELETE", path)[0] in (404, 405)
    assert ask("POST", "/v1//embeddings", {"input": "a"})[0] == 404
    assert ask("POST", "/embed/single?text=caf%E9")[0] == 400
    assert ask("DELETE", "/collections/c/vectors/%2Fnotes.md") == (200, {"deleted": 1})
    assert ask("GET", "/collections/c/vectors/notes.md")[1]["id"] == "notes.md"
    connection.close()
