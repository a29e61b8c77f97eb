"""The environment and the command line of TEI's container and of Infinity's start this service."""

import json
import logging
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from config import Config, ConfigError, ModelSpec, load_config, rivals
from config.fields import names_of
from factory import create_app
from server import healthy
from tests.conftest import ROOT, running, write_models
from tests.servers.process import free_port

NOTHING = Path("/nonexistent/.env")
KEY = "a-key-that-nobody-guesses"
NAME = "BAAI/bge-base-en-v1.5"


def load(**environ: str) -> Config:
    return load_config(environ, NOTHING)


def models(**environ: str) -> tuple[ModelSpec, ...]:
    return load(**environ).catalogue()[0]


def problems(**environ: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load(**environ).catalogue()
    return "\n".join(refused.value.problems)


# -- TEI -------------------------------------------------------------------------------------------


def test_model_id_is_the_only_model_and_answers_to_every_name() -> None:
    config = load(MODEL_ID=NAME)
    specs, default = config.catalogue()
    assert ([spec.id for spec in specs], default) == ([NAME], NAME)
    assert config.unknown_model == "default"
    assert load().unknown_model == "error"


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("MAX_CLIENT_BATCH_SIZE", "64", "max_texts", 64),
        ("MAX_BATCH_TOKENS", "16384", "max_batch_tokens", 16384),
        ("MAX_BATCH_REQUESTS", "8", "max_batch_size", 8),
        ("PAYLOAD_LIMIT", "2000000", "max_request_bytes", 2_000_000),
        ("AUTO_TRUNCATE", "true", "truncate", "right"),
        ("AUTO_TRUNCATE", "false", "truncate", "error"),
        ("DTYPE", "float16", "dtype", "float16"),
        ("PORT", "80", "port", 80),
        ("HUGGINGFACE_HUB_CACHE", "/data", "model_cache_dir", Path("/data")),
        *(("JSON_OUTPUT", word, "log_format", "json") for word in ("true", "1", "Yes", "on")),
        ("AUTO_TRUNCATE", "off", "truncate", "error"),
        ("DENSE_PATH", "2_Dense", "port", 8001),
        ("CORS_ALLOW_ORIGIN", "https://a.org", "cors_origins", ("https://a.org",)),
        ("OTLP_SERVICE_NAME", "tei", "otel_service_name", "tei"),
        ("PROMETHEUS_PORT", "9000", "metrics_port", 9000),
        ("API_KEY", KEY, "auth_enabled", True),
    ],
)
def test_teis_names_mean_what_ours_mean(name: str, value: str, field: str, read: Any) -> None:
    assert getattr(load(MODEL_ID=NAME, **{name: value}), field) == read


def test_a_prometheus_port_opens_the_metrics_to_other_machines() -> None:
    config = load(MODEL_ID=NAME, PROMETHEUS_PORT="9000")
    assert (config.enable_metrics, config.metrics_host) == (True, "0.0.0.0")


@pytest.mark.parametrize("most", [1, 2, 7, 512, 3584])
def test_as_many_requests_run_at_once_as_in_tei(most: int) -> None:
    from rate_limits import Permits

    config = load(MODEL_ID=NAME, MAX_CONCURRENT_REQUESTS=str(most))
    assert Permits(config.threads).most == most


def test_what_is_of_the_model_is_in_its_entry() -> None:
    (spec,) = models(
        MODEL_ID=NAME, REVISION="refs/pr/5", POOLING="last-token", SERVED_MODEL_NAME="bge",
        DEFAULT_PROMPT="query: ",
    )  # fmt: skip
    assert (spec.id, spec.model_name, spec.revision) == ("bge", NAME, "refs/pr/5")
    assert spec.pooling == "lasttoken"
    assert (spec.prompts, spec.default_prompt_name) == ({"default": "query: "}, "default")
    (named,) = models(MODEL_ID=NAME, DEFAULT_PROMPT_NAME="query")
    assert (named.default_prompt_name, named.prompts) == ("query", {})
    (sparse,) = models(MODEL_ID=NAME, POOLING="splade")
    assert (sparse.type, sparse.pooling) == ("sparse", None)


