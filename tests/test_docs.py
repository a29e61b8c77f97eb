"""What the documentation shows is what happens: its snippets are run, its lists are complete."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Config, ModelSpec
from config.fields import names_of
from config.models import read_catalogue
from embedders.base import Prompt
from embedders.providers import Providers
from factory import create_app
from routes import ROUTES
from settings.__main__ import page
from settings.keys import KEYS
from tests.conftest import ROOT, write_models
from tests.providers.conftest import loopback
from tests.providers.server import KEY, FakeProvider, vector
from tests.test_layout import modules, owner

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BEFORE_THE_LINKS, _ = README.split("\n## More\n")
A_KEY = "9c1185a5c5e9fc54612808977ee8f548"
# Commands that a test cannot run inside itself, and what shows them instead.
SHOWN_ELSEWHERE = {
    "make run": "test_first_start.py starts what it starts",
    "docker build": "test_docker_lines.py; no container engine runs here",
}


def like(got: object, shown: object, path: str = "") -> None:
    """Assert that an answer has the shown keys and, but for times, the shown values."""
    if isinstance(shown, dict):
        assert isinstance(got, dict) and set(got) >= set(shown), path
        for key in shown:
            if not key.endswith("_ms"):
                like(got[key], shown[key], f"{path}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list) and len(got) == len(shown), path
        for i, (g, s) in enumerate(zip(got, shown, strict=True)):
            like(g, s, f"{path}.{i}")
    elif isinstance(shown, float):
        # bfloat16, where there is: the first 4 of 384 numbers, scaled up, are off by 0.007
        assert got == pytest.approx(shown, abs=1e-2), path
    else:
        assert got == shown, path


def run_shell(code: str, url: str, folder: Path) -> str:
    """Run a snippet against a service, in an empty folder."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code.replace("http://localhost:8001", url)],
        capture_output=True, text=True, timeout=60, cwd=folder, env={**os.environ, "KEY": A_KEY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def guarded_url(serve: Callable[..., str], tmp_path: Path) -> str:
    """A service with a key and a reranker."""
    fake = {"type": "fake", "model_name": "tests/fake"}
    ranker = {"type": "fake", "model_name": "tests/reranker+score"}
    models = write_models(tmp_path / "models.json", {"fake": fake, "ranker": ranker})
    return serve(
        MODEL_CONFIG=str(models), SUPPORTED_MODELS_FILE="/nonexistent", AUTH_ENABLED="true",
        API_KEY_SECRET=A_KEY,
    )  # fmt: skip


def test_every_shell_snippet_runs_and_answers_as_shown(real_url: str, tmp_path: Path) -> None:
    ran = []
    for (language, code), (following, shown) in pairwise([*SNIPPETS, ("", "")]):
        elsewhere = ("$KEY", "/rerank", *SHOWN_ELSEWHERE)
        if language != "bash" or any(word in code for word in elsewhere):
            continue
        out = run_shell(code, real_url, tmp_path)
        ran.append(code)
        if following == "json":
            like(json.loads(out), json.loads(shown))
    assert len(ran) == 3


def test_the_key_shown_opens_the_service_and_the_reranker_ranks(
    guarded_url: str, tmp_path: Path
) -> None:
    (signed,) = (code for _, code in SNIPPETS if '"Authorization: Bearer $KEY"' in code)
    assert len(json.loads(run_shell(signed, guarded_url, tmp_path))["embeddings"]) == 1
    with_other = signed.replace("$KEY", "another-key-of-nobody")
    assert "embeddings" not in run_shell(with_other, guarded_url, tmp_path)
    (ranked,) = (code for _, code in SNIPPETS if "/rerank" in code)
    ranked = ranked.replace("curl -s", f"curl -s -H 'Authorization: Bearer {A_KEY}'")
    results = json.loads(run_shell(ranked, guarded_url, tmp_path))["results"]
    assert sorted(row["index"] for row in results) == [0, 1]


def test_every_python_snippet_runs(real_url: str) -> None:
    snippets = [code for language, code in SNIPPETS if language == "python"]
    assert len(snippets) >= 2
    for code in snippets:
        code = "import warnings\nwarnings.simplefilter('error')\n" + code
        command = [sys.executable, "-c", code.replace("http://localhost:8001", real_url)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_every_model_named_is_one_that_works() -> None:
    listed = (ROOT / "docs" / "models.md").read_text()
    named = set(re.findall(r"BAAI/[\w-]+", BEFORE_THE_LINKS))
    assert named == {"BAAI/bge-m3", "BAAI/bge-reranker-v2-m3"}
    for name in named:
        assert re.search(rf"^\| {name} \| works", listed, re.MULTILINE), name


def test_the_model_file_shown_can_be_read(tmp_path: Path) -> None:
    shown = [code for language, code in SNIPPETS if language == "json" and '"models"' in code]
    assert shown
    for code in shown:
        file = tmp_path / "models.json"
        file.write_text(code)
        config = Config.model_validate({"model_config_file": file, "supported_models_file": "none"})
        assert read_catalogue(config)[0]


def test_the_readme_is_short_and_in_the_order_of_a_first_visit() -> None:
    assert len(BEFORE_THE_LINKS.split()) <= 900
    assert re.findall(r"^## (.+)", README, re.MULTILINE) == [
        "Run it", "Choose a model", "Set a key", "Embed", "Store and search", "Rerank", "Console",
        "Clients", "Numbers", "More",
    ]  # fmt: skip
    (picture,) = re.findall(r'<img src="([^"]+)"', README)
    assert (ROOT / picture).is_file() and README.index(picture) < README.index("## Run it")
    commands = [code.strip() for language, code in SNIPPETS if language == "bash"]
    assert commands[0] == "make run"
    for command in re.findall(r"`make (\w+)`", README):
        assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


ROWS = {  # of the README, and of docs/benchmarks.md
    "one text, 1 client, median ms": "`single`, 1 client, p50 ms",
    "one text, 32 clients, requests/s": "`single`, 32 clients, requests/s",
    "32 texts, 4 clients, texts/s": "`batch32`, 4 clients, texts/s",
    "start to ready, s": "start to ready, s",
    "peak memory, MB": "peak memory, MB",
}
COLUMNS = {"this": "ours", "Infinity": "Infinity", "Infinity, ONNX": "Infinity ONNX",
           "plain Flask": "plain Flask"}  # fmt: skip


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """Return the first table of a text by the first column, then by the head's names."""
    after = text[text.index("\n|") + 1 :]
    lines = takewhile(lambda line: line.startswith("|"), after.splitlines())
    head, _, *rows = ([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines)
    return {first: dict(zip(head[1:], cells, strict=True)) for first, *cells in rows}


def test_the_numbers_are_those_of_the_benchmarks() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    measured = rows_of(text[text.index("### Zen 4") :])
    shown = rows_of(README[README.index("## Numbers") :])
    assert set(shown) == set(ROWS)
    for row, cells in shown.items():
        theirs = measured[ROWS[row]]
        assert cells == {ours: theirs[name] for ours, name in COLUMNS.items()}, row


def test_every_client_named_has_its_row() -> None:
    page = (ROOT / "docs" / "clients.md").read_text().lower()
    for names in rows_of(README[README.index("## Clients") :]):
        for name in re.findall(r"[\w.]+", names.replace("container", "").replace("or ", "")):
            assert name.lower().removesuffix("'s") in page, name


def test_the_guide_to_the_code_names_every_room() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    for room in {owner(path) for path in modules()}:
        assert re.search(rf"`{room}(\.py|/)`", guide), f"{room} is not in CONTRIBUTING.md"


def test_the_configuration_page_is_the_settings_table() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == page(), "run: python -m settings > docs/configuration.md"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len([*filter(names_of, Config.model_fields.values())])
    for key in KEYS:
        assert sum(row.split(" | ")[-1].startswith(f"`{key}`") for row in rows) == 1, key


def test_every_page_is_linked_from_the_readme() -> None:
    for file in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{file.name}" in README, f"README.md does not link {file.name}"


OF_OTHERS = ("could not select device driver", "Connection in use", "0 GPUs")


def test_what_troubleshooting_quotes_is_what_the_service_says() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    rows = rows_of(page[page.index("## Troubleshooting") :])
    assert len(rows) > 10
    said = "\n".join(path.read_text() for path in modules())
    for seen in rows:
        for quoted in re.findall(r"`([^`/]+)`", seen):
            words = re.sub(r"\b0 CUDA", "{count} CUDA", quoted)
            assert words in said or quoted.startswith(OF_OTHERS), quoted


def test_every_dependency_has_its_reason() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert version, f"{name} is not pinned"
            assert re.search(rf"\b{re.escape(name.split('[')[0])}\b", design), name


def shown_to_contributors(name: str) -> str:
    """Return the one file that CONTRIBUTING.md shows in full and that has this name in it."""
    files = re.findall(r"^```python\n(.*?)^```", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    (code,) = (code for code in files if name in code)
    return str(code)


def test_the_dialect_shown_to_contributors_works_as_it_stands(
    config_of: Callable[..., Config],
) -> None:
    before = len(ROUTES)
    try:
        exec(shown_to_contributors("GeminiBody"), {"__name__": "routes.dialects.gemini"})
        client = create_app(config_of(), wait=True).test_client()
    finally:
        shown = ROUTES[before:]
        del ROUTES[before:]
    assert [row.tag for row in shown] == ["gemini"]
    path = "/v1beta/models/fake:embedContent"
    body = {"content": {"parts": [{"text": "a"}, {"text": "b"}]}, "taskType": "RETRIEVAL_QUERY"}
    reply = client.post(path, json=body)
    plain = {"input": "a\nb", "input_type": "query", "model": "fake"}
    wanted = client.post("/v1/embeddings", json=plain).json["data"][0]["embedding"]
    assert reply.json == {"embedding": {"values": wanted}}
    assert reply.headers["X-Truncated-Inputs"] == "0"
    for wrong, status in (({"content": 5}, 400), ({**body, "title": "x"}, 400)):
        error = client.post(path, json=wrong).json["error"]
        assert error["code"] == status and set(error) == {"code", "message", "status"}


def test_the_provider_shown_to_contributors_works_as_it_stands() -> None:
    shown: dict[str, Any] = {}
    exec(shown_to_contributors("VoyageEmbedder"), shown)
    server = FakeProvider()
    providers = Providers(loopback(), lambda name: KEY)
    try:
        spec = ModelSpec(
            id="v", model_name="voyage-3", base_url=f"{server.url}/v1", provider="voyage"
        )
        embedder = shown["VoyageEmbedder"](spec, providers)
        encoded = embedder.encode(embedder.prepare(["a", "b c"], Prompt(name="query"), "right"))
        np.testing.assert_array_equal(encoded.vectors, np.float32([vector("a"), vector("b c")]))
        assert encoded.tokens == [1, 2]
        _, headers, body = server.seen[0]
        assert (headers["Authorization"], body["input_type"]) == (f"Bearer {KEY}", "query")
    finally:
        providers.close()
        server.shutdown()
        server.server_close()


def test_every_file_that_contributors_are_sent_to_is_there() -> None:
    named = set(re.findall(r"`([\w./]+(?:\.\w+|/))`", CONTRIBUTING)) - {
        "embedders/voyage.py", "routes/dialects/gemini.py"
    }  # fmt: skip
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), f"CONTRIBUTING.md names {name}"


def test_links_in_the_docs_lead_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("examples/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", file.read_text()):
            if not target.startswith("http"):
                assert (file.parent / target).exists(), f"{file.name} links to {target}"


def test_a_wrong_answer_would_be_seen() -> None:
    """The control of the comparison above."""
    like({"a": [1.0], "x_ms": 3}, {"a": [1.001], "x_ms": 9})
    for wrong in ({"a": [1.1]}, {"a": [1.0, 2.0]}, {"b": 1}):
        with pytest.raises(AssertionError):
            like(wrong, {"a": [1.0]})
