"""A real Prometheus reads the service: rules, dashboard and scrape are what it understands."""

import json
import math
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from routes import ROUTES
from tests.conftest import ROOT
from tests.faults.conftest import until
from tests.ops.busy import Busy
from tests.servers.process import Server

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/embedding-service.json").read_text())
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
PANELS = [t["expr"] for p in DASHBOARD["panels"] for t in p.get("targets", [])]
NOTES = [note["expr"] for note in DASHBOARD["annotations"]["list"]]
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}


def filled(expression: str) -> str:
    """Return an expression as Grafana asks it where all is chosen."""
    for name, value in (("__rate_interval", "10s"), ("instance", ".*"), ("model", ".*")):
        expression = expression.replace(f"${name}", value)
    return expression


EXPRESSIONS = [filled(expression) for expression in PANELS]
# What needs a GPU.
NOT_HERE = ("embedding_gpu_",)


class Prometheus(Server):
    """Debian's prometheus, on a copy of our configuration that scrapes one port every second."""

    program: ClassVar[str] = "prometheus"
    install: ClassVar[str] = "apt-get install prometheus"

    def __init__(self, *targets: int) -> None:
        super().__init__()
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [f"127.0.0.1:{port}" for port in targets]}
        ]
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

    def numbers(self, expression: str) -> list[float]:
        """What a query returns now; a route that rests has no quantile, which is no number."""
        rows = self.ask("query", query=expression)["data"]["result"]
        found = [float(row["value"][1]) for row in rows]
        return [value for value in found if not math.isnan(value)]

    def labels(self, series: str) -> list[dict[str, str]]:
        """The labels of the series that a query returns now."""
        return [row["metric"] for row in self.ask("query", query=series)["data"]["result"]]

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


def test_promtool_sees_every_alert_fire_and_keep_quiet(tmp_path: Path) -> None:
    cases = Path(__file__).parent / "alerts_test.yml"
    tested = {check["alertname"] for case in yaml.safe_load(cases.read_text())["tests"]
              for check in case["alert_rule_test"] if check["exp_alerts"]}  # fmt: skip
    assert tested == {rule["alert"] for rule in RULES}
    done = subprocess.run(["promtool", "test", "rules", str(cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = cases.read_text().replace("97.5%", "12%").replace("../..", str(ROOT))  # the control
    (tmp_path / "wrong.yml").write_text(wrong)
    assert subprocess.run(["promtool", "test", "rules", str(tmp_path / "wrong.yml")]).returncode


@pytest.fixture(scope="module")
def busy() -> Iterator[list[int]]:
    """The metrics' ports of two services that do all that can be shown, until the test ends."""
    with Busy() as busy:
        yield busy.ports


def test_every_query_returns_data_from_a_real_prometheus(busy: list[int]) -> None:
    with Prometheus(*busy) as prometheus:
        waiting = [e for e in EXPRESSIONS if not any(n in e for n in NOT_HERE)]
        assert len(waiting) >= len(EXPRESSIONS) - 4
        end = time.monotonic() + 180
        while waiting := [e for e in waiting if not prometheus.numbers(e)]:
            assert time.monotonic() < end, "\n".join(waiting)
            time.sleep(0.5)
        # Those without data here, and what marks a restart or another model, are queries at least.
        for expression in (*EXPRESSIONS, *map(filled, NOTES)):
            assert prometheus.ask("query", query=expression)["status"] == "success"
        rules = prometheus.ask("rules")["data"]["groups"][0]["rules"]
        assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
        assert {rule["health"] for rule in rules} == {"ok"} and len(rules) == len(RULES)


def series_of(expression: str) -> list[str]:
    """Return selectors of the metrics of an expression that ask for its labels and no values."""
    found = []
    for name, labels in re.findall(r"\b(embedding_\w+)(?:\{([^}]*)\})?", expression):
        asked = ",".join(f'{label}!=""' for label in re.findall(r"(\w+)\s*[=!]~?\s*\"", labels))
        found.append(f"{name}{{{asked}}}")
    return found


def test_every_metric_of_an_alert_is_shown_by_the_service(busy: list[int]) -> None:
    wanted = {s for rule in RULES for s in series_of(rule["expr"])}
    assert 'embedding_model_ready{default!=""}' in wanted and len(wanted) >= 6
    with Prometheus(*busy) as prometheus:
        waiting = sorted(s for s in wanted if not any(n in s for n in NOT_HERE))
        end = time.monotonic() + 180
        while waiting := [s for s in waiting if not prometheus.numbers(s)]:
            assert time.monotonic() < end, "\n".join(waiting)
            time.sleep(0.5)


def test_what_is_chosen_is_offered_and_narrows_every_panel(busy: list[int]) -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    with Prometheus(*busy) as prometheus:
        wanted = {}
        for name in ("instance", "model"):
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["definition"])
            assert asked and asked[2] == name
            wanted[name] = filled(asked[1])
        for name, series in wanted.items():  # two services, and a model on each
            until(lambda n=name, s=series: len({each[n] for each in prometheus.labels(s)}) >= 2)
        until(lambda: prometheus.labels("embedding_model_seconds_count"))
        shown = {each["__name__"]: each for each in prometheus.labels('{__name__=~"embedding_.+"}')}
    for expression in (*PANELS, *NOTES):
        for metric, labels in re.findall(r"\b(embedding_\w+)(?:\{([^}]*)\})?", expression):
            assert 'instance=~"$instance"' in labels, expression
            if metric in shown and expression in PANELS:
                assert ('model=~"$model"' in labels) == ("model" in shown[metric]), expression


def test_what_the_service_does_not_do_is_asked_of_no_metric() -> None:
    quiet = {row.path for row in ROUTES if row.probe}
    for expression in (*PANELS, *(rule["expr"] for rule in RULES)):
        for pattern in re.findall(r'route!~"([^"]+)"', expression):
            assert all(re.fullmatch(pattern, path) for path in quiet), expression
            assert not re.fullmatch(pattern, "/embed")


def test_panels_do_not_overlap_and_all_name_the_chosen_source() -> None:
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
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
