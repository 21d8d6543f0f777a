"""``geventws.js``, a WebSocket for web pages that reconnects, and ways to serve it.

::

    app = js.serve(app)  # any WSGI application; Flask: app.wsgi_app = js.serve(app.wsgi_app)

Then a page imports it::

    import { ReconnectingWebSocket } from "/geventws/geventws.js";
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..server.configuration import application_options
from ..typing import Application, Environ, Headers, Keywords, StartResponse

__all__ = ["application", "path", "serve", "url"]

_FOLDER = Path(__file__).parent / "static"
_FILES = {name: (_FOLDER / name).read_bytes() for name in ("geventws.js", "geventws.classic.js")}
#: Part of the URLs that caches may keep forever, and the ETag of the others.
_VERSION = hashlib.sha256(b"".join(_FILES.values())).hexdigest()[:12]
_FOREVER = "public, max-age=31536000, immutable"
_METHODS = ("GET", "HEAD")


def path() -> Path:
    """Return the folder with ``geventws.js``, ``geventws.classic.js`` and ``geventws.d.ts``.

    Use it for servers and tools that have files of their own, such as nginx, Django's
    ``STATICFILES_DIRS`` or a bundler.
    """
    return _FOLDER


def url(name: str = "geventws.js", prefix: str = "/geventws") -> str:
    """Return a path with the version of the file, for the templates of pages.

    Browsers keep the file of such a path without asking again. They ask each time for the path
    without the version, ``/geventws/geventws.js``, and get a ``304`` if the file has not changed.

    :raises ValueError: if ``name`` is neither ``geventws.js`` nor ``geventws.classic.js``.
    """
    if name not in _FILES:
        raise ValueError(f"there is no file {name!r}, only {' and '.join(_FILES)}")
    return f"{prefix}/{_VERSION}/{name}"


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Serve the two files: a WSGI application to be mounted, as with Bottle's ``app.mount()``."""
    *version, name = environ.get("PATH_INFO", "").strip("/").split("/")
    content = _FILES.get(name)
    if content is None or len(version) > 1:
        return _respond(environ, start_response, "404 Not Found", [], b"There is no such file.\n")
    if environ["REQUEST_METHOD"] not in _METHODS:
        allow = [("Allow", ", ".join(_METHODS))]
        return _respond(environ, start_response, "405 Method Not Allowed", allow, b"")
    etag = f'"{_VERSION}"'
    headers = [
        # Another version in the path is that of a page from before an update.
        ("Cache-Control", _FOREVER if version == [_VERSION] else "no-cache"),
        ("ETag", etag),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if etag in environ.get("HTTP_IF_NONE_MATCH", ""):
        start_response("304 Not Modified", headers)
        return []
    headers.append(("Content-Type", "text/javascript; charset=utf-8"))
    return _respond(environ, start_response, "200 OK", headers, content)


class serve:  # noqa: N801 - used like a function
    """Middleware that serves the two files below ``prefix``, and passes on all other requests."""

    def __init__(self, app: Application, prefix: str = "/geventws") -> None:
        self.app = app
        self.prefix = prefix

    def geventws_options(self) -> Keywords:
        """Return the options of the application inside."""
        return application_options(self.app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path_info: str = environ.get("PATH_INFO", "")
        if not path_info.startswith(self.prefix + "/"):
            return self.app(environ, start_response)
        path_info = path_info.removeprefix(self.prefix)
        return application({**environ, "PATH_INFO": path_info}, start_response)


def _respond(
    environ: Environ, start_response: StartResponse, status: str, headers: Headers, body: bytes
) -> list[bytes]:
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
