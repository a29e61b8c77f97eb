"""A network with one label classifies texts alone, as TEI and vLLM have it."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.embedders.rerankers import IDENTITY, encoder
from tests.zoo import vocabularies
from tests.zoo.service import Service

TEXTS = ["good", "the cat sleeps all day"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("one") / "m"
    named = {"id2label": {"0": "toxic"}, "label2id": {"toxic": 0}}
    options = {"sbert_ce_default_activation_function": IDENTITY, **named}
    encoder(folder, "Bert", vocabularies.bert(), options=options)
    made = Service(folder, "float32")
    yield made
    made.close()


def test_its_score_is_the_sigmoid_of_its_logit_by_the_labels_own_name(service: Service) -> None:
    def predict(**more: object) -> list[dict[str, object]]:
        body = {"inputs": [[text] for text in TEXTS], **more}
        reply = service.client.post("/predict", json=body)
        assert reply.status_code == 200, reply.text
        rows = [row for (row,) in reply.json]
        assert {row["label"] for row in rows} == {"toxic"}
        return rows

    raw = np.array([row["score"] for row in predict(raw_scores=True)])
    scores = [row["score"] for row in predict()]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-raw)), atol=1e-6)
    pooled = service.client.post("/pooling", json={"input": TEXTS, "task": "classify"})
    np.testing.assert_allclose([row["data"] for row in pooled.json["data"]], np.c_[scores])
    assert service.client.get("/info").json["model_type"]["reranker"]["id2label"] == {"0": "toxic"}


def test_texts_alone_have_no_vector_and_pairs_are_ranked_as_before(service: Service) -> None:
    refused = service.client.post("/embed", json={"texts": TEXTS})
    assert (refused.status_code, refused.json["error_type"]) == (400, "wrong_kind")
    pairs = service.client.post("/predict", json={"inputs": [["good", text] for text in TEXTS]})
    ranked = service.client.post("/rerank", json={"query": "good", "texts": TEXTS})
    by_index = sorted(ranked.json, key=lambda row: row["index"])
    np.testing.assert_allclose(
        [row["score"] for (row,) in pairs.json], [row["score"] for row in by_index], atol=1e-6
    )
