"""Every error this service raises on purpose, with its HTTP status and machine-readable code.

Knows nothing of HTTP libraries: a status is only a number here. `routes/errors.py` turns one of
these into a reply, in the shape the route's dialect asks for. The tree:

    ServiceError 500
    ├── BadRequest 400
    │   ├── UnknownModel                 no such model; the message lists those there are
    │   ├── InputTooLong                 over the model's tokens, and truncation was refused
    │   └── DimensionMismatch            a vector of another width than the collection's
    ├── Unauthorized 401
    ├── Forbidden 403
    ├── NotFound 404
    ├── MethodNotAllowed 405
    ├── Conflict 409                     exists already, another model's vectors, a swap is running
    ├── TooLarge 413
    ├── UnsupportedMedia 415
    ├── Invalid 422                      well-formed, but a value is not allowed
    ├── TooMany 429
    │   ├── QueueFull                    more work waits than the service will hold
    │   └── RateLimited
    ├── ProviderError 502                a remote provider failed; says whether retrying can help
    │   ├── ProviderBusy 503             takes no requests now: its limit, or it is given up
    │   └── ProviderTimeout 504
    ├── Unavailable 503
    │   ├── ModelUnavailable             the model could not be loaded; carries the reason
    │   ├── ModelLoading                 not ready yet
    │   ├── Busy                         a lock or a pool was not had in time
    │   └── Corrupt                      stored data is damaged; says where and how to repair
    ├── ClientGone 499                   the caller hung up; nobody reads this
    ├── DeadlineExceeded 504
    └── Full 507                         no space left to store
"""


class ServiceError(Exception):
    """An error with a status, a code and a message that is safe to show to the caller.

    `short` is what callers who are no admins are told instead, where the message may name hosts or
    files of the service.
    """

    status = 500
    code = "internal_error"
    short: str | None = None
    wait_s: float | None = None  # when to try again, where the one who raises it cannot tell

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        short: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.short = short or self.short
        self.param = param
        self.retry_after_s = self.wait_s if retry_after_s is None else retry_after_s


class BadRequest(ServiceError):
    """The request cannot be understood or asks for something that does not exist."""

    status = 400
    code = "bad_request"


class UnknownModel(BadRequest):
    """No configured model has this name."""

    code = "model_not_found"


class InputTooLong(BadRequest):
    """An input has more tokens than the model takes and the caller refused truncation."""

    code = "input_too_long"


class DimensionMismatch(BadRequest):
    """A vector's width differs from the collection's."""

    code = "dimension_mismatch"


class Unauthorized(ServiceError):
    """Nobody known is calling."""

    status = 401
    code = "unauthorized"


class Forbidden(ServiceError):
    """The caller is known but may not do this."""

    status = 403
    code = "forbidden"


class NotFound(ServiceError):
    """The thing named in the path does not exist."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ServiceError):
    """The path exists but not with this method."""

    status = 405
    code = "method_not_allowed"


class Conflict(ServiceError):
    """The request contradicts what is there."""

    status = 409
    code = "conflict"


class TooLarge(ServiceError):
    """The request is larger than the service accepts."""

    status = 413
    code = "too_large"


class UnsupportedMedia(ServiceError):
    """The body's type or encoding is not one the route reads."""

    status = 415
    code = "unsupported_media_type"


class Invalid(ServiceError):
    """The request is well-formed but a value in it is not allowed."""

    status = 422
    code = "invalid_input"


class TooMany(ServiceError):
    """The caller should slow down."""

    status = 429
    code = "too_many_requests"


class QueueFull(TooMany):
    """More work is waiting than the service is willing to hold."""

    code = "queue_full"


class RateLimited(TooMany):
    """The caller's own limit is used up."""

    code = "rate_limit_exceeded"


class ProviderError(ServiceError):
    """A remote provider failed. `permanent` says that trying again cannot help."""

    status = 502
    code = "provider_error"
    short = "the model's provider failed; the service's log says how"

    def __init__(
        self, message: str, *, permanent: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.permanent = permanent


class ProviderBusy(ProviderError):
    """A remote provider takes no requests now: over its limit, or given up for a while."""

    status = 503
    code = "provider_busy"
    short = "the model's provider takes no requests now; send this again later"


class ProviderTimeout(ProviderError):
    """A remote provider did not answer in time."""

    status = 504
    code = "provider_timeout"
    short = "the model's provider did not answer in time; send this again later"


class Unavailable(ServiceError):
    """The service, or a part that this request needs, cannot serve now."""

    status = 503
    code = "unavailable"
    wait_s: float | None = 5.0


class ModelUnavailable(Unavailable):
    """The model could not be loaded."""

    code = "model_unavailable"
    short = "the model cannot be used now; the service's log says why"
    wait_s = None  # it takes a change


class ModelLoading(Unavailable):
    """The model is still being loaded."""

    code = "model_loading"
    wait_s = 2.0


class Busy(Unavailable):
    """A lock or a pooled connection was not had in time."""

    code = "busy"
    wait_s = 1.0


class Corrupt(Unavailable):
    """Stored data is damaged."""

    code = "store_corrupt"
    short = "what is stored here is damaged; the service's log says how to repair it"
    wait_s = None  # it takes a repair


class ClientGone(ServiceError):
    """The caller hung up before its turn came; nobody reads this error."""

    status = 499
    code = "client_closed_request"


class DeadlineExceeded(ServiceError):
    """The request's own deadline passed before it was answered."""

    status = 504
    code = "deadline_exceeded"


class Full(ServiceError):
    """No space is left to store what was sent."""

    status = 507
    code = "insufficient_storage"
    wait_s = 30.0
