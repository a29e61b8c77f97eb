"""Models of the hub: what is downloaded, what a cache lacks, and a hub that cannot be asked."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embedders import weights
from embedders.weights import Source
from errors import ModelUnavailable
from tests.embedders.repositories import (
    like_bge_m3,
    pickle_weights,
    vectors,
    with_dense,
)
from tests.servers.hub import Hub

NAME = "BAAI/bge-m3"
ROOT = Path(__file__).parents[2]
# What transformers and vLLM leave in a cache: the network and its tokenizer.
BARE = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def bge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return like_bge_m3(tmp_path_factory.mktemp("bge") / "model")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_dense(tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as server:
        server.serve_here(monkeypatch)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def get(name: str, cache: Path, token: str | None = None) -> Source:
    """Find and check a model, as its loading does."""
    return weights.check(weights.find(name, None, cache, token), name, cache)


def fetched(hub: Hub) -> set[str]:
    """The files that were downloaded."""
    paths = (line.partition("/resolve/")[2].partition("/")[2] for line in hub.asked)
    return {path for path, line in zip(paths, hub.asked, strict=True) if line[:4] == "GET "} - {""}


def cached(cache: Path) -> list[str]:
    snapshots = [p for p in cache.glob("models--*/snapshots/*/**/*") if p.is_file()]
    return sorted(p.relative_to(p.parents[len(p.parts) - len(cache.parts) - 4]).as_posix()
                  for p in snapshots)  # fmt: skip


# ---- what is downloaded


def test_a_model_with_only_a_pickle_is_downloaded_converted_and_never_asked_for_again(
    hub: Hub, bge: Path, cache: Path
) -> None:
    hub.add(NAME, bge)
    pickle_weights(hub.folder / NAME)
    first = get(NAME, cache)
    unread = {".gitattributes", "README.md", "onnx/config.json", "onnx/model.onnx"}
    assert fetched(hub) == set(hub.files(NAME)) - unread - {"sparse_linear.pt"}
    np.testing.assert_array_equal(vectors(first.folder), vectors(bge))
    hub.asked.clear()
    assert get(NAME, cache) == first and not hub.asked
    hub.stop()
    assert get(NAME, cache) == first


def test_safetensors_are_downloaded_and_what_repeats_them_is_not(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    for file in ("pytorch_model.bin", "2_Dense/pytorch_model.bin", "tf_model.h5", "x.safetensors",
                 "onnx/model.onnx", "openvino/config.json", "training_args.bin"):  # fmt: skip
        (hub.folder / NAME / file).parent.mkdir(exist_ok=True)
        (hub.folder / NAME / file).write_bytes(b"{}")
    source = get(NAME, cache)
    assert fetched(hub) == {p.relative_to(dense).as_posix() for p in dense.rglob("*.*")}
    assert source.digest == weights.check(dense, NAME, cache).digest and source.notes == ()


def test_a_pickled_head_and_shards_are_downloaded_with_their_index(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    pickle_weights(hub.folder / NAME / "2_Dense")
    pickle_weights(hub.folder / NAME, shards=2)
    assert fetched(hub) == set()
    source = get(NAME, cache)
    assert {"2_Dense/pytorch_model.bin", "pytorch_model-00002-of-00002.bin"} <= fetched(hub)
    np.testing.assert_array_equal(vectors(source.folder, "query"), vectors(dense, "query"))


def test_pickles_that_are_not_allowed_are_not_downloaded(hub: Hub, bge: Path, cache: Path) -> None:
    hub.add(NAME, bge)
    pickle_weights(hub.folder / NAME)
    with pytest.raises(ModelUnavailable, match="ALLOW_PICKLED_WEIGHTS=false"):
        weights.find(NAME, None, cache, allow_pickled=False)
    assert "pytorch_model.bin" not in fetched(hub)


def test_a_repository_without_weights_that_are_read_says_what_it_has(
    hub: Hub, bge: Path, cache: Path
) -> None:
    hub.add(NAME, bge)
    (hub.folder / NAME / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"lacks model\.safetensors; .* onnx/model\.onnx"):
        get(NAME, cache)


# ---- a cache that another program filled


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(
    "lacking",
    [
        ["modules.json"],
        ["modules.json", "1_Pooling/config.json", "2_Dense/config.json",
         "2_Dense/model.safetensors", "config_sentence_transformers.json",
         "sentence_bert_config.json"],
        ["1_Pooling/config.json"],
        ["2_Dense/model.safetensors"],
        ["config_sentence_transformers.json"],
        ["sentence_bert_config.json"],
        ["model.safetensors"],
        ["tokenizer_config.json"],
        ["tokenizer.json", "tokenizer_config.json"],
        ["config.json"],
    ],
    ids=lambda lacking: lacking[0] + ("…" if len(lacking) > 2 else ""),
)  # fmt: skip
def test_a_half_filled_cache_is_completed(
    hub: Hub, dense: Path, cache: Path, lacking: list[str]
) -> None:
    """Another program filled the hub's cache in part -> the missing files are downloaded."""
    hub.add(NAME, dense)
    had = [path for path in hub.files(NAME) if path not in lacking]
    snapshot = hub.fill(cache, NAME, had)
    assert weights.find(NAME, None, cache) == snapshot
    source = weights.check(snapshot, NAME, cache)
    assert fetched(hub) == set(lacking)
    assert source.digest == weights.check(dense, NAME, cache).digest and source.notes == ()
    hub.stop()
    assert get(NAME, cache) == source


