"""What a body of `/v1/embeddings` asks for, in our own words.

Several of its fields mean the same, in the words of several services. Where two of them say
different things there is no honouring both, so that is a BadRequest which names them.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from embedders.base import Truncate, side_of
from errors import BadRequest
from schemas.embed import Options
from schemas.openai import Kind, OpenAIBody, shown
from schemas.packing import Dtype, Encoding, Form

Value = TypeVar("Value")

# The fields that mean the same, by the name under which the engine refuses a value.
SAME = {
    "dimensions": ("dimensions", "output_dimension"),
    "prompt_name": ("prompt_name",),
    "input_type": ("input_type", "task"),
    "normalize": ("normalize", "normalized", "use_activation"),
}
# Jina's one field for what others have two for.
KINDS: dict[Kind | None, tuple[Encoding | None, Dtype | None]] = {
    None: (None, None),
    "float": ("float", "float"),
    "base64": ("base64", "float"),
    "binary": (None, "binary"),
    "ubinary": (None, "ubinary"),
}


def options_of(body: OpenAIBody, default: Truncate) -> Options:
    """Return the options; `default` is what the service does with an input that is too long."""
    roles = _given(body, "input_type")
    prompts = {**_given(body, "prompt_name"), **roles}
    _agreed(body, {name: side_of(prompt) or prompt for name, prompt in prompts.items()})
    if body.prompt is not None and body.prompt_name is not None:
        raise BadRequest("prompt and prompt_name both choose a prompt; send one", param="prompt")
    return Options(
        dimensions=_agreed(body, _given(body, "dimensions")),
        truncate=_truncate(body, default),
        prompt_name=body.prompt_name,
        prompt=body.prompt,
        input_type=next(iter(roles.values()), None),
    )


def normalize_of(body: OpenAIBody) -> bool:
    """Return whether vectors are scaled to length 1, as OpenAI's are."""
    asked = _agreed(body, _given(body, "normalize"))
    return True if asked is None else asked


def form_of(body: OpenAIBody) -> Form:
    """Return how the vectors are written."""
    encoding, dtype = KINDS[body.embedding_type]
    form = Form(
        _agreed(body, {"encoding_format": body.encoding_format, "embedding_type": encoding})
        or "float",
        _agreed(body, {"output_dtype": body.output_dtype, "embedding_type": dtype}) or "float",
    )
    if form.dtype in ("int8", "uint8") and not normalize_of(body):
        field = next(iter(_given(body, "normalize")))
        raise BadRequest(
            f"output_dtype: {form.dtype} is made of vectors of length 1, and {field} is false; "
            "leave one of them out",
            param="output_dtype",
        )
    return form


def sent_as(body: OpenAIBody, param: str | None) -> str | None:
    """Return the field by which the caller sent what the engine refuses under its own name."""
    return next(iter(_given(body, param)), None)


def _truncate(body: OpenAIBody, default: Truncate) -> Truncate:
    """Whether something is cut, and if so on which side; the default decides what is not said."""
    word = body.truncate
    cuts = {
        "truncate": None if word is None else word not in (False, "error"),
        "truncation": body.truncation,
        "truncate_prompt_tokens": None if body.truncate_prompt_tokens is None else True,
    }
    sides: dict[str, Truncate | None] = {
        "truncate": None if isinstance(word, bool) or word == "error" else word,
        "truncation_side": body.truncation_side,
    }
    cut = _agreed(body, cuts)
    side: Truncate | None = _agreed(body, sides)
    if cut is False or (cut is None and default == "error"):
        return "error"
    return side or ("auto" if default == "error" else default)


def _given(body: OpenAIBody, name: str | None) -> dict[str, Any]:
    """Return what was sent under the names that mean the same."""
    values = {same: getattr(body, same) for same in SAME.get(name or "", ())}
    return {same: value for same, value in values.items() if value is not None}


def _agreed(body: OpenAIBody, meanings: Mapping[str, Value | None]) -> Value | None:
    """Return what all those fields mean that mean anything. Raises BadRequest if they differ."""
    meant = {name: value for name, value in meanings.items() if value is not None}
    if len(set(meant.values())) > 1:
        sent = " and ".join(f"{name} {shown(getattr(body, name))}" for name in meant)
        raise BadRequest(f"{sent} contradict each other; send one of them", param=next(iter(meant)))
    return next(iter(meant.values()), None)
