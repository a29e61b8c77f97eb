"""Stops, interrupts and reloads, while requests are under way."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.conftest import Service, until
from tests.faults.crowd import Arrivals, Crowd


def is_told(service: Service, which: str) -> bool:
    """Say whether the master has handled a signal."""
    return any(f"Handling signal: {which}" in line for line in service.lines)


@pytest.mark.fault("Process and machine")
def test_a_stop_finishes_the_requests_it_has_accepted(start, held) -> None:
    """SIGTERM under load -> accepted requests are finished; exit code 0."""
    service = start(HELD=str(held))
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(service.embed("held"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    until(lambda: b"embedding_requests_in_flight 5.0" in service.ask("/metrics")[2])
    service.signal(signal.SIGTERM)
    until(lambda: is_told(service, "term"))
    assert not statuses
    held.unlink()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4
    assert service.process.wait(40) == 0


@pytest.mark.fault("Process and machine")
def test_a_stop_takes_no_interpreter_down_around_its_threads(start, tmp_path) -> None:
    """SIGTERM during a load or a pass in the background -> the worker exits normally, not by
    SIGABRT.
    """
    service = start(TAKEN_DOWN=str(tmp_path / "said"))
    assert service.embed("a") == 200
    service.signal(signal.SIGTERM)
    assert service.process.wait(40) == 0
    assert not (tmp_path / "said").exists()
    assert any("Worker exiting" in line for line in service.lines)
    assert not any("was sent" in line for line in service.lines)


@pytest.mark.fault("Process and machine")
def test_a_stop_amid_arrivals_on_kept_connections_loses_none_of_them(start) -> None:
    """SIGTERM under load -> no request on a kept connection is lost."""
    service = start()
    with Arrivals(service, 8) as crowd:
        service.signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
    assert set(crowd.statuses) == {200} and not crowd.lost


@pytest.mark.fault("Process and machine")
def test_a_stop_that_comes_too_soon_for_the_queue_refuses_the_rest_of_it(start, held) -> None:
    """SIGTERM, and `GRACEFUL_TIMEOUT` is too short for the queue -> what is left of the queue gets
    503 before the end.

    One pass takes half the graceful time: whoever cannot be served any more is told so.
    """
    service = start(HELD=str(held), GRACEFUL_TIMEOUT="8", EMBEDDING_MAX_BATCH_SIZE="1")
    answers: list[tuple[int, dict, bytes]] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(service.ask("/embed", {"texts": ["held"]}))
        )
        for _ in range(10)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    queued = b'embedding_queue_texts{lane="interactive",model="fake"} 9.0'
    until(lambda: queued in service.ask("/metrics")[2])
    service.signal(signal.SIGTERM)
    until(lambda: len(answers) == 9)
    held.unlink()
    for thread in threads:
        thread.join()
    statuses = [status for status, _, _ in answers]
    assert statuses == [503] * 9 + [200]
    assert all(h["Retry-After"] and b"stopping" in b for s, h, b in answers if s == 503)
    assert service.process.wait(40) == 0


@pytest.mark.fault("Process and machine")
def test_a_reload_under_load_fails_no_request_however_long_the_model_takes(start, tmp_path) -> None:
    """SIGHUP under load -> old workers serve until new ones have loaded; no request fails."""
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


@pytest.mark.fault("Process and machine")
def test_a_worker_that_is_ready_has_all_requests_while_the_first_one_still_loads(
    start, tmp_path
) -> None:
    """One worker is ready, another still loads -> the ready one gets all requests."""
    loading = tmp_path / "loading"
    loading.write_text("wait")
    service = start("-w", "2", ready="/health/live", WHILE_LOADING=str(loading))
    until(lambda: len(service.workers()) == 2)
    assert service.ask("/health/ready")[0] == 503  # nobody can serve: whoever is there says so
    loading.write_text(f"wait {min(service.workers())}")
    with ThreadPoolExecutor(16) as pool:  # one after the other they would all meet one worker
        until(lambda: all(pool.map(lambda _: service.healthy(), range(64))))
    with Crowd(service) as crowd:
        until(lambda: len(crowd.statuses) > 200)
        loading.unlink()
        until(lambda: sum("is ready in" in line for line in service.lines) == 2)
        count = len(crowd.statuses)
        until(lambda: len(crowd.statuses) > count + 100)
    assert set(crowd.statuses) == {200} and not crowd.lost


@pytest.mark.fault("Process and machine")
def test_a_reload_to_a_model_that_cannot_be_loaded_leaves_the_old_worker_serving(
    start, tmp_path
) -> None:
    """SIGHUP to a model that cannot be loaded -> the old workers stay."""
    loading = tmp_path / "loading"
    service = start(WHILE_LOADING=str(loading))
    (old,) = service.workers()
    loading.write_text("fail")
    service.signal(signal.SIGHUP)
    until(lambda: any("cannot be loaded" in line for line in service.lines))
    assert [service.embed("a") for _ in range(20)] == [200] * 20
    assert old in service.workers()


@pytest.mark.fault("Process and machine")
def test_a_reload_to_a_configuration_with_a_mistake_changes_nothing(start, models_file) -> None:
    """SIGHUP to a configuration with a mistake -> nothing changes."""
    good = models_file.read_text()
    service = start()
    old = service.workers()
    try:
        models_file.write_text(good[:-5])
        service.signal(signal.SIGHUP)
        until(lambda: any("not reloaded" in line for line in service.lines))
        assert any(models_file.name in line for line in service.lines)
    finally:
        models_file.write_text(good)
    assert service.embed("a") == 200 and service.workers() == old
    service.signal(signal.SIGHUP)
    until(lambda: not set(old) & set(service.workers()))
    assert service.embed("a") == 200


@pytest.mark.fault("Process and machine")
def test_a_worker_that_cannot_start_again_leaves_the_others_serving(start, models_file) -> None:
    """A worker cannot restart because a file was broken meanwhile -> the others serve on, and it is
    tried again, more and more slowly.

    Somebody made a mistake in a file while the service ran, and hours later a worker died.
    """
    good = models_file.read_text()
    service = start("-w", "2")
    until(lambda: sum("is ready in" in line for line in service.lines) == 2)
    lost, left = service.workers()
    try:
        models_file.write_text(good[:-5])
        os.kill(lost, signal.SIGKILL)
        until(lambda: sum("a worker cannot start" in line for line in service.lines) >= 2)
        assert [service.embed("a") for _ in range(20)] == [200] * 20
    finally:
        models_file.write_text(good)
    until(lambda: sum("is ready in" in line for line in service.lines) == 3)
    assert left in service.workers() and len(service.workers()) == 2


@pytest.mark.fault("Process and machine")
def test_a_stop_during_a_reload_waits_for_nobody(start, tmp_path) -> None:
    """SIGTERM during a reload -> it stops without waiting for a model."""
    loading = tmp_path / "loading"
    service = start(WHILE_LOADING=str(loading))
    loading.write_text("wait")
    service.signal(signal.SIGHUP)
    until(lambda: any("takes its time" in line for line in service.lines))
    service.signal(signal.SIGTERM)
    assert service.process.wait(40) == 0


@pytest.mark.fault("Process and machine")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGQUIT])
def test_a_second_interrupt_ends_it_at_once(start, which) -> None:
    """SIGINT or SIGQUIT twice -> ends at once.

    One alone waits for the pass, which hangs; GRACEFUL_TIMEOUT is a minute.
    """
    service = start()
    hanging = threading.Thread(target=lambda: swallow(lambda: service.embed("hang")))
    hanging.start()
    until(lambda: b"embedding_requests_in_flight 2.0" in service.ask("/metrics")[2])
    service.signal(which)
    until(lambda: is_told(service, which.name[3:].lower()))  # two that come together are one
    with pytest.raises(subprocess.TimeoutExpired):
        service.process.wait(1.5)
    service.signal(which)
    assert service.process.wait(40) == 0
    hanging.join()


def swallow(call: Callable[[], object]) -> None:
    try:
        call()
    except OSError:
        return
