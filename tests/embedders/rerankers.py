"""Tiny rerankers with random weights, in folders as their real repositories lay them out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.zoo import vocabularies
from tests.zoo.layouts import SHAPE, bare, changed, wild
from tests.zoo.layouts_decoders import WIDE

PLAIN = {**SHAPE, "intermediate_size": 128}
IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
# Of two decoders; the others keep the 32,768 of their kind. The proof tries a text as long as the
# limit, which takes 8 s of CPU at 32,768 tokens and 0.3 s at this.
POSITIONS = 1024
# What sentence-transformers' documentation gives for pairs; a system message is an instruction.
FOR_PAIRS = (
    "<|im_start|>system\n{{ (messages | selectattr('role', 'eq', 'system') | map(attribute="
    "'content') | first | default('Find answers.')) }}<|im_end|>\n<|im_start|>user\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}"
    "\n<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') "
    "| first }}<|im_end|>\n<|im_start|>assistant\n"
)


def encoder(
    folder: Path, kind: str, tokenizer: Any, labels: int = 1, options: Any = None, **facts: Any
) -> None:
    """Write a network for scores of transformers."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), num_labels=labels, **{**PLAIN, **facts}
    )
    network = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    bare(folder, wild(network), tokenizer)
    changed(folder / "config.json", **(options or {}))


def ms_marco_minilm(folder: Path) -> None:
    """cross-encoder/ms-marco-MiniLM-L6-v2, of sentence-transformers 2: its scores stay raw."""
    options = {"sbert_ce_default_activation_function": IDENTITY}
    encoder(folder, "Bert", vocabularies.bert(), options=options)


def bge_reranker_v2_m3(folder: Path) -> None:
    """BAAI/bge-reranker-v2-m3: XLM-RoBERTa of transformers alone."""
    encoder(folder, "XLMRoberta", vocabularies.xlmr(), max_position_embeddings=514)


def gte_reranker_modernbert(folder: Path) -> None:
    """Alibaba-NLP/gte-reranker-modernbert-base: the mean of the tokens, and a prediction head."""
    own = {"activation_fn": SIGMOID, "version": "4.0.1"}
    special = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    encoder(
        folder, "ModernBert", pairs_of_euro(), options={"sentence_transformers": own},
        pad_token_id=0, classifier_pooling="mean", max_position_embeddings=512, **special,
    )  # fmt: skip


def ms_marco_electra(folder: Path) -> None:
    """cross-encoder/ms-marco-electra-base."""
    encoder(folder, "Electra", vocabularies.bert(), embedding_size=64)


def mxbai_rerank_v1(folder: Path) -> None:
    """mixedbread-ai/mxbai-rerank-base-v1: DeBERTa, whose attention has a bias of its own."""
    encoder(folder, "DebertaV2", vocabularies.deberta(), type_vocab_size=0,
            relative_attention=True, pos_att_type=["p2c", "c2p"])  # fmt: skip


def nli_roberta(folder: Path) -> None:
    """cross-encoder/nli-roberta-base: three classes."""
    names = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    ids = {name: int(i) for i, name in names.items()}
    encoder(folder, "Roberta", vocabularies.roberta(), labels=3,
            options={"id2label": names, "label2id": ids}, max_position_embeddings=514)  # fmt: skip


def qwen3_for_scores(folder: Path) -> None:
    """tomaarsen/Qwen3-Reranker-0.6B-seq-cls: a causal network with a head for one score."""
    tokenizer = vocabularies.qwen(ends=False, padding_side="left")
    facts = {**WIDE, "head_dim": 16, "pad_token_id": tokenizer.pad_token_id}
    encoder(folder, "Qwen3", tokenizer, max_position_embeddings=POSITIONS, **facts)


def qwen3_reranker(folder: Path) -> None:
    """Qwen/Qwen3-Reranker-0.6B: nothing in its files tells it from a model that chats."""
    causal(folder, "Qwen3", vocabularies.CHAT, head_dim=16, max_position_embeddings=POSITIONS)


def mxbai_rerank_v2(folder: Path) -> None:
    """mixedbread-ai/mxbai-rerank-base-v2."""
    causal(folder, "Qwen2", vocabularies.CHAT)


def causal_of_the_library(folder: Path) -> None:
    """A causal reranker as sentence-transformers 6 saves it, with a chat template for pairs."""
    from sentence_transformers import CrossEncoder

    causal(folder.with_suffix(".net"), "Qwen3", FOR_PAIRS, head_dim=16)
    CrossEncoder(str(folder.with_suffix(".net")), device="cpu").save_pretrained(str(folder))


def bert_of_the_library(folder: Path) -> None:
    """A cross-encoder as sentence-transformers 6 saves it, with prompts."""
    from sentence_transformers import CrossEncoder

    ms_marco_minilm(folder.with_suffix(".net"))
    model = CrossEncoder(str(folder.with_suffix(".net")), device="cpu",
                         prompts={"query": "query: ", "title": "title: "},
                         default_prompt_name="query")  # fmt: skip
    model.save_pretrained(str(folder))


def xlnet(folder: Path) -> None:
    """A cross-encoder whose tokenizer lays pairs out in a way of its own."""
    encoder(folder, "XLNet", vocabularies.xlnet(), d_model=64, n_layer=2, n_head=4, d_inner=128)


def causal(folder: Path, kind: str, template: str, **facts: Any) -> None:
    """Write a language model whose vocabulary has the answers."""
    import transformers

    tokenizer = vocabularies.qwen(ends=False, padding_side="left", chat_template=template)
    tokenizer.add_tokens(["yes", "no", "0", "1", "<think>", "</think>"])
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **WIDE, **facts)
    bare(folder, wild(getattr(transformers, f"{kind}ForCausalLM")(config)), tokenizer)


def pairs_of_euro() -> Any:
    """Byte-level BPE with ModernBERT's frame for pairs."""
    from tokenizers import processors

    tokenizer = vocabularies.euro()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


RERANKERS: dict[str, Callable[[Path], None]] = {
    "cross-encoder/ms-marco-MiniLM-L6-v2": ms_marco_minilm,
    "BAAI/bge-reranker-v2-m3": bge_reranker_v2_m3,
    "Alibaba-NLP/gte-reranker-modernbert-base": gte_reranker_modernbert,
    "cross-encoder/ms-marco-electra-base": ms_marco_electra,
    "mixedbread-ai/mxbai-rerank-base-v1": mxbai_rerank_v1,
    "cross-encoder/nli-roberta-base": nli_roberta,
    "tomaarsen/Qwen3-Reranker-0.6B-seq-cls": qwen3_for_scores,
    "Qwen/Qwen3-Reranker-0.6B": qwen3_reranker,
    "mixedbread-ai/mxbai-rerank-base-v2": mxbai_rerank_v2,
    "of-the-library/causal": causal_of_the_library,
    "of-the-library/bert": bert_of_the_library,
    "of-its-own/xlnet": xlnet,
}
