"""`outputs`, `output_dtype` and `encoding_format`: every form of a reply holds the same numbers."""

import base64
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from tests.routes.conftest import KINDS

TEXTS = ["one two three", "four", "five six"]
BODY = {"model": "all", "texts": TEXTS}
DENSE_ROUTES = ("/embed", "/batch-embed", "/embed/single", "/v1/embeddings")
# The numpy type of each `output_dtype`, and how near its numbers are to the float32 ones.
NUMBERS = {
    "float32": ("<f4", 0.0), "float16": ("<f2", 5e-4), "int8": ("i1", 0.5 / 127 + 1e-6),
    "uint8": ("u1", 0.5 / 127 + 1e-6),
}  # fmt: skip


def good(client: FlaskClient, path: str = "/embed", **fields: Any) -> Any:
    reply = client.post(path, json={**BODY, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, status: int = 400, **fields: Any) -> str:
    reply = client.post("/embed", json={**BODY, **fields})
    assert reply.status_code == status, reply.text
    assert reply.json["param"] in (*fields, "texts")
    return str(reply.json["error"])


def dense_of(client: FlaskClient, path: str, text: str, **form: str) -> Any:
    """Return what stands for a text's dense vector in the reply of a route, or the whole reply."""
    if path == "/embed/single":
        reply = client.post(path, query_string={"text": text, "model_id": "all", **form})
    elif path.startswith("/v1"):
        reply = client.post(path, json={"input": text, "model": "all", **form})
    else:
        reply = client.post(path, json={"texts": text, "model": "all", **form})
    assert reply.status_code == 200, reply.text
    if form.get("encoding_format") == "bytes":
        return reply
    return (reply.json.get("embeddings") or [row["embedding"] for row in reply.json["data"]])[0]


def test_several_outputs_come_of_one_request(kinds: FlaskClient) -> None:
    got = good(kinds, outputs=["multi_vector", "dense", "sparse"])
    assert set(got) == {"embeddings", "sparse", "multi_vector", "dimension", "model", "count",
                        "processing_time_ms"}  # fmt: skip
    assert (got["count"], got["dimension"]) == (3, 8)
    assert np.shape(got["embeddings"]) == (3, 8)
    assert [np.shape(matrix) for matrix in got["multi_vector"]] == [(3, 8), (1, 8), (2, 8)]
    for row, text in zip(got["sparse"], TEXTS, strict=True):
        assert len(row["indices"]) == len(row["values"]) == len(text.split())
        assert row["indices"] == sorted(row["indices"]) and min(row["values"]) > 0


@pytest.mark.parametrize("output", ["dense", "sparse", "multi_vector"])
def test_an_output_is_the_same_alone_and_with_others(kinds: FlaskClient, output: str) -> None:
    name = "embeddings" if output == "dense" else output
    alone = good(kinds, outputs=[output])
    assert {"embeddings", "sparse", "multi_vector"} & set(alone) == {name}
    assert alone[name] == good(kinds, outputs="dense,sparse,multi_vector")[name]
    assert ("dimension" in alone) == (output != "sparse")


def test_without_outputs_a_text_has_its_dense_vector(kinds: FlaskClient) -> None:
    got = good(kinds)
    assert got["embeddings"] == good(kinds, outputs=["dense"])["embeddings"]
    single = kinds.post("/embed", json={"text": TEXTS[0], "outputs": "dense,sparse"}).json
    assert single["embedding"] == single["embeddings"][0]


@pytest.mark.parametrize(
    ("outputs", "model"),
    [("sparse", "sparse"), ("multi_vector", "tokens"), ("dense,sparse", "all"), ("dense", "dense")],
)
def test_without_a_model_the_first_that_gives_the_outputs_is_asked(
    kinds: FlaskClient, outputs: str, model: str
) -> None:
    reply = kinds.post("/embed", json={"texts": "a", "outputs": outputs}).json
    assert reply["model"] == KINDS[model]["model_name"]
    single = kinds.post("/embed/single", query_string={"text": "a", "outputs": outputs}).json
    assert {**single, "embedding": 0, "processing_time_ms": 0} == {
        **reply, "embedding": 0, "processing_time_ms": 0
    }  # fmt: skip


@pytest.mark.parametrize("path", DENSE_ROUTES)
@pytest.mark.parametrize("encoding", ["float", "base64", "bytes"])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_form_holds_the_same_vector(
    kinds: FlaskClient, path: str, encoding: str, dtype: str
) -> None:
    plain = np.array(dense_of(kinds, path, TEXTS[0], output_dtype="float32"), np.float32)
    got = dense_of(kinds, path, TEXTS[0], encoding_format=encoding, output_dtype=dtype)
    kind, near = NUMBERS[dtype]
    if encoding == "bytes":
        assert got.content_type == "application/octet-stream"
        shape = tuple(map(int, got.headers["X-Embedding-Shape"].split(",")))
        assert got.headers["X-Embedding-Dtype"] == np.dtype(kind).name
        assert got.headers["X-Embedding-Tokens"] == "3"
        assert shape == (1, 8)
        numbers = np.frombuffer(got.data, kind).reshape(shape)[0]
    else:
        numbers = np.frombuffer(base64.b64decode(got), kind) if encoding == "base64" else got
    scaled = np.asarray(numbers, np.float32)
    if dtype in ("int8", "uint8"):
        scaled = (scaled - (128 if dtype == "uint8" else 0)) / 127
    np.testing.assert_allclose(scaled, plain, atol=near, rtol=0)


@pytest.mark.parametrize("encoding", ["float", "base64", "bytes"])
def test_bits_are_packed_as_others_pack_them(kinds: FlaskClient, encoding: str) -> None:
    plain = np.array(good(kinds)["embeddings"], np.float32)
    bits = np.packbits(plain > 0, axis=1)
    for dtype, wanted in (("ubinary", bits), ("binary", (bits ^ 128).view(np.int8))):
        form = {"encoding_format": encoding, "output_dtype": dtype}
        reply = kinds.post("/embed", json={**BODY, **form})
        if encoding == "bytes":
            got = np.frombuffer(reply.data, reply.headers["X-Embedding-Dtype"]).reshape(3, 1)
        else:
            got = reply.json["embeddings"]
            if encoding == "base64":
                rows = [np.frombuffer(base64.b64decode(row), wanted.dtype) for row in got]
                got = np.stack(rows)
            assert reply.json["dimension"] == 8
        np.testing.assert_array_equal(got, wanted)


def test_int8_is_of_unit_vectors_whatever_the_model_does(config_of: Any) -> None:
    from factory import create_app

    entry = {"type": "fake", "model_name": "tests/all+dense", "normalize": False}
    client = create_app(config_of({"all": entry}), wait=True).test_client()
    raw = np.array(good(client)["embeddings"])
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)
    units = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    got = good(client, output_dtype="int8")["embeddings"]
    np.testing.assert_array_equal(got, np.rint(units * 127))
    assert "length 1" in refused(client, output_dtype="int8", normalize=False)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_base64_of_sparse_and_token_vectors_is_their_numbers(
    kinds: FlaskClient, dtype: str
) -> None:
    wish = {"outputs": ["sparse", "multi_vector"], "output_dtype": dtype}
    plain, packed = good(kinds, **wish), good(kinds, **wish, encoding_format="base64")
    kind, width = NUMBERS[dtype][0], packed["dimension"]
    for row, text in zip(plain["sparse"], packed["sparse"], strict=True):
        indices = np.frombuffer(base64.b64decode(text["indices"]), "<i4")
        values = np.frombuffer(base64.b64decode(text["values"]), kind)
        np.testing.assert_array_equal(indices, row["indices"])
        np.testing.assert_array_equal(values, np.array(row["values"], kind))
    for matrix, text in zip(plain["multi_vector"], packed["multi_vector"], strict=True):
        got = np.frombuffer(base64.b64decode(text), kind).reshape(-1, width)
        np.testing.assert_array_equal(got, np.array(matrix, kind))


