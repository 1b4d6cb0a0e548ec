"""An application with a page, its static files, and the guard before them."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

from mmpoison.errors import InputError
from mmpoison.pages.guard import MAX_BODY, Guard

SHARED = Path(__file__).parent / "static"


def create_app(
    title: str, static: Path, *, host: str = "127.0.0.1", max_body: int = MAX_BODY
) -> FastAPI:
    """An application whose page is `index.html` of a folder; routes are added by the caller.

    The folder's files are under `/static/`, those that all pages share (`base.css`) under `/shared/`. An `InputError`
    that leaves a route is answered with 400 and its one line, as `{"error": ...}`.

    Args:
        title: Of the application.
        static: A folder of this package, never one of the user's.
        host: The address that it will listen on, for the guard.
        max_body: The largest request in bytes.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, host=host, max_body=max_body)
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.mount("/shared", StaticFiles(directory=SHARED), name="shared")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(static / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    @app.exception_handler(InputError)
    def refuse(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    return app
