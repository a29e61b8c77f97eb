#!/usr/bin/env bash
# One text through /v1/embeddings: ./tests/test_simple.sh [http://localhost:8001]
set -euo pipefail
url=${1:-http://localhost:${EMBEDDINGS_PORT:-8001}}
curl -sSf "$url/v1/embeddings" -H "Content-Type: application/json" -d '{
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "input": "The quick brown fox jumps over the lazy dog"
  }' | python3 -c '
import json, sys
reply = json.load(sys.stdin)
vector = reply["data"][0]["embedding"]
assert reply["object"] == "list" and len(vector) == 384, reply.keys()
assert abs(sum(x * x for x in vector) - 1) < 1e-3, "not of length 1"
assert reply["usage"]["total_tokens"] == 11, reply["usage"]
print("ok: 384 numbers of length 1, 11 tokens")'
