#!/usr/bin/env bash
# Many texts through /v1/embeddings: ./tests/test_batch.sh [http://localhost:8001]
set -euo pipefail
url=${1:-http://localhost:${EMBEDDINGS_PORT:-8001}}
curl -sSf "$url/v1/embeddings" -H "Content-Type: application/json" -d '{
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "input": ["First text", "Second text", "Third text"]
  }' | python3 -c '
import json, sys
rows = json.load(sys.stdin)["data"]
assert [row["index"] for row in rows] == [0, 1, 2], rows
assert len({tuple(row["embedding"]) for row in rows}) == 3, "equal vectors for different texts"
print("ok: three vectors, in order")'
