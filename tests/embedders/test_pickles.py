"""Pickled weights become safetensors, once; what is more than weights is refused."""

import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from embedders import weights
from embedders.weights import RECORD, Source
from errors import ModelUnavailable
from tests.embedders.repositories import like_bge_m3, pickle_weights, vectors, with_dense

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return like_bge_m3(tmp_path_factory.mktemp("bge") / "model")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_dense(tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture
def pickled(bge: Path, tmp_path: Path) -> Path:
    shutil.copytree(bge, tmp_path / "model")
    return pickle_weights(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def check(folder: Path, cache: Path, **how: bool) -> Source:
    return weights.check(folder, "BAAI/bge-m3", cache, **how)


def made(cache: Path) -> list[str]:
    """Every file and folder that conversions left, but for the locks."""
    names = (cache / "embedding-service" / "converted").glob("*")
    return sorted(path.name for path in names if path.suffix != ".lock")


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(
    "how", [{}, {"legacy": True}, {"shards": 3}], ids=["zipped", "legacy", "sharded"]
)
def test_a_converted_model_has_the_vectors_of_its_safetensors(
    bge: Path, tmp_path: Path, cache: Path, how: dict, caplog: pytest.LogCaptureFixture
) -> None:
    """A model has only pickled weights -> converted to safetensors once, with the same vectors."""
    folder = pickle_weights(shutil.copytree(bge, tmp_path / "model"), **how)
    with caplog.at_level(logging.INFO, "embedders"):
        source = check(folder, cache)
    assert "BAAI/bge-m3: made safetensors in" in caplog.text
    assert source.folder.parent == cache / "embedding-service" / "converted"
    assert source.folder.name.startswith("BAAI-bge-m3-")
    assert not list(source.folder.rglob("*.bin")) and not list(source.folder.rglob("*.pt"))
    assert "its weights are pickled (pytorch_model" in source.notes[0]
    np.testing.assert_array_equal(vectors(source.folder), vectors(bge))


def test_a_second_start_converts_nothing_and_has_the_digest_of_the_first(
    pickled: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = check(pickled, cache)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "embedders"):
        assert check(pickled, cache) == first
    assert "making safetensors" not in caplog.text
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    plain = pickled.with_name("plain")
    shutil.copytree(pickled, plain)
    shutil.copy(first.folder / "model.safetensors", plain)
    assert check(plain, cache).digest == first.digest
    assert check(plain, cache).folder == plain  # what safetensors there are win


def test_a_pickled_head_is_converted_and_the_safetensors_beside_it_are_kept(
    dense: Path, tmp_path: Path, cache: Path
) -> None:
    folder = shutil.copytree(dense, tmp_path / "model")
    pickle_weights(folder / "2_Dense")
    source = check(folder, cache)
    assert (source.folder / "model.safetensors").samefile(folder / "model.safetensors")
    np.testing.assert_array_equal(vectors(source.folder, "query"), vectors(dense, "query"))
    config = folder / "config_sentence_transformers.json"
    config.write_text(config.read_text().replace("ask: ", "seek: "))
    changed = check(folder, cache)
    assert changed.digest != source.digest and changed.folder != source.folder
    assert not np.allclose(vectors(changed.folder, "query"), vectors(dense, "query"))


def test_tensors_that_are_tied_cut_turned_or_empty_are_written_as_they_are(
    pickled: Path, cache: Path
) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    held = {"a": whole, "tied": whole, "rows": whole[1:], "turned": whole.T, "none": whole[:0]}
    held |= {"half": whole.half(), "ids": torch.arange(5), "p": torch.nn.Parameter(whole[0])}
    torch.save(held, pickled / "pytorch_model.bin")
    written = load_file(check(pickled, cache).folder / "model.safetensors")
    assert written.keys() == held.keys()
    for key, tensor in held.items():
        assert written[key].dtype == tensor.dtype and torch.equal(written[key], tensor)


class _Asks:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.ran),)


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize("form", ["zipped", "legacy", "bare", "newer", "shard", "head"])
def test_a_pickle_that_asks_for_code_is_refused_and_nothing_runs(
    bge: Path, dense: Path, tmp_path: Path, cache: Path, form: str
) -> None:
    """Pickled weights ask for code -> refused, and no code runs."""
    folder = shutil.copytree(dense if form == "head" else bge, tmp_path / "model")
    inside = folder / "2_Dense" if form == "head" else folder
    pickle_weights(inside, shards=2 if form == "shard" else 1)
    held = {"weight": torch.zeros(2), "x": _Asks(tmp_path / "ran")}
    file = sorted(inside.glob("pytorch_model*.bin"))[-1]
    if form in ("bare", "newer"):
        file.write_bytes(pickle.dumps(held["x"], 2 if form == "bare" else 4))
    else:
        torch.save(held, file, _use_new_zipfile_serialization=form != "legacy")
    asks = (
        r"asks to run code \(.*mkdir\)" if form != "newer" else "is a pickle of more than weights"
    )
    with pytest.raises(ModelUnavailable, match=f"{asks}: refused, and nothing") as refused:
        check(folder, cache)
    assert str(file) in str(refused.value) and "weights_only" not in str(refused.value)
    assert not (tmp_path / "ran").exists() and made(cache) == []


