"""The service with one layout as its models: in float32, and in bfloat16 where that is compared."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import Config
from context import KEY
from factory import create_app
from tests.conftest import write_models
from tests.zoo.library import PLAIN, Way

# Emulated, bfloat16 takes many times as long: then it is left to who asks for it.
NATIVE = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
HALVES = NATIVE or bool(os.environ.get("ZOO_LONG"))


@dataclass(frozen=True)
class Answer:
    """What one request was answered."""

    vectors: np.ndarray
    tokens: int
    cut: int


class Service:
    """The application on a folder, and a client of it."""

    def __init__(self, folder: Path, *dtypes: str) -> None:
        around = folder.parent
        entries = {dtype: {"model_name": str(folder), "dtype": dtype} for dtype in dtypes}
        given = {
            "model_config_file": write_models(around / "models.json", entries),
            "supported_models_file": around / "none", "device": "cpu", "cache": "none",
            "store_dir": around / "store", "data_dir": around / "data",
            "db_url": f"sqlite:///{around}/service.db", "model_cache_dir": around / "models",
        }  # fmt: skip
        self.app = create_app(Config.model_validate(given), wait=True)
        self.client = self.app.test_client()

    def state(self, model: str) -> dict[str, Any]:
        """Return what /models says of a model."""
        rows = self.client.get("/models").json["data"]
        return next(row for row in rows if row["id"] == model)

    def post(self, texts: Sequence[str], model: str, way: Way = PLAIN) -> Any:
        """Return the whole reply."""
        body = {"model": model, "input": list(texts), "encoding_format": "base64", **way.sent}
        return self.client.post("/v1/embeddings", json=body)

    def embed(self, texts: Sequence[str], model: str, way: Way = PLAIN) -> Answer:
        """Return the vectors of texts, in one request."""
        reply = self.post(texts, model, way)
        assert reply.status_code == 200, f"{model}, {way.name}: {reply.json}"
        data = [base64.b64decode(row["embedding"]) for row in reply.json["data"]]
        vectors = np.stack([np.frombuffer(row, "<f4") for row in data])
        cut = int(reply.headers["X-Truncated-Inputs"])
        return Answer(vectors, reply.json["usage"]["prompt_tokens"], cut)

    def close(self) -> None:
        """End the threads that the application has for itself. Its models go with it."""
        services = self.app.extensions[KEY]
        services.settings.stop()
        services.engine.registry.stop()
