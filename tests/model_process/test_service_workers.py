"""Several workers, one model process: one model in memory, full batches, one cache, true sums."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests

from server.master import RUN_DIR
from tests.conftest import free_port, running
from tests.faults.conftest import until
from tests.model_process.conftest import Box, Callers, right, starting

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HEAVY = ("libtorch", "transformers", "sentence_transformers", "onnxruntime")
TEXTS = [
    "Hello, world!",
    "向量 вектор مُتَّجِه",
    "a",
    "word " * 200,
    *(f"number {i}" for i in range(28)),
]


@pytest.fixture(scope="module")
def seed() -> Iterator[Box]:
    """The command line of the seed, on the bundled model."""
    port = free_port()
    flags = ["-w", "4", "-b", f"127.0.0.1:{port}", "--timeout", "120", "app:app"]
    env = {"EMBEDDING_MODEL": MODEL, "SUPPORTED_MODELS": MODEL, "DEVICE": "cpu", "PORT": str(port),
           "EMBEDDING_DTYPE": "float32"}  # fmt: skip
    with running([sys.executable, "-m", "gunicorn", *flags], port, env, cold=True) as process:
        box = Box(port, process)
        until(lambda: box.all_ready(4))
        yield box


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Four workers on a model that waits when told to; its log says who answered."""
    flags = ("-w", "4", "--access-logfile", "-", "--access-logformat", "by %(p)s")
    with starting(tmp_path_factory.mktemp("four")) as begin:
        yield begin(*flags, EMBEDDING_USE_DB_SETTINGS="true")


def vectors(box: Box, texts: list[str]) -> np.ndarray:
    status, _, body = box.ask("/embed", {"texts": texts, "normalize": True})
    assert status == 200
    return np.array(json.loads(body)["embeddings"])


def megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def test_four_workers_hold_no_model_and_none_of_its_libraries(seed: Box) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: vectors(seed, [f"{i} {text}" for text in TEXTS]), range(32)))
    assert len(seed.workers()) == 4 and seed.loads() == 1
    for pid in seed.workers():
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert not [name for name in HEAVY if name in mapped]
        assert megabytes(pid) <= 250
    assert "libtorch" in Path(f"/proc/{seed.model_process()}/maps").read_text()


def test_four_workers_reply_as_one_does(seed: Box, real_client) -> None:
    alone = real_client.post("/embed", json={"texts": TEXTS, "normalize": True}).json["embeddings"]
    for _ in range(8):  # whichever worker answers
        np.testing.assert_allclose(vectors(seed, TEXTS), alone, atol=2e-6)
    body = {"input": TEXTS[:3], "model": MODEL, "encoding_format": "base64"}
    both = [requests.post(f"{seed.url}/v1/embeddings", json=body, timeout=60).json(),
            real_client.post("/v1/embeddings", json=body).json]  # fmt: skip
    assert both[0]["usage"] == both[1]["usage"]
    said = requests.get(f"{seed.url}/model/info", timeout=60).json()
    known = real_client.get("/model/info").json
    same = ("fingerprint", "embedding_dimension", "device", "dtype", "pooling", "max_seq_length")
    assert {k: said.get(k) for k in same} == {k: known.get(k) for k in same}


def test_a_text_that_one_worker_embedded_is_found_by_all(seed: Box) -> None:
    text = "embedded once for all workers"
    hits = [
        seed.ask("/embed", {"texts": [text]})[1]["X-Cache"].startswith("hits=1") for _ in range(24)
    ]
    assert hits == [False] + [True] * 23


def test_health_and_metrics_are_those_of_all_workers(seed: Box) -> None:
    texts = 'embedding_texts_total{model="minilm"}'
    before = seed.metric(texts)
    for i in range(12):
        vectors(seed, [f"counted {i} {j}" for j in range(3)])
    assert seed.metric(texts) - before == 36
    for _ in range(8):
        health = json.loads(seed.ask("/health")[2])
        assert (health["status"], health["device"], health["degraded"]) == ("healthy", "cpu", None)
        (row,) = json.loads(seed.ask("/models")[2])["data"]
        assert row["backend"] and row["dtype"] == "float32"


