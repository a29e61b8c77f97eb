"""What one writes in place of a service: a bare ONNX Runtime session behind Flask.

`ONNX_MODEL` is a folder that `bench/rivals/export_onnx.py` has written. `bench.passes` calls its
`encode` without HTTP.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, Response, jsonify, request
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

app = Flask(__name__)
folder = Path(os.environ["ONNX_MODEL"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
session = InferenceSession(folder / "onnx" / "model.onnx")


def encode(texts: list[str]) -> np.ndarray[Any, Any]:
    """Return unit vectors, (n, d) float32."""
    read = tokenizer.encode_batch(texts)
    ids = np.array([text.ids for text in read])
    mask = np.array([text.attention_mask for text in read])
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (states,) = session.run(None, given)
    sums = (states * mask[:, :, None].astype(np.float32)).sum(axis=1)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


@app.get("/health")
def health() -> Response:
    """Say that it runs."""
    return jsonify(status="ok")


@app.post("/v1/embeddings")
def embeddings() -> Response:
    """Encode the request's texts."""
    given = request.get_json()["input"]
    vectors = encode([given] if isinstance(given, str) else given).tolist()
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return jsonify(object="list", data=data, model="minilm")
