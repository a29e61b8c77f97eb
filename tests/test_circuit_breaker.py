"""The circuit breaker: when it opens, what it lets through, and how it closes again."""

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from circuit_breaker import CircuitBreaker, backoff


def fail(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_opens_after_three_failures_in_a_row_and_then_makes_no_call() -> None:
    breaker = CircuitBreaker("db", pauses=(60,))
    for _ in range(2):
        assert breaker.run(fail(OSError()), "default") == "default"
    assert breaker.run(lambda: "answer", "default") == "answer"  # counts start again
    for _ in range(3):
        assert breaker.state == "closed"
        breaker.run(fail(OSError("at 10.0.0.1")), None)
    assert breaker.state == "open" and 59 < breaker.wait_s <= 60
    assert breaker.problem == "db failed (OSError)", "an address is in the error's text"
    calls: list[int] = []
    breaker.run(lambda: calls.append(1), None)
    assert not calls and not breaker.allow()


def test_one_timeout_is_enough() -> None:
    breaker = CircuitBreaker("db")
    breaker.run(fail(TimeoutError()), None)
    assert breaker.state == "open"


def test_a_probe_closes_it_and_no_call_is_a_trial() -> None:
    answers, probes = threading.Event(), itertools.count()

    def probe() -> None:
        next(probes)
        if not answers.is_set():
            raise OSError

    breaker = CircuitBreaker("db", probe, failures=1, pauses=(0.001,))
    breaker.failed(OSError())
    until(lambda: next(probes) > 3)
    assert breaker.state == "open" and not breaker.allow()
    answers.set()
    until(lambda: breaker.state == "closed")
    assert breaker.failures == 0
    answers.clear()
    breaker.failed(OSError())
    assert breaker.state == "open", "it opens again"
    breaker.close()


@pytest.mark.parametrize("closes", [True, False])
def test_without_a_probe_one_call_at_a_time_is_the_trial(closes: bool) -> None:
    breaker = CircuitBreaker("host", failures=1, pauses=(0.0, 60.0))
    breaker.failed(OSError())
    assert breaker.state == "half-open"
    assert breaker.allow() and not breaker.allow()
    breaker.succeeded() if closes else breaker.failed(OSError())
    assert breaker.state == ("closed" if closes else "open")
    if closes:  # the pauses start again
        breaker.failed(OSError())
        assert breaker.state == "half-open"


def test_a_late_failure_of_a_call_from_before_makes_no_pause_longer() -> None:
    breaker = CircuitBreaker("host", failures=1, pauses=(10.0, 60.0))
    for _ in range(5):
        breaker.failed(OSError())
    assert breaker.wait_s <= 10


def test_pauses_grow_and_the_last_one_repeats() -> None:
    assert list(itertools.islice(backoff((1, 2, 5)), 5)) == [1, 2, 5, 5, 5]


def test_close_ends_the_probing() -> None:
    probes = itertools.count()
    breaker = CircuitBreaker("db", lambda: next(probes), failures=1, pauses=(0.05,))
    breaker.close()
    breaker.failed(OSError())
    until(lambda: not any(t.name == "db-probe" for t in threading.enumerate()))
    assert next(probes) == 0
