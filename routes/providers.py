"""Remote providers: which there are, how they are, and their keys. A key goes in and never out."""

import contextlib
from typing import Any

from context import services
from embedders import try_provider
from errors import ModelUnavailable
from routes.table import Reply, route
from schemas.providers import ProviderKeyBody, ProviderReply, ProvidersReply, TrialReply

TAG = "providers"
SECRET = {"Cache-Control": "no-store"}


@route("GET", "/providers", access="admin", reply=ProvidersReply, tag=TAG)
def list_providers() -> Reply:
    """List every provider with where its key comes from and how its hosts are."""
    names = services().providers.names()
    return Reply({"providers": [_describe(name) for name in names]}, headers=SECRET)


@route("POST", "/providers/<provider>/api-key", access="admin", body=ProviderKeyBody,
       reply=ProviderReply, errors=(400, 404, 409, 413, 415, 422, 503), tag=TAG)  # fmt: skip
def set_provider_key(provider: str, body: ProviderKeyBody) -> Reply:
    """Keep a provider's key, encrypted; every worker uses it from the next request on."""
    name = services().providers.get(provider).name
    services().vault.store(name, body.api_key.get_secret_value())
    return Reply(_describe(name), headers=SECRET)


@route("DELETE", "/providers/<provider>/api-key", access="admin", reply=ProviderReply,
       errors=(404, 503), tag=TAG)  # fmt: skip
def delete_provider_key(provider: str) -> Reply:
    """Forget a stored key; the environment's, if there is one, is used again."""
    name = services().providers.get(provider).name
    services().vault.remove(name)
    return Reply(_describe(name), headers=SECRET)


@route("POST", "/providers/<provider>/test", access="admin", reply=TrialReply,
       errors=(400, 404, 502, 503, 504), tag=TAG)  # fmt: skip
def try_provider_key(provider: str) -> dict[str, object]:
    """Try a provider's key with one tiny real call."""
    return try_provider(services().providers, provider)


def _describe(name: str) -> dict[str, Any]:
    with contextlib.suppress(ModelUnavailable):
        services().providers.key(name)  # of another key nothing is known yet
    key = services().vault.state(name)
    status = services().providers.get(name).status()
    return {
        **status,
        "configured": key.source != "none",
        "key_source": key.source,
        "last_four": key.last_four,
        "problem": key.problem or status["problem"],
    }
