"""What the service shows of itself, with one worker and with four."""

import json
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from observability import machine, metrics
from tests.faults.conftest import until
from tests.ops.conftest import Watched


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


REQUESTS = 'embedding_requests_total{method="POST",route="/embed",status="200"}'
TEXTS = 'embedding_texts_total{model="fake"}'


def test_every_request_and_text_is_counted_on_both_ports(watched: Watched) -> None:
    before = watched.get("/metrics")[0].decode()
    for _ in range(30):
        watched.embed(["a b", "c"])
    for text in (
        watched.get("/metrics")[0].decode(),
        watched.get("/metrics", watched.metrics_port)[0].decode(),
    ):
        assert value(text, REQUESTS) - value(before, REQUESTS) == 30
        assert value(text, TEXTS) - value(before, TEXTS) == 60
        assert value(text, 'embedding_queue_texts{lane="interactive",model="fake"}') == 0
        assert value(text, "embedding_process_memory_bytes") > 20e6


def test_a_model_is_shown_as_ready_once_every_worker_has_it(watched: Watched) -> None:
    series = 'embedding_model_ready{default="true",model="fake"}'
    until(lambda: value(watched.get("/metrics")[0].decode(), series) == 1)


def test_the_service_tells_what_it_is_and_how_much_room_it_has(watched: Watched) -> None:
    text = watched.get("/metrics", watched.metrics_port)[0].decode()
    [build] = [line for line in text.splitlines() if line.startswith("embedding_build_info{")]
    assert all(f'{label}="' in build for label in ("version", "python", "torch"))
    assert build.endswith(" 1.0")
    for folder in ("data", "store"):
        assert value(text, f'embedding_disk_free_bytes{{folder="{folder}"}}') > 0
    started = value(text, "embedding_process_start_time_seconds")
    assert time.time() - 3600 < started <= time.time() + 1
    for part in ("settings", "database", "cache", "provider_keys", "store", "limits"):
        assert f'embedding_degraded{{part="{part}"}} 0.0' in text


def test_what_is_done_with_collections_is_counted_and_their_size_is_known(watched: Watched) -> None:
    series = 'embedding_vector_operations_total{{operation="{}",outcome="{}"}}'

    def shown(name: str) -> float:
        return value(watched.get("/metrics")[0].decode(), name)

    before = shown("embedding_store_bytes")
    watched.send("POST", "/collections", {"name": "counted", "dimension": 500})
    for i in range(20):
        items = [{"id": f"{i}-{j}", "vector": [1.0 + j] * 500} for j in range(20)]
        assert watched.send("POST", "/collections/counted/vectors", {"vectors": items}) == 201
        asked = {"vector": [1.0] * 500, "k": 1}
        assert watched.send("POST", "/collections/counted/search", asked) == 200
    assert watched.send("GET", "/collections/counted/vectors/none") == 404
    assert watched.send("POST", "/collections/counted/search", {"vector": [1.0]}) == 400
    assert shown(series.format("upsert", "ok")) == shown(series.format("search", "ok")) == 20
    assert shown(series.format("create", "ok")) == 1
    assert shown(series.format("search", "dimension_mismatch")) == 1
    until(lambda: shown("embedding_store_bytes") > before + 1.5e6)
    assert shown("embedding_store_collections") == 1
    assert watched.send("DELETE", "/collections/counted") == 200
    until(lambda: shown("embedding_store_collections") == 0)
    until(lambda: shown("embedding_store_bytes") < before + 1e6)


def test_cut_inputs_and_padding_are_counted(watched: Watched) -> None:
    before = watched.get("/metrics")[0].decode()
    watched.embed(["w " * 40, "a"])
    text = watched.get("/metrics")[0].decode()
    cut = 'embedding_truncated_inputs_total{model="fake"}'
    padding = 'embedding_padding_tokens_total{model="fake"}'
    assert value(text, cut) - value(before, cut) == 1
    assert value(text, padding) - value(before, padding) == 15


def test_a_program_may_ask_for_the_sums_as_json(watched: Watched) -> None:
    body, headers = watched.get("/metrics", Accept="application/json")
    assert headers["Content-Type"] == "application/json"
    assert {"requests_total", "tokens_total", "memory_bytes"} <= set(json.loads(body))


def test_every_reply_says_what_it_took(watched: Watched) -> None:
    assert re.fullmatch(r"total;dur=[\d.]+", watched.get("/health")[1]["Server-Timing"])


def test_a_pass_tells_how_full_it_was(watched: Watched) -> None:
    before = watched.get("/metrics")[0].decode()
    watched.embed(["w " * 16] * 256)  # half of the 512 that EMBEDDING_MAX_BATCH_SIZE allows
    text = watched.get("/metrics")[0].decode()
    series = 'embedding_pass_fill_ratio_{}{{model="fake"}}'
    share, passes = (value(text, series.format(x)) - value(before, series.format(x))
                     for x in ("sum", "count"))  # fmt: skip
    assert passes >= 1 and share > 0
    assert value(text, 'embedding_pass_fill_ratio_bucket{le="1.0",model="fake"}') == value(
        text, series.format("count")
    )


def test_the_three_health_routes_answer(watched: Watched) -> None:
    assert json.loads(watched.get("/health/live")[0]) == {"status": "alive"}
    assert json.loads(watched.get("/health/ready")[0]) == {"status": "ready"}
    assert json.loads(watched.get("/health")[0])["status"] == "healthy"


def test_a_file_that_is_just_being_made_spoils_no_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = MmapedDict(str(tmp_path / "counter_1.db"))
    numbers.write_value(mmap_key("made", "made_total", [], [], "Made."), 3.0, 0.0)
    (tmp_path / "counter_2.db").touch()  # what another worker's looks like for an instant
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert value(metrics.exposition().decode(), "made_total") == 3
    numbers.close()


def test_the_time_on_the_cpu_never_becomes_less_when_a_worker_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker of 5 s beside ours of 3 s ends while the numbers are read."""
    us, other, master = 11, 12, os.getppid()
    facts = {us: {"cpu_seconds": 3.0}, other: {"cpu_seconds": 5.0}, master: {}}
    listed = iter([[us, other], [us], [us]])  # it is gone when the second is listed
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")
    monkeypatch.setattr(machine, "facts_of", facts.get)

    def workers() -> list[int]:
        pids = next(listed)
        facts[master]["ended_cpu_seconds"] = 0.0 if other in pids else 5.0
        return pids

    monkeypatch.setattr(machine, "_workers", workers)
    assert [machine._cpu_seconds() for _ in range(2)] == [8.0, 8.0]


def test_a_gpu_that_cannot_tell_its_use_still_tells_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failed(Exception):
        """What a part of a GPU (MIG) answers when it is asked for its use."""

    def use(handle: int) -> None:
        raise Failed

    library = SimpleNamespace(
        NVMLError=Failed, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetUtilizationRates=use,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=3, total=10),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    text = metrics.exposition().decode()
    assert value(text, 'embedding_gpu_memory_used_bytes{gpu="0"}') == 3
    assert value(text, 'embedding_gpu_memory_bytes{gpu="0"}') == 10
    assert "embedding_gpu_utilization_ratio{" not in text