def test_an_entry_that_describes_the_model_is_kept(tmp_path: Path) -> None:
    entry = {"type": "sentence_transformer", "model_name": "org/small", "prompts": {"query": "q: "}}
    others = {"big": {"model_name": "org/big"}}
    file = str(write_models(tmp_path / "models.json", {"small": entry, **others}, "big"))
    for name in ("org/small", "small"):
        (spec,) = models(MODEL_ID=name, MODEL_CONFIG=file, DEFAULT_PROMPT="d: ")
        assert (spec.id, spec.model_name, spec.type) == (name, "org/small", "sentence_transformer")
        assert spec.prompts == {"query": "q: ", "default": "d: "}


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"AUTO_TRUNCATE": "maybe"}, "AUTO_TRUNCATE=maybe: it must be true"),
        ({"POOLING": "max"}, "POOLING=max: it must be cls or mean or last-token or splade"),
        ({"DENSE_PATH": "2_Dense_512"}, "DENSE_PATH=2_Dense_512"),
        ({"OTLP_ENDPOINT": "http://a:4317"}, "over HTTP here, not gRPC"),
        ({"MAX_CONCURRENT_REQUESTS": "5000"}, "1 to 3584"),
        ({"MAX_CLIENT_BATCH_SIZE": "none"}, "MAX_CLIENT_BATCH_SIZE=none"),
        ({"PAYLOAD_LIMIT": "2 MB"}, "PAYLOAD_LIMIT=2 MB"),
        ({"DTYPE": "int4"}, "DTYPE=int4"),
        ({"DEFAULT_PROMPT": "a", "DEFAULT_PROMPT_NAME": "b"}, "both say the prompt"),
        ({"API_KEY": "short"}, "API_KEY: the key must be at least 16 characters"),
        ({"API_KEY": f"{KEY}é"}, "API_KEY: the key must be of printable ASCII"),
        ({"API_KEY": KEY, "AUTH_ENABLED": "false"}, "API_KEY asks for a key"),
        ({"EMBEDDING_MODEL": "a"}, "MODEL_ID and EMBEDDING_MODEL all name models"),
        ({"SUPPORTED_MODELS": "a"}, "MODEL_ID and SUPPORTED_MODELS all name models"),
        ({"INFINITY_MODEL_ID": "a"}, "MODEL_ID and INFINITY_MODEL_ID all name models"),
    ],
)
def test_what_cannot_be_honoured_stops_the_start(environ: dict[str, str], word: str) -> None:
    said = problems(MODEL_ID=NAME, **environ)
    assert word in said and "short" not in said.replace("shorten", "")


def test_every_problem_is_told_at_once() -> None:
    assert len(problems(MODEL_ID=NAME, AUTO_TRUNCATE="x", POOLING="y").splitlines()) == 2


def test_teis_names_alone_are_anybodys(caplog: pytest.LogCaptureFixture) -> None:
    others = set(rivals.TEI) | set(rivals.TEI_MODEL)
    assert load(**dict.fromkeys(others, "17")) == load()
    assert caplog.text == ""


def test_what_containers_and_neighbours_set_is_never_read() -> None:
    strange = {"HOSTNAME": "3f2a9c", "OLLAMA_HOST": "0.0.0.0:11434", "TASK": "run"}
    assert load(MODEL_ID=NAME, **strange) == load(MODEL_ID=NAME)
    assert load(**strange) == load()


def test_our_own_names_win() -> None:
    config = load(
        MODEL_ID=NAME, MAX_CLIENT_BATCH_SIZE="4", MAX_TEXTS_PER_REQUEST="5", UNKNOWN_MODEL="error",
        AUTO_TRUNCATE="false", TRUNCATE="left",
    )  # fmt: skip
    assert (config.max_texts, config.unknown_model, config.truncate) == (5, "error", "left")


