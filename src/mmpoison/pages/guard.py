"""Guards a local page: who may send a request, from where, how large, and what a browser may do with the answer."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """ASGI middleware for pages for one person on one machine.

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

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", max_body: int = MAX_BODY) -> None:
        self._app = app
        self._open = host not in LOOPBACK
        self._names = set(LOOPBACK) | ({host, socket.gethostname()} if self._open else set())
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with one line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # websockets are not used
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        answer = self._app if refusal is None else PlainTextResponse(refusal[1], refusal[0])
        await answer(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._knows(hosts[0]):
            return 400, "this server does not have that name"
        if method in ("GET", "HEAD"):
            return None
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        if (origin is not None and _netloc(origin) != hosts[0].lower()) or site not in (
            "same-origin",
            "none",
        ):
            return 403, "only the page itself may send this request"
        try:
            length = int(headers["content-length"])
        except (KeyError, ValueError):
            return 411, "the request has no content-length"
        if not 0 <= length <= self._max_body:
            return 413, f"the request is larger than {self._max_body} bytes"
        return None

    def _knows(self, host: str) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        return name in self._names or (self._open and _is_address(name))


def _hostname(host: str) -> str | None:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return None
    return None if parts.netloc != host or "@" in host else parts.hostname


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