def test_requests_of_all_workers_share_a_pass(four: Box) -> None:
    four.held.touch()
    first = threading.Thread(target=four.embed, args=("held",))
    first.start()
    until(lambda: four.metric("embedding_requests_in_flight") >= 2)
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(four.ask, "/embed", {"texts": [f"text {i}"]}) for i in range(12)]
        until(lambda: four.queued() == 12)
        passes = four.metric('embedding_pass_seconds_count{model="fake"}')
        four.held.unlink()
        for i, reply in enumerate(asked):
            given = json.loads(reply.result()[2])["embeddings"][0]
            np.testing.assert_allclose(given, right(f"text {i}"), atol=1e-6)
    first.join()
    assert four.metric('embedding_pass_seconds_count{model="fake"}') - passes == 2
    until(lambda: len({line for line in four.lines if line.startswith("by ")}) > 1)


@pytest.mark.parametrize(("wanted", "workers", "processes"), [("off", 2, 0), ("on", 1, 1)])
def test_the_model_process_can_be_asked_for_and_done_without(
    boxes: Callable[..., Box], wanted: str, workers: int, processes: int
) -> None:
    box = boxes("-w", str(workers), MODEL_PROCESS=wanted)
    assert len(box.model_processes()) == processes and len(box.workers()) == workers
    for i in range(4):
        status, _, body = box.ask("/embed", {"texts": [f"text {i}"]})
        given = json.loads(body)["embeddings"][0]
        assert status == 200 and np.allclose(given, right(f"text {i}"), atol=1e-6)


@pytest.mark.fault("Model process")
def test_a_reload_under_load_loses_no_request_and_loads_nothing(four: Box) -> None:
    """SIGHUP under load -> no request is lost, and the model process keeps its model: nothing is
    loaded twice.
    """
    pid, loads = four.model_process(), four.loads()
    with Callers(four) as callers:
        for _ in range(2):
            old = set(four.workers())
            four.signal(signal.SIGHUP)
            until(lambda old=old: len(now := set(four.workers())) == 4 and not now & old)
            callers.served()
    assert set(callers.statuses) == {200} and not callers.lost and not callers.wrong
    assert four.model_process() == pid and four.loads() == loads


@pytest.mark.fault("Model process")
def test_workers_of_another_version_use_a_model_process_of_their_own(
    boxes: Callable[..., Box], tmp_path: Path
) -> None:
    """New code is put in place and SIGHUP sent -> the new workers have a model process of their own
    version; the old one ends with the old workers; no request is lost.
    """
    version = tmp_path / "version"
    version.write_text("old")
    app = "tests.model_process.upgraded:app"
    box = boxes("-w", "2", app=app, VERSION_FILE=str(version))
    old, workers = box.model_process(), set(box.workers())
    with Callers(box) as callers:
        version.write_text("new")
        box.signal(signal.SIGHUP)
        until(lambda: len(now := set(box.workers())) == 2 and not now & workers)
        until(lambda: old not in box.model_processes())
        callers.served()
    assert set(callers.statuses) == {200} and not callers.lost and not callers.wrong
    assert box.loads() == 2 and len(box.model_processes()) == 1


@pytest.mark.fault("Model process")
def test_two_services_that_were_given_one_folder_do_not_meet(
    boxes: Callable[..., Box], tmp_path: Path
) -> None:
    """Two services are started with the same folders -> each has its own model process; the end of
    one, or of its model process, does not touch the other.
    """
    shared = {RUN_DIR: str(tmp_path), "METRICS_DIR": str(tmp_path / "metrics")}
    one, other = (boxes("-w", "1", MODEL_PROCESS="on", **shared) for _ in range(2))
    kept = other.model_process()
    assert one.model_process() != kept
    with Callers(other) as callers:
        os.kill(one.model_process(), signal.SIGKILL)
        until(lambda: one.embed("a") == 200)
        one.process.terminate()
        one.process.wait(timeout=60)
        callers.served()
    assert set(callers.statuses) == {200} and not callers.wrong and other.model_process() == kept


@pytest.mark.fault("Model process")
def test_a_setting_that_loads_the_model_again_does_so_once_for_all_workers(
    four: Box,
) -> None:
    """A setting of the model is changed under load, with four workers -> the model process loads it
    once, no request is lost, and every worker serves it.
    """
    loads, ready = four.loads(), four.count(" is ready in ")
    with Callers(four) as callers:
        reply = requests.post(
            f"{four.url}/settings", json={"key": "dtype", "value": "float32"}, timeout=60
        )
        assert reply.status_code == 200, reply.text
        until(lambda: four.count(" is ready in ") >= ready + 4)
        callers.served()
    assert set(callers.statuses) == {200} and not callers.wrong and not callers.lost
    assert four.loads() == loads + 1