def test_a_flag_wins_over_its_variable_and_our_own_names_over_both() -> None:
    flags = shlex.split(f"--model-id {NAME} --max-client-batch-size 10 --port 9 --dtype float16")
    for own, most in (({}, 10), ({"MAX_TEXTS_PER_REQUEST": "5"}, 5)):
        environ = {"MAX_CLIENT_BATCH_SIZE": "4", "EMBEDDING_PORT": "8", "DTYPE": "bfloat16", **own}
        config = load(**environ | rivals.started(environ, flags)[0])
        assert (config.max_texts, config.port, config.dtype) == (most, 9, "float16")


def test_the_names_may_stand_in_dotenv(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"MODEL_ID={NAME}\nMAX_CLIENT_BATCH_SIZE=7\n")
    assert load_config({}, file).max_texts == 7
    assert load_config({"MAX_CLIENT_BATCH_SIZE": "8"}, file).max_texts == 8


# -- Kubernetes ------------------------------------------------------------------------------------


def test_addresses_of_services_are_no_settings() -> None:
    """Services named prometheus and infinity put these into every pod of their namespace."""
    of_services = {
        "PROMETHEUS_PORT": "tcp://10.96.0.7:9090", "PROMETHEUS_SERVICE_HOST": "10.96.0.7",
        "PROMETHEUS_PORT_9090_TCP_ADDR": "10.96.0.7",
        "INFINITY_PORT": "tcp://10.0.0.1:80", "INFINITY_SERVICE_HOST": "10.0.0.1",
        "INFINITY_SERVICE_PORT": "80", "INFINITY_PORT_80_TCP": "tcp://10.0.0.1:80",
    }  # fmt: skip
    assert load(MODEL_ID=NAME, **of_services) == load(MODEL_ID=NAME)
    assert load(INFINITY_MODEL_ID=NAME, **of_services) == load(INFINITY_MODEL_ID=NAME)
    assert load(**of_services) == load()


# -- Infinity --------------------------------------------------------------------------------------


def test_infinitys_models_are_the_only_ones() -> None:
    one, other = models(
        INFINITY_MODEL_ID="org/a;org/b;", INFINITY_SERVED_MODEL_NAME="a;;", INFINITY_BATCH_SIZE="8",
        INFINITY_REVISION="main;v2", INFINITY_DEVICE="cuda", INFINITY_DEVICE_ID="0,1;2",
        INFINITY_DTYPE="float16", INFINITY_ENGINE="torch;optimum", INFINITY_POOLING_METHOD="cls",
    )  # fmt: skip
    assert (one.id, one.model_name, one.revision) == ("a", "org/a", "main")
    assert (other.id, other.model_name, other.revision) == ("org/b", "org/b", "v2")
    assert one.max_batch_size == other.max_batch_size == 8
    assert (one.devices, other.device) == (("cuda:0", "cuda:1"), "cuda:2")
    assert (one.dtype, one.backend, other.backend) == ("float16", None, "onnx")
    assert one.pooling == "cls"
    assert "default/not-specified" in one.names and other.aliases == ()


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_only_gpus_have_numbers(device: str) -> None:
    given = {"INFINITY_DEVICE": f"{device};auto", "INFINITY_DEVICE_ID": "0"}
    one, other = models(INFINITY_MODEL_ID="org/a;org/b", **given)
    assert (one.device, one.devices, other.device) == (device, (), "cuda:0")


