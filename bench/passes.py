"""Engines without HTTP, one caller: the p50 of one call, for several shapes.

`python -m bench.passes ours` (or another of `WAYS`) loads one engine and prints one JSON object, in
ms. Each way is measured in a process of its own: thread pools of two libraries take each other's
cores.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.corpus import Corpus, load, model_folder, of_length
from bench.servers import exported
from bench.window import Window

Encode = Callable[[list[str]], Any]
# Shapes of exactly so many tokens: how many texts a call has, and of how many tokens each.
EXACT = {"1 x 14": (1, 14), "16 x 64": (16, 64), "8 x 128": (8, 128)}
SHAPES = ("single", "batch32", *EXACT)


def _ours(dtype: str) -> Encode:
    from bench.engine import make_engine
    from engine import EmbedRequest

    engine = make_engine(dtype)
    return lambda texts: engine.embed(EmbedRequest(texts))


def _bare_session(dtype: str) -> Encode:
    os.environ["ONNX_MODEL"] = str(exported(dtype))
    from bench.rivals.bare_session import encode

    return encode


def _library(dtype: str) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, dtype)}
    model = SentenceTransformer(str(model_folder()), device="cpu", model_kwargs=options)
    return lambda texts: model.encode(texts, show_progress_bar=False)


WAYS: dict[str, tuple[Callable[[str], Encode], str]] = {
    "ours": (_ours, "auto"),
    "ours-float32": (_ours, "float32"),
    "ours-int8": (_ours, "int8"),
    "ort": (_bare_session, "float32"),
    "ort-int8": (_bare_session, "int8"),
    "encode": (_library, "float32"),
    "encode-bfloat16": (_library, "bfloat16"),
}


def batches(shape: str, corpus: Corpus) -> list[list[str]]:
    """Return the calls of a shape, no two with the same texts if the corpus has enough of them.

    Raises ValueError if it has fewer than one call takes.
    """
    if shape in EXACT:
        size, length = EXACT[shape]
        texts = of_length(corpus, length)
    else:
        size, texts = (1, corpus.queries) if shape == "single" else (32, corpus.docs)
    if len(texts) < size:
        raise ValueError(f"the corpus has {len(texts)} texts for {shape}")
    return [texts[at : at + size] for at in range(0, len(texts) - size + 1, size)]


def p50_ms(encode: Encode, calls: Sequence[list[str]], window: Window) -> float:
    """Return the median milliseconds of a call, the calls taken in turn."""
    for texts in calls[:2]:
        encode(texts)  # what is compiled or allocated for a shape at first
    took: list[float] = []
    began = time.perf_counter()
    while not window.over(time.perf_counter() - began, [len(took)]):
        started = time.perf_counter()
        encode(calls[len(took) % len(calls)])
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def main() -> None:
    """Print one JSON object: milliseconds by shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    Window(1.5, 20).add_options(parser)
    given = parser.parse_args()
    load_way, dtype = WAYS[given.way]
    corpus, encode = load(), load_way(dtype)
    window = Window.from_options(given)
    found = {shape: p50_ms(encode, batches(shape, corpus), window) for shape in SHAPES}
    print(json.dumps({shape: round(ms, 3) for shape, ms in found.items()}))


if __name__ == "__main__":
    main()
