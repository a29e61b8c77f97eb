"""What strangers, callers and admins are told of the inside: paths, hosts, files, the cache."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from errors import Corrupt, ModelUnavailable, ProviderBusy, ProviderError, Unavailable
from routes import health
from tests.accounts.conftest import ADMIN, accounts_of, add_user, bearer, token_of
from tests.providers.server import FakeProvider

ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}


@pytest.fixture
def broken(make_app: Callable[..., Flask], tmp_path: Path) -> FlaskClient:
    """A service whose default model's folder lacks its weights, and whose second is far away."""
    folder = tmp_path / "private-folder" / "tuned"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "secret-weights.bin").write_bytes(b"no weights")
    models = {
        "tuned": {"model_name": str(folder)},
        "far": {"type": "openai", "model_name": "m", "base_urls": ["https://inner.example.corp:1/v1",
                                                                     "https://other.example.corp:1/v1"]},
        "fake": {"type": "fake", "model_name": "tests/fake"},
    }  # fmt: skip
    return make_app(models=models, provider_timeout_s=0.2).test_client()


HIDDEN = ("private-folder", "secret-weights", "example.corp", "only_an_admin")


def told(client: FlaskClient, who: dict[str, str], **base: object) -> str:
    """All that a caller can get to read about the models that do not work."""
    asked = [
        client.open(path, method=method, json=body, headers=who, **base)
        for method, path, body in [
            ("GET", "/health", None), ("GET", "/health/ready", None), ("GET", "/models", None),
            ("GET", "/models/tuned", None), ("GET", "/models/far", None), ("GET", "/info", None),
            ("GET", "/v1/models", None), ("GET", "/metrics", None),
            ("POST", "/embed", {"text": "x"}), ("POST", "/embed", {"text": "x", "model": "far"}),
            ("POST", "/v1/embeddings", {"input": "x", "model": "tuned"}),
            ("POST", "/embed", {"text": "x", "model": "nonsense"}),
        ]
    ]  # fmt: skip
    asked.append(client.get("/", headers={**who, "Accept": "application/json"}, **base))
    return "\n".join(reply.text for reply in asked)


@pytest.mark.fault("Hostile clients")
def test_only_an_admin_reads_paths_files_and_hosts(broken: FlaskClient) -> None:
    """A stranger or a user asks why a model does not work -> the kind of failure, without a path,
    file or host; admins see all of it.
    """
    admin = bearer(token_of(broken, *ADMIN))
    uma = add_user(broken, admin, "uma")
    scoped = broken.post("/users/admin/api-key", json={"collections": ["c"]}, headers=admin).json
    for who in ({}, uma, bearer("emb_aaaaaaaa_wrong"), bearer("x" * 9), bearer(scoped["api_key"])):
        text = told(broken, who)
        assert not [word for word in HIDDEN if word in text]
    health = broken.get("/health")
    assert health.status_code == 503
    assert health.json["reason"].startswith("it could not be loaded")
    assert health.json["model"] == "tuned"
    error = broken.post("/embed", json={"text": "x"}, headers=uma).json["error"]
    assert error.startswith("model 'tuned' is unavailable: it could not be loaded")
    text = told(broken, admin)
    assert all(word in text for word in ("private-folder", "secret-weights", "example.corp"))


def test_where_nobody_signs_in_the_machine_itself_reads_all(
    make_app: Callable[..., Flask], broken: FlaskClient
) -> None:
    config = broken.application.extensions["services"].config
    models = json.loads(config.model_config_file.read_text())["models"]
    app = make_app(auth_enabled=False, models=models, admin_token="an-admin-token-of-ours")
    client = app.test_client()
    assert "private-folder" in client.get("/health").text
    away = client.get("/health", environ_base=ELSEWHERE)
    assert away.status_code == 503 and "private-folder" not in away.text
    assert "private-folder" not in client.get("/models", environ_base=ELSEWHERE).text
    known = {"headers": bearer("an-admin-token-of-ours"), "environ_base": ELSEWHERE}
    assert "private-folder" in client.get("/health", **known).text


