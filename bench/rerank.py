"""A reranker beside the library's own `predict`, in one process: `python -m bench.rerank`.

The bundled MiniLM-L6 under a random head for one score, as ms-marco-MiniLM-L6 has one; a request is
a query and 100 documents of 20 to 180 tokens. Rounds are taken as in `bench.static`; the library
runs in float32 throughout. Eight clients of four documents each are compared with one such client.
`--http` also asks our server, and Infinity where `python -m bench.http infinity` has installed it.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.corpus import OUT, load, model_folder
from bench.servers import OURS, OWN_ENV, Server, started
from bench.static import paired
from config import Config, ModelSpec
from embedders import build
from embedders.base import Pair, Prompt, Vectors
from serving.batcher import Batcher
from serving.loader import encoder_of

DOCUMENTS, SHORTEST, LONGEST = 100, 20, 180
CLIENTS, FEW = 8, 4
SECONDS = 5.0


def write_model(folder: Path) -> None:
    """Write the encoder with a head of its own; the head's scale gives scores of ms-marco's."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    torch.manual_seed(7)
    config = BertConfig.from_pretrained(model_folder(), num_labels=1)  # nosec B615
    model = BertForSequenceClassification(config).eval()
    base = BertModel.from_pretrained(model_folder(), add_pooling_layer=False)  # nosec B615
    model.bert.load_state_dict(base.state_dict(), strict=False)
    torch.nn.init.normal_(model.bert.pooler.dense.weight, std=0.1)
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(folder)  # nosec B615


def requests(rounds: int) -> list[list[Pair]]:
    """Return so many requests: a query of 8 words and documents of all lengths."""
    corpus = load()
    docs = [doc for doc in corpus.docs if SHORTEST <= corpus.tokens[doc] <= LONGEST]
    rng = random.Random(3)
    return [
        [Pair(query, doc) for doc in rng.sample(docs, DOCUMENTS)]
        for query in corpus.queries[:rounds]
    ]


def batcher_of(folder: Path, dtype: str) -> Batcher:
    """Load the model as the service does."""
    config = Config.model_validate({"device": "cpu", "model_cache_dir": folder / "cache"})
    given = {"id": "m", "model_name": str(folder), "type": "reranker", "dtype": dtype}
    spec = ModelSpec.model_validate(given)
    encoder = encoder_of(spec, config, build(spec, config))
    assert isinstance(encoder, Batcher)
    return encoder


def scorer_of(encoder: Batcher) -> Callable[[Sequence[Pair]], Vectors]:
    """Return what scores pairs as a request does: preparation and passes."""

    def scores(pairs: Sequence[Pair]) -> Vectors:
        items = encoder.embedder.prepare_pairs(pairs, Prompt(), "auto")
        found = encoder.encode(items).columns["score"]
        assert isinstance(found, np.ndarray)
        return found

    return scores


def rate(score: Callable[[Sequence[Pair]], Any], clients: int, given: list[list[Pair]]) -> float:
    """Return documents a second of clients that each send four documents at a time."""
    end = time.perf_counter() + SECONDS
    done = [0] * clients

    def client(number: int) -> None:
        place = number
        while time.perf_counter() < end:
            pairs = given[place % len(given)]
            start = (place * FEW) % (DOCUMENTS - FEW)
            score(pairs[start : start + FEW])
            done[number], place = done[number] + FEW, place + clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def likeness(ours: Vectors, theirs: Vectors) -> dict[str, float]:
    """Return how far scores are off at most, also as a share of their spread, and the pairs of
    neighbours in the library's order that ours turns round."""
    off, spread = float(np.abs(ours - theirs).max()), float(np.ptp(theirs))
    order = np.argsort(-theirs[:, 0])
    turned = int((np.diff(ours[order, 0]) > 0).sum())
    return {"most_off": off, "share_of_spread": off / spread, "spread": spread, "turned": turned}


def over_http(folder: Path, given: list[list[Pair]]) -> dict[str, Any]:
    """Return the median milliseconds of a request to each server, in one run."""
    own = OWN_ENV | {"EMBEDDING_MODEL": str(folder), "SUPPORTED_MODELS": str(folder)}
    infinity = (
        "infinity_emb", "v2", "--model-id", str(folder), "--engine", "torch", "--device", "cpu",
        "--port", "{port}", "--host", "127.0.0.1", "--log-level", "warning",
        "--no-bettertransformer", "--served-model-name", str(folder),
    )  # fmt: skip
    servers = [
        Server("ours", OURS, str(folder), env=own | {"DEVICE": "cpu"}),
        Server("ours-float32", OURS, str(folder), env=own | {"DEVICE": "cpu", "DTYPE": "float32"}),
    ]
    if (OUT / "infinity" / "installed.txt").exists():
        servers.append(Server("infinity", infinity, str(folder), venv="infinity", ready="/models"))
    found: dict[str, Any] = {}
    for server in servers:
        with started(server) as running:
            took = []
            for pairs in given:
                body = {"model": server.model, "query": pairs[0].query,
                        "documents": [pair.document for pair in pairs]}  # fmt: skip
                request = urllib.request.Request(
                    f"http://127.0.0.1:{running.port}/rerank", json.dumps(body).encode(),
                    {"Content-Type": "application/json"},
                )  # fmt: skip
                began = time.perf_counter()
                with urllib.request.urlopen(request, timeout=60) as reply:  # on loopback  # nosec B310
                    reply.read()
                took.append((time.perf_counter() - began) * 1000)
            found[f"{server.name}_ms"] = round(statistics.median(took[2:]), 1)
    return found


def main() -> None:
    """Print one JSON object."""
    from sentence_transformers import CrossEncoder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--http", action="store_true")
    asked = parser.parse_args()
    given = requests(asked.rounds + 2)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "reranker"
        write_model(folder)
        model = CrossEncoder(str(folder), device="cpu")

        def library(pairs: Sequence[Pair]) -> Any:
            return model.predict([list(pair) for pair in pairs], show_progress_bar=False)

        import torch

        raw = model.predict([list(pair) for pair in given[0]], activation_fn=torch.nn.Identity())
        for dtype in ("float32", "bfloat16"):
            encoder = batcher_of(folder, dtype)
            score = scorer_of(encoder)
            paired(score, library, given[:2])
            result[dtype] = {
                "backend": encoder.embedder.facts.backend,
                **paired(score, library, given[2:]),
                **likeness(score(given[0]), np.asarray(raw, np.float32).reshape(-1, 1)),
            }
            rate(score, 2, given)
            one, eight = rate(score, 1, given), rate(score, CLIENTS, given)
            result[dtype]["clients"] = {"one": one, "eight": eight, "ratio": eight / one}
            encoder.close()
        if asked.http:
            result["http"] = over_http(folder, given)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