def test_bytes_of_one_texts_tokens_are_their_matrix(kinds: FlaskClient) -> None:
    wish = {"outputs": ["multi_vector"], "texts": TEXTS[0]}
    reply = kinds.post("/embed", json={**BODY, **wish, "encoding_format": "bytes"})
    assert reply.headers["X-Embedding-Shape"] == "3,8"
    got = np.frombuffer(reply.data, "<f4").reshape(3, 8)
    np.testing.assert_array_equal(got, np.float32(good(kinds, **wish)["multi_vector"][0]))


def test_terms_are_the_heaviest_and_by_name_if_asked(kinds: FlaskClient) -> None:
    (row,) = good(kinds, outputs="sparse", texts=TEXTS[0])["sparse"]
    weights = dict(zip(row["indices"], row["values"], strict=True))
    heaviest = max(weights, key=lambda index: weights[index])
    named = good(kinds, outputs="sparse", texts=TEXTS[0], sparse_format="terms")["sparse"]
    assert named == [{f"w{index}": weight for index, weight in weights.items()}]
    for wish in ({"top_n": 1}, {"min_weight": weights[heaviest]}):
        (cut,) = good(kinds, outputs="sparse", texts=TEXTS[0], **wish)["sparse"]
        assert cut == {"indices": [heaviest], "values": [weights[heaviest]]}
    (none,) = good(kinds, outputs="sparse", texts=TEXTS[0], min_weight=99)["sparse"]
    assert none == {"indices": [], "values": []}
    (all_,) = good(kinds, outputs="sparse", texts=TEXTS[0], top_n=99)["sparse"]
    assert all_ == row


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"top_n": 3}, "top_n: it is of sparse vectors"),
        ({"min_weight": 0.1}, "min_weight: it is of sparse vectors"),
        ({"sparse_format": "terms"}, "sparse_format: it is of sparse vectors"),
        ({"outputs": ["sparse"], "normalize": True}, "normalize: it is of dense vectors"),
        ({"outputs": ["multi_vector"], "dimensions": 4}, "dimensions: it is of dense vectors"),
        ({"outputs": "dense,multi_vector", "dimensions": 4}, "cannot be shortened"),
        ({"outputs": ["sparse"], "output_dtype": "int8"}, "float32 or float16, not int8"),
        ({"outputs": "dense,sparse", "output_dtype": "ubinary"}, "not ubinary"),
        ({"outputs": ["sparse"], "sparse_format": "terms", "encoding_format": "base64"},
         "as JSON numbers"),
        ({"outputs": ["sparse"], "encoding_format": "bytes"}, "bytes are one array"),
        ({"outputs": "dense,sparse", "encoding_format": "bytes"}, "bytes are one array"),
        ({"outputs": ["multi_vector"], "encoding_format": "bytes"}, "bytes are one array"),
    ],
)  # fmt: skip
@pytest.mark.fault("Malformed requests")
def test_a_wish_that_cannot_be_honoured_is_refused(
    kinds: FlaskClient, fields: dict[str, Any], told: str
) -> None:
    """A field for another output or form than the one asked for -> 400 that names it."""
    assert told in refused(kinds, **fields)


