"""The JSON of every dialect, one file a subject: bytes in, frozen models out, and back.

The only place where vectors become lists or base64. Knows nothing of HTTP.
"""

from schemas.embed import EmbedBody, EmbedQuery, EmbedReply, Options, SingleQuery
from schemas.meaning import form_of, normalize_of, options_of, sent_as
from schemas.openai import OpenAIBody, OpenAIReply, dump_openai

__all__ = [
    "EmbedBody",
    "EmbedQuery",
    "EmbedReply",
    "OpenAIBody",
    "OpenAIReply",
    "Options",
    "SingleQuery",
    "dump_openai",
    "form_of",
    "normalize_of",
    "options_of",
    "sent_as",
]
