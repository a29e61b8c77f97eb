"""Use LlamaIndex with this service as its embedding model: `python examples/with_llamaindex.py`."""

import os

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding

embed_model = OpenAIEmbedding(
    model_name=os.environ.get("EMBEDDING_MODEL", "minilm"),
    api_base=os.environ.get("EMBEDDING_URL", "http://localhost:8001") + "/v1",
    api_key=os.environ.get("EMBEDDING_API_KEY", "unused"),
    embed_batch_size=256,  # texts a request; its default of 100 makes more of them
)
texts = [
    "The cat sits on the mat.",
    "Stocks fell sharply on Monday.",
    "Rain is expected tomorrow.",
]
index = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=embed_model)
for found in index.as_retriever(similarity_top_k=2).retrieve("Do I need an umbrella?"):
    print(f"{found.score:.2f}  {found.text}")
