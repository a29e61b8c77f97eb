"""The native routes answer the documented requests of the services whose place they take."""

import numpy as np
import pytest
from flask.testing import FlaskClient

from tests.conftest import ROOT

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
EXAMPLE = "This is an example sentence"
EXAMPLE_START = [0.0676569, 0.0634959, 0.0487131]


def test_texts_as_a_string_or_a_list_get_the_documented_keys(real_client: FlaskClient) -> None:
    for texts, count in [("Your text here", 1), (["First text", "Second text", "Third text"], 3)]:
        reply = real_client.post("/embed", json={"texts": texts, "normalize": True})
        assert reply.status_code == 200
        assert set(reply.json) == {
            "embeddings", "dimension", "model", "count", "processing_time_ms",
        }  # fmt: skip
        assert reply.json["count"] == count
        assert reply.json["dimension"] == 384
        assert reply.json["model"] == MINILM
        assert np.shape(reply.json["embeddings"]) == (count, 384)
        np.testing.assert_allclose(np.linalg.norm(reply.json["embeddings"], axis=1), 1, atol=1e-5)


def test_the_example_sentence_has_its_published_vector(real_client: FlaskClient) -> None:
    reply = real_client.post("/embed", json={"texts": EXAMPLE})
    np.testing.assert_allclose(reply.json["embeddings"][0][:3], EXAMPLE_START, atol=1e-6)


def test_a_single_text_also_gets_embedding(real_client: FlaskClient) -> None:
    reply = real_client.post("/embed?model_id=minilm", json={"text": EXAMPLE})
    assert reply.json["embedding"] == reply.json["embeddings"][0]
    single = real_client.post("/embed/single?text=This%20is%20an%20example%20sentence")
    assert single.json["embedding"] == reply.json["embedding"]
    assert single.json["dimension"] == 384


def test_batch_embed_takes_a_model_id(real_client: FlaskClient) -> None:
    reply = real_client.post("/batch-embed?model_id=minilm", json={"texts": ["a", "b"]})
    assert reply.json["count"] == 2


@pytest.mark.parametrize("name", ["minilm", MINILM, "all-MiniLM-L6-v2"])
@pytest.mark.parametrize("field", ["model", "model_id"])
def test_a_model_answers_to_all_its_names(real_client: FlaskClient, name: str, field: str) -> None:
    assert real_client.post("/embed", json={"texts": "x", field: name}).status_code == 200


def test_dimensions_are_cut_and_normalised_again(real_client: FlaskClient) -> None:
    full = real_client.post("/embed", json={"text": EXAMPLE}).json["embedding"]
    cut = real_client.post("/embed", json={"text": EXAMPLE, "dimensions": 64}).json["embedding"]
    expected = np.array(full[:64]) / np.linalg.norm(full[:64])
    np.testing.assert_allclose(cut, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "status", "cut"),
    [("right", 200, 1), ("left", 200, 1), (True, 200, 1), (None, 200, 1), ("error", 400, 0),
     (False, 400, 0)],
)  # fmt: skip
def test_truncation_is_told_or_refused(
    real_client: FlaskClient, option: object, status: int, cut: int
) -> None:
    body = {"texts": ["short", "long " * 400], "truncate": option}
    reply = real_client.post("/embed", json=body)
    assert reply.status_code == status
    if status == 200:
        assert reply.headers["X-Truncated-Inputs"] == str(cut)
    else:
        assert "input 1: it has 402 tokens" in reply.json["error"]
        assert "256" in reply.json["error"]


def test_left_keeps_the_end_and_right_the_start(real_client: FlaskClient) -> None:
    start, end = "alpha " * 300, "omega " * 300
    vectors = {
        side: real_client.post("/embed", json={"text": start + end, "truncate": side}).json
        for side in ("right", "left")
    }
    pure = real_client.post("/embed", json={"texts": [start, end]}).json["embeddings"]
    np.testing.assert_allclose(vectors["right"]["embedding"], pure[0], atol=1e-5)
    np.testing.assert_allclose(vectors["left"]["embedding"], pure[1], atol=1e-5)


@pytest.mark.parametrize("field", ["input_type", "prompt_name"])
def test_an_unknown_prompt_is_refused_with_the_known_ones(
    real_client: FlaskClient, field: str
) -> None:
    reply = real_client.post("/embed", json={"text": "x", field: "nonsense"})
    assert reply.status_code == 400
    assert "document, query" in reply.json["error"]


