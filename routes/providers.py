"""Remote providers: their state, and their API keys, which are stored and never shown."""

import contextlib
from functools import partial
from typing import cast

from context import services
from embedders import try_provider
from errors import ModelUnavailable
from routes.table import Reply, Route
from schemas.providers import ProviderKeyBody, ProviderReply, ProvidersReply, TrialReply

SECRET = {"Cache-Control": "no-store"}
Admin = partial(Route, tag="providers", access="admin")


@Admin("GET", "/providers")
def list_providers() -> Reply[ProvidersReply]:
    """List every provider with the source of its key and the state of its hosts."""
    body: ProvidersReply = {"providers": [_describe(name) for name in services().providers.names()]}
    return Reply(body, headers=SECRET)


@Admin("POST", "/providers/<provider>/api-key", errors=(400, 404, 409, 413, 415, 422, 503))
def set_provider_key(provider: str, body: ProviderKeyBody) -> Reply[ProviderReply]:
    """Store a provider's key, encrypted; every worker uses it from the next request on."""
    name = services().providers.get(provider).name
    services().provider_keys.store(name, body.api_key.get_secret_value())
    return Reply(_describe(name), headers=SECRET)


@Admin("DELETE", "/providers/<provider>/api-key", errors=(404, 503))
def delete_provider_key(provider: str) -> Reply[ProviderReply]:
    """Delete a stored key; the key of the environment is used again, if there is one."""
    name = services().providers.get(provider).name
    services().provider_keys.remove(name)
    return Reply(_describe(name), headers=SECRET)


@Admin("POST", "/providers/<provider>/test", errors=(400, 404, 502, 503, 504))
def try_provider_key(provider: str) -> TrialReply:
    """Try a provider's key with one small call."""
    return cast(TrialReply, try_provider(services().providers, provider))


def _describe(name: str) -> ProviderReply:
    with contextlib.suppress(ModelUnavailable):
        services().providers.key(name)  # a new key starts with a new state
    key = services().provider_keys.state(name)
    status = cast(ProviderReply, services().providers.get(name).status())
    return {
        **status,
        "configured": key.source != "none",
        "key_source": key.source,
        "last_four": key.last_four,
        "problem": key.problem or status["problem"],
    }
