"""Drop lines that say again what an earlier one said: `python examples/deduplicate.py < texts.txt`.

The lines that stay go to standard output, what was dropped and for which to standard error. The
argument is how alike two lines must be, as a cosine: by default 0.9, the same in other words.
"""

import os
import sys

import numpy as np
import requests

URL = os.environ.get("EMBEDDING_URL", "http://localhost:8001")
KEY = os.environ.get("EMBEDDING_API_KEY", "unused")
BATCH = 256  # texts a request

threshold = float(sys.argv[1]) if len(sys.argv) > 1 else 0.9
lines = [line.strip() for line in sys.stdin if line.strip()]
kept: list[str] = []
vectors = np.zeros((0, 0), np.float32)  # (lines, d) once d is known; as many rows used as kept

for start in range(0, len(lines), BATCH):
    body = {"texts": lines[start : start + BATCH]}
    headers = {"X-API-Key": KEY}  # requests replaces Authorization by what ~/.netrc has
    reply = requests.post(f"{URL}/embed", json=body, headers=headers, timeout=120)
    reply.raise_for_status()
    new = np.asarray(reply.json()["embeddings"], np.float32)
    if not vectors.size:
        vectors = np.zeros((len(lines), new.shape[1]), np.float32)
    for line, vector in zip(body["texts"], new, strict=True):
        scores = vectors[: len(kept)] @ vector
        if kept and scores.max() >= threshold:
            same = kept[int(scores.argmax())]
            print(f"{scores.max():.2f}  {line}  =  {same}", file=sys.stderr)
            continue
        vectors[len(kept)] = vector
        kept.append(line)
        print(line)
print(f"{len(kept)} of {len(lines)} lines stay", file=sys.stderr)
