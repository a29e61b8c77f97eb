"""The JSON of remote providers and their API keys."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr
from typing_extensions import TypedDict

from embedders.retry import HostState
from schemas.base import Strict, doc


class ProviderKeyBody(Strict):
    """Body of `POST /providers/{provider}/api-key`."""

    api_key: SecretStr = Field(
        min_length=1, max_length=4096, description="The provider's key; it is never shown again."
    )


class HostReply(TypedDict):
    """The state of one host of a provider, as all workers' calls have shown."""

    state: Annotated[
        HostState,
        doc(
            "`unchecked`: not called with this key yet; `reachable` or `failing`: as the last call "
            "went; `key_wrong`: the provider refused the key, and no call has succeeded since; "
            "`open`: not called for a while, after failures in a row."
        ),
    ]
    problem: Annotated[str | None, doc("Why the key is wrong, or why the last call failed.")]


class ProviderReply(TypedDict):
    """One provider."""

    provider: str
    last_used: Annotated[float | None, doc("Seconds since 1970.")]
    state: Annotated[HostState, doc("The worst state of its hosts.")]
    problem: Annotated[
        str | None,
        doc("Why a stored key is not used, why it is wrong, or why the last call failed."),
    ]
    hosts: dict[str, HostReply]
    breaker: Annotated[
        dict[str, str], doc("By host: closed, or open or half-open as any worker's is.")
    ]
    configured: Annotated[bool, doc("Whether there is a key to send.")]
    key_source: Literal["stored", "environment", "none"]
    last_four: Annotated[str | None, doc("The key's last characters, if it is long enough.")]


class ProvidersReply(TypedDict):
    """All providers."""

    providers: list[ProviderReply]


class TrialReply(TypedDict):
    """Reply of `POST /providers/{provider}/test`."""

    ok: bool
    provider: str
    model: str
    dimension: int
    ms: float