@pytest.mark.parametrize("names", [";", " ; "])
def test_a_list_without_a_model_stops_the_start(names: str) -> None:
    assert problems(INFINITY_MODEL_ID=names) == "INFINITY_MODEL_ID: it names no model"


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("INFINITY_PORT", "7997", "port", 7997),
        ("INFINITY_HOST", "127.0.0.1", "host", "127.0.0.1"),
        ("INFINITY_API_KEY", KEY, "auth_enabled", True),
        ("INFINITY_LOG_LEVEL", "trace", "log_level", "DEBUG"),
        ("INFINITY_LOG_LEVEL", "warning", "log_level", "WARNING"),
        ("INFINITY_PERMISSIVE_CORS", "false", "cors_origins", ()),
        ("INFINITY_PERMISSIVE_CORS", "true", "cors_origins", ("*",)),
        ("INFINITY_URL_PREFIX", "/v1", "port", 8001),
    ],
)
def test_infinitys_names_mean_what_ours_mean(name: str, value: str, field: str, read: Any) -> None:
    config = load(INFINITY_MODEL_ID=NAME, **{name: value})
    assert getattr(config, field) == read
    assert load(**{name: value}) == load()  # without a model they are anybody's
    assert config.unknown_model == "error"


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"INFINITY_ENGINE": "ctranslate2"}, "it must be torch or optimum"),
        ({"INFINITY_DEVICE": "tensorrt"}, "it must be auto or cpu or cuda or mps"),
        ({"INFINITY_DEVICE_ID": "first"}, "the numbers of GPUs"),
        ({"INFINITY_DTYPE": "fp8"}, "there are no others here"),
        ({"INFINITY_EMBEDDING_DTYPE": "ubinary"}, "output_dtype"),
        ({"INFINITY_URL_PREFIX": "/api/infinity"}, "it must be / or /v1"),
        ({"INFINITY_PROXY_ROOT_PATH": "/x"}, "leave it out"),
        ({"INFINITY_PRELOAD_ONLY": "true"}, "stays up"),
        ({"INFINITY_BATCH_SIZE": "1;2;3"}, "3 values for 2 models"),
        ({"INFINITY_BATCH_SIZE": "none"}, "max_batch_size"),
        ({"INFINITY_SERVED_MODEL_NAME": "a;a"}, "two models have one name"),
        ({"INFINITY_PORT": "web"}, "INFINITY_PORT=web"),
    ],
)
def test_what_infinity_alone_can_do_stops_the_start(environ: dict[str, str], word: str) -> None:
    assert word in problems(INFINITY_MODEL_ID="org/a;org/b", **environ)


def test_what_has_no_effect_or_is_not_known_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load(INFINITY_MODEL_ID=NAME, INFINITY_COMPILE="true", INFINITY_NEW_THING="1")
    assert "INFINITY_COMPILE has no effect here" in caplog.text
    assert "INFINITY_NEW_THING is set and not read" in caplog.text


# -- the one key -----------------------------------------------------------------------------------


@pytest.fixture
def keyed(tmp_path: Path) -> FlaskClient:
    """A client of a service whose environment is that of a TEI with a key."""
    file = write_models(tmp_path / "models.json", {"a": {"type": "fake", "model_name": "org/a"}})
    config = load(
        MODEL_ID="org/a", API_KEY=KEY, MODEL_CONFIG=str(file), DATA_DIR=str(tmp_path / "data"),
        STORE_DIR=str(tmp_path / "store"), EMBEDDING_DB_URL=f"sqlite:///{tmp_path}/service.db",
    )  # fmt: skip
    return create_app(config, wait=True).test_client()


def test_with_a_key_only_probes_and_metrics_stay_open(keyed: FlaskClient) -> None:
    for path in ("/", "/health", "/ping", "/metrics"):
        assert keyed.get(path).status_code == 200, path
    signed = {"Authorization": f"Bearer {KEY}"}
    assert keyed.get("/info").status_code == 401
    assert keyed.get("/info", headers=signed).json["model_id"] == "org/a"
    for path, body in (
        ("/embed", {"inputs": "a"}),
        ("/", {"inputs": "a"}),
        ("/v1/embeddings", {"input": "a", "model": "text-embedding-ada-002"}),
        ("/tokenize", {"inputs": "a"}),
    ):
        assert keyed.post(path, json=body).status_code == 401, path
        assert keyed.post(path, json=body, headers=signed).status_code == 200, path
        wrong = {"Authorization": f"Bearer {KEY}x"}
        assert keyed.post(path, json=body, headers=wrong).status_code == 401, path
    assert keyed.get("/settings", headers=signed).status_code == 403  # it is no admin's


# -- the command line and the image ----------------------------------------------------------------


