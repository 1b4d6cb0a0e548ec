"""Serves an application on this machine until it is stopped."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from mmpoison.errors import InputError

LOCAL = "127.0.0.1"


def serve(
    app: FastAPI,
    *,
    host: str = LOCAL,
    port: int = 0,
    ready: Callable[[str], None] | None = None,
) -> bool:
    """Serve until Ctrl-C, or until a route calls `app.state.stop()`.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        ready: Called with the page's address as soon as it can be opened.

    Returns:
        Whether the application itself stopped the server; False after Ctrl-C.

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
        asked = False

        def stop() -> None:
            nonlocal asked
            asked = True
            server.should_exit = True

        app.state.stop = stop
        if ready is not None:
            ready(_address(listener))
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return False
        return asked


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
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            why = "is in use: is the page open already? Choose another --port (0: any free one)"
        elif isinstance(error, OSError) and error.errno == errno.EACCES:
            why = "needs administrator rights: choose a --port above 1023 (0: any free one)"
        else:
            why = f"cannot be listened on ({getattr(error, 'strerror', None) or error})"
        raise InputError(f"{host} port {port} {why}") from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
