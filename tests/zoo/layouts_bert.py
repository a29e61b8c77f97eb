"""Layouts of BERT and RoBERTa: what the packed layers compute, with every pooling and limit."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, bare, changed, layout, modules, sentence, wild, write

QUERY_AND_PASSAGE = {"query": "query: ", "passage": "passage: "}


def small_bert(tokenizer: Any, seed: int = 1, kind: Any = BertModel, **facts: Any) -> Any:
    """Make a BERT of two layers."""
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=128, **{**SHAPE, **facts})
    return wild(kind(config), seed)


def bert(folder: Path, *pooling: str, seed: int = 1, facts: Any = None, **options: Any) -> None:
    """Write a BERT model whose modules and limits are as given."""
    tokenizer = vocabularies.bert()
    network = small_bert(tokenizer, seed, **(facts or {}))
    sentence(folder, network, tokenizer, pooling or ("mean",), **options)


@layout("bert", longest=600)
def bert_cls_normalized(folder: Path) -> None:
    bert(folder, "cls", limit=512, normalized=True)


@layout("bert")
def bert_mean(folder: Path) -> None:
    bert(folder, "mean", prompts=QUERY_AND_PASSAGE)


@layout("bert")
def bert_max(folder: Path) -> None:
    bert(folder, "max")


@layout("bert")
def bert_sqrt_of_length(folder: Path) -> None:
    bert(folder, "mean_sqrt_len_tokens")


@layout("bert")
def bert_weighted_mean(folder: Path) -> None:
    bert(folder, "weightedmean")


@layout("bert")
def bert_three_poolings(folder: Path) -> None:
    bert(folder, "cls", "mean", "max")


@layout("bert")
def bert_relu(folder: Path) -> None:
    bert(folder, facts={"hidden_act": "relu"})


@layout("bert")
def bert_gelu_new(folder: Path) -> None:
    bert(folder, facts={"hidden_act": "gelu_new"})


@layout("bert")
def bert_lower_cased_by_the_library(folder: Path) -> None:
    tokenizer = vocabularies.bert(lower=False)
    sentence(folder, small_bert(tokenizer), tokenizer, more={"do_lower_case": True})


@layout("bert")
def bert_for_dot_products(folder: Path) -> None:
    bert(folder, "cls", config={"similarity_fn_name": "dot"})


@layout("bert")
def bert_without_its_prompt_in_the_mean(folder: Path) -> None:
    prompts = {"query": "Represent the question for retrieval: ", "document": "Represent it: "}
    bert(folder, include_prompt=False, prompts=prompts, default_prompt="query")


@layout("bert")
def bert_stored_in_bfloat16(folder: Path) -> None:
    tokenizer = vocabularies.bert()
    sentence(folder, small_bert(tokenizer).to(torch.bfloat16), tokenizer)


@layout("bert")
def bert_stored_in_float16(folder: Path) -> None:
    tokenizer = vocabularies.bert()
    sentence(folder, small_bert(tokenizer).to(torch.float16), tokenizer)


@layout("bert")
def bert_in_shards(folder: Path) -> None:
    bert(folder, max_shard_size="150KB")
    assert (folder / "model.safetensors.index.json").exists()


@layout("bert", longest=600)
def bert_of_transformers_alone(folder: Path) -> None:
    tokenizer = vocabularies.bert(model_max_length=512)
    bare(folder, small_bert(tokenizer), tokenizer)


@layout("bert", longest=600)
def bert_saved_as_a_masked_language_model(folder: Path) -> None:
    tokenizer = vocabularies.bert(model_max_length=512)
    sentence(folder, small_bert(tokenizer, kind=BertForMaskedLM), tokenizer, "cls", limit=None)


@layout("bert", longest=600)
def roberta_mean(folder: Path) -> None:
    tokenizer = vocabularies.roberta()
    config = RobertaConfig(vocab_size=len(tokenizer), intermediate_size=128, type_vocab_size=1,
                           max_position_embeddings=514, **SHAPE)  # fmt: skip
    sentence(folder, wild(RobertaModel(config)), tokenizer, limit=512)


@layout("bert", longest=1300)
def xlm_roberta_of_8192_tokens(folder: Path) -> None:
    tokenizer = vocabularies.xlmr(model_max_length=8192)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), intermediate_size=128, type_vocab_size=1,
                              max_position_embeddings=8194, **SHAPE)  # fmt: skip
    sentence(folder, wild(XLMRobertaModel(config)), tokenizer, "cls", limit=8192, normalized=True)


@layout("bert", longest=600, cut=512)
def bert_of_a_limit_over_its_positions(folder: Path) -> None:
    bert(folder, limit=1024)


@layout("bert")
def bert_that_keeps_the_end(folder: Path) -> None:
    bert(folder, prompts=QUERY_AND_PASSAGE)
    changed(folder / "tokenizer_config.json", truncation_side="left")


@layout("bert")
def bert_of_a_text_length(folder: Path) -> None:
    bert(folder, limit=512, more={"processing_kwargs": {"text": {"max_length": 40}}})


@layout("bert")
def bert_of_a_length_for_each_side(folder: Path) -> None:
    bert(folder, prompts={"query": "q: ", "document": "d: "},
         more={"query_length": 24, "document_length": 48})  # fmt: skip


@layout("bert")
def bert_of_shortened_vectors(folder: Path) -> None:
    bert(folder, config={"truncate_dim": 32})


@layout("bert")
def bert_of_search_query_and_search_document(folder: Path) -> None:
    prompts = {"search_query": "search_query: ", "search_document": "search_document: ",
               "clustering": "clustering: ", "classification": "classification: "}  # fmt: skip
    bert(folder, prompts=prompts)


@layout("bert", padded="its pooling is not known")
def bert_of_weighted_layers(folder: Path) -> None:
    from safetensors.torch import save_file

    bert(folder)
    changed(folder / "config.json", output_hidden_states=True)
    place = folder / "1_WeightedLayerPooling"
    write(place / "config.json",
          {"word_embedding_dimension": 64, "layer_start": 1, "num_hidden_layers": 2})  # fmt: skip
    save_file({"layer_weights": torch.tensor([0.3, 1.7])}, place / "model.safetensors")
    (folder / "1_Pooling").rename(folder / "2_Pooling")
    kinds = ("WeightedLayerPooling", "Pooling")
    modules(folder, [FIRST, *(f"sentence_transformers.models.{kind}" for kind in kinds)])
