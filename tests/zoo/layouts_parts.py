"""Layouts that are no transformer, or more than one."""

from pathlib import Path
from typing import Any

import torch

from tests.zoo import vocabularies
from tests.zoo.layouts import layout, modules, write
from tests.zoo.layouts_bert import bert

ROOT = "sentence_transformers.sentence_transformer.modules"
BASE = "sentence_transformers.base.modules"


def table(rows: int) -> torch.Tensor:
    """Return one random vector a token."""
    return torch.randn(rows, 64, generator=torch.Generator().manual_seed(5))


def static(folder: Path, name: str) -> None:
    """Write a static model's tokenizer and its vectors, under the name that a library gives."""
    from safetensors.torch import save_file

    tokenizer = vocabularies.bert()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    save_file({name: table(len(tokenizer))}, folder / "model.safetensors")


@layout("parts", order=False, padded="no network of its own")
def static_embedding(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = vocabularies.bert()
    words = StaticEmbedding(tokenizer.backend_tokenizer, table(len(tokenizer)))
    SentenceTransformer(modules=[words], device="cpu").save(str(folder), create_model_card=False)


@layout("parts", order=False, padded="no network of its own")
def potion_of_model2vec(folder: Path) -> None:
    static(folder, "embeddings")
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True,
              "tokenizer_name": "baai/bge-base-en-v1.5", "apply_pca": 64}  # fmt: skip
    write(folder / "config.json", config)
    kinds = ("StaticEmbedding", "Normalize")
    modules(folder, [f"sentence_transformers.models.{kind}" for kind in kinds])


def router(folder: Path, query: Any, document: Any, **options: Any) -> None:
    """Save a Router of two sides, each a list of modules."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Router

    both = Router.for_query_document(query, document, **options)
    model = SentenceTransformer(modules=[both], device="cpu")
    model.save(str(folder), create_model_card=False)


def side(folder: Path, **options: Any) -> list[Any]:
    """Return the modules of a BERT that is written to a folder."""
    from sentence_transformers import SentenceTransformer

    bert(folder, **options)
    return list(SentenceTransformer(str(folder), device="cpu"))


@layout("parts", padded="no network of its own")
def router_of_two_berts(folder: Path) -> None:
    parts = folder.parent / "sides"
    query = side(parts / "query", seed=11, limit=24)
    document = side(parts / "document", seed=12, limit=64)
    router(folder, query, document, default_route="document")


@layout("parts", order=False, padded="no network of its own")
def router_of_static_queries(folder: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = vocabularies.bert()
    query = [StaticEmbedding(tokenizer.backend_tokenizer, table(len(tokenizer)))]
    document = side(folder.parent / "sides" / "document", seed=12)
    router(folder, query, document, default_route="document")