def test_shards_that_a_cache_lacks_are_downloaded(hub: Hub, bge: Path, cache: Path) -> None:
    hub.add(NAME, bge)
    pickle_weights(hub.folder / NAME, shards=3)
    lost = "pytorch_model-00002-of-00003.bin"
    hub.fill(cache, NAME, [path for path in hub.files(NAME) if path != lost])
    np.testing.assert_array_equal(vectors(get(NAME, cache).folder), vectors(bge))
    assert fetched(hub) == {lost}


def test_a_cached_pickle_is_not_converted_if_the_hub_has_safetensors(
    hub: Hub, bge: Path, cache: Path
) -> None:
    hub.add(NAME, bge)
    (hub.folder / NAME / "pytorch_model.bin").write_bytes(b"old")
    hub.fill(cache, NAME, [p for p in hub.files(NAME) if not p.endswith(".safetensors")])
    assert get(NAME, cache).folder.parent.name == "snapshots"
    assert fetched(hub) == {"model.safetensors"}


def test_a_model_without_modules_json_is_asked_for_once(hub: Hub, dense: Path, cache: Path) -> None:
    for path in BARE:
        (hub.folder / NAME).mkdir(parents=True, exist_ok=True)
        shutil.copy(dense / path, hub.folder / NAME)
    hub.fill(cache, NAME, BARE)
    source = get(NAME, cache)
    assert hub.asked and not fetched(hub) and source.notes == ()
    hub.asked.clear()
    assert get(NAME, cache) == source and not hub.asked


