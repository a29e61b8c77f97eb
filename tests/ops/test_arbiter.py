"""Which worker gets which GPU, and where several workers add their numbers up."""

import os
from pathlib import Path

import pytest

from config import ModelSpec
from server import arbiter


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(arbiter, "_gpus", None)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("living", "given"), [([], "4"), (["4"], "7"), (["4", "7"], "4"), (["7"], "4"), ([None], "4")]
)
def test_a_worker_gets_the_gpu_that_the_fewest_living_ones_have(living, given) -> None:
    assert arbiter.choose_gpu(living) == given


def test_without_gpus_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(arbiter, "_gpus", None)
    assert arbiter.choose_gpu([]) is None


def test_the_numbers_of_an_earlier_run_are_wiped(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"old")
    arbiter.share_numbers(tmp_path)
    assert not list(tmp_path.iterdir())
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path)


def test_a_directory_of_our_own_choice_is_removed_at_the_end() -> None:
    arbiter.share_numbers(None)
    path = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    assert path.is_dir()
    arbiter.forget_numbers(None)
    assert not path.exists()


@pytest.mark.parametrize(("living", "given"), [([], 0), ([0, 1], 2), ([1, None], 0), ([0, 2], 1)])
def test_a_worker_gets_the_lowest_number_that_no_living_one_has(living, given) -> None:
    assert arbiter.choose_slot(living) == given


def test_a_directory_that_cannot_be_used_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arbiter.share_numbers(tmp_path / "file" / "under")
    assert Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).is_dir()
    arbiter.forget_numbers(None)


def test_without_any_directory_each_worker_counts_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arbiter, "_room", lambda: "/nonexistent")
    arbiter.share_numbers(None)
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    arbiter.count_as(0)
    arbiter.end_slot(0)


@pytest.mark.parametrize(
    ("device", "models", "pinned"),
    [
        ("auto", [{}], True),
        ("cuda", [{}, {"device": "cpu"}], True),
        ("cpu", [{}], False),
        ("cpu", [{"device": "cuda"}], True),
        ("cuda:1", [{}], False),
        ("auto", [{"device": "cuda:1"}, {}], False),
        ("auto", [{"devices": ("cuda:0", "cuda:1")}], False),
        ("mps", [{}], False),
    ],
)
def test_a_worker_sees_one_gpu_only_where_no_other_is_named(device, models, pinned) -> None:
    specs = [ModelSpec(id="m", model_name="m", **model) for model in models]
    assert arbiter.is_pinned(device, specs) is pinned