def test_which_stages_a_request_had_is_told_to_admins_alone(
    make_app: Callable[..., Flask],
) -> None:
    """A text that somebody embedded before has no `encode`."""
    client = make_app().test_client()
    admin = bearer(token_of(client, *ADMIN))
    uma = add_user(client, admin, "uma")

    def stages(who: dict) -> list[str]:
        reply = client.post("/embed", json={"text": "x"}, headers=who)
        return re.findall(r"([a-z]+);dur=", reply.headers["Server-Timing"])

    assert (stages(uma), stages(uma)) == (["total"], ["total"])
    assert stages(admin)[0] == "cache" and stages(admin)[-1] == "total"
    open_ = make_app(auth_enabled=False).test_client()
    reply = open_.post("/embed", json={"text": "x"}, environ_base=ELSEWHERE)
    assert "encode;dur=" in reply.headers["Server-Timing"]


def test_a_folders_last_part_is_a_name_that_works(make_app: Callable[..., Flask]) -> None:
    models = {"/srv/models/ours": {"type": "fake", "model_name": "/srv/models/ours"}}
    client = make_app(models=models).test_client()
    uma = add_user(client, bearer(token_of(client, *ADMIN)), "uma")
    for path in ("/models", "/v1/models", "/info", "/health"):
        assert "/srv" not in client.get(path, headers=uma).text
    name = client.get("/v1/models", headers=uma).json["data"][0]["id"]
    reply = client.post("/embed", json={"text": "x", "model": name}, headers=uma)
    assert reply.status_code == 200 and reply.json["model"] == "ours"


def test_no_reply_names_a_folder_to_who_is_no_admin(make_app: Callable[..., Flask]) -> None:
    """Whatever a user does with models that are folders, their paths are in no reply, header or
    metric; an admin sees them.
    """
    folders = ("/srv/models/ours", "/srv/models/theirs", "/srv/others/ours")
    models = {folder: {"type": "fake", "model_name": folder} for folder in folders}
    client = make_app(models=models).test_client()
    admin = bearer(token_of(client, *ADMIN))
    uma = add_user(client, admin, "uma")
    metrics = client.get("/metrics", headers=admin).text
    assert "/srv" not in metrics, "dashboards are for anybody"
    assert len(re.findall(r'load_seconds{model="ours \(', metrics)) == 2, "each has its own series"
    record = {"collection": "c", "text": "x"}
    calls = [
        ("GET", "/models", None), ("GET", "/models/ours", None), ("GET", "/v1/models", None),
        ("GET", "/info", None), ("GET", "/model/info", None), ("GET", "/health", None),
        ("GET", "/metrics", None), ("GET", "/openapi.json", None), ("GET", "/settings", None),
        ("POST", "/embed", {"text": "x"}), ("POST", "/embed", {"texts": ["x"]}),
        ("POST", "/batch-embed", {"texts": ["x"]}), ("GET", "/embed/single?text=x", None),
        ("POST", "/v1/embeddings", {"input": "x"}),
        ("POST", "/v1/embeddings", {"input": "x", "model": "no"}),
        ("POST", "/rerank", {"query": "x", "documents": ["y"]}),
        ("POST", "/collections", {"name": "d", "model": "ours"}),
        ("POST", "/embed-and-store", record), ("GET", "/collections", None),
        ("GET", "/collections/c", None), ("POST", "/collections/c/search", {"text": "x"}),
        ("POST", "/embed-and-store", {**record, "model": "theirs"}),
        ("POST", "/collections/c/search", {"text": "x", "model": "theirs"}),
        ("POST", "/collections/c/reembed", {"model": "theirs"}), ("GET", "/jobs", None),
        ("POST", "/collections/c/reembed", {"model": "ours"}),
    ]  # fmt: skip
    statuses = set()
    for method, path, body in calls:
        for who in (uma, {}):
            reply = client.open(path, method=method, json=body, headers=who)
            assert "/srv" not in reply.text + str(reply.headers), f"{method} {path}"
            statuses.add(reply.status_code)
    assert statuses >= {200, 201, 202, 401, 409}
    assert "/srv/models/ours" in client.get("/collections/d", headers=admin).text
    jobs = client.application.extensions["services"].reembedder.jobs
    (job,) = jobs.all()
    jobs.save(replace(job, error="model '/srv/models/theirs' is unavailable: no /srv/x/y"))
    for who, sees in (admin, True), (uma, False):
        assert ("/srv" in client.get(f"/jobs/{job.id}", headers=who).text) is sees


