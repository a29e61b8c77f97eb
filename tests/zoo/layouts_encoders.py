"""Layouts of encoders that are no BERT."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    EuroBertConfig,
    EuroBertModel,
    GteConfig,
    GteModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    LongformerConfig,
    LongformerModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    XLMRobertaXLConfig,
    XLMRobertaXLModel,
    XLNetConfig,
    XLNetModel,
)

from tests.zoo import vocabularies
from tests.zoo.layouts import FIRST, SHAPE, layout, modules, sentence, wild, write

FAR = 2048  # the limit of rotary models here; they number no positions
JINA = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
    "text-matching": "",
}


def _plain(**facts: Any) -> dict[str, Any]:
    return {**SHAPE, "intermediate_size": 128, **facts}


def t5(folder: Path, kind: Any = T5EncoderModel, **options: Any) -> None:
    """Write a T5 encoder, as sentence-t5 and gtr are."""
    tokenizer = vocabularies.t5()
    config = T5Config(vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=2,
                      num_heads=4, decoder_start_token_id=0)  # fmt: skip
    sentence(folder, wild(kind(config), sharp=1.0), tokenizer, **options)


def dense(
    folder: Path, at: int, width: int, out: int, *, pickled: bool = False, **facts: Any
) -> None:
    """Write a Dense module's folder."""
    from safetensors.torch import save_file

    place = folder / f"{at}_Dense"
    given = {"in_features": width, "out_features": out, "bias": False,
             "activation_function": "torch.nn.modules.linear.Identity", **facts}  # fmt: skip
    write(place / "config.json", given)
    source = torch.Generator().manual_seed(at)
    weights = {"linear.weight": torch.randn(out, width, generator=source) / width**0.5}
    if given["bias"]:
        weights["linear.bias"] = torch.randn(out, generator=source) * 0.1
    if pickled:
        torch.save(weights, place / "pytorch_model.bin")
    else:
        save_file(weights, place / "model.safetensors")


def with_heads(folder: Path, *kinds: str) -> None:
    """Write modules.json for a network, a pooling and these."""
    rest = ("Pooling", *kinds)
    modules(folder, [FIRST, *(f"sentence_transformers.models.{kind}" for kind in rest)])


@layout("encoders", padded="its network takes no positions")
def t5_encoder(folder: Path) -> None:
    t5(folder)


@layout("encoders", padded="its network takes no positions")
def t5_with_its_decoder_and_tied_words(folder: Path) -> None:
    t5(folder, T5ForConditionalGeneration)


@layout("encoders", padded="its network takes no positions")
def t5_with_a_dense_layer(folder: Path) -> None:
    t5(folder)
    dense(folder, 2, 64, 48)
    with_heads(folder, "Dense", "Normalize")


@layout("encoders", padded="its network takes no positions")
def t5_with_a_pickled_dense_layer(folder: Path) -> None:
    t5(folder)
    tanh = "torch.nn.modules.activation.Tanh"
    dense(folder, 2, 64, 48, pickled=True, bias=True, activation_function=tanh)
    with_heads(folder, "Dense", "Normalize")


@layout("encoders", longest=600, padded="its network takes no attention function")
def mpnet(folder: Path) -> None:
    tokenizer = vocabularies.mpnet()
    config = MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **_plain())
    sentence(folder, wild(MPNetModel(config)), tokenizer, limit=512, normalized=True)


@layout("encoders")
def distilbert(folder: Path) -> None:
    tokenizer = vocabularies.bert()
    config = DistilBertConfig(vocab_size=len(tokenizer), dim=64, n_layers=2, n_heads=4,
                              hidden_dim=128)  # fmt: skip
    sentence(folder, wild(DistilBertModel(config)), tokenizer, "cls", limit=128)


@layout("encoders", padded="its network takes no attention function")
def deberta_v2(folder: Path) -> None:
    tokenizer = vocabularies.deberta()
    config = DebertaV2Config(
        vocab_size=len(tokenizer), relative_attention=True, position_buckets=32,
        pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False, type_vocab_size=0, max_position_embeddings=512, **_plain(),
    )  # fmt: skip
    sentence(folder, wild(DebertaV2Model(config)), tokenizer)


