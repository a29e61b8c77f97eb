"""What a dtype costs in search quality: nDCG@10 on real text, `python -m bench.quality`.

A labelled set of the Python packages on this machine: a query is the first line of a function's or
class's docstring, and the one right answer is what it stands before: the rest of the docstring, or
where that is short the code. Each dtype embeds all of it through the engine and searches by cosine.
"""

import argparse
import ast
import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.corpus import SEED, files
from bench.engine import make_engine
from engine import EmbedRequest, Engine

COUNT = 2500  # queries, and as many texts to find
WORDS = 4  # of a query, at least
LEAST, MOST = 80, 600  # characters of a text; about 20 to 150 tokens
TOP = 10
AT_ONCE = 64
DTYPES = ("float32", "bfloat16", "int8")
SAMPLES = 2000  # of the queries, drawn again for the interval
Floats = NDArray[np.float64]


def pairs(count: int) -> list[tuple[str, str]]:
    """Return queries and their texts, seeded; no query and no text is there twice."""
    every = list(_pairs())
    random.Random(SEED).shuffle(every)
    queries = {query.lower(): (query, text) for query, text in every}
    texts = {text: (query, text) for query, text in queries.values()}
    return list(texts.values())[:count]


def _pairs() -> Iterator[tuple[str, str]]:
    for path in files():
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                first, _, rest = (ast.get_docstring(node) or "").partition("\n")
                query, text = first.strip(), " ".join(rest.split())
                if len(text) < LEAST and isinstance(node, ast.FunctionDef):
                    text = " ".join("\n".join(map(ast.unparse, node.body[1:])).split())
                if len(query.split()) >= WORDS and len(text) >= LEAST:
                    yield query, text[:MOST]


def gains(dtype: str, found: Sequence[tuple[str, str]]) -> Floats:
    """Return each query's nDCG@10 in a dtype: 1 / log2(1 + rank) of its text, 0 below the tenth."""
    engine = make_engine(dtype)
    queries, texts = (_embedded(engine, [pair[side] for pair in found]) for side in (0, 1))
    scores = queries @ texts.T
    ranks = 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)
    return np.where(ranks <= TOP, 1 / np.log2(1 + ranks), 0.0)


def _embedded(engine: Engine, texts: list[str]) -> NDArray[np.float32]:
    parts = [texts[at : at + AT_ONCE] for at in range(0, len(texts), AT_ONCE)]
    return np.concatenate([engine.embed(EmbedRequest(part)).vectors for part in parts])


def loss(of: Floats, to: Floats) -> tuple[float, float, float]:
    """Return how much less the mean of `of` is than of `to`, in %, and its 95 % interval."""
    rng = np.random.default_rng(SEED)
    rows = rng.integers(0, len(of), (SAMPLES, len(of)))
    many = 100 * (1 - of[rows].mean(axis=1) / to[rows].mean(axis=1))
    low, high = np.quantile(many, (0.025, 0.975))
    return float(100 * (1 - of.mean() / to.mean())), float(low), float(high)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    found = pairs(parser.parse_args().count)
    print(f"{len(found)} queries, {len(found)} texts\n")
    print("| dtype | nDCG@10 | first | less than bfloat16 (95 % of samples) |\n|---|---|---|---|")
    measured = {dtype: gains(dtype, found) for dtype in DTYPES}
    for dtype, each in measured.items():
        less, low, high = loss(each, measured["bfloat16"])
        print(
            f"| {dtype} | {each.mean():.4f} | {(each == 1).mean():.4f} | "
            f"{less:.2f} % ({low:.2f} to {high:.2f}) |"
        )


if __name__ == "__main__":
    main()
