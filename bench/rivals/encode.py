"""sentence-transformers' own `encode` with its default settings: no server, 32 texts a call.

Its float32 vectors of the first docs are left in `bench/out/`: what a server says is held to them.
"""

import json
import sys
import time

import numpy as np
from sentence_transformers import SentenceTransformer

from bench.corpus import REFERENCE, load, model_folder


def main(seconds: float) -> dict[str, float]:
    """Encode fresh texts for `seconds`."""
    docs = load().docs
    model = SentenceTransformer(str(model_folder()), device="cpu")
    np.save(REFERENCE, model.encode(docs[:32], normalize_embeddings=True))
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        at = done % (len(docs) - 32)
        model.encode(docs[at : at + 32], show_progress_bar=False)
        done += 32
    return {"texts_s": done / (time.perf_counter() - started)}


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]) if len(sys.argv) > 1 else 5)))
