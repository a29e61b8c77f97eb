"""Memory after thousands of requests from many threads: a second round may take no more."""

import random
import threading
import time

import torch

from bench.gpu.run import Run, items_of, spec_of, used_mb
from serving.encoder import Encoder
from serving.loader import encoder_of

THREADS, REQUESTS, LONGEST = 128, 3000, 256
MORE_MB = 128  # in the second round


def main(run: Run) -> None:
    """Record memory before and after each of two rounds."""
    folder = run.data / "minilm"
    encoder = encoder_of(spec_of(folder), run.config(folder), run.embedder(folder))
    run.record(after="load", **_memory(run))
    used = []
    for number in (1, 2):
        if run.has_time(f"round {number}"):
            _round(run, encoder, number)
            run.record(after=f"round {number}", **_memory(run))
            used.append(used_mb(run.device) or 0)
    encoder.close()
    if len(used) == 2 and used[1] - used[0] > MORE_MB:
        raise SystemExit(f"the second round took {used[1] - used[0]} MB more")


def _memory(run: Run) -> dict[str, int | None]:
    if run.device != "cuda":
        return {"used_mb": None}
    return {"used_mb": used_mb(run.device), "reserved_mb": torch.cuda.memory_reserved() >> 20}


def _round(run: Run, encoder: Encoder, seed: int) -> None:
    """Encode requests of all widths from all threads."""
    threads, requests = (8, 24) if run.small else (THREADS, REQUESTS)

    def client(number: int) -> None:
        rng = random.Random(1000 * seed + number)
        for _ in range(requests // threads):
            if time.monotonic() > run.end:
                return
            encoder.encode(items_of([rng.randint(1, LONGEST) for _ in range(rng.randint(1, 8))]))

    clients = [threading.Thread(target=client, args=(n,)) for n in range(threads)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
