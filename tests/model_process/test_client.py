"""Clients of real model processes: killed, stopped, late and many, they get their own or a 503."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flask import Flask

from config import Config, ModelSpec
from embedders.base import Embedder, Item, Pair, Prompt, Sparse, Value
from embedders.fake import FakeEmbedder
from errors import DeadlineExceeded, ModelUnavailable, Unavailable
from server.peers import state_of
from serving.encoder import Limits
from serving.model_process import client as client_module
from serving.model_process import folder as run_folder
from serving.model_process.embedder import ProcessEmbedder, settings_of, stamp_of
from serving.model_process.folder import code_version, socket_path
from serving.model_process.processes import CUDA
from tests.faults.conftest import until
from tests.model_process.clients import Client, encode, is_up, pid_of, processes_in
from tests.model_process.conftest import HOOKS
from tests.model_process.hand import FAKE, right

SOON_S = 10.0  # on a machine that does much else; alone it is under 1 s
HURTING = ModelSpec(id="fake", type="fake", model_name="tests/fake")


def test_clients_share_one_process_and_never_mix_their_rows(
    clients: Callable[..., Client], folder: Path
) -> None:
    workers = [clients() for _ in range(3)]
    loaded: list[ProcessEmbedder] = []
    threads = [threading.Thread(target=lambda w=w: loaded.append(w.load())) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pid_of(each) for each in loaded}) == 1
    assert len(processes_in(folder)) == 1
    wrong: list[str] = []

    def ask(embedder: ProcessEmbedder, name: str) -> None:
        for i in range(60):
            texts = [f"{name} asks {i}", f"{name} also"][: 1 + i % 2]
            if not np.array_equal(encode(embedder, *texts), right(texts)):
                wrong.append(name)

    asking = [
        threading.Thread(target=ask, args=(each, f"{worker}.{i}"))
        for worker, each in enumerate(loaded)
        for i in range(4)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", ["m+dense+sparse+multi_vector", "m+score"])
def test_every_kind_of_result_comes_back_as_the_model_makes_it(
    clients: Callable[..., Client], name: str
) -> None:
    there, here = clients().load(FAKE.model_copy(update={"model_name": name})), FakeEmbedder(name)
    assert there.facts.outputs == here.facts.outputs
    assert there.facts.kind == here.facts.kind

    def items(embedder: Embedder) -> list[Item]:
        if here.facts.kind == "reranker":
            pairs = [Pair("a query", "a document"), Pair("a query", "another")]
            return embedder.prepare_pairs(pairs, Prompt(), "right")
        prepared = embedder.prepare(["one text", "another"], Prompt(), "right")
        return [replace(item, outputs=here.facts.outputs) for item in prepared]

    found, wanted = there.encode(items(there)), here.encode(items(here))
    assert list(found.columns) == list(wanted.columns)
    for index in range(2):
        for output, value in wanted.row(index).items():
            both = zip(_arrays(value), _arrays(found.row(index)[output]), strict=True)
            assert all(np.array_equal(one, other) for one, other in both)
    if "sparse" in here.facts.outputs:
        assert there.terms([1, 2]) == here.terms([1, 2])
    assert there.trial() == here.trial()


def _arrays(value: Value) -> tuple[np.ndarray, ...]:
    return (value.indices, value.values) if isinstance(value, Sparse) else (value,)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: while it is there, no pass over a text that says `held` ends."""
    file = tmp_path / "held"
    file.touch()
    monkeypatch.setenv("HELD", str(file))
    monkeypatch.setenv("PYTHONPATH", str(HOOKS))
    return file


def waiting(
    embedder: ProcessEmbedder, count: int = 3
) -> tuple[list[threading.Thread], list[tuple[Exception | None, float]]]:
    """Threads that wait for passes that do not end, and what becomes of them with the time."""
    outcomes: list[tuple[Exception | None, float]] = []
    items = embedder.prepare(["held"], Prompt(), "right")

    def ask() -> None:
        failure = None
        try:
            embedder.encode(items)
        except Exception as exc:
            failure = exc
        outcomes.append((failure, time.monotonic()))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    until(lambda: embedder.health.busy_s > 0)
    return threads, outcomes


