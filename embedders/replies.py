"""Reads what a provider's status and headers mean. Its words are never passed on."""

import email.utils
import math
import time
from collections.abc import Mapping

import orjson

from embedders.http_client import Answer
from errors import BadRequest, ModelUnavailable, ProviderBusy, ProviderError


class Refusal(ProviderError):
    """The provider answered, and refused this request; `http` is its status."""

    def __init__(self, message: str, http: int) -> None:
        super().__init__(message, permanent=True)
        self.http = http


class KeyRefused(ModelUnavailable):
    """The provider answered, and takes no request with this key."""


def raise_for_status(name: str, answer: Answer, *, keyed: bool) -> None:
    """Raise what a status other than 200 means to our caller."""
    status = answer.status
    if status == 200:
        return
    said = f"{name} answered {status}"
    if status in (401, 403):
        mend = (
            f"its key is refused; POST /providers/{name}/api-key sets another"
            if keyed
            else 'no key was sent, as the model\'s entry has a base_url and no "provider"'
        )
        raise KeyRefused(f"{said}: {mend}")
    if status in (400, 413, 422):
        raise BadRequest(
            f"{said}: an input is empty or too long for the model, or the model's configured "
            "name or dimensions are not known there",
            param="input",
        )
    after = retry_after(answer.headers)
    if status == 429:
        if error_code(answer.body) == "insufficient_quota":
            raise Refusal(f"{said}: the account's quota is used up", status)
        raise ProviderBusy(f"{said}: its rate limit is reached", retry_after_s=after)
    if status in (408, 409, 425) or status >= 500:
        raise ProviderError(said, retry_after_s=after)
    if 300 <= status < 400:
        raise Refusal(f"{said}: a redirect, and none is followed", status)
    if status == 404:
        raise Refusal(f"{said}: it has no such model or path", status)
    raise Refusal(said, status)


def error_code(body: bytes) -> str | None:
    """Return the machine-readable code of an OpenAI-style error body, to be compared only."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a provider asks to wait, if it does."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
