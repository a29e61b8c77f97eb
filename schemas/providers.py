"""The JSON of remote providers and their keys."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr

from schemas.strict import Strict


class ProviderKeyBody(Strict):
    """Body of `POST /providers/{provider}/api-key`."""

    api_key: SecretStr = Field(
        min_length=1, max_length=4096, description="The provider's key; never shown again."
    )


State = Literal["untried", "well", "failing", "open"]


class HostReply(BaseModel):
    """How one host of a provider is, in the worker that answers."""

    state: State = Field(
        description="Not called with this key yet; as the last call went; or left alone after "
        "failures in a row."
    )
    problem: str | None = Field(description="Why the last call failed.")


class ProviderReply(BaseModel):
    """One provider."""

    provider: str
    configured: bool = Field(description="Whether there is a key to send.")
    key_source: Literal["stored", "environment", "none"]
    last_four: str | None = Field(description="The key's last characters, if it is long enough.")
    state: State = Field(description="That of its host in the worst state.")
    problem: str | None = Field(
        description="Why a stored key is not used, or why the last call failed."
    )
    hosts: dict[str, HostReply]
    last_used: float | None = Field(description="Seconds since 1970, in the worker that answers.")
    breaker: dict[str, str] = Field(description="By host: closed, open or half-open.")


class ProvidersReply(BaseModel):
    """Every provider."""

    providers: list[ProviderReply]


class TrialReply(BaseModel):
    """Reply of `POST /providers/{provider}/test`."""

    ok: bool
    provider: str
    model: str
    dimension: int
    ms: float
