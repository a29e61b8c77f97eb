"""A static model beside the library's own `encode`, in one process: `python -m bench.static`.

A table of random rows, as wide as potion's; speed does not depend on the values. Each round takes
both in turn on the same texts, the order changing; a ratio is taken within a round.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.corpus import load, model_folder
from config import Config, ModelSpec
from embedders import build
from engine import EmbedRequest, Engine
from serving.registry import Registry

T = TypeVar("T")
WIDTH = 256


def write_model(folder: Path) -> None:
    """Write a table for the bundled model's tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = torch.randn(tokenizer.get_vocab_size(), WIDTH)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, table), Normalize()])
    model.save(str(folder), create_model_card=False)


def engine_of(folder: Path) -> Engine:
    """Load the model as the service does."""
    config = Config.model_validate({"device": "cpu", "model_cache_dir": folder / "cache"})
    spec = ModelSpec.model_validate({"id": "static", "model_name": str(folder)})
    registry = Registry([spec], "static", config, build)
    registry.load_now()
    return Engine(registry)


def paired(
    ours: Callable[[Sequence[T]], Any],
    theirs: Callable[[Sequence[T]], Any],
    batches: Sequence[Sequence[T]],
) -> dict[str, float]:
    """Return the median milliseconds of both and the median of the rounds' ratios."""  # fmt: skip
    took: list[tuple[float, float]] = []
    for turn, batch in enumerate(batches):
        each = {}
        for work in (ours, theirs) if turn % 2 else (theirs, ours):
            began = time.perf_counter()
            work(batch)
            each[work] = (time.perf_counter() - began) * 1000
        took.append((each[ours], each[theirs]))
    mine, other = (statistics.median(column) for column in zip(*took, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in took)
    return {"ours_ms": round(mine, 3), "library_ms": round(other, 3), "rate": round(ratio, 3)}


def main() -> None:
    """Print one JSON object: one query, 32 texts, and whether the token counts agree."""
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    corpus = load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_model(folder)
        engine, library = engine_of(folder), SentenceTransformer(str(folder), device="cpu")

        def ours(texts: Sequence[str]) -> Any:
            return engine.embed(EmbedRequest(list(texts)))

        def theirs(texts: Sequence[str]) -> Any:
            return library.encode(list(texts), show_progress_bar=False)

        docs = [corpus.docs[(32 * n) % 8000 :][:32] for n in range(rounds)]
        queries = [[corpus.queries[n % 8000]] for n in range(rounds)]
        result: dict[str, object] = {}
        for name, batches in (("one", queries), ("32", docs)):
            paired(ours, theirs, batches[:20])
            result[name] = paired(ours, theirs, batches)
        read = library[0].tokenizer.encode_batch(docs[0], add_special_tokens=False)
        result["tokens"] = ours(docs[0]).tokens == sum(len(each.ids) for each in read)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
