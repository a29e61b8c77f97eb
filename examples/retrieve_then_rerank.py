"""Search, then rerank: `python examples/retrieve_then_rerank.py "Who may log in?" docs`.

A search by vectors is fast and rough. A reranker reads the question with each passage that was
found, and puts them in order. The service needs a model of each kind (docs/models.md).
"""

import os
import sys
from pathlib import Path
from typing import Any

import requests

URL = os.environ.get("EMBEDDING_URL", "http://localhost:8001")
KEY = os.environ.get("EMBEDDING_API_KEY", "unused")
question, folder = sys.argv[1], Path(sys.argv[2])


def ask(path: str, **body: Any) -> Any:
    """Send a request and return its JSON."""
    reply = requests.post(f"{URL}/{path}", json=body, headers={"X-API-Key": KEY}, timeout=120)
    reply.raise_for_status()
    return reply.json()


parts = [part for file in folder.glob("*.md") for part in file.read_text().split("\n\n")]
passages = [part for part in parts if part.strip()]
ids = [str(number) for number in range(len(passages))]
ask("embed-and-store", collection="passages", texts=passages, ids=ids)
found = ask("collections/passages/search", text=question, k=50)["results"]
texts = [record["text"] for record in found]
for best in ask("rerank", query=question, documents=texts, top_n=3)["results"]:
    print(f"{best['relevance_score']:.3f}  {texts[best['index']]!r}")
