"""`check`: the settings here, and each route of a running service."""

from pathlib import Path

from tests.cli.conftest import run
from tests.conftest import free_port, write_models

FAKE = {"fake": {"type": "fake", "model_name": "tests/fake"}}


def test_every_route_is_walked_after_the_settings(at: str, empty: Path) -> None:
    """All is well but the meaning of the texts, which a fake model does not know."""
    done = run("check", EMBEDDING_API_KEY="emb_unknown")
    assert done.code == 1, done.out
    assert "ok    settings" in done.out and "warn" not in done.out
    assert "ok    POST /v1/embeddings" in done.out and "FAIL  meaning" in done.out
    answer = run("check", "--json").json
    ended = {each["title"]: each["state"] for each in answer["checks"]}
    assert answer["failed"] == 1 and ended.pop("meaning") == "FAIL"
    assert set(ended.values()) == {"ok", "skip"}


def test_the_settings_alone_can_be_checked(empty: Path) -> None:
    file = str(write_models(empty / "models.json", FAKE))
    assert run("check", "--settings", MODEL_CONFIG=file).code == 0
    done = run("check", "--settings", MODEL_CONFIG=file, THREADS="1", DEVICE="toaster")
    assert done.code == 2 and "FAIL  settings" in done.out and "toaster" in done.out
    odd = run("check", "--settings", MODEL_CONFIG=file, EMBEDDING_MODLE="x")
    assert odd.code == 0 and "warn  settings" in odd.out and "EMBEDDING_MODLE" in odd.out


def test_the_exit_code_counts_what_fails(empty: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = run("check", "--url", url)
    failed = done.out.count("FAIL  ")
    assert done.code == failed > 5
    assert run("check", "--url", "localhost:8001").code == 1
