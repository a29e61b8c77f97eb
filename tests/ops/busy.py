"""Two services that do all that metrics can show: one that is well, one on a hurting model."""

import itertools
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.conftest import free_port, running, write_models
from tests.faults.conftest import Service
from tests.providers.server import KEY, FakeProvider

LIMIT = 30  # requests a minute of one address
FAKE = {"type": "fake", "model_name": "tests/fake"}


class Busy:
    """Services under load; `ports` are their metrics'."""

    def __init__(self) -> None:
        self._stack, self._stop = ExitStack(), threading.Event()
        self._numbers = itertools.count()
        self.ports: list[int] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            provider = FakeProvider()
            stack.callback(provider.server_close)
            stack.callback(provider.shutdown)
            remote = {"type": "openai", "model_name": "m", "base_url": f"{provider.url}/v1"}
            models = {"fake": FAKE, "remote": {**remote, "provider": "openai"}}
            file = write_models(folder / "m.json", models)
            env = {
                "MODEL_CONFIG": str(file), "OPENAI_API_KEY": KEY, "MAX_WORKERS": "2",
                "PROVIDER_NETWORKS": "127.0.0.0/8", "PROVIDER_HTTP_HOSTS": "127.0.0.1",
                "TRUSTED_PROXY_HOPS": "1", "REQUESTS_PER_MINUTE_ANONYMOUS": str(LIMIT),
            }  # fmt: skip
            well = self._serve(stack, "app:app", env)
            file = write_models(folder / "h.json", {"hurting": FAKE})
            env = {"MODEL_CONFIG": str(file), "REQUEST_DEADLINE": "0.5", "CACHE": "none"}
            hurting = self._serve(stack, "tests.faults.hurting:app", env)
            for do, service in ((self._work, well), (self._hurt, hurting), (self._wait, hurting)):
                thread = threading.Thread(target=self._repeat, args=(do, service))
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._stop.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, stack: ExitStack, app: str, env: dict[str, str]) -> Service:
        port, metrics_port = free_port(), free_port()
        env = {
            "HOST": "127.0.0.1", "PORT": str(port), "ENABLE_METRICS": "true", **env,
            "METRICS_PORT": str(metrics_port), "SUPPORTED_MODELS_FILE": "/nonexistent",
        }  # fmt: skip
        self.ports.append(metrics_port)
        command = [sys.executable, "-m", "gunicorn", app]
        return Service(port, stack.enter_context(running(command, port, env)))

    def _repeat(self, do, service: Service) -> None:
        while not self._stop.wait(0.1):
            do(service)

    def _work(self, service: Service) -> None:
        """Embed, find in the cache, cut, ask a provider, store, search, and ask too often."""
        n = next(self._numbers)
        address = {"X-Forwarded-For": f"10.0.{n // 250 % 250}.{n % 250}"}  # each with its own limit
        for texts in (["always the same", f"number {n}"], [f"{n} " * 40]):
            service.ask("/embed", {"texts": texts, "model": "fake"}, **address)
        service.ask("/embed", {"texts": [f"number {n}"], "model": "remote"}, **address)
        service.ask(
            "/embed-and-store",
            {"collection": "busy", "texts": ["a"], "ids": ["a"], "model": "fake"}, **address,
        )  # fmt: skip
        service.ask("/collections/busy/search", {"text": "a"}, **address)
        service.ask("/health/live", **{"X-Forwarded-For": "10.9.9.9"})
        for _ in range(LIMIT // 10):
            service.ask("/embed", {"texts": ["a"]}, **{"X-Forwarded-For": "10.9.9.9"})

    def _hurt(self, service: Service) -> None:
        """Ask for what the model cannot encode, has no memory for, and takes a second over."""
        service.embed("bad")
        service.embed(*["big"] * 5)
        service.embed("slow")

    def _wait(self, service: Service) -> None:
        """Wait behind it until the deadline has passed."""
        service.embed("slow too")
