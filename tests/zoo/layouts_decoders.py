"""Layouts of embedding models made of decoders."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from tests.zoo import vocabularies
from tests.zoo.layouts import SHAPE, layout, sentence, wild
from tests.zoo.layouts_encoders import FAR, dense, with_heads

WIDE = {**SHAPE, "intermediate_size": 128, "num_key_value_heads": 2}
TASK = "Instruct: Given a web search query, retrieve relevant passages\nQuery:"


def qwen3(folder: Path, dtype: torch.dtype) -> None:
    """Write a Qwen3-Embedding."""
    tokenizer = vocabularies.qwen(ends=True, padding_side="left", chat_template=vocabularies.CHAT)
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=16, **WIDE)
    network = wild(Qwen3Model(config)).to(dtype)
    prompts = {"query": TASK, "document": ""}
    sentence(folder, network, tokenizer, "lasttoken", limit=FAR, normalized=True, prompts=prompts)


@layout("decoders", longest=FAR, far=True)
def qwen3_last_token(folder: Path) -> None:
    qwen3(folder, torch.float32)


@layout("decoders", longest=FAR, far=True)
def qwen3_stored_in_bfloat16(folder: Path) -> None:
    qwen3(folder, torch.bfloat16)


@layout("decoders", longest=FAR, far=True)
def qwen2_that_looks_both_ways(folder: Path) -> None:
    tokenizer = vocabularies.qwen(ends=True, padding_side="left")
    config = Qwen2Config(vocab_size=len(tokenizer), is_causal=False, **WIDE)
    prompts = {"query": TASK}
    sentence(folder, wild(Qwen2Model(config)), tokenizer, "lasttoken", limit=FAR, prompts=prompts)


@layout("decoders", longest=FAR, far=True)
def qwen2_without_an_end(folder: Path) -> None:
    tokenizer = vocabularies.qwen(ends=False)
    config = Qwen2Config(vocab_size=len(tokenizer), **WIDE)
    sentence(folder, wild(Qwen2Model(config), sharp=3.0), tokenizer, "mean", limit=FAR)


@layout("decoders", longest=FAR, far=True)
def llama_mean(folder: Path) -> None:
    tokenizer = vocabularies.llama("<s> $A")
    config = LlamaConfig(vocab_size=len(tokenizer), **WIDE)
    sentence(folder, wild(LlamaModel(config)), tokenizer, "mean", limit=FAR)


@layout("decoders", longest=FAR, far=True)
def mistral_stored_in_float16(folder: Path) -> None:
    tokenizer = vocabularies.llama("<s> $A </s>", padding_side="left")
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=4096, **WIDE)
    network = wild(MistralModel(config)).to(torch.float16)
    prompts = {"web_search_query": TASK, "sts_query": "Instruct: Retrieve similar text.\nQuery: "}
    sentence(folder, network, tokenizer, "lasttoken", limit=FAR, normalized=True, prompts=prompts)


@layout("decoders", longest=320)
def gpt2_weighted_mean(folder: Path) -> None:
    tokenizer = vocabularies.gpt2()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=320)
    sentence(folder, wild(GPT2Model(config)), tokenizer, "weightedmean", limit=300)


def gemma(folder: Path, tokenizer: Any, **options: Any) -> None:
    """Write a Gemma 3 that looks both ways: one layer sees a window, the other all."""
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), head_dim=16, query_pre_attn_scalar=16, sliding_window=64,
        use_bidirectional_attention=True, layer_types=["sliding_attention", "full_attention"],
        pad_token_id=0, eos_token_id=1, bos_token_id=2, **WIDE,
    )  # fmt: skip
    sentence(folder, wild(Gemma3TextModel(config)), tokenizer, limit=FAR, **options)


@layout("decoders", longest=FAR, far=True)
def embedding_gemma(folder: Path) -> None:
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: ",
               "Clustering": "task: clustering | query: "}  # fmt: skip
    gemma(folder, vocabularies.gemma(padding_side="right"), prompts=prompts)
    dense(folder, 2, 64, 256)
    dense(folder, 3, 256, 64)
    with_heads(folder, "Dense", "Dense", "Normalize")


@layout("decoders", longest=FAR, far=True)
def gemma_padded_on_the_left(folder: Path) -> None:
    gemma(folder, vocabularies.gemma(padding_side="left"))
