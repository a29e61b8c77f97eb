"""One rival vector store as a program: fills itself, then answers a query a line, telling the time.

    python vector_store.py faiss data.npy queries.npy folder

Run by `bench.store` with the Python of the rivals' environment, so it imports nothing of ours.
Asleep while others are measured. Reads "one <i>" or "batch"; answers one JSON object a line.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ |= {"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import numpy as np  # noqa: E402

Search = Callable[[np.ndarray], list[list[int]]]  # (q, d) -> q lists of ten rows
CHUNK = 5000


def faiss(data: np.ndarray, folder: str) -> Search:
    """FAISS, exact; its threshold set so that batches take the way of matrix products."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 20
    index = faiss.IndexFlatIP(data.shape[1])
    for start in range(0, len(data), CHUNK):
        index.add(np.ascontiguousarray(data[start : start + CHUNK]))
    return lambda queries: index.search(queries, 10)[1].tolist()


def usearch(data: np.ndarray, folder: str) -> Search:
    """Search the vectors themselves by usearch, exactly."""
    from usearch.index import MetricKind, search  # type: ignore[attr-defined, unused-ignore]

    data = np.array(data)  # in memory, as a user has it

    def find(queries: np.ndarray) -> list[list[int]]:
        keys = search(data, queries, 10, MetricKind.IP, exact=True).keys
        return np.atleast_2d(keys).astype(int).tolist()  # type: ignore[no-any-return]

    return find


def chroma(data: np.ndarray, folder: str) -> Search:
    """Chroma on a folder. It has no exact search: this is its HNSW as it comes."""
    import chromadb
    from chromadb.config import Settings

    client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
    docs = client.create_collection("docs", metadata={"hnsw:space": "ip"}, embedding_function=None)
    for start in range(0, len(data), CHUNK):
        part = np.array(data[start : start + CHUNK])
        docs.add([str(start + i) for i in range(len(part))], embeddings=part)

    def find(queries: np.ndarray) -> list[list[int]]:
        found = docs.query(query_embeddings=queries, n_results=10, include=["distances"])
        return [list(map(int, ids)) for ids in found["ids"]]

    return find


def qdrant(data: np.ndarray, folder: str) -> Search:
    """Qdrant's local mode in memory, its fastest: on a path it commits each point by itself."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    params = models.VectorParams(size=data.shape[1], distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=params)
    for start in range(0, len(data), CHUNK):
        part = data[start : start + CHUNK]
        ids = list(range(start, start + len(part)))
        client.upsert("docs", models.Batch(ids=ids, vectors=part.tolist()))

    def find(queries: np.ndarray) -> list[list[int]]:
        some = [models.QueryRequest(query=query.tolist(), limit=10) for query in queries]
        return [[p.id for p in a.points] for a in client.query_batch_points("docs", some)]

    return find


PACKAGES = {
    "faiss": (faiss, "faiss-cpu"),
    "usearch": (usearch, "usearch"),
    "chroma": (chroma, "chromadb"),
    "qdrant": (qdrant, "qdrant-client"),
}


def tell(**what: Any) -> None:
    """Answer one line, past whatever a library prints."""
    os.write(OUT, (json.dumps(what) + "\n").encode())


def main(name: str, data: str, queries: str, folder: str) -> None:
    """Fill, say so, and answer."""
    fill, package = PACKAGES[name]
    version = importlib.metadata.version(package)
    began = time.perf_counter()
    search = fill(np.load(data, mmap_mode="r"), folder)
    tell(version=version, fill_s=round(time.perf_counter() - began, 1))
    asked = np.load(queries)
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        some = asked if word == "batch" else asked[int(number)][None]
        began = time.perf_counter()
        found = search(some)
        tell(ms=(time.perf_counter() - began) * 1e3, found=found)


if __name__ == "__main__":
    OUT = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    main(*sys.argv[1:5])
