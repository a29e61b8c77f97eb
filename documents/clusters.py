"""Groups of vectors that lie together, named by the words that their texts have and others lack."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from documents.neighbours import directions
from store.budget import UNBOUNDED, Budget

FEWEST = 20  # vectors that are grouped at all
MOST = 20  # groups
LOOKED_AT = 5000  # vectors, for whether there are as many different ones as groups
ROUNDS = 3  # in which each vector goes halfway to the mean of its neighbours
WORDS = 3  # of a name
OFTEN = 1.2  # a name's word is so many times as often in its group as in all
# Texts of a group that are read for its name, and characters of each that count.
READ, CHARACTERS = 400, 600
WORD = r"(?u)\b[^\W\d_]{3,}\b"


def group(
    rows: NDArray[np.float32], near: NDArray[np.uint32], budget: Budget = UNBOUNDED
) -> NDArray[np.uint8]:
    """Return the group of each unit vector (n, d), the largest group 0; all 0 if there are few.

    k-means of what is common to a vector and its neighbours `near` (n, k). Of 5,000 docstrings laid
    out by neighbours 0.63 of each one's 10 nearest are then in its group, of 16; 0.43 by the
    vectors themselves (2026-11-30).
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(rows)
    some = np.ascontiguousarray(rows[:LOOKED_AT])
    different = len(np.unique(some.view(f"V{some.itemsize * some.shape[1]}")))
    count = min(MOST, round(1.5 * n**0.28), different)
    if n < FEWEST or count < 2:
        return np.zeros(n, np.uint8)
    for _ in range(ROUNDS):
        mean = rows.copy()
        for column in near.T:
            budget.check()
            mean += rows[column] / len(near.T)
        rows = directions(mean)
    model = MiniBatchKMeans(count, batch_size=4096, n_init=1, max_iter=30, random_state=0)
    found = model.fit_predict(rows)
    sizes = np.bincount(found, minlength=count)
    rank = np.empty(count, np.uint8)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(count)
    groups: NDArray[np.uint8] = rank[found]
    return groups


def members(groups: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places of those whose texts name the groups: up to `READ` of each."""
    rng = np.random.default_rng(0)
    found = [np.flatnonzero(groups == each) for each in np.unique(groups)]
    chosen = [np.sort(rng.permutation(some)[:READ]) for some in found]
    return np.concatenate([np.empty(0, np.int64), *chosen])


def names(texts: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Return the name of each group of texts: its words by c-TF-IDF (after Grootendorst 2022).

    A word counts by the share of a group's texts that have it, and by how much larger that is than
    in the groups on average. A group without words of its own is named by its number.
    """
    count = max(groups, default=-1) + 1
    words, counts = _counted(texts, np.asarray(groups, np.int64), count)
    shares = counts / np.bincount(groups, minlength=count)[:, None].clip(1)
    usual = shares.sum(axis=0) / max(1, count) + 1e-12
    weights = shares * np.log(shares / usual + 1e-12).clip(0) * (shares > OFTEN * usual)
    found = []
    for number, row in enumerate(weights):
        best: list[str] = []
        for at in row.argsort()[::-1][: 8 * WORDS]:
            word = words[at]
            if row[at] > 0 and len(best) < WORDS and not any(_same(word, each) for each in best):
                best.append(word)
        found.append(" · ".join(best) or f"group {number + 1}")
    return found


def _counted(
    texts: Sequence[str], groups: NDArray[np.int64], count: int
) -> tuple[list[str], NDArray[Any]]:
    """Return words, and in how many texts of each group each is (groups, words)."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(stop_words="english", token_pattern=WORD, binary=True, min_df=2)
    try:
        found = counter.fit_transform(texts)
    except ValueError:  # no word is left
        return [], np.zeros((count, 0))
    sums = [np.asarray(found[groups == each].sum(axis=0)).ravel() for each in range(count)]
    counts = np.stack(sums)
    return counter.get_feature_names_out().tolist(), counts


def _same(word: str, other: str) -> bool:
    """Return whether one is the other with an ending, as a plural is."""
    short, long = sorted((word, other), key=len)
    return long.startswith(short[: max(4, len(short) - 1)]) and len(long) - len(short) <= 3
