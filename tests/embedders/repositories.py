"""Tiny models with random weights, laid out as the hub's repositories are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from embedders import weights

NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM = weights.find(NAME)
TEXTS = ["one", "a longer text than the other", "die Fassade, façade und 中文"]


def like_bge_m3(folder: Path) -> Path:
    """Make an XLM-RoBERTa with CLS pooling and the parts that BAAI/bge-m3 has beside it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator([Path(json.__file__).read_text(), *TEXTS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", cls_token="<s>", sep_token="</s>", mask_token="<mask>",
        model_max_length=128,
    )  # fmt: skip
    torch.manual_seed(5)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    network = XLMRobertaModel(
        XLMRobertaConfig(vocab_size=tokenizer.get_vocab_size(), intermediate_size=64,
                         max_position_embeddings=130, type_vocab_size=1, **shape)
    )  # fmt: skip
    bare = folder.with_name(folder.name + "-bare")
    network.save_pretrained(bare)
    made.save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "cls"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    shutil.rmtree(bare)
    torch.save({"weight": torch.zeros(1, 32)}, folder / "sparse_linear.pt")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"onnx")
    (folder / "onnx" / "config.json").write_text("{}")
    (folder / "README.md").write_text("# A model\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    return folder


def with_dense(folder: Path) -> Path:
    """Make a BERT with CLS pooling, a dense head and prompts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(6)
    shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    bare = folder.with_name(folder.name + "-bare")
    names = shutil.ignore_patterns("1_Pooling", "m*", "sentence_*", "config*", "README*")
    shutil.copytree(MINILM, bare, ignore=names)
    BertModel(BertConfig(intermediate_size=64, **shape)).save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "cls"), Dense(32, 24)]
    prompts = {"query": "ask: ", "document": "say: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save(str(folder), create_model_card=False)
    shutil.rmtree(bare)
    return folder


def pickle_weights(folder: Path, *, legacy: bool = False, shards: int = 1) -> Path:
    """Write the weights of one module's folder as torch wrote them before safetensors."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        zipped = {"_use_new_zipfile_serialization": not legacy}
        torch.save(tensors, folder / "pytorch_model.bin", **zipped)
        return folder
    places = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def vectors(folder: Path, prompt: str | None = None) -> np.ndarray:
    """Return what the library itself makes of a folder with safetensors."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
    )
    made: np.ndarray = model.encode(TEXTS, prompt_name=prompt)
    return made
