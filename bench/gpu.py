"""Everything the GPU needs in one run under 8 minutes: `python -m bench.gpu`.

Random weights in real shapes, since no hub may be reachable: speed does not depend on their values.
For each shape and length: tokens a second of our embedder through its batcher and of `encode`, and
the share of the bfloat16 matrix rate measured in the same run.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

from bench.corpus import model_folder
from config import Config, ModelSpec
from embedders import build
from embedders.base import Item
from serving.batcher import Batcher
from serving.loader import BATCH_TOKENS

# layers, width, inner width, heads
SHAPES = {
    "minilm-l6": (6, 384, 1536, 12),
    "bge-base": (12, 768, 3072, 12),
    "bge-large": (24, 1024, 4096, 16),
    "bge-m3": (24, 1024, 4096, 16),
}
LENGTHS = (32, 128, 512)


def make(folder: Path, name: str) -> None:
    """Write a model of random weights with the bundled model's tokenizer."""
    layers, width, inner, heads = SHAPES[name]
    shutil.copytree(model_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    kinds: tuple[Any, Any] = (BertConfig, BertModel)
    if name == "bge-m3":
        kinds = (XLMRobertaConfig, XLMRobertaModel)
    config = kinds[0](
        vocab_size=30522, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=514 if name == "bge-m3" else 512,
    )  # fmt: skip
    kinds[1](config).save_pretrained(folder)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({**settings, "max_seq_length": 512})
    )
    pooling = folder / "1_Pooling" / "config.json"
    known = json.loads(pooling.read_text())
    pooling.write_text(json.dumps({**known, "word_embedding_dimension": width}))


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """Return FLOP/s of a large matrix product."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    _wait(device)
    began, rounds = time.perf_counter(), 30
    for _ in range(rounds):
        a @ a
    _wait(device)
    return 2 * size**3 * rounds / (time.perf_counter() - began)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def flops(name: str, length: int) -> float:
    """Return the operations of one token in an input of `length`."""
    layers, width, inner, _ = SHAPES[name]
    return float(layers * (2 * (4 * width * width + 2 * width * inner) + 4 * width * length))


def through_batcher(embedder: Any, length: int, seconds: float, clients: int, texts: int) -> float:
    """Return tokens a second with requests of `texts` inputs from `clients` threads."""
    device = embedder.facts.device.partition(":")[0]
    budget = embedder.pass_tokens or BATCH_TOKENS.get(device, 1024)
    batcher = Batcher(embedder, max_tokens=budget)
    random = np.random.default_rng(1)
    done = [0] * clients
    began = time.perf_counter()
    warm, end = began + seconds / 3, began + seconds

    def client(number: int) -> None:
        ids = [random.integers(1000, 30000, length).tolist() for _ in range(texts)]
        items = [Item(each, length) for each in ids]
        while time.perf_counter() < end:
            batcher.encode(items)
            if warm <= time.perf_counter() < end:
                done[number] += length * texts

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (end - warm)


def plain_encode(folder: Path, device: str, length: int, seconds: float) -> float:
    """Return tokens a second of sentence-transformers' `encode` on texts of about `length`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device)
    texts = [f"{n} " + "time " * (length - 4) for n in range(256)]
    model.encode(texts[:32], show_progress_bar=False)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        model.encode(texts, show_progress_bar=False)
        done += length * len(texts)
    return done / (time.perf_counter() - began)


def main() -> None:
    """Print a table and, last, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    peak = matrix_rate(torch.bfloat16, given.device)
    hardware = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{hardware}: {peak / 1e12:.2f} bfloat16 TFLOP/s\n")
    print("| shape | length | tokens/s | share of peak | encode tokens/s | ratio |")
    print("|---" * 6 + "|")
    rows = []
    for name in given.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            make(folder, name)
            spec = ModelSpec.model_validate({"id": name, "model_name": str(folder)})
            embedder = build(spec, Config(device=given.device))
            for length in LENGTHS:
                ours = through_batcher(embedder, length, given.seconds, clients=16, texts=32)
                theirs = plain_encode(folder, given.device, length, given.seconds)
                share = ours * flops(name, length) / peak
                rows.append((name, length, ours, share, theirs))
                ratio = f"{ours / theirs:.2f}"
                print(
                    f"| {name} | {length} | {ours:,.0f} | {share:.1%} | {theirs:,.0f} | {ratio} |"
                )
            embedder.close()
    print(json.dumps({"hardware": hardware, "bfloat16_flops": peak, "rows": rows}))


if __name__ == "__main__":
    main()