@pytest.mark.parametrize(
    "fields",
    [{"outputs": []}, {"outputs": ["score"]}, {"outputs": "words"}, {"outputs": 5},
     {"outputs": ["dense", None]}, {"output_dtype": "float64"}, {"encoding_format": "hex"},
     {"outputs": "sparse", "top_n": 0}, {"outputs": "sparse", "top_n": "3"},
     {"outputs": "sparse", "min_weight": -1}, {"outputs": "sparse", "sparse_format": "words"}],
)  # fmt: skip
def test_a_value_that_does_not_exist_is_refused(kinds: FlaskClient, fields: dict) -> None:
    reply = kinds.post("/embed", json={**BODY, **fields})
    assert reply.status_code == 422
    assert any(str(reply.json["param"]).startswith(name) for name in fields)


def test_numbers_that_float16_does_not_hold_are_refused(config_of: Any) -> None:
    from embedders.base import Encoded
    from embedders.fake import FakeEmbedder
    from factory import create_app

    class Large(FakeEmbedder):
        def encode(self, items, deadline=None, gone=None):  # type: ignore[no-untyped-def]
            encoded = super().encode(items)
            return Encoded.dense(encoded.vectors * 1e6, encoded.tokens)

    app = create_app(config_of(), build=lambda spec, settings: Large(), wait=True)
    body = {"texts": "a", "output_dtype": "float16", "normalize": False}
    reply = app.test_client().post("/embed", json=body)
    assert (reply.status_code, reply.json["param"]) == (400, "output_dtype")
    assert "65504" in reply.json["error"]


