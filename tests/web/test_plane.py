"""A collection's map: the projection is the principal components', whatever it is given."""

import numpy as np
import pytest
from flask.testing import FlaskClient

from store.plane import project


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


def test_records_beyond_the_map_are_placed_on_its_axes(fake_client: FlaskClient) -> None:
    ids = [f"{i:03}" for i in range(60)]
    body = {"collection": "c", "texts": [f"text {i}" for i in range(60)], "ids": ids}
    assert fake_client.post("/embed-and-store", json=body).status_code == 201
    shown = fake_client.get("/collections/c/map?limit=40").get_json()
    asked = {"ids": ["007", "059", "none"], "limit": 40}
    placed = fake_client.post("/collections/c/map", json=asked).get_json()
    assert [point["id"] for point in placed["points"]] == ["007", "059"]
    assert placed["points"][0] == shown["points"][7]
    assert placed["points"][1]["text"] == "text 59"
    assert placed["count"] == 60 and placed["explained"] == shown["explained"]
    for wrong in ({"ids": []}, {"ids": ["a"] * 101}, {"ids": ["a"], "limit": 0}):
        assert fake_client.post("/collections/c/map", json=wrong).status_code in (413, 422)
    assert fake_client.post("/collections/none/map", json={"ids": ["a"]}).status_code == 404
