"""What the clients gave: they run in environments of their own, and these are their answers."""

import base64
import json
import os
import subprocess
import sys
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT

CALLS = Path(__file__).parent / "calls"
LIBRARIES = Path(os.environ.get("CLIENT_LIBRARIES", ROOT / ".venv"))
PYTHON = LIBRARIES / "clients-python" / "bin" / "python"
NODE = LIBRARIES / "clients-npm"
OF_ALL = sorted(path.stem for path in CALLS.glob("of_*.py"))

QUERY = "How do I change the oil of a car?"
TEXTS = [
    "Warm the engine, then drain the old oil into a pan.",
    "The cat sleeps on the warm engine.",
    "ein Öl-Wechsel dauert 30 Minuten",
    "Photosynthesis turns light into sugar",
    "oil",
    "Stocks fell sharply on Monday, and oil rose.",
]
LONG = "a sentence of many words about oil and engines " * 60
Vectors = NDArray[np.float32]


class Answers:
    """What each call of a process gave, by its file and function; it runs when first read."""

    def __init__(self, given: dict[str, Any], home: Path, *command: str | Path) -> None:
        self._given, self._home, self._command = given, home, command

    def __getitem__(self, name: str) -> Any:
        """Return what a call gave. Fails the test if it gave nothing."""
        found = self._answers
        # A file that could not be imported failed as a whole, and so did a process that ended.
        answer = found.get(name) or found.get(name.partition(".")[0]) or found.get("")
        assert answer is not None, f"no such call: {name}"
        if "failed" in answer:
            pytest.fail(f"{name}:\n{answer['failed']}", pytrace=False)
        return answer["gave"]

    @cached_property
    def _answers(self) -> dict[str, dict[str, Any]]:
        if any(isinstance(word, Path) and not word.exists() for word in self._command):
            return {"": {"failed": "the clients are not installed: run tests/setup.sh"}}
        # Nothing of this process's environment: a key or a proxy there would change what is sent.
        env = {"PATH": os.environ["PATH"], "HOME": str(self._home), "LANG": "C.UTF-8",
               "HAYSTACK_TELEMETRY_ENABLED": "False"}  # fmt: skip
        try:
            done = subprocess.run(
                self._command, input=json.dumps(self._given), env=env, capture_output=True,
                text=True, timeout=300, cwd=self._home, check=True,
            )  # fmt: skip
        except subprocess.SubprocessError as exc:
            return {"": {"failed": f"{exc}\n{getattr(exc, 'stderr', '')}"}}
        answers: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return answers


def python_answers(given: dict[str, Any], home: Path) -> Answers:
    """Return the answers of the Python clients."""
    return Answers(given, home, PYTHON, CALLS / "run.py", *OF_ALL)


def cohere_7_answers(given: dict[str, Any], home: Path) -> Answers:
    """Return the answers of the newest Cohere client, which is among this process's libraries."""
    return Answers(given, home, sys.executable, CALLS / "run.py", "of_cohere")


def node_answers(given: dict[str, Any], home: Path) -> Answers:
    """Return the answers of Node's clients."""
    return Answers(given, home, "/usr/bin/env", "node", CALLS / "node.js", NODE)


class Raw:
    """Sends exactly what it is told, as a program without a client library does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._floats: dict[str, Vectors] = {}

    def send(
        self,
        path: str,
        body: object = None,
        *,
        method: str = "POST",
        kind: str = "application/json",
        **headers: str,
    ) -> tuple[int, Any]:
        """Return the status, and the JSON or the text of the reply."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        data = None if body is None else json.dumps(body).encode()
        head = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None and kind:
            head["Content-Type"] = kind
        connection.request(method, path, data, head)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, text

    def ask(self, path: str, body: object = None, **headers: str) -> Any:
        """Return the JSON of a reply that must be 200."""
        status, reply = self.send(path, body, **headers)
        assert status == 200, reply
        return reply

    def floats(self, inputs: Any = TEXTS, **fields: object) -> Vectors:
        """Return what `/v1/embeddings` gives: what every other way is compared with."""
        body = {"model": "minilm", "input": inputs, **fields}
        key = json.dumps(body)
        if key not in self._floats:
            rows = self.ask("/v1/embeddings", body)["data"]
            self._floats[key] = np.float32([row["embedding"] for row in rows])
        return self._floats[key]

    def ranks(self) -> list[tuple[int, float]]:
        """Return each text's index and score, the best first, as the native route has it."""
        body = {"model": "reranker", "query": QUERY, "documents": TEXTS}
        return [
            (row["index"], row["relevance_score"]) for row in self.ask("/rerank", body)["results"]
        ]


def same(got: Any, expected: Vectors) -> None:
    """Assert that numbers are equal as float32, each one."""
    np.testing.assert_array_equal(np.asarray(got, np.float32), expected)


def unlike(got: Any, expected: Vectors) -> None:
    """Assert that no row is nearly equal."""
    assert np.shape(got) == expected.shape
    assert not np.isclose(np.float32(got), expected, atol=1e-3).all(axis=1).any()


def ranked(got: Any, expected: list[tuple[int, float]]) -> None:
    """Assert equal indices and scores, in this order."""
    assert [row[0] for row in got] == [index for index, _ in expected]
    assert (
        np.float32([row[1] for row in got]).tolist()
        == np.float32([score for _, score in expected]).tolist()
    )


def derived(vectors: Vectors) -> dict[str, Any]:
    """Return the small forms of vectors, as they follow from the floats."""
    whole = np.rint(vectors * 127).astype(int)
    bits = np.packbits(vectors > 0, axis=1).astype(int)
    return {
        "int8": whole.tolist(), "uint8": (whole + 128).tolist(),
        "ubinary": bits.tolist(), "binary": (bits - 128).tolist(),
    }  # fmt: skip


def by_type(got: dict[str, Any], expected: Vectors) -> None:
    """Assert that each form that came holds what follows from the floats."""
    small = derived(expected)
    for kind, rows in got.items():
        if kind == "float":
            same(rows, expected)
        elif kind == "base64":
            same([np.frombuffer(base64.b64decode(row), "<f4") for row in rows], expected)
        else:
            assert np.asarray(rows).astype(int).tolist() == small[kind], kind


def refused(got: dict[str, Any], *kinds: str, says: str, status: int | None = None) -> None:
    """Assert that a call ended with the client's own exception, in the service's words."""
    assert set(kinds) & set(got["kinds"]), got
    assert says in got["says"], got
    assert status is None or got["status"] == status, got
