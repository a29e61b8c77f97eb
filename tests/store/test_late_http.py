"""The service over a store that cannot be opened: it embeds, and says what is missing."""

from pathlib import Path

import pytest

from factory import create_app


@pytest.mark.fault("Process and machine")
def test_a_store_that_cannot_be_opened_costs_collections_only(config_of, tmp_path: Path) -> None:
    """The store cannot be opened -> collections are 503; embedding goes on."""
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
