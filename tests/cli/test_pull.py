"""`pull` downloads what the service would, from a loopback hub, and shows how far it is."""

import logging
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedders import downloads
from tests.cli.conftest import run
from tests.conftest import ROOT, free_port, running, write_models
from tests.embedders.repositories import like_bge_m3
from tests.servers.hub import Hub

NAME = "org/small"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return like_bge_m3(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(autouse=True)
def published(hub: Hub, weights: Path, empty: Path) -> Hub:
    hub.add(NAME, weights)
    return hub


def downloaded(hub: Hub) -> list[str]:
    return [line for line in hub.asked if line.startswith("GET ") and "/resolve/" in line]


def test_a_model_is_downloaded_once_and_described(hub: Hub, tmp_path: Path) -> None:
    words = ("pull", NAME, "--cache", tmp_path / "cache", "--json")
    done = run(*words)
    assert done.code == 0, done.err
    folder = Path(done.json["folder"])
    assert (folder / "model.safetensors").is_file() and folder.is_relative_to(tmp_path / "cache")
    assert done.json["kind"] == "sentence_transformer" and done.json["bytes"] > 1000
    first = downloaded(hub)
    assert first and run(*words).code == 0 and downloaded(hub) == first
    said = run(*words[:-1]).out
    assert f"embedding-service serve --model {NAME}" in said and "one vector a text" in said


def test_an_id_of_the_models_file_is_the_model_that_it_names(tmp_path: Path) -> None:
    models = {"mine": {"model_name": NAME}, "far": {"type": "openai", "model_name": "x"}}
    file = str(write_models(tmp_path / "models.json", models))
    words = ("--cache", tmp_path / "cache", "--json")
    assert run("pull", "mine", *words, MODEL_CONFIG=file).json["model"] == NAME
    remote = run("pull", "far", *words, MODEL_CONFIG=file)
    assert remote.code == 1 and "nothing to download" in remote.json["error"]
    served = {"far": {"type": "huggingface", "model_name": NAME}}
    file = str(write_models(tmp_path / "models.json", served))
    assert run("pull", NAME, *words, MODEL_CONFIG=file).json["model"] == NAME


def test_what_the_service_would_not_load_is_not_downloaded(hub: Hub, tmp_path: Path) -> None:
    done = run("pull", "org/small-GGUF", "--cache", tmp_path / "cache")
    assert done.code == 1 and "GGUF" in done.err and not downloaded(hub)


def test_a_model_that_is_not_there_is_told_in_a_line(hub: Hub, tmp_path: Path) -> None:
    done = run("pull", "org/none", "--cache", tmp_path / "cache")
    assert done.code == 1 and "org/none" in done.err.splitlines()[-1] and not done.out
    hub.stop()
    done = run("pull", NAME, "--cache", tmp_path / "cache")
    assert done.code == 1 and "the hub cannot be reached" in done.err


def test_a_download_is_told_every_few_seconds_in_a_log(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downloads, "FIRST_S", 0.05)
    monkeypatch.setattr(downloads, "EVERY_S", 0.05)
    hub.held = threading.Event()

    class Seen(logging.Handler):
        """Lets the download go on when some of it was told."""

        def emit(self, record: logging.LogRecord) -> None:
            if re.search(r"downloading org/small: [\d.]+ of [\d.]+ MB", record.getMessage()):
                said.append(record.getMessage())
                assert hub.held is not None
                hub.held.set()

    said: list[str] = []
    handler = Seen()
    logging.getLogger("embedders").addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "embedders"):
            assert run("pull", NAME, "--cache", tmp_path / "cache").code == 0
    finally:
        logging.getLogger("embedders").removeHandler(handler)
    assert said and "\r" not in said[0]


def test_a_first_download_of_the_service_is_told_in_its_log(hub: Hub, tmp_path: Path) -> None:
    """The hub holds the weights back until the service has said how many there are."""
    hub.held, port = threading.Event(), free_port()
    command = [sys.executable, str(ROOT / "cli.py"), "serve", "--model", NAME, "--port", str(port),
               "--host", "127.0.0.1", "--data", str(tmp_path / "data")]  # fmt: skip
    env = {"HF_ENDPOINT": hub.url, "EMBEDDING_MODEL_CACHE_DIR": str(tmp_path / "cache")}
    told = re.compile(r"INFO embedders: downloading org/small: [\d.]+ of [\d.]+ MB in \d+ s")
    with running(command, port, env, ready="/health/live", cold=True) as server:
        end = time.monotonic() + 300
        while not told.search(log := server.log.read_text()):
            assert time.monotonic() < end, log
            time.sleep(0.1)
        hub.held.set()
    assert "\r" not in log and "|" not in log  # no bar


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    yield ours, theirs
    os.close(ours)


def test_a_download_is_a_bar_on_a_terminal(
    hub: Hub, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    """A process of its own, whose standard error is a terminal; the hub waits for the bar."""
    hub.held, (ours, theirs) = threading.Event(), terminal
    command = [sys.executable, str(ROOT / "cli.py"), "pull", NAME, "--cache", str(tmp_path / "c")]
    env = {**os.environ, "HF_ENDPOINT": hub.url}
    env.pop("TQDM_DISABLE", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=env) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the terminal is closed: the process ended
                break
            shown += piece
            if re.search(rb"org/small:\s+\d+%", shown):
                hub.held.set()
        assert process.wait(60) == 0, shown
    assert b"org/small:" in shown and b"\r" in shown
