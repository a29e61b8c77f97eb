"""The JSON of remote providers and their keys."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ProviderKeyBody(BaseModel):
    """Body of `POST /providers/{provider}/api-key`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: SecretStr = Field(
        min_length=1, max_length=4096, description="The provider's key; never shown again."
    )


class ProviderReply(BaseModel):
    """One provider."""

    provider: str
    configured: bool = Field(description="Whether there is a key to send.")
    key_source: Literal["stored", "environment", "none"]
    last_four: str | None = Field(description="The key's last characters, if it is long enough.")
    problem: str | None = Field(description="Why a stored key is not used.")
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
