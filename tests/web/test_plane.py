"""A collection's map: the projection is the principal components', whatever it is given."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from documents import projection as plane
from documents.projection import chart, project
from errors import ClientGone, DeadlineExceeded
from factory import create_app
from store import Item, VectorStore
from store.budget import Budget
from store.file import FileStore
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (30, 30), (3, 2)])
def test_it_is_what_a_singular_value_decomposition_says(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    found = project(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    wanted = left[:, :2] * values[:2]
    scale = np.abs(wanted).max()
    assert np.abs(found.points) == pytest.approx(np.abs(wanted / scale), abs=1e-4)
    assert found.explained == pytest.approx(tuple((values**2 / (values**2).sum())[:2]), abs=1e-6)
    assert np.abs(found.points).max() == pytest.approx(1)


def test_the_same_vectors_give_the_same_picture_and_are_left_alone() -> None:
    vectors = np.random.default_rng(4).normal(size=(20, 8)).astype(np.float32)
    before = vectors.copy()
    assert (project(vectors).points == project(vectors).points).all()
    assert (vectors == before).all()


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_what_is_asked_for_lies_on_the_axes_of_the_others(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    far = vectors.mean(axis=0) + 9 * (vectors[:1] - vectors.mean(axis=0))
    asked = project(vectors, np.concatenate([vectors[3:5], far]))
    assert asked.points[:2] == pytest.approx(project(vectors).points[3:5], abs=1e-6)
    assert np.abs(asked.points).max() == pytest.approx(1)  # further out than all: on the edge
    assert asked.explained == project(vectors).explained


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("dim", [1, 2, 384])
def test_what_cannot_be_spread_lies_in_the_middle(rows: int, dim: int) -> None:
    found = project(np.ones((rows, dim), np.float32))
    assert found.points.shape == (rows, 2) and not found.points.any()
    assert found.explained == (0.0, 0.0)


def test_vectors_on_a_line_have_no_second_axis() -> None:
    line = np.arange(6, dtype=np.float32)[:, None]
    found = project(line)
    assert found.points[:, 1].tolist() == [0.0] * 6
    assert found.explained[0] == pytest.approx(1)


def test_the_map_shows_every_record_once(fake_client: FlaskClient) -> None:
    texts = [f"text {i}" for i in range(700)]  # more than one page of the store
    body = {"collection": "c", "texts": texts, "ids": [str(i) for i in range(700)]}
    assert fake_client.post("/embed-and-store", json=body).status_code == 201
    reply = fake_client.get("/collections/c/map").get_json()
    assert {p["id"]: p["text"] for p in reply["points"]} == dict(
        zip(body["ids"], texts, strict=True)
    )
    assert reply["count"] == 700 and len(reply["explained"]) == 2
    few = fake_client.get("/collections/c/map?limit=10").get_json()
    assert len(few["points"]) == 10 and few["count"] == 700
    assert fake_client.get("/collections/c/map?limit=2001").status_code == 422
    assert fake_client.get("/collections/none/map").status_code == 404


def test_an_id_that_comes_often_is_one_point(fake_client: FlaskClient) -> None:
    fill(fake_client.application.extensions["services"].documents.store, "c", ["a", "b"], 16_000)
    placed = fake_client.post("/collections/c/map", json={"ids": ["b", "a"] * 50}).get_json()
    assert [point["id"] for point in placed["points"]] == ["b", "a"]


def test_records_beyond_the_map_are_placed_on_its_axes(fake_client: FlaskClient) -> None:
    ids = [f"{i:03}" for i in range(60)]
    body = {"collection": "c", "texts": [f"text {i}" for i in range(60)], "ids": ids}
    assert fake_client.post("/embed-and-store", json=body).status_code == 201
    shown = fake_client.get("/collections/c/map?limit=40").get_json()
    asked = {"ids": ["007", "059", "none"], "limit": 40}
    placed = fake_client.post("/collections/c/map", json=asked).get_json()
    assert [point["id"] for point in placed["points"]] == ["007", "059"]
    places = {point["id"]: point for point in shown["points"]}
    for point in placed["points"]:
        assert point == places.get(point["id"], point)
        assert point["text"] == f"text {int(point['id'])}"
    assert placed["count"] == 60 and placed["explained"] == shown["explained"]
    for wrong in ({"ids": []}, {"ids": ["a"] * 101}, {"ids": ["a"], "limit": 0}):
        assert fake_client.post("/collections/c/map", json=wrong).status_code in (413, 422)
    assert fake_client.post("/collections/none/map", json={"ids": ["a"]}).status_code == 404


@pytest.mark.parametrize("shape", [(530, 600), (600, 530)])
def test_the_axes_of_a_large_map_are_the_principal_ones(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    apart = rng.normal(size=(5, shape[1]))[rng.integers(0, 5, shape[0])] * 3
    vectors = (apart + rng.normal(size=shape)).astype(np.float32)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False).astype(np.float64) ** 2
    found = project(vectors)
    assert found.explained == pytest.approx(tuple(values[:2] / values.sum()), rel=0.01)
    assert (project(vectors).points == found.points).all()


@pytest.fixture(params=["file", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    if request.param == "file":
        with FileStore(tmp_path / "store") as opened:
            yield opened
    else:
        server: Postgres = request.getfixturevalue("postgres")
        with PostgresStore(server.database()) as opened:
            yield opened


def fill(store: VectorStore, name: str, ids: list[str], dim: int = 4) -> None:
    rows = np.random.default_rng(7).normal(size=(len(ids), dim)).astype(np.float32)
    store.create(name, dim)
    for start in range(0, len(ids), 500):
        part = list(zip(ids, rows, strict=True))[start : start + 500]
        store.upsert(name, [Item(id_, row, f"text of {id_}") for id_, row in part])


@pytest.mark.fault("The store")
def test_a_map_of_some_records_has_some_of_each_kind(store: VectorStore) -> None:
    """A map of fewer records than there are -> a random choice, the same each time; not the first
    ids.
    """
    kinds = ("alpha", "beta", "gamma")
    fill(store, "c", [f"{kind}-{i}" for kind in kinds for i in range(200)])
    first, second = chart(store, "c", 150), chart(store, "c", 150)
    ids = [record.id for record in first.records]
    counted = [sum(id_.startswith(kind) for id_ in ids) for kind in kinds]
    assert len(set(ids)) == 150 and min(counted) > 25
    assert ids == [record.id for record in second.records]
    assert (first.plane.points == second.plane.points).all()
    store.delete("c", [id_ for id_ in ids if id_.startswith("beta")])
    later = {record.id for record in chart(store, "c", 150).records}
    assert set(ids) - later == {id_ for id_ in ids if id_.startswith("beta")}


@pytest.mark.parametrize(
    ("budget", "error"),
    [(Budget(deadline=0.0), DeadlineExceeded), (Budget(gone=lambda: True), ClientGone)],
)
def test_a_map_that_nobody_waits_for_is_not_made(budget: Budget, error: type) -> None:
    rng = np.random.default_rng(8)
    with pytest.raises(error):
        project(rng.normal(size=(600, 600)).astype(np.float32), budget=budget)


def test_a_maps_texts_fit_a_reply_or_it_is_refused(config_of: Callable[..., Config]) -> None:
    app = create_app(config_of(max_reply_bytes=100_000), wait=True)
    with contextlib.closing(app.extensions["services"].documents.store) as store:
        fill(store, "c", [f"{i:03}" for i in range(300)], dim=200)  # of 60,000 numbers in all
        store.upsert("c", [Item(str(i), np.ones(200), "x" * 30_000) for i in range(5)])
        client = app.test_client()
        for reply in (
            client.get("/collections/c/map"),
            client.post("/collections/c/map", json={"ids": [str(i) for i in range(5)]}),
        ):
            assert (reply.status_code, reply.json["error_type"]) == (413, "too_large")
            assert "ask for less" in reply.json["error"]
        assert client.post("/collections/c/map", json={"ids": ["0", "1"]}).status_code == 200


@pytest.mark.fault("Overload")
def test_a_second_map_waits_for_the_first_and_then_says_when_to_come_back(
    fake_app, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two maps of a collection at once -> one after the other; a map that waits too long, or would
    be the third to wait, gets 503 with `Retry-After`. A small one does not wait.
    """
    client, store = fake_app.test_client(), fake_app.extensions["services"].documents.store
    fill(store, "c", [str(i) for i in range(60)])
    began, go = threading.Event(), threading.Event()
    sample = store.sample

    def slow(name: str, limit: int, *rest: object) -> list[str]:
        if limit == 50:
            began.set()
            assert go.wait(30)
        return sample(name, limit, *rest)

    def ask(limit: int = 50) -> None:
        reply = fake_app.test_client().get(f"/collections/c/map?limit={limit}")
        found.append((reply.status_code, reply.headers.get("Retry-After")))

    monkeypatch.setattr(store, "sample", slow, raising=False)
    monkeypatch.setattr(plane, "SMALL", 100)
    found: list[tuple[int, str | None]] = []
    asking = threading.Thread(target=ask)
    asking.start()
    assert began.wait(30)
    ask(25)
    assert found.pop() == (200, None)
    monkeypatch.setattr(plane, "TURN_S", 0.05)
    ask()
    assert found.pop() == (503, "2")
    monkeypatch.setattr(plane, "TURN_S", 60)
    waiting = [threading.Thread(target=ask) for _ in range(plane.WAITING_MOST)]
    for each in waiting:
        each.start()
    while plane._waiting._value:
        assert not found
    ask()
    assert found.pop() == (503, "2")
    go.set()
    for each in (asking, *waiting):
        each.join()
    assert found == [(200, None)] * 3
    assert client.get("/collections/c/map").status_code == 200


def test_a_map_that_waits_ends_with_its_caller(store: VectorStore) -> None:
    fill(store, "c", [str(i) for i in range(60)], dim=4000)
    left = threading.Event()
    with plane._turn:
        asking = threading.Timer(0.2, left.set)
        asking.start()
        with pytest.raises(ClientGone):
            chart(store, "c", 60, Budget(gone=left.is_set))
    asking.join()
    assert len(chart(store, "c", 60).records) == 60


def test_who_left_is_asked_through_the_socket(fake_app) -> None:
    store = fake_app.extensions["services"].documents.store
    fill(store, "c", [str(i) for i in range(10)])
    mine, theirs = socket.socketpair()
    with mine, fake_app.test_client() as client:
        asked = {"gunicorn.socket": mine}
        there = client.get("/collections/c/map", environ_overrides=asked)
        theirs.close()
        left = client.get("/collections/c/map", environ_overrides=asked)
    assert (there.status_code, left.status_code) == (200, 499)
