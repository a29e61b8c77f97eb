"""Every worker tells the same of a provider, whichever of them called it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest

from embedders.host_notes import HostNotes
from embedders.providers import Providers
from embedders.retry import Host, KeyRefused, ProviderBusy, ProviderError
from tests.providers.conftest import loopback

HOST = "api.example"


class Worker:
    """A worker of a service, which shares a folder and the stored keys with the others."""

    def __init__(self, keys: dict[str, str], folder: Path) -> None:
        self.providers = Providers(loopback(), keys.get, folder)
        self.host: Host = self.providers.host("openai", HOST)[0]

    def call(self, exc: Exception | None = None) -> None:
        """Call the host, which answers well or fails."""

        def work() -> None:
            if exc is not None:
                raise exc

        self.host.call(work, 0, time.monotonic() + 60, Event())

    def told(self) -> dict[str, object]:
        """What `GET /providers` says, which looks at the key first."""
        self.providers.key("openai")
        return self.providers.get("openai").status()


@pytest.fixture
def keys() -> dict[str, str]:
    return {"openai": "sk-first"}


@pytest.fixture
def two(keys: dict[str, str], tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    workers = Worker(keys, tmp_path), Worker(keys, tmp_path)
    yield workers
    for worker in workers:
        worker.providers.close()


def states(two: tuple[Worker, Worker]) -> object:
    """The state, which is the same from both, as is all else that is told."""
    one, other = (worker.told() for worker in two)
    assert one == other
    return one["state"]


@pytest.mark.fault("Providers")
def test_what_one_worker_finds_all_tell(two: tuple[Worker, Worker]) -> None:
    """One of several workers calls a provider -> each of them tells how that went."""
    one, other = two
    assert states(two) == "unchecked" and one.told()["last_used"] is None
    one.call()
    assert states(two) == "reachable" and other.told()["last_used"] is not None
    with pytest.raises(KeyRefused):
        other.call(KeyRefused("refused"))
    assert states(two) == "key_wrong" and one.told()["problem"] == "refused"
    with pytest.raises(ProviderError):
        one.call(ProviderError("answered 500"))
    assert states(two) == "key_wrong", "a failure says nothing for the key"
    other.call()
    assert states(two) == "reachable" and one.told()["problem"] is None


def test_another_key_begins_anew_in_every_worker(
    two: tuple[Worker, Worker], keys: dict[str, str], tmp_path: Path
) -> None:
    one, other = two
    with pytest.raises(KeyRefused):
        one.call(KeyRefused("refused"))
    keys["openai"] = "sk-second"
    assert other.told()["state"] == "unchecked" and one.told()["state"] == "unchecked"
    one.call()
    assert states(two) == "reachable"
    keys["openai"] = "sk-third"
    one.providers.key("openai")
    one.call()
    assert states(two) == "reachable", "who learns of the key later drops nothing"
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert written and b"sk-" not in written, "no key is in the file"


def test_a_breaker_that_is_open_is_told_by_all_and_closed_by_any(
    two: tuple[Worker, Worker],
) -> None:
    one, other = two
    while one.host.breaker.state == "closed":
        with pytest.raises(ProviderError):
            one.call(ProviderError("answered 500"))
    assert states(two) == "open" and other.told()["breaker"] == {HOST: "open"}
    with pytest.raises(ProviderError):
        other.call(ProviderError("answered 500"))
    assert states(two) == "open", "one failure more closes nothing"
    with pytest.raises(ProviderBusy, match="no call is made"):
        one.call()
    other.call()
    assert states(two) == "reachable" and one.told()["breaker"] == {HOST: "closed"}
    one.call()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": "x", "new": 1}'])
def test_a_note_that_cannot_be_read_is_written_anew(tmp_path: Path, content: bytes) -> None:
    Host("openai", HOST, HostNotes(tmp_path, "h"))._learn("", {"tried": True}, None)
    [file] = tmp_path.iterdir()
    file.write_bytes(content)
    host = Host("openai", HOST, HostNotes(tmp_path, "h"))
    assert host.state == "unchecked"
    host.call(lambda: None, 0, time.monotonic() + 60, Event())
    assert Host("openai", HOST, HostNotes(tmp_path, "h")).state == "reachable"


@pytest.mark.parametrize("folder", [lambda tmp: None, lambda tmp: tmp / "none"])
def test_without_a_folder_each_process_knows_its_own_calls(
    tmp_path: Path, folder: Callable[[Path], Path | None]
) -> None:
    host, other = (Host("openai", HOST, HostNotes(folder(tmp_path), "h")) for _ in range(2))
    host.call(lambda: None, 0, time.monotonic() + 60, Event())
    assert (host.state, other.state) == ("reachable", "unchecked")
