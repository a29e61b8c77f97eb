"""What is wrong with the machine: no GPU, no memory, no hub, another time of day."""

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from observability.machine import has_nvidia
from tests.embedders.repositories import with_dense
from tests.faults.conftest import NO_REPLY, until


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small real model."""
    return str(with_dense(tmp_path_factory.mktemp("real") / "model"))


# ---- 35: no GPU where one is asked for


@pytest.mark.fault("Models and devices")
def test_a_gpu_that_was_asked_for_by_number_is_not_replaced_by_the_cpu(start, model) -> None:
    """The GPU of `DEVICE=cuda:0` is not there -> 503 with the reason, never the CPU."""
    service = start(
        app="app:app", ready="/health/live", SUPPORTED_MODELS=model, EMBEDDING_MODEL=model,
        DEVICE="cuda:0", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    until(lambda: b'"unhealthy"' in service.ask("/health")[2])
    status, _, body = service.ask("/health")
    assert status == 503 and "DEVICE=cuda:0: this machine has 0 CUDA devices" in body.decode()
    assert service.embed("a") == 503


@pytest.mark.skipif(has_nvidia(), reason="this machine shows an NVIDIA device or driver")
@pytest.mark.fault("Models and devices")
def test_cuda_without_any_nvidia_device_or_driver_is_the_cpu_and_health_says_so(
    start, model
) -> None:
    """No NVIDIA device or driver at all where `DEVICE=cuda` -> the CPU serves, and the log,
    `degraded` in `/health` and `embedding_degraded{part="device"}` say so.
    """
    service = start(app="app:app", SUPPORTED_MODELS=model, EMBEDDING_MODEL=model, DEVICE="cuda")
    status, _, body = service.ask("/health")
    assert status == 200 and json.loads(body)["device"] == "cpu"
    assert "no NVIDIA device or driver" in json.loads(body)["degraded"]
    assert any("DEVICE=cuda: this machine has no NVIDIA" in line for line in service.lines)
    until(lambda: b'embedding_degraded{part="device"} 1.0' in service.ask("/metrics")[2])
    assert service.embed("a") == 200


@pytest.mark.fault("Models and devices")
def test_auto_takes_the_cpu_where_there_is_no_gpu_and_health_names_it(start, model) -> None:
    """No GPU where `DEVICE=auto` -> the CPU serves, and `/health` names it."""
    service = start(
        app="app:app", SUPPORTED_MODELS=model, EMBEDDING_MODEL=model, DEVICE="auto",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert json.loads(service.ask("/health")[2])["device"] == "cpu"


# ---- 39: no memory for the model


@pytest.mark.fault("Process and machine")
def test_workers_killed_while_they_load_come_back_more_and_more_slowly(start, tmp_path) -> None:
    """Workers are killed while they load, out of memory -> each waits longer before it loads, up to
    a minute; `/health` is 503 with the reason.
    """
    killing = tmp_path / "killing"
    killing.write_text("kill")
    service = start(ready="/health/live", WHILE_LOADING=str(killing))

    def reason() -> str:
        try:
            status, headers, body = service.ask("/health", timeout=5)
        except NO_REPLY:
            return ""
        assert status == 503 and headers["Retry-After"]
        return str(json.loads(body)["reason"])

    until(lambda: "8 s after the start" in reason())  # the third: 2 and 4 s went before
    assert "out of memory" in reason()
    deaths = sum("was sent SIGKILL" in line for line in service.lines)
    assert 3 <= deaths <= 4
    killing.unlink()
    until(service.healthy)
    assert service.embed("a") == 200

    def waits() -> int:
        return sum("died while it loaded its models" in line for line in service.lines)

    waited = waits()
    assert waited >= 3
    service.process.send_signal(1)  # SIGHUP: the next worker has no reason to wait any more
    until(lambda: sum("fake is ready" in line for line in service.lines) == 2)
    assert waits() == waited


# ---- 53: no hub


@pytest.fixture
def silent_hub() -> Iterator[tuple[str, list[int]]]:
    """An address that takes connections and never answers, and a note of each it took."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with suppress(OSError), ExitStack() as held:
                while True:
                    held.enter_context(listener.accept()[0])
                    taken.append(1)

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.fault("Models and devices")
def test_a_hub_that_hangs_leaves_the_port_open(start, silent_hub, tmp_path) -> None:
    """The hub hangs, and the model is not cached -> the port is open; the model is 503."""
    url, taken = silent_hub
    service = start(
        app="app:app", ready="/health/live", HF_ENDPOINT=url,
        EMBEDDING_MODEL_CACHE_DIR=str(tmp_path),
        EMBEDDING_MODEL="some-org/some-model", SUPPORTED_MODELS="some-org/some-model",
    )  # fmt: skip
    until(lambda: taken)
    assert service.ask("/health")[0] == 503 and service.embed("a") == 503


@pytest.mark.fault("Models and devices")
def test_a_hub_that_hangs_does_not_delay_a_model_that_is_cached(
    start, silent_hub, model, tmp_path
) -> None:
    """The hub hangs -> a cached model starts without a call to it."""
    url, taken = silent_hub
    revision = "0" * 40
    cached = tmp_path / "models--some-org--some-model"  # as the hub's library keeps it
    whole = shutil.copytree(model, cached / "snapshots" / revision)
    (whole / "special_tokens_map.json").write_text("{}")  # without it the cache may hold a part
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    service = start(
        app="app:app", HF_ENDPOINT=url, EMBEDDING_MODEL_CACHE_DIR=str(tmp_path), DEVICE="cpu",
        EMBEDDING_MODEL="some-org/some-model", SUPPORTED_MODELS="some-org/some-model",
    )  # fmt: skip
    assert service.embed("a") == 200 and not taken
