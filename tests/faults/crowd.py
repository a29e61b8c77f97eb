"""Many clients at once, while the service is stopped, reloaded or hurt."""

import threading
from http.client import HTTPException

from tests.faults.conftest import Service, until


class Crowd:
    """Clients that embed one after the other until told to stop."""

    def __init__(self, service: Service, clients: int = 4) -> None:
        self.service, self.stopped = service, threading.Event()
        self.statuses: list[int] = []
        self.lost: list[Exception] = []
        self.threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self.stopped.is_set():
            try:
                self.statuses.append(self.service.embed("a b c"))
            except (OSError, HTTPException) as exc:
                self.lost.append(exc)
                self.stopped.wait(0.02)

    def __enter__(self) -> "Crowd":
        for thread in self.threads:
            thread.start()
        until(lambda: len(self.statuses) > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join()
