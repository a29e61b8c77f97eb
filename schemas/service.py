"""The JSON of the service itself: its errors, models, health and metrics."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from config.models import ProviderState
from schemas.base import Query, doc, optional


class ErrorReply(TypedDict):
    """Every error of our own routes."""

    error: Annotated[str, doc("What is wrong, what is valid, and what to do.")]
    error_type: Annotated[str, doc("The kind of error, for programs.")]
    request_id: Annotated[str | None, doc("The request's id in the log.")]
    param: NotRequired[Annotated[str, doc("The field at fault, if it is one.")]]


class OpenAIError(TypedDict):
    """An error, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class UnionErrorReply(TypedDict):
    """Every error of `/v1`, `/v2` and `/embeddings`: each service's SDK finds what it reads."""

    error: OpenAIError
    message: str
    detail: str
    code: Annotated[int, doc("The status.")]
    type: str


class ModelProviderReply(TypedDict):
    """Where a remote model runs."""

    name: Annotated[str, doc("The provider, as `/providers` lists it.")]
    state: Annotated[
        ProviderState,
        doc(
            "`no_key`: it needs one; `unchecked`: not called with this key yet; `reachable` or "
            "`failing`: as the last call went; `key_wrong`: the provider refused the key, and no "
            "call has succeeded since; `open`: not called for a while, after failures in a row."
        ),
    ]


class ModelReply(TypedDict):
    """One model; what only loading shows is null until then."""

    id: str
    object: Literal["model"]
    model_id: str
    model_name: str
    aliases: Annotated[list[str], doc("Other names it answers to.")]
    type: str
    kind: Annotated[
        str | None,
        doc("`sentence_transformer`, `sparse`, `multi_vector`, `reranker` or `classifier`."),
    ]
    outputs: Annotated[
        list[str], doc("What it gives: `dense`, `sparse`, `multi_vector`, or `score` of a pair.")
    ]
    labels: Annotated[list[str], doc("The names of its scores.")]
    status: Annotated[
        str,
        doc("`ready`, `loading`, `unavailable`, or `unloaded`: the next request for it loads it."),
    ]
    reason: str | None
    provider: Annotated[
        ModelProviderReply | None,
        doc("Of a remote model: its provider, as all workers' calls have shown."),
    ]
    replicas: list[dict[str, Any]] | None
    dimension: int | None
    embedding_dimension: int | None
    max_seq_length: int | None
    max_input_length: int | None
    normalize: bool | None
    device: str | None
    dtype: str | None
    backend: str | None
    small_passes: Annotated[
        list[dict[str, Any]],
        doc(
            "What runs passes of up to `most_tokens`, where it was measured to be faster: the "
            "`backend`, and on how many `cores`."
        ),
    ]
    pooling: str | None
    notes: Annotated[
        list[str], doc("For admins: what was assumed about the model, and what runs it.")
    ]
    prompts: dict[str, str] | None
    revision: str | None
    fingerprint: str | None
    memory_bytes: Annotated[int | None, doc("What its weights take while it is loaded.")]
    batch_size: int | None
    max_client_batch_size: int
    version: str


class CohereModelReply(TypedDict):
    """One model, as Cohere's clients read it."""

    name: str
    endpoints: Annotated[list[str], doc("`embed` or `rerank`; none until it was loaded.")]
    finetuned: bool
    context_length: int | None


class InfoReply(ModelReply):
    """The default model, also with TEI's names."""

    model_sha: str | None
    model_dtype: str | None
    served_model_name: str
    model_type: Annotated[
        dict[Literal["embedding", "reranker", "classifier"], dict[str, Any]],
        doc("One key: what the model is; with its `pooling`, or its `id2label` and `label2id`."),
    ]
    max_concurrent_requests: int
    max_batch_tokens: int | None
    max_batch_requests: int | None
    auto_truncate: bool
    tokenization_workers: int
    sha: str | None
    docker_label: str | None