@pytest.mark.fault("Hostile clients")
def test_sparse_and_token_vectors_keep_to_the_size_of_a_reply(config_of: Any) -> None:
    """Vectors of tokens over `MAX_REPLY_BYTES` -> 413, before a text is encoded."""
    from factory import create_app

    app = create_app(config_of(KINDS, max_reply_bytes=4096), wait=True)
    client, engine = app.test_client(), app.extensions["services"].engine
    long = " ".join(f"w{i}" for i in range(16))
    passes: list[int] = []
    embedder = engine.registry.get("tokens").loaded.embedder
    encode = embedder.encode
    embedder.encode = lambda items, *more: passes.append(1) or encode(items, *more)
    several = [f"{i} {long}" for i in range(3)]
    reply = client.post("/embed", json={"texts": several, "outputs": "multi_vector"})
    assert (reply.status_code, passes) == (413, [])
    assert "the vectors of 48 tokens are more than a reply may hold" in reply.json["error"]
    copies = {"texts": [long] * 3, "outputs": "multi_vector"}  # encoded once, and then too many
    assert client.post("/embed", json=copies).status_code == 413
    for count, form, status in [(2, "float", 200), (3, "float", 413), (3, "base64", 200)]:
        body = {"texts": [f"{i} {long}" for i in range(count)], "encoding_format": form}
        reply = client.post("/embed", json={**body, "outputs": "multi_vector"})
        assert reply.status_code == status, (count, form)
        assert len(reply.data) < 4096
    for count, status in [(10, 200), (13, 413)]:
        body = {"texts": [f"{i} {long}" for i in range(count)], "outputs": "sparse"}
        reply = client.post("/embed", json=body)
        assert reply.status_code == status
        assert len(reply.data) < 4096
        assert client.post("/embed", json={**body, "top_n": 5}).status_code == 200


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("encoding", ["float", "base64", "bytes"])
def test_int8_of_token_vectors_is_of_unit_vectors_too(
    config_of: Any, dtype: str, encoding: str
) -> None:
    from embedders.base import Encoded
    from embedders.fake import FakeEmbedder
    from factory import create_app

    class Long(FakeEmbedder):
        def encode(self, items, deadline=None, gone=None):  # type: ignore[no-untyped-def]
            encoded = super().encode(items)
            matrices = [7 * matrix for matrix in encoded.columns["multi_vector"]]
            return Encoded({"multi_vector": matrices}, encoded.tokens)

    build = lambda spec, settings: Long("tests/t+multi_vector")  # noqa: E731
    client = create_app(config_of(), build=build, wait=True).test_client()
    body = {"texts": "one two three", "outputs": "multi_vector"}
    raw = np.array(client.post("/embed", json=body).json["multi_vector"][0])
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), 7, rtol=1e-5)
    form = {"output_dtype": dtype, "encoding_format": encoding}
    reply = client.post("/embed", json={**body, **form})
    kind = np.int8 if dtype == "int8" else np.uint8
    if encoding == "bytes":
        got = np.frombuffer(reply.data, kind).reshape(3, 8)
    else:
        got = reply.json["multi_vector"][0]
        if encoding == "base64":
            got = np.frombuffer(base64.b64decode(got), kind).reshape(3, 8)
    scaled = (np.asarray(got, np.float64) - (128 if dtype == "uint8" else 0)) / 127
    np.testing.assert_allclose(scaled, raw / 7, atol=0.51 / 127)


