"""Which folders an admin may load a model from while the service runs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from config import Config
from embedders import hub
from errors import ModelUnavailable
from factory import create_app


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folders of a machine: one for models, one of the service's cache, one that is private."""
    for name in ("models/tuned", "cache/made", "private", "models-of-others/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "private" / "passwords.bin").write_bytes(b"secret")
    (tmp_path / "models" / "way-out").symlink_to(tmp_path / "private")
    return tmp_path


@pytest.fixture
def admin(config_of: Callable[..., Config], machine: Path) -> FlaskClient:
    """A client on the machine itself."""
    models = {
        "fake": {"type": "fake", "model_name": "tests/fake"},
        "far": {"type": "fake", "model_name": str(machine / "models-of-others" / "x")},
    }
    config = config_of(
        models, model_dirs=str(machine / "models"), model_cache_dir=machine / "cache"
    )
    return create_app(config, wait=True).test_client()


def choose(admin: FlaskClient, name: object) -> tuple[int, str]:
    """Choose a model; return the status and what was said."""
    reply = admin.post("/settings", json={"key": "model_name", "value": str(name)})
    return reply.status_code, reply.json.get("error", "")


@pytest.mark.fault("Hostile clients")
@pytest.mark.parametrize(
    "name",
    ["/", "//", "/etc", "/proc/self", "/nonexistent/x", ".", "..", "../..", "./tests", "tests",
     "store", "~", "~root", "a/../../x", "{}/private", "{}/models/../private", "{}/models/way-out",
     "{}/models-of-others", "{}", "\\\\server\\share"],
)  # fmt: skip
def test_a_folder_elsewhere_is_not_looked_into(
    admin: FlaskClient, machine: Path, name: str
) -> None:
    """A caller who may change settings names `/` or any folder as the model -> 422 without reading
    it, unless it is below `MODEL_DIRS` or the model cache.
    """
    status, error = choose(admin, name.replace("{}", str(machine)))
    assert status == 422 and "MODEL_DIRS" in error
    assert "passwords" not in error and str(machine) not in error
    assert admin.get("/health").json["status"] == "healthy"


def test_a_folder_that_cannot_be_found_out_is_refused_like_any_other(
    admin: FlaskClient, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = choose(admin, "/nonexistent/x")

    def forbidden(path: object, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "readlink", forbidden)  # as /proc/1/root is to all but root
    assert choose(admin, machine / "models" / "way-out") == elsewhere


def test_a_folder_of_the_model_dirs_or_the_cache_is_tried(
    admin: FlaskClient, machine: Path
) -> None:
    for place in (machine / "models" / "tuned", machine / "cache" / "made"):
        status, error = choose(admin, place)
        assert status == 422 and "MODEL_DIRS" not in error and "cannot be used" in error


def test_what_the_start_has_configured_may_be_anywhere(admin: FlaskClient, machine: Path) -> None:
    for name in ("far", machine / "models-of-others" / "x", "x", "fake"):
        assert choose(admin, name)[0] == 200


def test_many_settings_at_once_and_going_back_are_no_way_around(
    admin: FlaskClient, machine: Path
) -> None:
    body = {"settings": {"model_name": str(machine / "private"), "max_texts": 7}}
    assert admin.post("/settings/bulk", json=body).status_code == 422
    assert admin.get("/settings/max_texts").json["value"] != 7
    assert admin.post("/settings", json={"key": "max_texts", "value": 8}).status_code == 200
    assert admin.delete("/settings/max_texts").status_code == 200


def test_a_folder_with_more_files_than_a_model_has_is_not_walked(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FILES_MOST", 20)
    folder = machine / "models" / "tuned"
    for i in range(5):
        (folder / f"d{i}").mkdir()
        for j in range(3):
            (folder / f"d{i}" / f"f{j}").touch()
    assert len(hub.files_in(folder)) == 15
    (folder / "one-more").touch()
    with pytest.raises(ModelUnavailable, match="no model's folder"):
        hub.files_in(folder)
