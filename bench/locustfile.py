"""Ramped load of single texts and of batches, five to one; the same as k6_test.js.

`API_TOKEN=... locust --headless -H http://localhost:8001` takes two minutes and ends with 1 if more
than one request in a hundred failed or a 95th percentile is too high. `DURATION_S`, `PEAK_USERS`,
`P95_SINGLE_MS` and `P95_BATCH_MS` change what is asked. Needs nothing of the service's own code.
"""

import itertools
import os
import uuid

from locust import HttpUser, LoadTestShape, between, events, task
from locust.env import Environment

DURATION_S = float(os.environ.get("DURATION_S", "120"))
PEAK_USERS = int(os.environ.get("PEAK_USERS", "60"))
P95_MS = {
    "single": float(os.environ.get("P95_SINGLE_MS", "500")),
    "batch": float(os.environ.get("P95_BATCH_MS", "2000")),
}
FAILED = 0.01  # the share of requests that may fail


class Ramp(LoadTestShape):
    """A fifth of the users after a quarter of the time, all after three quarters, then none."""

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be now, and how many may start in a second."""
        passed = self.get_run_time() / DURATION_S  # type: ignore[no-untyped-call]
        if passed >= 1:
            return None
        rising = max(passed * 0.8, 0.2 + (passed - 0.25) * 1.6)
        share = min(rising, (1 - passed) * 4)
        return max(1, round(PEAK_USERS * share)), PEAK_USERS


class Client(HttpUser):
    """Embeds single texts and batches that no cache knows, and expects one vector for each."""

    wait_time = between(0.01, 0.1)

    def on_start(self) -> None:
        """Send the token with every request, if there is one, and ask for the first model."""
        if token := os.environ.get("API_TOKEN"):
            self.client.headers["Authorization"] = f"Bearer {token}"
        self.mark, self.numbers = uuid.uuid4().hex[:8], itertools.count()
        self.model = self.client.get("/v1/models", name="models").json()["data"][0]["id"]

    @task(5)
    def single(self) -> None:
        """Embed one text."""
        self._embed([f"a sentence of user {self.mark}, its number {next(self.numbers)}"], "single")

    @task(1)
    def batch(self) -> None:
        """Embed 32 texts."""
        which = f"batch {next(self.numbers)} of user {self.mark}"
        self._embed([f"sentence {i} of {which}" for i in range(32)], "batch")

    def _embed(self, texts: list[str], name: str) -> None:
        body = {"input": texts, "model": self.model}
        with self.client.post("/v1/embeddings", json=body, name=name, catch_response=True) as reply:
            if reply.status_code == 200 and len(reply.json()["data"]) != len(texts):
                reply.failure("another number of vectors than of texts")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: object) -> None:
    """Set the exit code by what failed and how long requests took."""
    faults = []
    if environment.runner and environment.runner.exceptions:
        faults.append("the load test itself met errors: see above")
    if environment.stats.total.fail_ratio > FAILED:
        faults.append(f"{environment.stats.total.fail_ratio:.1%} of the requests failed")
    for name, most in P95_MS.items():
        took = environment.stats.get(name, "POST").get_response_time_percentile(0.95)
        if took and took > most:
            faults.append(f"95 % of {name} took up to {took:.0f} ms, more than {most:.0f} ms")
    for fault in faults:
        print(f"FAILED: {fault}")
    environment.process_exit_code = 1 if faults else 0  # locust's own is 1 for a single failure
