"""A worker that cannot load a model applies everything else, and tries again ever more rarely."""

import pytest

import errors
from config import Config
from settings import Settings, State
from settings.storage import Storage
from tests.settings.conftest import Steps


class Worker:
    """Settings that share their storage with others, in a process that lacks some models."""

    def __init__(self, storage: Storage, *lacks: str) -> None:
        self.settings = Settings(Config(), storage)
        self.settings.bind(self._prepare)
        self.lacks = set(lacks)
        self.tried: list[str | None] = []

    def _prepare(self, old: State, new: State) -> Steps:
        if old.config.model != new.config.model:
            self.tried.append(new.config.model)
            if new.config.model in self.lacks:
                raise errors.Invalid(f"no model {new.config.model}")
        return Steps()

    def look(self) -> str | None:
        """Look at what is kept, as the thread does; return why not all is followed."""
        assert self.settings._catch_up() is None
        return self.settings._retry.reason


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be moved by hand."""
    clock = [1000.0]
    monkeypatch.setattr("settings.retry.time.monotonic", lambda: clock[0])
    return clock


def test_the_rest_is_followed_and_the_model_tried_again_ever_more_rarely(now: list[float]) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage, "large")
    told.settings.change({"model_name": "large", "max_texts": 7}, "ann")
    reason = other.look()
    assert reason and "no model large" in reason
    assert (other.settings.current.max_texts, other.settings.current.model) == (7, None)
    told.settings.change({"max_texts": 8}, "ann")
    for _ in range(5):
        assert other.look() == reason
    assert other.settings.current.max_texts == 8
    assert other.tried == ["large"]
    tries = []
    for _ in range(100):
        now[0] += 1
        before = len(other.tried)
        other.look()
        if len(other.tried) > before:
            tries.append(now[0] - 1000)
    assert tries == [5, 15, 35, 75]
    now[0] += 1000
    other.lacks.clear()
    assert other.look() is None and other.settings.current.model == "large"


def test_another_model_is_tried_at_once(now: list[float]) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage, "large")
    told.settings.change({"model_name": "large"}, "ann")
    assert other.look()
    told.settings.change({"model_name": "small"}, "ann")
    assert other.look() is None and other.settings.current.model == "small"


def test_going_back_to_the_model_that_runs_is_followed(now: list[float]) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage, "large")
    told.settings.change({"model_name": "large"}, "ann")
    assert other.look()
    told.settings.revert("model_name", "ann")
    assert other.look() is None and other.tried == ["large"]


def test_a_worker_without_the_model_still_takes_changes_of_the_rest(now: list[float]) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage, "large")
    told.settings.change({"model_name": "large"}, "ann")
    assert other.look()
    other.settings.change({"max_texts": 9}, "bob")
    assert other.settings.current.max_texts == 9
    assert storage.read()[1] == {"model_name": '"large"', "max_texts": "9"}
    assert other.look() and other.tried == ["large"]
    told.look()
    assert (told.settings.current.max_texts, told.settings.current.model) == (9, "large")


def test_what_is_not_the_models_fault_is_told_as_such(now: list[float]) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage)
    told.settings.change({"max_texts": 9}, "bob")

    def broken(old: State, new: State) -> None:
        raise RuntimeError

    other.settings.bind(broken)  # type: ignore[arg-type]
    assert other.settings._catch_up() == "a change cannot be applied (RuntimeError)"
    assert other.settings._retry.reason is None


def test_a_model_that_loads_in_a_change_that_is_not_stored_is_tried_again(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    told, other = Worker(storage), Worker(storage, "large")
    told.settings.change({"model_name": "large"}, "ann")
    assert other.look()
    now[0] += 6
    other.lacks.clear()

    def away(*_: object) -> None:
        raise errors.Unavailable("the database cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write", away)
        with pytest.raises(errors.Unavailable):
            other.settings.change({"max_texts": 9}, "bob")
    assert other.settings.current.model is None
    assert other.look() is None and other.settings.current.model == "large"
