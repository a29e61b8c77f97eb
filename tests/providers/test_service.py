"""Remote models in the whole service: keys that come later, a copy of itself as the backend."""

import json
import select
import socket
import socketserver
import ssl
import threading

import numpy as np
import pytest
import requests
import trustme

from config import ModelSpec
from embedders import build, try_provider
from embedders.base import Prompt
from embedders.providers import Providers
from errors import ProviderError
from factory import create_app
from tests.conftest import ROOT
from tests.providers import server as wrong
from tests.providers.conftest import loopback
from tests.providers.server import KEY, FakeProvider


@pytest.fixture
def entry(provider):
    return {"type": "openai", "model_name": "m", "base_url": f"{provider.url}/v1",
            "provider": "openai"}  # fmt: skip


NETWORK = {"provider_networks": "127.0.0.0/8", "provider_http_hosts": "127.0.0.1"}


def test_a_remote_model_is_ready_without_a_call_and_unavailable_without_a_key(
    config_of, provider, entry
):
    app = create_app(config_of({"m": entry}, **NETWORK), wait=True)
    client = app.test_client()
    reply = client.post("/embed", json={"text": "t"})
    assert reply.status_code == 503
    assert "no key for openai: set OPENAI_API_KEY" in reply.json["error"]
    assert client.get("/models/m").json["status"] == "unavailable"
    providers = app.extensions["services"].providers
    providers.get_key = {"openai": KEY}.get
    assert client.get("/models/m").json["status"] == "ready"
    assert client.get("/models/m").json["dimension"] is None
    assert not provider.seen
    assert client.post("/embed", json={"text": "t"}).status_code == 200
    assert client.get("/models/m").json["dimension"] == 8
    assert providers.get("openai").status()["last_used"] is not None
    refused = client.post("/embed", json={"text": "t", "dimensions": 9})
    assert refused.status_code == 400
    providers.close()


def test_a_providers_retry_after_reaches_the_caller(config_of, provider, entry):
    app = create_app(config_of({"m": entry}, openai_api_key=KEY, **NETWORK), wait=True)
    provider.always = (429, {"Retry-After": "3600"})
    reply = app.test_client().post("/embed", json={"text": "t"})
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "120"
    provider.always = (404, {})
    reply = app.test_client().post("/v1/embeddings", json={"input": "t", "model": "m"})
    assert reply.status_code == 502
    assert reply.headers["X-Should-Retry"] == "false"
    app.extensions["services"].providers.close()


def test_a_key_is_tried_on_a_configured_model(config_of, provider, entry):
    config = config_of({"m": entry}, openai_api_key=KEY, **NETWORK)
    providers = Providers(config)
    result = try_provider(providers, "openai")
    assert (result["ok"], result["dimension"], result["model"]) == (True, 8, "m")
    providers.close()


def test_a_second_copy_of_this_service_is_a_backend(serve, tmp_path, config_of):
    models = tmp_path / "backend.json"
    fake = {"type": "fake", "model_name": "far", "dimensions": 12, "max_seq_length": 99}
    models.write_text(json.dumps({"models": {"far": fake}}))
    url = serve(MODEL_CONFIG=str(models), SUPPORTED_MODELS="far", STORE_DIR=str(tmp_path / "s"))
    near = {"type": "openai", "model_name": "far", "base_url": f"{url}/v1"}
    app = create_app(config_of({"near": near}, **NETWORK), wait=True)
    texts = [f"text number {i}" for i in range(300)]
    reply = app.test_client().post("/embed", json={"texts": texts}).json
    direct = requests.post(f"{url}/embed", json={"texts": texts}, timeout=60).json()
    np.testing.assert_allclose(reply["embeddings"], direct["embeddings"], atol=1e-6)
    ids = {"input": [[1, 2], [3]], "model": "near"}
    usage = app.test_client().post("/v1/embeddings", json=ids).json["usage"]
    assert usage["prompt_tokens"] == 3
    app.extensions["services"].providers.close()


