"""The JSON of what the service tells of itself: its state, its models, its numbers, its errors.

Made by hand from plain values, as in `schemas.replies`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorReply(BaseModel):
    """Every error but those of `/v1`."""

    error: str = Field(description="What was wrong, what is valid, and what to do.")
    error_type: str = Field(description="The same for programs.")
    request_id: str | None = Field(description="Under which the log has the request.")
    param: str | None = Field(None, description="The field at fault, if it is one.")


class OpenAIError(BaseModel):
    """What an OpenAI client shows of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorReply(BaseModel):
    """Every error of `/v1`."""

    error: OpenAIError


class ModelReply(BaseModel):
    """One model; what only loading tells is null until then."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: Literal["model"]
    model_id: str
    model_name: str
    type: str
    status: str
    reason: str | None
    replicas: list[dict[str, Any]] | None
    dimension: int | None
    embedding_dimension: int | None
    max_seq_length: int | None
    max_input_length: int | None
    normalize: bool | None
    device: str | None
    dtype: str | None
    backend: str | None
    pooling: str | None
    notes: list[str] = Field(
        description="What an admin should know: what was assumed, what runs it. Others get none."
    )
    prompts: dict[str, str] | None
    revision: str | None
    fingerprint: str | None
    batch_size: int | None
    max_client_batch_size: int
    version: str


class ModelsReply(BaseModel):
    """Every configured model."""

    object: Literal["list"]
    default: str
    data: list[ModelReply]


class OpenAIModelReply(BaseModel):
    """One model, as OpenAI's clients know it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    prompts: list[str]


class OpenAIModelsReply(BaseModel):
    """The models that can be asked for."""

    object: Literal["list"]
    data: list[OpenAIModelReply]


class IndexReply(BaseModel):
    """The service, its version and its models."""

    service: str
    status: str
    version: str
    available_models: list[str]


class ModelStateReply(BaseModel):
    """A model's state."""

    status: str
    reason: str | None


class HealthReply(BaseModel):
    """Whether the service is well."""

    status: Literal["healthy", "loading", "unhealthy"]
    reason: str | None
    model: str
    device: str | None
    embedding_dimension: int | None
    version: str
    degraded: str | None = Field(description="What is missing although requests are served.")
    models: dict[str, ModelStateReply]


class LiveReply(BaseModel):
    """That the process answers."""

    status: Literal["alive"]


class ReadyReply(BaseModel):
    """Whether requests may be sent here."""

    status: Literal["ready", "not ready"]
    stage: str = ""
    reason: str | None = None


class SumsReply(BaseModel):
    """The sums that a person asks for first; all of them since the start."""

    requests_total: int
    errors_total: int
    average_request_ms: float
    texts_total: int
    tokens_total: int
    truncated_inputs_total: int
    queue_texts: int
    queue_tokens: int
    cache_hits_total: int
    memory_bytes: int
    cpu_seconds: float


class DescriptionReply(BaseModel):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
