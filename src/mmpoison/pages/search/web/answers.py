"""Builds the page's JSON answers; control characters are removed from the data's text here.

The page sends no names back: images, captions and classes have numbers.
"""

from __future__ import annotations

from typing import Any

from mmpoison._version import __version__
from mmpoison.pages.search.collection import Collection, DistinctCaptions
from mmpoison.pages.search.compare import Column
from mmpoison.pages.search.embedded import DEPTH
from mmpoison.pages.search.engine import SHOWN, Answer, PairFacts
from mmpoison.pages.search.library import Job, Library
from mmpoison.pairs.table import SPLITS
from mmpoison.reporting.text import visible


def state(library: Library) -> dict[str, Any]:
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
    column: Column = answer.columns[name]
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
