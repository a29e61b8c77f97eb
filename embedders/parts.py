"""Cuts a pass into what is computed at a time: a share for each core, or texts of like length.

Both take the lengths of the pass's texts in tokens and return indices, the longest first.
"""

from collections.abc import Sequence

import numpy as np

# A packed pass is shared out between the cores, but in no smaller parts: each core reads all of the
# weights, which costs as much as 50 tokens with AMX and as 11 with AVX512-BF16 alone (MiniLM-L6
# bf16, one of 2 cores: 2.3 ms + 45 us a token, and 1.4 ms + 125 us).
SHARE_TOKENS = 48
# Attention grows with the square of a text: at this length it costs as much as all else.
ATTENTION_TOKENS = 700
MOST_WASTED_TOKENS = 40


def shares_of(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Cut a pass into parts of like cost, at most `most`, neighbours in length together."""
    order = _longest_first(lengths)
    tokens = np.array(lengths)[order]
    costs = np.cumsum(tokens * (1 + tokens / ATTENTION_TOKENS))
    parts = max(1, min(most, len(lengths), sum(lengths) // SHARE_TOKENS))
    ends = np.searchsorted(costs, costs[-1] * np.arange(1, parts) / parts) + 1
    shares = [part.tolist() for part in np.split(np.array(order), ends)]
    return [share for share in shares if share]


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Cut a pass into parts where padding texts to the longest would cost more than one part more.

    A part costs as much as 20 tokens. Lone texts of 9 and 64 tokens take 5.5 and 14.2 ms; passes
    of 1,000 tokens of docs 269, 264 and 256 ms with 10, 20 and 40 here (ONNX Runtime, Zen 3).
    """
    parts: list[list[int]] = []
    wasted = 0.0
    for i in _longest_first(lengths):
        if parts:
            wasted += (lengths[parts[-1][0]] ** 2 - lengths[i] ** 2) / ATTENTION_TOKENS
        if not parts or wasted > MOST_WASTED_TOKENS:
            parts.append([])
            wasted = 0.0
        parts[-1].append(i)
    return parts


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])
