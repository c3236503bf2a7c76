"""`/docs` (Swagger UI) and `/redoc`, complete without the internet: pages and scripts lie in `docs_assets`.

Installed by `app` unless `--no-docs`. Links are relative, so that they hold behind a proxy that strips a prefix.
Invariant: a page loads nothing from elsewhere (its content security policy sees to it) and runs no inline script.
"""

import gzip
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_PAGES = {"/docs": "swagger.html", "/redoc": "redoc.html"}
_JAVASCRIPT = "text/javascript"
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": _JAVASCRIPT,
    "swagger-start.js": _JAVASCRIPT,
    "redoc.standalone.js": _JAVASCRIPT,
    "redoc-start.js": _JAVASCRIPT,
}
"""What is served, and as what; nothing else in the folder is."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def add_docs_pages(app: FastAPI) -> None:
    """Add both pages and what they load."""
    for path, page in _PAGES.items():
        app.add_api_route(path, _page_endpoint(page), methods=["GET"], include_in_schema=False, response_model=None)
    app.add_api_route("/docs/assets/{name}", _asset, methods=["GET"], include_in_schema=False, response_model=None)


def _page_endpoint(page: str) -> Callable[[], Awaitable[Response]]:
    content = (files("frontend") / "docs_assets" / page).read_bytes()

    async def endpoint() -> Response:
        return Response(content, headers=_HEADERS, media_type="text/html")

    return endpoint


async def _asset(request: Request) -> Response:
    """A file, compressed as it lies here where the client takes that; raises HTTPException (404) for other names."""
    name = request.path_params["name"]
    if name not in _ASSETS:
        raise HTTPException(404, "Not Found")
    folder = files("frontend") / "docs_assets"
    headers = {**_HEADERS, "cache-control": "max-age=86400"}
    compressed = folder / f"{name}.gz"
    if not compressed.is_file():
        return Response((folder / name).read_bytes(), headers=headers, media_type=_ASSETS[name])
    content = compressed.read_bytes()
    headers["vary"] = "accept-encoding"
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, headers=headers, media_type=_ASSETS[name])
