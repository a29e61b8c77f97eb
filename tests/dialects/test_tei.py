"""The routes of text-embeddings-inference: what its clients send, and what they read."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from embedders.fake import FakeEmbedder
from factory import create_app
from store.budget import Budget
from tests.conftest import write_models

QUERY = "when does it rain"
TEXTS = ["stocks fell", "it does rain in spring", "when", "cats sleep"]
MODELS = {
    name: {"type": "fake", "model_name": f"tests/{name}{outputs}"}
    for name, outputs in (("dense", ""), ("reranker", "+score"), ("sparse", "+sparse"),
                          ("classes", "+score+label"), ("tokens", "+multi_vector"))
}  # fmt: skip
LONG = " ".join(f"w{i}" for i in range(20))  # the fake models read 16 words
RIGHT, LEFT = " ".join(LONG.split()[:16]), " ".join(LONG.split()[-16:])


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FlaskClient]]:
    """A client for each kind of model that may be the default; the others are there too."""
    found, apps = {}, []
    for default in MODELS:
        folder: Path = tmp_path_factory.mktemp(default)
        given = {
            "model_config_file": write_models(folder / "models.json", MODELS, default),
            "supported_models_file": folder / "none", "store_dir": folder / "store",
            "data_dir": folder / "data", "db_url": f"sqlite:///{folder}/service.db",
            "max_texts": 32, "max_reply_bytes": 100_000,
        }  # fmt: skip
        apps.append(create_app(Config.model_validate(given), wait=True))
        found[default] = apps[-1].test_client()
    yield found
    for app in apps:
        app.extensions["services"].documents.store.close()


@pytest.fixture
def client(clients: dict[str, FlaskClient]) -> FlaskClient:
    """A client of a service whose default model gives dense vectors, as most do."""
    return clients["dense"]


def good(client: FlaskClient, path: str, **body: Any) -> Any:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json


def refused(client: FlaskClient, path: str, **body: Any) -> tuple[int, str, str]:
    """Return the status and the two fields of TEI's errors; there are no others."""
    reply = client.post(path, json=body)
    assert set(reply.json) == {"error", "error_type"}
    return reply.status_code, reply.json["error_type"], reply.json["error"]


def of_openai(client: FlaskClient, given: Any, **fields: Any) -> list[list[float]]:
    rows = good(client, "/v1/embeddings", input=given, **fields)["data"]
    return [row["embedding"] for row in rows]


