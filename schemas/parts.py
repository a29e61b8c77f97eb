"""Texts as services for texts and images take them: as an object, or as the parts of a message."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from errors import BadRequest

MEDIA = ("image", "video", "audio")
# What stands between the text parts of one input.
BETWEEN = "\n"


class TextPart(BaseModel):
    """A part of an input: its `text`. A part of another `type` than `text` is refused."""

    type: str = "text"
    text: str


class Parts(BaseModel):
    """An input of several parts, which are joined by line feeds."""

    content: list[TextPart] = Field(max_length=1000, fail_fast=True)


def text_of(value: Any, field: str) -> Any:
    """Return the text of `{"text": ...}`, or of `{"content": [..]}` whose parts are texts.

    Anything else is returned as it is, for the body's type to refuse. Raises BadRequest for images
    and other media: this service reads texts only.
    """
    if not isinstance(value, dict):
        return value
    if "content" not in value:
        _refuse_media(value, field)
        return value.get("text", value)
    content = value["content"]
    if isinstance(content, str):
        return content
    texts = list(_texts(content, field)) if isinstance(content, list) else []
    whole = texts and all(isinstance(text, str) for text in texts)
    return BETWEEN.join(texts) if whole else value


def no_images(field: str) -> BadRequest:
    """Return what is said of an input that is no text."""
    return BadRequest(
        f"{field}: this service is text only: images, videos and sounds are not read; send texts",
        param=field,
    )


def _texts(content: list[Any], field: str) -> Iterator[Any]:
    for part in content:
        if isinstance(part, dict):
            if part.get("type", "text") != "text":
                raise no_images(field)
            _refuse_media(part, field)
        yield part.get("text") if isinstance(part, dict) else part


def _refuse_media(value: dict[str, Any], field: str) -> None:
    """Raise BadRequest for an object that is of an image; one beside a text may be said of it."""
    given = [key for key, each in value.items() if each is not None]
    named = any(key in MEDIA for key in given)
    if named or ("text" not in given and any(key.startswith(MEDIA) for key in given)):
        raise no_images(field)
