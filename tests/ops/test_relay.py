"""What workers and their master tell each other, without any process."""

import signal
from types import SimpleNamespace

import pytest

from server import relay


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * (relay.READY + relay.AGES)
    monkeypatch.setattr(relay, "_shared", memoryview(bytearray(size)).cast("q"))
    monkeypatch.setattr(relay, "_age", 0)


def announce(age: int) -> None:
    relay.announce(SimpleNamespace(age=age))


def test_two_workers_that_are_ready_in_the_other_order_both_serve() -> None:
    for age in (4, 5):
        announce(age)
    for age in (5, 4):
        relay.begin(age)
        relay.take_over()
    for age in (4, 5):
        relay.begin(age)
        assert relay.takes_requests()


def test_an_old_worker_is_needed_until_a_newer_one_is_ready() -> None:
    for age in (1, 2):
        announce(age)
    relay.begin(1)
    assert relay.is_needed()
    relay.begin(2)
    relay.take_over()
    relay.begin(1)
    assert not relay.is_needed()


def test_all_workers_from_before_a_reload_are_needed_until_one_from_after_it_is_ready() -> None:
    for age in (1, 2):
        announce(age)
        relay.begin(age)
        relay.take_over()
    relay.note_reload()
    for age in (3, 4):
        announce(age)
    for age in (1, 2):
        relay.begin(age)
        assert relay.is_needed()
    relay.begin(3)
    relay.take_over()
    for age in (1, 2):
        relay.begin(age)
        assert not relay.is_needed()


def test_a_worker_that_still_loads_leaves_the_requests_to_one_that_is_ready() -> None:
    for age in (4, 5):
        announce(age)
        relay.begin(age)
        assert relay.takes_requests()  # to say that it loads: nobody can do better
    relay.take_over()
    relay.begin(4)
    assert not relay.takes_requests()
    relay.take_over()
    assert relay.takes_requests()


def test_a_worker_that_still_loads_answers_for_a_ready_one_that_died() -> None:
    for age in (4, 5):
        announce(age)
    relay.begin(5)
    relay.take_over()
    relay.begin(4)
    relay.bury(SimpleNamespace(age=5 + relay.AGES))  # not the one that the field speaks of
    assert not relay.takes_requests()
    relay.bury(SimpleNamespace(age=5))
    assert relay.takes_requests()


def test_a_stop_that_comes_while_a_worker_is_announced_is_not_lost() -> None:
    kept = {which: signal.getsignal(which) for which in (signal.SIGTERM, 2, 3)}
    try:
        for which in kept:
            signal.signal(which, lambda *_: None)
        relay.note_stop([])

        class Worker:
            @property
            def age(self) -> int:
                signal.raise_signal(signal.SIGTERM)
                return 2

        relay.announce(Worker())
        relay.begin(1)
        assert not relay.is_needed() and not relay.ends_at_once()
        signal.raise_signal(signal.SIGINT)
        assert not relay.ends_at_once()
        signal.raise_signal(signal.SIGQUIT)
        assert relay.ends_at_once()
    finally:
        for which, handler in kept.items():
            signal.signal(which, handler)


def test_numbers_of_workers_long_gone_do_not_matter() -> None:
    for age in range(1, 2 * relay.AGES + 2):
        relay.begin(age)
        relay.take_over()
        assert relay.takes_requests()
    relay.begin(age + 1)
    assert not relay.takes_requests()
