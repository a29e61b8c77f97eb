"""A running service, as short commands ask it: its address, its key, one clear error."""

import contextlib
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

import requests
import typer
import urllib3

from tools.records import Stop

HERE = "http://localhost:8001"
TIMEOUT_S = (5.0, 60.0)  # to connect, and for the reply to go on
MAX_MESSAGE = 500  # characters of an error's message
# What reading the reply of an unknown server may raise.
UNREADABLE = (ValueError, LookupError, TypeError, OverflowError, RecursionError)
START = (
    ": start the service with `embedding-service serve`, or give its address with --url or in "
    "EMBEDDING_SERVICE_URL"
)

Url = Annotated[
    str, typer.Option("--url", envvar="EMBEDDING_SERVICE_URL", help="Address of the service.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="EMBEDDING_API_KEY", show_default=False,
        help="API key or token, if the service asks for one; others cannot see a variable.",
    ),
]  # fmt: skip


def checked_url(url: str) -> str:
    """Return an address without a slash at its end. Raises Stop if it is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        requests.Request("GET", url).prepare()
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None:
        shown = "" if "@" in url else f" {url}"  # it may hold a password
        raise Stop(
            f"--url{shown}: it needs http:// or https:// and a host, as in {HERE}; "
            "a key goes into EMBEDDING_API_KEY"
        )
    return url.rstrip("/")


def signed(key: str | None) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what signs a request with a key, or with none, whatever `~/.netrc` says."""

    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign


def session(key: str | None, parallel: int = 1) -> requests.Session:
    """Return a session whose requests carry the key. Raises Stop for what can be no key."""
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise Stop(
            "the key in --key or EMBEDDING_API_KEY has a blank, a line's end or another character "
            "that no key has"
        )
    made = requests.Session()
    made.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=parallel))
    made.auth = signed(key)
    return made


def error_of(reply: requests.Response) -> tuple[str, str, str | None]:
    """Return the message, the code and the field of an error reply, in either dialect.

    A proxy's error page has no code.
    """
    error: dict[str, Any] = {}
    with contextlib.suppress(*UNREADABLE):
        body = reply.json()
        error = body["error"]
        if not isinstance(error, dict):
            error = {"message": error, "code": body.get("error_type"), "param": body.get("param")}
    message = str(error.get("message") or reply.reason)[:MAX_MESSAGE]
    if reply.is_redirect:
        message = f"it is at {reply.headers['Location']}; give that address as --url"
    param = error.get("param")
    return message, str(error.get("code") or ""), None if param is None else str(param)


class Service:
    """The service at an address. Raises Stop for an address or a key that is none."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = checked_url(url)
        self._key = key
        self._session = session(key)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of the reply. Raises Stop for any other, with what to do."""
        try:
            reply = self._session.request(
                method, self.url + path, json=body, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.Timeout:
            raise Stop(f"{self.url} does not answer in {TIMEOUT_S[1]:.0f} s") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as exc:
            raise Stop(f"{self.url} cannot be reached ({type(exc).__name__}){START}") from None
        if not reply.ok or reply.is_redirect:
            raise Stop(self._refusal(reply))
        try:
            return reply.json()
        except ValueError:
            raise self.stranger() from None

    def stranger(self) -> Stop:
        """Return the Stop for a reply that is none of this service's."""
        return Stop(f"{self.url} does not answer as this service does; is it the address?")

    def _refusal(self, reply: requests.Response) -> str:
        message, code, _ = error_of(reply)
        if reply.status_code == 401 and self._key is None:
            return f"{self.url} asks for a key: give it with --key, or in EMBEDDING_API_KEY"
        if reply.status_code == 401:
            return f"{self.url} does not take this key: {message}"
        if not code and not reply.is_redirect:
            return f"{self.url} answered {reply.status_code}: {message}; is it the address?"
        return f"the service answered {reply.status_code}: {message}"
