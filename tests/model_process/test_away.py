"""A model process that hangs, is out of reach or cannot start: who is told, what comes next."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from errors import Unavailable
from server.peers import listeners, see_end, state_of
from serving.model_process import client as client_module
from serving.model_process import starting
from serving.model_process.embedder import stamp_of
from serving.model_process.folder import code_version
from tests.faults.conftest import until
from tests.model_process.clients import Client, encode, is_up, pid_of, processes_in
from tests.model_process.hand import right

# A call of the C library that keeps the interpreter, as native code that hangs does.
HANGING = """
import ctypes, os, sys
if "serving.model_process" in sys.orig_argv:
    import embedders
    from embedders.fake import FakeEmbedder

    class Hanging(FakeEmbedder):
        def encode(self, items, deadline=None):
            if any("hang" in str(item.payload) for item in items):
                ctypes.PyDLL(None).sleep(600)
            return super().encode(items, deadline)

    embedders.EMBEDDERS["fake"] = lambda *_: Hanging("tests/fake", 8, 64)
"""


def test_a_process_whose_interpreter_hangs_is_refused_and_replaced(
    clients: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(client_module, "SILENT_S", 2.0)
    monkeypatch.setattr(client_module, "STOPPED_S", 1.0)
    embedder = clients().load()
    hanging, failures = pid_of(embedder), []

    def ask() -> None:
        with pytest.raises(Unavailable) as caught:
            encode(embedder, "hang")
        failures.append(caught.value)

    waiting = threading.Thread(target=ask)
    waiting.start()
    until(lambda: "does not answer" in str(embedder.process.away))
    with pytest.raises(Unavailable):
        encode(embedder, "a")
    waiting.join()
    assert failures
    until(lambda: is_up(embedder))
    assert pid_of(embedder) != hanging
    assert state_of(hanging) in (None, "Z")


def test_a_process_that_a_debugger_stopped_is_refused(clients: Callable[..., Client]) -> None:
    embedder = clients().load()
    pid = pid_of(embedder)
    # A traced process is in state `t`, not `T`.
    code = (
        "import ctypes, os, sys, time\n"
        "trace = ctypes.CDLL(None, use_errno=True).ptrace\n"
        f"failed = trace(0x4206, {pid}, None, None) or trace(0x4207, {pid}, None, None)\n"
        "print(ctypes.get_errno() if failed else 'attached', flush=True)\n"
        "sys.stdin.read()\n"
    )
    debugger = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert debugger.stdout is not None
        if (said := debugger.stdout.readline().strip()) != "attached":
            pytest.skip(f"this machine lets no process trace another (error {said})")
        until(lambda: state_of(pid) == "t")
        until(lambda: "stopped" in str(embedder.health.away))
        with pytest.raises(Unavailable, match="stopped"):
            encode(embedder, "a")
    finally:
        debugger.communicate("")  # the kernel lets a traced process go on
    until(lambda: is_up(embedder))
    assert pid_of(embedder) == pid


def test_a_call_to_what_workers_share_takes_about_a_second_at_most(
    clients: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STATUS_EVERY_S", 60.0)
    worker = clients()
    embedder = worker.load()
    monkeypatch.setattr("server.peers.is_stopped", lambda pid: False)  # as one that hangs
    os.kill(pid_of(embedder), signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="too long"):
            worker.processes.call("cache.status", {})
    finally:
        os.kill(pid_of(embedder), signal.SIGCONT)
    until(lambda: is_up(embedder))


def test_a_link_that_leads_nowhere_is_no_part_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("one")
    before = stamp_of(str(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert stamp_of(str(tmp_path)) == before != []


def test_a_removed_run_folder_is_made_again_and_one_process_serves_all_workers(
    clients: Callable[..., Client], folder: Path
) -> None:
    loaded = [clients().load() for _ in range(2)]
    old = pid_of(loaded[0])
    shutil.rmtree(folder)
    until(lambda: folder.exists() and all(is_up(each) for each in loaded))
    assert folder.stat().st_mode & 0o777 == 0o700
    until(lambda: len({pid_of(each) for each in loaded} - {old}) == 1)
    until(lambda: processes_in(folder) == [pid_of(loaded[0])])
    for each in loaded:
        np.testing.assert_array_equal(encode(each, "a"), right(["a"]))


def test_a_run_folder_that_cannot_be_made_again_is_told_and_waited_for(
    clients: Callable[..., Client], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = clients().load()
    moved = folder.parent / "moved"
    folder.rename(moved)
    folder.write_text("in its place")
    until(lambda: "is no folder" in str(embedder.health.away))
    with pytest.raises(Unavailable):
        encode(embedder, "a")
    time.sleep(1.0)
    assert sum("is no folder" in each.getMessage() for each in caplog.records) < 20
    folder.unlink()
    until(lambda: is_up(embedder))


def test_a_start_that_the_system_refuses_is_told_and_tried_again_with_pauses(
    clients: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = clients().load()
    tries = []

    def refuse(*_: object, **__: object) -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", refuse)
        full.setattr(starting, "_note_start", lambda _: None)
        os.kill(pid_of(embedder), signal.SIGKILL)
        until(lambda: "No space left" in str(embedder.health.away))
        time.sleep(1.0)
        assert len(tries) < 20
    until(lambda: is_up(embedder))
    assert embedder.process.problem is None


def test_a_full_disk_is_no_reason_to_start_nothing(tmp_path: Path) -> None:
    starting._note_start(tmp_path / "no such folder" / "cpu.starts")


def test_a_stopped_process_that_its_workers_left_is_killed_by_the_next_one(
    clients: Callable[..., Client], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "HELLO_S", 0.5)
    first = clients()
    stopped = pid_of(first.load())
    os.kill(stopped, signal.SIGSTOP)
    first.processes.close()
    embedder = clients().load()
    np.testing.assert_array_equal(encode(embedder, "a"), right(["a"]))
    assert pid_of(embedder) != stopped
    until(lambda: state_of(stopped) in (None, "Z"))


def test_the_end_of_a_service_ends_a_process_that_cannot_end_itself(
    clients: Callable[..., Client], folder: Path
) -> None:
    worker = clients()
    stopped = pid_of(worker.load())
    os.kill(stopped, signal.SIGSTOP)
    worker.close()
    found = listeners(folder)
    assert found == [stopped]
    see_end(found)
    until(lambda: state_of(stopped) in (None, "Z"))


def test_a_process_without_its_run_folder_ends_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.model_process", str(tmp_path / "gone"), "cpu"]
    done = subprocess.run(
        [*command, code_version()], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "is not there" in done.stderr
