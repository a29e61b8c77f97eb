"""A GPU that other programs fill: who gets which answer, and whether it is as before afterwards."""

import threading
import time

import torch

from bench.corpus import load
from bench.gpu.run import Run, passes_between, totals
from bench.gpu.shapes import SHAPES, SMALL, folder_of
from engine import EmbedRequest, Engine
from errors import ServiceError
from observability import metrics
from server.memory import give_back_memory

LEFT_MB = 600  # of a GPU whose other programs take nearly all
LESS_MB = (300, 150, 80, 40, 24)  # until the longest text does not fit alone
TOO_LARGE = 507


def main(run: Run) -> None:
    """Record each state of the memory, and fail if a text is refused that fits."""
    engine = run.engine(folder_of("far", run.data, run.device))
    positions = (SMALL if run.small else SHAPES)["far"].positions
    docs = load().docs
    short = [docs[at : at + (4 if run.small else 32)] for at in range(16)]
    long = " ".join(docs[: positions // 8])
    good = [not _asked(run, engine, "free", short)]
    held = _fill(run, LEFT_MB)
    good.append(not _asked(run, engine, f"{LEFT_MB} MB", short))
    for left in LESS_MB[: 1 if run.small else None]:
        if not run.has_time(f"{left} MB"):
            break
        del held
        held = _fill(run, left)
        refused = _asked(run, engine, f"{left} MB and one long text", [[long], *short[:4]])
        good.append(set(refused) <= {TOO_LARGE} and len(refused) <= 1)
        if refused:
            break
    del held
    give_back_memory()
    good.append(not _asked(run, engine, "free again", short))
    device = engine.registry.default.loaded.facts.device
    run.record(memory="afterwards", device=device, ok=all(good) and run.device in device)
    if not all(good) or run.device not in device:
        raise SystemExit("a text was refused that fits, or the model has moved")


def _fill(run: Run, left_mb: int) -> torch.Tensor | None:
    """Hold all of the GPU's memory but so much, until what is returned is dropped."""
    give_back_memory()
    if run.device != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(max(free - (left_mb << 20), 0), dtype=torch.uint8, device=run.device)


def _asked(run: Run, engine: Engine, what: str, requests: list[list[str]]) -> list[int]:
    """Send requests at once; record what they met, return the statuses of those that failed."""
    failed: list[int] = []

    def ask(texts: list[str]) -> None:
        try:
            engine.embed(EmbedRequest(texts))
        except ServiceError as exc:
            failed.append(exc.status)

    before, began = totals(metrics.exposition()), time.perf_counter()
    threads = [threading.Thread(target=ask, args=(texts,)) for texts in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, took = totals(metrics.exposition()), time.perf_counter() - began
    faults = after.get("model_faults_total", 0) - before.get("model_faults_total", 0)
    run.record(memory=what, requests=len(requests), failed=str(failed), faults=faults,
               took_s=took, **passes_between(before, after, took))  # fmt: skip
    return failed