class ModelsReply(TypedDict):
    """All configured models."""

    object: Literal["list"]
    default: str
    data: list[ModelReply]
    models: Annotated[list[CohereModelReply], doc("The same models, for Cohere's clients.")]


class IndexReply(TypedDict):
    """The service, its version and its models."""

    service: str
    status: str
    version: str
    available_models: list[str]


class ModelStateReply(TypedDict):
    """The state of one model."""

    status: str
    reason: str | None


class HealthReply(TypedDict):
    """Whether the service is healthy, and the state of its models."""

    status: Literal["healthy", "loading", "unhealthy"]
    reason: str | None
    model: str
    device: str | None
    embedding_dimension: int | None
    version: str
    sqlite: Annotated[str, doc("The SQLite that keeps collections in files.")]
    degraded: Annotated[str | None, doc("What does not work although requests are served.")]
    models: dict[str, ModelStateReply]


class LiveReply(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class ReadyReply(TypedDict):
    """Whether the service takes requests; if not, at what stage it is."""

    status: Literal["ready", "not ready"]
    stage: NotRequired[str]
    reason: NotRequired[str | None]


class SumsReply(TypedDict):
    """The most wanted sums, all since the start."""

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


class TimelineQuery(Query):
    """Query string of `GET /metrics/history`."""

    model: str | None = optional("One of `models`, for numbers of it alone.")
    lane: Literal["interactive", "bulk"] | None = optional("For numbers of one lane alone.")
    since: FiniteFloat | None = optional("Only what is later, in seconds since 1970.")


Column = Annotated[list[float | None], doc("A number for each time; null where there was none.")]


class TimelineColumns(TypedDict):
    """What was measured. Rates are a second, times are seconds, shares 0 to 1."""

    requests: Annotated[Column, doc("Requests answered; with a model or a lane, those to it.")]
    client_errors: Annotated[Column, doc("Answers of 400 to 499, of the whole service.")]
    server_errors: Annotated[Column, doc("Answers of 500 to 599, of the whole service.")]
    p50: Annotated[Column, doc("Half of the requests were answered within this time.")]
    p95: Annotated[Column, doc("95 of 100 were.")]
    p99: Annotated[Column, doc("99 of 100 were.")]
    wait_p50: Annotated[Column, doc("Half of the requests waited so long for their first pass.")]
    wait_p99: Annotated[Column, doc("99 of 100 did at most.")]
    texts: Annotated[Column, doc("Inputs that went through a model, of both lanes.")]
    tokens: Annotated[Column, doc("Their tokens.")]
    fill: Annotated[Column, doc("How full passes were of the largest allowed one.")]
    cache_hits: Annotated[Column, doc("Share of the cache's vectors that were there.")]
    queue_interactive: Annotated[Column, doc("Inputs that wait in the interactive lane.")]
    queue_bulk: Annotated[Column, doc("Inputs that wait in the bulk lane.")]
    memory: Annotated[Column, doc("Bytes of the workers and the model processes.")]
    cores: Annotated[Column, doc("Cores that they keep busy.")]


class GpuColumns(TypedDict):
    """One GPU."""

    busy: Annotated[Column, doc("Share of the time it was busy.")]
    memory_used: Annotated[Column, doc("Bytes in use, by all of its programs.")]
    memory: Annotated[Column, doc("Bytes it has.")]


class TimelineReply(TypedDict):
    """The last hour: `columns` and those of each GPU have a number for each of `times`."""

    every_s: Annotated[float, doc("Seconds between two readings.")]
    models: Annotated[list[str], doc("The models that anything is known of, as metrics name them.")]
    times: Annotated[list[float], doc("When each was read, in seconds since 1970.")]
    columns: TimelineColumns
    gpus: Annotated[dict[str, GpuColumns], doc("By number.")]


class DescriptionReply(TypedDict):
    """An OpenAPI document."""

    openapi: str
    info: dict[str, Any]
    tags: list[dict[str, str]]
    paths: dict[str, Any]
    components: dict[str, Any]
