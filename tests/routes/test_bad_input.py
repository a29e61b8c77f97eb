"""Bad input gets a clear error, harms nobody, and is never echoed."""

import io
import json

import numpy as np
import pytest
from flask.testing import FlaskClient

JSON = {"Content-Type": "application/json"}
ROUTES = ["/embed", "/batch-embed", "/v1/embeddings"]
each_route = pytest.mark.parametrize("path", ROUTES)


def body_of(path: str, texts: object, **more: object) -> dict:
    name = {"/v1/embeddings": {"model": "minilm", "input": texts}}
    return {**name.get(path, {"texts": texts}), **more}


def message_of(reply) -> str:
    error = reply.json["error"]
    return error["message"] if isinstance(error, dict) else error


def wrong_value(path: str) -> int:
    """The status of a wrong value: OpenAI's clients expect 400."""
    return 400 if path.startswith("/v1/") else 422


def check(reply, *statuses: int) -> str:
    """Assert a clear JSON error of one of these statuses; return its message."""
    assert reply.status_code in statuses, reply.text[:300]
    assert reply.content_type == "application/json"
    assert "Traceback" not in reply.text
    message = message_of(reply)
    assert 10 < len(message) < 400
    return message


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    "texts",
    [[], None, 5, 1.5, True, {"a": 1}, [None], [1.5], [["a"]], ["a", None], ["a", 3], ["a", {}]],
)
def test_anything_but_texts_is_refused(real_client: FlaskClient, path: str, texts: object) -> None:
    """An empty list -> 422; 400 on `/v1`."""
    if path == "/v1/embeddings" and texts == [["a"]]:
        texts = [["a", "b"]]
    check(real_client.post(path, json=body_of(path, texts)), wrong_value(path))


@pytest.mark.fault("Malformed requests")
@each_route
def test_the_item_at_fault_is_named(real_client: FlaskClient, path: str) -> None:
    """A list that holds null, a number, an object or a list -> 422 with its index; 400 on
    `/v1`.
    """
    reply = real_client.post(path, json=body_of(path, ["a", "b", "c", 7]))
    assert ".3" in check(reply, wrong_value(path))


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    "text", ["", "   ", "\x00\x01\x1f", "\u200d\u202e", "🙂" * 300, "e" + "\u0301" * 5000]
)
def test_any_unicode_text_is_embedded(real_client: FlaskClient, path: str, text: str) -> None:
    """A text of NUL, control characters, combining marks, joiners, emoji or blanks -> embedded as
    any other.
    """
    reply = real_client.post(path, json=body_of(path, [text, "b"]))
    assert reply.status_code == 200
    rows = reply.json.get("embeddings") or [row["embedding"] for row in reply.json["data"]]
    assert np.isfinite(rows).all()


@pytest.mark.fault("Malformed requests")
@each_route
def test_half_a_surrogate_pair_is_refused_by_its_index(real_client: FlaskClient, path: str) -> None:
    """Half a surrogate pair -> 422 with its index; 400 on `/v1`."""
    field = "input" if path.startswith("/v1") else "texts"
    body = json.dumps(body_of(path, ["fine", "bad \ud800 text"]))
    reply = real_client.post(path, data=body, headers=JSON)
    assert f"{field}.1" in check(reply, wrong_value(path))


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    ("text", "cut"),
    [("word " * 2_000_000, "1"), ("a" * 10_000_000, "0")],
    ids=["words", "one word"],
)
def test_ten_megabytes_are_cut_not_choked_on(
    real_client: FlaskClient, path: str, text: str, cut: str
) -> None:
    """A text or a single word of 10 MB -> cut before it is tokenized, and counted in
    `X-Truncated-Inputs`.

    One word of any length is one token of this model, [UNK]: nothing of it is cut off.
    """
    reply = real_client.post(path, json=body_of(path, [text, "short"]))
    assert reply.status_code == 200
    assert reply.headers["X-Truncated-Inputs"] == cut


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    "raw",
    [
        b"", b"  ", b"{", b"null", b"[]", b"3", b'"text"', b"not json", b"{'a': 1}",
        b'{"texts": ["\xff\xfe"], "input": "\xff", "model": "minilm"}',
        '{"texts": "x"}'.encode("utf-16"),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"texts":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"unknown":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
    ids=lambda raw: str(raw[:20]),
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(
    real_client: FlaskClient, path: str, raw: bytes
) -> None:
    """An empty body, half a JSON, JSON 100,000 deep, UTF-16, other bytes that are not UTF-8 -> 400
    or 422 in JSON.
    """
    check(real_client.post(path, data=raw, headers=JSON), 400, 422)


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "1e400", "9" * 5000, "-1", "0", '"x"', "1.5"]
)
def test_a_dimension_must_be_a_number_of_the_vector(
    real_client: FlaskClient, path: str, number: str
) -> None:
    """`dimensions` of 0, below 0, NaN, or text -> 400 or 422."""
    body = json.dumps(body_of(path, "x"))[:-1] + f', "dimensions": {number}}}'
    check(real_client.post(path, data=body, headers=JSON), 400, 422)


