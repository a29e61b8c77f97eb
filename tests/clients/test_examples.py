"""Every example runs against a live service by its one command, and does what it says."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openai
import pytest
import requests
from langchain_openai import OpenAIEmbeddings

from tests.conftest import ROOT

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def run(url: str, name: str, *words: str, given: str = "", **env: str) -> tuple[str, str]:
    """Run an example as a person would; return what it printed, and its standard error."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *words], input=given, capture_output=True, text=True,
        timeout=120, cwd=ROOT, env={**os.environ, "EMBEDDING_URL": url, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_requests_finds_the_answer_that_fits(real_url: str) -> None:
    other, right, truncated = run(real_url, "with_requests.py")[0].splitlines()
    assert float(right.split()[0]) > float(other.split()[0]) + 0.2
    assert truncated.startswith("0 texts")


def test_openais_client_gets_vectors_and_a_refusal(real_url: str) -> None:
    said = run(real_url, "with_openai.py")[0].splitlines()
    assert said[0] == "2 vectors of 384 numbers"
    assert said[1].startswith("8 tokens")
    assert said[2:] == ["or of 64 numbers", "refused: input_too_long"]


def test_coheres_client_finds_by_vectors_of_bits(real_url: str) -> None:
    first, *others = run(real_url, "with_cohere.py")[0].splitlines()
    assert first.endswith("of 384 bits differ: Rain is expected tomorrow.")
    assert len(others) == 2


def test_langchain_works_in_both_ways(real_url: str) -> None:
    cut, split = run(real_url, "with_langchain.py")[0].splitlines()
    assert cut.startswith("cut by the service") and "meeting" not in cut
    assert split.startswith("split by LangChain") and "meeting" in split


def test_llamaindex_finds_by_meaning(real_url: str) -> None:
    first, _ = run(real_url, "with_llamaindex.py")[0].splitlines()
    assert first.endswith("Rain is expected tomorrow.")


def test_duplicates_in_other_words_are_dropped(real_url: str) -> None:
    lines = ["How do I reset my password?", "Where is my parcel?", "How can I reset my password?"]
    kept, said = run(real_url, "deduplicate.py", given="\n".join(lines))
    assert kept.splitlines() == lines[:2]
    assert f"{lines[2]}  =  {lines[0]}" in said
    kept, _ = run(real_url, "deduplicate.py", "1.1", given="\n".join(lines))
    assert kept.splitlines() == lines


class Chat(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible chat server does, with the prompt it was given."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": f"{self.path} {body['messages'][0]['content']}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        data = json.dumps({**reply, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def llm_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def notes(tmp_path: Path) -> str:
    (tmp_path / "cats.md").write_text("# Cats\n\nCats sleep all day. Their milk must be warm.\n")
    (tmp_path / "headings.md").write_text("# Dogs\n\n## Barking\n")  # and nothing to store
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "rain.txt").write_text("It rains in spring.\n\nThe roof leaks when it rains.\n")
    return str(tmp_path)


def test_a_folder_answers_with_the_sentence_that_fits(real_url: str, notes: str) -> None:
    answer, sources = run(real_url, "rag.py", "How warm should milk be?", notes)[0].splitlines()
    assert answer == "Their milk must be warm."
    assert sources.startswith("from: cats.md, paragraph 1")


def test_a_language_model_is_given_the_passages(real_url: str, notes: str, llm_url: str) -> None:
    asked = "How warm should milk be?"
    said, _ = run(real_url, "rag.py", asked, notes, LLM_URL=llm_url, LLM_MODEL="any")
    assert said.startswith("/v1/chat/completions Answer from these passages only")
    assert "Their milk must be warm." in said and asked in said


def test_the_rag_example_has_40_lines() -> None:
    lines = (ROOT / "examples" / "rag.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) <= 40


def test_passages_are_found_and_put_in_order_by_a_reranker(kinds_url: str, notes: str) -> None:
    asked = "Cats sleep all day."
    best, *_ = run(kinds_url, "retrieve_then_rerank.py", asked, notes)[0].splitlines()
    score, passage = best.split("  ", 1)
    assert passage == repr("Cats sleep all day. Their milk must be warm.\n")
    assert 0.5 < float(score) < 1


def test_the_rerank_example_has_30_lines() -> None:
    lines = (ROOT / "examples" / "retrieve_then_rerank.py").read_text().splitlines()
    assert sum(1 for line in lines if line.strip()) <= 30


def test_every_example_is_run_here_and_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    for name in EXAMPLES:
        assert f'"{name}"' in Path(__file__).read_text(), f"{name} is not run"
        assert f"]({name})" in listed, f"{name} is not listed"


@pytest.fixture
def langchain_left_to_itself(real_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenAIEmbeddings:
    """OpenAIEmbeddings that sends OpenAI's real token ids, of LlamaIndex's copy."""
    import llama_index.core

    cache = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    return OpenAIEmbeddings(model="minilm", base_url=f"{real_url}/v1", api_key="unused")


def test_openais_ids_are_refused_where_they_can_be_told(
    langchain_left_to_itself: OpenAIEmbeddings,
) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        langchain_left_to_itself.embed_query("Photosynthesis in chloroplasts, thermodynamically")


def test_openais_ids_of_common_words_are_other_words(
    langchain_left_to_itself: OpenAIEmbeddings, real_url: str
) -> None:
    """What examples/README.md warns of: why one of the two ways must be taken."""
    text = "hello world"
    got = langchain_left_to_itself.embed_query(text)
    true = requests.post(f"{real_url}/embed", json={"texts": text}, timeout=60).json()
    assert np.dot(got, true["embeddings"][0]) < 0.5
