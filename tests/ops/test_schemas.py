"""What deploy/ holds is valid by the schema or the linter of whoever reads it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

SCHEMAS = Path(__file__).parent / "schemas"
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
COMPOSE_FILES = sorted(ROOT.glob("docker-compose*.yml"))
KUBERNETES_FILES = sorted((DEPLOY / "k8s").glob("*.yaml"))
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/embedding-service.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

ANY = [("MatcherConfig", "options"), ("DynamicConfigValue", "value")]


def problems(value: object, schema: str, part: str | None = None) -> list[str]:
    """What a schema, or one definition in it, finds wrong."""
    rules = json.loads((SCHEMAS / f"{schema}.json").read_text())
    for name, field in ANY:  # values of any kind, which the schema's generator writes as objects
        if name in rules["definitions"]:
            rules["definitions"][name]["properties"][field] = {}
    if part is not None:
        rules = {"$ref": f"#/definitions/{part}", "definitions": rules["definitions"]}
    found = jsonschema.Draft7Validator(rules).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
def test_compose_files_are_as_the_compose_specification_says(path: Path) -> None:
    assert problems(yaml.safe_load(path.read_text()), "compose") == []


def test_the_compose_schema_finds_a_fault() -> None:
    """The control."""
    whole = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    whole["services"]["redis"]["helthcheck"] = {}
    whole["services"]["grafana"]["depends_on"] = 3
    assert len(problems(whole, "compose")) == 2


def test_all_compose_and_kubernetes_files_are_looked_at() -> None:
    assert len(COMPOSE_FILES) == 3 and len(KUBERNETES_FILES) >= 3


@pytest.mark.parametrize("path", KUBERNETES_FILES, ids=lambda path: path.name)
def test_kubernetes_files_are_as_its_schemas_say(path: Path) -> None:
    for part in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)


def test_the_kubernetes_schemas_find_a_fault() -> None:
    """The control."""
    whole = yaml.safe_load((DEPLOY / "k8s/deployment.yaml").read_text())
    whole["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(whole, kubernetes_validate.latest_version(), strict=True)


def hadolint(path: Path) -> str:
    done = subprocess.run(
        [BIN / "hadolint", "--no-color", str(path)], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def test_hadolint_finds_no_fault_in_the_dockerfile(tmp_path: Path) -> None:
    assert hadolint(ROOT / "Dockerfile") == ""
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")  # the control
    assert "DL3006" in hadolint(tmp_path / "Dockerfile")


def systemd(unit: str, folder: Path) -> str:
    """What systemd says of a unit whose program is there, as it is on a machine that runs it."""
    program = folder / "gunicorn"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = folder / "embedding-service.service"
    path.write_text(unit.replace("/opt/embedding-service/.venv/bin/gunicorn", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "embedding-service.service").read_text()
    assert systemd(unit, tmp_path) == ""
    broken = unit.replace("Restart=always", "Restart=perhaps")
    assert "perhaps" in systemd(broken, tmp_path)  # the control


def test_the_dashboard_is_as_grafanas_schemas_say() -> None:
    assert problems(DASHBOARD, "grafana-dashboard") == []
    for panel in PANELS:
        options = {"stat": "grafana-stat", "timeseries": "grafana-timeseries"}.get(panel["type"])
        if options:  # there is no schema of the heat map's here
            assert problems(panel["options"], options, "Options") == [], panel["title"]
        for target in panel["targets"]:
            assert problems(target, "grafana-prometheus", "Dataquery") == [], panel["title"]
        custom = panel["fieldConfig"]["defaults"].get("custom", {})
        assert problems(custom, "grafana-timeseries", "GraphFieldConfig") == [], panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            named = {p["id"].removeprefix("custom."): p["value"] for p in override["properties"]}
            unit = named.pop("unit")
            assert problems(named, "grafana-timeseries", "GraphFieldConfig") == [], unit


@pytest.mark.parametrize(
    "spoil",
    [lambda d: d["panels"][0].update(gridpos={}), lambda d: d.update(schemaVersion="39"),
     lambda d: d["panels"][0]["fieldConfig"]["defaults"].update(unitt="s")],
)  # fmt: skip
def test_grafanas_schema_finds_a_fault(spoil: Callable[[Any], None]) -> None:
    """The control."""
    whole = json.loads(json.dumps(DASHBOARD))
    spoil(whole)
    assert problems(whole, "grafana-dashboard")


def test_provisioning_names_what_compose_mounts() -> None:
    folder = DEPLOY / "grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((folder / "dashboards/dashboards.yml").read_text())["providers"][0]
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    (chosen,) = [v for v in DASHBOARD["templating"]["list"] if v["type"] == "datasource"]
    assert (source["type"], source["uid"]) == (chosen["query"], chosen["current"]["value"])
    assert {f"${{{chosen['name']}}}"} == {panel["datasource"]["uid"] for panel in PANELS}
    assert source["url"] == "http://prometheus:9090"


def test_the_tools_are_the_real_ones() -> None:
    """A tool that is missing would make every check above pass unseen."""
    assert shutil.which("systemd-analyze") and (BIN / "hadolint").stat().st_size > 10_000_000
