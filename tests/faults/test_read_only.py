"""The image's root cannot be written: what the service needs is in the folders it is given."""

import json
import re

import pytest

from tests.conftest import ROOT


@pytest.mark.fault("Deployment")
def test_with_the_images_folders_alone_everything_works(mounted, tmp_path) -> None:
    """Only `/models`, `/data`, `/tmp` and `/dev/shm` can be written, as in the shipped compose and
    Kubernetes files -> everything works, stored data too.
    """
    image = (ROOT / "Dockerfile").read_text()
    env = dict(re.findall(r"\b([A-Z_]+)=(\S*/(?:models|data)\S*)", image))
    assert {"DATA_DIR", "STORE_DIR", "EMBEDDING_DB_URL", "HF_HOME"} <= set(env)
    for folder in ("models", "data", "tmp"):
        (tmp_path / folder).mkdir()
        env = {
            key: value.replace(f"/{folder}", f"{tmp_path}/{folder}") for key, value in env.items()
        }
    writable = "; ".join(
        f"mount --bind {tmp_path}/{f} {tmp_path}/{f}" for f in ("models", "data", "tmp")
    )
    service = mounted(
        f"{writable}; mount -o remount,bind,ro /",
        EMBEDDING_USE_DB_SETTINGS="true", TMPDIR=f"{tmp_path}/tmp", HOME="/nonexistent", **env,
    )  # fmt: skip
    assert service.embed("a") == 200
    assert service.ask("/embed-and-store", {"collection": "c", "texts": ["a"]})[0] == 201
    assert service.ask("/settings", {"key": "max_texts", "value": 6})[0] == 200
    assert json.loads(service.ask("/health")[2])["degraded"] is None
    assert not [line for line in service.lines if "Read-only" in line or "Errno 30" in line]
