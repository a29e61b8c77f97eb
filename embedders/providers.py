"""The remote providers: their keys, their hosts, and the one HTTP client for all of them.

`get_key` is called at every request, so that a new key works at once. It reads the environment, or
the keys that are kept in SQL.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from config import Config
from embedders.host_notes import HostNotes, mark_of
from embedders.http_client import SafeClient
from embedders.retry import Host, HostState
from errors import ModelUnavailable, NotFound

GetKey = Callable[[str], str | None]

WORST_FIRST: tuple[HostState, ...] = ("key_wrong", "open", "failing", "reachable", "unchecked")

# The environment variable and the setting of each provider's key.
KEYS = {
    "openai": ("OPENAI_API_KEY", "openai_api_key"),
    "azure": ("AZURE_OPENAI_API_KEY", "azure_api_key"),
    "cohere": ("COHERE_API_KEY", "cohere_api_key"),
    "huggingface": ("HF_TOKEN", "hf_token"),
}


def environment_keys(config: Config) -> GetKey:
    """Return a `get_key` that reads the settings of the process."""

    def get_key(provider: str) -> str | None:
        found: SecretStr | None = getattr(config, KEYS[provider][1]) if provider in KEYS else None
        return found.get_secret_value() if found else None

    return get_key


@dataclass
class Provider:
    """One provider's state."""

    name: str
    hosts: dict[str, Host] = field(default_factory=dict)

    def status(self) -> dict[str, object]:
        """Return what an admin may see, as JSON. It holds no key."""
        hosts = dict(self.hosts)
        states = {name: host.state for name, host in hosts.items()}
        problems = {name: host.problem for name, host in hosts.items()}
        return {
            "provider": self.name,
            "last_used": max((host.last_used or 0 for host in hosts.values()), default=0) or None,
            "state": next(
                (state for state in WORST_FIRST if state in states.values()), "unchecked"
            ),
            "problem": next(filter(None, problems.values()), None),
            "hosts": {name: {"state": states[name], "problem": problems[name]} for name in hosts},
            "breaker": {name: host.breaker_state for name, host in hosts.items()},
        }


class Providers:
    """Every provider, and the HTTP client that reaches them."""

    def __init__(
        self, config: Config, get_key: GetKey | None = None, notes: Path | None = None
    ) -> None:
        """`notes` is a folder by which the workers of a service know of each other's calls."""
        self.config = config
        self._notes = notes
        self.get_key = get_key or environment_keys(config)
        self.client = SafeClient(
            networks=config.provider_networks,
            http_hosts=config.provider_http_hosts,
            max_reply_bytes=config.provider_max_reply_bytes,
            connections=config.provider_connections,
        )
        self._providers = {name: Provider(name) for name in KEYS}
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._keys: dict[str, str | None] = {}  # as last read

    def names(self) -> list[str]:
        """Return the names of the built-in providers and of those that models name."""
        return list(self._providers)

    def get(self, name: str) -> Provider:
        """Return one provider. Raises NotFound."""
        if name not in self._providers:
            raise NotFound(f"unknown provider; known: {', '.join(self._providers)}")
        return self._providers[name]

    def host(self, provider: str, name: str) -> tuple[Host, ThreadPoolExecutor]:
        """Return a host of a provider and the threads that call it, made at the first use."""
        hosts = self._providers.setdefault(provider, Provider(provider)).hosts
        if name not in hosts:
            key = self._keys.setdefault(provider, self.get_key(provider))
            notes = HostNotes(self._notes, f"{provider}\n{name}")
            hosts.setdefault(name, Host(provider, name, notes, mark_of(key)))
        if name not in self._pools:
            size = self.config.provider_connections
            self._pools[name] = ThreadPoolExecutor(size, thread_name_prefix="provider")
        return hosts[name], self._pools[name]

    def close(self) -> None:
        """Close every connection. Calls in progress fail."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def key(self, name: str) -> str | None:
        """Return a provider's key, or None without one; another key resets the hosts' states.

        Raises ModelUnavailable, without the key, for one that does not fit into a header.
        """
        key = self.get_key(name)
        if key != self._keys.setdefault(name, key):
            self._keys[name] = key
            for host in list(self.get(name).hosts.values()):
                host.forget(mark_of(key))
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise ModelUnavailable(
                f"the key for {name} has characters that no key has; set it again"
            )
        return key or None


def missing_key(name: str) -> str:
    """Return the message for a provider without a key: the ways to set one."""
    first = f"set {KEYS[name][0]} or " if name in KEYS else ""
    return f"no key for {name}: {first}POST /providers/{name}/api-key"
