"""Pages for a browser: the dashboard and Swagger UI. Their files hold no data, and come from this process only."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib.resources import files
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_DASHBOARD = f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'"
# Swagger UI sets style attributes; it runs no script but its own.
_DOCS = f"{_DASHBOARD}; style-src 'self' 'unsafe-inline'".replace("style-src 'self';", "", 1)
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")


class File:
    """A file to serve, read from the disk once."""

    def __init__(self, path: Path, policy: str) -> None:
        self._body = path.read_bytes()
        self._etag = hashlib.sha256(self._body).hexdigest()[:32]
        guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self._headers = {
            # Every text has a `charset`: webhookd's files and Swagger UI's are in UTF-8.
            "Content-Type": f"{guessed}; charset=utf-8"
            if guessed.startswith("text/") or guessed.endswith("javascript")
            else guessed,
            "Content-Security-Policy": policy,
            "Cache-Control": "no-cache",
        }

    async def serve(self, request: web.Request) -> web.Response:
        """Answers with the file, or with 304 if the browser has the same file."""
        known = {tag.value for tag in request.if_none_match or ()}
        if self._etag in known:
            # Send the policy, too: a browser replaces the headers that it has kept by the headers of a 304.
            answer = web.Response(status=304, headers=self._headers)
        else:
            answer = web.Response(body=self._body, headers=self._headers)
        answer.etag = self._etag
        return answer


def pages() -> dict[str, File]:
    """Returns every file by its path."""
    found = {
        f"/assets/{path.name}": File(path, _DASHBOARD) for path in sorted((_FOLDER / "dashboard").iterdir()) if path.is_file()
    }
    found["/"] = found.pop("/assets/index.html")
    swagger = Path(str(files("aiohttp_apischema"))) / "swagger-ui"
    found |= {f"/docs/{name}": File(swagger / name, _DOCS) for name in _SWAGGER}
    found["/docs"] = File(_FOLDER / "docs" / "docs.html", _DOCS)
    found["/docs/docs.js"] = File(_FOLDER / "docs" / "docs.js", _DOCS)
    return found
