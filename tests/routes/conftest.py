"""A service on a fake model that everybody must sign in to, in process and on a real gunicorn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from config import Config
from factory import create_app
from tests.conftest import served, write_models

# A model of each kind, and one that gives three outputs; a reply names them so.
KINDS = {
    name: {"type": "fake", "model_name": f"tests/{name}{outputs}"}
    for name, outputs in (("dense", ""), ("reranker", "+score"), ("sparse", "+sparse"),
                          ("tokens", "+multi_vector"), ("all", "+dense+sparse+multi_vector"))
}  # fmt: skip
FAKE = {"fake": {"type": "fake", "model_name": "tests/fake"}}
ADMIN = {"username": "admin", "password": "admin-password-1"}
LARGE = 20_000_000  # MAX_REQUEST_BYTES


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client of a service with a fake model of each kind."""
    folder: Path = tmp_path_factory.mktemp("kinds")
    given = {
        "model_config_file": write_models(folder / "models.json", KINDS),
        "supported_models_file": folder / "none", "store_dir": folder / "store",
        "data_dir": folder / "data", "db_url": f"sqlite:///{folder}/service.db",
    }  # fmt: skip
    app = create_app(Config.model_validate(given), wait=True)
    yield app.test_client()
    app.extensions["services"].documents.store.close()


@pytest.fixture(scope="module")
def signed_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """A client that has signed in as an admin."""
    folder: Path = tmp_path_factory.mktemp("signed-in")
    given = {
        "model_config_file": write_models(folder / "models.json", FAKE), "auth_enabled": True,
        "supported_models_file": folder / "none", "store_dir": folder / "store",
        "data_dir": folder / "data", "db_url": f"sqlite:///{folder}/service.db",
        "jwt_secret_key": "signs-the-tokens-of-these-tests-only", "max_request_bytes": LARGE,
        "admin_password": ADMIN["password"],
        "encryption_key": "encrypts-the-keys-of-these-tests-only", "use_db_settings": True,
    }  # fmt: skip
    app = create_app(Config.model_validate(given), wait=True)
    client = app.test_client()
    token = client.post("/token", json=ADMIN).json["access_token"]
    client.environ_base.update({"HTTP_AUTHORIZATION": f"Bearer {token}"})
    yield client
    parts = app.extensions["services"]
    parts.accounts.close()
    parts.providers.close()
    parts.documents.store.close()


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a gunicorn with accounts and the limits as they come."""
    folder: Path = tmp_path_factory.mktemp("served")
    env = {
        "MODEL_CONFIG": str(write_models(folder / "models.json", FAKE)),
        "SUPPORTED_MODELS_FILE": str(folder / "none"), "AUTH_ENABLED": "true",
        "JWT_SECRET_KEY": "signs-the-tokens-of-these-tests-only",
        "ADMIN_PASSWORD": ADMIN["password"],
    }  # fmt: skip
    with served(**env) as url:
        yield url