@pytest.mark.fault("Malformed requests")
@each_route
def test_more_dimensions_than_the_model_has_are_refused(
    real_client: FlaskClient, path: str
) -> None:
    """`dimensions` above the model's -> 400."""
    reply = real_client.post(path, json=body_of(path, "x", dimensions=385))
    assert "384" in check(reply, 400)


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused_with_the_right_one(
    real_client: FlaskClient, path: str, kind: str
) -> None:
    """Another content type -> 415 that names the right one."""
    reply = real_client.post(path, data=json.dumps(body_of(path, "x")), content_type=kind)
    assert "application/json" in check(reply, 415)


@pytest.mark.fault("Malformed requests")
@each_route
def test_a_body_without_a_type_is_read_as_json_unless_a_page_may_have_sent_it(
    real_client: FlaskClient, path: str
) -> None:
    """A missing content type -> read as JSON; 415 where a page of another origin may have sent
    it.
    """
    body = json.dumps(body_of(path, "x"))
    assert real_client.post(path, data=body).status_code == 200
    for page in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert "application/json" in check(real_client.post(path, data=body, headers=page), 415)


@pytest.mark.fault("Malformed requests")
@each_route
def test_a_compressed_body_is_not_unpacked(real_client: FlaskClient, path: str) -> None:
    """A compressed body -> 415; it is not unpacked."""
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert "compressed" in check(real_client.post(path, data=b"\x1f\x8b", headers=headers), 415)


@pytest.fixture
def narrow(config_of):
    from factory import create_app

    return create_app(config_of(max_request_bytes=2048), wait=True).test_client()


@pytest.mark.fault("Malformed requests")
def test_a_body_over_the_limit_is_refused_by_its_length(narrow: FlaskClient) -> None:
    """A body over the limit by its `Content-Length` -> 413 without reading it."""
    reply = narrow.post("/embed", json={"texts": "x" * 4000})
    assert "2048" in check(reply, 413)


@pytest.mark.fault("Malformed requests")
def test_a_body_over_the_limit_is_refused_without_a_length(narrow: FlaskClient) -> None:
    """A body over the limit in chunks -> 413."""
    body = io.BytesIO(json.dumps({"texts": "x" * 4000}).encode())
    stream = {"wsgi.input": body, "wsgi.input_terminated": True}
    reply = narrow.post("/embed", headers=JSON, environ_overrides=stream)
    assert "2048" in check(reply, 413)


@pytest.mark.fault("Malformed requests")
def test_a_body_at_the_limit_is_read_whole(narrow: FlaskClient) -> None:
    """A body as long as the limit -> read whole, never cut."""
    body = json.dumps({"texts": ""})
    body = json.dumps({"texts": "x" * (2047 - len(body))})
    stream = {"wsgi.input": io.BytesIO(body.encode()), "wsgi.input_terminated": True}
    assert narrow.post("/embed", headers=JSON, environ_overrides=stream).status_code == 200


@pytest.mark.fault("Malformed requests")
@each_route
@pytest.mark.parametrize(
    "model",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "https://evil.example/m",
        "a\x00b",
        "x" * 10_000,
        "",
        "tests",
    ],
)
def test_a_model_that_is_a_path_is_just_unknown(
    real_client: FlaskClient, path: str, model: str
) -> None:
    """A model's name that is a path, a URL, or holds NUL -> 400, as any unknown name."""
    reply = real_client.post(path, json=body_of(path, "x", model=model))
    assert "available: minilm" in check(reply, 400)


@pytest.mark.fault("Malformed requests")
def test_one_bad_item_among_2048_is_named_and_the_next_request_is_served(
    real_client: FlaskClient,
) -> None:
    """One bad item among 2,048 -> 422 with its index; the next request is served."""
    texts: list[object] = ["w"] * 2048
    texts[2047] = 7
    assert "texts.2047" in check(real_client.post("/embed", json={"texts": texts}), 422)
    texts[2047] = "w"
    reply = real_client.post("/embed", json={"texts": texts})
    assert reply.status_code == 200
    assert reply.json["count"] == 2048


@pytest.mark.fault("Malformed requests")
def test_an_unknown_field_is_told_on_native_routes(real_client: FlaskClient) -> None:
    """An unknown field on a native route -> 422 with its name."""
    reply = real_client.post("/embed", json={"texts": "x", "normalise": True})
    assert "normalise: there is no such field" in check(reply, 422)


@pytest.mark.fault("Malformed requests")
def test_extras_of_other_vendors_pass_on_v1(real_client: FlaskClient) -> None:
    """A field of another vendor on `/v1` that changes no vector -> ignored."""
    body = {"model": "minilm", "input": "x", "vendors_own": {"a": [1]}}
    assert real_client.post("/v1/embeddings", json=body).status_code == 200


