"""Our engine beside the library's `encode` for models that are no BERT.

`python -m bench.architectures` prints a table and one JSON object. Random weights in the shapes of
well-known models, with the bundled model's tokenizer, so that the corpus's texts have the lengths
that they have in every other measurement: speed does not depend on the values. Each architecture is
a process of its own, which gives its memory back and may only take so long. Within it the engine
(four callers of 32 texts), `encode` in its default dtype and `encode` in bfloat16 (32 texts a
call) take turns; a ratio is taken within a turn. No HTTP.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.corpus import Corpus, load, model_folder
from bench.engine import make_engine
from bench.report import table
from bench.servers import QUIET, ROOT
from bench.window import Window
from engine import EmbedRequest
from tests.zoo.layouts import sentence

Way = tuple[int, Callable[[Sequence[str]], object]]  # how many texts a call has, and the call
CALLERS, TEXTS, LIMIT = 4, 32, 512  # a text's tokens at most
HEAD = ("architecture", "ours runs", "ours, texts/s", "`encode`, texts/s", "in bfloat16, texts/s",
        "ours / `encode`", "ours / `encode` in bfloat16", "least cosine", "turns")  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, what its default configuration lacks, and how it is published."""

    kind: str
    pooling: str = "mean"
    dtype: str = "float32"
    facts: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "mpnet-base": Architecture("MPNet", facts={"max_position_embeddings": LIMIT + 2}),
    "distilbert-base": Architecture("DistilBert"),
    "modernbert-base": Architecture("ModernBert"),
    "nomic-v1.5": Architecture("NomicBert"),
    "gte-base": Architecture("Gte", "cls"),
    "deberta-v3-base": Architecture(
        "DebertaV2",
        facts={
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "relative_attention": True, "position_buckets": 256,
            "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
        },
    ),
    "qwen3-0.6b": Architecture(
        "Qwen3", "lasttoken", "bfloat16",
        {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
         "num_key_value_heads": 8, "intermediate_size": 3072},
    ),
}  # fmt: skip


def write_model(folder: Path, name: str) -> None:
    """Write a model of this shape, with a vocabulary of 30,522."""
    import torch
    import transformers

    shape = ARCHITECTURES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(  # nosec B615
        model_folder(), model_max_length=LIMIT
    )
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"))
    ids |= {"pad_token_id": tokenizer.pad_token_id}
    if shape.kind == "ModernBert":
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    config = getattr(transformers, f"{shape.kind}Config")(
        vocab_size=len(tokenizer), **ids, **shape.facts
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{shape.kind}Model")(config)
    network.to(getattr(torch, shape.dtype))
    sentence(folder, network, tokenizer, shape.pooling, limit=LIMIT)


def measure(name: str, folder: Path, window: Window, corpus: Corpus) -> dict[str, Any]:
    """Write and load one model here; return rates, ratios and the least cosine to float32."""
    import torch
    from sentence_transformers import SentenceTransformer

    def library(**options: Any) -> Any:
        return SentenceTransformer(str(folder), device="cpu", model_kwargs=options)

    write_model(folder, name)
    first = corpus.docs[:TEXTS]
    true = library(dtype=torch.float32).encode(first, normalize_embeddings=True)
    engine = make_engine(model=str(folder), model_cache_dir=folder / "cache")
    got = np.asarray(engine.embed(EmbedRequest(first)).vectors, np.float32)
    got /= np.linalg.norm(got, axis=1, keepdims=True)
    facts = engine.registry.default.loaded.embedder.facts
    by_default = library()
    dtype = str(next(by_default.parameters()).dtype).removeprefix("torch.")

    def ours(texts: Sequence[str]) -> None:
        parts = [list(texts[at : at + TEXTS]) for at in range(0, len(texts), TEXTS)]
        list(pool.map(lambda part: engine.embed(EmbedRequest(part)), parts))

    ways: dict[str, Way] = {"ours": (CALLERS * TEXTS, ours), dtype: (TEXTS, by_default.encode)}
    if dtype != "bfloat16":
        ways["bfloat16"] = (TEXTS, library(dtype=torch.bfloat16).encode)
    with ThreadPoolExecutor(CALLERS) as pool:
        turns = by_turns(ways, corpus.docs, window)
    return {
        "architecture": name,
        "runs": f"{facts.backend} {facts.dtype}",
        "encode_dtype": dtype,
        "least_cosine": float((got * true).sum(axis=1).min()),
        "turns": len(turns),
        "texts_s": {way: statistics.median(turn[way] for turn in turns) for way in ways},
        "ratios": {
            way: statistics.median(turn["ours"] / turn[way] for turn in turns)
            for way in ways.keys() - {"ours"}
        },
    }


def by_turns(ways: dict[str, Way], docs: Sequence[str], window: Window) -> list[dict[str, float]]:
    """Return texts a second of each way, turn by turn, each time of other texts."""
    for _, work in ways.values():
        work(docs[:8])  # what is allocated or compiled at first does not count
    turns: list[dict[str, float]] = []
    place, began = 0, time.perf_counter()
    while not window.over(time.perf_counter() - began, [len(turns)]):
        names = [*ways][len(turns) % len(ways) :] + [*ways][: len(turns) % len(ways)]
        turn = {}
        for name in names:
            count, work = ways[name]
            texts = [docs[(place + i) % len(docs)] for i in range(count)]
            place += count
            started = time.perf_counter()
            work(texts)
            turn[name] = count / (time.perf_counter() - started)
        turns.append(turn)
    return turns


def apart(name: str, window: Window, limit_s: float) -> dict[str, Any]:
    """Measure in a process of its own; return `failed` with the reason if it does not get done."""
    call = [sys.executable, "-m", "bench.architectures", "--only", name, "--here"]
    try:
        done = subprocess.run(
            [*call, *window.options()],
            cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=limit_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"architecture": name, "failed": f"not done in {limit_s:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2][-300:]
        return {"architecture": name, "failed": said or f"it ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(found: dict[str, Any]) -> list[str]:
    """Return one architecture's cells."""
    if "failed" in found:
        return [found["architecture"], found["failed"], *[""] * (len(HEAD) - 2)]
    rates, ratios, default = found["texts_s"], found["ratios"], found["encode_dtype"]
    return [
        found["architecture"], found["runs"], f"{rates['ours']:.1f}",
        f"{rates[default]:.1f} ({default})", f"{rates['bfloat16']:.1f}",
        f"{ratios[default]:.2f}", f"{ratios['bfloat16']:.2f}",
        f"{found['least_cosine']:.6f}", str(found["turns"]),
    ]  # fmt: skip


def main() -> None:
    """Print a table, then one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    Window(20, least=4).add_options(parser)
    parser.add_argument("--only", nargs="*", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one architecture")
    parser.add_argument("--here", action="store_true", help="one, in this very process")
    given = parser.parse_args()
    window = Window.from_options(given)
    if given.here:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure(given.only[0], Path(scratch), window, load())))
        return
    load()  # written before a limit runs
    found = [apart(name, window, given.limit) for name in given.only]
    print(table(HEAD, [row(each) for each in found]), end="\n\n")
    print(json.dumps({"architectures": found}))


if __name__ == "__main__":
    main()
