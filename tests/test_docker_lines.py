"""The README's `docker` lines fit the image, and what they start serves: without Docker, as none
runs here, by the image's own variables and entry point in folders of a test.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml

from config import Config
from config.fields import names_of
from tests.conftest import ROOT, free_port, running, write_models
from tests.test_docker import arguments

README = (ROOT / "README.md").read_text()
SHELL = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
VOLUMES = arguments("VOLUME")[0].split()


def shown(word: str, parser: argparse.ArgumentParser) -> list[argparse.Namespace]:
    """Return each `docker <word>` that the README shows; a flag that is not known fails."""
    lines = SHELL.replace("\\\n", " ").splitlines()
    start = f"docker {word} "
    return [parser.parse_args(shlex.split(line)[2:]) for line in lines if line.startswith(start)]


def builds() -> dict[str, dict[str, str]]:
    """Return the images that are built, with the arguments of each build."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-t", required=True)
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("context", choices=["."])
    return {
        build.t: dict(each.split("=", 1) for each in build.build_arg)
        for build in shown("build", parser)
    }


def runs() -> list[argparse.Namespace]:
    """Return the containers that are started."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-d", action="store_true")
    for flag in ("--name", "--restart", "--gpus", "-p"):
        parser.add_argument(flag)
    for flag in ("-v", "-e"):
        parser.add_argument(flag, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return shown("run", parser)


def test_the_images_that_are_started_are_built_and_for_the_machine_that_is_named() -> None:
    known = {rest.split("=")[0] for rest in arguments("ARG")}
    images, started = builds(), runs()
    assert {run.image for run in started} == set(images) and len(images) == 2
    cpu = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    base = cpu["services"]["embedding-service"]["build"]["args"]["BASE"]
    for run in started:
        assert set(images[run.image]) <= known
        assert (run.gpus == "all") == (images[run.image] == {})
        assert (run.gpus == "all") == ("DEVICE=cuda" in run.e)  # the CPU is no silent stand-in
        if not run.gpus:
            assert f"${{BASE:-{images[run.image]['BASE']}}}" == base


def test_what_is_started_has_its_port_its_volumes_and_settings_that_exist() -> None:
    settings = {name for info in Config.model_fields.values() for name in names_of(info)}
    for run in runs():
        assert run.d and run.name
        *address, outside, inside = run.p.split(":")
        assert inside == arguments("EXPOSE")[0] == str(Config().port)
        assert f"http://localhost:{outside}/" in SHELL  # where the examples call
        assert "--key" in run.words or address == ["127.0.0.1"]
        assert sorted(volume.split(":")[1] for volume in run.v) == sorted(VOLUMES)
        assert {name.split("=")[0] for name in run.e} <= settings


def test_the_command_without_docker_starts_what_the_container_does() -> None:
    (line,) = re.findall(r"^embedding-service (.+)", SHELL, re.MULTILINE)
    (run,) = (run for run in runs() if run.gpus)
    assert "exec python cli.py serve" in (ROOT / "Dockerfile").read_text()
    assert shlex.split(line) == ["serve", *run.words]


def made_key() -> str:
    """Return a key as the README makes one."""
    (line,) = set(re.findall(r"^export KEY=.+", SHELL, re.MULTILINE))
    script = f"{line}; printf %s $KEY"
    return subprocess.run(["bash", "-euc", script], capture_output=True, text=True).stdout


@contextmanager
def started(run: argparse.Namespace, folder: Path, key: str) -> Iterator[str]:
    """Run what the container would: the image's variables and entry point, folders as volumes.

    The model is a fake one by the same name: there is no hub here.
    """
    env = dict(word.split("=", 1) for line in arguments("ENV") for word in shlex.split(line))
    for volume in VOLUMES:
        (folder / volume[1:]).mkdir()
        env = {name: value.replace(volume, f"{folder}{volume}") for name, value in env.items()}
    port = free_port()
    fake = {"type": "fake", "model_name": "tests/fake"}
    env |= dict(each.split("=", 1) for each in run.e)
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MODEL_CONFIG": str(write_models(folder / "models.json", {"BAAI/bge-m3": fake})),
        "SUPPORTED_MODELS_FILE": "/nonexistent", "HOST": "127.0.0.1", "PORT": str(port),
    }  # fmt: skip
    words = [word.replace("$KEY", key) for word in run.words]
    entry = json.loads(arguments("ENTRYPOINT")[0])
    with running([*entry, *words], port, env):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("run", runs(), ids=lambda run: run.image)
def test_what_is_started_serves_the_model_asks_for_the_key_and_writes_to_its_volumes(
    run: argparse.Namespace, tmp_path: Path
) -> None:
    key, guarded = made_key(), "--key" in run.words
    with started(run, tmp_path, key) as url:
        signed = {"Authorization": f"Bearer {key}"} if guarded else {}
        body = {"collection": "notes", "texts": ["a"], "ids": ["a"]}
        stored = requests.post(f"{url}/embed-and-store", json=body, headers=signed, timeout=30)
        assert stored.status_code in (200, 201), stored.text
        models = requests.get(f"{url}/v1/models", headers=signed, timeout=30).json()["data"]
        assert [model["id"] for model in models] == ["BAAI/bge-m3"]
        without = requests.post(f"{url}/embed", json={"text": "a"}, timeout=30)
        assert without.status_code == (401 if guarded else 200)
    assert any((tmp_path / "data" / "store").rglob("*.*"))
