"""Who runs when: few requests at a time, and probes before all others."""

import threading
from collections.abc import Iterator

import pytest

from server import slots
from tests.faults.conftest import until
from tests.ops.test_scarcity import Running, ask, in_a_thread


@pytest.fixture
def running() -> Iterator[Running]:
    with Running(threads=1) as running:
        running.worker.urgent = frozenset((b"/probe",))
        yield running


@pytest.mark.fault("Overload")
def test_a_probe_overtakes_the_requests_that_wait_for_a_thread(running) -> None:
    """Every thread works and requests wait for one -> a probe is still answered at once."""
    busy = [in_a_thread(running, "/slow") for _ in range(3)]
    assert running.app.slow.acquire(timeout=30)
    until(lambda: len(running.worker.queue.ready) == 2)
    probe = running.connect()
    for _ in range(3):
        assert ask(probe, "/probe") == 200
    probe.close()
    assert [statuses for _, statuses in busy] == [[], [], []]
    running.app.go_on.set()
    for thread, _ in busy:
        thread.join()
    assert [statuses for _, statuses in busy] == [[200]] * 3


def test_while_as_many_run_as_may_nobody_begins_unless_the_interpreter_is_free(monkeypatch) -> None:
    free = False
    monkeypatch.setattr(slots.Slots, "_interpreter_is_free", lambda self: free)
    given = slots.Slots(lambda: None)
    for _ in range(slots.AT_ONCE):
        assert given.is_free()
        given.count(1)
    assert not given.is_free() and given.wanted
    free = True
    assert given.is_free()


def test_whoever_waits_for_the_model_makes_room_and_wakes_who_gives_it(monkeypatch) -> None:
    monkeypatch.setattr(slots.Slots, "_interpreter_is_free", lambda self: False)
    woken, waits, goes_on = threading.Event(), threading.Event(), threading.Event()
    given = slots.Slots(woken.set)

    def request() -> None:
        with given.used(), slots.away():
            waits.set()
            goes_on.wait(30)

    for _ in range(slots.AT_ONCE):
        given.count(1)
    assert not given.is_free()
    thread = threading.Thread(target=request)
    thread.start()
    assert waits.wait(30) and woken.is_set() and given.is_free()
    given.count(1)
    assert not given.is_free()
    goes_on.set()
    thread.join()
    assert given.is_free() is False  # as many as before it came


def test_a_thread_that_serves_nobody_may_wait_too() -> None:
    with slots.away():
        pass


def test_an_idle_interpreter_is_found_free() -> None:
    given = slots.Slots(lambda: None)
    until(given._interpreter_is_free)
