"""Models that are exchanged under load: no request may fail, and no memory may stay behind."""

import threading
from pathlib import Path

import torch

from bench.corpus import load
from bench.gpu.run import Run, used_mb
from bench.gpu.shapes import folder_of
from config import ModelSpec
from engine import EmbedRequest, Engine
from errors import ServiceError
from server.memory import give_back_memory

EXCHANGES, CLIENTS = 3, 8
KEPT_MB = 256  # more than this afterwards is a model that was not freed
ROOM_MB = 300  # too little for a large model


def main(run: Run) -> None:
    """Record three exchanges and one that must be refused."""
    engine = run.engine(run.data / "minilm")
    other = folder_of("bge-large", run.data, run.device)
    done, failed, replies = threading.Event(), list[str](), [0] * CLIENTS
    docs = load().docs

    def client(number: int) -> None:
        while not done.is_set():
            try:
                engine.embed(EmbedRequest(docs[number : number + 4], model="it"))
                replies[number] += 1
            except ServiceError as exc:
                failed.append(exc.message)

    _exchange(run, engine, run.data / "minilm")
    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        before = used_mb(run.device)
        for number in range(EXCHANGES - 1 if run.small else EXCHANGES):
            _exchange(run, engine, other if number % 2 == 0 else run.data / "minilm")
            facts = engine.registry.default.loaded.facts
            run.record(exchange=number + 1, device=facts.device, used_mb=used_mb(run.device))
        _exchange(run, engine, run.data / "minilm")
        refused = _refused(run, engine, other)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    give_back_memory()
    after = used_mb(run.device)
    kept = None if before is None or after is None else after - before
    facts = engine.registry.default.loaded.facts
    good = not failed and refused and (kept or 0) < KEPT_MB and run.device in facts.device
    run.record(replies=sum(replies), failed=len(failed), why=str(failed[:1]), refused=refused,
               kept_mb=kept, device=facts.device, ok=good)  # fmt: skip
    if not good:
        raise SystemExit("an exchange lost requests, memory or the device")


def _exchange(run: Run, engine: Engine, folder: Path) -> None:
    spec = ModelSpec(id="it", model_name=str(folder))
    engine.registry.prepare([spec], "it", run.config(folder)).commit()


def _refused(run: Run, engine: Engine, folder: Path) -> bool:
    """Return whether an exchange is refused where memory is short; on a CPU for its files."""
    ballast = None
    if run.device == "cuda":
        give_back_memory()
        free, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(free - (ROOM_MB << 20), dtype=torch.uint8, device="cuda")
    else:
        folder = run.data / "no-model"
        folder.mkdir(exist_ok=True)
    try:
        _exchange(run, engine, folder)
    except ServiceError:
        return True
    finally:
        del ballast
    return False
