"""Load of single texts and of batches, five to one; the same as k6_test.js.

`API_TOKEN=... locust -H http://localhost:8001`. Needs nothing of the service's own code.
"""

import os

from locust import HttpUser, between, task


class Client(HttpUser):
    """Embeds single texts and batches, and expects one vector for each."""

    wait_time = between(0.01, 0.1)

    def on_start(self) -> None:
        """Send the token with every request, if there is one, and ask for the first model."""
        if token := os.environ.get("API_TOKEN"):
            self.client.headers["Authorization"] = f"Bearer {token}"
        self.model = self.client.get("/v1/models", name="models").json()["data"][0]["id"]

    @task(5)
    def single(self) -> None:
        """Embed one text."""
        self._embed(["a sentence of one user"], "single")

    @task(1)
    def batch(self) -> None:
        """Embed 32 texts."""
        self._embed([f"sentence {i} of a batch" for i in range(32)], "batch")

    def _embed(self, texts: list[str], name: str) -> None:
        body = {"input": texts, "model": self.model}
        with self.client.post("/v1/embeddings", json=body, name=name, catch_response=True) as reply:
            if reply.status_code == 200 and len(reply.json()["data"]) != len(texts):
                reply.failure("another number of vectors than of texts")
