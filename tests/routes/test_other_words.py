"""What the clients of other services send is understood, or answered with what would be."""

import pytest
from flask.testing import FlaskClient

JSON = {"Content-Type": "application/json"}
BODY = b'{"texts": "a", "input": "a"}'
METRICS = {
    "text/plain;version=0.0.4, application/json;q=0.5": "text/plain",
    "text/plain; charset=utf-8; version=1.0.0, application/json;q=0.9": "text/plain",
    "application/openmetrics-text;version=1.0.0;q=0.9,text/plain;version=0.0.4;q=0.5,*/*;q=0.1":
        "text/plain",
    "application/json": "application/json",
    "application/json, text/plain;version=0.0.4;q=0.5": "application/json",
    "text/*, application/json;q=0.5": "text/plain",
    "application/json, */*;q=0.1": "application/json",
    "*/*": "text/plain",
    "": "text/plain",
    "text/html": "text/plain",
}  # fmt: skip


@pytest.mark.parametrize("path", ["/token", "/users", "/settings", "/v1/embeddings"])
def test_a_body_with_a_byte_order_mark_is_read(signed_in: FlaskClient, path: str) -> None:
    bare = signed_in.post(path, data=BODY, headers=JSON)
    marked = signed_in.post(path, data=b"\xef\xbb\xbf" + BODY, headers=JSON)
    assert marked.status_code == bare.status_code != 400
    twice = signed_in.post(path, data=b"\xef\xbb\xbf" * 2 + BODY, headers=JSON)
    assert twice.status_code == 400


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("", 200), (" ", 200), ("identity", 200), ("Identity", 200), ("UTF-8", 200), ("utf8", 200),
     ("gzip", 415), ("br, gzip", 415), ("aws-chunked", 415), ("base64", 415)],
)  # fmt: skip
def test_a_content_encoding_that_encodes_nothing_is_read(
    signed_in: FlaskClient, encoding: str, status: int
) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    reply = signed_in.post("/embed", data=b'{"texts": "a"}', headers=headers)
    assert reply.status_code == status
    assert status == 200 or "without this header" in reply.json["error"]


@pytest.mark.parametrize(
    ("word", "as_ours"),
    [("END", "right"), ("end", "right"), ("START", "left"), ("Start", "left"), ("NONE", "error"),
     ("none", "error"), (True, "auto"), (False, "error")],
)  # fmt: skip
def test_truncate_takes_the_words_of_other_services(
    real_client: FlaskClient, word: object, as_ours: str
) -> None:
    for path, name in (("/embed", "texts"), ("/v1/embeddings", "input")):
        long = {name: "alpha " * 300 + "omega " * 300, "truncate": as_ours}
        expected = real_client.post(path, json=long)
        got = real_client.post(path, json={**long, "truncate": word})
        assert got.status_code == expected.status_code == (400 if as_ours == "error" else 200)
        rows = (reply.json.get("embeddings", reply.json.get("data")) for reply in (got, expected))
        assert next(rows) == next(rows)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/embed", "input"), ("/embed", "sentences"), ("/embed", "documents"),  # inputs are TEI's
     *(("/batch-embed", name) for name in ("input", "inputs", "sentences", "documents"))],
)  # fmt: skip
def test_the_name_of_another_service_is_answered_with_ours(
    signed_in: FlaskClient, path: str, name: str
) -> None:
    reply = signed_in.post(path, json={name: ["a"]})
    assert reply.status_code == 422
    assert reply.json["error"] == f"{name}: there is no such field; the texts go into texts"
    assert reply.json["param"] == name


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/embed", {"texts": "a", "nope": 1}, "nope: there is no such field; the fields are trunc"),
        ("/users", {"username": "a", "name": 1, "password": "a-long-password"},
         "name: there is no such field; the fields are username, password, role"),
        ("/collections/c/vectors", {"vectors": [{"id": "a", "vec": [1]}]},
         "vectors.0.vec: there is no such field; the fields are id, vector, text, metadata"),
        ("/embed", {"nope": 1, "neither": 2}, "min_weight, model, model_id (and more)"),
        ("/embed", {"x" * 10_000: 1}, "x: there is no such field; the fields are"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_answered_with_those_there_are(
    signed_in: FlaskClient, path: str, body: dict, told: str
) -> None:
    reply = signed_in.post(path, json=body)
    assert reply.status_code == 422
    assert told in reply.json["error"]
    assert len(reply.json["error"]) < 400


def test_an_unknown_parameter_is_answered_with_those_there_are(signed_in: FlaskClient) -> None:
    reply = signed_in.post("/embed/single?text=a&model=fake")
    assert reply.status_code == 422
    assert (
        "model: there is no such field; the fields are model_id, outputs, " in reply.json["error"]
    )


@pytest.mark.parametrize(("accept", "kind"), METRICS.items())
def test_metrics_are_text_for_whoever_asks_for_text(
    signed_in: FlaskClient, accept: str, kind: str
) -> None:
    reply = signed_in.get("/metrics", headers={"Accept": accept})
    assert (reply.status_code, reply.mimetype) == (200, kind)
