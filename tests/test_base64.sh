#!/usr/bin/env bash
# Base64 vectors from /v1/embeddings: ./tests/test_base64.sh [http://localhost:8001]
set -euo pipefail
url=${1:-http://localhost:${EMBEDDINGS_PORT:-8001}}
curl -sSf "$url/v1/embeddings" -H "Content-Type: application/json" -d '{
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "encoding_format": "base64",
    "input": ["First text", "Second text"]
  }' | python3 -c '
import base64, json, struct, sys
for row in json.load(sys.stdin)["data"]:
    vector = struct.unpack("<384f", base64.b64decode(row["embedding"]))
    assert abs(sum(x * x for x in vector) - 1) < 1e-3, "not of length 1"
print("ok: two vectors as base64 of little-endian float32")'
