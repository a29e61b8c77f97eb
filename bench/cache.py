"""Measure the cache against what it saves and what bounds it. Prints a table, then one JSON object.

    python bench/cache.py              both, about a minute; needs redis-server for the second
    python bench/cache.py --device cpu

A full hit stands beside encoding the same texts on this machine, Redis hits beside redis-py's own
MGET of the same bytes. Times are medians of calls in turns, so that a busy machine slows both.
"""

import argparse
import json
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # in place of this folder, whose files are named like others

from cache import Cache, MemoryCache, RedisCache  # noqa: E402
from cache.redis import connect  # noqa: E402
from config import Config, ModelSpec  # noqa: E402
from embedders import build  # noqa: E402
from embedders.base import Prompt  # noqa: E402
from engine import EmbedRequest, Engine  # noqa: E402
from serving.registry import Registry  # noqa: E402

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = ("cat", "mat", "read", "rain", "spain", "falls", "plains", "far", "away", "town", "road")


def texts_of(count: int, tokens: int) -> list[str]:
    """Make different texts of so many tokens: every word here is one."""
    rows = []
    for i in range(count):
        number = f"{i:05d}"
        words = [WORDS[(int(number[k % 5]) + i * k) % len(WORDS)] for k in range(tokens - 2)]
        rows.append(" ".join(words))
    return rows


def pairs(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Return the median seconds of each, called in turns."""
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, times in zip((one, other), took, strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return statistics.median(took[0]), statistics.median(took[1])


def registry_of(device: str) -> Registry:
    """Load the bundled model as the service does."""
    config = Config(device=device)
    registry = Registry([ModelSpec(id="minilm", model_name=MODEL)], "minilm", config, build)
    registry.load_now()
    return registry


def full_hits(registry: Registry, cache: Cache, request: EmbedRequest) -> dict[str, Any]:
    """Compare a request whose vectors are all there with encoding them."""
    cached, plain = Engine(registry, "right", cache), Engine(registry, "right")
    cached.embed(request)
    assert cached.embed(request).hits == len(request.inputs)
    hit, encode = pairs(lambda: cached.embed(request), lambda: plain.embed(request), 15)
    return {
        "hit_ms": round(hit * 1000, 3),
        "encode_ms": round(encode * 1000, 2),
        "times_faster": round(encode / hit, 1),
    }


def redis_hits(registry: Registry, cache: RedisCache, request: EmbedRequest) -> dict[str, Any]:
    """Compare a request of Redis hits with redis-py's own MGET of the same keys."""
    engine = Engine(registry, "right", cache)
    engine.embed(request)
    client = cache._client
    keys = sorted(client.keys())
    assert len(keys) == len(request.inputs) == engine.embed(request).hits
    hits, raw = pairs(lambda: engine.embed(request), lambda: client.mget(keys), 41)
    return {
        "hits_ms": round(hits * 1000, 2),
        "mget_ms": round(raw * 1000, 2),
        "times_mget": round(hits / raw, 2),
        "bytes": sum(len(value or b"") for value in client.mget(keys)),
    }


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a Redis that keeps nothing on disk; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        client = connect(f"redis://127.0.0.1:{port}/0")
        for _ in range(100):
            with suppress(Exception):
                client.ping()
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="where the model runs (default: auto)")
    device = parser.parse_args().device
    registry = registry_of(device)
    facts = registry.default.loaded.facts
    short, many = texts_of(32, 60), texts_of(1000, 20)
    items = registry.default.loaded.embedder.prepare(short, Prompt(), "right")
    tokens = statistics.mean(item.tokens for item in items)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "model": f"{MODEL} on {facts.device}, {facts.dtype}, {facts.backend}",
        "tokens_per_text": tokens,
        "memory_32_texts": full_hits(registry, MemoryCache(1 << 28, 3600), EmbedRequest(short)),
    }
    with redis_server() as address:
        for name, texts in (("redis_32_texts", short), ("redis_1000_texts", many)):
            cache = RedisCache(address, 3600)
            measure = full_hits if texts is short else redis_hits
            result[name] = measure(registry, cache, EmbedRequest(texts))
            cache._client.flushall()
            cache.close()
    for name, value in result.items():
        print(f"{name:20} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
