"""Makes the web application of a local page: its page, its static files, its guard."""

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
    """Make an application whose page is `index.html` of a folder; the caller adds routes.

    The folder's files are served under `/static/`, files shared by all pages (`base.css`) under `/shared/`. An
    `InputError` from a route becomes status 400 with its one line, as `{"error": ...}`.

    Args:
        title: Title of the application.
        static: A folder of this package, never one of the user's.
        host: The address that it will listen on, for the guard.
        max_body: Size limit of a request in bytes.
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
