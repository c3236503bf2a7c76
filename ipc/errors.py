"""Every error that crosses a border of this program, as one tree.

    FastInferenceError
    ├── ClientError                the caller's fault: HTTP 4xx, never retried by us
    │   ├── InvalidRequestError        a field is missing, malformed or out of range
    │   │   ├── ContextLengthError         the prompt (with max_tokens) exceeds the context
    │   │   └── UnsupportedParameterError  a known field that this server cannot honour
    │   ├── ModelNotFoundError         no model of that name is served
    │   └── QueueFullError             too many requests are waiting: try again later
    ├── ServerError                our fault: HTTP 5xx
    │   ├── EngineUnavailableError     the core is starting, draining or gone
    │   ├── RequestTimeoutError        this request ran longer than it may
    │   ├── RequestQuarantinedError    the core died with this request too often
    │   └── RequestFailedError         this request failed inside the core; others went on
    ├── ConfigError                wrong flags, files or model: one line on stderr, exit 1
    └── ProtocolError              bytes on the wire that do not follow `ipc.codec`

`code` is the stable string that clients match on; `param` names the offending field.
`frontend/errors.py` maps the tree to HTTP; a test fails on a class without a mapping.
"""


class FastInferenceError(Exception):
    """Base of all errors of this program."""

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class ClientError(FastInferenceError):
    """The caller's fault."""

    code = "invalid_request"


class InvalidRequestError(ClientError):
    """A field is missing, malformed or out of range."""

    code = "invalid_value"


class ContextLengthError(InvalidRequestError):
    """The prompt, or the prompt with `max_tokens`, exceeds the model's context."""

    code = "context_length_exceeded"


class UnsupportedParameterError(InvalidRequestError):
    """A known field with a value that this server cannot honour."""

    code = "unsupported_parameter"


class ModelNotFoundError(ClientError):
    """No model of that name is served."""

    code = "model_not_found"


class QueueFullError(ClientError):
    """The core's waiting queue is full."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerError(FastInferenceError):
    """Our fault."""


class EngineUnavailableError(ServerError):
    """The core is starting, draining or gone."""

    code = "engine_unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code=code)
        self.retry_after_s = retry_after_s


class RequestTimeoutError(ServerError):
    """This request had not ended when its time was over."""

    code = "timeout"


class RequestQuarantinedError(ServerError):
    """The core died more than once while it computed this request, so that it is not tried again."""

    code = "request_quarantined"


class RequestFailedError(ServerError):
    """This request failed inside the core; `code` says how (`nan_logits`, `step_failed`, …)."""


class ConfigError(FastInferenceError):
    """Wrong flags, files or model; shown as one line on stderr."""

    code = "config_error"


class ProtocolError(FastInferenceError):
    """Bytes that do not follow `ipc.codec`, or a message of another protocol version."""

    code = "protocol_error"
