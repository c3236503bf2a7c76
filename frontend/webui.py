"""The chat page at `/` and the dashboard at `/dashboard`, complete without the internet: the files of `webui_assets`.

Installed by `app` unless `--no-webui`. Everything is read once and served from memory. A page names the scripts and
styles that it loads by a folder called after their hash: they are kept by browsers for ever, and a page never meets
those of another version. Links are relative, so that they hold behind a proxy that strips a prefix.
Invariant: the files are the same for everybody and hold no secret, so they need no API key (`public_routes`); what the
scripts ask for does. A page loads nothing from elsewhere and makes no markup of text: its content security policy sees
to both.
"""

import gzip
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_PAGES = {"/": "chat.html", "/dashboard": "dashboard.html"}
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""What is served of the folder beside the pages."""
_FOLDER_IN_PAGES = b"webui/VERSION/"
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The last line has the browser refuse `innerHTML` and its kind altogether."""
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
"""Accept-Encoding that takes gzip, which `;q=0` refuses."""
_ASK_EACH_TIME = "no-cache"
_KEEP = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _StaticFile:
    content: bytes
    compressed: bytes
    media_type: str
    etag: str
    cache_control: str

    @classmethod
    def of(cls, content: bytes, media_type: str, cache_control: str) -> "_StaticFile":
        etag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'  # weak: of both codings
        return cls(content, gzip.compress(content, mtime=0), media_type, etag, cache_control)

    def answer(self, request: Request) -> Response:
        """The file, compressed where the client takes that; 304 where it has it already."""
        headers = {**_HEADERS, "cache-control": self.cache_control, "etag": self.etag}
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        content = self.content
        if _GZIP.search(request.headers.get("accept-encoding", "")):
            content = self.compressed
            headers["content-encoding"] = "gzip"
        return Response(content, headers=headers, media_type=self.media_type)


class WebUI:
    """Both pages and what they load, in memory."""

    def __init__(self) -> None:
        folder = files("frontend") / "webui_assets"
        assets = {
            item.name: item.read_bytes()
            for item in sorted(folder.iterdir(), key=lambda item: item.name)
            if _suffix(item.name) in _MEDIA_TYPES
        }
        version = hashlib.sha256(b"".join(b"%b\0%d\0%b" % (n.encode(), len(c), c) for n, c in assets.items()))
        prefix = f"webui/{version.hexdigest()[:12]}/"
        self._files = {
            f"/{prefix}{name}": _StaticFile.of(content, _MEDIA_TYPES[_suffix(name)], _KEEP)
            for name, content in assets.items()
        }
        for path, name in _PAGES.items():
            page = (folder / name).read_bytes().replace(_FOLDER_IN_PAGES, prefix.encode())
            self._files[path] = _StaticFile.of(page, "text/html", _ASK_EACH_TIME)

    @property
    def public_routes(self) -> frozenset[tuple[str, str]]:
        """Method and path of everything here."""
        return frozenset((method, path) for path in self._files for method in ("GET", "HEAD"))

    def add_to(self, app: FastAPI) -> None:
        """Add the pages, and one route for all that they load."""
        for path in (*_PAGES, "/webui/{version}/{name}"):
            app.add_api_route(path, self._serve, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)

    async def _serve(self, request: Request) -> Response:
        """The file of this path; raises HTTPException (404) where there is none."""
        file = self._files.get(get_route_path(request.scope))
        if file is None:
            raise HTTPException(404, "Not Found")
        return file.answer(request)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
