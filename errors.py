"""Every error that this service raises on purpose, with its HTTP status and code.

`routes/errors.py` turns an error into a reply in the route's dialect. `code` is its kind, for
programs.
"""


class ServiceError(Exception):
    """An error with a status, a code and a message that callers may read.

    `index` is the input at fault, counted from 0, and `param` the field. A message never names the
    place itself: `str(error)` puts "input 3: " before it, and that is what a reply says. `short` is
    what callers other than admins read instead, where the message may name hosts or files.
    `retry_after_s` says when to try again; a class may have a default.
    """

    status, code = 500, "internal_error"
    short: str | None = None
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        index: int | None = None,
        retry_after_s: float | None = None,
        short: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.index = index
        self.short = short or self.short
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """Return the message, after the input at fault where there is one."""
        return self.message if self.index is None else f"input {self.index}: {self.message}"


class BadRequest(ServiceError):
    """The request cannot be understood, or asks for something that does not exist."""

    status, code = 400, "bad_request"


class UnknownModel(BadRequest):
    """No configured model has this name."""

    code = "model_not_found"


class WrongKind(BadRequest):
    """The model does not give what the request asks for, such as vectors of a reranker."""

    code = "wrong_kind"


class InputTooLong(BadRequest):
    """An input has more tokens than the model takes and the caller refused truncation."""

    code = "input_too_long"


class DimensionMismatch(BadRequest):
    """A vector's width differs from the collection's."""

    code = "dimension_mismatch"


class Unauthorized(ServiceError):
    """The caller is not known."""

    status, code = 401, "unauthorized"


class Forbidden(ServiceError):
    """The caller is known but may not do this."""

    status, code = 403, "forbidden"


class NotFound(ServiceError):
    """The thing named in the path does not exist."""

    status, code = 404, "not_found"


class MethodNotAllowed(ServiceError):
    """The path exists but not with this method."""

    status, code = 405, "method_not_allowed"


class Conflict(ServiceError):
    """The request contradicts the present state."""

    status, code = 409, "conflict"


class TooLarge(ServiceError):
    """The request is larger than the service accepts."""

    status, code = 413, "too_large"


class UnsupportedMedia(ServiceError):
    """The body's type or encoding is not one the route reads."""

    status, code = 415, "unsupported_media_type"


class Invalid(ServiceError):
    """The request is well-formed but a value in it is not allowed."""

    status, code = 422, "invalid_input"


class TooMany(ServiceError):
    """The caller should slow down."""

    status, code = 429, "too_many_requests"


class QueueFull(TooMany):
    """More work is waiting than the service is willing to hold."""

    code = "queue_full"


class RateLimited(TooMany):
    """The caller's own limit is used up."""

    code = "rate_limit_exceeded"


class NotFinite(ServiceError):
    """The model's result for an input is not a number."""


class ProviderError(ServiceError):
    """A remote provider failed. `permanent` says that trying again cannot help."""

    status, code = 502, "provider_error"
    short = "the model's provider failed; the service's log says how"

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.permanent = permanent


class ProviderBusy(ProviderError):
    """A remote provider takes no requests now: its rate limit is reached, or it fails."""

    status, code = 503, "provider_busy"
    short = "the model's provider takes no requests now; send this again later"


class ProviderTimeout(ProviderError):
    """A remote provider did not answer in time."""

    status, code = 504, "provider_timeout"
    short = "the model's provider did not answer in time; send this again later"


class Unavailable(ServiceError):
    """The service, or a part that this request needs, cannot serve now."""

    status, code = 503, "unavailable"
    retry_after_s: float | None = 5.0


class ModelUnavailable(Unavailable):
    """The model could not be loaded."""

    code = "model_unavailable"
    short = "the model cannot be used now; the service's log says why"
    retry_after_s = None  # only a change helps


class ModelAbsent(ModelUnavailable):
    """The model is not on this machine, and the hub cannot be reached: nothing is wrong with it."""


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"
    retry_after_s = 2.0


class NoRoom(Unavailable):
    """To load the model now, models that are in use would have to be unloaded."""

    code = "no_room"


class Busy(Unavailable):
    """A lock or a pooled connection did not become free in time."""

    code = "busy"
    retry_after_s = 1.0


class Corrupt(Unavailable):
    """Stored data is damaged."""

    code = "store_corrupt"
    short = "what is stored here is damaged; the service's log says how to repair it"
    retry_after_s = None  # only a repair helps


class ClientGone(ServiceError):
    """The caller hung up before its turn. Only the log shows this error."""

    status, code = 499, "client_closed_request"


class DeadlineExceeded(ServiceError):
    """The request's own deadline passed before it was answered."""

    status, code = 504, "deadline_exceeded"


class Full(ServiceError):
    """No space is left to store what was sent."""

    status, code = 507, "insufficient_storage"
    retry_after_s = 30.0
