"""Layouts that are no embedding models, and must be refused by what they are."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, bare, layout, modules, sentence, wild, write
from tests.zoo.layouts_bert import bert, small_bert
from tests.zoo.layouts_decoders import WIDE

PLAIN = {**SHAPE, "intermediate_size": 128}


def refused(why: str) -> Any:
    """Register a builder of a folder whose refusal says `why`."""
    return layout("refused", why=why)


@refused("chat model")
def reranker_of_qwen3(folder: Path) -> None:
    """Nothing in the files of Qwen3-Reranker tells it from a model that chats."""
    tokenizer = vocabularies.qwen(ends=False, padding_side="left", chat_template=vocabularies.CHAT)
    config = Qwen3Config(vocab_size=len(tokenizer), head_dim=16, **WIDE)
    bare(folder, wild(Qwen3ForCausalLM(config)), tokenizer)


@refused("language model")
def llama_that_writes(folder: Path) -> None:
    tokenizer = vocabularies.llama("<s> $A")
    config = LlamaConfig(vocab_size=len(tokenizer), **WIDE)
    bare(folder, wild(LlamaForCausalLM(config)), tokenizer)


@refused("no Pooling")
def network_without_pooling(folder: Path) -> None:
    bert(folder)
    modules(folder, [FIRST])


def clip(folder: Path) -> None:
    """Write a CLIP of transformers."""
    tokenizer = vocabularies.bert()
    text = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=77, **PLAIN)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **PLAIN)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(),
                        projection_dim=64)  # fmt: skip
    bare(folder, wild(CLIPModel(config)), tokenizer)


@refused("CLIP")
def clip_of_transformers_alone(folder: Path) -> None:
    clip(folder)


@refused("CLIP")
def clip_of_the_library(folder: Path) -> None:
    clip(folder / "0_CLIPModel")
    modules(folder, ["sentence_transformers.models.CLIPModel"])
    rows = [{"idx": 0, "name": "0", "path": "0_CLIPModel",
             "type": "sentence_transformers.models.CLIPModel"}]  # fmt: skip
    write(folder / "modules.json", rows)


@refused("adapter")
def adapter_without_its_base(folder: Path) -> None:
    """Adapters need PEFT, which the service does not install; it says so."""
    from safetensors.torch import save_file

    tokenizer = vocabularies.bert()
    sentence(folder, small_bert(tokenizer, kind=BertModel), tokenizer)
    for file in ("config.json", "model.safetensors"):
        (folder / file).unlink()
    at = "base_model.model.encoder.layer.0.attention.self.query.lora"
    weights = {f"{at}_A.weight": torch.ones(8, 64), f"{at}_B.weight": torch.ones(64, 8)}
    save_file(weights, folder / "adapter_model.safetensors")
    write(folder / "adapter_config.json",
          {"peft_type": "LORA", "base_model_name_or_path": "bert-base-uncased", "r": 8,
           "task_type": "FEATURE_EXTRACTION", "target_modules": ["query"]})  # fmt: skip
