"""Measures how long a probe takes while many connections ask for what is cheap.

python -m bench.flood                   our service, each kind of flood for ten seconds
python -m bench.flood --kind hits --connections 400 --port 8001     one that runs already

`overload.py` offers texts to embed, of which the service refuses what it cannot do. Here nothing
waits for the model: replies of half a megabyte from the cache, paths that are not there, wrong
keys. Each connection sends its next request as soon as the last is answered. The probe is timed
from a process of its own, on a connection of its own each time. Ends with 1 if one failed or the
99th percentile is over `--limit-ms`.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from bench.overload import made_up_texts
from bench.servers import MODEL, SERVERS, started

CONNECTIONS = 200
TEXTS = 115  # vectors of 384 numbers in a reply: half a megabyte of JSON
PROBE_EVERY_S = 0.02
KEY = "the-key-of-the-benchmark"
# What the service started here has beside `SERVERS`: vectors to remember, and somebody to refuse.
MORE = {
    "CACHE": "memory", "AUTH_ENABLED": "true", "API_KEY_SECRET": KEY,
    "JWT_SECRET_KEY": "a-secret-of-the-benchmark-of-32-bytes",  # nosec B105
    "ADMIN_PASSWORD": KEY,
    "REQUESTS_PER_MINUTE_USER": "0", "TEXTS_PER_MINUTE_USER": "0",
}  # fmt: skip


def _post(path: str, body: object, *more: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
        f"Content-Length: {len(content)}", *more,
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + content


def requests_of(kind: str, model: str, key: str) -> bytes:
    """Return one request of a kind of flood."""
    texts = made_up_texts()[:TEXTS]
    right, wrong = (f"Authorization: Bearer {k}" for k in (key, "of-nobody-here"))
    return {
        "hits": _post("/embed", {"texts": texts}, right),
        "base64": _post(
            "/v1/embeddings",
            {"model": model, "input": texts, "encoding_format": "base64"},
            right,
        ),
        "404": b"GET /nothing/here HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "401": _post("/embed", {"texts": ["a"]}, wrong),
    }[kind]


KINDS = ("hits", "base64", "404", "401")


async def _flood(port: int, payload: bytes, connections: int, until: float) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def one() -> None:
        writer = None
        while time.time() < until:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(payload)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                statuses[int(head.split(b" ", 2)[1])] += 1
                if b"connection: close" in head:
                    writer.close()
                    writer = None
            except (OSError, EOFError):
                statuses[0] += 1
                writer = None
        if writer:
            writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return statuses


def probe(port: int, path: str, until: float, answers: Any) -> None:
    """Ask for a path until then, one connection after the other; put out the times in ms."""
    times, failed = [], 0
    while time.time() < until:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            failed += connection.getresponse().status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
        connection.close()
        times.append((time.perf_counter() - began) * 1000)
        time.sleep(PROBE_EVERY_S)
    answers.put((times, failed))


def measure(given: argparse.Namespace, port: int, kind: str) -> dict[str, Any]:
    """Flood a service and probe it; return what came of it."""
    payload = requests_of(kind, given.model, given.key)
    asyncio.run(_flood(port, payload, 1, time.time() + 1))  # so that the cache holds the texts
    context = multiprocessing.get_context("spawn")
    answers, until = context.Queue(), time.time() + given.seconds
    asking = context.Process(target=probe, args=(port, given.path, until, answers))
    asking.start()
    statuses = asyncio.run(_flood(port, payload, given.connections, until))
    times, failed = answers.get()
    asking.join()
    p50, p99, most = (round(float(np.percentile(times, q)), 1) for q in (50, 99, 100))
    return {
        "kind": kind,
        "requests_s": round(sum(statuses.values()) / given.seconds, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "probes": len(times), "failed": failed, "p50": p50, "p99": p99, "max": most,
    }  # fmt: skip


def flood(given: argparse.Namespace, port: int) -> int:
    """Measure each kind that is asked for; return 1 if a probe failed or was late."""
    bad = False
    for kind in given.kind or KINDS:
        result = measure(given, port, kind)
        print(json.dumps(result), flush=True)
        bad |= result["failed"] > 0 or result["p99"] > given.limit_ms
    return int(bad)


def main() -> None:
    """Flood a service that runs, or our own with a cache and a key."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--limit-ms", type=float, default=100)
    parser.add_argument("--path", default="/health")
    parser.add_argument("--port", type=int, help="of a service that runs already")
    parser.add_argument("--key", default=KEY, help="a key of that service")
    parser.add_argument("--model", default=MODEL)
    given = parser.parse_args()
    if given.port is not None:
        sys.exit(flood(given, given.port))
    ours = SERVERS["ours"]
    with started(replace(ours, env={**ours.env, **MORE})) as running:
        sys.exit(flood(given, running.port))


if __name__ == "__main__":
    main()
