"""The service over a store that cannot be opened: it embeds, and says what is missing."""

from pathlib import Path

import pytest

from factory import create_app
from observability.metrics import DEGRADED
from routes.health import show
from tests.faults.conftest import until
from tests.servers.fixtures import need
from tests.servers.postgres import Postgres


@pytest.mark.fault("Process and machine")
def test_a_store_that_cannot_be_opened_costs_collections_only(config_of, tmp_path: Path) -> None:
    """The store cannot be opened -> collections are 503; embedding continues."""
    place = tmp_path / "taken"
    place.write_text("")
    client = create_app(config_of(store_dir=place), wait=True).test_client()
    assert client.post("/embed", json={"texts": "a"}).status_code == 200
    body = {"collection": "notes", "texts": ["a"]}
    assert client.post("/embed-and-store", json=body).status_code == 503
    health = client.get("/health")
    assert health.status_code == 200 and "the store could not open" in health.json["degraded"]
    place.unlink()
    assert client.post("/embed-and-store", json=body).status_code == 201
    assert client.get("/health").json["degraded"] is None


@pytest.mark.fault("The store")
def test_a_database_of_the_store_that_goes_away_is_told(config_of) -> None:
    """The store's PostgreSQL is down -> `/health` and the metrics say so from the first call that
    fails until it answers again; embedding continues.
    """
    need(Postgres)
    with Postgres() as server:
        app = create_app(config_of(store_url=server.database()), wait=True)
        client, store = app.test_client(), app.extensions["services"].documents.store
        store._store.db.breaker.pauses = (0.05,)
        body = {"collection": "notes", "texts": ["a"]}
        assert client.post("/embed-and-store", json=body).status_code == 201
        assert client.get("/health").json["degraded"] is None
        server.kill()
        assert client.get("/collections/notes").status_code == 503
        assert "the store's database failed" in client.get("/health").json["degraded"]
        show(app.extensions["services"], app.extensions["throttle"])
        assert DEGRADED.labels("store")._value.get() == 1
        assert client.post("/embed", json={"texts": "a"}).status_code == 200
        server.start()
        until(lambda: client.get("/health").json["degraded"] is None)
        assert client.post("/embed-and-store", json=body).status_code == 201
        store.close()
