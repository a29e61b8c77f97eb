"""The page on running the service: its commands are run, what cannot be run here is parsed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.conftest import ROOT, free_port, running, write_models
from tests.faults.conftest import Service, until
from tests.faults.test_process import Crowd
from tests.servers.fixtures import need
from tests.servers.nginx import Nginx

PAGE = (ROOT / "docs" / "deploy.md").read_text()
SNIPPETS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [code for language, code in SNIPPETS if language == "bash"]
WRITES = ("STORE_DIR", "DATA_DIR", "EMBEDDING_DB_URL")  # what the unit says of itself
K8S = ROOT / "deploy" / "k8s"
RUN_HERE = ("systemctl start", "mkdir -p backup", "for folder in backup", "pg_dump", "mariadb-dump")
SHOWN_ELSEWHERE = {
    "docker compose up": "test_schemas.py and test_deploy.py; no container engine runs here",
    "git pull && docker compose up": "the same",
    "OTEL_ENABLED=true docker compose": "test_deploy.py and test_tracing.py",
    "kubectl": "test_kubectl_names_what_the_files_hold",
    "pip install opentelemetry": "test_tracing.py sends to a real collector",
}


def snippet(beginning: str) -> str:
    """Return the one snippet that begins so."""
    (code,) = [code for code in SHELL if code.startswith(beginning)]
    return code


def shell(code: str, folder: Path, **env: str) -> str:
    """Run a snippet in a folder as a person with the virtual environment would."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=env, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_is_run_or_shown_elsewhere() -> None:
    for code in SHELL:
        assert code.startswith((*RUN_HERE, *SHOWN_ELSEWHERE)), code
    for beginning in (*RUN_HERE, *SHOWN_ELSEWHERE):
        assert snippet(beginning)


def test_every_file_for_running_it_is_on_the_page() -> None:
    files = [*ROOT.glob("deploy/**/*"), *ROOT.glob("docker-compose*.yml"), ROOT / "Dockerfile"]
    named = {path for path in re.findall(r"`([^`\n]+)`", PAGE)}
    for file in files:
        assert file.is_dir() or str(file.relative_to(ROOT)) in named, file
    for name in named:
        assert not name.startswith("deploy/") or (ROOT / name).exists(), name


