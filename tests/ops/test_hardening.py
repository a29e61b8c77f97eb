"""The shipped units and manifests leave the service no right that it does not use."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from config import Config
from tests.conftest import ROOT

UNITS = sorted((ROOT / "deploy").glob("*.service"))
POD = yaml.safe_load((ROOT / "deploy/k8s/deployment.yaml").read_text())["spec"]["template"]["spec"]
SERVICES = {
    f"{file.name} {name}": service
    for file in ROOT.glob("docker-compose*.yml")
    for name, service in yaml.safe_load(file.read_text())["services"].items()
    if "image" in service or "build" in service and file.name != "docker-compose.gpu.yml"
}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_calls_the_unit_hardened(unit: Path, tmp_path: Path) -> None:
    copy = shutil.copy(unit, tmp_path / "embedding-service.service")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(copy)],
        capture_output=True, text=True,
    )  # fmt: skip
    found = re.search(r"Overall exposure level .*: ([\d.]+)", done.stdout)
    assert found and float(found[1]) < 3, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_keeps_what_gpus_and_a_second_version_need(unit: Path) -> None:
    text = re.sub(r"^#.*", "", unit.read_text(), flags=re.MULTILINE)
    assert "DeviceAllow=char-nvidia* rw" in text and "PrivateDevices" not in text
    for name in ("MemoryDenyWriteExecute", "ProcSubset", "RemoveIPC", "PrivateNetwork"):
        assert name not in text, name
    assert {"AF_INET", "AF_INET6"} <= set(re.findall(r"AF_\w+", text))


def test_the_pod_has_no_right_that_it_does_not_use() -> None:
    (container,) = POD["containers"]
    assert POD["automountServiceAccountToken"] is False and POD["enableServiceLinks"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts) == {"/models", "/data", "/tmp", "/dev/shm"}
    assert set(mounts.values()) == {volume["name"] for volume in POD["volumes"]}


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and not service.get("cap_add")
    if "build" in service:  # ours
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["tmpfs"] == ["/tmp"]


def test_the_metrics_port_is_open_where_a_file_needs_it_and_nowhere_else() -> None:
    assert Config().metrics_host == "127.0.0.1"
    (container,) = POD["containers"]
    pod = {entry["name"]: entry["value"] for entry in container["env"]}
    compose = SERVICES["docker-compose.yml embedding-service"]
    for env in (pod, compose["environment"]):
        assert env["METRICS_HOST"] == "0.0.0.0"
    assert [port.split(":")[-1] for port in compose["ports"]] == ["8001"]


def test_copies_behind_a_proxy_of_ours_believe_it() -> None:
    copy = SERVICES["docker-compose.scale.yml service-1"]
    config = Config.model_validate(
        {name: copy["environment"][name] for name in ("TRUSTED_PROXY_HOPS", "TRUSTED_PROXIES")}
    )
    assert config.trusted_proxy_hops == 1 and len(config.trusted_proxies) == 4
    assert "ports" not in copy  # so nobody else comes from these networks
