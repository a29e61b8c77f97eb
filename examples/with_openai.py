"""Use OpenAI's own client, as one would with OpenAI: `python examples/with_openai.py`."""

import os

from openai import BadRequestError, OpenAI

client = OpenAI(
    base_url=os.environ.get("EMBEDDING_URL", "http://localhost:8001") + "/v1",
    api_key=os.environ.get("EMBEDDING_API_KEY", "unused"),
)
model = os.environ.get("EMBEDDING_MODEL", "minilm")

reply = client.embeddings.create(model=model, input=["Hello world", "Machine learning"])
print(f"{len(reply.data)} vectors of {len(reply.data[0].embedding)} numbers")
print(f"{reply.usage.total_tokens} tokens, as the model counts them")

# Shorter vectors: cut, and brought to length 1 again.
reply = client.embeddings.create(model=model, input="Hello world", dimensions=64)
print(f"or of {len(reply.data[0].embedding)} numbers")

# What OpenAI's API does not know goes into extra_body: here, refuse a text rather than cut it.
try:
    client.embeddings.create(model=model, input="word " * 9000, extra_body={"truncate": "error"})
except BadRequestError as refused:
    print("refused:", refused.code)