# -- /embed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
@pytest.mark.parametrize(
    ("inputs", "same"),
    [
        ("a b", ["a b"]),
        (["a b", "c"], ["a b", "c"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_vectors_are_those_of_openais_route(
    client: FlaskClient, path: str, inputs: Any, same: list[Any]
) -> None:
    assert good(client, path, inputs=inputs) == of_openai(client, same)


def test_texts_and_token_ids_may_be_mixed(client: FlaskClient) -> None:
    mixed = good(client, "/embed", inputs=["a", [1, 2], "b"])
    texts = of_openai(client, ["a", "b"])
    assert mixed == [texts[0], *of_openai(client, [[1, 2]]), texts[1]]


def test_the_native_form_of_embed_stays(client: FlaskClient) -> None:
    native = good(client, "/embed", texts=["a"])
    assert native["count"] == 1 and native["embeddings"] == good(client, "/embed", inputs="a")
    reply = client.post("/embed", json={})
    assert (reply.status_code, reply.json["error_type"]) == (422, "invalid_input")


def test_normalize_false_gives_the_vector_before(client: FlaskClient) -> None:
    whole = np.array(good(client, "/embed", inputs=["a"], normalize=False)[0])
    assert abs(np.linalg.norm(whole) - 1) > 0.01
    unit = good(client, "/embed", inputs=["a"], normalize=None)[0]  # TEI's default is true
    assert np.allclose(whole / np.linalg.norm(whole), unit, atol=1e-6)


def test_dimensions_cut_and_normalise_again(client: FlaskClient) -> None:
    assert good(client, "/embed", inputs="a", dimensions=4) == of_openai(client, "a", dimensions=4)
    for dimensions, said in ((0, "dimensions: 0 is refused. 1 or more"), (9, "dimensions")):
        status, kind, message = refused(client, "/embed", inputs="a", dimensions=dimensions)
        assert (status, kind) == (422, "Validation") and message.startswith(said)


def test_prompts_are_chosen_by_name(client: FlaskClient) -> None:
    asked = good(client, "/embed", inputs="a", prompt_name="query")
    assert asked == good(client, "/embed", inputs="query: a")
    status, kind, message = refused(client, "/embed", inputs="a", prompt_name="no")
    assert (status, kind) == (422, "Validation") and "this model knows: document, query" in message


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, RIGHT),
        ({"truncate": None}, RIGHT),
        ({"truncate": True}, RIGHT),
        ({"truncate": True, "truncation_direction": "Right"}, RIGHT),
        ({"truncation_direction": "Left"}, LEFT),
        ({"truncate": True, "truncation_direction": "left"}, LEFT),
    ],
)
def test_long_inputs_are_cut_on_the_right_unless_the_request_says_otherwise(
    client: FlaskClient, fields: dict[str, Any], kept: str
) -> None:
    assert good(client, "/embed", inputs=LONG, **fields) == good(client, "/embed", inputs=kept)


def test_what_must_not_be_cut_is_refused(client: FlaskClient) -> None:
    status, kind, message = refused(client, "/embed", inputs=["a", LONG], truncate=False)
    assert (status, kind) == (422, "Validation")
    assert message == "input 1: it has 20 tokens; the limit is 16"


@pytest.mark.parametrize(("truncate", "kept"), [("left", LEFT), ("auto", RIGHT), ("right", RIGHT)])
def test_the_service_says_what_happens_without_a_word(
    config_of: Callable[..., Config], truncate: str, kept: str
) -> None:
    client = create_app(config_of(truncate=truncate), wait=True).test_client()
    assert good(client, "/embed", inputs=LONG) == good(client, "/embed", inputs=kept)


def test_a_service_that_refuses_cuts_when_it_is_asked_to(
    config_of: Callable[..., Config],
) -> None:
    client = create_app(config_of(truncate="error"), wait=True).test_client()
    assert refused(client, "/embed", inputs=LONG)[0] == 422
    asked = good(client, "/embed", inputs=LONG, truncate=True)
    assert asked == good(client, "/embed", inputs=RIGHT)
    assert client.get("/info").json["auto_truncate"] is False


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": []}),
        ("/", {"inputs": []}),
        ("/embed_all", {"inputs": []}),
        ("/embed_sparse", {"inputs": []}),
        ("/predict", {"inputs": []}),
        ("/tokenize", {"inputs": []}),
        ("/decode", {"ids": []}),
        ("/rerank", {"query": "a", "texts": []}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}),
    ],
)
def test_no_input_is_teis_empty(client: FlaskClient, path: str, body: dict[str, Any]) -> None:
    status, kind, message = refused(client, path, **body)
    assert (status, kind) == (400, "Empty") and message.endswith("` cannot be empty")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": ["a"] * 33}),
        ("/embed_all", {"inputs": ["a"] * 33}),
        ("/rerank", {"query": "a", "texts": ["a"] * 33}),
        ("/predict", {"inputs": [["a"]] * 33}),
        ("/tokenize", {"inputs": ["a"] * 33}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a"] * 32}}),
    ],
)
def test_too_many_inputs_are_422(client: FlaskClient, path: str, body: dict[str, Any]) -> None:
    status, kind, message = refused(client, path, **body)
    assert (status, kind) == (422, "Validation")
    assert message == "33 inputs; the limit is 32 a request: send several"


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/embed", {"inputs": ["a", 3]}, "inputs.1"),
        ("/embed", {"inputs": "a", "truncate": "yes"}, "truncate"),
        ("/embed", {"inputs": "a", "normalize": 1}, "normalize"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, "truncation_direction"),
        ("/embed", {"inputs": "a", "encoding_format": "base64"}, "encoding_format"),
        ("/embed", {"inputs": [5000]}, "input 0"),
        ("/embed", {"inputs": [[]]}, "inputs.0"),
        ("/embed_all", {}, "inputs"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "inputs"),
        ("/predict", {"inputs": [["a"], ["a", "b", "c"]]}, "inputs.1"),
        ("/rerank", {"texts": ["a"]}, "query"),
        ("/rerank", {"query": "a", "texts": [1]}, "texts.0"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, "inputs.sentences"),
        ("/decode", {"ids": "a"}, "ids"),
        ("/vertex", {"instances": [{"inputs": 3}]}, "instances.0: inputs"),
    ],
)
def test_a_wrong_value_is_422_and_named(
    client: FlaskClient, path: str, body: dict[str, Any], place: str
) -> None:
    status, kind, message = refused(client, path, **body)
    assert (status, kind) == (422, "Validation"), message
    assert message.startswith(place), message


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/embed?model_id=reranker", {"inputs": "a"}, "is a reranker"),
        ("/embed_all?model_id=classes", {"inputs": "a"}, "is a classifier"),
        ("/embed_sparse?model_id=dense", {"inputs": "a"}, "is an embedding model"),
        ("/predict?model_id=dense", {"inputs": "a"}, "is an embedding model"),
        ("/rerank?model_id=dense", {"query": "a", "texts": ["a"]}, "is an embedding model"),
        ("/similarity?model_id=sparse", {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
         "is a sparse model"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_model_is_424(
    client: FlaskClient, path: str, body: dict[str, Any], word: str
) -> None:
    status, kind, message = refused(client, path, **body)
    assert (status, kind) == (424, "Backend") and word in message


def test_what_is_no_json_is_told_in_teis_form_too(client: FlaskClient) -> None:
    for path in ("/embed_all", "/", "/predict"):
        reply = client.post(path, data="{", content_type="application/json")
        assert (reply.status_code, reply.json["error_type"]) == (400, "Validation")
        reply = client.post(path, data="{}", content_type="text/plain")
        assert (reply.status_code, reply.json["error_type"]) == (415, "Validation")
    assert set(client.get("/embed_all").json) == {"error", "error_type"}


def test_a_used_up_limit_is_429_and_a_model_that_is_not_there_503(
    config_of: Callable[..., Config],
) -> None:
    limited = create_app(config_of(texts_per_minute_admin=1), wait=True).test_client()
    assert good(limited, "/embed", inputs="a")
    reply = limited.post("/embed", json={"inputs": "a"})
    assert (reply.status_code, reply.json["error_type"]) == (429, "Overloaded")
    assert int(reply.headers["Retry-After"]) > 0
    gone = {"gone": {"type": "sentence_transformer", "model_name": "/nonexistent/model"}}
    client = create_app(config_of(gone), wait=True).test_client()
    for path in ("/embed", "/", "/embed_all", "/tokenize", "/predict"):
        assert refused(client, path, inputs="a")[:2] == (503, "Unhealthy"), path
    assert client.get("/info").json["model_type"] == {"embedding": {"pooling": "none"}}
    assert client.get("/ping").status_code == 503


def test_several_replies_of_vertex_are_as_large_as_one_may_be(client: FlaskClient) -> None:
    one = {"query": "a", "texts": ["b" * 5000], "return_text": True}
    many = [one for _ in range(30)]
    reply = client.post("/vertex", json={"instances": many})
    assert (reply.status_code, reply.json["error_type"]) == (413, "Validation")


# -- other outputs ---------------------------------------------------------------------------------


def test_embed_all_gives_the_states_of_all_tokens(client: FlaskClient) -> None:
    states = good(client, "/embed_all", inputs=["a b", "c"])
    words = [good(client, "/embed", inputs=word, normalize=False)[0] for word in ("a", "b", "c")]
    assert states == [words[:2], words[2:]]
    assert good(client, "/embed_all", inputs="a b") == states[:1]


@pytest.mark.parametrize("path", ["/embed_sparse", "/"])
def test_sparse_vectors_are_lists_of_terms(clients: dict[str, FlaskClient], path: str) -> None:
    client = clients["sparse"]
    native = good(client, "/embed", texts=["a b", "c"], outputs=["sparse"])["sparse"]
    rows = good(client, path, inputs=["a b", "c"])
    assert rows == [
        [{"index": i, "value": v} for i, v in zip(row["indices"], row["values"], strict=True)]
        for row in native
    ]


@pytest.mark.parametrize("path", ["/rerank", "/", "/invocations"])
def test_texts_are_ranked_as_documents_are(client: FlaskClient, path: str) -> None:
    whole = good(client, "/rerank", query=QUERY, documents=TEXTS)["results"]
    rows = good(client, path, query=QUERY, texts=TEXTS)
    same = [{"index": row["index"], "score": row["relevance_score"]} for row in whole]
    assert rows == same and all(0 < row["score"] < 1 for row in rows)
    raw = good(client, path, query=QUERY, texts=TEXTS, raw_scores=True)
    assert [row["index"] for row in raw] == [row["index"] for row in rows]
    assert np.allclose([1 / (1 + np.exp(-row["score"])) for row in raw],
                       [row["score"] for row in rows], atol=1e-6)  # fmt: skip


def test_rerank_takes_what_litellm_dify_and_ragflow_send(client: FlaskClient) -> None:
    litellm = {"query": QUERY, "texts": [{"text": text} for text in TEXTS], "top_n": 2,
               "return_text": False, "raw_scores": False, "truncate": False,
               "truncation_direction": "Right"}  # fmt: skip
    rows = good(client, "/rerank", **litellm)
    assert len(rows) == 2 and set(rows[0]) == {"index", "score"}
    dify = good(client, "/rerank", query=QUERY, texts=TEXTS, return_text=True)
    assert [row["text"] for row in dify] == [TEXTS[row["index"]] for row in dify]
    ragflow = good(client, "/rerank", query=QUERY, texts=TEXTS, raw_scores=False, truncate=True)
    assert sorted(row["index"] for row in ragflow) == [0, 1, 2, 3]
    assert ragflow[:2] == rows


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_labels_come_with_their_scores_the_highest_first(
    clients: dict[str, FlaskClient], path: str
) -> None:
    client = clients["classes"]
    alone = good(client, path, inputs="a b")
    assert {row["label"] for row in alone} == {"no", "yes"}
    assert sum(row["score"] for row in alone) == pytest.approx(1, abs=1e-6)
    assert alone[0]["score"] > alone[1]["score"]
    assert good(client, path, inputs=[["a b"]]) == [alone]
    pair = good(client, path, inputs=["a", "b"])
    assert isinstance(pair[0], dict) and pair != alone
    assert good(client, path, inputs=[["a b"], ["a", "b"]]) == [alone, pair]
    raw = {row["label"]: row["score"] for row in good(client, path, inputs="a b", raw_scores=True)}
    powers = {label: np.exp(score) for label, score in raw.items()}
    for row in alone:
        share = powers[row["label"]] / sum(powers.values())
        assert row["score"] == pytest.approx(share, abs=1e-6)


def test_huggingface_hub_sees_every_label(clients: dict[str, FlaskClient]) -> None:
    client = clients["classes"]
    (rows,) = good(client, "/", inputs="a b", parameters={})
    assert rows == good(client, "/", inputs="a b")
    (best,) = good(client, "/", inputs="a b", parameters={"top_k": 1})
    assert best == rows[:1]
    (raw,) = good(client, "/", inputs="a b", parameters={"function_to_apply": "none"})
    assert raw == good(client, "/predict", inputs="a b", raw_scores=True)
    (own,) = good(client, "/", inputs="a b", parameters={"function_to_apply": "sigmoid"})
    assert own[0]["score"] == pytest.approx(1 / (1 + np.exp(-raw[0]["score"])), abs=1e-6)


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_labels_of_the_callers_own_are_refused(clients: dict[str, FlaskClient], path: str) -> None:
    """They are what `zero_shot_classification` of huggingface_hub sends."""
    asked = {"candidate_labels": ["sport", "art"], "multi_label": False}
    status, kind, message = refused(clients["classes"], path, inputs="a", parameters=asked)
    assert (status, kind) == (422, "Validation") and message.startswith("candidate_labels: a list")
    asked = {"top_k": 0}
    message = refused(clients["classes"], path, inputs="a", parameters=asked)[2]
    assert message.startswith("top_k: 0 is refused. 1 or more")


def test_a_reranker_has_one_label(clients: dict[str, FlaskClient]) -> None:
    pair = [QUERY, TEXTS[1]]
    (row,) = good(clients["reranker"], "/predict", inputs=pair)
    ranked = good(clients["reranker"], "/rerank", query=QUERY, texts=[TEXTS[1]])
    assert row == {"label": "relevance", "score": ranked[0]["score"]}


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_a_sentence_is_compared_with_others(client: FlaskClient, path: str) -> None:
    inputs = {"source_sentence": "a", "sentences": ["b", "a", "c"]}
    found = good(client, path, inputs=inputs)
    one, *many = np.array(good(client, "/embed", inputs=["a", "b", "a", "c"]))
    assert np.allclose(found, many @ one, atol=1e-6) and found[1] == pytest.approx(1)
    assert good(client, path, inputs=inputs, parameters={}) == found
    named = good(client, path, inputs=inputs, parameters={"prompt_name": "query"})
    assert named != found
    reply = client.post(path, json={"inputs": inputs, "parameters": {"truncation_direction": 3}})
    assert reply.status_code == 422


# -- tokens ----------------------------------------------------------------------------------------


def test_texts_are_split_into_tokens_and_tokens_joined(client: FlaskClient) -> None:
    (tokens,) = good(client, "/tokenize", inputs="7 21")
    assert tokens == [
        {"id": 7, "text": "7", "special": False, "start": 0, "stop": 1},
        {"id": 21, "text": "21", "special": False, "start": 2, "stop": 4},
    ]
    (prompted,) = good(client, "/tokenize", inputs="7 21", prompt_name="query")
    assert [token["text"] for token in prompted] == ["query:", "7", "21"]
    assert len(good(client, "/tokenize", inputs=[LONG, "a"])[0]) == 20  # it is not cut
    assert good(client, "/decode", ids=[7, 21]) == ["7 21"]
    assert good(client, "/decode", ids=[[7], [21, 3]], skip_special_tokens=False) == ["7", "21 3"]


def test_tokens_that_no_reply_holds_are_refused(client: FlaskClient) -> None:
    status, kind, message = refused(client, "/tokenize", inputs=["a " * 5000])
    assert (status, kind) == (413, "Validation") and "reply" in message


def test_what_is_refused_is_named_as_the_request_has_it(client: FlaskClient) -> None:
    one = {"source_sentence": LONG, "sentences": ["a"]}
    many = {"source_sentence": "a", "sentences": ["a", LONG]}
    for inputs, place in ((one, "inputs.source_sentence"), (many, "inputs.sentences.1")):
        found = refused(client, "/similarity", inputs=inputs, parameters={"truncate": False})
        assert found == (422, "Validation", f"{place}: it has 20 tokens; the limit is 16")
    for ids, place in (([10**7], "ids"), ([[1], [10**7]], "ids.1")):
        status, kind, message = refused(client, "/decode", ids=ids)
        assert (status, kind) == (422, "Validation") and message.startswith(f"{place}: ")
    for given, place in (([[]], 0), ([[1, "a"]], 0), (["a", ["a"]], 1)):
        found = refused(client, "/embed", inputs=given)
        said = f"inputs.{place}: it should be a text, or a list of one or more token ids"
        assert found == (422, "Validation", said), given


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": "new 1"}),
        ("/vertex", {"instances": [{"inputs": "new 2"}]}),
        ("/rerank", {"query": "a", "texts": ["new 3"]}),
        ("/predict?model_id=classes", {"inputs": "new 4"}),
    ],
)
def test_a_result_that_is_no_number_is_424(
    client: FlaskClient, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = FakeEmbedder.encode

    def broken(self: FakeEmbedder, items: Any) -> Any:
        made = encode(self, items)
        for column in made.columns.values():
            np.asarray(column)[:] = np.nan
        return made

    monkeypatch.setattr(FakeEmbedder, "encode", broken)
    status, kind, message = refused(client, path, **body)
    assert (status, kind) == (424, "Backend") and "is not a number" in message
    assert message.startswith("instances.0: ") is (path == "/vertex")


# -- /vertex, /info, /ping -------------------------------------------------------------------------


def test_vertex_answers_each_instance(client: FlaskClient) -> None:
    instances = [{"inputs": "a"}, {"query": QUERY, "texts": TEXTS}, {"inputs": ["a", "b"]}]
    found = good(client, "/vertex", instances=instances)
    assert found == {"predictions": [good(client, "/", **instance) for instance in instances]}


@pytest.mark.parametrize("field", ["dimensions", "inputs", "anything"])
@pytest.mark.parametrize("number", ["99999999999999999999", "1e400", "NaN"])
def test_vertex_reads_a_number_as_its_instance_alone_is_read(
    client: FlaskClient, field: str, number: str
) -> None:
    instance = f'{{"inputs": "a", "{field}": {number}}}'
    kind = "application/json"
    alone = client.post("/", data=instance, content_type=kind)
    reply = client.post("/vertex", data=f'{{"instances": [{instance}]}}', content_type=kind)
    assert reply.status_code == alone.status_code != 500


def test_the_instances_of_vertex_have_the_limits_of_one_request(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [{"inputs": ["a"] * 11, "dimensions": 1}] * 3
    status, _, message = refused(client, "/vertex", instances=many)
    assert status == 422 and "over 32 texts" in message
    monkeypatch.setattr("routes.dialects.tei.budget_of_request", lambda: Budget(time.monotonic()))
    assert refused(client, "/vertex", instances=many[:1])[0] == 504


def test_vertex_tells_what_was_cut_and_where_it_failed(client: FlaskClient) -> None:
    instances = [{"inputs": ["a", LONG]}, {"inputs": LONG}]
    reply = client.post("/vertex", json={"instances": instances})
    assert reply.headers["X-Truncated-Inputs"] == "2"
    instances[1]["truncate"] = False
    assert refused(client, "/vertex", instances=instances) == (
        422, "Validation", "instances.1: input 0: it has 20 tokens; the limit is 16"
    )  # fmt: skip
    instances[1] = {"inputs": "a", "model": "tokens"}
    status, kind, message = refused(client, "/vertex", instances=instances)
    assert (status, kind) == (424, "Backend") and message.startswith("instances.1: ")


@pytest.mark.parametrize(
    ("default", "model_type"),
    [
        ("dense", {"embedding": {"pooling": "none"}}),
        ("sparse", {"embedding": {"pooling": "splade"}}),
        ("reranker",
         {"reranker": {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}}),
        ("classes",
         {"classifier": {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}}),
    ],
)  # fmt: skip
def test_info_has_what_dify_reads_and_our_own(
    clients: dict[str, FlaskClient], default: str, model_type: dict[str, Any]
) -> None:
    info = clients[default].get("/info").json
    assert info["model_type"] == model_type
    assert info["id"] == default and info["fingerprint"]
    teis = {
        "model_id", "model_sha", "model_dtype", "served_model_name", "model_type",
        "max_concurrent_requests", "max_input_length", "max_batch_tokens", "max_batch_requests",
        "max_client_batch_size", "auto_truncate", "tokenization_workers", "version", "sha",
        "docker_label",
    }  # fmt: skip
    assert teis <= set(info)
    assert (info["max_client_batch_size"], info["auto_truncate"]) == (32, True)
    assert info["max_concurrent_requests"] == 112  # of 128 threads


def test_ping_is_health(client: FlaskClient) -> None:
    assert client.get("/ping").json == client.get("/health").json
    assert client.get("/ping").status_code == client.head("/ping").status_code == 200


def test_the_console_keeps_its_place(client: FlaskClient) -> None:
    assert client.get("/", headers={"Accept": "text/html"}).content_type.startswith("text/html")
    assert client.get("/").json["service"] == "Embedding Service"
    assert client.head("/").status_code == 200


def test_replies_tell_what_was_computed(client: FlaskClient) -> None:
    reply = client.post("/embed", json={"inputs": ["a b", LONG]})
    assert reply.headers["x-compute-tokens"] == "18" and reply.headers["x-compute-type"] == "cpu"
    assert reply.headers["x-compute-characters"] == str(3 + len(LONG))
    assert reply.headers["X-Truncated-Inputs"] == "1"


def test_unknown_keys_are_ignored(client: FlaskClient) -> None:
    assert good(client, "/embed", inputs="a", options={"wait_for_model": True}, x=[1]) == good(
        client, "/embed", inputs="a"
    )
