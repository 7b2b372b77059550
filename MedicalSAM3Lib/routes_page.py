"""The page at ``/``: the files under ``Resources/web``, and no other, under a strict policy."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.resources import ResourceError, resource

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Nothing comes from elsewhere, and nothing goes there. The viewer keeps its font in ``data:`` addresses."""

HEADERS = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY", "Cache-Control": "no-cache"}

GZIP = ".gz"
"""Files of this suffix are sent as what they hold, and the browser unpacks them."""

_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".css": "text/css"}


def page_router() -> APIRouter:
    """Routes for the files that are there now: a name that is not among them is never looked for on the disk."""
    router = APIRouter(include_in_schema=False)
    files = _files()

    @router.get("/")
    async def page() -> FileResponse:
        return _reply(files, "index.html")

    @router.get("/favicon.ico")
    async def icon() -> FileResponse:
        return _reply(files, "favicon.ico")

    @router.get("/web/{name:path}")
    async def file(name: str) -> FileResponse:
        return _reply(files, name)

    return router


def _files() -> dict[str, Path]:
    try:
        folder = resource("web")
    except ResourceError:
        return {}
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _reply(files: dict[str, Path], name: str) -> FileResponse:
    if name not in files:
        raise Refused(404, "page", "Expected a file of the page, there is none of that name; see /openapi.json.")
    path = files[name]
    encoding = {"Content-Encoding": "gzip"} if path.suffix == GZIP else {}
    kind = _TYPES.get(Path(path.name.removesuffix(GZIP)).suffix)
    return FileResponse(path, media_type=kind, headers=HEADERS | encoding)
