"""The engine without HTTP: how full passes are, and what all clients get together."""

import threading
import time

from bench.engine import measure
from bench.gpu.run import Run, items_of, passes_between, spec_of, totals
from bench.gpu.shapes import SHAPES, SMALL, folder_of
from observability import metrics
from serving.encoder import Encoder
from serving.loader import encoder_of

CLIENTS, TEXTS = (1, 16, 64), 32  # texts in a request
FEW = (1, 4), 4


def main(run: Run) -> None:
    """Record the bundled model with real texts, then a large one with full inputs."""
    engine = run.engine(run.data / "minilm")
    crowds, texts = FEW if run.small else (CLIENTS, TEXTS)
    for clients in crowds:
        if run.has_time(f"minilm {clients}", run.seconds):
            before, began = totals(metrics.exposition()), time.perf_counter()
            found = measure(engine, clients, texts, run.seconds)
            took = time.perf_counter() - began
            passes = passes_between(before, totals(metrics.exposition()), took)
            run.record(model="minilm", clients=clients, **found, **passes)
    engine.registry.default.loaded.encoder.close()
    name = "bge-large"
    if not run.has_time(name, run.seconds + 3):
        return
    folder = folder_of(name, run.data, run.device)
    encoder = encoder_of(spec_of(folder), run.config(folder), run.embedder(folder))
    length = (SMALL if run.small else SHAPES)[name].positions
    before, began = totals(metrics.exposition()), time.perf_counter()
    tokens_s = _full_inputs(encoder, length, run.seconds, 4 if run.small else 16)
    took = time.perf_counter() - began
    passes = passes_between(before, totals(metrics.exposition()), took)
    run.record(model=f"{name} x {length}", clients=16, tokens_s=tokens_s, **passes)
    encoder.close()


def _full_inputs(encoder: Encoder, length: int, seconds: float, clients: int) -> float:
    """Return tokens a second with inputs as long as the model takes."""
    end, done = time.perf_counter() + seconds, [0.0] * clients

    def client(number: int) -> None:
        items, count = items_of([length] * 8), 0
        began = time.perf_counter()
        while time.perf_counter() < end:
            encoder.encode(items)
            count += 1
        done[number] = count * 8 * length / (time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)
