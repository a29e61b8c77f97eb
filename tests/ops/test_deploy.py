"""The files under deploy/ and the compose files, checked as far as a machine without Docker can."""

import json
import re
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from dotenv import dotenv_values

from config import Config, load_config
from config.fields import names_of
from config.serving import TRACING
from tests.conftest import ROOT
from tests.servers.nginx import Nginx

DEPLOY = ROOT / "deploy"
KNOWN = {name for info in Config.model_fields.values() for name in names_of(info)}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
K8S = {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "k8s").glob("*.yaml")}
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
CONTAINER = K8S["deployment"]["spec"]["template"]["spec"]["containers"][0]


def interpolated(value: str, **env: str) -> str:
    """A value of a compose file as compose reads it in this environment."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: env.get(m[1]) or m[2], value)


def test_the_compose_file_has_the_four_services_and_their_ports() -> None:
    services = COMPOSE["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {"embedding-service", "redis", "prometheus", "grafana"}
    assert any("3000:3000" in port for port in services["grafana"]["ports"])
    assert not set(services["embedding-service"]["environment"]) - KNOWN


def test_compose_hands_the_users_settings_to_the_service_and_keeps_its_port(tmp_path: Path) -> None:
    service = COMPOSE["services"]["embedding-service"]
    assert {"path": ".env", "required": False} in service["env_file"]
    given = ("AUTH_ENABLED=true", f"JWT_SECRET_KEY={'k' * 43}", "PORT=9000", "HOST=127.0.0.1")
    (tmp_path / ".env").write_text("\n".join(given))
    ours = {name: interpolated(value) for name, value in service["environment"].items()}
    seen = {**dotenv_values(tmp_path / ".env"), **ours}  # as compose merges them
    config = load_config(environ=seen, dotenv=tmp_path / "none")
    (published,) = service["ports"]
    assert (config.host, str(config.port)) == ("0.0.0.0", published.split(":")[-1])
    assert config.auth_enabled
    (scraped,) = PROMETHEUS["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == f"embedding-service:{config.metrics_port}"


def test_the_tracing_profile_leads_from_the_service_to_the_viewer() -> None:
    services = COMPOSE["services"]
    profile = {name for name, each in services.items() if each.get("profiles") == ["tracing"]}
    assert profile == {"otel-collector", "jaeger"}
    for name, each in services.items():  # all are on compose's own network, and pinned
        assert "networks" not in each and "network_mode" not in each
        assert "image" not in each or re.search(r":v?\d+(\.\d+)*(-alpine)?$", each["image"]), name
    env = services["embedding-service"]["environment"]
    assert interpolated(env["OTEL_ENABLED"]) == "false"
    assert interpolated(env["OTEL_ENABLED"], OTEL_ENABLED="true") == "true"
    endpoint = urlsplit(interpolated(env["OTEL_EXPORTER_OTLP_ENDPOINT"]))
    config = yaml.safe_load((DEPLOY / "otel-collector.yml").read_text())
    listens = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert (endpoint.hostname, listens) == ("otel-collector", f"0.0.0.0:{endpoint.port}")
    assert config["exporters"]["otlp"]["endpoint"] == "jaeger:4317"  # where Jaeger takes OTLP
    (pipeline,) = config["service"]["pipelines"].values()
    for kind, names in pipeline.items():
        assert set(names) == set(config[kind]), kind
    (mount,) = services["otel-collector"]["volumes"]
    inside = mount.split(":")[1]
    assert services["otel-collector"]["command"] == [f"--config={inside}"]
    assert all(port.startswith("127.0.0.1:") for port in services["jaeger"]["ports"])


def test_the_image_of_the_tracing_profile_has_its_packages() -> None:
    args = COMPOSE["services"]["embedding-service"]["build"]["args"]
    assert interpolated(args["TRACING"], OTEL_ENABLED="true") == "true"
    image = (ROOT / "Dockerfile").read_text()
    assert 'if [ "$TRACING" = true ]' in image
    pinned = (ROOT / "requirements-dev.txt").read_text().splitlines()
    for package in TRACING.values():
        (ours,) = re.findall(rf"{package}==\S+", image)
        assert ours.rstrip(";") in pinned


def test_what_compose_mounts_is_there() -> None:
    for part in COMPOSE["services"].values():
        for volume in part.get("volumes", []):
            source = volume.split(":")[0]
            there = (ROOT / source).exists() if source.startswith("./") else True
            assert there and (source.startswith("./") or source in COMPOSE["volumes"]), volume


def test_the_gpu_file_adds_gpus_to_the_same_service() -> None:
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert set(gpu) <= set(COMPOSE["services"])
    (device,) = gpu["embedding-service"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]


def test_kubernetes_files_name_routes_and_settings_that_exist() -> None:
    from routes import ROUTES

    paths = {row.path for row in ROUTES}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["path"] in paths
    assert {entry["name"] for entry in CONTAINER["env"]} <= KNOWN
    assert K8S["hpa"]["spec"]["scaleTargetRef"]["name"] == K8S["deployment"]["metadata"]["name"]


def test_kubernetes_gives_a_stop_more_time_than_the_service_takes() -> None:
    pod = K8S["deployment"]["spec"]["template"]["spec"]
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + Config().graceful_timeout_s


def test_the_images_user_is_the_pods_user() -> None:
    user = K8S["deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"--uid {user}" in (ROOT / "Dockerfile").read_text()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
         str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def behind_nginx(serve, certificate: Path) -> Iterator[tuple[Nginx, ssl.SSLContext, str]]:
    """The service with two threads behind the shipped nginx.conf, and its own address."""
    url = serve(
        EMBEDDING_MODEL="", MODEL_CONFIG=str(fake_models(certificate)), THREADS="2",
        SUPPORTED_MODELS_FILE="/nonexistent",
    )  # fmt: skip
    config = (DEPLOY / "nginx.conf").read_text()
    config = config.replace("127.0.0.1:8001", url.removeprefix("http://"))
    config = config.replace("listen 443", "listen 127.0.0.1:{port}")
    config = config.replace("/etc/ssl/certs/embeddings.example.com.pem", f"{certificate}/cert.pem")
    config = config.replace("/etc/ssl/private/embeddings.example.com.key", f"{certificate}/key.pem")
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with Nginx(config) as nginx:
        yield nginx, context, url


def test_nginx_serves_the_service_over_tls(behind_nginx) -> None:
    nginx, context, _ = behind_nginx
    request = urllib.request.Request(
        f"https://127.0.0.1:{nginx.port}/embed",
        json.dumps({"texts": ["a"] * 2000}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, context=context) as reply:
        assert len(json.loads(reply.read())["embeddings"]) == 2000


def test_clients_that_send_slowly_hold_nginx_and_not_the_service(behind_nginx) -> None:
    nginx, context, url = behind_nginx
    held = []
    for _ in range(4):
        sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", nginx.port)), server_hostname="127.0.0.1"
        )
        sock.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{")
        held.append(sock)
    for _ in range(20):  # each of two threads would have been taken
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
            assert b"embedding_requests_in_flight 1.0" in reply.read()
    for sock in held:
        sock.close()


def test_every_nginx_takes_bodies_as_large_as_the_service_does() -> None:
    for file in DEPLOY.glob("nginx*.conf"):
        found = re.findall(r"client_max_body_size (\d+)m;", file.read_text())
        assert [int(size) << 20 for size in found] == [Config().max_request_bytes], file.name


def fake_models(folder: Path) -> Path:
    file = folder / "models.json"
    entry = {"type": "fake", "model_name": "tests/fake"}
    file.write_text(json.dumps({"default": "fake", "models": {"fake": entry}}))
    return file


def test_systemd_gives_a_stop_more_time_than_the_service_takes() -> None:
    unit = (DEPLOY / "embedding-service.service").read_text()
    assert f"TimeoutStopSec={Config().graceful_timeout_s + 10}" in unit
    assert "Type=notify" in unit  # gunicorn tells systemd when it is up


WRITES = ("STORE_DIR", "DATA_DIR", "EMBEDDING_DB_URL")


def places(text: str, models: str = "EMBEDDING_MODEL_CACHE_DIR") -> dict[str, str]:
    """Return the folders in which a file lets the service write, by setting."""
    names = {*WRITES, models}
    found = dict(re.findall(rf"\b({'|'.join(names)})=(\S+)", text))
    assert set(found) == names
    return {name: value.removeprefix("sqlite:///") for name, value in found.items()}


def test_the_unit_lets_the_service_write_where_it_does() -> None:
    unit = (DEPLOY / "embedding-service.service").read_text()
    assert "ProtectSystem=strict" in unit  # all else may not be written
    allowed = [f"/var/lib/{re.findall('StateDirectory=(.+)', unit)[0]}",
               f"/var/cache/{re.findall('CacheDirectory=(.+)', unit)[0]}"]  # fmt: skip
    for place in places(unit).values():
        assert any(Path(place).is_relative_to(folder) for folder in allowed), place
    assert unit.index("Environment=") < unit.index("EnvironmentFile=")  # which has the last word


def test_the_image_writes_only_into_its_users_volumes() -> None:
    image = (ROOT / "Dockerfile").read_text()
    (volumes,) = re.findall(r"^VOLUME (.+)", image, re.MULTILINE)
    (owned,) = re.findall(r"chown service (.+)", image)
    assert volumes == owned
    # A container's user may name another cache as TEI's image does, by HUGGINGFACE_HUB_CACHE.
    for place in places(image, "HF_HOME").values():
        assert any(Path(place).is_relative_to(folder) for folder in owned.split()), place
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    binds = {v.split(":")[1] for v in COMPOSE["services"]["embedding-service"]["volumes"]}
    assert set(owned.split()) == binds and binds <= mounts
