"""The numbers stay right while workers die, are reloaded, and take each other's place."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import free_port, running, write_models
from tests.faults.conftest import Service, until
from tests.ops.test_metrics import value

EMBEDS = 'embedding_requests_total{method="POST",route="/embed",status="200"}'
KINDS = 6  # counter, histogram, and a gauge file for each way to add gauges up


@contextmanager
def serving(folder: Path, *flags: str, app: str = "app:app") -> Iterator[Service]:
    port = free_port()
    file = write_models(folder / "m.json", {"fake": {"type": "fake", "model_name": "tests/fake"}})
    env = {
        "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(file), "CACHE": "none",
        "SUPPORTED_MODELS_FILE": "/nonexistent", "METRICS_DIR": str(folder / "numbers"),
    }  # fmt: skip
    with running([sys.executable, "-m", "gunicorn", *flags, app], port, env) as process:
        yield Service(port, process)


def shown(service: Service, series: str) -> float:
    return value(service.ask("/metrics")[2].decode(), series)


def replaced(service: Service, old: set[int], count: int) -> bool:
    now = set(service.workers())
    return len(now) == count and not old & now


def embed(service: Service, times: int) -> None:
    for _ in range(times):
        until(lambda: service.embed("a") == 200)  # 503 while a new worker loads its model


@pytest.mark.parametrize("workers", [1, 4])
def test_a_killed_workers_counts_stay_and_its_gauges_go(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, "-w", str(workers)) as service:
        embed(service, 20)
        for _ in range(2):
            old = set(service.workers())
            for pid in old:
                os.kill(pid, signal.SIGKILL)
            # killed before they had all loaded, they come back more and more slowly
            until(lambda old=old: replaced(service, old, workers) and service.healthy(), 90)
        assert shown(service, EMBEDS) == 20
        embed(service, 5)
        assert shown(service, EMBEDS) == 25
        assert shown(service, "embedding_requests_in_flight") == 1  # this one
        counting = workers + (workers > 1)  # the model process of several
        assert len(list((tmp_path / "numbers").glob("*/*.db"))) <= counting * KINDS


@pytest.mark.fault("Process and machine")
def test_a_reload_under_load_never_takes_a_count_back(tmp_path: Path) -> None:
    """SIGHUP under load -> no metric counts backwards."""
    with serving(tmp_path, "-w", "4") as service:
        embed(service, 10)
        seen = [shown(service, EMBEDS)]
        for _ in range(2):
            old = set(service.workers())
            service.signal(signal.SIGHUP)
            until(lambda old=old: seen.append(shown(service, EMBEDS)) or replaced(service, old, 4))
        embed(service, 10)
        seen.append(shown(service, EMBEDS))
        assert seen == sorted(seen) and (seen[0], seen[-1]) == (10, 20)
        assert len(list((tmp_path / "numbers").glob("*/*.db"))) <= (2 * 4 + 1) * KINDS


def test_the_workers_that_are_added_later_are_counted_too(tmp_path: Path) -> None:
    with serving(tmp_path, "-w", "1") as service:
        for count in (2, 3):
            service.signal(signal.SIGTTIN)
            until(lambda count=count: len(service.workers()) == count)
        embed(service, 40)
        assert shown(service, EMBEDS) == 40


@pytest.mark.fault("Process and machine")
def test_what_a_dying_worker_counted_last_is_seen(tmp_path: Path) -> None:
    """A worker is killed -> its counts stay in the metrics."""
    with serving(tmp_path, app="tests.faults.hurting:app") as service:
        old = set(service.workers())
        assert service.embed("sticky") == 503
        until(lambda: replaced(service, old, 1) and service.healthy())
        assert shown(service, 'embedding_model_faults_total{fault="device_broken"}') == 1
