"""Accounts with several workers: one first admin, a session that each of them takes, and a revoked
key that none lets in.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from accounts.users import Users
from sql.row_cache import RowCache
from tests.accounts.conftest import SECRET, bearer
from tests.conftest import write_models


@pytest.mark.fault("Accounts")
def test_workers_that_start_at_once_make_one_admin_and_agree_on_keys(
    serve: Callable[..., str], tmp_path: Path, database_url: str
) -> None:
    """Several workers start at once, one signs a browser in, or one revokes a key -> one admin is
    created; every worker knows of the session and of the key.
    """
    models = {"fake": {"type": "fake", "model_name": "tests/fake"}}
    url = serve(
        "-w", "3",
        AUTH_ENABLED="true", JWT_SECRET_KEY=SECRET, EMBEDDING_DB_URL=database_url,
        MODEL_CONFIG=str(write_models(tmp_path / "models.json", models)),
        SUPPORTED_MODELS_FILE=str(tmp_path / "none"), DATA_DIR=str(tmp_path / "data"),
    )  # fmt: skip
    password = (tmp_path / "data" / "admin-password").read_text()
    login = {"username": "admin", "password": password}
    token = requests.post(f"{url}/token", data=login, timeout=30).json()["access_token"]
    rows = RowCache(database_url)
    assert [user.username for user in Users(rows).list()] == ["admin"]
    rows.close()

    own = {"Origin": url}  # as the console's pages send
    signed = requests.post(f"{url}/session", json=login, headers=own, timeout=30)
    own["Cookie"] = signed.headers["Set-Cookie"].partition(";")[0]
    # Each on a fresh connection: 24 of them meet every worker.
    asked = [requests.get(f"{url}/users", headers=own, timeout=30) for _ in range(24)]
    assert {reply.status_code for reply in asked} == {200}

    made = requests.post(f"{url}/users/admin/api-key", headers=bearer(token), timeout=30).json()

    def status() -> int:
        """Ask on a fresh connection: 24 of them meet every worker."""
        ask = {"url": f"{url}/models", "headers": bearer(made["api_key"]), "timeout": 30}
        return requests.get(**ask).status_code

    assert {status() for _ in range(24)} == {200}
    path = f"{url}/users/admin/api-keys/{made['id']}"
    assert requests.delete(path, headers=bearer(token), timeout=30).status_code == 200
    revoked = let_in = time.monotonic()
    refused = 0
    while refused < 24:
        began = time.monotonic()
        assert began < revoked + 15, "a worker still lets a revoked key in"
        if status() == 401:
            refused += 1
        else:
            let_in, refused = began, 0
    assert let_in - revoked < 3  # two seconds, and one for a busy machine


def test_a_database_without_users_is_seen_as_such(tmp_path: Path) -> None:
    """The control: the count above comes from the database."""
    url = f"sqlite:///{tmp_path}/empty.db"
    rows = RowCache(url)
    assert Users(rows).list() == []
    rows.close()
