"""The checks of a running service: each route does what it promises. Leaves nothing in it."""

import base64
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import requests

from tools.service import signed

Check = Callable[["Service"], str]
CHECKS: list[tuple[str, Check]] = []
OPTIONAL = ("/collections", "/metrics")  # a service may be without these


class Skipped(Exception):
    """The service does not have this part, or this caller may not use it."""


def check(title: str) -> Callable[[Check], Check]:
    """Add a check to the list under a title. It returns what it found in a few words."""

    def add(function: Check) -> Check:
        CHECKS.append((title, function))
        return function

    return add


class Service:
    """The service under test."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.session = requests.Session()
        self.session.auth = signed(key)

    def ask(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """Return the JSON or text of the reply. Raises AssertionError for another status.

        Raises Skipped if the request needs another key or the part of the service is missing.
        """
        reply = self.session.request(method, self.url + path, json=body, timeout=60)
        if reply.status_code in (401, 403):
            raise Skipped(f"{reply.status_code}: needs another key")
        if reply.status_code == 404 and path in OPTIONAL:
            raise Skipped("this service does not have it")
        assert reply.status_code == expect, f"{reply.status_code}: {reply.text[:120]}"
        return reply.json() if "json" in reply.headers.get("Content-Type", "") else reply.text


def length(vector: list[float]) -> float:
    """Return a vector's Euclidean length."""
    return float(sum(x * x for x in vector) ** 0.5)


@check("GET /health")
def health(service: Service) -> str:
    """The default model can encode."""
    body = service.ask("GET", "/health")
    assert body["status"] in ("healthy", "degraded"), body["status"]
    return f"{body['status']}, {body['model']} on {body['device']}"


@check("GET /")
def root(service: Service) -> str:
    """The service names itself."""
    body = service.ask("GET", "/")
    return f"{body['service']} {body['version']}, {len(body['available_models'])} models"


@check("GET /models")
def models(service: Service) -> str:
    """The models are listed and each can be described."""
    rows = service.ask("GET", "/models")["data"]
    for row in rows:
        service.ask("GET", f"/models/{row['id']}")
    return ", ".join(f"{row['id']}: {row['status']}" for row in rows)


@check("POST /embed")
def embed(service: Service) -> str:
    """One text and many, each vector of length 1."""
    one = service.ask("POST", "/embed", {"texts": "Hello, world!"})
    many = service.ask("POST", "/embed", {"texts": ["Text 1", "Text 2"], "normalize": True})
    assert many["count"] == 2
    assert all(abs(length(vector) - 1) < 1e-3 for vector in many["embeddings"])
    return f"{one['dimension']} dimensions in {one['processing_time_ms']} ms"


@check("POST /embed/single and /batch-embed")
def other_forms(service: Service) -> str:
    """The other native forms return the same vector."""
    single = service.ask("POST", "/embed/single?text=Hello")
    batch = service.ask("POST", "/batch-embed", {"texts": ["Hello", "there"]})
    pairs = zip(single["embedding"], batch["embeddings"][0], strict=True)
    assert max(abs(a - b) for a, b in pairs) < 0.02
    return "same vector"


