"""Web pages of other origins (CORS): starlette's middleware with our settings, and its refusals in our envelope.

Installed by `app` before the API keys, because a browser asks for permission (OPTIONS) without a key; only where
origins are configured. `ipc/config.py` refuses '*' together with credentials.
"""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from frontend.errors import error_response
from ipc.config import AccessConfig
from ipc.errors import InvalidRequestError

EXPOSED_HEADERS = ("x-request-id", "x-ignored-params", "retry-after")
"""What a page may read of an answer besides the usual headers."""


class CrossOriginMiddleware(CORSMiddleware):
    """Answers preflights, and marks the answers that pages may read."""

    def __init__(self, app: ASGIApp, *, config: AccessConfig) -> None:
        super().__init__(
            app,
            allow_origins=config.allowed_origins,
            allow_credentials=config.allow_credentials,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Permission, or why not; a refusal carries none of the headers that would grant anything."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        refused = bytes(response.body).decode()
        return error_response(InvalidRequestError(f"{refused}.", code="cors_not_allowed"))