def test_a_prompts_own_text_goes_before_the_input(real_client: FlaskClient) -> None:
    given = real_client.post("/embed", json={"text": "cats", "prompt": "about: "}).json
    written = real_client.post("/embed", json={"text": "about: cats"}).json
    np.testing.assert_allclose(given["embedding"], written["embedding"], atol=1e-6)


def test_every_reply_names_its_embedding_space(real_client: FlaskClient) -> None:
    reply = real_client.post("/embed", json={"text": "x"})
    described = real_client.get("/models/minilm").json
    assert reply.headers["X-Embedding-Fingerprint"] == described["fingerprint"]


def test_health_has_every_documented_key(real_client: FlaskClient) -> None:
    reply = real_client.get("/health")
    assert reply.status_code == 200
    assert reply.json["status"] == "healthy"
    assert reply.json["model"] == MINILM
    assert reply.json["device"] == "cpu"
    assert reply.json["embedding_dimension"] == 384
    assert reply.json["models"]["minilm"]["status"] == "ready"


def test_info_has_every_documented_key(real_client: FlaskClient) -> None:
    for path in ("/info", "/model/info", "/model/info?model_id=minilm", "/models/minilm"):
        info = real_client.get(path).json
        assert info["model_name"] == MINILM
        assert info["embedding_dimension"] == 384
        assert info["max_seq_length"] == 256
        assert info["device"] == "cpu"
        assert info["batch_size"] == 512


def test_the_root_names_the_service_and_its_models(real_client: FlaskClient) -> None:
    body = real_client.get("/").json
    assert set(body) >= {"service", "status", "version", "available_models"}
    assert body["status"] == "healthy"
    assert body["available_models"] == [MINILM]
    assert f"## {body['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_models_lists_states(real_client: FlaskClient) -> None:
    body = real_client.get("/models").json
    assert body["default"] == "minilm"
    assert [row["id"] for row in body["data"]] == ["minilm"]


@pytest.mark.fault("Malformed requests")
def test_an_unknown_model_is_404_in_a_path_and_400_elsewhere(real_client: FlaskClient) -> None:
    """An unknown model -> 404 in a path, else 400, listing the models; nothing is downloaded."""
    for reply, status in [
        (real_client.get("/models/nope"), 404),
        (real_client.get("/v1/models/nope"), 404),
        (real_client.post("/embed?model_id=nope", json={"text": "x"}), 400),
        (real_client.post("/embed", json={"text": "x", "model": "nope"}), 400),
    ]:
        assert reply.status_code == status
        assert "available: minilm" in reply.text


def test_models_that_name_each_other_twice_are_refused(fake_client: FlaskClient) -> None:
    assert (
        fake_client.post("/embed?model_id=a", json={"text": "x", "model": "b"}).status_code == 400
    )
    both = fake_client.post("/embed", json={"text": "x", "model": "a", "model_id": "b"})
    assert both.status_code == 422


def test_a_browser_of_an_allowed_origin_may_call(fake_client: FlaskClient) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    preflight = fake_client.options("/embed", headers=asked)
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


def test_a_browser_of_another_origin_may_not(config_of) -> None:
    from factory import create_app

    client = create_app(config_of(cors_origins=("https://a.example",)), wait=True).test_client()
    reply = client.get("/", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in reply.headers
    reply = client.get("/", headers={"Origin": "https://a.example"})
    assert reply.headers["Access-Control-Allow-Origin"] == "https://a.example"


@pytest.mark.fault("Clients")
def test_a_request_id_is_kept_if_it_is_one_and_made_otherwise(fake_client: FlaskClient) -> None:
    """An invalid `X-Request-ID` -> replaced by a new one."""
    assert (
        fake_client.get("/", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    )
    for bad in ("x" * 65, "a b", "\x1b[31m", ""):
        made = fake_client.get("/", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert made != bad
        assert len(made) == 32


@pytest.mark.fault("Malformed requests")
def test_the_log_has_one_line_a_request_and_never_the_text(
    fake_client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A text with control characters -> the log has one line a request, and never the text."""
    caplog.set_level("INFO")
    fake_client.post("/embed", json={"texts": ["secret words"]})
    fake_client.get("/models/%0a%1b[31mevil")
    lines = [record.getMessage() for record in caplog.records if record.name == "access"]
    assert len(lines) == 2
    assert "method=POST path=/embed model=fake texts=1 tokens=2 " in lines[0]
    assert " status=200 " in lines[0]
    assert "secret" not in caplog.text
    assert "\n" not in lines[1] and "\x1b" not in lines[1]
