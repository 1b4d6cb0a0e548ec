"""The search page's server: requests name images by number, never by path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from mmpoison._version import __version__
from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage
from mmpoison.pages.local_app import LOCAL, create_app, image_response
from mmpoison.pages.search.collection import Collection, DistinctCaptions
from mmpoison.pages.search.embedded import DEPTH
from mmpoison.pages.search.engine import (
    QUERY_LENGTH,
    SHOWN,
    UPLOAD_BYTES,
    Answer,
    Engine,
    PairFacts,
    ResultColumn,
)
from mmpoison.pages.search.library import Job, Library
from mmpoison.pairs.table import SPLITS
from mmpoison.reporting.text import visible

# -- Builds the page's JSON answers; control characters are removed from the data's text here.


def state_answer(library: Library) -> dict[str, Any]:
    """List models, data sets and jobs with their states."""
    return {
        "version": __version__,
        "most_shown": SHOWN,
        "depth": DEPTH,
        "models": [_named(name, library.model_job(name)) for name in library.model_names],
        "data": [
            {
                **_named(name, library.collection_job(name)),
                **_collection(library.collections.get(name)),
            }
            for name in library.collection_names
        ],
        "busy": [_job(job) for job in library.busy()],
    }


def images_answer(
    answer: Answer, collection: Collection, library: Library, part: str
) -> dict[str, Any]:
    """Build the answer to a search for images."""
    shown = {hit.item for column in answer.columns.values() for hit in column.hits}
    return {
        "notes": [visible(note) for note in library.notes(collection, part)],
        "models": _columns(answer, library),
        "images": {str(image): image_facts(collection, image) for image in sorted(shown)},
    }


def captions_answer(answer: Answer, collection: Collection, library: Library, part: str) -> Any:
    """Build the answer to a search for captions."""
    captions: dict[str, Any] = {}
    if answer.columns:
        found = library.captions(collection, part)
        shown = {hit.item for column in answer.columns.values() for hit in column.hits}
        captions = {str(row): _caption_facts(collection, found, row) for row in sorted(shown)}
    return {"notes": [], "models": _columns(answer, library), "captions": captions}


def image_facts(collection: Collection, image: int) -> dict[str, Any]:
    """Collect what a result card shows of an image."""
    label = collection.pairs.images.label(image)
    caption = collection.caption_of(image)
    return {
        "id": visible(str(collection.pairs.images.ids[image])),
        "label": None if label is None else visible(label),
        "caption": None if caption is None else visible(caption),
        "poison": collection.carries_poison(image),
    }


def pair_answer(
    collection: Collection, image: int, facts: list[PairFacts], fault: str, library: Library
) -> dict[str, Any]:
    """Collect everything about one image."""
    table = collection.pairs.images
    categories = () if table.categories is None else table.categories[image]
    linked = {
        other
        for fact in facts
        for other in (
            *fact.caption.misused_on,
            *([] if fact.caption.source is None else [fact.caption.source]),
        )
    }
    return {
        **image_facts(collection, image),
        "image": image,
        "data": visible(collection.name),
        "split": str(SPLITS[table.split_codes[image]]),
        "categories": [visible(str(name)) for name in categories or ()],
        # the page must not reveal where files are
        "fault": "the image file cannot be read" if fault else "",
        "has_manifest": collection.manifest is not None,
        "models": [_named(name, library.model_job(name)) for name in library.model_names],
        "captions": [
            {
                "text": visible(fact.caption.text),
                "poisoned": fact.caption.poisoned,
                "goal": None if fact.caption.goal is None else visible(fact.caption.goal),
                "source": fact.caption.source,
                "misused_on": list(fact.caption.misused_on),
                "distance": fact.distance,
            }
            for fact in facts
        ],
        "images": {str(other): image_facts(collection, other) for other in sorted(linked)},
    }


def _named(name: str, job: Job) -> dict[str, Any]:
    return {"name": visible(name), "state": job.state}


def _job(job: Job) -> dict[str, Any]:
    return {"what": visible(job.what), "state": job.state, "done": job.done, "total": job.total}


def _collection(collection: Collection | None) -> dict[str, Any]:
    if collection is None:
        return {"key": None}
    manifest = collection.manifest
    return {
        "key": collection.key,
        "images": len(collection.pairs.images),
        "pairs": len(collection.pairs),
        "parts": collection.parts,
        "classes": [visible(name) for name in collection.pairs.classes],
        "poisoned": None if manifest is None else len(manifest.pairs),
        "goals": [
            {
                "original": collection.pairs.images.class_code(goal.original),
                "target": collection.pairs.images.class_code(goal.target),
                "image": goal.image,
            }
            for goal in collection.goals
        ],
    }


def _columns(answer: Answer, library: Library) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = []
    for name in library.model_names:
        if (job := answer.waiting.get(name)) is not None:
            facts = {**_named(name, job), **_job(job), "message": visible(job.message)}
            if facts["state"] == "ready":
                facts["state"] = "working"  # it became ready after the search had passed it over
            columns.append(facts)
        else:
            columns.append({"name": visible(name), "state": "ready", **_column(answer, name)})
    return columns


def _column(answer: Answer, name: str) -> dict[str, Any]:
    column: ResultColumn = answer.columns[name]
    return {
        "size": column.size,
        "known": column.known,
        "best_target": column.best_target,
        "targets_shown": column.targets_shown,
        "new": column.new,
        "hits": [
            {
                "item": hit.item,
                "rank": hit.rank,
                "similarity": hit.similarity,
                "target": hit.target,
                "was": hit.was,
            }
            for hit in column.hits
        ],
    }


def _caption_facts(collection: Collection, captions: DistinctCaptions, row: int) -> dict[str, Any]:
    label = collection.pairs.images.label(int(captions.image[row]))
    return {
        "text": visible(str(captions.texts[row])),
        "image": int(captions.image[row]),
        "label": None if label is None else visible(label),
        "misused": bool(captions.misused[row]),
    }


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
        return JSONResponse(state_answer(library))

    @app.get("/api/search")
    def search(
        data: Key,
        part: Part,
        # more than the engine accepts, so that its own message is shown
        # and nothing at all, of which the engine says what to do
        q: Annotated[str, Query(max_length=2 * QUERY_LENGTH)] = "",
        shown: Shown = 12,
        target: Target = "",
    ) -> JSONResponse:
        collection = library.collection(data)
        kind, _, number = target.partition(":")
        framed = target if kind != "class" else f"class:{_class(collection, int(number))}"
        answer = engine.images_for(collection, part, q, shown=shown, target=framed)
        return JSONResponse(images_answer(answer, collection, library, part))

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
        return captions_answer(answer, collection, library, part)

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
        return JSONResponse(pair_answer(collection, image, facts, fault, library))

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
