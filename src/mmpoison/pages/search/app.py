"""The search page's server: requests name images by number, never by path."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage
from mmpoison.pages.local_app import LOCAL, STATIC, create_app, image_response
from mmpoison.pages.search.collection import Collection
from mmpoison.pages.search.engine import (
    QUERY_LENGTH,
    SHOWN,
    UPLOAD_BYTES,
    Answer,
    Engine,
    PairFacts,
)
from mmpoison.pages.search.library import Job, Library
from mmpoison.pairs.table import SPLITS

# -- Builds the page's JSON answers; the application removes control characters from the data's text.


def state_answer(library: Library) -> dict[str, Any]:
    """List models, data sets and jobs with their states."""
    return {
        "models": _model_states(library),
        "data": [
            {
                "name": name,
                "state": library.jobs["data", name].state,
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
    return {
        "notes": library.notes(collection, part),
        "models": _columns(answer, library),
        "images": {str(image): image_facts(collection, image) for image in _shown(answer)},
    }


def captions_answer(
    answer: Answer, collection: Collection, library: Library, part: str
) -> dict[str, Any]:
    """Build the answer to a search for captions."""
    captions: dict[str, Any] = {}
    for row in _shown(answer):
        found = library.captions[collection.name, part]
        image = int(found.image[row])
        captions[str(row)] = {
            "text": found.texts[row],
            "image": image,
            "label": collection.pairs.images.label(image),
            "misused": bool(found.misused[row]),
        }
    return {"notes": [], "models": _columns(answer, library), "captions": captions}


def image_facts(collection: Collection, image: int) -> dict[str, Any]:
    """Collect what a result card shows about an image."""
    return {
        "id": collection.pairs.images.ids[image],
        "label": collection.pairs.images.label(image),
        "caption": collection.caption_of(image),
        "poison": collection.carries_poison(image),
    }


def pair_answer(
    collection: Collection, image: int, facts: list[PairFacts], fault: str, library: Library
) -> dict[str, Any]:
    """Collect everything about one image."""
    table = collection.pairs.images
    linked = {other for fact in facts for other in fact.caption.linked}
    return {
        **image_facts(collection, image),
        "image": image,
        "data": collection.name,
        "split": SPLITS[table.split_codes[image]],
        "categories": () if table.categories is None else table.categories[image],
        # the page must not reveal where files are
        "fault": "the image file cannot be read" if fault else "",
        "has_manifest": collection.manifest is not None,
        "models": _model_states(library),
        "captions": [
            {
                **asdict(fact.caption),
                "poisoned": fact.caption.poisoned,
                "distance": fact.distance,
            }
            for fact in facts
        ],
        "images": {str(n): image_facts(collection, n) for n in sorted(linked)},
    }


def _model_states(library: Library) -> list[dict[str, str]]:
    return [
        {"name": name, "state": library.jobs["model", name].state} for name in library.model_names
    ]


def _job(job: Job) -> dict[str, Any]:
    return {"what": job.what, "state": job.state, "done": job.done, "total": job.total}


def _collection(collection: Collection | None) -> dict[str, Any]:
    if collection is None:
        return {"key": None}
    class_code = collection.pairs.images.class_code
    return {
        "key": collection.key,
        "images": len(collection.pairs.images),
        "parts": collection.parts,
        "classes": collection.pairs.classes,
        "goals": [
            {
                "original": class_code(goal.original),
                "target": class_code(goal.target),
                "image": goal.image,
            }
            for goal in collection.goals
        ],
    }


def _columns(answer: Answer, library: Library) -> list[dict[str, Any]]:
    columns: list[dict[str, Any]] = []
    for name in library.model_names:
        if (job := answer.waiting.get(name)) is None:
            columns.append({"name": name, "state": "ready", **asdict(answer.columns[name])})
        else:
            facts = {"name": name, **_job(job), "message": job.message}
            if job.state == "ready":
                facts["state"] = "working"  # it became ready after the search skipped it
            columns.append(facts)
    return columns


def _shown(answer: Answer) -> list[int]:
    """List the items that any model shows."""
    return sorted({hit.item for column in answer.columns.values() for hit in column.hits})


PAGES = STATIC / "search"

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
    app = create_app("mmpoison search", PAGES, host=host, max_body=UPLOAD_BYTES)

    @app.get("/pair")
    def pair_page() -> FileResponse:
        return FileResponse(PAGES / "pair.html", media_type="text/html; charset=utf-8")

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return state_answer(library)

    @app.get("/api/search")
    def search(
        data: Key,
        part: Part,
        # accepts empty and too long queries, so that the engine's own message is shown
        q: Annotated[str, Query(max_length=2 * QUERY_LENGTH)] = "",
        shown: Shown = 12,
        target: Target = "",
    ) -> dict[str, Any]:
        collection = library.collection(data)
        kind, _, number = target.partition(":")
        framed = target if kind != "class" else f"class:{_class(collection, int(number))}"
        answer = engine.images_for(collection, part, q, shown=shown, target=framed)
        return images_answer(answer, collection, library, part)

    @app.get("/api/captions")
    def captions_of_image(
        data: Key, part: Part, image: Number, shown: Shown = 12, original: Class = None
    ) -> dict[str, Any]:
        try:
            return _captions(data, part, image, shown, original)
        except BrokenImage as error:
            # the page must not reveal where files are
            raise InputError(f"this image cannot be read: {error.fault}") from None

    @app.post("/api/captions")
    async def captions_of_upload(
        request: Request, data: Key, part: Part, shown: Shown = 12, original: Class = None
    ) -> dict[str, Any]:
        picture = await request.body()
        return await run_in_threadpool(_captions, data, part, picture, shown, original)

    def _captions(
        data: str, part: str, picture: int | bytes, shown: int, original: int | None
    ) -> dict[str, Any]:
        collection = library.collection(data)
        label = "" if original is None else _class(collection, original)
        answer = engine.captions_for(collection, part, picture, shown=shown, original=label)
        return captions_answer(answer, collection, library, part)

    @app.get("/api/suggestions")
    def suggestions(data: Key, part: Part, label: Class = None) -> dict[str, Any]:
        collection = library.collection(data)
        name = None if label is None else _class(collection, label)
        return {"queries": collection.suggestions(part, name)}

    @app.get("/api/pair")
    def pair(data: Key, image: Number) -> dict[str, Any]:
        collection = library.collection(data)
        facts, fault = engine.pair_facts(collection, image)
        return pair_answer(collection, image, facts, fault, library)

    @app.get("/api/image")
    def image_of(
        data: Key,
        image: Number,
        side: Annotated[str, Query(pattern="^(small|large)$")] = "small",
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        collection = library.collection(data)
        image_id = collection.pairs.images.ids[collection.index(image)]
        return image_response(
            collection.pairs.root,
            image_id,
            SIDES[side],
            if_none_match=if_none_match,
            placeholder=True,
        )

    return app


def _class(collection: Collection, number: int) -> str:
    """Return a class by number: the shown name lacks control characters, so it is not a key."""
    classes = collection.pairs.classes
    if number >= len(classes):
        raise InputError(f"class {number}: the data have {len(classes)} classes, counted from 0")
    return classes[number]
