"""The plain way: a Flask app that calls `model.encode` for each request."""

from flask import Flask, Response, jsonify, request
from sentence_transformers import SentenceTransformer

from bench.corpus import model_folder

app = Flask(__name__)
model = SentenceTransformer(str(model_folder()), device="cpu")


@app.get("/health")
def health() -> Response:
    """Say that it runs."""
    return jsonify(status="ok")


@app.post("/v1/embeddings")
def embeddings() -> Response:
    """Encode the request's texts."""
    given = request.get_json()["input"]
    texts = [given] if isinstance(given, str) else given
    vectors = model.encode(texts, show_progress_bar=False).tolist()
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return jsonify(object="list", data=data, model="minilm")
