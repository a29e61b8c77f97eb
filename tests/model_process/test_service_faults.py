"""What becomes of requests, workers and vectors when the model process dies, stops or hangs."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import until
from tests.model_process.conftest import Box, Callers, right

APART = [f"part {number} of 4" for number in (1, 2, 3, 4)]  # each in a process of its own
SOON_S = 10.0  # on a machine that does much else; alone it is under 1 s


def is_right(box: Box, text: str = "back again") -> bool:
    """Say whether a text gets its vector."""
    status, _, body = box.ask("/embed", {"texts": [text]})
    return status == 200 and np.allclose(json.loads(body)["embeddings"][0], right(text), atol=1e-6)


def refused_soon(box: Box, text: str = "a") -> None:
    """Check that a request is told to come back, and soon."""
    began = time.monotonic()
    status, headers, _ = box.ask("/embed", {"texts": [text]})
    assert status == 503 and int(headers["Retry-After"]) >= 1
    assert time.monotonic() - began < SOON_S


def kill_under_load(box: Box, times: int) -> None:
    """Kill the model process again and again while callers check their vectors."""
    workers = box.workers()
    with Callers(box) as callers:
        for _ in range(times):
            old = box.model_process()
            os.kill(old, signal.SIGKILL)
            until(lambda old=old: [pid for pid in box.model_processes() if pid != old])
            callers.served()
    assert not callers.wrong and not callers.lost
    assert set(callers.statuses) <= {200, 503} and all(callers.waits)
    assert callers.slowest_refusal_s < SOON_S
    assert box.workers() == workers
    until(lambda: all(is_right(box) for _ in range(8)))  # by both workers


@pytest.mark.fault("Model process")
def test_a_killed_model_process_mixes_no_reply_up_and_is_back_by_itself(box: Box) -> None:
    """The model process is killed under load -> 503 with `Retry-After` at once, no worker ends, no
    request hangs, every 200 has its own vectors; another serves within seconds.
    """
    kill_under_load(box, 3)


@pytest.mark.long
@pytest.mark.fault("Model process")
@pytest.mark.parametrize("part", APART)
def test_two_hundred_kills_under_load_mix_no_reply_up(box: Box, part: str) -> None:
    """The model process is killed under load -> the same 200 times."""
    kill_under_load(box, 50)


@pytest.mark.fault("Model process")
def test_a_stopped_model_process_costs_no_request_its_time(box: Box) -> None:
    """The model process is stopped (SIGSTOP) -> 503 with `Retry-After` within a second, `/health`
    says so; it serves again when it goes on.
    """
    pid, loads = box.model_process(), box.loads()
    os.kill(pid, signal.SIGSTOP)
    until(lambda: box.embed("a") == 503)
    refused_soon(box)
    status, _, body = box.ask("/health")
    assert status == 503 and "stopped" in json.loads(body)["reason"]
    assert json.loads(body)["models"]["fake"]["status"] == "unavailable"
    os.kill(pid, signal.SIGCONT)
    until(lambda: is_right(box))
    assert box.model_process() == pid and box.loads() == loads


@pytest.mark.fault("Model process")
def test_requests_that_wait_for_a_model_process_hear_of_its_stop(box: Box) -> None:
    """The model process is stopped amid a pass -> whoever waits for it gets 503 within a second."""
    until(lambda: all(is_right(box) for _ in range(8)))  # by both workers, whatever was before
    box.held.touch()
    answers: list[tuple[int, float]] = []

    def ask() -> None:
        status, _, _ = box.ask("/embed", {"texts": ["held"]})
        answers.append((status, time.monotonic()))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: box.metric("embedding_requests_in_flight") >= 7)
    os.kill(box.model_process(), signal.SIGSTOP)
    began = time.monotonic()
    for thread in threads:
        thread.join()
    box.held.unlink()
    os.kill(box.model_process(), signal.SIGCONT)
    assert [status for status, _ in answers] == [503] * 6
    assert max(ended for _, ended in answers) - began < SOON_S
    until(lambda: is_right(box))


def ends_and_is_back(box: Box, word: str, said: str) -> None:
    """Have a text end the model process, and no worker; wait for the next one."""
    workers, old = box.workers(), box.model_process()
    refused_soon(box, word)
    until(lambda: box.model_processes() not in ([], [old]) and is_right(box))
    assert box.workers() == workers and box.count(said)


@pytest.mark.fault("Model process")
def test_a_lost_device_ends_the_model_process_and_no_worker(box: Box) -> None:
    """The device is lost -> 503 with `Retry-After`; the model process ends by itself and another
    serves; no worker ends.
    """
    ends_and_is_back(box, "sticky", "CUDA error: device-side assert triggered")


@pytest.mark.fault("Model process")
def test_a_hanging_pass_ends_the_model_process_and_no_worker(boxes) -> None:
    """A pass takes longer than `ENCODE_TIMEOUT` -> the same."""
    ends_and_is_back(boxes("-w", "2", ENCODE_TIMEOUT="1"), "hang", "a pass through the model")


@pytest.mark.fault("Model process")
def test_memory_that_runs_out_in_a_pass_fails_its_own_request_alone(box: Box) -> None:
    """The model process runs out of memory in a pass -> 507 for the text at fault; the process and
    all other requests go on.
    """
    pid = box.model_process()
    with Callers(box) as callers:
        for _ in range(3):
            assert box.embed("greedy") == 507
        callers.served()
    assert not callers.wrong and set(callers.statuses) == {200}
    assert box.model_process() == pid


@pytest.mark.fault("Model process")
def test_a_model_process_that_cannot_load_is_tried_more_and_more_slowly(box: Box) -> None:
    """The model process is killed while it loads, out of memory -> 503 with the reason; each try
    waits longer; no worker ends.
    """
    workers = box.workers()
    box.loading.write_text("kill")
    os.kill(box.model_process(), signal.SIGKILL)
    until(lambda: b"before it had loaded a model" in box.ask("/health")[2])
    refused_soon(box)
    assert box.workers() == workers
    box.loading.unlink()
    until(lambda: is_right(box))


@pytest.mark.fault("Model process")
def test_a_client_that_hangs_up_costs_the_model_process_no_pass(box: Box) -> None:
    """A client hangs up while it waits for the model process -> its texts are not encoded."""
    dropped = 'embedding_queue_dropped_total{reason="client_closed_request"}'
    before = box.metric(dropped)
    box.held.touch()
    first = threading.Thread(target=box.embed, args=("held",))
    first.start()
    until(lambda: box.metric("embedding_requests_in_flight") >= 2)
    body = json.dumps({"texts": ["nobody waits"] * 3}).encode()
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    gone = box.connect()
    gone.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: box.queued() == 3)
    gone.close()
    until(lambda: box.metric("embedding_requests_in_flight") == 2)  # the first one, and this
    box.held.unlink()
    first.join()
    until(lambda: box.queued() == 0)
    assert is_right(box) and box.metric(dropped) == before + 1


@pytest.mark.fault("Model process")
def test_a_killed_worker_leaves_the_model_process_to_the_others(box: Box) -> None:
    """A worker is killed, the one too that had started the model process -> the model stays loaded,
    and the new worker uses it.
    """
    pid, loads = box.model_process(), box.loads()
    for worker in box.workers():
        ready = box.count(" is ready in ")
        os.kill(worker, signal.SIGKILL)
        until(lambda ready=ready: box.count(" is ready in ") > ready)
    assert is_right(box) and box.model_process() == pid and box.loads() == loads


@pytest.mark.fault("Model process")
def test_a_service_that_stops_leaves_no_model_process_and_no_folder(boxes) -> None:
    """The service stops -> its model process ends too, and its folder is removed."""
    box = boxes("-w", "2")
    pid = box.model_process()
    (folder,) = [
        Path(os.fsdecode(part))
        for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"embedding-run-" in part
    ]
    assert folder.stat().st_mode & 0o777 == 0o700
    box.process.terminate()
    box.process.wait(timeout=60)
    until(lambda: not box.model_processes())
    assert not folder.exists()
