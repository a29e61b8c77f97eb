"""The engine without HTTP: threads that call it as request handlers do.

python -m bench.engine [--clients 4] [--texts 32] [--dtype auto] [--seconds 5]
"""

import argparse
import json
import threading
import time
from typing import Any

from bench.corpus import load
from bench.peak import gemm_peak, rates, share
from bench.servers import MODEL
from config import Config
from embedders import build
from engine import EmbedRequest, Engine
from serving.registry import Registry


def make_engine(
    dtype: str = "auto", backend: str = "auto", device: str = "cpu", model: str = MODEL,
    **settings: Any,
) -> Engine:  # fmt: skip
    """Load a model, the bundled one if none is named. Raises ModelUnavailable."""
    config = Config.model_validate(
        {
            "supported_models": model,
            "device": device,
            "dtype": dtype,
            "backend": backend,
            **settings,
        }
    )
    registry = Registry(*config.catalogue(), config, build)
    registry.load_now()
    assert registry.default.loaded, "it raises the reason"
    return Engine(registry)


def measure(engine: Engine, clients: int, texts: int, seconds: float) -> dict[str, float]:
    """Embed fresh docs from `clients` threads. Returns texts and tokens a second.

    As over HTTP: whole calls count, over the time that they took.
    """
    docs = load().docs
    reached = [(0.0, 0.0)] * clients
    began = time.perf_counter()
    warm, end = began + min(2.0, seconds / 2), began + min(2.0, seconds / 2) + seconds

    def client(number: int) -> None:
        place, done, tokens = number * texts, 0, 0
        first = ended = time.perf_counter()
        while ended < end:
            if ended < warm:
                first, done, tokens = ended, 0, 0
            batch = [docs[(place + i) % len(docs)] for i in range(texts)]
            place += clients * texts
            result = engine.embed(EmbedRequest(batch))
            done, tokens, ended = done + texts, tokens + result.tokens, time.perf_counter()
        reached[number] = done / (ended - first), tokens / (ended - first)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts_s, tokens_s = (sum(column) for column in zip(*reached, strict=True))
    return {"texts_s": texts_s, "tokens_s": tokens_s}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--seconds", type=float, default=5)
    given = parser.parse_args()
    peak = rates()  # before: threads that are new to torch take the number of cores last set
    engine = make_engine(given.dtype, given.backend)
    result = measure(engine, given.clients, given.texts, given.seconds)
    reached = share(load(), result["texts_s"], gemm_peak(peak))
    print(json.dumps({**result, **peak, "share_of_peak": round(reached, 3)}))


if __name__ == "__main__":
    main()
