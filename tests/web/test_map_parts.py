"""What a map is made of: axes, neighbours, groups with names, values to colour by."""

from typing import Any

import numpy as np
import pytest

from documents import clusters
from documents.map_values import Categories, Scale, fields, values
from documents.neighbours import MOST, directions, nearest
from documents.projection import project
from errors import ClientGone, DeadlineExceeded
from store.budget import Budget


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


@pytest.mark.parametrize("shape", [(530, 600), (600, 530)])
def test_the_axes_of_a_large_map_are_the_principal_ones(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(6)
    apart = rng.normal(size=(5, shape[1]))[rng.integers(0, 5, shape[0])] * 3
    vectors = (apart + rng.normal(size=shape)).astype(np.float32)
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False).astype(np.float64) ** 2
    found = project(vectors)
    assert found.explained == pytest.approx(tuple(values[:2] / values.sum()), rel=0.01)
    assert (project(vectors).points == found.points).all()


@pytest.mark.parametrize(
    ("budget", "error"),
    [(Budget(deadline=0.0), DeadlineExceeded), (Budget(gone=lambda: True), ClientGone)],
)
def test_a_map_that_nobody_waits_for_is_not_made(budget: Budget, error: type) -> None:
    rng = np.random.default_rng(8)
    with pytest.raises(error):
        project(rng.normal(size=(600, 600)).astype(np.float32), budget=budget)


# -- neighbours, groups, values


@pytest.mark.parametrize("rows", [0, 1, 2, 16, 300, 709])
def test_the_neighbours_are_those_that_sorting_everything_finds(rows: int) -> None:
    vectors = directions(np.random.default_rng(1).normal(size=(rows, 12)).astype(np.float32))
    found = nearest(vectors, 0, rows)
    apart = 1 - vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.fill_diagonal(apart, np.inf)
    k = max(0, min(MOST, rows - 1))
    assert found.indices.shape == found.distances.shape == (rows, k)
    assert found.distances == pytest.approx(np.sort(apart, axis=1)[:, :k], abs=1e-5)
    of = np.take_along_axis(apart, found.indices.astype(np.int64), 1)
    assert found.distances == pytest.approx(of, abs=1e-5)
    assert all(len(set(row)) == k for row in found.indices.tolist())


def test_neighbours_come_in_parts_that_together_are_all() -> None:
    vectors = directions(np.random.default_rng(2).normal(size=(600, 8)).astype(np.float32))
    whole, parts, start = nearest(vectors, 0, 600), [], 0
    while start < 600:
        parts.append(nearest(vectors, start, 170))
        start += len(parts[-1].indices)
    assert len(parts) == 4
    assert (np.concatenate([part.indices for part in parts]) == whole.indices).all()


def test_equal_vectors_and_zeros_have_neighbours_too() -> None:
    vectors = np.zeros((40, 3), np.float32)
    vectors[:20] = 1
    found = nearest(directions(vectors), 0, 40)
    assert np.isfinite(found.distances).all()
    assert found.distances[:20] == pytest.approx(0, abs=1e-6)
    assert not (found.indices == np.arange(40)[:, None]).any()


@pytest.mark.parametrize(
    ("budget", "error"),
    [(Budget(deadline=0.0), DeadlineExceeded), (Budget(gone=lambda: True), ClientGone)],
)
def test_neighbours_that_nobody_waits_for_are_not_sought(budget: Budget, error: type) -> None:
    with pytest.raises(error):
        nearest(np.eye(20, dtype=np.float32), 0, 20, budget)


SUBJECTS = {
    "fruit": "apples and pears in the orchard",
    "money": "banks and interest of the market",
    "stars": "planets and comets of the galaxy",
}


def test_groups_are_what_lies_together_named_by_its_own_words() -> None:
    rng = np.random.default_rng(3)
    which = rng.integers(0, 3, 90)
    vectors = directions((np.eye(8)[which] + rng.normal(0, 0.05, (90, 8))).astype(np.float32))
    texts = [f"{list(SUBJECTS.values())[one]}, number {i}" for i, one in enumerate(which)]
    of = clusters.group(vectors, nearest(vectors, 0, 90).indices)
    assert [len(set(which[of == each])) for each in np.unique(of)] == [1] * len(np.unique(of))
    sizes = np.bincount(of)
    assert (np.diff(sizes) <= 0).all()
    named = clusters.names(texts, of.tolist())
    for each, name in enumerate(named):
        subject = list(SUBJECTS.values())[which[of == each][0]]
        assert name and all(word in subject for word in name.split(" · ")), name


def test_groups_without_words_have_numbers_and_few_vectors_are_one_group() -> None:
    assert clusters.names(["1 2", "3", "..."], [0, 1, 1]) == ["group 1", "group 2"]
    assert clusters.names([], []) == []
    none = np.zeros((100, 0), np.uint32)
    assert clusters.group(np.eye(5, dtype=np.float32), none[:5]).tolist() == [0] * 5
    same = clusters.group(np.ones((100, 4), np.float32), none)
    assert same.tolist() == [0] * 100


def test_values_of_a_field_are_the_commonest_and_the_others() -> None:
    rows: list[dict[str, Any]] = [{"a": {"b": f"v{i % 15}"}} for i in range(100)]
    rows += [{"a": {"b": True}}, {}, {"a": 1}]
    found = values(rows, "a.b")
    assert isinstance(found, Categories)
    assert found.names[:2] == ["v0", "v1"] and len(found.names) == 10
    assert found.counts[0] == 7 and sum(found.counts) + found.others == 101
    assert found.of[0] == 0 and found.of[14] == found.of[100] == 10
    assert found.of[101:].tolist() == [-1, -1]
    few = values([{"x": False}, {"x": 1}, {"x": [1]}], "x")
    assert isinstance(few, Categories)
    assert sorted(few.names) == ["1", "[1]", "false"] and few.others == 0


def test_many_different_numbers_are_a_scale_whose_ends_a_few_do_not_stretch() -> None:
    rows: list[dict[str, Any]] = [{"n": i} for i in range(100)]
    rows += [{"n": 10**400}, {"n": 1e300 / 2}, {}]
    found = values(rows, "n")
    assert isinstance(found, Scale)
    assert found.low < 10 and found.of[0] == 0
    assert found.of[-1] == -1 and found.of[-3] == -1
    assert (np.diff(found.of[:100]) >= 0).all()
    same = values([{"n": 1.5 + i} for i in range(20)], "n")
    assert isinstance(same, Scale) and same.of[-1] == 31 and not same.logarithmic
    lengths = values([{"n": 1.1**i} for i in range(100)], "n")
    assert isinstance(lengths, Scale) and lengths.logarithmic
    assert np.bincount(lengths.of + 1, minlength=33)[2:].max() < 5  # every shade is used alike


def test_fields_to_colour_by_are_those_that_tell_records_apart() -> None:
    rows = [
        {"id": f"r{i}", "kind": "ab"[i % 2], "n": i, "same": 1, "deep": {"x": i % 3}, "no": None}
        for i in range(40)
    ]
    assert fields(rows) == ["kind", "n", "deep.x"]
    assert fields([]) == [] and values([], "a").of.tolist() == []