@check("POST /v1/embeddings")
def openai(service: Service) -> str:
    """OpenAI's route, floats and base64."""
    model = service.ask("GET", "/v1/models")["data"][0]["id"]
    body = {"model": model, "input": "Hello"}
    floats = service.ask("POST", "/v1/embeddings", body)
    packed = service.ask("POST", "/v1/embeddings", {**body, "encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][0]["embedding"])
    assert len(struct.unpack(f"<{len(raw) // 4}f", raw)) == len(floats["data"][0]["embedding"])
    return f"{floats['usage']['total_tokens']} tokens"


def first_that_gives(service: Service, output: str) -> str:
    """Return the id of a ready model that gives an output. Raises Skipped if there is none."""
    rows = service.ask("GET", "/models")["data"]
    able = [row["id"] for row in rows if row["status"] == "ready" and output in row["outputs"]]
    if not able:
        raise Skipped(f"no model gives {output}")
    return str(able[0])


@check("outputs of POST /embed")
def outputs(service: Service) -> str:
    """What each model gives can be asked for, and dense vectors come in every form."""
    text = "Rain is expected tomorrow."
    said = []
    for row in service.ask("GET", "/models")["data"]:
        wanted = [each for each in row["outputs"] if each != "score"]
        if row["status"] == "ready" and wanted:
            body = {"model": row["id"], "texts": text, "outputs": wanted}
            reply = service.ask("POST", "/embed", body)
            names = {"dense": "embeddings"}
            assert all(len(reply[names.get(each, each)]) == 1 for each in wanted)
            said.append(f"{row['id']}: {', '.join(wanted)}")
    body = {"model": first_that_gives(service, "dense"), "texts": text}
    (plain,) = service.ask("POST", "/embed", body)["embeddings"]
    body["output_dtype"] = "int8"
    (small,) = service.ask("POST", "/embed", body)["embeddings"]
    assert all(abs(whole - 127 * part) < 2 for whole, part in zip(small, plain, strict=True))
    return "; ".join(said)


@check("POST /rerank")
def rerank(service: Service) -> str:
    """The documents come the best first, as Cohere and as TEI write it."""
    documents = ["Stocks fell on Monday.", "It will rain tomorrow.", "The cat sits on the mat."]
    body: dict[str, Any] = {"query": "Will it rain tomorrow.", "documents": documents}
    body["model"] = first_that_gives(service, "score")
    results = service.ask("POST", "/rerank", body)["results"]
    scores = [row["relevance_score"] for row in results]
    assert scores == sorted(scores, reverse=True)
    rows = service.ask("POST", "/rerank", {**body, "documents": None, "texts": documents})
    assert [row["index"] for row in rows] == [row["index"] for row in results]
    return f"{scores[0]:.3f} for {documents[results[0]['index']]!r}"


@check("meaning")
def meaning(service: Service) -> str:
    """Sentences that mean the same are nearer than others."""
    texts = ["The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium."]
    a, b, c = service.ask("POST", "/embed", {"texts": texts})["embeddings"]
    near, far = (sum(x * y for x, y in zip(a, other, strict=True)) for other in (b, c))
    assert near > far, f"{near:.2f} is not above {far:.2f}"
    return f"{near:.2f} alike, {far:.2f} not"


@check("bad input")
def bad_input(service: Service) -> str:
    """Mistakes get clear errors."""
    service.ask("POST", "/embed", {"texts": []}, expect=422)
    service.ask("POST", "/embed", {"texts": "x", "model": "no-such-model"}, expect=400)
    service.ask("POST", "/v1/embeddings", {"model": "no-such-model", "input": "x"}, expect=400)
    return "refused with reasons"


@check("collections")
def collections(service: Service) -> str:
    """Texts are stored, found by meaning and deleted."""
    name = f"check-{uuid.uuid4().hex[:8]}"
    texts = ["The cat sits on the mat.", "Stocks fell on Monday.", "Rain is expected tomorrow."]
    service.ask("GET", "/collections")
    service.ask("POST", "/embed-and-store", {"collection": name, "texts": texts}, expect=201)
    try:
        body = {"text": "What will the weather be?", "k": 1}
        found = service.ask("POST", f"/collections/{name}/search", body)["results"][0]
    finally:
        service.ask("DELETE", f"/collections/{name}")
    assert found["score"] <= 1.0001
    return f"found {found['text']!r}"


@check("background jobs")
def jobs(service: Service) -> str:
    """The jobs are listed, and each can be read by its id."""
    rows = service.ask("GET", "/jobs")["jobs"]
    for row in rows[:5]:
        assert service.ask("GET", f"/jobs/{row['id']}")["id"] == row["id"]
    return f"{len(rows)} jobs"


@check("users and keys")
def accounts(service: Service) -> str:
    """A user is created and gets a key with the rights of a reader; both are deleted."""
    user = {"username": f"check-{uuid.uuid4().hex[:8]}", "password": uuid.uuid4().hex}
    service.ask("POST", "/users", {**user, "role": "reader"}, expect=201)
    path = f"/users/{user['username']}"
    try:
        key = service.ask("POST", f"{path}/api-key", {"label": "check"}, expect=201)
        assert [k["id"] for k in service.ask("GET", f"{path}/api-keys")["api_keys"]] == [key["id"]]
        url = f"{service.url}/settings"
        # With authentication off this machine may.
        if not requests.get(url, auth=signed(None), timeout=60).ok:
            status = requests.get(url, auth=signed(key["api_key"]), timeout=60).status_code
            assert status == 403, f"a reader's key was answered {status}"
        service.ask("DELETE", f"{path}/api-keys/{key['id']}")
    finally:
        service.ask("DELETE", path)
    return "created, given a key, deleted"


@check("GET /providers")
def providers(service: Service) -> str:
    """The providers are listed with the source of their keys, never the keys."""
    rows = service.ask("GET", "/providers")["providers"]
    return ", ".join(f"{row['provider']}: {row['key_source']}" for row in rows)


@check("settings")
def settings(service: Service) -> str:
    """The settings can be read, and one that is not allowed is refused."""
    rows = service.ask("GET", "/settings")["settings"]
    service.ask("GET", "/settings/history")
    service.ask("POST", "/settings", {"key": "max_texts", "value": 0}, expect=422)
    return f"{len(rows)} settings"


@check("GET /metrics")
def metrics(service: Service) -> str:
    """Prometheus can read the service."""
    text = service.ask("GET", "/metrics")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    assert lines
    return f"{len(lines)} series"


class Result(NamedTuple):
    """How one check ended: `ok`, `skip` or `FAIL`, how long it took, and what it found."""

    title: str
    state: str
    took_ms: float
    said: str


def results(service: Service) -> Iterator[Result]:
    """Run every check, and yield how each ended."""
    for title, function in CHECKS:
        started = time.monotonic()
        try:
            state, said = "ok", function(service)
        except Skipped as exc:
            state, said = "skip", str(exc)
        except (AssertionError, KeyError, IndexError, requests.RequestException) as exc:
            state, said = "FAIL", f"{type(exc).__name__}: {exc}"[:200]
        yield Result(title, state, (time.monotonic() - started) * 1000, said)


def told(service: Service) -> list[Result]:
    """Run every check, print a line each, and return how they ended."""
    found = []
    for title, state, took_ms, said in results(service):
        found.append(Result(title, state, took_ms, said))
        print(f"{state:<4}  {title:<36} {took_ms:7.1f} ms  {said}", flush=True)
    failed = sum(result.state == "FAIL" for result in found)
    print(f"\n{len(found) - failed} of {len(found)} checks passed at {service.url}")
    return found
