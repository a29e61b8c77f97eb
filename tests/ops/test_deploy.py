"""The files under deploy/ and the compose files, checked as far as a machine without Docker can."""

import json
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from config import Config
from config.fields import names_of
from tests.conftest import ROOT
from tests.servers.nginx import Nginx

DEPLOY = ROOT / "deploy"
KNOWN = {name for info in Config.model_fields.values() for name in names_of(info)}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
K8S = {path.stem: yaml.safe_load(path.read_text()) for path in (DEPLOY / "k8s").glob("*.yaml")}
CONTAINER = K8S["deployment"]["spec"]["template"]["spec"]["containers"][0]


def test_the_compose_file_has_the_four_services_and_their_ports() -> None:
    services = COMPOSE["services"]
    assert set(services) == {"embedding-service", "redis", "prometheus", "grafana"}
    assert any("3000:3000" in port for port in services["grafana"]["ports"])
    assert not set(services["embedding-service"]["environment"]) - KNOWN


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


def test_nginx_serves_the_service_over_tls(serve, certificate: Path) -> None:
    url = serve(EMBEDDING_MODEL="", MODEL_CONFIG=str(fake_models(certificate)))
    config = (DEPLOY / "nginx.conf").read_text()
    config = config.replace("127.0.0.1:8001", url.removeprefix("http://"))
    config = config.replace("listen 443", "listen 127.0.0.1:{port}")
    config = config.replace("/etc/ssl/certs/embeddings.example.com.pem", f"{certificate}/cert.pem")
    config = config.replace("/etc/ssl/private/embeddings.example.com.key", f"{certificate}/key.pem")
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with Nginx(config) as nginx:
        request = urllib.request.Request(
            f"https://127.0.0.1:{nginx.port}/embed",
            json.dumps({"texts": ["a"] * 500}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=context) as reply:
            assert len(json.loads(reply.read())["embeddings"]) == 500


def fake_models(folder: Path) -> Path:
    file = folder / "models.json"
    entry = {"type": "fake", "model_name": "tests/fake"}
    file.write_text(json.dumps({"default": "fake", "models": {"fake": entry}}))
    return file


def test_systemd_gives_a_stop_more_time_than_the_service_takes() -> None:
    unit = (DEPLOY / "embedding-service.service").read_text()
    assert f"TimeoutStopSec={Config().graceful_timeout_s + 10}" in unit
    assert "Type=notify" in unit  # gunicorn tells systemd when it is up
