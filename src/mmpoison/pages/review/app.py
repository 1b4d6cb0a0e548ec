"""Serves the page: pairs and images by number, and verdicts that are on the disk before the page gets an answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from mmpoison.base.phrasing import one_line
from mmpoison.defenses.filters.filter_facts import FilterFacts, GoalNote
from mmpoison.defenses.filters.pair_labels import (
    LabelFile,
    Neighbour,
    ShownPair,
    StaleVerdict,
    Verdict,
)
from mmpoison.pages.image_response import image_response
from mmpoison.pages.local_app import create_app
from mmpoison.pages.serve import LOCAL

STATIC = Path(__file__).parent / "static"
SIDES = {"large": 900, "small": 240}


class Decision(BaseModel):
    """A request of the page: a verdict on a pair.

    Attributes:
        pair: Name of the pair that the page shows under the number.
        verdict: The new verdict.
        was: The verdict that the page shows.
    """

    model_config = ConfigDict(extra="forbid")

    pair: str
    verdict: Verdict
    was: Verdict


def review_app(
    pairs: Sequence[ShownPair],
    labels: LabelFile,
    *,
    title: str,
    host: str = LOCAL,
    facts: FilterFacts | None = None,
    then: str | None = None,
    blind: bool = False,
) -> FastAPI:
    """Build the application of a review.

    Args:
        pairs: What to show, in order.
        labels: Where verdicts go; each pair has its line in it.
        title: What is reviewed, in a few words.
        host: The address that it will listen on.
        facts: What the filter says of its result: the name of its score, and the suspected goals.
        then: What happens when the person is done, as the label of a button; without one the server runs on.
        blind: Hide scores and verdicts of a filter, which would be the answer.
    """
    app = create_app("mmpoison review", STATIC, host=host)
    numbers: dict[tuple[Path, str], int] = {}
    about = facts or FilterFacts()
    shown = [_facts(pair, numbers, about.goals, blind) for pair in pairs]
    places = list(numbers)  # images that the page may ask for, by number
    # requests come from several threads
    lock = threading.Lock()

    def verdicts() -> list[Verdict]:
        return [labels[pair.pair] for pair in pairs]

    @app.get("/api/review")
    def review() -> dict[str, Any]:
        with lock:
            labels.refresh()
            return {
                "title": one_line(title),
                "file": one_line(str(labels.file)),
                "then": then,
                "score_name": one_line(about.score_name),
                "goals": [] if blind else [_goal(goal) for goal in about.goals],
                "verdicts": verdicts(),
            }

    @app.get("/api/pairs/{number}")
    def pair(number: int) -> dict[str, Any]:
        if not 0 <= number < len(shown):
            raise HTTPException(404, "no such pair")
        return shown[number]

    @app.get("/images/{number}/{side}")
    def image(number: int, side: str) -> Response:
        if not 0 <= number < len(places) or side not in SIDES:
            raise HTTPException(404, "no such image")
        return image_response(*places[number], SIDES[side])

    @app.post("/api/pairs/{number}/verdict")
    def decide(number: int, decision: Decision) -> Response:
        if not 0 <= number < len(pairs):
            raise HTTPException(404, "no such pair")
        if decision.pair != shown[number]["name"]:
            # a page that was opened on another review at this address
            return JSONResponse({"error": "another review is served here now"}, 410)
        with lock:
            try:
                labels.set(pairs[number].pair, decision.verdict, was=decision.was)
                status = 200
            except StaleVerdict:
                status = 409
            return JSONResponse({"verdicts": verdicts()}, status)

    @app.post("/api/finish")
    def finish() -> dict[str, str]:
        if then is None:
            raise HTTPException(404, "nothing waits for this review")
        app.state.stop()
        return {"done": then}

    return app


def _goal(goal: GoalNote) -> dict[str, Any]:
    return {
        "sentence": one_line(goal.sentence),
        "why": one_line(goal.why),
        "other_explanations": [one_line(text) for text in goal.other_explanations],
    }


def _facts(
    pair: ShownPair,
    numbers: dict[tuple[Path, str], int],
    goals: Sequence[GoalNote],
    blind: bool,
) -> dict[str, Any]:
    """Return what the page shows of a pair; its images get the next free `numbers`."""

    def number(shown: ShownPair | Neighbour) -> int:
        return numbers.setdefault((shown.root, shown.image), len(numbers))

    def neighbour(other: Neighbour) -> dict[str, Any]:
        return {
            "caption": one_line(other.caption),
            "image": number(other),
            "distance": round(other.distance, 3),
        }

    named = pair.goal is not None and 0 <= pair.goal < len(goals) and not blind
    return {
        "name": one_line(pair.pair),
        "caption": one_line(pair.caption),
        "image": number(pair),
        "distance": None if blind else round(pair.distance, 4),
        "kept": None if blind else pair.kept,
        "goal": pair.goal if named else None,
        "others": [one_line(caption) for caption in pair.others],
        "by_caption": [neighbour(other) for other in pair.by_caption],
        "by_image": [neighbour(other) for other in pair.by_image],
    }
