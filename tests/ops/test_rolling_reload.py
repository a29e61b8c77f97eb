"""What workers and their master tell each other, without any process."""

import signal
from types import SimpleNamespace

import pytest

from server import rolling_reload


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * (rolling_reload.READY + rolling_reload.AGES)
    monkeypatch.setattr(rolling_reload, "_shared", memoryview(bytearray(size)).cast("q"))
    monkeypatch.setattr(rolling_reload, "_age", 0)


def announce(age: int) -> None:
    rolling_reload.announce(SimpleNamespace(age=age))


def test_two_workers_that_are_ready_in_the_other_order_both_serve() -> None:
    for age in (4, 5):
        announce(age)
    for age in (5, 4):
        rolling_reload.begin(age)
        rolling_reload.take_over()
    for age in (4, 5):
        rolling_reload.begin(age)
        assert rolling_reload.takes_requests()


def test_an_old_worker_is_needed_until_a_newer_one_is_ready() -> None:
    for age in (1, 2):
        announce(age)
    rolling_reload.begin(1)
    assert rolling_reload.is_needed()
    rolling_reload.begin(2)
    rolling_reload.take_over()
    rolling_reload.begin(1)
    assert not rolling_reload.is_needed()


def test_all_workers_from_before_a_reload_are_needed_until_one_from_after_it_is_ready() -> None:
    for age in (1, 2):
        announce(age)
        rolling_reload.begin(age)
        rolling_reload.take_over()
    rolling_reload.note_reload()
    for age in (3, 4):
        announce(age)
    for age in (1, 2):
        rolling_reload.begin(age)
        assert rolling_reload.is_needed()
    rolling_reload.begin(3)
    rolling_reload.take_over()
    for age in (1, 2):
        rolling_reload.begin(age)
        assert not rolling_reload.is_needed()


def test_a_worker_that_still_loads_leaves_the_requests_to_one_that_is_ready() -> None:
    for age in (4, 5):
        announce(age)
        rolling_reload.begin(age)
        assert rolling_reload.takes_requests()  # to say that it loads: nobody can do better
    rolling_reload.take_over()
    rolling_reload.begin(4)
    assert not rolling_reload.takes_requests()
    rolling_reload.take_over()
    assert rolling_reload.takes_requests()


def test_a_worker_that_still_loads_answers_for_a_ready_one_that_died() -> None:
    for age in (4, 5):
        announce(age)
    rolling_reload.begin(5)
    rolling_reload.take_over()
    rolling_reload.begin(4)
    rolling_reload.bury(
        SimpleNamespace(age=5 + rolling_reload.AGES)
    )  # not the one that the field speaks of
    assert not rolling_reload.takes_requests()
    rolling_reload.bury(SimpleNamespace(age=5))
    assert rolling_reload.takes_requests()


def test_a_stop_that_comes_while_a_worker_is_announced_is_not_lost() -> None:
    kept = {which: signal.getsignal(which) for which in (signal.SIGTERM, 2, 3)}
    try:
        for which in kept:
            signal.signal(which, lambda *_: None)
        rolling_reload.note_stop([])

        class Worker:
            @property
            def age(self) -> int:
                signal.raise_signal(signal.SIGTERM)
                return 2

        rolling_reload.announce(Worker())
        rolling_reload.begin(1)
        assert not rolling_reload.is_needed() and not rolling_reload.ends_at_once()
        signal.raise_signal(signal.SIGINT)
        assert not rolling_reload.ends_at_once()
        signal.raise_signal(signal.SIGQUIT)
        assert rolling_reload.ends_at_once()
    finally:
        for which, handler in kept.items():
            signal.signal(which, handler)


def test_numbers_of_workers_long_gone_do_not_matter() -> None:
    for age in range(1, 2 * rolling_reload.AGES + 2):
        rolling_reload.begin(age)
        rolling_reload.take_over()
        assert rolling_reload.takes_requests()
    rolling_reload.begin(age + 1)
    assert not rolling_reload.takes_requests()
