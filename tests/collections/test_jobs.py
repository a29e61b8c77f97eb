"""Re-embedding under a real gunicorn: killed at once, it goes on; every worker knows of it."""

import http.client
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from embedders.fake import FakeEmbedder
from store.file import FileStore
from tests.conftest import free_port, running, write_models
from tests.faults.conftest import Service, until
from tests.ops.test_metrics import value

TEXTS = 4000
MODELS = {
    name: {"type": "fake", "model_name": f"tests/{name}", "normalize": False}
    for name in ("quick", "slow")
}


@contextmanager
def serving(folder: Path, port: int, workers: int) -> Iterator[Service]:
    """A service on the store in `folder`."""
    file = write_models(folder / "m.json", MODELS)
    env = {
        "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(file), "CACHE": "none",
        "SUPPORTED_MODELS_FILE": "/nonexistent", "STORE_DIR": str(folder / "store"),
        "TEXTS_ALLOWED": str(folder / "allowed"),
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "-w", str(workers), "tests.collections.slow:app"]
    with running(command, port, env) as process:
        yield Service(port, process)


def filled(service: Service) -> None:
    """Store texts with the quick model, under a name and an alias."""
    for start in range(0, TEXTS, 1000):
        numbers = range(start, start + 1000)
        body = {"collection": "notes", "model": "quick", "texts": [f"text {i}" for i in numbers],
                "ids": [f"{i:04}" for i in numbers]}  # fmt: skip
        status, _, answer = service.ask("/embed-and-store", body)
        assert status == 201, answer
    assert service.ask("/collections/notes/aliases", {"alias": "now"})[0] == 201


def job_of(service: Service, id_: str) -> dict:
    return json_of(service, f"/jobs/{id_}")


def json_of(service: Service, path: str, body: object = None) -> dict:
    status, _, answer = service.ask(path, body)
    assert status in (200, 202), answer
    return json.loads(answer)


class Searching:
    """Threads that search all the time; what was answered wrongly is kept.

    An answer that does not come at all is none: the service may be dead.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._stop = service, threading.Event()
        self.wrong: list[bytes] = []
        self.right = 0
        self._threads = [threading.Thread(target=self._search) for _ in range(2)]

    def __enter__(self) -> "Searching":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _search(self) -> None:
        body = {"text": "text 77", "prompt": "", "k": 1}
        while not self._stop.wait(0.02):
            try:
                status, _, answer = self._service.ask("/collections/now/search", body)
            except (OSError, http.client.HTTPException):
                continue
            if status == 200 and b'"id":"0077"' in answer:
                self.right += 1
            elif not (status == 503 and b"model" in answer):  # loads again after a restart
                self.wrong.append(answer)


def check_switched(service: Service, folder: Path) -> None:
    """All texts are there with the slow model's vectors, under both names, and nothing else is."""
    described = json_of(service, "/collections/now")
    assert (described["name"], described["dimension"], described["count"]) == ("notes", 12, TEXTS)
    assert [c["name"] for c in json_of(service, "/collections")["collections"]] == ["notes"]
    model = FakeEmbedder("slow", 12)
    with FileStore(folder / "store") as store:
        assert store.names() == ["notes"] and store.verify("notes").ok
        for record in store.get("notes", ["0000", "2222", "3999"]):
            np.testing.assert_allclose(record.vector, model.vector(record.text or ""), rtol=1e-6)


def kill_all(service: Service) -> None:
    """Kill master and workers at once."""
    pids = [service.process.pid, *service.workers()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    service.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and
                          Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids))  # fmt: skip


def test_a_job_whose_service_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    port, allowed = free_port(), tmp_path / "allowed"
    allowed.write_text("1500")
    with ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, port, 1))
        filled(first)
        searching = stack.enter_context(Searching(first))
        job = json_of(first, "/collections/notes/reembed", {"model": "slow"})["id"]
        until(lambda: job_of(first, job)["done"] > TEXTS / 4 and searching.right)
        before = job_of(first, job)
        assert first.ask("/embed-and-store", {"collection": "notes", "text": "late"})[0] == 409
        kill_all(first)
        seen = searching.right
        allowed.write_text("100")
        second = stack.enter_context(serving(tmp_path, port, 1))
        after = job_of(second, job)
        assert after["done"] >= before["done"] and after["state"] == "running"
        allowed.unlink()
        until(lambda: job_of(second, job)["state"] != "running")
        assert job_of(second, job)["state"] == "done", job_of(second, job)
        until(lambda: searching.right > seen + 5)
        series = 'embedding_texts_total{model="slow"}'
        made = value(second.ask("/metrics")[2].decode(), series)
        assert made <= TEXTS - before["done"] + 300  # searches by text are few by then
        check_switched(second, tmp_path)
        assert second.ask("/embed-and-store", {"collection": "notes", "text": "late"})[0] == 201
    assert searching.wrong == [] and seen > 0


def runner_of(folder: Path, job: str) -> int:
    """Return the process that holds a job's lock; 0 if none does."""
    inode = (folder / "store" / "claims" / f"{job}.lock").stat().st_ino
    held = re.findall(r"FLOCK\s+\S+\s+WRITE (\d+) \S+:(\d+) ", Path("/proc/locks").read_text())
    return next((int(pid) for pid, number in held if int(number) == inode), 0)


def test_every_worker_knows_of_a_job_and_takes_it_over_from_a_dead_one(tmp_path: Path) -> None:
    port, allowed = free_port(), tmp_path / "allowed"
    allowed.write_text("1000")
    with serving(tmp_path, port, 2) as service, ExitStack() as stack:
        filled(service)
        searching = stack.enter_context(Searching(service))
        job = json_of(service, "/collections/notes/reembed", {"model": "slow"})["id"]
        until(lambda: job_of(service, job)["done"] > TEXTS / 8 and searching.right)
        runner = runner_of(tmp_path, job)
        assert runner in service.workers()
        os.kill(runner, signal.SIGKILL)
        other = eventually(lambda: patiently(service, job) and another(tmp_path, job, runner))
        assert Path(f"/proc/{other}").exists()
        seen = [patiently(service, job)["done"]]
        allowed.unlink()
        while (state := patiently(service, job))["state"] == "running":
            seen.append(state["done"])
            time.sleep(0.02)
        assert state["state"] == "done", state
        assert seen == sorted(seen) and seen[0] >= TEXTS / 8
        check_switched(service, tmp_path)
    assert searching.wrong == [] and searching.right > 0


def another(folder: Path, job: str, dead: int) -> int:
    """Return who runs a job, if that is not the dead one; the kernel takes a moment."""
    runner = runner_of(folder, job)
    return runner if runner != dead else 0


def patiently(service: Service, job: str) -> dict:
    """Ask for a job until a worker answers: a request may go to the one that is killed."""
    return eventually(lambda: _tried(lambda: job_of(service, job)))


def _tried(call: Callable[[], dict]) -> dict | None:
    try:
        return call()
    except (OSError, http.client.HTTPException):
        return None


def eventually(call):
    """Return the first answer that is one."""
    end = time.monotonic() + 90
    while not (found := call()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
    return found


def test_a_job_that_is_not_there_is_404(fake_client) -> None:
    reply = fake_client.get(f"/jobs/{'0' * 32}")
    assert reply.status_code == 404 and "no job" in reply.json["error"]
