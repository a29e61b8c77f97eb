"""The map of real texts keeps near what is near."""

import base64
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from bench import corpus
from documents.neighbours import directions, nearest
from tests.web.conftest import ask
from tests.web.test_map import show


@pytest.mark.long
def test_of_each_texts_ten_nearest_a_fifth_stay_near(page: Page, url: str) -> None:
    """5,000 real texts by the real model; by principal components 0.01 of them stay."""
    from sentence_transformers import SentenceTransformer

    texts = corpus.load().docs[:5000]
    model = SentenceTransformer(str(corpus.model_folder()), device="cpu")
    model.max_seq_length = 64
    vectors = directions(model.encode(texts).astype(np.float32))
    ask(url, "POST", "/collections", {"name": "real", "dimension": vectors.shape[1]})
    for start in range(0, 5000, 500):
        some = vectors[start : start + 500]
        ids = [f"{i:04}" for i in range(start, start + 500)]
        body = {"ids": ids, "matrix": base64.b64encode(some.tobytes()).decode()}
        ask(url, "POST", "/collections/real/vectors", body)
    first = ask(url, "GET", "/collections/real/map")
    page.set_default_timeout(600_000)  # 40 s on a busy machine of two cores
    show(page, url, "real")
    laid = ask(url, "GET", "/collections/real/map")
    assert laid["layout"] == "neighbours"
    kept = {name: recall(vectors, reply) for name, reply in (("first", first), ("laid", laid))}
    assert kept["laid"] >= 0.2 and kept["laid"] > 5 * kept["first"], kept
    ask(url, "DELETE", "/collections/real")


def recall(vectors: np.ndarray, reply: dict[str, Any]) -> float:
    """Return how many of each one's 10 nearest are among its 10 nearest on the map."""
    points = np.stack([reply["x"], reply["y"]], 1)
    lengths = (points**2).sum(axis=1)
    apart = lengths[:, None] + lengths[None] - 2 * points @ points.T
    np.fill_diagonal(apart, np.inf)
    near = np.argpartition(apart, 10, axis=1)[:, :10]
    wanted = nearest(vectors, 0, len(vectors)).indices[:, :10]
    pairs = zip(near.tolist(), wanted.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))