def test_normalize_false_and_int8_contradict_each_other(kinds: FlaskClient) -> None:
    for outputs in ("dense", "dense,multi_vector"):
        told = refused(kinds, outputs=outputs, normalize=False, output_dtype="uint8")
        assert "made of vectors of length 1" in told


def test_numbers_beyond_one_do_not_wrap() -> None:
    from schemas.forms import numbers

    vectors = np.array([[1.2, -1.2, 1, -1, 900, -900]], np.float32)
    assert numbers(vectors, "int8").tolist() == [[127, -127, 127, -127, 127, -127]]
    assert numbers(vectors, "uint8").tolist() == [[255, 1, 255, 1, 255, 1]]


def test_an_output_that_does_not_exist_is_named(kinds: FlaskClient) -> None:
    told = refused(kinds, 422, outputs=["sparse", "dense", "words"])
    assert told == 'outputs: there is no "words"; there is dense, sparse, multi_vector'
    assert refused(kinds, 422, outputs="dense,words") == told


def test_the_query_string_may_ask_for_fewer_terms(kinds: FlaskClient) -> None:
    text = "a b c d e f g"
    asked = {"text": text, "outputs": "sparse", "model_id": "sparse"}
    whole = kinds.post("/embed", json={"texts": text, "outputs": "sparse", "top_n": 2}).json
    got = kinds.post("/embed/single", query_string={**asked, "top_n": 2}).json
    assert got["sparse"] == whole["sparse"] and len(got["sparse"][0]["indices"]) == 2
    heavy = kinds.post("/embed/single", query_string={**asked, "min_weight": 1.5}).json
    assert min(heavy["sparse"][0]["values"]) >= 1.5
    for wrong in ({"top_n": 0}, {"top_n": "x"}, {"min_weight": "nan"}, {"min_weight": -1}):
        reply = kinds.post("/embed/single", query_string={**asked, **wrong})
        assert (reply.status_code, reply.json["param"]) == (422, next(iter(wrong)))
    dense = kinds.post("/embed/single", query_string={"text": text, "top_n": 2})
    assert (dense.status_code, dense.json["param"]) == (400, "top_n")


@pytest.mark.fault("Hostile clients")
def test_terms_are_counted_while_they_are_made(config_of: Any, monkeypatch: Any) -> None:
    """Sparse vectors over `MAX_REPLY_BYTES` -> 413 before the rest of the texts is encoded."""
    from factory import create_app

    monkeypatch.setattr("serving.encoding.SPARSE_AT_ONCE", 4)
    app = create_app(config_of(KINDS, max_reply_bytes=4096), wait=True)
    client, engine = app.test_client(), app.extensions["services"].engine
    made: list[int] = []
    embedder = engine.registry.get("sparse").loaded.embedder
    encode = embedder.encode
    embedder.encode = lambda items, *more: made.append(len(items)) or encode(items, *more)
    many = [f"t{i} " + " ".join(f"w{n}" for n in range(15)) for i in range(60)]
    body = {"texts": many, "outputs": "sparse"}
    reply = client.post("/embed", json=body)
    assert reply.status_code == 413 and "fewer terms (top_n)" in reply.json["error"]
    assert sum(made) < 60 and max(made) <= 4
    made.clear()
    few = {**body, "texts": many[:20], "top_n": 2}
    assert client.post("/embed", json=few).status_code == 200
    texts = ["one two", "one", "one two three four", "one two three", "five"]
    rows = client.post("/embed", json={"texts": texts, "outputs": "sparse"}).json["sparse"]
    assert [len(row["indices"]) for row in rows] == [2, 1, 4, 3, 1]  # in the texts' own order
