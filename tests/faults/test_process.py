"""What becomes of the process: dead workers, lost devices, taken ports, missing descriptors."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.conftest import ROOT, free_port
from tests.faults.conftest import Service, until
from tests.faults.crowd import Crowd


@pytest.fixture(scope="module")
def service(start_for_all) -> Service:
    """One for the tests after which it is as it was."""
    return start_for_all()


@pytest.mark.fault("Process and machine")
def test_a_killed_worker_is_replaced(service) -> None:
    """A worker is killed -> it is replaced."""
    (worker,) = service.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: service.healthy() and service.workers() != [worker])
    assert service.embed("a") == 200


@pytest.mark.fault("Process and machine")
def test_a_killed_worker_leaves_the_others_serving(start) -> None:
    """A worker is killed -> the others serve on."""
    service = start("-w", "2")
    until(lambda: sum("is ready in" in line for line in service.lines) == 2)
    with Crowd(service) as crowd:
        os.kill(service.workers()[0], signal.SIGKILL)
        count = len(crowd.statuses)
        until(lambda: len(crowd.statuses) > count + 50)
    assert crowd.statuses.count(200) > 50
    assert len(crowd.lost) <= len(crowd.threads)  # those that were under way in it


@pytest.mark.fault("Models and devices")
def test_a_lost_device_gets_the_worker_replaced(service) -> None:
    """The device is lost: an error that persists -> 503; the worker ends and is replaced."""
    (worker,) = service.workers()
    assert service.embed("sticky") == 503
    until(lambda: service.healthy() and service.workers() != [worker])
    assert service.embed("a") == 200
    until(lambda: any("this worker ends" in line for line in service.lines))


@pytest.mark.fault("Models and devices")
def test_a_hanging_pass_gets_the_worker_replaced(start) -> None:
    """A pass takes longer than `ENCODE_TIMEOUT` -> the worker is replaced."""
    service = start(ENCODE_TIMEOUT="1")
    (worker,) = service.workers()
    with pytest.raises(OSError):
        service.ask("/embed", {"texts": ["hang"]})
    until(lambda: service.healthy() and service.workers() != [worker])


@pytest.mark.fault("Overload")
def test_health_stays_quick_and_true_while_every_permit_is_taken(start, held) -> None:
    """More requests than threads -> `/health` still answers, and truly."""
    service = start(HELD=str(held), MAX_QUEUE_TOKENS="1024")
    answers: list[tuple[int, dict, bytes]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(
                service.ask("/embed", {"texts": ["held " + "w " * 50] * 12})
            )
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    until(lambda: any(status == 429 for status, _, _ in answers))
    assert service.ask("/health", timeout=60)[0] == 200
    held.unlink()
    for thread in threads:
        thread.join()
    refused = [headers for status, headers, _ in answers if status == 429]
    assert refused and all(1 <= int(h["Retry-After"]) <= 30 for h in refused)
    assert {status for status, _, _ in answers} == {200, 429}


@pytest.mark.fault("Overload")
def test_a_request_whose_deadline_passes_is_told_504(start) -> None:
    """The deadline passes while a request waits -> 504."""
    assert start(REQUEST_DEADLINE="0.3").embed("slow") == 504


@pytest.mark.fault("Process and machine")
def test_a_second_instance_on_the_port_ends_with_a_clear_error(service) -> None:
    """The port is taken -> a clear error; the first instance is not affected."""
    env = {**os.environ, "HOST": "127.0.0.1", "PORT": str(service.port)}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"], env=env, cwd=ROOT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0 and "in use" in done.stderr
    assert service.embed("a") == 200


@pytest.mark.fault("Process and machine")
def test_a_taken_metrics_port_is_a_line_in_the_log_and_no_more(start) -> None:
    """The metrics' port is taken -> one line in the log; `/metrics` still answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = start(ENABLE_METRICS="true", METRICS_PORT=str(taken.getsockname()[1]))
        assert service.embed("a") == 200 and service.ask("/metrics")[0] == 200
    until(lambda: any("METRICS_PORT" in line for line in service.lines))


@pytest.mark.fault("Models and devices")
def test_a_model_that_cannot_be_loaded_leaves_the_port_open_and_says_why(start) -> None:
    """A model cannot be loaded -> the port is open, and `/embed` is 503 with the reason."""
    service = start(
        app="app:app", ready="/health/live", EMBEDDING_MODEL="/nonexistent/model",
        SUPPORTED_MODELS="", MODEL_CONFIG="/nonexistent",
    )  # fmt: skip
    until(lambda: b'"unhealthy"' in service.ask("/health")[2])
    status, headers, body = service.ask("/health")
    assert status == 503 and headers["Retry-After"] and b"/nonexistent/model" in body
    assert service.ask("/health/ready")[0] == 503 and service.ask("/health/live")[0] == 200
    assert service.embed("a") == 503


@pytest.mark.fault("Process and machine")
def test_descriptors_that_run_out_end_no_worker_and_no_request(start, held) -> None:
    """Descriptors run out -> no worker ends, and no request under way is lost."""
    service = start(HELD=str(held), EMBEDDING_MAX_BATCH_SIZE="1")
    (worker,) = service.workers()
    assert service.embed("a") == 200  # what is imported late is there
    statuses: list[int] = []
    under_way = threading.Thread(target=lambda: statuses.append(service.embed(*["held"] * 4)))
    under_way.start()
    until(lambda: b"embedding_requests_in_flight 2.0" in service.ask("/metrics")[2])
    limit = len(os.listdir(f"/proc/{worker}/fd")) + 10
    subprocess.run(["prlimit", f"--pid={worker}", f"--nofile={limit}:{limit}"], check=True)
    idle = [service.connect() for _ in range(40)]
    until(lambda: any("Too many open files" in line for line in service.lines))
    assert service.ask("/health")[0] == 200  # in the place of one that has been idle
    assert not statuses
    held.unlink()
    assert service.embed("a") == 200
    under_way.join()
    assert statuses == [200] and service.workers() == [worker]
    for sock in idle:
        sock.close()
    assert service.healthy()


@pytest.mark.fault("Process and machine")
def test_it_starts_with_an_unwritable_home(start) -> None:
    """The home directory cannot be written -> it starts."""
    assert start(HOME="/proc", METRICS_PORT=str(free_port())).embed("a") == 200


@pytest.mark.fault("Process and machine")
def test_a_log_that_nobody_can_write_fails_no_request(start) -> None:
    """The log cannot be written -> no request fails."""
    service = start()
    (worker,) = service.workers()
    subprocess.run(["prlimit", f"--pid={worker}", "--fsize=0:unlimited"], check=True)
    written = service.lines
    assert [service.embed("a") for _ in range(20)] == [200] * 20
    assert service.lines == written
    subprocess.run(["prlimit", f"--pid={worker}", "--fsize=unlimited"], check=True)
    until(lambda: sum(" path=/embed " in line for line in service.lines) == 20)


@pytest.mark.fault("Process and machine")
def test_a_bug_is_one_plain_500_which_the_log_explains(service) -> None:
    """A bug -> one plain 500 with the request's id; the log has the traceback under that id."""
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