@pytest.mark.fault("Malformed requests")
def test_of_duplicate_keys_the_last_wins(real_client: FlaskClient) -> None:
    """A JSON key twice -> the last one counts."""
    body = b'{"texts": "first", "texts": ["a", "b"]}'
    assert real_client.post("/embed", data=body, headers=JSON).json["count"] == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/embed", 405), ("DELETE", "/v1/embeddings", 405), ("GET", "/nope", 404),
     ("POST", "/v1/nope", 404), ("GET", "/models/..%2f..%2fetc%2fpasswd", 404)],
)  # fmt: skip
def test_wrong_paths_and_methods_are_json_too(
    real_client: FlaskClient, method: str, path: str, status: int
) -> None:
    reply = real_client.open(path, method=method)
    check(reply, status)
    assert (status != 405) or "POST" in reply.headers["Allow"]


def test_the_input_is_never_echoed(real_client: FlaskClient) -> None:
    secret = "my very secret words"
    for body in (
        {"texts": [secret, 5]}, {"texts": secret, "truncate": secret}, {"text": secret, "texts": 1},
        {"texts": secret, "dimensions": secret}, {secret: 1},
        {"texts": [secret * 200], "truncate": "error"},
    ):  # fmt: skip
        reply = real_client.post("/embed", json=body)
        assert reply.status_code in (400, 422)
        if secret not in body:  # a field's own name is told, that is how a typo is found
            assert secret not in reply.text


def test_an_unexpected_error_is_one_plain_500(config_of, caplog: pytest.LogCaptureFixture) -> None:
    from embedders.fake import FakeEmbedder
    from factory import create_app

    class Broken(FakeEmbedder):
        broken = False  # a model that cannot be tried at its load is unavailable

        def prepare(self, *args: object) -> list:
            if self.broken:
                raise KeyError("inner secret")
            return super().prepare(*args)

    embedder = Broken()
    app = create_app(config_of(), build=lambda spec, settings: embedder, wait=True)
    embedder.broken = True
    reply = app.test_client().post("/embed", json={"texts": "x"})
    assert reply.status_code == 500
    assert reply.json["request_id"] in caplog.text
    assert "inner secret" not in reply.text
    assert "Traceback" in caplog.text


def test_poison_is_the_callers_error_and_others_are_served(config_of) -> None:
    from embedders.fake import FakeEmbedder
    from factory import create_app

    class Poisonable(FakeEmbedder):
        def encode(self, items, deadline=None):
            if any("poison" in item.payload for item in items):
                raise RuntimeError("device says no")
            return super().encode(items, deadline)

    app = create_app(config_of(), build=lambda spec, settings: Poisonable(), wait=True)
    client = app.test_client()
    assert "input 1" in check(client.post("/embed", json={"texts": ["a", "poison"]}), 422)
    assert client.post("/embed", json={"texts": ["a", "b"]}).status_code == 200


def test_a_model_that_cannot_load_is_listed_and_503_with_the_reason(config_of) -> None:
    from factory import create_app

    models = {
        "good": {"type": "fake", "model_name": "f"},
        "gone": {"type": "sentence_transformer", "model_name": "no-such-org/no-such-model"},
    }
    client = create_app(config_of(models), wait=True).test_client()
    assert client.get("/health").status_code == 200
    row = client.get("/models/gone").json
    assert row["status"] == "unavailable"
    reply = client.post("/embed", json={"text": "x", "model": "gone"})
    assert reply.status_code == 503
    assert row["reason"] in reply.json["error"]
    assert "hub cannot be reached" in row["reason"]


@pytest.mark.fault("Models and devices")
def test_while_a_model_loads_requests_get_503_and_when_to_retry(config_of) -> None:
    """A request while the model loads -> 503 with `Retry-After` at once."""
    import threading

    from embedders.fake import FakeEmbedder
    from factory import create_app

    let = threading.Event()

    def slowly(spec, settings) -> FakeEmbedder:
        assert let.wait(60)
        return FakeEmbedder()

    client = create_app(config_of(), build=slowly).test_client()
    reply = client.post("/embed", json={"text": "x"})
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "2")
    assert client.get("/health").status_code == 503
    let.set()
    while client.get("/health").status_code != 200:
        pass
    assert client.post("/embed", json={"text": "x"}).status_code == 200


@pytest.mark.fault("Models and devices")
def test_a_default_that_cannot_load_leaves_the_service_up_and_unhealthy(config_of) -> None:
    """The default model cannot be loaded -> `/health` is 503."""
    from factory import create_app

    models = {"gone": {"type": "sentence_transformer", "model_name": "no-such-org/none"}}
    client = create_app(config_of(models), wait=True).test_client()
    health = client.get("/health")
    assert health.status_code == 503
    assert health.json["status"] == "unhealthy"
    assert "hub cannot be reached" in health.json["reason"]
