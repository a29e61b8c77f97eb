"""What the workers share and how many there are: folders, GPUs, cores, the model process."""

import os
import socket
import stat
import tempfile
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
    master.remove_dirs()
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
    master.remove_dirs()
    assert living.is_dir() and numbers() != living and not numbers().exists()


def test_a_folder_that_somebody_else_named_is_not_emptied(monkeypatch, tmp_path) -> None:
    (tmp_path / "counter_0.db").write_bytes(b"theirs")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(master, "_memory_disk", lambda: Path("/nonexistent"))
    master.make_metrics_dir(None)
    master.remove_dirs()
    assert list(tree(tmp_path)) == ["counter_0.db"]


def test_a_folder_that_is_a_link_or_relative_is_used(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    for given in ("link", "."):
        master.make_metrics_dir(Path(given))
        assert numbers().is_absolute() and numbers().is_dir()
        master.remove_dirs()
    assert list(tree(tmp_path)) == ["link", "real"]


def test_a_directory_of_our_own_choice_is_removed_at_the_end() -> None:
    master.make_metrics_dir(None)
    path = numbers()
    assert path.is_dir()
    master.remove_dirs()
    assert not path.exists()


def run_dir() -> Path:
    """The folder where the model processes listen."""
    return Path(os.environ[master.RUN_DIR])


def test_the_folder_of_the_model_process_is_for_its_user_alone_and_goes_with_the_service() -> None:
    os.environ[master.RUN_DIR] = "/the/one/of/another/service"
    master.make_run_dir()
    assert stat.S_IMODE(run_dir().stat().st_mode) == 0o700
    assert run_dir().stat().st_uid == os.geteuid()
    address = run_dir() / f"gpu0-{'f' * 12}.sock"
    with socket.socket(socket.AF_UNIX) as listener:  # the address of a socket must be short
        listener.bind(str(address))
    for name in ("gpu0-ffff.lock", "gpu0-ffff.starts", "gpu0-ffff.4711", "slot-1000"):
        (run_dir() / name).touch()
    master.remove_dirs()
    assert not run_dir().exists()


def test_each_service_has_a_folder_of_its_own_and_removes_that_of_a_killed_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:  # pytest's own is too long for a socket
        monkeypatch.setattr(tempfile, "tempdir", root)
        master.make_run_dir()
        living, left = run_dir(), Path(root) / "embedding-run-left"
        left.mkdir()
        (left / "cpu-0123456789ab.sock").touch()
        for folder in (living, left):
            os.utime(folder, (1, 1))
        master.make_run_dir()
        assert living.is_dir() and not left.exists() and run_dir() != living
        master.remove_dirs()
        assert living.is_dir() and not run_dir().exists()


def test_without_a_folder_for_a_socket_each_worker_holds_its_own_models(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "long" * 30)
    monkeypatch.setattr(master, "RUN_ROOTS", ())
    master.make_run_dir()
    assert "each worker holds its own models" in caplog.text
    assert not master.shares_models("on", 4)


@pytest.mark.parametrize(
    ("wanted", "workers", "shares"),
    [("auto", 1, False), ("auto", 2, True), ("off", 4, False), ("on", 1, True), ("on", 4, True)],
)
def test_several_workers_share_a_model_process_unless_told_otherwise(
    wanted: str, workers: int, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(master.RUN_DIR, "/run")
    assert master.shares_models(wanted, workers) is shares


@pytest.mark.parametrize(
    ("cores", "device", "models", "workers"),
    [
        (16, "auto", [{}], 8), (64, "cuda", [{}], 8), (6, "cuda:1", [{}], 3), (1, "auto", [{}], 1),
        (16, "cpu", [{}], 1), (16, "cpu", [{"device": "cuda"}], 8), (16, "mps", [{}], 1),
        (16, "cpu", [{"devices": ("cuda:0", "cuda:1")}], 8),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("two_gpus")
def test_a_model_on_a_gpu_has_as_many_workers_as_half_the_cores_and_no_more_than_eight(
    cores: int, device: str, models: list[dict], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [ModelSpec(id="m", model_name="m", **model) for model in models]
    monkeypatch.setattr(master, "cores", lambda: cores)
    assert master.default_workers("auto", device, specs) == 1, "there is no driver"
    monkeypatch.setattr(master, "has_nvidia", lambda: True)
    assert master.default_workers("auto", device, specs) == workers
    assert master.default_workers("off", device, specs) == 1, "each would load its own copy"


def test_the_cores_are_divided_unless_the_operator_did_and_the_model_process_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(master, "cores", lambda: 16)
    master.divide_cores(4)
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("7", "4")
    assert os.environ[master.DIVIDED] == "MKL_NUM_THREADS,OPENBLAS_NUM_THREADS"


@pytest.mark.parametrize(("living", "given"), [([], 0), ([0, 1], 2), ([1, None], 0), ([0, 2], 1)])
def test_a_worker_gets_the_lowest_number_that_no_living_one_has(living, given) -> None:
    assert master.choose_slot(living) == given


def test_a_directory_that_cannot_be_used_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    master.make_metrics_dir(tmp_path / "file" / "under")
    assert numbers().is_dir()
    master.remove_dirs()


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
