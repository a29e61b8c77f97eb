"""A real Prometheus reads the service: rules, dashboard and scrape are what it understands."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from tests.conftest import ROOT
from tests.ops.conftest import Watched
from tests.servers.process import Server

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/embedding-service.json").read_text())
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", [])]
EXPRESSIONS = [e.replace("$__rate_interval", "5s") for e in PANELS] + [r["expr"] for r in RULES]
NAMES = sorted({n for e in EXPRESSIONS for n in re.findall(r"embedding_\w+", e)})


class Prometheus(Server):
    """Debian's prometheus, on a copy of our configuration that scrapes one port every second."""

    program: ClassVar[str] = "prometheus"
    install: ClassVar[str] = "apt-get install prometheus"

    def __init__(self, target: int) -> None:
        super().__init__()
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.folder / "alerts.yml").write_bytes((DEPLOY / "alerts.yml").read_bytes())

    def command(self) -> list[str]:
        return [
            str(self.find("prometheus")), f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready") as reply:
                return reply.status == 200
        except OSError:
            return False

    def ask(self, path: str, **query: str) -> dict:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url) as reply:
            return json.loads(reply.read())


def test_promtool_finds_no_fault_in_the_configuration_and_its_rules() -> None:
    for command in (
        ["promtool", "check", "config", str(DEPLOY / "prometheus.yml")],
        ["promtool", "check", "rules", str(DEPLOY / "alerts.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_does_find_a_fault(tmp_path: Path) -> None:
    """The control."""
    (tmp_path / "r.yml").write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum(('}]}]")
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "r.yml")])
    assert done.returncode != 0


def test_every_name_asked_for_is_shown_by_a_live_service(watched: Watched) -> None:
    watched.embed(["a"])
    text = watched.get("/metrics", watched.metrics_port)[0].decode()
    shown = set(re.findall(r"^# TYPE (embedding_\w+)", text, re.MULTILINE))
    base = {re.sub(r"_(bucket|count|sum)$", "", n) if n not in shown else n for n in NAMES}
    if watched.workers == 1:
        assert not base - shown
    else:  # numbers kept in files have no line before their first event
        assert {"embedding_requests_total", "embedding_texts_total"} <= base & shown


@pytest.mark.usefixtures("load")
def test_a_real_prometheus_runs_every_query_on_a_service_under_load(watched: Watched) -> None:
    with Prometheus(watched.metrics_port) as prometheus:
        end = time.monotonic() + 30
        query = 'sum(rate(embedding_requests_total{route="/embed"}[5s])) > 0'
        while not prometheus.ask("query", query=query)["data"]["result"]:
            assert time.monotonic() < end, prometheus.log()
            time.sleep(0.2)
        answered = 0
        for expression in EXPRESSIONS:
            reply = prometheus.ask("query", query=expression)
            assert reply["status"] == "success", expression
            answered += bool(reply["data"]["result"])
        assert answered >= 25, answered
        groups = prometheus.ask("rules")["data"]["groups"]
        assert [rule["lastError"] for rule in groups[0]["rules"] if rule.get("lastError")] == []
        assert len(groups[0]["rules"]) == len(RULES)


def test_panels_do_not_overlap_and_all_name_the_provisioned_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "prometheus"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
