"""The search page's server: requests name images by number, never by path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage
from mmpoison.pages.image_response import image_response
from mmpoison.pages.local_app import create_app
from mmpoison.pages.search.collection import Collection
from mmpoison.pages.search.engine import QUERY_LENGTH, SHOWN, UPLOAD_BYTES, Engine
from mmpoison.pages.search.web import answers
from mmpoison.pages.serve import LOCAL
from mmpoison.reporting.text import visible

STATIC = Path(__file__).parent / "static"

SIDES = {"small": 192, "large": 768}
"""Longest sides in pixels of the pictures on the page."""

Key = Annotated[str, Query(max_length=40)]
Part = Annotated[str, Query(max_length=10)]
Shown = Annotated[int, Query(ge=1, le=SHOWN)]
Number = Annotated[int, Query(ge=0, le=2**31 - 1)]
Class = Annotated[int | None, Query(ge=0, le=2**31 - 1)]
Target = Annotated[str, Query(pattern=r"^((class|image):\d{1,9})?$")]


def search_app(engine: Engine, *, host: str = LOCAL) -> FastAPI:
    """Make the application of the search page.

    Args:
        engine: Answers queries; its library may still be loading.
        host: The address that it will listen on.
    """
    library = engine.library
    app = create_app("mmpoison search", STATIC, host=host, max_body=UPLOAD_BYTES)

    @app.exception_handler(InputError)
    def refuse(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": visible(str(error))}, 400)

    @app.exception_handler(RequestValidationError)
    def misread(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        what = visible(f"{first['loc'][-1]}: {first['msg']}")
        return JSONResponse({"error": what}, 422)

    @app.get("/pair")
    def pair_page() -> FileResponse:
        return FileResponse(STATIC / "pair.html", media_type="text/html; charset=utf-8")

    @app.get("/api/state")
    def state() -> JSONResponse:
        return JSONResponse(answers.state(library))

    @app.get("/api/search")
    def search(
        data: Key,
        part: Part,
        # more than the engine accepts, so that its own message is shown
        q: Annotated[str, Query(max_length=2 * QUERY_LENGTH)] = "",
        shown: Shown = 12,
        target: Target = "",
    ) -> JSONResponse:
        collection = library.collection(data)
        kind, _, number = target.partition(":")
        framed = target if kind != "class" else f"class:{_class(collection, int(number))}"
        answer = engine.images_for(collection, part, q, shown=shown, target=framed)
        return JSONResponse(answers.images_answer(answer, collection, library, part))

    @app.get("/api/captions")
    def captions_of_image(
        data: Key, part: Part, image: Number, shown: Shown = 12, original: Class = None
    ) -> JSONResponse:
        return JSONResponse(_captions(data, part, image, shown, original))

    @app.post("/api/captions")
    async def captions_of_upload(
        request: Request, data: Key, part: Part, shown: Shown = 12, original: Class = None
    ) -> JSONResponse:
        picture = await request.body()
        return JSONResponse(
            await run_in_threadpool(_captions, data, part, picture, shown, original)
        )

    def _captions(
        data: str, part: str, picture: int | bytes, shown: int, original: int | None
    ) -> Any:
        collection = library.collection(data)
        label = "" if original is None else _class(collection, original)
        try:
            answer = engine.captions_for(collection, part, picture, shown=shown, original=label)
        except BrokenImage as error:
            if isinstance(picture, bytes):
                raise
            # the page must not reveal where files are
            raise InputError(f"this image cannot be read: {error.fault}") from None
        return answers.captions_answer(answer, collection, library, part)

    @app.get("/api/suggestions")
    def suggestions(data: Key, part: Part, label: Class = None) -> JSONResponse:
        collection = library.collection(data)
        name = None if label is None else _class(collection, label)
        found = collection.suggestions(part, name)
        return JSONResponse({"queries": [visible(text) for text in found]})

    @app.get("/api/pair")
    def pair(data: Key, image: Number) -> JSONResponse:
        collection = library.collection(data)
        facts, fault = engine.pair_facts(collection, image)
        return JSONResponse(answers.pair_answer(collection, image, facts, fault, library))

    @app.get("/api/image")
    def image_of(
        data: Key,
        image: Number,
        side: Annotated[str, Query(pattern="^(small|large)$")] = "small",
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        pairs = library.collection(data).pairs
        image_id = pairs.images.ids[library.collection(data).index(image)]
        return image_response(
            pairs.root, image_id, SIDES[side], if_none_match=if_none_match, placeholder=True
        )

    return app


def _class(collection: Collection, number: int) -> str:
    """Return a class by number: the page shows its name without control characters, so the name itself is no key."""
    classes = collection.pairs.classes
    if number >= len(classes):
        raise InputError(f"class {number}: the data have {len(classes)} classes, counted from 0")
    return classes[number]