ERRORS = [
    ModelUnavailable("/srv/models/x/model.safetensors is damaged"),
    ProviderError("the connection to inner.example.corp failed (SSLError)"),
    ProviderBusy("inner.example.corp failed 5 times in a row"),
    Corrupt("/data/store/c1/MANIFEST is damaged; run repair"),
    Unavailable("the store could not open /data/store/c1/journal: Input/output error"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_names_no_path_and_no_host_to_who_is_no_admin(
    make_app: Callable[..., Flask],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_app().test_client()
    admin = bearer(token_of(client, *ADMIN))
    uma = add_user(client, admin, "uma")
    engine = client.application.extensions["services"].engine

    def fail(request: object) -> None:
        raise error

    monkeypatch.setattr(engine, "embed", fail)
    for path in ("/embed", "/v1/embeddings"):
        body = {"text": "x"} if path == "/embed" else {"input": "x"}
        hidden = client.post(path, json=body, headers=uma)
        assert hidden.status_code >= 500
        for word in ("/srv", "/data", "safetensors", "MANIFEST", "journal", "example.corp"):
            assert word not in hidden.text
        shown = client.post(path, json=body, headers=admin)
        assert str(error) in json.dumps(shown.json)
    assert str(error) in caplog.text, "the log has what the caller has not"


@pytest.mark.fault("Hostile clients")
def test_only_an_admin_learns_whether_a_text_was_embedded_before(
    client: FlaskClient, admin: dict
) -> None:
    """A caller tests whether a text was embedded before -> `X-Cache` is for admins only."""
    uma = add_user(client, admin, "uma")
    key = bearer(client.post("/users/uma/api-key", headers=admin).json["api_key"])
    limited = client.post("/users/admin/api-key", json={"role": "user"}, headers=admin).json
    calls = [("/embed", {"text": "x"}), ("/batch-embed", {"texts": ["x"]}),
             ("/v1/embeddings", {"input": "x"})]  # fmt: skip
    for who in (uma, key, bearer(limited["api_key"])):
        for path, body in [*calls, ("/embed/single?text=x", None)]:
            reply = client.post(path, json=body, headers=who)
            assert reply.status_code == 200 and "X-Cache" not in reply.headers
            assert "X-Embedding-Fingerprint" in reply.headers
    assert client.post("/embed", json={"text": "x"}, headers=admin).headers["X-Cache"]


def test_where_nobody_signs_in_everybody_gets_x_cache(make_app: Callable[..., Flask]) -> None:
    client = make_app(auth_enabled=False).test_client()
    reply = client.post("/embed", json={"text": "x"}, environ_base=ELSEWHERE)
    assert reply.headers["X-Cache"] == "hits=0, misses=1"


def test_what_is_degraded_is_named_to_strangers_and_explained_to_admins(
    client: FlaskClient, admin: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = client.application.extensions["services"].settings
    monkeypatch.setattr(settings, "degraded", "cannot read /etc/x; the last settings are used")
    assert client.get("/health").json["degraded"] == "settings"
    assert "/etc/x" in client.get("/health", headers=admin).json["degraded"]


def test_a_providers_host_is_in_no_users_metrics(make_app: Callable[..., Flask]) -> None:
    provider = FakeProvider()
    models = {"m": {"type": "openai", "model_name": "m", "base_url": f"{provider.url}/v1"}}
    client = make_app(
        models=models,
        provider_networks="127.0.0.0/8", provider_http_hosts="127.0.0.1",
    ).test_client()  # fmt: skip
    services = client.application.extensions["services"]
    health.show(services, client.application.extensions["throttle"])
    admin = bearer(token_of(client, *ADMIN))
    uma = add_user(client, admin, "uma")
    host = provider.url.removeprefix("http://")
    assert host in client.get("/metrics", headers=admin).text
    assert host not in client.get("/metrics", headers=uma).text
    assert accounts_of(client.application).problem is None
    provider.server_close()
