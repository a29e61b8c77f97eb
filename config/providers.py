"""Settings of the remote providers: their keys, their limits and where they may be reached."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, SecretStr

from config.fields import LONGEST_S, setting
from config.serving import CommaList, Network, networks


class ProviderSettings(BaseModel):
    """Remote providers: their keys, and how far the service goes to reach them."""

    openai_api_key: SecretStr | None = setting(None, "OPENAI_API_KEY", help="Key for OpenAI.")
    azure_api_key: SecretStr | None = setting(
        None, "AZURE_OPENAI_API_KEY", help="Key for OpenAI models at Azure."
    )
    cohere_api_key: SecretStr | None = setting(
        None, "COHERE_API_KEY", "CO_API_KEY", help="Key for Cohere."
    )
    provider_timeout_s: float = setting(
        60,
        "PROVIDER_TIMEOUT",
        gt=0,
        le=LONGEST_S,
        help="Seconds one request to a provider may take, retries included; then it is a 504.",
    )
    provider_parallel: int = setting(
        8,
        "PROVIDER_PARALLEL",
        ge=1,
        le=64,
        help="Most parts of one large request that are on their way at once, 1 to 64.",
    )
    provider_connections: int = setting(
        64,
        "PROVIDER_CONNECTIONS",
        ge=1,
        le=1024,
        help="Most calls to one provider's host at once, 1 to 1024.",
    )
    provider_max_reply_bytes: int = setting(
        128 * 1024 * 1024,
        "PROVIDER_MAX_REPLY_BYTES",
        ge=1024,
        help="Largest reply that is read from a provider, in bytes.",
    )
    provider_http_hosts: CommaList = setting(
        (),
        "PROVIDER_HTTP_HOSTS",
        help="Comma list of hosts that a base_url may name with http: instead of https:.",
    )
    provider_networks: Annotated[tuple[Network, ...], BeforeValidator(networks)] = setting(
        (),
        "PROVIDER_NETWORKS",
        help="Comma list of private networks (10.0.0.0/8) in which providers may be; public "
        "addresses always may.",
    )
