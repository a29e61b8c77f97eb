"""Models that are loaded at their first use and unloaded when idle or in the way."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from config import Config, ModelSettings
from embedders.fake import FakeEmbedder
from engine import EmbedRequest, Engine
from errors import Invalid, ModelLoading, ModelUnavailable, ServiceError
from observability import metrics
from serving import model as models
from serving import residency
from serving.health import unhealthy_reason
from serving.registry import Registry
from tests.faults.conftest import until
from tests.models.sized import House, entry

ALL = "a", "b", "c"


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.loads.set()
    house.go_on.set()


@pytest.fixture
def registry_of(house: House) -> Iterator[Callable[..., Registry]]:
    made: list[Registry] = []

    def make(*names: str, load: str = "start", **given: Any) -> Registry:
        specs = [entry(name, load=load) for name in names]
        given.setdefault("default", "a" if "a" in names else names[0])
        made.append(house.registry(*specs, **given))
        return made[-1]

    yield make
    for registry in made:
        registry.stop()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "STAY_S", 0.02)
    monkeypatch.setattr(residency, "LOOK_EVERY_S", 0.02)


def embed(registry: Registry, name: str, text: str = "text", **given: Any) -> np.ndarray:
    return Engine(registry).embed(EmbedRequest([text], name, **given)).vectors[0]


def right(name: str, text: str = "text") -> np.ndarray:
    vector = FakeEmbedder(f"tests/{name}", 8, 64).vector(text)
    return vector / np.linalg.norm(vector)


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """Return what each of many threads returned or raised."""
    found: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            found[number] = work(number)
        except ServiceError as exc:
            found[number] = exc

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return found


def counted(name: str) -> float:
    lines = metrics.exposition().decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


# -- the first use ---------------------------------------------------------------------------------


def test_a_model_of_first_use_is_loaded_once_for_twenty_who_want_it_at_once(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", load="first_use")
    assert registry.default.state == "unloaded" and not house.built
    assert unhealthy_reason(registry.default) is None
    house.loads.clear()
    threading.Timer(0.3, house.loads.set).start()
    found = at_once(20, lambda number: embed(registry, "a", f"text {number}"))
    for number, vector in enumerate(found):
        np.testing.assert_allclose(vector, right("a", f"text {number}"), atol=1e-6)
    assert house.built == ["a"] and registry.default.state == "ready"


def test_whoever_waits_for_a_load_waits_until_its_deadline_and_no_longer(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", load="first_use")
    house.loads.clear()
    with pytest.raises(ModelLoading, match="still being loaded") as caught:
        embed(registry, "a", deadline=time.monotonic() + 0.1)
    assert caught.value.retry_after_s
    assert registry.default.state == "loading"
    assert unhealthy_reason(registry.default) is None, "it is no fault"
    house.loads.set()
    np.testing.assert_allclose(embed(registry, "a"), right("a"), atol=1e-6)
    assert house.built == ["a"], "the load went on meanwhile"


def test_a_request_without_a_deadline_waits_for_a_bounded_time(
    house: House, registry_of: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency.Residency.take, "__defaults__", (None, 0.1))
    registry = registry_of("a", load="first_use")
    house.loads.clear()
    with pytest.raises(ModelLoading):
        embed(registry, "a")


def test_no_more_wait_for_a_load_than_may(
    house: House, registry_of: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a thread, and the models that are loaded need some too."""
    monkeypatch.setattr(residency, "WAITERS", 3)
    registry = registry_of("a", load="first_use")
    house.loads.clear()
    found: list[object] = []
    crowd = threading.Thread(
        target=lambda: found.extend(at_once(8, lambda number: embed(registry, "a")))
    )
    crowd.start()
    until(lambda: registry._residency._waiting == 3)
    time.sleep(0.2)
    house.loads.set()
    crowd.join(60)
    served = [each for each in found if isinstance(each, np.ndarray)]
    refused = [each for each in found if isinstance(each, ModelLoading)]
    assert len(served) >= 3 and len(served) + len(refused) == 8


def test_a_load_that_fails_answers_each_with_the_reason_and_is_tried_again_after_a_while(
    house: House, registry_of: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "RETRY_AFTER_S", (0.3, 30.0))
    registry = registry_of("a", "b", load="first_use")
    house.broken["a"] = "its folder is empty"
    house.loads.clear()
    threading.Timer(0.2, house.loads.set).start()
    found = at_once(8, lambda number: embed(registry, "a"))
    assert all(isinstance(each, ModelUnavailable) for each in found)
    assert {each.message for each in found} == {"model 'a' is unavailable: its folder is empty"}
    assert house.built == ["a"], "it is not tried for each of them"
    assert registry.default.state == "unavailable"
    np.testing.assert_allclose(embed(registry, "b"), right("b"), atol=1e-6)
    house.broken.clear()

    until(lambda: registry.default.is_to_be_loaded)
    np.testing.assert_allclose(embed(registry, "a"), right("a"), atol=1e-6)
    assert registry.default.reason is None and house.built == ["a", "b", "a"]


