"""Everything that the service keeps in one folder, which holds other people's files too."""

import hashlib
from pathlib import Path

import pytest
import requests

from tests.conftest import served, write_models

PASSWORD = "a-long-password"
OTHERS = (
    "service.db.bak", "counter_0.db", "gauge_livesum_1.db", "x.tmp", ".lock", "jobs/mine.txt",
    "trash/kept/file", "trash/note", "models--a--b/blobs/1", "embedding-metrics-old/mine", "tmp/x",
)  # fmt: skip


def sums(folder: Path) -> dict[str, str]:
    """What the files of others hold."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in OTHERS}


def sign_in(url: str, user: str) -> dict[str, str]:
    """Sign in; return the header of who is signed in."""
    reply = requests.post(f"{url}/token", json={"username": user, "password": PASSWORD}, timeout=30)
    assert reply.status_code == 200, reply.text
    return {"Authorization": f"Bearer {reply.json()['access_token']}"}


@pytest.mark.fault("Files")
def test_one_folder_for_everything_loses_nothing(tmp_path: Path) -> None:
    """`METRICS_DIR`, `STORE_DIR`, `DATA_DIR` and the model cache are one folder, by a link ->
    users, vectors and every other file are there after a restart.
    """
    models = write_models(tmp_path / "m.json", {"f": {"type": "fake", "model_name": "tests/fake"}})
    folder = tmp_path / "real"
    (tmp_path / "link").symlink_to(folder)
    for name in OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    before, link = sums(folder), str(tmp_path / "link")
    env = {
        "METRICS_DIR": link, "STORE_DIR": link, "DATA_DIR": link, "HF_HUB_CACHE": link,
        "EMBEDDING_MODEL_CACHE_DIR": link, "EMBEDDING_DB_URL": f"sqlite:///{link}/service.db",
        "MODEL_CONFIG": str(models), "SUPPORTED_MODELS_FILE": "/nonexistent",
        "AUTH_ENABLED": "true", "JWT_SECRET_KEY": "k" * 43, "ADMIN_PASSWORD": PASSWORD,
    }  # fmt: skip
    with served(**env) as url:
        bob = {"username": "bob", "password": PASSWORD, "role": "user"}
        admin = sign_in(url, "admin")
        assert requests.post(f"{url}/users", json=bob, headers=admin, timeout=30).ok
        text = {"collection": "c", "texts": ["a"], "ids": ["a"]}
        stored = requests.post(f"{url}/embed-and-store", json=text, headers=admin, timeout=30)
        assert stored.ok, stored.text
    assert sums(folder) == before
    with served(**env) as url:
        found = requests.get(f"{url}/collections", headers=sign_in(url, "bob"), timeout=30).json()
        assert [each["name"] for each in found["collections"]] == ["c"]
    assert sums(folder) == before
    left = {path.name for path in folder.glob("embedding-metrics-*")}
    assert left == {"embedding-metrics-old"}
