"""A model process holds each model once for all, and harms nobody for what one connection does."""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import embedders
from bench.corpus import model_folder
from config import ModelSettings, ModelSpec
from embedders.base import (
    DeviceBroken,
    Embedder,
    Encoded,
    Gone,
    Input,
    Item,
    Pair,
    Prompt,
    Truncate,
)
from embedders.fake import FakeEmbedder
from embedders.tokens import Limits, TextTokenizer, preparer_of
from errors import (
    BadRequest,
    DeadlineExceeded,
    InputTooLong,
    Invalid,
    ModelUnavailable,
    QueueFull,
    ServiceError,
    Unavailable,
)
from server.peers import connected, is_own_user
from serving.batcher import Batcher
from serving.health import EXIT_CODE
from serving.model_process import folder as run_folder
from serving.model_process import host as host_module
from serving.model_process.frames import raise_error
from serving.model_process.host import Host
from serving.model_process.values import unpack_items
from tests.faults.conftest import until
from tests.model_process.hand import FAKE, Worker, hosted, right


class Gated(FakeEmbedder):
    """A fake model whose passes over `held` wait for a gate, and that counts itself."""

    living = 0
    built = 0
    passes: list[int] = []
    gate = threading.Event()
    started = threading.Event()

    def __init__(self) -> None:
        super().__init__("tests/fake", 8, 64)
        Gated.living += 1
        Gated.built += 1

    def encode(
        self, items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        words = [word for item in items for word in str(item.payload).split()]
        Gated.passes.append(len(items))
        if "held" in words:
            Gated.started.set()
            Gated.gate.wait(60)
        if "lost" in words:
            raise DeviceBroken("it fell off the bus")
        if "bad" in words:
            raise Invalid("the model cannot encode this input", param="input")
        return super().encode(items)

    def close(self) -> None:
        Gated.living -= 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have every fake model be gated, and hosts look often; the gate is open at the end."""
    monkeypatch.setattr(host_module, "LOOK_EVERY_S", 0.05)
    Gated.living = Gated.built = 0
    Gated.passes, Gated.gate, Gated.started = [], threading.Event(), threading.Event()
    monkeypatch.setitem(embedders.EMBEDDERS, "fake", lambda spec, settings: Gated())
    yield Gated.gate
    Gated.gate.set()


@pytest.fixture
def host(folder: Path, gate: threading.Event) -> Iterator[Host]:
    with hosted(folder) as host:
        yield host
        gate.set()


@pytest.fixture
def worker(host: Host, folder: Path) -> Iterator[Callable[[], Worker]]:
    """Make a connection to the host as often as asked."""
    made: list[Worker] = []

    def connect() -> Worker:
        made.append(Worker(folder))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_many_workers_share_one_model(worker: Callable[[], Worker]) -> None:
    names: list[str] = []
    for thread in in_threads(6, lambda _: names.append(worker().load())):
        thread.join()
    assert len(set(names)) == 1
    assert Gated.built == 1


def test_texts_of_many_connections_share_passes_and_get_their_own_rows(
    host: Host, worker: Callable[[], Worker], gate: threading.Event
) -> None:
    first = worker()
    first.load()
    rows: dict[int, np.ndarray] = {}
    texts = {number: [f"of {number}", f"also {number}"] for number in range(8)}

    def ask(number: int) -> None:
        other = worker()
        other.model = first.model
        rows[number] = other.encode(texts[number])

    leader = in_threads(1, lambda _: first.encode(["held"]))
    Gated.started.wait(30)
    waiting = in_threads(8, ask)
    until(lambda: queued(host) == 8)
    gate.set()
    for thread in [*leader, *waiting]:
        thread.join()
    for number, each in texts.items():
        np.testing.assert_array_equal(rows[number], right(each))
    assert max(Gated.passes) > 2  # more than one request holds


def queued(host: Host) -> int:
    """How many requests wait in the host's models, by their own batchers."""
    encoders = [held.encoder for held in host.models.held.values()]
    return sum(each.queued()[0] for each in encoders if isinstance(each, Batcher))


def leases(host: Host) -> int:
    return sum(held.leases for held in host.models.held.values())


def test_settings_that_change_the_model_load_another_and_limits_do_not(
    worker: Callable[[], Worker],
) -> None:
    one = worker().load()
    assert worker().load(max_queue_tokens=4096, max_batch_size=4, interactive_p99_ms=50) == one
    own = FAKE.model_copy(update={"normalize": True})
    assert worker().load(own, normalize=False) == one  # the entry wins, and it says the default
    assert worker().load(normalize=False) != one
    assert worker().load(FAKE.model_copy(update={"dimensions": 9})) != one


def test_a_model_is_freed_when_the_last_lease_is_given_back(worker: Callable[[], Worker]) -> None:
    one, other = worker(), worker()
    one.load()
    other.load()
    one.call("release", {})
    np.testing.assert_array_equal(
        one.encode(["still here"], model=other.model), right(["still here"])
    )
    other.call("release", {})
    until(lambda: Gated.living == 0)
    with pytest.raises(Unavailable, match="loaded again"):
        other.encode(["a"])


def test_a_model_outlives_a_worker_that_was_killed_by_a_few_seconds(
    host: Host, worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, killed = worker(), worker()
    killed.load()
    killed.close()
    until(lambda: leases(host) == 0)
    next_one = worker()
    next_one.load()
    assert Gated.built == 1
    monkeypatch.setattr(host_module, "LINGER_S", 0.0)
    next_one.close()
    until(lambda: Gated.living == 0)
    assert watcher.status() == {}


def test_a_model_in_use_is_not_freed(worker: Callable[[], Worker], gate: threading.Event) -> None:
    lease, user = worker(), worker()
    user.model = lease.load()
    found: list[np.ndarray] = []
    (thread,) = in_threads(1, lambda _: found.append(user.encode(["held"])))
    Gated.started.wait(30)
    lease.call("release", {})
    time.sleep(2 * host_module.LOOK_EVERY_S)
    assert Gated.living == 1
    gate.set()
    thread.join()
    np.testing.assert_array_equal(found[0], right(["held"]))
    until(lambda: Gated.living == 0)


def test_a_caller_that_hangs_up_is_dropped_from_the_queue(
    host: Host, worker: Callable[[], Worker], gate: threading.Event
) -> None:
    first, gone = worker(), worker()
    gone.model = first.load()
    (leader,) = in_threads(1, lambda _: first.encode(["held"]))
    Gated.started.wait(30)

    def hang_up(_: int) -> None:
        with pytest.raises(OSError):
            gone.encode(["never encoded"] * 9)

    (waiting,) = in_threads(1, hang_up)
    until(lambda: queued(host) == 1)
    gone.close()
    waiting.join()
    gate.set()
    leader.join()
    until(lambda: queued(host) == 0)
    assert 9 not in Gated.passes


def test_a_deadline_and_a_full_queue_travel(
    host: Host, worker: Callable[[], Worker], gate: threading.Event
) -> None:
    first, late, many = worker(), worker(), worker()
    first.load(max_queue_tokens=1024)
    late.model = many.model = first.model
    (leader,) = in_threads(1, lambda _: first.encode(["held"]))
    Gated.started.wait(30)
    with pytest.raises(DeadlineExceeded):
        late.encode(["a"], time.monotonic() + 0.1)
    (waits,) = in_threads(1, lambda _: late.encode(["word " * 60] * 10))
    until(lambda: queued(host) == 1)
    with pytest.raises(QueueFull) as caught:
        many.encode(["word " * 60] * 10)
    assert caught.value.retry_after_s
    gate.set()
    leader.join()
    waits.join()


def test_the_lane_of_a_request_travels_and_so_do_the_limits_of_each(
    host: Host, worker: Callable[[], Worker], gate: threading.Event
) -> None:
    first, bulk, single = worker(), worker(), worker()
    first.load()
    bulk.model = single.model = first.model
    first.call("limit", {"model": first.model, "limits": [None, 1024, 70.0]})
    (held,) = host.models.held.values()
    assert isinstance(encoder := held.encoder, Batcher)
    assert encoder.queue_limit == 1024 and held.model.settings.interactive_p99_ms == 70
    (leader,) = in_threads(1, lambda _: first.encode(["held"]))
    Gated.started.wait(30)
    (waits,) = in_threads(1, lambda _: bulk.encode(["word " * 60] * 20, lane="bulk"))
    until(lambda: queued(host) == 1)
    with pytest.raises(QueueFull, match="bulk"):
        single.encode(["word"], lane="bulk")
    (served,) = in_threads(1, lambda _: single.encode(["word"]))
    until(lambda: queued(host) == 2)
    gate.set()
    for each in (leader, waits, served):
        each.join()


def test_an_error_names_the_input_at_fault_and_others_get_their_rows(
    worker: Callable[[], Worker],
) -> None:
    one = worker()
    one.load()
    with pytest.raises(Invalid) as caught:
        one.encode(["fine", "fine", "bad"])
    assert (caught.value.index, caught.value.param) == (2, "input")
    np.testing.assert_array_equal(one.encode(["fine"]), right(["fine"]))


def test_the_host_prepares_for_models_without_a_recipe(worker: Callable[[], Worker]) -> None:
    one = worker()
    model = one.load()
    head = {"model": model, "prompt": {"text": "query: ", "name": "query", "task": "query"},
            "truncate": "error", "pairs": False}  # fmt: skip
    items = unpack_items(*one.call("prepare", head, b'["two words", [1, 2]]'))
    assert [item.payload for item in items] == ["query: two words", "query: 1 2"]
    with pytest.raises(InputTooLong) as caught:
        one.call("prepare", head, b'["fine", "' + b"w " * 99 + b'"]')
    assert caught.value.index == 1
    trial = unpack_items(*one.call("trial", {"model": model, "text": "a trial"}))
    assert [item.payload for item in trial] == ["a trial"]


def test_a_model_that_does_not_load_is_told_to_all_and_tried_again(
    host: Host, worker: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()

    def fail(spec: ModelSpec, settings: ModelSettings) -> Embedder:
        broken.wait(30)
        raise ModelUnavailable("its weights are damaged", short="it does not load")

    monkeypatch.setitem(embedders.EMBEDDERS, "fake", fail)
    told: list[str] = []

    def load(_: int) -> None:
        with pytest.raises(ModelUnavailable) as caught:
            worker().load()
        told.append(f"{caught.value.message}: {caught.value.short}")

    threads = in_threads(3, load)
    until(lambda: leases(host) == 3)
    broken.set()
    for thread in threads:
        thread.join()
    assert told == ["its weights are damaged: it does not load"] * 3
    monkeypatch.setitem(embedders.EMBEDDERS, "fake", lambda spec, settings: Gated())
    assert worker().load()


def test_an_unexpected_failure_is_a_clear_error_and_the_connection_lives(
    worker: Callable[[], Worker], caplog: pytest.LogCaptureFixture
) -> None:
    one = worker()
    with pytest.raises(ServiceError, match="its log says how"):
        one.call("load", {"spec": {"no": "spec"}})
    assert "load failed" in caplog.text
    with pytest.raises(BadRequest, match="no operation 'steal'"):
        one.call("steal", {})
    with pytest.raises(BadRequest, match="no operation"):
        one.connection.send({"operation": ["encode"]})
        raise_error(one.connection.receive()[0])
    assert one.hello() == os.getpid()


def test_noise_closes_its_own_connection_only(
    worker: Callable[[], Worker], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = worker()
    good.load()
    noise = connected(run_folder.socket_path(folder, "cpu"))
    with noise:
        noise.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert noise.recv(1) == b""
    assert "sent no frame of this version" in caplog.text
    np.testing.assert_array_equal(good.encode(["a"]), right(["a"]))


def test_a_worker_of_another_version_is_refused_clearly(worker: Callable[[], Worker]) -> None:
    with pytest.raises(Unavailable, match="do not work together"):
        worker().hello("an older one")


def test_versions_listen_on_sockets_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = run_folder.socket_path(folder, "cpu")
    monkeypatch.setattr(run_folder, "code_version", lambda: "0" * 12)
    assert run_folder.socket_path(folder, "cpu") != new


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(Unavailable, match=f"has the mode {mode:04o}, not 0700"):
        Host(folder, "cpu")


def test_a_folder_that_is_a_link_or_missing_or_too_deep_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(Unavailable, match="is no folder"):
        Host(link, "cpu")
    with pytest.raises(Unavailable, match="is not there"):
        Host(tmp_path / "none", "cpu")
    deep = tmp_path / ("d" * 100)
    deep.mkdir(mode=0o700)
    with pytest.raises(Unavailable, match="too long"):
        Host(deep, "cpu")


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not tell the peer")
def test_another_user_is_told_apart(folder: Path) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        assert is_own_user(one)
        assert not is_own_user(one, os.geteuid() + 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_connection_of_another_user_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as made, hosted(Path(made)):  # pytest's is root's alone
        path = run_folder.socket_path(Path(made), "cpu")
        path.parent.chmod(0o755)
        path.chmod(0o777)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534)
                with connected(path) as strange:
                    code = 0 if strange.recv(1) == b"" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "refused a connection of another user" in caplog.text


def test_a_lost_device_ends_the_process(folder: Path) -> None:
    with hosted(folder, EXIT_CODE):
        one = Worker(folder)
        one.load()
        with pytest.raises(Unavailable, match="device is lost"):
            one.encode(["lost"])
        until(lambda: not run_folder.socket_path(folder, "cpu").exists())
        one.close()


def test_the_process_ends_when_its_socket_is_gone_and_nobody_is_connected(folder: Path) -> None:
    ended: list[int] = []
    host = Host(folder, "cpu", end=ended.append)
    thread = threading.Thread(target=host.serve)
    thread.start()
    one = Worker(folder)
    run_folder.socket_path(folder, "cpu").unlink()
    time.sleep(3 * host_module.LOOK_EVERY_S)
    assert not ended and one.hello() == os.getpid()
    one.close()
    thread.join(30)
    assert ended == [0]


def test_further_operations_are_answered(host: Host, worker: Callable[[], Worker]) -> None:
    host.register({"echo": lambda head, parts: ({"said": head["say"]}, [bytes(parts[0])[::-1]])})
    reply, (part,) = worker().call("echo", {"say": "a"}, b"abc")
    assert (reply["said"], bytes(part)) == ("a", b"cba")


def minilm() -> Tokenizer:
    return Tokenizer.from_file(str(model_folder() / "tokenizer.json"))


def test_a_tokenizer_made_of_a_recipe_prepares_alike() -> None:
    limits = Limits(256, {"query": 16})
    given = TextTokenizer(minilm(), limits, 30_522, side="left")
    other = preparer_of(json.loads(json.dumps(given.recipe())))
    texts: list[Input] = ["words", "", "漢字 🙂", "long " * 500, [7592, 2088]]
    sides: tuple[Truncate, ...] = ("auto", "right", "left")
    for truncate in sides:
        for prompt in (Prompt(), Prompt("", "query", "query")):
            assert other.prepare(texts, prompt, truncate) == given.prepare(texts, prompt, truncate)
    with pytest.raises(BadRequest):
        other.prepare_pairs([Pair("a", "b")], Prompt(), "right")


def test_a_tokenizer_made_of_a_recipe_skips_the_same_prompt() -> None:
    given = TextTokenizer(minilm(), Limits(256), 30_522, skips={101, 102})
    other = preparer_of(json.loads(json.dumps(given.recipe())))
    prompt = Prompt("represent this: ")
    (item,) = other.prepare(["a text"], prompt, "right")
    assert item.skip == 4  # [CLS] represent this : and not the [SEP] after it
    assert given.prepare(["a text"], prompt, "right") == [item]
    assert given.prepare(["a text"], Prompt(), "right")[0].skip == 0
    assert other.recipe() == given.recipe()
