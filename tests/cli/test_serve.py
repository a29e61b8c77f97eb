"""`serve` starts the service that its flags say, in whatever folder it is typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from config import load_config
from tests.cli.conftest import run
from tests.conftest import ROOT, free_port, running, write_models
from tools.places import places, version

KEY = "a-key-of-sixteen-or-more"
MODELS = {name: {"type": "fake", "model_name": f"org/{name}"} for name in ("a", "b", "c")}


def test_the_flags_say_model_key_address_data_and_log(empty: Path, tmp_path: Path) -> None:
    """In a folder with files that have the names of the service's own and of libraries."""
    for name in ("app", "config", "store", "requests", "json", "gunicorn"):
        (empty / f"{name}.py").write_text("raise SystemExit('a file of the folder was imported')\n")
    file, port, data = write_models(tmp_path / "models.json", MODELS), free_port(), tmp_path / "all"
    command = [sys.executable, str(ROOT / "cli.py"), "serve", "--model", "org/b", "--model", "c",
               "--key", KEY, "--host", "127.0.0.1", "--port", str(port), "--data", str(data),
               "--json", "--threads", "9"]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    unset = dict.fromkeys(("STORE_DIR", "DATA_DIR", "EMBEDDING_DB_URL"), "")
    env = {**unset, "MODEL_CONFIG": str(file)}
    with running(command, port, env, cwd=empty) as server:
        assert requests.post(f"{url}/embed", json={"texts": "a"}, timeout=60).status_code == 401
        listed = run("models", "--json", "--url", url, "--key", KEY).json
        assert [row["id"] for row in listed["data"]] == ["b", "c"] and listed["default"] == "b"
        stored = run("embed", "-", "--store", "docs", "--quiet", "--url", url, "--key", KEY,
                     stdin="a text\n")  # fmt: skip
        assert stored.code == 0, stored.err
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert any("Listening" in line["message"] for line in lines)
        assert KEY not in server.log.read_text()
    assert (data / "store" / "catalog.db").is_file() and (data / "service.db").is_file()
    assert sorted(path.suffix for path in empty.iterdir()) == [".py"] * 6
    assert "docs" in run("store", "list", "--dir", data / "store").out


def test_a_key_that_can_be_guessed_ends_the_start(empty: Path) -> None:
    done = run("serve", "--key", "secret")
    assert done.code == 1
    assert run("serve", "--port", "0").code == 2


def test_flags_that_cannot_be_honoured_end_the_start(empty: Path) -> None:
    assert run("serve", "--pooling", "cls").code == 1  # it is TEI's, and needs --model-id


def test_data_is_where_variables_say_or_in_the_folder_or_in_the_users_own(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = empty.parent / "home" / ".local" / "share" / "embedding-service"
    found = places({})
    assert found["DATA_DIR"] == str(share) and found["STORE_DIR"] == str(share / "store")
    assert found["EMBEDDING_DB_URL"] == f"sqlite:///{share}/service.db"
    assert found["MODEL_CONFIG"] == str(ROOT / "model_config.json")
    assert places({"XDG_DATA_HOME": "/xdg"})["DATA_DIR"] == "/xdg/embedding-service"
    assert places({"XDG_DATA_HOME": "xdg"})["DATA_DIR"] == str(share)
    given = places({"DATA_DIR": "/mine", "EMBEDDING_DB_URL_FILE": "/run/url"})
    assert given.keys() == {"STORE_DIR", "MODEL_CONFIG"} and given["STORE_DIR"] == "/mine/store"
    (empty / "data").mkdir()
    write_models(empty / "model_config.json", MODELS)
    assert places({})["STORE_DIR"] == "data/store" and "MODEL_CONFIG" not in places({})
    monkeypatch.chdir(ROOT)
    assert places({}) == {}


def test_a_folder_with_odd_characters_holds_a_database(empty: Path) -> None:
    data = empty / "100% mine? #1"
    config = load_config(places({"DATA_DIR": str(data)}))
    assert f"{config.store_dir}" == str(data / "store")
    found = run("doctor", "--json", DATA_DIR=str(data), HF_HUB_OFFLINE="1").json["findings"]
    (database,) = [each["fact"] for each in found if each["name"] == "database"]
    assert str(data / "service.db") in database


def test_the_store_is_found_as_the_service_finds_it(empty: Path) -> None:
    (empty / ".env").write_text(f"STORE_DIR={empty}/from-env\n")
    assert f"{empty}/from-env holds no store" in run("store", "list").err
    (empty / ".env").unlink()
    assert "share/embedding-service/store holds no store" in run("store", "list").err


def test_a_link_to_the_folder_of_the_code_is_that_folder(empty: Path) -> None:
    link = empty / "current"
    link.symlink_to(ROOT)
    env = {
        name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "STORE_DIR")
    }
    code = "from pathlib import Path; import tools.places as p; print(p.places({}), p.home({}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=link, capture_output=True, text=True,
                          timeout=60, env={**env, "PYTHONPATH": str(link)})  # fmt: skip
    assert done.stdout == "{} data\n", done.stderr


def test_the_version_is_that_of_the_change_log() -> None:
    assert run("--version").out == f"embedding-service {version()}\n"