@layout("encoders")
def electra(folder: Path) -> None:
    tokenizer = vocabularies.bert()
    config = ElectraConfig(vocab_size=len(tokenizer), embedding_size=32, **_plain())
    sentence(folder, wild(ElectraModel(config)), tokenizer, "cls")


@layout("encoders")
def albert(folder: Path) -> None:
    tokenizer = vocabularies.albert()
    config = AlbertConfig(vocab_size=len(tokenizer), embedding_size=32, **_plain())
    sentence(folder, wild(AlbertModel(config)), tokenizer)


@layout("encoders", longest=FAR, far=True)
def eurobert(folder: Path) -> None:
    tokenizer = vocabularies.euro()
    config = EuroBertConfig(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2,
                            eos_token_id=3, mask_token_id=4, num_key_value_heads=2,
                            **_plain())  # fmt: skip
    sentence(folder, wild(EuroBertModel(config), sharp=3.0), tokenizer, limit=FAR)


@layout("encoders", longest=FAR, far=True)
def jina_v3(folder: Path) -> None:
    tokenizer = vocabularies.xlmr()
    config = JinaEmbeddingsV3Config(vocab_size=len(tokenizer), **_plain())
    network = wild(JinaEmbeddingsV3Model(config), sharp=5.0)
    sentence(folder, network, tokenizer, limit=FAR, prompts=JINA, normalized=True)


@layout("encoders", longest=FAR, far=True)
def gte(folder: Path) -> None:
    tokenizer = vocabularies.xlmr()
    config = GteConfig(vocab_size=len(tokenizer), **_plain())
    sentence(folder, wild(GteModel(config)), tokenizer, "cls", limit=FAR, normalized=True)


def modernbert(folder: Path, pooling: str, sharp: float, **options: Any) -> None:
    """Write a ModernBERT: one layer sees all, the other a window."""
    tokenizer = vocabularies.euro()
    ids = {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3,
           "eos_token_id": 3}  # fmt: skip
    config = ModernBertConfig(vocab_size=len(tokenizer), local_attention=32, **ids, **_plain())
    network = wild(ModernBertModel(config), sharp=sharp)
    sentence(folder, network, tokenizer, pooling, limit=FAR, **options)


@layout("encoders", longest=FAR, far=True)
def modernbert_cls(folder: Path) -> None:
    modernbert(folder, "cls", 2.0, normalized=True)


@layout("encoders", longest=FAR, far=True)
def modernbert_mean(folder: Path) -> None:
    prompts = {"query": "search_query: ", "document": "search_document: "}
    modernbert(folder, "mean", 5.0, prompts=prompts)


@layout("encoders", longest=1300, far=True)
def nomic_of_8192_tokens(folder: Path) -> None:
    tokenizer = vocabularies.bert(model_max_length=8192)
    config = NomicBertConfig(vocab_size=len(tokenizer), **_plain())
    assert config.max_position_embeddings == 2048
    prompts = {"search_query": "search_query: ", "search_document": "search_document: "}
    sentence(
        folder, wild(NomicBertModel(config), sharp=5.0), tokenizer, limit=8192, prompts=prompts
    )


@layout("encoders", halves=False, padded="its network takes no positions")
def xlnet(folder: Path) -> None:
    tokenizer = vocabularies.xlnet()
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=64, n_layer=2, n_head=4, d_inner=128,
                         pad_token_id=5)  # fmt: skip
    sentence(folder, wild(XLNetModel(config)), tokenizer)


@layout("encoders", longest=600)
def xlm_roberta_xl(folder: Path) -> None:
    tokenizer = vocabularies.xlmr()
    config = XLMRobertaXLConfig(vocab_size=len(tokenizer), max_position_embeddings=514, **_plain())
    sentence(folder, wild(XLMRobertaXLModel(config)), tokenizer, limit=512)


@layout("encoders", longest=600, padded="its network takes no attention function")
def longformer(folder: Path) -> None:
    tokenizer = vocabularies.roberta()
    config = LongformerConfig(vocab_size=len(tokenizer), max_position_embeddings=514,
                              attention_window=[16, 16], type_vocab_size=1, pad_token_id=1,
                              **_plain())  # fmt: skip
    sentence(folder, wild(LongformerModel(config)), tokenizer, limit=512)
