"""Ask a folder of texts: `python examples/rag.py "How are passwords kept?" docs`.

The answer is the sentence that fits best. With LLM_URL (any OpenAI-compatible server) and LLM_MODEL
a language model writes one from the same passages. Run again, it replaces what it stored before.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

import requests
from openai import OpenAI

URL = os.environ.get("EMBEDDING_URL", "http://localhost:8001")
KEY = os.environ.get("EMBEDDING_API_KEY", "unused")
question, folder = sys.argv[1], Path(sys.argv[2])


def ask(path: str, **body: Any) -> Any:
    """Send a request and return its JSON."""
    headers = {"X-API-Key": KEY}  # requests replaces Authorization by what ~/.netrc has
    reply = requests.post(f"{URL}/{path}", json=body, headers=headers, timeout=120)
    reply.raise_for_status()
    return reply.json()


for file in [*folder.glob("*.md"), *folder.glob("*.txt")]:  # 1. Store every paragraph.
    parts = [p for p in re.split(r"\n\s*\n", file.read_text()) if p.strip() and p[0] != "#"]
    ids = [f"{file.name}, paragraph {n}" for n in range(1, len(parts) + 1)]
    if parts:  # a file may hold headings only
        ask("embed-and-store", collection="rag", texts=parts, ids=ids)

found = ask("collections/rag/search", text=question, k=4)["results"]  # 2. Find what fits.
prompt = (
    f"Answer from these passages only:\n\n{chr(10).join(p['text'] for p in found)}\n\n{question}"
)

if os.environ.get("LLM_URL"):  # 3. Answer.
    client = OpenAI(base_url=os.environ["LLM_URL"], api_key=os.environ.get("LLM_API_KEY", "unused"))
    messages: Any = [{"role": "user", "content": prompt}]
    reply = client.chat.completions.create(model=os.environ["LLM_MODEL"], messages=messages)
    print(reply.choices[0].message.content)
else:
    sentences = [s for p in found for s in re.split(r"(?<=[.!?])\s+", p["text"])]
    asked, *vectors = ask("embed", texts=[question, *sentences])["embeddings"]
    scores = [sum(a * b for a, b in zip(asked, v, strict=True)) for v in vectors]
    print(sentences[scores.index(max(scores))])
print("from:", "; ".join(p["id"] for p in found))
