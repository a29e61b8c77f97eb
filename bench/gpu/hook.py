"""The service with a word in a text that loses the device, for `bench/gpu/lost.py` alone.

On a GPU a token's id beyond the vocabulary does it, which a kernel asserts against: from then on
every CUDA call of the process fails. On a CPU the embedder says that it did.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from flask import Flask

import embedders
from config import ModelSettings, ModelSpec, load_config
from embedders.base import DeviceBroken, Embedder, Encoded, Gone, Input, Item, Prompt, Truncate
from factory import create_worker
from observability.logs import configure

WORD = "lose-the-device"
BEYOND = 10_000_000  # no model has so many tokens


def build(spec: ModelSpec, settings: ModelSettings) -> Embedder:
    """Load the model, and have it obey the word. A load that finds the file loses the device."""
    marker = Path(os.environ["LOSE_WHILE_LOADING"])
    embedder = embedders.build(spec, settings)
    cuda = embedder.facts.device.startswith("cuda")
    if marker.exists():
        marker.unlink()
        if not cuda:
            raise DeviceBroken("lost, in a rehearsal")
        table = torch.ones(2, 2, device=embedder.facts.device)
        torch.nn.functional.embedding(torch.tensor([BEYOND], device=table.device), table)
        torch.cuda.synchronize()
    prepare, encode = embedder.prepare, embedder.encode

    def prepared(inputs: Sequence[Input], prompt: Prompt, truncate: Truncate) -> list[Item]:
        items = prepare(inputs, prompt, truncate)
        return [
            replace(item, payload=[BEYOND] * item.tokens) if WORD in str(text) else item
            for text, item in zip(inputs, items, strict=True)
        ]

    def encoded(
        items: Sequence[Item], deadline: float | None = None, gone: Gone | None = None
    ) -> Encoded:
        if not cuda and any(BEYOND in item.payload for item in items):
            raise DeviceBroken("lost, in a rehearsal")
        return encode(items, deadline, gone)

    embedder.prepare, embedder.encode = prepared, encoded  # type: ignore[method-assign]
    return embedder


def __getattr__(name: str) -> Flask:
    """Build `app` when gunicorn asks for it, so that the part may import the word."""
    if name != "app":
        raise AttributeError(name)
    config = load_config()
    configure(config.log_level, config.log_format)
    app: Flask = globals().setdefault("app", create_worker(config, build=build))
    return app
