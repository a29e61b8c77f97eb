"""The remote providers as the service sees them: keys, breakers, when each was last used.

`get_key` is asked at every request, so that a new key works at once. Owns no key itself: they come
from the environment here, or from the vault.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pydantic import SecretStr

from config import Config
from embedders.http_client import Door
from embedders.retry import Link, LinkState
from errors import ModelUnavailable, NotFound

GetKey = Callable[[str], str | None]

WORST_FIRST: tuple[LinkState, ...] = ("open", "failing", "well", "untried")

# Each provider with the environment's name for its key.
KEY_NAMES = {
    "openai": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "cohere": "COHERE_API_KEY",
    "huggingface": "HF_TOKEN",
}


def environment_keys(config: Config) -> GetKey:
    """Return a `get_key` that reads the process's settings."""
    keys: dict[str, SecretStr | None] = {
        "openai": config.openai_api_key,
        "azure": config.azure_api_key,
        "cohere": config.cohere_api_key,
        "huggingface": config.hf_token,
    }

    def get_key(provider: str) -> str | None:
        found = keys.get(provider)
        return found.get_secret_value() if found else None

    return get_key


@dataclass
class Provider:
    """One provider's state in this process."""

    name: str
    links: dict[str, Link] = field(default_factory=dict)  # by host

    @property
    def last_used(self) -> float | None:
        """The `time.time()` of the last good reply."""
        return max((link.last_used or 0 for link in list(self.links.values())), default=0) or None

    def status(self) -> dict[str, object]:
        """Return what an admin may be shown of it: JSON, and never a key."""
        links = dict(self.links)
        states = {link.state for link in links.values()}
        return {
            "provider": self.name,
            "last_used": self.last_used,
            "state": next((state for state in WORST_FIRST if state in states), "untried"),
            "problem": next((link.problem for link in links.values() if link.problem), None),
            "hosts": {
                host: {"state": link.state, "problem": link.problem} for host, link in links.items()
            },
            "breaker": {host: link.breaker.state for host, link in links.items()},
        }


class Providers:
    """Every provider, and the one door through which they are reached."""

    def __init__(self, config: Config, get_key: GetKey | None = None) -> None:
        self.config = config
        self.get_key = get_key or environment_keys(config)
        self.door = Door(
            networks=config.provider_networks,
            http_hosts=config.provider_http_hosts,
            max_reply_bytes=config.provider_max_reply_bytes,
            connections=config.provider_connections,
        )
        self._providers = {name: Provider(name) for name in KEY_NAMES}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._keys: dict[str, str | None] = {}  # as last seen

    def names(self) -> list[str]:
        """Return every provider's name: the built-in ones and those that models name."""
        return list(self._providers)

    def get(self, name: str) -> Provider:
        """Return one provider. Raises NotFound."""
        if name not in self._providers:
            raise NotFound(f"unknown provider; known: {', '.join(self._providers)}")
        return self._providers[name]

    def enrol(self, name: str, host: str) -> tuple[Link, ThreadPoolExecutor]:
        """Return what a provider's calls to a host go through, and the host's threads."""
        provider = self._providers.setdefault(name, Provider(name))
        link = provider.links.setdefault(host, Link(name, host))
        if host not in self._pools:
            size = self.config.provider_connections
            self._pools[host] = ThreadPoolExecutor(size, thread_name_prefix="provider")
        return link, self._pools[host]

    def close(self) -> None:
        """Close every connection; calls under way fail."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self.door.close()

    def key(self, name: str) -> str | None:
        """Return a provider's key, fit for a header. Raises ModelUnavailable, never with the key.

        None is for a model that needs none; `missing` tells what to do about one that does. With
        another key than before it is not known any more how the provider's hosts are.
        """
        key = self.get_key(name)
        if key != self._keys.setdefault(name, key):
            self._keys[name] = key
            for link in list(self.get(name).links.values()):
                link.forget()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelUnavailable(
                f"the key for {name} has characters that no key has; set it anew"
            )
        return key or None


def missing_key(name: str) -> str:
    """Say what is missing and the two ways to mend it."""
    variable = KEY_NAMES.get(name)
    first = f"set {variable} or " if variable else ""
    return f"no key for {name}: {first}POST /providers/{name}/api-key"