def test_teis_flags_are_its_environment() -> None:
    found, others = rivals.started(
        {}, shlex.split(
            f"--model-id {NAME} --revision main --port 80 --auto-truncate false --json-output "
            "--max-client-batch-size=64 --hostname :: --dtype float16 -w 2"
        )
    )  # fmt: skip
    assert found == {
        "MODEL_ID": NAME, "REVISION": "main", "EMBEDDING_PORT": "80", "AUTO_TRUNCATE": "false",
        "JSON_OUTPUT": "true", "MAX_CLIENT_BATCH_SIZE": "64", "EMBEDDING_HOST": "::",
        "EMBEDDING_DTYPE": "float16",
    }  # fmt: skip
    assert others == ["-w", "2"]
    config = load(**found)
    assert (config.port, config.max_texts, config.host) == (80, 64, "::")
    assert rivals.environment(["-p", "8080", "--auto-truncate"])[0] == {
        "EMBEDDING_PORT": "8080", "AUTO_TRUNCATE": "true",
    }  # fmt: skip


def test_a_flag_is_given_once_but_for_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = rivals.environment(
        shlex.split("--cors-allow-origin https://a --cors-allow-origin=*")
    )
    assert found == {"CORS_ALLOW_ORIGIN": "https://a,*"}
    for twice in ("--model-id a --model-id b", "--port 1 -p 2", "--json-output --json-output"):
        with pytest.raises(SystemExit):
            rivals.environment(shlex.split(twice))
        assert "it is given more than once" in capsys.readouterr().err, twice


@pytest.mark.parametrize(
    ("environ", "flags", "port"),
    [
        ({}, "", None),
        ({"PORT": "9"}, "", "9"),
        ({"EMBEDDING_PORT": "8", "PORT": "9"}, "", "8"),
        ({}, f"--model-id {NAME}", "80"),
        ({"MODEL_ID": NAME}, "", "80"),
        ({"MODEL_ID": NAME, "PORT": "9"}, "", "9"),
        ({"MODEL_ID": NAME, "PORT": "9"}, "--port 10", "10"),
        ({"INFINITY_MODEL_ID": NAME}, "", "7997"),
        ({"INFINITY_MODEL_ID": NAME, "INFINITY_PORT": "9"}, "", "9"),
        ({"INFINITY_PORT": "9"}, "", None),
        ({"AIP_HTTP_PORT": "8080"}, "", None),
        ({"MODEL_ID": NAME, "AIP_HTTP_PORT": "8080"}, "", "8080"),
        ({"HF_MODEL_ID": NAME}, "serve", "8080"),
        ({"HF_MODEL_ID": NAME, "PORT": "9"}, "serve", "9"),
        ({}, f"text-embeddings-router --model-id {NAME}", "80"),
    ],
)
def test_the_image_listens_where_the_other_image_did(
    environ: dict[str, str], flags: str, port: str | None
) -> None:
    assert rivals.started(environ, flags.split())[0].get("EMBEDDING_PORT") == port


def test_sagemakers_names_are_read_where_it_starts_the_image() -> None:
    given = {"HF_MODEL_ID": NAME, "HF_MODEL_REVISION": "main"}
    found, others = rivals.started(given, ["serve"])
    assert (found["MODEL_ID"], found["REVISION"], others) == (NAME, "main", [])
    assert rivals.started(given, []) == ({}, [])
    assert "MODEL_ID" not in rivals.started({**given, "MODEL_ID": "org/a"}, ["serve"])[0]


def test_infinitys_command_line_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="set its variables, as INFINITY_MODEL_ID"):
        rivals.started({}, shlex.split(f"v2 --model-id {NAME} --port 7997"))


def test_the_image_reads_the_models_of_teis_volume() -> None:
    image = {"DATA_DIR": "/data", "HF_HOME": "/models/huggingface"}
    found, _ = rivals.started({**image, "MODEL_ID": NAME}, [])
    assert load(MODEL_ID=NAME, **image, **found).model_cache_dir == Path("/data")
    for others in (
        image, {"MODEL_ID": NAME}, {**image, "MODEL_ID": NAME, "HF_HUB_CACHE": "/models"},
        {**image, "MODEL_ID": NAME, "EMBEDDING_MODEL_CACHE_DIR": "/models"},
    ):  # fmt: skip
        assert "HUGGINGFACE_HUB_CACHE" not in rivals.started(others, [])[0], others


