"""What becomes of the process: signals, dead workers, taken ports, full and read-only disks."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException

import pytest

from tests.conftest import ROOT, free_port
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


def test_a_stop_finishes_the_requests_it_has_accepted(start) -> None:
    service = start()
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(service.embed("slow"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    until(lambda: b"embedding_requests_in_flight 5.0" in service.ask("/metrics")[2])
    service.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert service.process.wait(20) == 0


def test_a_stop_that_comes_too_soon_for_the_queue_refuses_the_rest_of_it(start) -> None:
    """Ten seconds of work, a graceful time of four: whoever cannot be served is told so."""
    service = start(GRACEFUL_TIMEOUT="4", EMBEDDING_MAX_BATCH_SIZE="1")
    answers: list[tuple[int, dict, bytes]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(service.ask("/embed", {"texts": ["slow"]}))
        )
        for _ in range(10)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    until(lambda: b'embedding_queue_texts{model="fake"} 9.0' in service.ask("/metrics")[2])
    service.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    statuses = [status for status, _, _ in answers]
    assert len(statuses) == 10 and set(statuses) == {200, 503}
    assert all(h["Retry-After"] and b"stopping" in b for s, h, b in answers if s == 503)
    assert service.process.wait(20) == 0


def test_a_reload_under_load_fails_no_request_however_long_the_model_takes(start, tmp_path) -> None:
    loading = tmp_path / "loading"
    service = start("-w", "2", WHILE_LOADING=str(loading))
    with Crowd(service) as crowd:
        old = set(service.workers())
        loading.write_text("wait")
        service.signal(signal.SIGHUP)
        until(lambda: len(set(service.workers()) - old) == 2)
        count = len(crowd.statuses)
        until(lambda: len(crowd.statuses) > count + 100)  # gunicorn has told the old ones to stop
        assert old <= set(service.workers())
        loading.unlink()
        until(lambda: not old & set(service.workers()))
        count = len(crowd.statuses)
        until(lambda: len(crowd.statuses) > count + 100)
    assert set(crowd.statuses) == {200} and not crowd.lost


def test_a_reload_to_a_model_that_cannot_be_loaded_leaves_the_old_worker_serving(
    start, tmp_path
) -> None:
    loading = tmp_path / "loading"
    service = start(WHILE_LOADING=str(loading))
    (old,) = service.workers()
    loading.write_text("fail")
    service.signal(signal.SIGHUP)
    until(lambda: any("cannot be loaded" in line for line in service.lines))
    assert [service.embed("a") for _ in range(20)] == [200] * 20
    assert old in service.workers()


def test_a_stop_during_a_reload_waits_for_nobody(start, tmp_path) -> None:
    loading = tmp_path / "loading"
    service = start(WHILE_LOADING=str(loading))
    loading.write_text("wait")
    service.signal(signal.SIGHUP)
    until(lambda: any("takes its time" in line for line in service.lines))
    service.signal(signal.SIGTERM)
    assert service.process.wait(20) == 0


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGQUIT])
def test_a_second_interrupt_ends_it_at_once(start, which) -> None:
    service = start()
    threading.Thread(target=lambda: swallow(lambda: service.embed("slow")), daemon=True).start()
    service.signal(which)
    until(lambda: any("Handling signal" in line for line in service.lines))  # or both are one
    service.signal(which)
    assert service.process.wait(10) == 0


def swallow(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        return


def test_a_killed_worker_is_replaced(start) -> None:
    service = start()
    (worker,) = service.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: service.healthy() and service.workers() != [worker])
    assert service.embed("a") == 200


def test_a_killed_worker_leaves_the_others_serving(start) -> None:
    service = start("-w", "2")
    with Crowd(service) as crowd:
        os.kill(service.workers()[0], signal.SIGKILL)
        count = len(crowd.statuses)
        until(lambda: len(crowd.statuses) > count + 50)
    assert crowd.statuses.count(200) > 50
    assert len(crowd.lost) <= len(crowd.threads)  # those that were under way in it


def test_a_lost_device_gets_the_worker_replaced(start) -> None:
    service = start()
    (worker,) = service.workers()
    assert service.embed("sticky") == 503
    until(lambda: service.healthy() and service.workers() != [worker])
    assert service.embed("a") == 200
    assert any("this worker ends" in line for line in service.lines)


def test_a_hanging_pass_gets_the_worker_replaced(start) -> None:
    service = start(ENCODE_TIMEOUT="1")
    (worker,) = service.workers()
    with pytest.raises(OSError):
        service.ask("/embed", {"texts": ["hang"]})
    until(lambda: service.healthy() and service.workers() != [worker])


def test_health_stays_quick_and_true_while_every_permit_is_taken(start) -> None:
    service = start(MAX_QUEUE_TOKENS="1024")
    answers: list[tuple[int, dict, bytes]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                service.ask("/embed", {"texts": ["slow " + "w " * 50] * 12})
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert service.ask("/health")[0] == 200
    for thread in threads:
        thread.join()
    refused = [headers for status, headers, _ in answers if status == 429]
    assert refused and all(1 <= int(h["Retry-After"]) <= 30 for h in refused)
    assert {status for status, _, _ in answers} == {200, 429}


def test_a_request_whose_deadline_passes_is_told_504(start) -> None:
    assert start(REQUEST_DEADLINE="0.3").embed("slow") == 504


def test_a_second_instance_on_the_port_ends_with_a_clear_error(start) -> None:
    first = start()
    env = {**os.environ, "HOST": "127.0.0.1", "PORT": str(first.port)}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"], env=env, cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "in use" in done.stderr
    assert first.embed("a") == 200


def test_a_taken_metrics_port_is_a_line_in_the_log_and_no_more(start) -> None:
    first = start()
    service = start(ENABLE_METRICS="true", METRICS_PORT=str(first.port))
    assert service.embed("a") == 200 and service.ask("/metrics")[0] == 200
    until(lambda: any("METRICS_PORT" in line for line in service.lines))


def test_a_model_that_cannot_be_loaded_leaves_the_port_open_and_says_why(start) -> None:
    service = start(
        app="app:app", ready="/health/live", EMBEDDING_MODEL="/nonexistent/model",
        SUPPORTED_MODELS="", MODEL_CONFIG="/nonexistent",
    )  # fmt: skip
    until(lambda: b'"unhealthy"' in service.ask("/health")[2])
    status, headers, body = service.ask("/health")
    assert status == 503 and headers["Retry-After"] and b"/nonexistent/model" in body
    assert service.ask("/health/ready")[0] == 503 and service.ask("/health/live")[0] == 200
    assert service.embed("a") == 503


def test_descriptors_that_run_out_come_back(start) -> None:
    service = start()
    (worker,) = service.workers()
    subprocess.run(["prlimit", f"--pid={worker}", "--nofile=64:64"], check=True)
    held = []
    for _ in range(100):
        sock = service.connect()
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        held.append(sock)
    time.sleep(0.5)
    for sock in held:
        sock.close()
    until(service.healthy)
    assert service.embed("a") == 200


def test_it_starts_with_an_unwritable_home(start) -> None:
    assert start(HOME="/proc", METRICS_PORT=str(free_port())).embed("a") == 200


def test_a_log_that_nobody_can_write_fails_no_request(start) -> None:
    service = start("-w", "1")
    for worker in service.workers():
        subprocess.run(["prlimit", f"--pid={worker}", "--fsize=0:0"], check=True)
    assert service.embed("a") == 200


def test_a_bug_is_one_plain_500_which_the_log_explains(start) -> None:
    service = start()
    status, headers, body = service.ask("/embed", {"texts": ["a bug"]})
    told = json.loads(body)
    assert status == 500 and set(told) == {"error", "error_type", "request_id"}
    assert b"secret" not in body and b"Traceback" not in body
    until(lambda: any("KeyError: 'an inner secret'" in line for line in service.lines))
    log = "".join(service.lines)
    assert "Traceback" in log
    assert headers["X-Request-ID"] == told["request_id"] and told["request_id"] in log
    counted = f'embedding_errors_total{{code="{told["error_type"]}"}} 1.0'
    assert counted.encode() in service.ask("/metrics")[2]
    assert service.embed("a") == 200
