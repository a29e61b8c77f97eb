"""The maps of a store: what they show, what is kept of them, and their routes."""

import base64
import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flask.testing import FlaskClient

from config import Config
from documents import maps
from documents.map_files import OF_ALL, MapFiles
from documents.maps import Maps
from errors import ClientGone, Conflict
from factory import create_app
from store import Item, VectorStore
from store.budget import Budget
from store.file import FileStore
from store.pgvector import PostgresStore
from tests.servers.postgres import Postgres


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


def test_the_version_changes_with_every_write(store: VectorStore) -> None:
    fill(store, "c", ["a", "b"])
    seen = [store.version("c")]
    assert store.version("c") == seen[0]
    for write in (
        lambda: store.upsert("c", [Item("a", np.ones(4), "again")]),
        lambda: store.upsert("c", [Item("a", np.ones(4), "again")]),
        lambda: store.upsert("c", [Item("d", np.ones(4))]),
        lambda: store.delete("c", ["a"]),
        lambda: store.upsert("c", [Item("a", np.ones(4), "again")]),
    ):
        write()
        seen.append(store.version("c"))
    assert len(set(seen)) == 6


@pytest.mark.fault("The store")
def test_a_map_of_some_records_has_some_of_each_kind(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of fewer records than there are -> a random choice, the same each time; not the first
    ids.
    """
    monkeypatch.setattr(maps, "MOST", 150)
    kinds = ("alpha", "beta", "gamma")
    fill(store, "c", [f"{kind}-{i}" for kind in kinds for i in range(200)])
    made = Maps(store, tmp_path / "maps")
    first = made.picture("c")
    counted = [sum(id_.startswith(kind) for id_ in first.ids) for kind in kinds]
    assert len(set(first.ids)) == 150 and min(counted) > 25 and first.total == 600
    again = Maps(store, tmp_path / "others").picture("c")
    assert (first.state, first.ids) == (again.state, again.ids)
    assert (first.points == again.points).all()
    store.delete("c", [id_ for id_ in first.ids if id_.startswith("beta")])
    later = made.picture("c")
    assert later.state != first.state
    assert set(first.ids) - set(later.ids) == {i for i in first.ids if i.startswith("beta")}
    with pytest.raises(Conflict, match="has changed"):  # it has points whose records are gone
        made.neighbours("c", first.state, 0, 10)


def test_records_beyond_the_map_lie_between_those_most_like_them(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MOST", 40)
    fill(store, "c", [f"{i:03}" for i in range(60)])
    made = Maps(store, tmp_path / "maps")
    picture = made.picture("c")
    beyond = sorted({f"{i:03}" for i in range(60)} - set(picture.ids))
    placed = made.place("c", picture.state, [picture.ids[7], *beyond, "none", beyond[0]])
    assert [one.record.id for one in placed] == [picture.ids[7], *beyond]
    assert (placed[0].near, placed[0].weights) == ([7], [1.0])
    vectors = {r.id: np.asarray(r.vector) for r in store.get("c", [f"{i:03}" for i in range(60)])}
    unit = {id_: vector / np.linalg.norm(vector) for id_, vector in vectors.items()}
    for one in placed[1:]:
        alike = [float(unit[one.record.id] @ unit[id_]) for id_ in picture.ids]
        assert one.near == np.argsort(alike)[::-1][:5].tolist()
        assert sum(one.weights) == pytest.approx(1)
        assert one.weights == sorted(one.weights, reverse=True)


def test_what_is_kept_is_read_again_and_made_again_where_it_cannot_be(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, "c", [str(i) for i in range(60)])
    folder = tmp_path / "maps"
    made = Maps(store, folder)
    picture = made.picture("c")
    _, some = made.neighbours("c", picture.state, 0, 60)
    named = made.groups("c", picture.state)
    layout = np.linspace(-1, 1, 120, dtype=np.float32).reshape(60, 2)
    made.lay_out("c", picture.state, layout)
    with monkeypatch.context() as patch:
        patch.setattr(maps, "project", None)
        patch.setattr(maps, "nearest", None)
        other = Maps(store, folder)  # another process
        kept = other.picture("c")
        assert kept.laid_out and (kept.points == layout).all() and kept.ids == picture.ids
        assert (other.neighbours("c", picture.state, 0, 60)[1].indices == some.indices).all()
        assert other.groups("c", picture.state)[0] == named[0]
    for file in folder.rglob("*.npz"):
        assert file.stat().st_mode & 0o077 == 0
        file.write_bytes(file.read_bytes()[:100])
    again = made.picture("c")
    assert not again.laid_out and (again.points == picture.points).all()
    shutil.rmtree(folder)
    folder.write_text("in the way")  # nothing can be kept
    assert (made.picture("c").points == picture.points).all()
    assert (made.neighbours("c", picture.state, 0, 60)[1].indices == some.indices).all()


def test_only_whole_parts_of_the_neighbours_are_kept(
    store: VectorStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever may read could fill the disk, by asking from every point on."""
    monkeypatch.setattr(maps, "PART", 25)
    fill(store, "c", [str(i) for i in range(60)])
    made = Maps(store, tmp_path / "maps")
    state = made.picture("c").state
    for start in range(60):
        for most in (3, 60):
            n, some = made.neighbours("c", state, start, most)
            assert (n, some.start) == (60, start) and len(some.indices) == min(most, 25, 60 - start)
    kept = {path.stem for path in (tmp_path / "maps").rglob("neighbours*")}
    assert kept == {"neighbours.0", "neighbours.25", "neighbours.50"}
    parts = [made.neighbours("c", state, start, 60)[1].indices for start in (0, 25, 50)]
    monkeypatch.setattr(maps, "PART", 1000)
    whole = Maps(store, tmp_path / "others").neighbours("c", state, 0, 60)[1].indices
    assert (np.concatenate(parts) == whole).all()


def test_few_states_are_kept_and_none_of_a_collection_that_is_forgotten(
    store: VectorStore, tmp_path: Path
) -> None:
    fill(store, "c", ["a", "b", "c"])
    made = Maps(store, tmp_path / "maps")
    states = []
    for i in range(5):
        store.upsert("c", [Item(str(i), np.ones(4))])
        states.append(made.picture("c").state.split("-")[1])
    uuid = store.identity("c").uuid
    left = {path.name for path in (tmp_path / "maps" / uuid).iterdir()}
    assert left == set(states[-3:])
    made.forget(uuid)
    assert not (tmp_path / "maps" / uuid).exists()


def test_so_many_states_of_all_collections_are_kept(tmp_path: Path) -> None:
    files = MapFiles(tmp_path / "maps")
    for i in range(OF_ALL + 5):
        state = f"{i:032x}-{i:016x}"
        files.save(state, "points", {"points": np.zeros((2, 2))})
        os.utime(tmp_path / "maps" / state[:32] / state[33:], (now := time.time() - 100 + i, now))
    kept = {path.parent.name for path in (tmp_path / "maps").glob("*/*")}
    assert len(kept) == OF_ALL and f"{OF_ALL + 4:032x}" in kept and f"{0:032x}" not in kept


# -- the routes


def stored(client: FlaskClient, name: str, count: int) -> list[str]:
    ids = [f"{i:03}" for i in range(count)]
    body = {"collection": name, "texts": [f"text {id_}" for id_ in ids], "ids": ids,
            "metadata": [{"kind": "ab"[i % 2]} for i in range(count)]}  # fmt: skip
    assert client.post("/embed-and-store", json=body).status_code == 201
    return ids


def test_the_map_shows_every_record_once(fake_client: FlaskClient) -> None:
    ids = stored(fake_client, "c", 700)  # more than one page of the store
    found = fake_client.get("/collections/c/map").get_json()
    assert found["ids"] == ids and found["count"] == 700 and found["fields"] == ["kind"]
    assert len(found["x"]) == len(found["y"]) == 700 and len(found["explained"]) == 2
    assert max(map(abs, found["x"] + found["y"])) == 1 and found["layout"] == "components"
    assert fake_client.get("/collections/none/map").status_code == 404
    query = {"state": found["state"]}
    groups = fake_client.get("/collections/c/map/groups", query_string=query).get_json()
    assert len(groups["of"]) == 700 and max(groups["of"]) == len(groups["names"]) - 1
    query["field"] = "kind"
    kinds = fake_client.get("/collections/c/map/values", query_string=query).get_json()
    assert (kinds["names"], kinds["counts"]) == (["a", "b"], [350, 350])
    assert kinds["of"] == [0, 1] * 350


@pytest.mark.parametrize("count", [0, 1, 2])
def test_next_to_nothing_has_a_map_too(fake_client: FlaskClient, count: int) -> None:
    store = fake_client.application.extensions["services"].documents.store
    fill(store, "c", [str(i) for i in range(count)])
    found = fake_client.get("/collections/c/map").get_json()
    assert len(found["ids"]) == len(found["x"]) == found["count"] == count
    query = {"state": found["state"]}
    groups = fake_client.get("/collections/c/map/groups", query_string=query).get_json()
    assert groups["of"] == [0] * count and len(groups["names"]) == min(count, 1)
    near = fake_client.get("/collections/c/map/neighbours", query_string=query).get_json()
    assert (near["rows"], near["neighbours"]) == (count, max(0, count - 1))
    query["field"] = "kind"
    kinds = fake_client.get("/collections/c/map/values", query_string=query).get_json()
    assert kinds["of"] == [-1] * count


def test_neighbours_are_sent_as_base64(fake_client: FlaskClient) -> None:
    stored(fake_client, "c", 60)
    query = {"state": fake_client.get("/collections/c/map").get_json()["state"], "start": "50"}
    found = fake_client.get("/collections/c/map/neighbours", query_string=query).get_json()
    assert [found[name] for name in ("points", "start", "rows", "neighbours")] == [60, 50, 10, 15]
    indices = np.frombuffer(base64.b64decode(found["indices"]), "<u2").reshape(10, 15)
    distances = np.frombuffer(base64.b64decode(found["distances"]), "<f4").reshape(10, 15)
    assert indices.max() < 60
    assert (np.diff(distances) >= 0).all() and distances.min() >= 0
    for start in ("60", "-1", "x"):
        query["start"] = start
        reply = fake_client.get("/collections/c/map/neighbours", query_string=query)
        assert reply.status_code == 422


def test_a_layout_is_kept_for_who_comes_next(fake_client: FlaskClient) -> None:
    stored(fake_client, "c", 30)
    state = fake_client.get("/collections/c/map").get_json()["state"]
    layout = np.linspace(-1, 1, 60, dtype="<f4")

    def put(points: np.ndarray, state: str = state) -> int:
        body = {"state": state, "points": base64.b64encode(points.tobytes()).decode()}
        return fake_client.put("/collections/c/map/layout", json=body).status_code

    for wrong in (layout[:-2], layout[:-1], layout * 1.01, layout * np.nan, layout * np.inf):
        assert put(wrong.astype("<f4")) == 422
    for other in ("", "../../../etc", "0" * 32 + "-" + "0" * 16):
        assert put(layout, other) == 409
    assert fake_client.get("/collections/c/map").get_json()["layout"] == "components"
    assert put(layout) == 200
    found = fake_client.get("/collections/c/map").get_json()
    assert found["layout"] == "neighbours"
    assert found["x"] == pytest.approx(layout[::2].tolist(), abs=1e-4)
    assert found["y"] == pytest.approx(layout[1::2].tolist(), abs=1e-4)
    heap = np.zeros(60, "<f4")
    for places in (1, 10):
        heap[: 2 * places] = np.linspace(-1, 1, 2 * places)
        assert put(heap) == 422, "nearly all in one place"
    stored(fake_client, "c", 31)
    assert put(layout) == 409, "it is kept, and out of date"
    fake_client.delete("/collections/c")
    config = fake_client.application.extensions["services"].config
    assert not list(config.store_dir.glob("maps/*/*"))


def test_what_is_asked_of_another_state_is_a_conflict(fake_client: FlaskClient) -> None:
    stored(fake_client, "c", 30)
    stored(fake_client, "other", 30)
    state = fake_client.get("/collections/other/map").get_json()["state"]
    for part in ("groups", "values?field=kind", "neighbours"):
        sign = "&" if "?" in part else "?"
        reply = fake_client.get(f"/collections/c/map/{part}{sign}state={state}")
        assert (reply.status_code, reply.json["param"]) == (409, "state")
    body = {"state": state, "ids": ["001"]}
    assert fake_client.post("/collections/c/map", json=body).status_code == 409
    wrong: dict[str, list[str]]
    for wrong in ({"ids": []}, {"ids": ["a"] * 101}, {}):
        body = {"state": state, **wrong}
        assert fake_client.post("/collections/other/map", json=body).status_code in (413, 422)
    body = {"state": state, "ids": ["001", "001", "none"]}
    placed = fake_client.post("/collections/other/map", json=body).get_json()["points"]
    assert placed == [{"id": "001", "text": "text 001", "near": [1], "weights": [1.0]}]


def test_a_maps_ids_and_texts_fit_a_reply_or_it_is_refused(
    config_of: Callable[..., Config],
) -> None:
    app = create_app(config_of(max_reply_bytes=100_000), wait=True)
    with contextlib.closing(app.extensions["services"].documents.store) as store:
        fill(store, "c", [f"{i:03}" for i in range(300)], dim=200)  # of 60,000 numbers in all
        store.upsert("c", [Item(str(i), np.ones(200), "x" * 30_000) for i in range(5)])
        fill(store, "long", [f"{i:03}{'x' * 500}" for i in range(250)])
        client = app.test_client()
        state = client.get("/collections/c/map").json["state"]
        asked = {"state": state, "ids": [str(i) for i in range(5)]}
        for reply in (
            client.get("/collections/long/map"),
            client.post("/collections/c/map", json=asked),
        ):
            assert (reply.status_code, reply.json["error_type"]) == (413, "too_large")
            assert "MAX_REPLY_BYTES" in reply.json["error"]
        asked["ids"] = ["0", "1"]
        assert client.post("/collections/c/map", json=asked).status_code == 200
        query = {"state": state}
        reply = client.get("/collections/c/map/neighbours", query_string=query)
        assert len(reply.data) <= 100_000 and 0 < reply.json["rows"] <= 305


@pytest.mark.fault("Overload")
def test_a_second_map_waits_for_the_first_and_then_says_when_to_come_back(
    fake_app, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two maps at once -> one after the other; a map that waits too long, or would be the third to
    wait, gets 503 with `Retry-After`. A small one, or one that is kept, does not wait.
    """
    store = fake_app.extensions["services"].documents.store
    names = iter([f"c{i}" for i in range(9)])
    for i in range(9):
        fill(store, f"c{i}", [str(i) for i in range(60)])
    fill(store, "small", [str(i) for i in range(20)])
    began, go = threading.Event(), threading.Event()
    sample = store.sample

    def slow(name: str, *rest: object) -> list[str]:
        if name == "c0":
            began.set()
            assert go.wait(30)
        return sample(name, *rest)

    def ask(name: str | None = None) -> None:
        reply = fake_app.test_client().get(f"/collections/{name or next(names)}/map")
        found.append((reply.status_code, reply.headers.get("Retry-After")))

    monkeypatch.setattr(store, "sample", slow, raising=False)
    found: list[tuple[int, str | None]] = []
    ask("c8")  # and it is kept
    monkeypatch.setattr(maps, "SMALL", 100)
    asking = threading.Thread(target=ask)
    asking.start()
    assert began.wait(30)
    ask("small")
    ask("c8")
    assert [found.pop(), found.pop(), found.pop()] == [(200, None)] * 3
    monkeypatch.setattr(maps, "TURN_S", 0.05)
    ask()
    assert found.pop() == (503, "2")
    monkeypatch.setattr(maps, "TURN_S", 60)
    waiting = [threading.Thread(target=ask) for _ in range(maps.WAITING_MOST)]
    for each in waiting:
        each.start()
    while maps._waiting._value:
        assert not found
    ask()
    assert found.pop() == (503, "2")
    go.set()
    for each in (asking, *waiting):
        each.join()
    assert found == [(200, None)] * 3


def test_a_map_that_waits_ends_with_its_caller(store: VectorStore, tmp_path: Path) -> None:
    fill(store, "c", [str(i) for i in range(60)], dim=4000)
    left = threading.Event()
    made = Maps(store, tmp_path / "maps")
    with maps._turn:
        asking = threading.Timer(0.2, left.set)
        asking.start()
        with pytest.raises(ClientGone):
            made.picture("c", Budget(gone=left.is_set))
    asking.join()
    assert len(made.picture("c").ids) == 60


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
