"""Of every kind of model the files that loading reads are known by the list of its files."""

import json
from collections.abc import Mapping

import pytest

from embedders.manifest import Manifest
from errors import ModelUnavailable

ST, SPARSE = "sentence_transformers.models", "sentence_transformers.sparse_encoder.models"
NETWORK = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def listed(*types: str, **files: str) -> dict[str, str]:
    """Return the files of modules of these types, the first in the root."""
    rows = [
        {"idx": at, "name": str(at), "type": kind, "path": f"{at}_M" if at else ""}
        for at, kind in enumerate(types)
    ]
    found = dict.fromkeys((*NETWORK, "README.md", "onnx/model.onnx"), "{}")
    return {**found, **({"modules.json": json.dumps(rows)} if types else {}), **files}


def manifest(files: Mapping[str, str]) -> Manifest:
    return Manifest(files, lambda path: files[path])


def test_bge_m3_has_its_heads_converted() -> None:
    heads = {"sparse_linear.pt": "", "colbert_linear.pt": ""}
    files = listed(f"{ST}.Transformer", f"{ST}.Pooling", **{"1_M/config.json": "{}"})
    found = manifest({**files, **heads})
    assert found.pickled == ("colbert_linear.pt", "sparse_linear.pt")
    assert not found.needs_pickles
    assert not found.missing
    safe = manifest({**files, **{name.replace(".pt", ".safetensors"): "" for name in heads}})
    assert not safe.pickled
    assert {"sparse_linear.safetensors", "colbert_linear.safetensors"} <= set(safe.read)


def test_one_head_alone_is_not_read() -> None:
    files = listed(f"{ST}.Transformer", f"{ST}.Pooling", **{"1_M/config.json": "{}"})
    assert manifest(files).read == manifest({**files, "sparse_linear.pt": ""}).read
    assert not manifest({**files, "sparse_linear.pt": ""}).pickled


def test_a_network_that_is_pickled_too_needs_pickles() -> None:
    files = listed(f"{ST}.Transformer", f"{ST}.Pooling", **{"1_M/config.json": "{}"})
    del files["model.safetensors"]
    heads = {"sparse_linear.pt": "", "colbert_linear.pt": "", "pytorch_model.bin": ""}
    assert manifest({**files, **heads}).needs_pickles


def test_a_colbert_of_stanford_has_its_metadata() -> None:
    assert "artifact.metadata" in manifest(listed(**{"artifact.metadata": "{}"})).read


def test_a_splade_needs_the_settings_of_its_pooling() -> None:
    files = listed(f"{SPARSE}.MLMTransformer", f"{SPARSE}.SpladePooling")
    assert manifest(files).missing == ("1_M/config.json",)
    found = manifest({**files, "1_M/config.json": "{}"})
    assert {*NETWORK, "1_M/config.json", "modules.json"} == set(found.read)


def test_a_router_has_its_table_and_the_tables_tokenizer() -> None:
    files = listed(f"{ST}.Router")
    types = {
        "query_0_T": f"{SPARSE}.SparseStaticEmbedding", "document_0_N": f"{SPARSE}.MLMTransformer",
        "document_1_P": f"{SPARSE}.SpladePooling",
    }  # fmt: skip
    files["router_config.json"] = json.dumps({"types": types})
    network = {f"document_0_N/{name}": "{}" for name in NETWORK}
    table = {f"query_0_T/{name}": "{}" for name in NETWORK}
    pooling = {"document_1_P/config.json": "{}"}
    found = manifest({**files, **network, **table, **pooling})
    assert not found.missing
    assert {*network, *table, *pooling} <= set(found.read)
    del table["query_0_T/tokenizer.json"], table["query_0_T/model.safetensors"]
    lacking = manifest({**files, **network, **table, **pooling}).missing
    assert lacking == ("query_0_T/model.safetensors", "query_0_T/tokenizer.json")


def test_a_table_in_another_file_is_refused() -> None:
    files = listed(f"{SPARSE}.SparseStaticEmbedding")
    with pytest.raises(ModelUnavailable, match=r"idf\.json"):
        manifest({**files, "config.json": json.dumps({"path": "idf.json"})})
