"""A local page: request guard, images, and the server."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from mmpoison.base.text import clean
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, thumbnail
from mmpoison.images.sources import image_stat

# -- Guards a local page: origin and size of requests, and what a browser may do with the response.


LOCAL = "127.0.0.1"

MAX_BODY = 64 * 1024

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOOPBACK = frozenset({LOCAL, "localhost", "::1"})


class Guard(BaseHTTPMiddleware):
    """Middleware for pages for one person on one machine.

    - The `Host` header must be a name of this server. That stops a site whose own name points to 127.0.0.1 (DNS
      rebinding).
    - A request that changes something must come from the page itself (`Origin`, `Sec-Fetch-Site`). Another site's form
      or script is refused. A program that is not a browser sends neither header and is allowed.
    - A body must state its length, at most `max_body`.
    - A policy in every answer makes the page load scripts, styles and images from this server only, forbids framing,
      and forbids caching unless the answer allows it.

    Args:
        app: The application to guard.
        host: The address that the server listens on. If it is not a loopback address, this machine's own name and every
            IP address are accepted as `Host`, since only names can be redirected.
        max_body: Bytes.
    """

    def __init__(self, app: ASGIApp, host: str = LOCAL, max_body: int = MAX_BODY) -> None:
        super().__init__(app)
        self._open = host not in LOOPBACK
        self._names = set(LOOPBACK) | ({host, socket.gethostname()} if self._open else set())
        self._max_body = max_body

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Forward a request, or refuse it with one line."""
        if (refusal := self._refusal(request.method, request.headers)) is None:
            answer = await call_next(request)
        else:
            answer = PlainTextResponse(refusal[1], refusal[0])
        answer.headers.update(HEADERS)
        answer.headers.setdefault("cache-control", "no-store")
        return answer

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            return 400, "this server does not have that name"
        if method in ("GET", "HEAD"):
            return None
        own = [f"{scheme}://{hosts[0].lower()}" for scheme in ("http", "https")]
        site = headers.get("sec-fetch-site", "same-origin")
        if headers.get("origin", own[0]).lower() not in own or site not in ("same-origin", "none"):
            return 403, "only the page itself may send this request"
        try:
            length = int(headers["content-length"])
        except (KeyError, ValueError):
            return 411, "the request has no content-length"
        if not 0 <= length <= self._max_body:
            return 413, f"the request is larger than {self._max_body} bytes"
        return None

    def _knows(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
            known = f"[{name}]" if ":" in name else name
            # urlsplit drops what it does not understand, such as the end of `[::1].evil`
            if host.lower() != (known if port is None else f"{known}:{port}"):
                return False
            return name in self._names or (self._open and bool(ipaddress.ip_address(name)))
        except ValueError:
            return False


# -- Serves one image of a data set: decoded and encoded again, never the file itself.


ONE_HOUR = "private, max-age=3600"

STATIC = Path(__file__).parent / "static"

PLACEHOLDER = STATIC / "unreadable.svg"
"""The drawing that replaces an image that cannot be read."""


def image_response(
    root: Path,
    image_id: str,
    side: int,
    *,
    if_none_match: str | None = None,
    placeholder: bool = False,
) -> Response:
    """Make the response for an image: a JPEG, or an error that does not reveal where the file is.

    A browser receives pixels that this process has decoded. No file of a data set is sent unchanged, so none can be a
    page, a script or a picture with code in it. The caller looks the image up by a number; no part of a request may
    become `image_id`.

    Args:
        root: Folder that image ids start from.
        image_id: The image, from the data set's own table.
        side: Longest side in pixels.
        if_none_match: The `If-None-Match` of the request; if the file has not changed, the answer is 304 without
            decoding.
        placeholder: Answer an unreadable image with a drawing that says so (status 200, since browsers report a 404 as
            an error of the page); otherwise with 404.
    """
    try:
        # changes whenever the file may have changed
        version = f"{image_stat(root, image_id)} {side}".encode("utf-8", "surrogateescape")
        tag = f'"{hashlib.sha256(version).hexdigest()[:32]}"'
        headers = {"cache-control": ONE_HOUR, "etag": tag}
        if if_none_match is not None and tag in if_none_match:
            return Response(status_code=304, headers=headers)
        content = thumbnail(root, image_id, side)
    except (InputError, OSError) as error:
        fault = error.fault if isinstance(error, BrokenImage) else "missing"
        if placeholder:
            headers = {"cache-control": "no-store", "x-image-fault": fault}
            return FileResponse(PLACEHOLDER, media_type="image/svg+xml", headers=headers)
        return PlainTextResponse(f"the image cannot be shown: {fault}", 404)
    return Response(content, media_type="image/jpeg", headers=headers)


def create_app(
    title: str,
    static: Path,
    *,
    text: Callable[[Any], Any] = clean,
    host: str = LOCAL,
    max_body: int = MAX_BODY,
) -> FastAPI:
    """Make an application whose page is `index.html` of a folder; the caller adds routes.

    The folder's files are served under `/static/`, files shared by all pages (`base.css`) under
    `/shared/`. An `InputError` from a route becomes status 400 with its one line, as
    `{"error": ...}`. A request with invalid arguments becomes status 422.

    Args:
        title: Title of the application.
        static: A folder of this package, never one of the user's.
        text: Makes text from the data harmless; applied to every JSON answer.
        host: The address that it will listen on, for the guard.
        max_body: Size limit of a request in bytes.
    """

    class _Json(JSONResponse):
        def render(self, content: Any) -> bytes:
            return super().render(text(content))

    app = FastAPI(
        title=title,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        default_response_class=_Json,
    )
    app.add_middleware(Guard, host=host, max_body=max_body)
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/shared", StaticFiles(directory=STATIC), name="shared")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(static / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    @app.exception_handler(InputError)
    def refuse(_: Request, error: InputError) -> JSONResponse:
        return _Json({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _Json({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    return app


# -- Serves an application on this machine until it is stopped.


def serve(
    app: FastAPI,
    *,
    host: str = LOCAL,
    port: int = 0,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until Ctrl-C, or until a route calls `app.state.stop()`.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        ready: Called with the page's address as soon as it can be opened.

    Raises:
        InputError: If the address cannot be used.
    """
    with _listen(host, port) as listener:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            # the application has no start-up code, and a server stopped at once would print a traceback
            lifespan="off",
        )
        server = uvicorn.Server(config)

        def stop() -> None:
            server.should_exit = True

        app.state.stop = stop
        if ready is not None:
            ready(_address(listener))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named, asyncio sets TCP_NODELAY; else an answer in two parts waits 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # a restarted server may use its port again at once
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {host} port {port} ({why}): is the page open already? Choose another --port "
            "(0: any free one; those below 1024 need administrator rights)"
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
