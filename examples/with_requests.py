"""Embed texts and search among them with plain `requests`: `python examples/with_requests.py`."""

import os

import requests

URL = os.environ.get("EMBEDDING_URL", "http://localhost:8001")
KEY = os.environ.get("EMBEDDING_API_KEY", "unused")  # any word will do while nobody must sign in

session = requests.Session()  # one connection for all that follows
session.headers["X-API-Key"] = KEY  # requests replaces Authorization by what ~/.netrc has

texts = [
    "How do I get my money back?",
    "Our offices are closed on public holidays.",
    "Refunds are paid within five working days.",
]
reply = session.post(f"{URL}/embed", json={"texts": texts}, timeout=60)
reply.raise_for_status()
question, *answers = reply.json()["embeddings"]

# The vectors have length 1, so the sum of products is the cosine.
for text, vector in zip(texts[1:], answers, strict=True):
    print(f"{sum(a * b for a, b in zip(question, vector, strict=True)):.2f}  {text}")
print(reply.headers["X-Truncated-Inputs"], "texts were too long for the model and were cut")