def _cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def _zip_of(entry: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(entry, b"nothing")
    return held.getvalue()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "is damaged or was not downloaded whole"),
        (lambda whole: b"", "is damaged or was not downloaded whole"),
        (lambda whole: b"<html>no such file</html>", "is damaged or was not downloaded whole"),
        (lambda whole: b"\x80\x04.", "is damaged or was not downloaded whole"),
        (lambda whole: _zip_of("model/code/x.py"), "is damaged or was not downloaded whole"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    ],
    ids=["cut", "empty", "page", "bare", "zip", "pointer"],
)
def test_a_damaged_pickle_is_refused_by_its_name(
    pickled: Path, cache: Path, damage, said: str
) -> None:
    file = pickled / "pytorch_model.bin"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelUnavailable, match=rf"pytorch_model\.bin {said}"):
        check(pickled, cache)
    assert made(cache) == []


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([torch.zeros(1)], "no weights by name, but a list"),
        ({}, "no weights by name, but a dict"),
        ({"state_dict": {"weight": torch.zeros(1)}}, "'state_dict', a dict"),
        ({"weight": torch.zeros(1), "epoch": 3}, "'epoch', a int"),
        ({1: torch.zeros(1)}, "holds 1, a Tensor"),
        ({"weight": torch.eye(3).to_sparse()}, "'weight', a tensor of a kind that is not read"),
        ({"weight": torch.zeros(1).expand(10**9)}, "bytes of tensors, far more than it has"),
    ],
)
def test_a_pickle_of_anything_but_weights_is_refused(
    pickled: Path, cache: Path, held: object, said: str
) -> None:
    torch.save(held, pickled / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match=r"pytorch_model\.bin holds ") as refused:
        check(pickled, cache)
    assert said in str(refused.value) and made(cache) == []


def test_an_index_that_names_what_no_shard_holds_is_refused(
    bge: Path, tmp_path: Path, cache: Path
) -> None:
    folder = pickle_weights(shutil.copytree(bge, tmp_path / "model"), shards=2)
    index = folder / "pytorch_model.bin.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["a.weight"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(content))
    with pytest.raises(ModelUnavailable, match=r"names 'a\.weight', which is in none of its files"):
        check(folder, cache)
    assert made(cache) == []


def test_pickles_are_refused_where_the_setting_says_so(pickled: Path, cache: Path) -> None:
    said = r"only pickled weights \(pytorch_model\.bin\), which ALLOW_PICKLED_WEIGHTS=false refuses"
    with pytest.raises(ModelUnavailable, match=said):
        check(pickled, cache, allow_pickled=False)
    assert not cache.exists()
    save_file({"weight": torch.zeros(1)}, pickled / "model.safetensors")
    assert check(pickled, cache, allow_pickled=False).folder == pickled


def test_a_copy_that_was_damaged_is_made_again(
    pickled: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = check(pickled, cache)
    file = first.folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert check(pickled, cache) == first
    assert "is damaged: making it again" in caplog.text
    (first.folder / "tokenizer.json").unlink()
    assert check(pickled, cache) == first
    (first.folder / RECORD).unlink()
    assert check(pickled, cache) == first
    assert made(cache) == [first.folder.name]


def test_a_cache_that_cannot_be_written_is_named(pickled: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match="cannot be written.*EMBEDDING_MODEL_CACHE_DIR"):
        check(pickled, tmp_path / "file")


CHILD = """
import sys
from pathlib import Path
from embedders import weights
%s
print(weights.check(Path(sys.argv[1]), "BAAI/bge-m3", Path(sys.argv[2])).digest)
"""
DIES = """
import os, signal
from safetensors import torch as written
def half(tensors, path, metadata):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
written.save_file = half
"""
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as a disk that is full
"""


def child(pickled: Path, cache: Path, first: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD % first, str(pickled), str(cache)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.fault("Models and devices")
def test_four_processes_at_once_make_one_copy(pickled: Path, cache: Path) -> None:
    """Four processes convert the same weights -> one copy is made."""
    children = [child(pickled, cache) for _ in range(4)]
    said = [process.communicate(timeout=120) for process in children]
    assert [process.returncode for process in children] == [0] * 4, said
    source = check(pickled, cache)
    assert {out.strip() for out, _ in said} == {source.digest}
    assert made(cache) == [source.folder.name]


@pytest.mark.fault("Models and devices")
def test_a_process_killed_half_way_leaves_nothing_that_is_taken_for_whole(
    pickled: Path, cache: Path
) -> None:
    """A conversion is killed half way -> its files are never used as a complete model."""
    killed = child(pickled, cache, DIES)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    assert [name[-4:] for name in made(cache)] == [".tmp"]
    source = check(pickled, cache)
    assert made(cache) == [source.folder.name]


def test_a_full_disk_is_said_and_leaves_nothing(pickled: Path, cache: Path) -> None:
    full = child(pickled, cache, FULL)
    _, said = full.communicate(timeout=120)
    assert "safetensors cannot be written" in said and made(cache) == []
