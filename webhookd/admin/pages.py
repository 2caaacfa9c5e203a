"""Pages for a browser: the dashboard and Swagger UI. Their files hold no data, and come from this process only."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
DASHBOARD_POLICY = f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
# Swagger UI sets style attributes; it runs no script but its own.
_DOCS = f"{DASHBOARD_POLICY}; style-src 'self' 'unsafe-inline'".replace("style-src 'self';", "", 1)
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")


class Page:
    """A file or a page that stays the same while the daemon runs, with an ETag of its bytes."""

    def __init__(self, body: bytes, content_type: str, policy: str = DASHBOARD_POLICY) -> None:
        self._body = body
        self._etag = hashlib.sha256(body).hexdigest()[:32]
        self._headers = {"Content-Type": content_type, "Content-Security-Policy": policy, "Cache-Control": "no-cache"}

    async def serve(self, request: web.Request) -> web.Response:
        """Answers with the page, or with 304 if the browser has the same page."""
        known = {tag.value for tag in request.if_none_match or ()}
        if self._etag in known:
            # Send the policy, too: a browser replaces the headers that it has kept by the headers of a 304.
            answer = web.Response(status=304, headers=self._headers)
        else:
            answer = web.Response(body=self._body, headers=self._headers)
        answer.etag = self._etag
        return answer


def _file(path: Path, policy: str = DASHBOARD_POLICY) -> Page:
    """Reads a file to serve."""
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    # Every text has a `charset`: webhookd's files and Swagger UI's are in UTF-8.
    text = guessed.startswith("text/") or guessed.endswith("javascript")
    return Page(path.read_bytes(), f"{guessed}; charset=utf-8" if text else guessed, policy)


def pages() -> dict[str, Page]:
    """Returns every file by its path."""
    found = {f"/assets/{path.name}": _file(path) for path in sorted((_FOLDER / "dashboard").iterdir()) if path.is_file()}
    found["/"] = found.pop("/assets/index.html")
    swagger = Path(str(files("aiohttp_apischema"))) / "swagger-ui"
    found |= {f"/docs/{name}": _file(swagger / name, _DOCS) for name in _SWAGGER}
    found["/docs"] = _file(_FOLDER / "docs" / "docs.html", _DOCS)
    found["/docs/docs.js"] = _file(_FOLDER / "docs" / "docs.js", _DOCS)
    return found
