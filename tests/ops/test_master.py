"""Which worker gets which GPU, and where several workers add their numbers up."""

import os
from functools import cache
from pathlib import Path

import pytest

from config import ModelSpec
from server import master


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(master, "gpus", cache(master.gpus.__wrapped__))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("living", "given"), [([], "4"), (["4"], "7"), (["4", "7"], "4"), (["7"], "4"), ([None], "4")]
)
def test_a_worker_gets_the_gpu_that_the_fewest_living_ones_have(living, given) -> None:
    assert master.choose_gpu(living) == given


def test_without_gpus_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(master, "gpus", cache(master.gpus.__wrapped__))
    assert master.choose_gpu([]) is None


def tree(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, and what the files hold."""
    found = sorted(folder.rglob("*"))
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else b"" for f in found}


def numbers() -> Path:
    """The folder that the workers write their numbers to."""
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


@pytest.mark.fault("Files")
def test_nothing_that_lies_in_the_metrics_folder_is_removed(tmp_path: Path) -> None:
    """`METRICS_DIR` is the folder of the users, of a cache or of another service -> each service
    uses a new folder in it, and removes only that one.
    """
    for name in (
        "service.db",
        "service.db-wal",
        "counter_0.db",
        "store/a/b",
        "embedding-metrics-x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    full = tmp_path / "embedding-metrics-full"
    full.mkdir()
    (full / "kept.txt").write_bytes(b"mine")
    (tmp_path / "embedding-metrics-link").symlink_to(tmp_path / "store")
    for old in (full, tmp_path / "store"):
        os.utime(old, (1, 1))
    before = tree(tmp_path)
    master.make_metrics_dir(tmp_path)
    (numbers() / "counter_0.db").write_bytes(b"ours")
    assert numbers().parent == tmp_path and before.items() <= tree(tmp_path).items()
    master.remove_metrics_dir()
    assert tree(tmp_path) == before


def test_what_a_killed_service_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path) -> None:
    master.make_metrics_dir(tmp_path)
    living = numbers()
    left = tmp_path / "embedding-metrics-left"
    left.mkdir()
    (left / "gauge_livesum_3.db").write_bytes(b"old")
    for folder in (living, left):
        os.utime(folder, (1, 1))
    master.make_metrics_dir(tmp_path)
    assert living.is_dir() and not left.exists()
    master.remove_metrics_dir()
    assert living.is_dir() and numbers() != living and not numbers().exists()


def test_a_folder_that_somebody_else_named_is_not_emptied(monkeypatch, tmp_path) -> None:
    (tmp_path / "counter_0.db").write_bytes(b"theirs")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(master, "_memory_disk", lambda: Path("/nonexistent"))
    master.make_metrics_dir(None)
    master.remove_metrics_dir()
    assert list(tree(tmp_path)) == ["counter_0.db"]


def test_a_folder_that_is_a_link_or_relative_is_used(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for given in ("link", "."):
        master.make_metrics_dir(Path(given))
        assert numbers().is_absolute() and numbers().is_dir()
        master.remove_metrics_dir()
    assert list(tree(tmp_path)) == ["link", "real"]


def test_a_directory_of_our_own_choice_is_removed_at_the_end() -> None:
    master.make_metrics_dir(None)
    path = numbers()
    assert path.is_dir()
    master.remove_metrics_dir()
    assert not path.exists()


@pytest.mark.parametrize(("living", "given"), [([], 0), ([0, 1], 2), ([1, None], 0), ([0, 2], 1)])
def test_a_worker_gets_the_lowest_number_that_no_living_one_has(living, given) -> None:
    assert master.choose_slot(living) == given


def test_a_directory_that_cannot_be_used_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    master.make_metrics_dir(tmp_path / "file" / "under")
    assert numbers().is_dir()
    master.remove_metrics_dir()


def test_without_any_directory_each_worker_counts_for_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(master, "_memory_disk", lambda: Path("/nonexistent"))
    master.make_metrics_dir(None)
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    master.count_as(0)
    master.end_slot(0)


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
    assert master.is_pinned(device, specs) is pinned