def test_a_cache_that_the_library_filled_itself_is_used_without_the_hub(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    (hub.folder / NAME / "special_tokens_map.json").unlink(missing_ok=True)
    hub.fill(cache, NAME, hub.files(NAME), absent=("special_tokens_map.json",))
    assert get(NAME, cache).notes == () and not hub.asked


def test_a_cache_that_cannot_be_written_is_used_if_the_hub_says_it_is_whole(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    snapshot = hub.fill(cache, NAME, hub.files(NAME))
    (snapshot.parents[1] / "trees").touch()  # where the hub's list would be kept
    assert weights.check(snapshot, NAME, cache).notes
    assert get(NAME, cache).notes == () and not fetched(hub)


def test_a_commit_that_the_hub_has_forgotten_gives_way_to_the_newest(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    old = hub.fill(cache, NAME, BARE)
    (hub.folder / NAME / "README.md").write_text("new")
    source = get(NAME, cache)
    assert source.folder.name == hub.commit(NAME) != old.name
    assert source.digest == weights.check(dense, NAME, cache).digest


# ---- a hub that cannot be asked


@pytest.fixture(params=["down", "offline", "failing"])
def unreachable(request: pytest.FixtureRequest, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    if request.param == "down":
        hub.stop()
    elif request.param == "failing":
        hub.failing = 503
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return hub


@pytest.mark.fault("Models and devices")
def test_a_cache_that_may_be_partial_is_used_and_said(
    unreachable: Hub, dense: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub is down, and the cached model may lack a part -> it serves, and the log says so."""
    unreachable.add(NAME, dense)
    unreachable.fill(cache, NAME, BARE)
    source = get(NAME, cache)
    assert (
        "the hub was not asked whether it has config_sentence_transformers.json, "
        in (source.notes[0])
    )
    assert "modules.json" in source.notes[0] and "the cached model is used" in caplog.text


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize("lost", ["1_Pooling/config.json", "2_Dense/model.safetensors",
                                  "model.safetensors", "tokenizer.json"])  # fmt: skip
def test_a_cache_that_lacks_a_part_is_refused_by_its_name(
    unreachable: Hub, dense: Path, cache: Path, lost: str
) -> None:
    """The hub is down, and the cached model lacks a part -> refused; the error names the part."""
    unreachable.add(NAME, dense)
    had = [p for p in unreachable.files(NAME) if p != lost and p != "tokenizer_config.json"]
    unreachable.fill(cache, NAME, had)
    with pytest.raises(
        ModelUnavailable, match=f"in the cache without {lost}.* hub.*start once with"
    ):
        get(NAME, cache)


def test_a_hub_that_hangs_is_not_waited_for_for_long(
    hub: Hub, dense: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, dense)
    hub.fill(cache, NAME, BARE)
    monkeypatch.setattr("embedders.hub.WAIT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        started = time.monotonic()
        assert "modules.json" in get(NAME, cache).notes[0]
    assert time.monotonic() - started < 5


def test_what_is_not_cached_says_so(unreachable: Hub, cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"nor cached, and .*hub|refused .* \(503\)"):
        get(NAME, cache)


def test_a_file_that_the_hubs_list_names_is_missed_without_the_hub(
    hub: Hub, dense: Path, cache: Path
) -> None:
    hub.add(NAME, dense)
    snapshot = get(NAME, cache).folder
    hub.stop()
    (snapshot / "config_sentence_transformers.json").unlink()
    with pytest.raises(ModelUnavailable, match="without config_sentence_transformers.json, and"):
        get(NAME, cache)


# ---- a hub that refuses


def test_a_gated_model_needs_its_token(hub: Hub, dense: Path, cache: Path) -> None:
    hub.add(NAME, dense)
    hub.gated[NAME] = "hf_right"
    refused = rf"the hub refused '{NAME}' \(401\); a private or gated model needs HF_TOKEN"
    for token in (None, "hf_wrong"):
        with pytest.raises(ModelUnavailable, match=refused):
            get(NAME, cache, token)
    assert get(NAME, cache, "hf_right").notes == ()
    assert get(NAME, cache).notes == ()  # it is in the cache now


def test_a_model_that_is_nowhere_is_refused(hub: Hub, cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"the hub refused 'no/such' \(401\)"):
        get("no/such", cache)
    with pytest.raises(
        ModelUnavailable, match="neither a folder, nor bundled, nor cached, and a model of"
    ):
        get("/no/such/folder", cache)


def test_a_cache_that_cannot_be_written_is_said(hub: Hub, dense: Path, tmp_path: Path) -> None:
    hub.add(NAME, dense)
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match="cannot be written"):
        get(NAME, tmp_path / "file")


# ---- as an operator starts it

CHILD = """
import json, sys
from pathlib import Path
from embedders import weights
name, cache = sys.argv[1], Path(sys.argv[2])
source = weights.check(weights.find(name, None, cache), name, cache)
print(json.dumps([str(source.folder), source.digest]))
"""


def test_a_process_finds_a_pickled_model_by_the_hub_in_its_environment(
    hub: Hub, bge: Path, cache: Path
) -> None:
    hub.add(NAME, bge)
    pickle_weights(hub.folder / NAME)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    said = []
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, NAME, str(cache)], cwd=ROOT, text=True,
            capture_output=True, env={**environment, "HF_HUB_OFFLINE": offline},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout.splitlines()[-1]))
    assert said[0] == said[1]
    np.testing.assert_allclose(vectors(Path(said[0][0])), vectors(bge), atol=1e-5)
