"""docker-compose.scale.yml agrees with docs/scale.md, and fits the service and nginx's file."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import Config
from config.fields import names_of
from tests.servers.fixtures import need
from tests.servers.nginx import Nginx

ROOT = Path(__file__).parent.parent.parent
NGINX = (ROOT / "deploy" / "nginx.scale.conf").read_text()
COPIES = ("service-1", "service-2", "service-3")
# Names of settings that other parts of the service read.
ELSEWHERE = {"ENCRYPTION_KEY"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.scale.yml").read_text())


def test_it_has_the_parts_and_only_nginx_is_reachable_from_outside(compose) -> None:
    assert set(compose["services"]) == {"nginx", "postgres", "redis", *COPIES}
    published = [name for name, part in compose["services"].items() if part.get("ports")]
    assert published == ["nginx"]


def test_whoever_is_waited_for_as_healthy_has_a_health_check(compose) -> None:
    services = compose["services"]
    for part in services.values():
        for other in part.get("depends_on", {}):
            checked = "healthcheck" in services[other] or "build" in services[other]
            assert checked, f"{other} has no health check"  # the image's Dockerfile has one
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_the_volumes_that_are_used_are_declared_and_the_files_exist(compose) -> None:
    for part in compose["services"].values():
        for volume in part.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file(), source
            else:
                assert source in compose["volumes"], source
    used = {v.split(":")[0] for p in compose["services"].values() for v in p.get("volumes", [])}
    assert set(compose["volumes"]) <= used


def test_the_copies_are_alike_and_their_settings_are_real(compose) -> None:
    first, *others = (compose["services"][name] for name in COPIES)
    assert all(other == first for other in others)
    known = {name for info in Config.model_fields.values() for name in names_of(info)}
    assert set(first["environment"]) <= known | ELSEWHERE
    hosts = re.findall(r"(?:@|//)([a-z][a-z0-9-]*)[:/]", " ".join(first["environment"].values()))
    assert {"postgres", "redis"} == set(hosts) - {"embedding"}


def test_no_secret_stands_in_the_file(compose) -> None:
    assert compose["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${")
    text = (ROOT / "docker-compose.scale.yml").read_text()
    assert "${POSTGRES_PASSWORD:?" in text  # without one nothing starts


def test_postgres_takes_all_connections_that_the_copies_may_open(compose) -> None:
    allowed = int(
        re.search(r"max_connections=(\d+)", compose["services"]["postgres"]["command"])[1]
    )
    assert allowed >= len(COPIES) * (15 + 15) + 10


def test_nginx_knows_every_copy_and_waits_longer_than_the_service() -> None:
    assert re.findall(r"server (\S+):8001", NGINX) == list(COPIES)
    assert int(re.search(r"proxy_read_timeout (\d+)s", NGINX)[1]) > Config().request_deadline_s
    largest = int(re.search(r"client_max_body_size (\d+)m", NGINX)[1]) * 1024 * 1024
    assert largest == Config().max_request_bytes


def test_debians_nginx_takes_the_file(compose) -> None:
    need(Nginx)
    with Nginx(on_loopback(NGINX, [1, 2])) as nginx:
        assert nginx.ready()


def on_loopback(config: str, ports: list[int]) -> str:
    """The shipped file with other addresses: copies at `ports`, itself where the test wants it."""
    servers = "".join(f"server 127.0.0.1:{p} max_fails=1 fail_timeout=5s;\n" for p in ports)
    config = re.sub(r"(    server service-\d:8001[^\n]*\n)+", servers, config)
    assert "service-1:" not in config
    return config.replace("listen 8001;", "listen 127.0.0.1:{port};")