def test_one_that_served_is_back_at_once_however_often_it_is_killed(
    clients: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.model_process.client.PAUSES_S", (0.01, 600.0))
    embedder = clients().load(HURTING)
    for _ in range(3):  # sooner than it is asked how it is again
        os.kill(pid_of(embedder), signal.SIGKILL)
        until(lambda: not is_up(embedder))
        until(lambda: is_up(embedder))


def test_requests_that_a_killed_process_held_are_told_at_once_and_the_next_one_is_right(
    clients: Callable[..., Client], held: Path
) -> None:
    embedder = clients().load(HURTING)
    before = encode(embedder, "a text")
    threads, outcomes = waiting(embedder)
    killed = pid_of(embedder)
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    for thread in threads:
        thread.join()
    held.unlink()
    for failure, ended in outcomes:
        assert isinstance(failure, Unavailable)
        assert failure.retry_after_s
        assert ended - began < SOON_S
    until(lambda: is_up(embedder))
    assert pid_of(embedder) != killed
    np.testing.assert_array_equal(encode(embedder, "a text"), before)


def test_requests_that_a_stopped_process_holds_are_told_and_it_serves_again_when_it_goes_on(
    clients: Callable[..., Client], held: Path
) -> None:
    embedder = clients().load(HURTING)
    threads, outcomes = waiting(embedder)
    items = embedder.prepare(["another"], Prompt(), "right")
    stopped = pid_of(embedder)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    for thread in threads:
        thread.join()
    assert all(isinstance(failure, Unavailable) for failure, _ in outcomes)
    assert max(ended for _, ended in outcomes) - began < SOON_S
    with pytest.raises(Unavailable, match="stopped"):
        embedder.encode(items)
    assert "stopped" in str(embedder.health.away)
    held.unlink()
    os.kill(stopped, signal.SIGCONT)
    until(lambda: is_up(embedder))
    assert pid_of(embedder) == stopped


def test_a_process_that_stays_stopped_is_replaced(
    clients: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STOPPED_S", 0.2)
    embedder = clients().load()
    stopped = pid_of(embedder)
    os.kill(stopped, signal.SIGSTOP)
    until(lambda: state_of(stopped) in (None, "Z"))
    until(lambda: is_up(embedder))
    assert pid_of(embedder) != stopped


def test_a_deadline_ends_a_wait_for_a_pass_that_does_not_end(
    clients: Callable[..., Client], held: Path
) -> None:
    embedder = clients().load(HURTING)
    items = embedder.prepare(["held"], Prompt(), "right")
    with pytest.raises(DeadlineExceeded):
        embedder.encode(items, time.monotonic() + 0.2)
    held.unlink()
    until(lambda: is_up(embedder))


def test_a_stopping_service_refuses_what_comes_and_ends_what_waits(
    clients: Callable[..., Client], held: Path
) -> None:
    encoder = clients().encoder(HURTING)
    embedder = encoder.embedder
    assert isinstance(embedder, ProcessEmbedder)
    threads, outcomes = waiting(embedder)
    items = embedder.prepare(["a"], Prompt(), "right")
    encoder.stop()
    for thread in threads:
        thread.join()
    assert all("stopping" in str(failure) for failure, _ in outcomes)
    with pytest.raises(Unavailable, match="stopping"):
        encoder.encode(items)
    held.unlink()


def test_a_killed_processs_socket_is_no_hindrance(
    clients: Callable[..., Client], folder: Path
) -> None:
    stale = socket_path(folder, "cpu")
    dead = f"import socket; socket.socket(socket.AF_UNIX).bind({str(stale)!r})"
    subprocess.run([sys.executable, "-c", dead], check=True)
    assert stale.is_socket()
    np.testing.assert_array_equal(encode(clients().load(), "a"), right(["a"]))


def test_a_folder_that_others_may_enter_is_refused_by_the_client(
    clients: Callable[..., Client], folder: Path
) -> None:
    worker = clients()
    folder.chmod(0o755)
    with pytest.raises(Unavailable, match="no model process is trusted in it"):
        worker.load()
    folder.chmod(0o700)


def test_a_worker_of_another_version_has_a_process_of_its_own(
    clients: Callable[..., Client], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = clients().load()
    version = tmp_path / "version"
    version.write_text("f" * 12)
    with monkeypatch.context() as upgraded:
        upgraded.setenv("VERSION_FILE", str(version))
        upgraded.setenv("PYTHONPATH", str(HOOKS))
        upgraded.setattr(run_folder, "code_version", lambda: "f" * 12)
        new = clients().load()
    assert pid_of(new) != pid_of(old)
    assert len(processes_in(folder)) == 2
    assert code_version() != "f" * 12
    np.testing.assert_array_equal(encode(old, "a"), right(["a"]))


def test_a_worker_whose_code_was_replaced_says_so_and_ends(
    clients: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = clients().encoder()
    embedder = encoder.embedder
    assert isinstance(embedder, ProcessEmbedder)
    assert encoder.health().fatal is None
    monkeypatch.setattr(run_folder, "code_version", lambda: "0" * 12)
    os.kill(pid_of(embedder), signal.SIGKILL)
    until(lambda: "another version" in str(encoder.health().fatal))
    with pytest.raises(Unavailable):
        encode(embedder, "a")


def test_a_process_that_dies_before_it_loads_is_started_less_and_less_often(
    clients: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nif 'serving' in str(__import__('sys').orig_argv): os._exit(9)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(client_module, "PATIENCE_S", 0.0)
    worker = clients()
    with pytest.raises(Unavailable, match="exit code 9"):
        worker.load()
    with pytest.raises(Unavailable, match="ended 1 times") as caught:
        worker.load()
    assert caught.value.retry_after_s
    assert "log" not in str(caught.value.short)


KILLED_ONCE = """
import os, sys
if "serving.model_process" in sys.orig_argv:
    import embedders
    from embedders.fake import FakeEmbedder

    def build(spec, settings):
        if os.path.exists(os.environ["KILL_ONCE"]):
            os.unlink(os.environ["KILL_ONCE"])
            os.kill(os.getpid(), 9)
        return FakeEmbedder(spec.model_name, 8, 64)

    embedders.EMBEDDERS["fake"] = build
"""


def test_a_process_that_is_killed_while_it_loads_is_started_again_soon(
    clients: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLED_ONCE)
    once = tmp_path / "once"
    once.touch()
    monkeypatch.setenv("KILL_ONCE", str(once))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    np.testing.assert_array_equal(encode(clients().load(), "a"), right(["a"]))
    assert not once.exists()


def test_the_stamp_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    before = stamp_of(str(tmp_path))
    (tmp_path / "a").write_text("another")
    assert before and stamp_of(str(tmp_path)) != before


REVISED = """
import os, sys
if "serving.model_process" in sys.orig_argv:
    import embedders
    from embedders.fake import FakeEmbedder

    def build(spec, settings):
        with open(os.environ["REVISION"]) as file:
            return FakeEmbedder(file.read(), 8, 64)

    embedders.EMBEDDERS["fake"] = build
"""


def test_a_model_whose_files_changed_is_not_served_under_its_old_fingerprint(
    clients: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(REVISED)
    revision = tmp_path / "revision"
    revision.write_text("tests/old")
    monkeypatch.setenv("REVISION", str(revision))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    old = clients().load()
    revision.write_text("tests/new")
    os.kill(pid_of(old), signal.SIGKILL)
    until(lambda: "its files changed" in str(old.health.away))
    new = clients().load()
    assert new.facts.fingerprint != old.facts.fingerprint
    np.testing.assert_array_equal(encode(new, "a"), [FakeEmbedder("tests/new", 8, 64).vector("a")])
    with pytest.raises(Unavailable):
        encode(old, "a")
    assert "its files changed" in str(old.health.away)


def test_a_closed_model_is_freed_and_a_process_without_clients_is_let_go(
    clients: Callable[..., Client], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "UNUSED_ROUNDS", 1)
    one, other = clients(), clients()
    first, second = one.load(), other.load()
    first.close()
    np.testing.assert_array_equal(encode(second, "a"), right(["a"]))
    second.close()
    socket_path(folder, "cpu").unlink()
    until(lambda: not processes_in(folder))


def test_a_generic_call_never_starts_a_process(
    clients: Callable[..., Client], folder: Path
) -> None:
    worker = clients()
    with pytest.raises(Unavailable):
        worker.processes.call("cache.status", {})
    assert not processes_in(folder)


def test_who_let_go_starts_no_process_again(clients: Callable[..., Client], folder: Path) -> None:
    worker = clients()
    worker.load().close()
    pid = worker.processes.of("cpu")[0].pid
    worker.close()
    with pytest.raises(Unavailable, match="stopping"):
        worker.load()
    assert processes_in(folder) in ([], [pid])


def test_each_gpu_has_a_process_that_sees_only_it(clients: Callable[..., Client]) -> None:
    worker = clients(["GPU-a", "GPU-b"])
    spec, devices = FAKE, Config(device="auto")
    assert worker.build.devices(spec, devices) == ("cuda:0", "cuda:1")
    assert worker.build.devices(spec, Config(device="cuda:1")) == ()
    pinned = spec.model_copy(update={"devices": ("cuda:1",)})
    assert worker.build.devices(pinned, devices) == ("cuda:1",)
    places = worker.encoder(spec, device="auto").places
    names = [place.name for place in places]
    assert names == ["cuda:0#0", "cuda:1#1"]
    seen = []
    for place in places:
        assert isinstance(place.encoder.embedder, ProcessEmbedder)
        seen.append(environment_of(pid_of(place.encoder.embedder))[CUDA])
    assert seen == ["GPU-a", "GPU-b"]


def environment_of(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(row.split("=", 1) for row in rows if "=" in row)


def test_a_lost_gpu_drops_only_its_replicas(clients: Callable[..., Client]) -> None:
    encoder = clients(["GPU-a", "GPU-b"]).encoder(device="auto")
    until(lambda: [row["status"] for row in encoder.status() or ()] == ["up", "up"])
    first = encoder.places[0].encoder.embedder
    assert isinstance(first, ProcessEmbedder)
    os.kill(pid_of(first), signal.SIGKILL)
    for i in range(20):
        items = first.prepare([f"text {i}"], Prompt(), "right") if is_up(first) else None
        if items:
            np.testing.assert_array_equal(encoder.encode(items).vectors, right([f"text {i}"]))
    until(lambda: [row["status"] for row in encoder.status() or ()] == ["up", "up"])


def test_minilm_gives_the_same_vectors_there_as_here(
    clients: Callable[..., Client], real_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = real_app.extensions["services"].engine.registry.default
    here: Embedder = model.loaded.embedder
    there = clients().build(model.spec, model.settings)
    texts = ["a short text", "", "ünïcode 漢字", "long " * 400]
    assert there.facts == here.facts
    one, other = (each.prepare(texts, Prompt(), "right") for each in (there, here))
    assert one == other
    np.testing.assert_allclose(there.encode(one).vectors, here.encode(other).vectors, atol=1e-5)
    monkeypatch.setattr(there, "preparer", None)  # as for a model that the library runs
    again = there.prepare(texts, Prompt(), "right")
    assert [list(item.payload) for item in again] == [list(item.payload) for item in other]
    there.close()


def test_a_process_that_takes_the_place_of_another_gets_the_limits_of_now(
    clients: Callable[..., Client],
) -> None:
    encoder = clients().encoder(HURTING, max_batch_size=64)
    encoder.limit(Limits(None, 1024, 70.0))
    embedder = encoder.embedder
    assert isinstance(embedder, ProcessEmbedder)
    sent = settings_of(embedder._settings)
    assert (sent["max_queue_tokens"], sent["interactive_p99_ms"]) == (1024, 70.0)
    assert Limits.of(embedder._spec, embedder._settings) == Limits(None, 1024, 70.0)
    pid = pid_of(embedder)
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_up(embedder))
    assert pid_of(embedder) != pid


def test_a_model_that_cannot_be_loaded_says_why(clients: Callable[..., Client]) -> None:
    with pytest.raises(ModelUnavailable, match="nowhere"):
        clients().load(ModelSpec(id="none", model_name="/nowhere/at/all"))