def test_kubectl_names_what_the_files_hold() -> None:
    deployment = yaml.safe_load((K8S / "deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    name = f"deployment/{deployment['metadata']['name']}"
    for line in snippet("kubectl").splitlines():
        assert re.search(rf" {name}( |$)", line)
    image = container["image"].split(":")[0]
    assert f"{name} {container['name']}={image}:" in snippet("kubectl")
    update = deployment["spec"]["strategy"]["rollingUpdate"]
    assert f"`maxSurge: {update['maxSurge']}`, `maxUnavailable: {update['maxUnavailable']}`" in PAGE


def test_the_adapters_rules_offer_what_the_autoscaler_asks_for() -> None:
    scrape, adapter = [yaml.safe_load(code) for language, code in SNIPPETS if language == "yaml"]
    asked = yaml.safe_load((K8S / "hpa.yaml").read_text())["spec"]["metrics"]
    names = [metric["pods"]["metric"]["name"] for metric in asked]
    assert [rule["name"]["matches"] for rule in adapter["rules"]] == names
    assert "embedding_requests_in_flight" in names
    (job,) = scrape["scrape_configs"]
    given = {rule.get("target_label") for rule in job["relabel_configs"]}
    for name, rule in zip(names, adapter["rules"], strict=True):
        wanted = re.fullmatch(rf'{name}{{(\w+)!="",(\w+)!=""}}', rule["seriesQuery"])
        assert wanted and set(wanted.groups()) <= given
        assert name in PAGE[PAGE.index("## Metrics") :]


def test_the_page_says_what_to_do_for_every_alert() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert re.findall(r"^\| `(Embedding\w+)` \|", PAGE, re.M) == [rule["alert"] for rule in rules]


def test_the_second_unit_is_the_first_but_for_its_ports_and_its_code() -> None:
    units = [ROOT / "deploy" / f"embedding-service{at}.service" for at in ("", "@")]
    lines = [{line for line in unit.read_text().splitlines() if line[:1] != "#"} for unit in units]
    for line in lines[0] ^ lines[1]:
        assert line.split("=")[0] in ("Description", "WorkingDirectory", "ExecStart"), line


def test_what_nginx_is_said_to_do_is_in_its_file() -> None:
    conf = (ROOT / "deploy" / "nginx.conf").read_text()
    table = PAGE[PAGE.index("## Behind nginx") : PAGE.index("## Kubernetes")]
    for row in re.findall(r"^\| (`.+?) \| ", table, re.MULTILINE):
        for said in re.findall(r"`([^`]+)`", row):
            assert re.search(rf"\b{re.escape(said)}(;|\b| )", conf), said


def environment(folder: Path, port: int) -> dict[str, str]:
    """Return the settings of a service whose data is all under one folder."""
    models = write_models(folder / "m.json", {"f": {"type": "fake", "model_name": "tests/fake"}})
    return {
        "HOST": "127.0.0.1", "PORT": str(port), "MODEL_CONFIG": str(models),
        "SUPPORTED_MODELS_FILE": "/nonexistent", "EMBEDDING_USE_DB_SETTINGS": "true",
        "STORE_DIR": f"{folder}/data/store", "DATA_DIR": f"{folder}/data",
        "EMBEDDING_DB_URL": f"sqlite:///{folder}/data/service.db",
    }  # fmt: skip


@contextmanager
def served(folder: Path, **env: str) -> Iterator[Service]:
    """Run a service on the data of a folder."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--pid", f"{folder}/old.pid", "app:app"]
    with running(command, port, environment(folder, port) | env) as process:
        yield Service(port, process)


def write(service: Service, max_texts: int, text: str) -> None:
    """Change a setting and store a text."""
    assert service.ask("/settings", {"key": "max_texts", "value": max_texts})[0] == 200
    body = {"collection": "notes", "texts": [text], "ids": ["a"]}
    assert service.ask("/embed-and-store", body)[0] in (200, 201)


def read(service: Service) -> tuple[int, str]:
    """Return both again."""
    setting = json.loads(service.ask("/settings/max_texts")[2])
    found = json.loads(service.ask("/collections/notes/search", {"text": "x", "k": 1})[2])
    return setting["value"], found["results"][0]["text"]


def test_what_is_backed_up_while_it_runs_is_restored(tmp_path: Path) -> None:
    store = {"STORE_DIR": f"{tmp_path}/data/store"}
    with served(tmp_path) as service:
        write(service, 7, "before")
        shell(snippet("mkdir -p backup"), tmp_path, **store)
        write(service, 8, "after")
        assert service.ask("/collections/notes", method="DELETE")[0] == 200
    shell(snippet("for folder in backup"), tmp_path, **store)
    with served(tmp_path) as service:
        assert read(service) == (7, "before")


def dumped(folder: Path, code: str, tools: str, **env: str) -> tuple[int, str]:
    """Write, dump, write, restore into the same database; return what is read then."""
    dump, restore = code.splitlines()
    path = {"PATH": f"{Path(tools).parent}:{os.environ['PATH']}", **env}
    (folder / "backup").mkdir()
    with served(folder, **env) as service:
        write(service, 7, "before")
        shell(dump, folder, **path)
        write(service, 8, "after")
    shell(restore, folder, **path)
    with served(folder, **env) as service:
        return read(service)


def test_a_dump_of_postgresql_brings_settings_and_vectors_back(postgres, tmp_path) -> None:
    url, tools = postgres.database(), postgres.find("pg_dump")
    env = {"EMBEDDING_DB_URL": url, "STORE_URL": url}
    assert dumped(tmp_path, snippet("pg_dump"), tools, **env) == (7, "before")


def test_a_dump_of_mariadb_brings_settings_back(mariadb, tmp_path) -> None:
    url, tools = mariadb.database(), mariadb.find("mariadb-dump")
    given = f"--host=127.0.0.1 --port={mariadb.port} --user=test --password=test"
    code = re.sub(r"^mariadb(-dump)?", rf"\g<0> {given}", snippet("mariadb-dump"), flags=re.M)
    env = {"EMBEDDING_DB_URL": url, "DATABASE": urlsplit(url).path[1:]}
    assert dumped(tmp_path, code, tools, **env) == (7, "after")  # the texts are in files


def front_of(port: int) -> str:
    """Return the shipped nginx.conf without TLS, before a service on this port."""
    conf = (ROOT / "deploy" / "nginx.conf").read_text()
    conf = re.sub(
        r"listen 443 ssl;|ssl_\w+ .*;", "", conf.replace("127.0.0.1:8001", f"127.0.0.1:{port}")
    )
    return conf.replace("server_name", "listen 127.0.0.1:{port}; server_name")


SYSTEMCTL = """#!{python}
import os, signal, subprocess, sys
word, unit = sys.argv[1:]
if word == "stop":
    os.kill(int(open({folder!r} + "/old.pid").read()), signal.SIGTERM)
else:  # with nothing of the environment that it was called in, as systemd does
    command = open({folder!r} + "/command").read().replace("%i", unit.partition("@")[2])
    log = open({folder!r} + "/log", "w")
    command = ["env", "-i", "bash", "-c", "exec " + command]
    subprocess.Popen(command, cwd={root!r}, stdout=log, stderr=log)
"""


def four_digits() -> int:
    """Return a free port to which the unit can put a 1 in front."""
    for port in range(7100, 9999):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port of four digits is free")


def install(folder: Path) -> Path:
    """Put a `systemctl` that knows the shipped template into a folder; return that of programs.

    What the unit says is done, but for places: /etc, /opt and /var are the folder's.
    """
    unit = (ROOT / "deploy" / "embedding-service@.service").read_text()
    gunicorn = f"{sys.executable} -m gunicorn --pid {folder}/new.pid"
    for said, here in {
        "/opt/embedding-service-%i/.venv/bin/gunicorn": gunicorn,
        "/etc/embedding-service.env": f"{folder}/env",
        "/var/lib/embedding-service": f"{folder}/data",
        "/var/cache/embedding-service": f"{folder}/models",
    }.items():  # fmt: skip
        assert said in unit
        unit = unit.replace(said, here)
    (settings,) = re.findall(r"^EnvironmentFile=-(.+)", unit, re.M)
    (command,) = re.findall(r"^ExecStart=(.+)", unit, re.M)
    given = [*re.findall(r"^Environment=(.+)", unit, re.M), *Path(settings).read_text().split()]
    (folder / "command").write_text(f"env PATH=/usr/bin:/bin {' '.join(given)} {command}")
    (folder / "bin").mkdir()
    program = folder / "bin" / "systemctl"
    program.write_text(SYSTEMCTL.format(python=sys.executable, folder=str(folder), root=str(ROOT)))
    program.chmod(0o755)
    return folder / "bin"


def test_a_new_version_takes_over_behind_nginx_and_no_request_is_lost(tmp_path: Path) -> None:
    need(Nginx)
    new = four_digits()
    with served(tmp_path) as old, Nginx(front_of(old.port)) as nginx:
        write(old, 7, "before")
        ours = {"HOST": "127.0.0.1", "METRICS_PORT": "1", "PORT": str(old.port)}
        kept = {k: v for k, v in environment(tmp_path, old.port).items() if k not in WRITES}
        (tmp_path / "env").write_text("\n".join(f"{k}={v}" for k, v in (kept | ours).items()))
        path = f"{install(tmp_path)}:{os.environ['PATH']}"
        code = snippet("systemctl start")
        conf = f"{nginx.find('nginx')} -p {nginx.folder} -c {nginx.config} -e {nginx.folder}/e"
        for said, here in {
            "8003": str(new), "8001": str(old.port), "nginx -s": f"{conf} -s",
            "/etc/nginx/conf.d/embedding.conf": str(nginx.config),
        }.items():  # fmt: skip
            assert said in code
            code = code.replace(said, here)
        with Crowd(Service(nginx.port, old.process)) as crowd:
            try:
                shell(f"PATH={path}\n{code}", tmp_path)
                assert old.process.wait(40) == 0
                count = len(crowd.statuses)
                until(lambda: len(crowd.statuses) > count + 20)
                assert read(Service(new, old.process)) == (7, "before")  # the same data
            finally:
                newcomer = int((tmp_path / "new.pid").read_text())
                os.kill(newcomer, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{newcomer}").exists())
    # the stop of the newcomer comes before that of the crowd: what that meets is not meant
    assert set(crowd.statuses[: count + 20]) == {200}
