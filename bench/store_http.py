"""The service in front of a store, measured beside the bare store by turns.

The store's folder is open in this process and in the service's at once, so that the same search is
asked of both. Vectors travel as base64, or as columns with all of them in one matrix; numbers
written out stand beside it.
"""

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.rows import BATCH, items
from bench.servers import SERVERS, started
from bench.vectors import by_turns, show
from store.file import FileStore

# Rows that the store and the service take by turns.
TURN = 20_000


@dataclass(frozen=True)
class Load:
    """How rows are sent: their form, by how many clients, and what share of all."""

    form: str
    clients: int
    share: float
    workers: int = 1

    @property
    def name(self) -> str:
        """What it is called in the result."""
        return f"{self.form}_{self.clients}_clients_{self.workers}_workers"


LOADS = {
    1: [Load("matrix", 1, 1.0), Load("base64", 1, 0.4), Load("numbers", 2, 0.2)],
    2: [Load("matrix", 2, 1.0, 2), Load("base64", 2, 0.4, 2), Load("numbers", 4, 0.2, 2)],
}


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes) -> Any:
        """Send a body; return what was answered."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, body, headers)
        reply = self._connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status >= 300:
            raise RuntimeError(f"{path}: {reply.status} {answer}")
        return answer


def written(vector: np.ndarray, form: str) -> str | list[float]:
    """Return a vector as JSON has it."""
    if form == "numbers":
        return [float(x) for x in vector]
    return base64.b64encode(vector.tobytes()).decode()


def over_http(run: Any, folder: Path, result: dict[str, Any]) -> None:
    """Measure searches and ingest over HTTP beside the same of the bare store."""
    env = {"STORE_DIR": str(folder / "store"), "EMBEDDING_DB_URL": f"sqlite:///{folder}/service.db",
           "DATA_DIR": str(folder / "data")}  # fmt: skip
    ours = SERVERS["ours"]
    for workers, loads in LOADS.items():
        env["MAX_WORKERS"] = str(workers)
        with started(replace(ours, env={**ours.env, **env})) as server:
            if workers == 1:
                searches(run, Client(server.port), result)
            for load in loads:
                ingest(
                    run.data[: int(len(run.data) * load.share)], load, server.port, folder, result
                )


def searches(run: Any, client: Client, result: dict[str, Any]) -> None:
    """Ask the same of both; the difference is what HTTP costs."""
    path = "/collections/docs/search"

    def body(queries: Sequence[np.ndarray], **more: Any) -> bytes:
        vectors = [written(query, "base64") for query in queries]
        asked = {"vector": vectors[0]} if len(vectors) == 1 else {"vectors": vectors}
        return json.dumps({**asked, "k": 10, "exact": True, "include": [], **more}).encode()

    query, batch = body(run.queries[:1]), body(run.queries)
    small = body(run.queries[:1], filter={"n": 7})
    rounds = 25 if len(run.data) < 500_000 else 9
    for name, bare, call in (
        ("one query", lambda: run.query(turn=0), lambda: client.post(path, query)),
        ("one query, filtered", lambda: run.query(turn=0, filter={"n": 7}),
         lambda: client.post(path, small)),
        ("batch of 64", run.batch, lambda: client.post(path, batch)),
    ):  # fmt: skip
        least = by_turns({"bare": bare, "http": call}, rounds)
        more = least["http"] - least["bare"]
        key = name.replace(",", "").replace(" ", "_")
        result[f"http_{key}_ms"] = round(least["http"], 3)
        result[f"http_{key}_overhead_ms"] = round(more, 3)
        show(f"over HTTP, {name}", f"{least['http']:.2f} ms",
             f"bare {least['bare']:.2f} ms: {more:.2f} ms more; aim: at most 2")  # fmt: skip


def ingest(data: np.ndarray, load: Load, port: int, folder: Path, result: dict[str, Any]) -> None:
    """Write the same rows to a bare store and over HTTP, by turns."""
    name = f"in-{load.name}"
    first = Client(port)
    first.post("/collections", json.dumps({"name": name, "dimension": data.shape[1]}).encode())
    took = {"bare": 0.0, "http": 0.0}
    with FileStore(folder / name) as store:
        store.create("docs", data.shape[1])
        for start in range(0, len(data), TURN):
            part = data[start : start + TURN]
            batches = [(start + at, part[at : at + BATCH]) for at in range(0, len(part), BATCH)]
            began = time.perf_counter()
            for at, rows in batches:
                store.upsert("docs", items(rows, at))
            took["bare"] += time.perf_counter() - began
            bodies = [_body(rows, at, load.form) for at, rows in batches]
            took["http"] += _post_all(bodies, f"/collections/{name}/vectors", load.clients, port)
    count = first.post(f"/collections/{name}/vectors/count", b"{}")["count"]
    assert count == len(data), f"{count} of {len(data)} rows are there"
    rate = {way: len(data) / seconds for way, seconds in took.items()}
    share = rate["http"] / rate["bare"]
    key = f"http_ingest_{load.name}"
    result |= {f"{key}_per_s": round(rate["http"]), f"{key}_of_bare": round(share, 3)}
    result[f"{key}_bare_per_s"] = round(rate["bare"])
    show(f"ingest over HTTP, {load.name.replace('_', ' ')}",
         f"{rate['http']:,.0f} rows/s",
         f"bare {rate['bare']:,.0f}: {share:.0%}; aim: at least 60 %")  # fmt: skip


def _body(rows: np.ndarray, first: int, form: str) -> bytes:
    if form == "matrix":
        numbers = range(first, first + len(rows))
        columns = {"ids": [f"{i}" for i in numbers], "metadatas": [{"n": i % 20} for i in numbers]}
        return json.dumps({**columns, "matrix": base64.b64encode(rows.tobytes()).decode()}).encode()
    vectors = [
        {"id": f"{i}", "vector": written(row, form), "metadata": {"n": i % 20}}
        for i, row in enumerate(rows, first)
    ]
    return json.dumps({"vectors": vectors}).encode()


def _post_all(bodies: list[bytes], path: str, clients: int, port: int) -> float:
    """Send all bodies from so many clients; return the seconds it took."""
    waiting = iter(bodies)
    failed: list[Exception] = []

    def send(client: Client) -> None:
        try:
            for body in waiting:
                client.post(path, body)
        except Exception as exc:
            failed.append(exc)

    threads = [threading.Thread(target=send, args=(Client(port),)) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return time.perf_counter() - began
