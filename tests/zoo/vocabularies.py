"""The zoo's tokenizers: the real kinds, each made once of a few articles, always the same.

A vocabulary is a list of pieces; each family puts its own special tokens where its models expect
them. The classes are those that transformers makes of the families' published files.
"""

import functools
import json
import math
from collections import Counter
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertTokenizer,
    BertTokenizer,
    DebertaV2Tokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    RobertaTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
    XLNetTokenizer,
)

from tests.zoo.words import corpus

SIZE = 700
Merges = list[tuple[str, str]]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}"
)


@functools.cache
def word_pieces(lower: bool = True) -> tuple[str, ...]:
    """Return letters, and the commonest beginnings and ends of words, as BERT has them.

    The trainer of tokenizers takes others each time where several are as common.
    """
    normal = normalizers.BertNormalizer(lowercase=lower)
    split = pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for text in corpus() for word, _ in split.pre_tokenize_str(normal.normalize_str(text))
    )
    letters = {letter for word in words for letter in word}
    parts: Counter[str] = Counter()
    for word, count in words.items():
        parts.update({word[:n]: count for n in range(2, 8)})
        parts.update({f"##{word[-n:]}": count for n in range(2, 5) if n < len(word)})
    common = sorted(parts, key=lambda part: (-parts[part], part))[: SIZE // 2]
    return tuple(sorted({*letters, *(f"##{letter}" for letter in letters), *common}))


@functools.cache
def byte_pairs() -> tuple[list[str], Merges]:
    """Train byte-level BPE, as GPT-2, RoBERTa and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, show_progress=False, initial_alphabet=sorted(alphabet)
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return _pieces_and_merges(tokenizer)


@functools.cache
def character_pairs() -> tuple[list[str], Merges]:
    """Train BPE over characters with bytes for what is rare, as Llama and Gemma have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False)
    tokenizer.train_from_iterator(corpus()[:-3], trainer)
    return _pieces_and_merges(tokenizer)


def _pieces_and_merges(tokenizer: Tokenizer) -> tuple[list[str], Merges]:
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return pieces, [tuple(merge) for merge in model["merges"]]


@functools.cache
def unigrams() -> tuple[tuple[str, float], ...]:
    """Train Unigram, as SentencePiece does for XLM-R, T5, ALBERT, DeBERTa and XLNet."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, show_progress=False, unk_token="<unk>")
    tokenizer.train_from_iterator(corpus(), trainer)
    rows = json.loads(tokenizer.to_str())["model"]["vocab"]
    read = "▁".join(["", *corpus()]).replace(" ", "▁")
    counts = {piece: read.count(piece) + 0.5 for piece, _ in rows if piece != "<unk>"}
    total = sum(counts.values())  # the trainer's own scores differ a little each time
    return tuple((piece, math.log(counts[piece] / total)) for piece in sorted(counts))


def _numbered(*groups: Any) -> dict[str, int]:
    pieces = dict.fromkeys(piece for group in groups for piece in group)
    return {piece: number for number, piece in enumerate(pieces)}


def _scored(*special: str) -> list[tuple[str, float]]:
    return [*((token, 0.0) for token in special), *unigrams()]


def bert(lower: bool = True, **options: Any) -> Any:
    """WordPiece, lower-cased unless said otherwise."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocab = _numbered(special, word_pieces(lower))
    return BertTokenizer(vocab=vocab, do_lower_case=lower, **options)


def mpnet() -> Any:
    """WordPiece with RoBERTa's special tokens."""
    return MPNetTokenizer(
        vocab=_numbered(("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"), word_pieces())
    )


def roberta(**options: Any) -> Any:
    """Byte-level BPE between <s> and </s>."""
    pieces, merges = byte_pairs()
    vocab = _numbered(("<s>", "<pad>", "</s>", "<unk>"), pieces, ("<mask>",))
    return RobertaTokenizer(vocab=vocab, merges=merges, **options)


def gpt2() -> Any:
    """Byte-level BPE without any token around a text."""
    pieces, merges = byte_pairs()
    vocab = _numbered(pieces, ("<|endoftext|>",))
    return GPT2Tokenizer(vocab=vocab, merges=merges, pad_token="<|endoftext|>")


def qwen(ends: bool, **options: Any) -> Any:
    """Byte-level BPE, with <|endoftext|> after each text where it `ends`."""
    pieces, merges = byte_pairs()
    vocab = _numbered(pieces, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, **options)
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    if ends:
        _frame(tokenizer, "$A <|endoftext|>", "<|endoftext|>")
    return tokenizer


def llama(template: str, **options: Any) -> Any:
    """BPE with bytes for what is rare, in the given template of <s> and </s>."""
    pieces, merges = character_pairs()
    vocab = _numbered(("<unk>", "<s>", "</s>"), (f"<0x{n:02X}>" for n in range(256)), pieces)
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, pad_token="</s>", **options)
    _frame(tokenizer, template, "<s>", "</s>")
    return tokenizer


def gemma(**options: Any) -> Any:
    """BPE with bytes for what is rare, between <bos> and <eos>."""
    pieces, merges = character_pairs()
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    vocab = _numbered(special, (f"<0x{n:02X}>" for n in range(256)), pieces)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, **options)
    _frame(tokenizer, "<bos> $A <eos>", "<bos>", "<eos>")
    return tokenizer


def euro(**options: Any) -> Any:
    """Byte-level BPE of Llama 3's kind, as EuroBERT and ModernBERT have it."""
    pieces, merges = byte_pairs()
    vocab = _numbered(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), pieces)
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False))
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]",
             "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **names, **options)
    _frame(tokenizer, "[CLS] $A [SEP]", "[CLS]", "[SEP]")
    return tokenizer


def xlmr(**options: Any) -> Any:
    """Unigram between <s> and </s>."""
    vocab = [*_scored("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, **options)


def t5() -> Any:
    """Unigram with </s> after each text."""
    return T5Tokenizer(vocab=_scored("<pad>", "</s>", "<unk>"), extra_ids=0)


def deberta() -> Any:
    """Unigram between [CLS] and [SEP]."""
    return DebertaV2Tokenizer(
        vocab=[*_scored("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]", 0.0)], unk_id=3
    )


def albert() -> Any:
    """Unigram in lower case between [CLS] and [SEP]."""
    return AlbertTokenizer(vocab=_scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def xlnet() -> Any:
    """Unigram with <sep> and <cls> after each text, padded on the left."""
    special = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
    return XLNetTokenizer(vocab=_scored(*special), padding_side="left")


def _frame(tokenizer: Any, template: str, *special: str) -> None:
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in special]
    used = [row for row in ids if row[0] in template]
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
