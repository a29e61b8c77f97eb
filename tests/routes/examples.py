"""Makes the API description's examples: `python -m tests.routes.examples` calls a real service.

Every route is called once on the real model, with accounts on; what was asked and what came back is
written to `routes/examples.json`. Secrets that were given out and long vectors are cut short.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from routes.openapi import EXAMPLES
from tests.providers.server import FakeProvider

PASSWORD = "correct-horse-battery"
SECRETS = {"access_token": 10, "api_key": 4}  # with how much of them is shown
LONG = 32  # numbers; of a longer vector the first four are shown
SHORT = {"dimensions": 4}
REAL = {"type": "sentence_transformer", "model_name": "sentence-transformers/all-MiniLM-L6-v2",
        "dtype": "float32", "device": "cpu"}  # fmt: skip
NOTES = {
    "collection": "notes",
    "texts": ["The cat sits on the mat.", "Stocks fell sharply.", "Rain is expected tomorrow."],
    "ids": ["cat", "stocks", "rain"],
    "metadata": [{"topic": "pets"}, {"topic": "money"}, {"topic": "weather"}],
}
UMBRELLA = {"text": "Do I need an umbrella?", "k": 1}
HELLO = {"inputs": "Hello world", **SHORT}
RAIN = {"query": "Will it rain?", "documents": NOTES["texts"]}
LIKE_MONEY = {"filter": {"topic": "money"}}
# In this order: method, rule, values of the path, query, body. `{key}` and `{job}` are filled in.
Step = tuple[str, str, dict[str, str], dict[str, str], Any]
STEPS: list[Step] = [
    ("GET", "/", {}, {}, None),
    ("GET", "/openapi.json", {}, {}, None),
    ("GET", "/health", {}, {}, None),
    ("GET", "/ping", {}, {}, None),
    ("GET", "/health/live", {}, {}, None),
    ("GET", "/health/ready", {}, {}, None),
    ("GET", "/metrics", {}, {}, None),
    ("GET", "/metrics/history", {}, {}, None),
    ("POST", "/embed", {}, {}, {"texts": "This is an example sentence", **SHORT}),
    ("POST", "/batch-embed", {}, {"model_id": "minilm"}, {"texts": ["One.", "Two."], **SHORT}),
    ("POST", "/embed/single", {}, {"text": "A short text", "model_id": "tiny"}, None),
    ("POST", "/v1/embeddings", {}, {}, {"model": "minilm", "input": ["Hello world"], **SHORT}),
    ("POST", "/embeddings", {}, {}, {"input": ["Hello world"], **SHORT}),
    ("POST", "/openai/v1/embeddings", {}, {}, {"input": ["Hello world"], **SHORT}),
    ("POST", "/openai/deployments/<path:name>/embeddings", {"name": "minilm"}, {},
     {"input": ["Hello world"], **SHORT}),
    ("POST", "/rerank", {}, {}, RAIN),
    ("POST", "/v1/rerank", {}, {}, {**RAIN, "top_n": 1, "return_documents": False}),
    ("POST", "/v2/rerank", {}, {}, {**RAIN, "top_n": 2, "max_tokens_per_doc": 512}),
    ("POST", "/api/rerank", {}, {}, {**RAIN, "top_n": 1}),
    ("POST", "/v1/embed", {}, {}, {"texts": ["Hello world"], "input_type": "search_document"}),
    ("POST", "/v2/embed", {}, {}, {"texts": ["Hello world"], "input_type": "search_query",
                                   "output_dimension": 4, "embedding_types": ["float", "int8"]}),
    ("POST", "/v1/tokenize", {}, {}, {"text": "Hello world"}),
    ("POST", "/v1/detokenize", {}, {}, {"tokens": [7592, 2088]}),
    ("POST", "/v1/check-api-key", {}, {}, None),
    ("POST", "/v1/contextualizedembeddings", {}, {},
     {"inputs": [["The cat sat on the mat.", "It was black."]], "output_dimension": 4}),
    ("POST", "/v1/multimodalembeddings", {}, {},
     {"inputs": [{"content": [{"type": "text", "text": "Hello world"}]}], "output_dimension": 4}),
    ("POST", "/embed inputs=", {}, {}, HELLO),
    ("POST", "/", {}, {}, HELLO),
    ("POST", "/invocations", {}, {}, HELLO),
    ("POST", "/vertex", {}, {}, {"instances": [HELLO]}),
    ("POST", "/embed_all", {}, {}, {"inputs": "Hello world"}),
    ("POST", "/embed_sparse", {}, {}, {"inputs": "Hello world"}),
    ("POST", "/rerank texts=", {}, {}, {"query": RAIN["query"], "texts": NOTES["texts"]}),
    ("POST", "/predict", {}, {}, {"inputs": "Hello world"}),
    ("POST", "/similarity", {}, {},
     {"inputs": {"source_sentence": "Will it rain?", "sentences": NOTES["texts"]}}),
    ("POST", "/tokenize", {}, {}, {"inputs": "Hello world"}),
    ("POST", "/decode", {}, {}, {"ids": [7592, 2088]}),
    ("POST", "/api/embed", {}, {}, {"model": "minilm", "input": ["Hello world"], **SHORT}),
    ("POST", "/api/embeddings", {}, {}, {"model": "minilm", "prompt": "Hello world"}),
    ("GET", "/api/tags", {}, {}, None),
    ("GET", "/api/ps", {}, {}, None),
    ("POST", "/api/show", {}, {}, {"model": "minilm"}),
    ("POST", "/api/pull", {}, {}, {"model": "minilm"}),
    ("GET", "/api/version", {}, {}, None),
    ("POST", "/pooling", {}, {}, {"model": "minilm", "input": ["Hello world"], **SHORT}),
    ("POST", "/score", {}, {}, {"queries": RAIN["query"], "documents": NOTES["texts"]}),
    ("POST", "/v1/score", {}, {}, {"text_1": RAIN["query"], "text_2": NOTES["texts"]}),
    ("POST", "/tokenize prompt= messages=", {}, {}, {"prompt": "Hello world"}),
    ("POST", "/detokenize", {}, {}, {"tokens": [7592, 2088]}),
    ("GET", "/v1/models", {}, {}, None),
    ("GET", "/v1/models/<path:name>", {"name": "minilm"}, {}, None),
    ("GET", "/models", {}, {}, None),
    ("GET", "/models/<path:model_id>", {"model_id": "minilm"}, {}, None),
    ("GET", "/model/info", {}, {"model_id": "minilm"}, None),
    ("GET", "/info", {}, {}, None),
    ("POST", "/embed-and-store", {}, {}, NOTES),
    ("POST", "/collections", {}, {}, {"name": "drafts", "dimension": 3, "indexed": ["kind"]}),
    ("POST", "/collections/<name>/vectors", {"name": "drafts"}, {},
     {"id": "a", "vector": [0.1, 0.2, 0.3], "metadata": {"kind": "number"}}),
    ("GET", "/collections", {}, {}, None),
    ("GET", "/collections/<name>", {"name": "notes"}, {}, None),
    ("POST", "/collections/<name>/aliases", {"name": "notes"}, {}, {"alias": "papers"}),
    ("DELETE", "/collections/<name>/aliases/<alias_name>",
     {"name": "notes", "alias_name": "papers"}, {}, None),
    ("POST", "/collections/<name>/search", {"name": "notes"}, {}, UMBRELLA),
    ("GET", "/collections/<name>/map", {"name": "notes"}, {}, None),
    ("POST", "/collections/<name>/map", {"name": "notes"}, {},
     {"state": "{map}", "ids": ["rain"]}),
    ("GET", "/collections/<name>/map/groups", {"name": "notes"}, {"state": "{map}"}, None),
    ("GET", "/collections/<name>/map/values", {"name": "notes"},
     {"state": "{map}", "field": "topic"}, None),
    ("GET", "/collections/<name>/map/neighbours", {"name": "notes"}, {"state": "{map}"}, None),
    ("PUT", "/collections/<name>/map/layout", {"name": "notes"}, {},
     {"state": "{map}", "points": "AACAPwAAAAAAAIC/AAAAPwAAAAAAAAC/"}),
    ("GET", "/collections/<name>/vectors/<path:id_>", {"name": "drafts", "id_": "a"}, {}, None),
    ("POST", "/collections/<name>/vectors/get", {"name": "drafts"}, {}, {"ids": ["a"]}),
    ("POST", "/collections/<name>/vectors/scroll", {"name": "notes"}, {}, {"limit": 1}),
    ("POST", "/collections/<name>/vectors/count", {"name": "notes"}, {}, LIKE_MONEY),
    ("POST", "/collections/<name>/facets", {"name": "notes"}, {}, {"filter": {}, "values": 2}),
    ("POST", "/collections/<name>/vectors/delete", {"name": "notes"}, {}, LIKE_MONEY),
    ("POST", "/collections/<name>/files", {"name": "notes"},
     {"filename": "more.csv", "start": "false"}, "text;stars\nThe sun shines.;5\n;1\n"),
    ("POST", "/jobs/<id_>/preview", {"id_": "{given}"}, {}, {"types": {"stars": "number"}}),
    ("POST", "/jobs/<id_>/start", {"id_": "{given}"}, {}, {"types": {"stars": "number"}}),
    ("GET", "/jobs/<id_>/rejects", {"id_": "{given}"}, {}, None),
    ("POST", "/collections/<name>/reembed", {"name": "notes"}, {}, {"model": "tiny"}),
    ("GET", "/jobs", {}, {}, None),
    ("GET", "/jobs/<id_>", {"id_": "{job}"}, {}, None),
    ("DELETE", "/jobs/<id_>", {"id_": "{job}"}, {}, None),
    ("DELETE", "/collections/<name>/vectors/<path:id_>", {"name": "drafts", "id_": "a"}, {}, None),
    ("DELETE", "/collections/<name>", {"name": "drafts"}, {}, None),
    ("POST", "/token", {}, {}, {"username": "admin", "password": PASSWORD}),
    ("POST", "/session", {}, {}, {"username": "admin", "password": PASSWORD}),
    ("GET", "/session", {}, {}, None),
    ("DELETE", "/session", {}, {}, None),
    ("POST", "/users", {}, {}, {"username": "ada", "password": "a-long-password", "role": "user"}),
    ("GET", "/users", {}, {}, None),
    ("GET", "/users/me", {}, {}, None),
    ("POST", "/users/<username>/password", {"username": "ada"}, {}, {"role": "reader"}),
    ("POST", "/users/<username>/api-key", {"username": "ada"}, {},
     {"label": "laptop", "collections": ["notes"], "expires_in_days": 30}),
    ("GET", "/users/<username>/api-keys", {"username": "ada"}, {}, None),
    ("POST", "/users/<username>/api-keys/<id_>/rotate", {"username": "ada", "id_": "{key}"}, {},
     {"overlap_s": 600}),
    ("DELETE", "/users/<username>/api-keys/<id_>", {"username": "ada", "id_": "{key}"}, {}, None),
    ("DELETE", "/users/<username>", {"username": "ada"}, {}, None),
    ("GET", "/providers", {}, {}, None),
    ("POST", "/providers/<provider>/api-key", {"provider": "openai"}, {},
     {"api_key": "sk-the-key-that-the-provider-gave-you"}),
    ("POST", "/providers/<provider>/test", {"provider": "openai"}, {}, None),
    ("DELETE", "/providers/<provider>/api-key", {"provider": "openai"}, {}, None),
    ("GET", "/settings/<key>", {"key": "max_texts"}, {}, None),
    ("POST", "/settings", {}, {}, {"key": "max_texts", "value": 512}),
    ("POST", "/settings/bulk", {}, {}, {"settings": {"max_texts": 256, "truncate": "error"}}),
    ("GET", "/settings/history", {}, {"limit": "2"}, None),
    ("DELETE", "/settings/<key>", {"key": "truncate"}, {}, None),
    ("POST", "/settings/rollback", {}, {}, {"version": 0}),
    ("GET", "/settings", {}, {}, None),
]  # fmt: skip


@dataclass
class Walk:
    """A walk through the service, and what earlier steps told for later ones."""

    client: FlaskClient
    headers: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    def take(self, step: Step) -> dict[str, Any]:
        """Make one call; return what was asked and answered, as it is shown."""
        method, rule, path, query, body = step
        path = {name: value.format(**self.known) for name, value in path.items()}
        if "/map" in rule:  # its query and body name what an earlier reply told
            query = {name: value.format(**self.known) for name, value in query.items()}
            state = {"state": self.known["map"]} if "map" in self.known else {}
            body = body and {**body, **state}
        url = rule.partition(" ")[0]  # after it are the keys by which the body chooses a row
        for name, value in path.items():
            url = url.replace(f"<path:{name}>", value).replace(f"<{name}>", value)
        headers = {"Accept": "application/json", **self.headers}
        sent: dict[str, Any] = {"data" if isinstance(body, str) else "json": body}
        reply = self.client.open(url, method=method, query_string=query, headers=headers, **sent)
        assert reply.status_code < 300, f"{method} {url}: {reply.text}"
        self._note(rule, reply.json)
        shown: dict[str, Any] = {"path": path, "query": query, "body": body}
        shown = {name: value for name, value in shown.items() if value}
        return {**shown, "status": reply.status_code, "reply": _short(rule, reply.json)}

    def _note(self, rule: str, reply: Any) -> None:
        if rule.endswith(("/reembed", "/start")):
            self.known["job"] = reply["id"]
            self._until_done(reply["id"])
        elif rule.endswith("/files"):
            self.known["given"] = reply["id"]
        elif rule.endswith("/map") and "state" in reply:
            self.known["map"] = reply["state"]
        elif rule == "/users/<username>/api-key":
            self.known["key"] = reply["id"]
        elif rule == "/embed-and-store":
            for text in ("The cat sits on the mat.", "a"):  # so that the cache has hits to show
                self.client.post("/embed", json={"texts": text}, headers=self.headers)

    def _until_done(self, job: str) -> None:
        for _ in range(600):
            if self.client.get(f"/jobs/{job}", headers=self.headers).json["state"] != "running":
                return
            time.sleep(0.05)
        raise AssertionError("the job does not end")


def _short(rule: str, reply: Any) -> Any:
    """Cut what is secret or long, and the one reply that holds all the others."""
    if rule == "/openapi.json":
        return {**reply, "paths": {}, "components": {}}
    return _cut(reply)


def _cut(value: Any, name: str = "") -> Any:
    if name in SECRETS and isinstance(value, str):
        return value[: SECRETS[name]] + "..."
    if isinstance(value, dict):
        return {name: _cut(part, name) for name, part in value.items()}
    if isinstance(value, list) and len(value) > LONG and isinstance(value[0], float):
        return value[:4]
    return [_cut(part) for part in value] if isinstance(value, list) else value


@contextmanager
def service(folder: Path) -> Iterator[Flask]:
    """A service on the real weights, with accounts, and a provider that answers on loopback."""
    provider = FakeProvider()
    models = {"minilm": {**REAL, "prompts": {"query": "Find what answers: "}},
              "tiny": {**REAL, "max_seq_length": 64},
              "reranker": {"type": "reranker", "model_name": "jina-reranker-v3",
                           "base_url": f"{provider.url}/v1"},
              "terms": {"type": "fake", "model_name": "tests/terms+sparse"},
              "classes": {"type": "fake", "model_name": "tests/classes+score+label"},
              "remote": {"type": "openai", "model_name": "text-embedding-3-small",
                         "base_url": f"{provider.url}/v1", "provider": "openai"}}  # fmt: skip
    file = folder / "models.json"
    file.write_text(json.dumps({"default": "minilm", "models": models}))
    given = {
        "model_config_file": file, "supported_models_file": folder / "none", "device": "cpu",
        "store_dir": folder / "store", "data_dir": folder / "data", "auth_enabled": True,
        "db_url": f"sqlite:///{folder}/service.db", "use_db_settings": True,
        "jwt_secret_key": "signs-the-tokens-of-the-examples-only", "admin_password": PASSWORD,
        "encryption_key": "encrypts-the-keys-of-the-examples-only",
        "provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1",
    }  # fmt: skip
    app = create_app(Config.model_validate(given), wait=True)
    yield app
    parts = app.extensions["services"]
    parts.accounts.close()
    parts.providers.close()
    parts.documents.store.close()
    provider.shutdown()
    provider.server_close()


def walked(app: Flask) -> dict[str, dict[str, Any]]:
    """Call every route; return each call by its route."""
    client = app.test_client()
    signed = client.post("/token", json={"username": "admin", "password": PASSWORD}).json
    walk = Walk(client, {"Authorization": f"Bearer {signed['access_token']}"})
    return {f"{step[0]} {step[1]}": walk.take(step) for step in STEPS}


def main() -> None:
    """Write the examples."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as app:
        calls = walked(app)
    EXAMPLES.write_text(json.dumps(calls, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
