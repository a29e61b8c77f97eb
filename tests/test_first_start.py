"""The first start on a new machine: quiet, and it tells what takes long."""

import functools
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from embedders.progress import LoggedBar
from factory import create_app
from tests.conftest import ROOT, free_port, running
from tests.faults.conftest import until

# As a record begins.
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (\w+) ([\w.]+): ")


@contextmanager
def first_start(folder: Path, *, cold: bool = False, **env: str) -> Iterator[tuple[str, Path]]:
    """Run the service as someone does who has an empty home; give its URL and its log."""
    port, home = free_port(), folder / "home"
    home.mkdir()
    given = {"HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HOST": "127.0.0.1",
             "PORT": str(port), **env}  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "app:app"]
    with running(command, port, given, cold=cold) as process:
        yield f"http://127.0.0.1:{port}", process.log


def models_of(url: str) -> dict[str, dict[str, Any]]:
    """Return the models by id once none is loading any more."""
    found: list[dict[str, Any]] = []

    def settled() -> bool:
        found[:] = requests.get(f"{url}/models", timeout=30).json()["data"]
        return all(model["status"] != "loading" for model in found)

    until(settled)
    return {model["id"]: model for model in found}


def records(log: Path) -> list[tuple[str, str, str]]:
    """Return level, logger and text of each line. A line that is no record's fails."""
    lines = log.read_text().splitlines()
    found = [(line, LINE.match(line)) for line in lines]
    assert [line for line, match in found if match is None] == []
    return [(m[1], m[2], line[m.end() :]) for line, m in found if m is not None]


def test_what_ships_starts_without_a_warning_or_a_bar_and_serves_real_vectors(
    tmp_path: Path,
) -> None:
    with first_start(tmp_path, cold=True, EMBEDDING_DTYPE="float32") as (url, log):
        body = {"texts": "This is an example sentence"}
        (vector,) = requests.post(f"{url}/embed", json=body, timeout=30).json()["embeddings"]
        assert vector[:3] == pytest.approx([0.0676569, 0.0634959, 0.0487131], abs=1e-6)
        assert {name: model["status"] for name, model in models_of(url).items()} == {
            "minilm": "ready"
        }
        assert requests.get(f"{url}/health/ready", timeout=30).status_code == 200
        seen = records(log)
        assert requests.get(f"{url}/models", timeout=30).json()["data"][0]["backend"] == "onnx"
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["hub"]  # no tracker's id
    assert [record for record in seen if record[0] not in ("INFO", "DEBUG")] == []
    steps = [text for _, logger, text in seen if logger in ("embedders", "models")]
    wanted = [
        "loading minilm", "importing torch", "loaded sentence-transformers/", "comparing minilm",
        "minilm runs by", "minilm is ready in",
    ]  # fmt: skip
    found = [word for text in steps for word in wanted if text.startswith(word)]
    assert list(dict.fromkeys(found)) == wanted


def test_the_example_starts_too_and_what_lacks_a_key_or_a_hub_is_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "COHERE_API_KEY", "CO_API_KEY", "HF_TOKEN", "HF_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    nowhere = f"http://127.0.0.1:{free_port()}"
    example = str(ROOT / "model_config.example.json")
    with first_start(tmp_path, MODEL_CONFIG=example, HF_ENDPOINT=nowhere) as (url, log):
        models = models_of(url)
        assert requests.get(f"{url}/health", timeout=30).status_code == 200
        seen = records(log)
    assert models.pop("minilm")["status"] == "ready"
    assert list(models) == list(json.loads(Path(example).read_text())["models"])[1:]
    for name, model in models.items():
        assert model["status"] == "unavailable", name
        said = f"model {name} is unavailable: {model['reason']}"
        assert ("INFO", "models", said) in seen
    assert "the hub cannot be reached" in models["bge-small"]["reason"]
    assert "OPENAI_API_KEY" in models["openai-small"]["reason"]
    assert [record for record in seen if record[0] not in ("INFO", "DEBUG")] == []


def test_a_default_model_that_cannot_be_had_is_a_warning(config_of, caplog, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free_port()}")
    away = {"model_name": "nobody/has-this"}
    with caplog.at_level("INFO", "models"):
        create_app(config_of({"away": away}), wait=True)
    said = [record for record in caplog.records if "away is unavailable" in record.message]
    assert [record.levelname for record in said] == ["WARNING"]


def test_a_long_step_is_told_in_lines_and_a_short_one_is_not(caplog, capsys) -> None:
    bar = functools.partial(LoggedBar, range(4), desc="Loading weights")
    with caplog.at_level("INFO", "embedders"):
        assert list(bar()) == [0, 1, 2, 3]
        assert caplog.messages == []
        assert list(bar(delay=0, mininterval=0)) == [0, 1, 2, 3]
    assert "Loading weights: 50% in 0 s" in caplog.messages
    assert capsys.readouterr().err == ""
