"""Who makes a request: API keys, what each of them opens, and what a key changes about a request.

`ApiKeyMiddleware` stands before every route and lets nothing pass without a key but `PUBLIC_ROUTES` and the static
files of `webui.py`, compared with the path by which the router itself finds routes: an unknown route is protected as
well, and no other spelling of a public one is public. Where no keys are configured, everybody is `ANYBODY`. Endpoints
ask `caller_of` who calls; a route with `dependencies=[Depends(require_admin)]` is a control route, which opens to an
admin key alone.
Invariant: keys are compared as digests, all of them each time, and are written nowhere.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from frontend.errors import AdminKeyRequiredError, InvalidApiKeyError, error_response
from ipc.api_keys import key_id
from ipc.config import AccessConfig

PUBLIC_ROUTES = frozenset(
    {
        ("GET", "/health"),
        ("HEAD", "/health"),
        ("GET", "/health/live"),
        ("HEAD", "/health/live"),
        ("GET", "/ping"),
        ("HEAD", "/ping"),
        ("POST", "/ping"),
    }
)
"""What probes may ask without a key; they tell no more than how busy the server is."""

_SCOPE_KEY = "fast_inference.caller"
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that a request carries, or nobody in particular."""

    key_id: str = ""
    """Empty where no keys are configured."""
    is_admin: bool = False
    has_own_cache: bool = False
    """No other key finds the prefixes that this one left in the cache."""

    def flow(self, user: str) -> str:
        """The flow that shares the core: the key, which no client can make up; without keys the `user` of the body."""
        return self.key_id or user

    def cache_salt(self, cache_salt: str) -> str:
        """What separates prefixes in the cache: the salt of the body, below the key where caches are isolated."""
        return f"{self.key_id}:{cache_salt}" if self.has_own_cache else cache_salt


ANYBODY = Caller()


class ApiKeys:
    """The keys of this server."""

    def __init__(self, config: AccessConfig) -> None:
        self.are_required = bool(config.api_key)
        admins = set(config.admin_api_key)
        digests = dict.fromkeys((*config.api_key, *config.admin_api_key))
        self._callers = [
            (digest.encode(), Caller(key_id(digest), digest in admins, config.isolate_cache_by_key))
            for digest in digests
        ]

    def caller(self, headers: Headers) -> Caller | None:
        """Whose key the headers carry; None if it is missing or wrong where one is needed."""
        found = None
        for key in _presented_keys(headers):
            found = self._find(key) or found
        return found if found is not None or self.are_required else ANYBODY

    def _find(self, key: bytes) -> Caller | None:
        presented = b"sha256:" + hashlib.sha256(key).hexdigest().encode()
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, presented):
                found = caller  # and on to the others, so that the time tells nothing
        return found


class ApiKeyMiddleware:
    """Answers 401 to whatever comes without a key, before any of it is read."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: AccessConfig,
        public_routes: frozenset[tuple[str, str]] = PUBLIC_ROUTES,
    ) -> None:
        """`public_routes` are methods and paths, below the prefix of a proxy."""
        self.app = app
        self._public_routes = public_routes
        self._keys = ApiKeys(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        caller = self._keys.caller(headers)
        if caller is None and (scope.get("method"), get_route_path(scope)) in self._public_routes:
            caller = ANYBODY
        if caller is not None:
            scope[_SCOPE_KEY] = caller
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(_refusal(headers))(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def caller_of(request: Request) -> Caller:
    """Who makes this request."""
    caller = request.scope.get(_SCOPE_KEY, ANYBODY)
    assert isinstance(caller, Caller)
    return caller


def require_admin(request: Request) -> None:
    """A dependency of control routes; raises `AdminKeyRequiredError` for any other caller than an administrator."""
    if not caller_of(request).is_admin:
        raise AdminKeyRequiredError("This route needs a key that the server was started with as --admin-api-key.")


def _presented_keys(headers: Headers) -> Iterator[bytes]:
    """`Authorization: Bearer KEY` and `x-api-key: KEY`, as bytes, since a client may send any."""
    for value in headers.getlist("authorization"):
        if value[: len(_BEARER)].lower() == _BEARER:
            yield value[len(_BEARER) :].strip(" ").encode("latin-1")
    for value in headers.getlist("x-api-key"):
        yield value.encode("latin-1")


def _refusal(headers: Headers) -> InvalidApiKeyError:
    if any(True for _ in _presented_keys(headers)):
        return InvalidApiKeyError("Incorrect API key provided.")
    return InvalidApiKeyError("No API key provided: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.")