@pytest.fixture
def private_ca(tmp_path):
    """A provider with a certificate of a private authority, and that authority's file."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    server = FakeProvider()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    yield server, file
    server.shutdown()
    server.server_close()


def one_call(url):
    providers = Providers(loopback(), lambda name: KEY)
    spec = ModelSpec(id="o", type="openai", model_name="m", base_url=url)
    embedder = build(spec, providers.config, providers)
    embedder._retries = 0
    try:
        return embedder.encode(embedder.prepare(["t"], Prompt(), "right")).vectors
    finally:
        providers.close()


def test_a_private_authority_is_trusted_when_it_is_named(private_ca, monkeypatch):
    server, file = private_ca
    url = f"https://localhost:{server.server_port}/v1"
    with pytest.raises(ProviderError, match="SSLError"):
        one_call(url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
    assert one_call(url).shape == (1, 8)


def test_a_proxy_of_the_environment_is_used(provider, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", provider.url)
    monkeypatch.setenv("NO_PROXY", "")
    config = loopback(provider_http_hosts="far.example")
    providers = Providers(config, lambda name: KEY)
    spec = ModelSpec(id="o", type="openai", model_name="m", base_url="http://far.example/v1")
    embedder = build(spec, config, providers)
    assert embedder.encode(embedder.prepare(["t"], Prompt(), "right")).vectors.shape == (1, 8)
    assert provider.seen[0][0] == "http://far.example/v1/embeddings"
    providers.close()


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that knows CONNECT, whatever host is named, to one port on loopback."""

    def handle(self):
        self.server.asked.append(self.rfile.readline())
        while self.rfile.readline().strip():
            pass
        with socket.create_connection(("127.0.0.1", self.server.target)) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            both = {far: self.connection, self.connection: far}
            while ready := select.select(list(both), [], [], 5)[0]:
                for sock in ready:
                    if not (data := sock.recv(65536)):
                        return
                    both[sock].sendall(data)


def test_https_goes_through_the_proxy_of_the_environment(private_ca, monkeypatch):
    server, file = private_ca
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads, proxy.asked, proxy.target = True, [], server.server_port
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
        assert one_call("https://localhost:1/v1").shape == (1, 8)
        assert proxy.asked == [b"CONNECT localhost:1 HTTP/1.0\r\n"]
        proxy.shutdown()


HOMES = ("api.openai.com", "api.cohere.com", "router.huggingface.co")
WIDTHS = {"text-embedding-3-small": 1536, "embed-english-v3.0": 1024, "all-mpnet-base-v2": 768}


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Every provider under its own name and certificate, reached through a proxy on loopback."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    server = FakeProvider()
    server.widths = WIDTHS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOMES).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.daemon_threads, proxy.asked, proxy.target = True, [], server.server_port
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        yield proxy
        proxy.shutdown()
    server.shutdown()
    server.server_close()


def test_the_example_of_a_model_file_serves_every_provider_once_it_has_keys(config_of, homes):
    """As users of such a file know it: one entry local, three remote, and one that has to come from
    the hub, which is out of reach here and harms no other."""
    keys = dict.fromkeys(("openai_api_key", "cohere_api_key", "hf_token"), KEY)
    config = config_of(**keys, device="cpu").model_copy(
        update={"model_config_file": ROOT / "model_config.example.json"}
    )
    app = create_app(config, wait=True)
    client = app.test_client()
    dimensions = {"minilm": 384, "openai-small": 1536, "cohere-english": 1024, "huggingface": 768}
    for model, dimension in dimensions.items():
        reply = client.post("/embed", json={"texts": ["a", "b"], "model": model})
        assert reply.status_code == 200, reply.json
        vectors = np.array(reply.json["embeddings"])
        assert vectors.shape == (2, dimension)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    asked = {line.split()[1].split(b":")[0].decode() for line in homes.asked}
    assert asked >= set(HOMES)
    missing = client.post("/embed", json={"text": "a", "model": "bge-small"})
    assert missing.status_code == 503 and "BAAI/bge-small-en" in missing.json["error"]
    assert client.get("/models").status_code == 200
    app.extensions["services"].providers.close()


def test_what_was_nonsense_is_not_in_the_cache(config_of, provider, entry):
    app = create_app(config_of({"m": entry}, openai_api_key=KEY, **NETWORK), wait=True)
    client = app.test_client()
    assert client.post("/embed", json={"texts": "one"}).headers["X-Cache"] == "hits=0, misses=1"
    provider.always = wrong.other_width
    assert client.post("/embed", json={"texts": "two"}).status_code == 502
    provider.always = "good"
    again = client.post("/embed", json={"texts": ["one", "two"]})
    assert again.headers["X-Cache"] == "hits=1, misses=1"