# -- idle ------------------------------------------------------------------------------------------


def test_an_idle_model_is_unloaded_and_comes_back_with_the_next_request(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("idle", "other", idle_unload_s=1000)
    model = registry.default
    embed(registry, "idle")
    for each in registry.models.values():
        each.used_at -= 1000
    until(lambda: not house.living)
    assert model.state == "unloaded" and unhealthy_reason(model) is None
    assert model.facts is not None, "what is known of it stays known"
    assert counted('embedding_model_unloads_total{model="idle",reason="idle"}') == 1
    assert counted('embedding_model_bytes{model="idle"}') == 0
    np.testing.assert_allclose(embed(registry, "idle"), right("idle"), atol=1e-6)
    assert house.living == ["idle"]
    assert counted('embedding_model_bytes{model="idle"}') == 10 << 20


def test_a_models_own_idle_time_wins_over_that_of_all(house: House) -> None:
    specs = entry("a"), entry("b", idle_unload_s=0.1)
    registry = house.registry(*specs, idle_unload_s=1000)
    until(lambda: house.living == ["a"])
    registry.stop()


def test_a_request_in_flight_keeps_an_idle_model(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", idle_unload_s=0.1)
    house.go_on.clear()
    answers: list[np.ndarray] = []
    request = threading.Thread(target=lambda: answers.append(embed(registry, "a", "held")))
    request.start()
    assert house.inside.wait(30)
    time.sleep(0.6)
    assert house.living == ["a"] and registry.default.state == "ready"
    house.go_on.set()
    request.join(30)
    np.testing.assert_allclose(answers[0], right("a", "held"), atol=1e-6)
    until(lambda: not house.living)


def test_a_failed_request_does_not_keep_an_idle_model_for_ever(
    house: House, registry_of: Callable[..., Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception and traceback refer to each other, and to the model."""
    registry = registry_of("a", idle_unload_s=0.1)

    def fail() -> None:
        loaded = registry.default.loaded
        try:
            raise Invalid(f"it holds {loaded}")
        except Invalid as exc:
            kept = exc  # a cycle: the frame holds what holds the frame
            assert kept.__traceback__

    fail()
    until(lambda: not house.living)


def test_a_model_whose_files_changed_while_it_was_unloaded_is_refused(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    """Its collections and caches hold vectors of what it was."""
    registry = registry_of("a", "b", idle_unload_s=0.1)
    until(lambda: not house.living)
    house.version["a"] = "/changed"
    with pytest.raises(ModelUnavailable, match="its files changed"):
        embed(registry, "a")
    house.version.clear()
    np.testing.assert_allclose(embed(registry, "b"), right("b"), atol=1e-6)


# -- the memory budget -----------------------------------------------------------------------------


def test_what_the_budget_has_no_room_for_at_the_start_waits_for_its_first_use(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("c", "b", "a", models_memory_mb=25)
    assert house.built == ["a", "c"], "the default first, and no model for another"
    assert registry.models["b"].state == "unloaded"
    np.testing.assert_allclose(embed(registry, "b"), right("b"), atol=1e-6)


def test_the_model_that_was_used_least_recently_leaves(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of(*ALL, models_memory_mb=25)
    embed(registry, "b")
    embed(registry, "a")
    embed(registry, "c")
    assert sorted(house.living) == ["a", "c"]
    embed(registry, "a")
    embed(registry, "b")
    assert sorted(house.living) == ["a", "b"]
    assert {name: model.state for name, model in registry.models.items()} == {
        "a": "ready", "b": "ready", "c": "unloaded"
    }  # fmt: skip
    assert house.most == 2


def test_three_models_share_room_for_two_under_mixed_load_and_no_request_fails(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of(*ALL, models_memory_mb=25)
    house.pass_s = 0.002
    end = time.monotonic() + 2

    def send(number: int) -> int:
        count = 0
        while time.monotonic() < end or count < 3:
            name, text = ALL[(number + count) % 3], f"caller {number} text {count}"
            np.testing.assert_allclose(embed(registry, name, text), right(name, text), atol=1e-6)
            count += 1
        return count

    found = at_once(12, send)
    assert [each for each in found if not isinstance(each, int)] == []
    assert house.most == 2 and len(house.built) > 3


def test_a_model_in_use_leaves_only_after_its_request(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", "b", models_memory_mb=10)
    house.go_on.clear()
    answers: list[np.ndarray] = []
    first = threading.Thread(target=lambda: answers.append(embed(registry, "a", "held")))
    first.start()
    assert house.inside.wait(30)
    second = threading.Thread(target=lambda: answers.append(embed(registry, "b")))
    second.start()
    until(lambda: registry.models["b"].state == "loading")
    time.sleep(0.3)
    assert house.living == ["a"], "it is not closed, and no other takes its memory"
    house.go_on.set()
    for thread in (first, second):
        thread.join(60)
    np.testing.assert_allclose(answers, [right("a", "held"), right("b")], atol=1e-6)
    assert house.most == 1


def test_a_model_larger_than_the_budget_is_refused_with_both_sizes(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    house.sizes["b"] = 31 << 20
    registry = registry_of("a", "b", models_memory_mb=30)
    assert registry.models["b"].reason == (
        "its weights take 31 MB, and MODELS_MEMORY_MB allows 30 MB for all models"
    )
    assert house.living == ["a"]


def test_a_model_that_takes_no_memory_here_is_neither_counted_nor_unloaded(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    house.sizes["c"] = None
    registry = registry_of(*ALL, models_memory_mb=20, idle_unload_s=0.1)
    assert sorted(house.built) == ["a", "b", "c"]
    until(lambda: house.living == ["c"])
    assert registry.models["c"].state == "ready"


# -- exchanges -------------------------------------------------------------------------------------


def test_a_default_that_never_loaded_is_proved_before_a_change_makes_it_the_default(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a")
    late = entry("b", load="first_use")
    house.broken["b"] = "its folder is empty"
    with pytest.raises(Invalid, match="its folder is empty"):
        registry.prepare([entry("a"), late], "b", ModelSettings())
    house.broken.clear()
    registry.prepare([entry("a"), late], "b", ModelSettings()).commit()
    assert registry.default.spec.id == "b" and registry.default.state == "ready"


def test_a_change_loads_no_model_that_is_unloaded(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", "b", idle_unload_s=0.1)
    until(lambda: not house.living)
    settings = Config.model_validate({"idle_unload_s": 1000, "max_batch_size": 7})
    registry.prepare([entry("a"), entry("b")], "a", settings).commit()
    assert house.built == ["a", "b"] and registry.default.state == "unloaded"
    other = Config.model_validate({"idle_unload_s": 1000, "dtype": "float32"})
    registry.prepare([entry("a"), entry("b")], "a", other).commit()
    assert house.built == ["a", "b", "a"], "the default is proved, the other at its next use"
    np.testing.assert_allclose(embed(registry, "b"), right("b"), atol=1e-6)


def test_an_exchange_keeps_the_budget(house: House, registry_of: Callable[..., Registry]) -> None:
    registry = registry_of("a", "b", models_memory_mb=25)
    settings = Config.model_validate({"models_memory_mb": 25})
    registry.prepare([entry("a"), entry("b"), entry("c")], "c", settings).commit()
    np.testing.assert_allclose(embed(registry, "c"), right("c"), atol=1e-6)
    assert house.most == 2 and registry.default.spec.id == "c"


def test_a_request_that_waits_for_a_model_is_served_although_the_model_is_exchanged(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", "b")
    late = entry("c", load="first_use")
    registry.prepare([entry("a"), late], "a", ModelSettings()).commit()
    house.loads.clear()
    answers: list[np.ndarray] = []
    waits = threading.Thread(target=lambda: answers.append(embed(registry, "c")))
    waits.start()
    until(lambda: registry.models["c"].state == "loading")
    registry.prepare([entry("a")], "a", ModelSettings()).commit()
    house.loads.set()
    waits.join(60)
    np.testing.assert_allclose(answers[0], right("c"), atol=1e-6)
    until(lambda: house.living == ["a"])


def test_the_end_of_the_process_sends_away_who_waits(
    house: House, registry_of: Callable[..., Registry]
) -> None:
    registry = registry_of("a", load="first_use")
    house.loads.clear()
    found: list[object] = []
    waits = threading.Thread(
        target=lambda: found.extend(at_once(2, lambda _: embed(registry, "a")))
    )
    waits.start()
    until(lambda: registry._residency._waiting == 2)
    registry.stop()
    waits.join(30)
    assert all(isinstance(each, ModelLoading) for each in found)


def test_a_request_for_no_model_gets_an_unloaded_one_that_can_serve_it(house: House) -> None:
    reranker = entry("b", model_name="tests/b+score")
    registry = house.registry(entry("a"), reranker, idle_unload_s=0.1)
    until(lambda: not house.living)
    scored = Engine(registry).rerank("q", ["q d", "e"], EmbedRequest([]))
    assert scored.model.spec.id == "b" and math.isfinite(float(scored.scores.sum()))
    registry.stop()