def test_flags_without_a_model_are_refused() -> None:
    with pytest.raises(ConfigError, match="--payload-limit: --model-id is missing"):
        rivals.started({}, ["--payload-limit", "5"])
    assert rivals.started({"MODEL_ID": NAME}, ["--payload-limit", "5"])[0]["PAYLOAD_LIMIT"] == "5"


def of_the_image(instruction: str) -> list[str]:
    """Return the command of an instruction of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    line = re.search(rf"^{instruction} [^\[]*(\[.*\])$", text, re.MULTILINE)
    assert line is not None
    return json.loads(line[1])


def entrypoint(tmp_path: Path, *arguments: str) -> list[str]:
    """Run the image's entry point with a `python` that prints its arguments."""
    command = of_the_image("ENTRYPOINT")
    for name in ("python", "gunicorn"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_image_takes_teis_flags_or_any_command(tmp_path: Path) -> None:
    serve = ["python", "cli.py", "serve"]
    assert entrypoint(tmp_path) == serve
    flags = ["--model-id", NAME, "--default-prompt", "a b", "--port", "80"]
    assert entrypoint(tmp_path, *flags) == [*serve, *flags]
    for word in ("serve", "text-embeddings-router", "v2"):
        assert entrypoint(tmp_path, word, *flags) == [*serve, word, *flags]
    assert entrypoint(tmp_path, "gunicorn", "app:app") == ["gunicorn", "app:app"]


SERVER = """
import http.server, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.send_header("Content-Type", sys.argv[3])
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.parametrize(
    ("status", "kind", "well"),
    [(200, "application/json", True), (503, "application/json", False), (200, "text/plain", False)],
)
def test_the_images_health_check_asks_where_gunicorn_listens(
    status: int, kind: str, well: bool
) -> None:
    """Whatever set the port, and whatever the first process is; the metrics' port is no answer."""
    command = [sys.executable, "-c", SERVER, "gunicorn", str(status), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port, folder = int(process.stdout.readline()), Path(f"/proc/{process.pid}")
            assert folder in healthy.servers() and healthy.ports_of(folder) == {port}
            assert healthy.is_healthy(port) is well
        finally:
            process.kill()
    assert not healthy.is_healthy(port) and healthy.ports_of(folder) == set()


def test_the_command_serves_as_its_flags_say(tmp_path: Path) -> None:
    file = write_models(tmp_path / "models.json", {"a": {"type": "fake", "model_name": "org/a"}})
    port = free_port()
    command = shlex.split(
        f"{sys.executable} cli.py serve --model-id org/a -p {port} --hostname 127.0.0.1 "
        "--served-model-name mine --max-client-batch-size 2"
    )
    env = {"MODEL_CONFIG": str(file), "INFINITY_PORT": "tcp://10.0.0.1:80"}
    url = f"http://127.0.0.1:{port}/info"
    with running(command, port, env, ready="/ping"), urllib.request.urlopen(url) as reply:
        info = json.load(reply)
        check = subprocess.run(of_the_image("HEALTHCHECK"), cwd=ROOT, capture_output=True)
        assert check.returncode == 0, check.stderr
    assert (info["model_id"], info["served_model_name"]) == ("org/a", "mine")
    assert info["max_client_batch_size"] == 2


def test_the_command_tells_its_flags() -> None:
    command = [sys.executable, "cli.py", "serve", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert "--model-id" in shown and "--max-client-batch-size" in shown
    assert "gunicorn --help lists them" in " ".join(shown.split())


def test_the_table_in_the_docs_has_every_name() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    ours = {name for info in Config.model_fields.values() for name in names_of(info)}
    for name in sorted(rivals.names() | set(rivals.SAME)):
        assert f"`{name}`" in page, name
    assert set(rivals.SAME) <= ours and not (rivals.names() & ours)
