"""Use Cohere's own client, here for small vectors: `python examples/with_cohere.py`."""

import os

import cohere
import numpy as np

client = cohere.ClientV2(
    base_url=os.environ.get("EMBEDDING_URL", "http://localhost:8001"),
    api_key=os.environ.get("EMBEDDING_API_KEY", "unused"),
)
model = os.environ.get("EMBEDDING_MODEL", "minilm")


def bits(texts: list[str], input_type: str) -> np.ndarray:
    """Return (n, width) bits of the texts' vectors: a 32nd of the size of floats."""
    reply = client.embed(
        model=model, texts=texts, input_type=input_type, embedding_types=["ubinary"]
    )
    return np.unpackbits(np.array(reply.embeddings.ubinary, np.uint8), axis=1)


texts = ["Rain is expected tomorrow.", "Stocks fell sharply on Monday.", "The cat sits on the mat."]
stored = bits(texts, "search_document")
asked = bits(["Do I need an umbrella?"], "search_query")

# The fewer bits differ, the more alike two texts are.
different = (stored != asked).sum(axis=1)
for place in different.argsort():
    print(f"{different[place]} of {stored.shape[1]} bits differ: {texts[place]}")
