"""From start to ready: the server beside importing its libraries and loading its weights.

python -m bench.start [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from bench.corpus import model_folder
from bench.servers import QUIET, ROOT, SERVERS, started

# What any script does that serves the same folder: import what the service imports of others, load.
BARE = """
import sys, alembic, argon2, cryptography, flask, flask_limiter, jwt, numpy, orjson
import prometheus_client, pydantic, redis, requests, sqlalchemy, tokenizers, torch
from sentence_transformers import SentenceTransformer
SentenceTransformer(sys.argv[1], device="cpu").eval()
"""


def bare_s() -> float:
    """Return the seconds of a fresh process that imports the libraries and loads the weights."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", BARE, str(model_folder())],
        cwd=ROOT, env={**os.environ, **QUIET}, check=True, capture_output=True,
    )  # fmt: skip
    return time.monotonic() - began


def main() -> None:
    """Take both in turn; print one JSON object with the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    pairs = []
    for _ in range(parser.parse_args().rounds):
        bare = bare_s()
        with started(SERVERS["ours"]) as running:
            pairs.append((running.start_s, bare))
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    print(json.dumps({"ready_s": round(ours, 2), "bare_s": round(bare, 2), "ratio": ratio}))


if __name__ == "__main__":
    main()
