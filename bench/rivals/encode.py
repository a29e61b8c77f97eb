"""sentence-transformers' own `encode` with its default settings: no server, 32 texts a call.

Its float32 vectors of the first docs are left in `bench/out/`: what a server says is held to them.
"""

import argparse
import json
import time

import numpy as np
from sentence_transformers import SentenceTransformer

from bench.corpus import REFERENCE, load, model_folder
from bench.window import Window


def main(window: Window) -> dict[str, float]:
    """Encode fresh texts for as long as the window says."""
    docs = load().docs
    model = SentenceTransformer(str(model_folder()), device="cpu")
    np.save(REFERENCE, model.encode(docs[:32], normalize_embeddings=True))
    started, calls, elapsed = time.perf_counter(), 0, 0.0
    while not window.over(elapsed, [calls]):
        at = 32 * calls % (len(docs) - 32)
        model.encode(docs[at : at + 32], show_progress_bar=False)
        calls, elapsed = calls + 1, time.perf_counter() - started
    return {"texts_s": 32 * calls / elapsed, "calls": calls}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    Window(5).add_options(parser)
    print(json.dumps(main(Window.from_options(parser.parse_args()))))
