"""Serves the page: pairs and images by number, and verdicts that are on the disk before the page gets an answer."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import parse_json, read_lines
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.filtered_folder import VERDICTS_FILE, FilterFacts, GoalNote
from mmpoison.defenses.filters.pair_labels import (
    LabelFile,
    Neighbour,
    ShownPair,
    StaleVerdict,
    Verdict,
    shown_pairs,
)
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.unreadable import read_unreadable
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import ProgressFor, prepare_pixels
from mmpoison.pages.local_app import LOCAL, create_app, image_response

# -- Finds the most suspicious pairs of a filter's result, with the other captions of their images.


def filtered_pairs(filtered: Path, pieces: PairPieces, count: int) -> list[ShownPair]:
    """Find the most suspicious pairs of a folder that `mmpoison filter` wrote: dropped ones first, then by score.

    Args:
        filtered: The folder.
        pieces: The set that was filtered; dropped pairs are only there.
        count: How many; fewer where there are fewer.

    Raises:
        InputError: If the folder has no verdicts, they are broken, or the set is another one.
    """
    file = filtered / VERDICTS_FILE
    worst = heapq.nlargest(
        count,
        _verdicts(file),
        key=lambda line: (not line[1]["keep"], line[1]["distance"], -line[0]),
    )
    if not worst:
        raise InputError(f"{file}: no verdict in it")
    distances = np.zeros(1 + max(place for place, _ in worst))
    for place, line in worst:
        distances[place] = line["distance"]
    places = [place for place, _ in worst]
    # pairs of images that the filter could not read have no verdict
    pieces.leave_out(read_unreadable(filtered))
    shown = shown_pairs(pieces, "train", places, distances)
    for (_, line), pair in zip(worst, [*shown, *[None] * len(worst)], strict=False):
        if pair is None or (pair.pair, pair.caption) != (line["pair"], line["caption"]):
            raise InputError(
                f"{pieces.name}: is not the set that {filtered} was filtered from (pair {line['pair']!r:.80} is "
                "another one): name it with --data"
            )
    return [
        replace(pair, kept=line["keep"], goal=line.get("goal"))
        for (_, line), pair in zip(worst, shown, strict=True)
    ]


def _verdicts(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each line of a file of verdicts with its index, from 0."""
    if not file.exists():
        raise InputError(f"{file}: no such file; `mmpoison filter --out {file.parent}` writes it")
    for place, text in enumerate(read_lines(file)):
        where = f"{file} line {place + 1}"
        line = parse_json(text, where)
        if not (
            isinstance(line, dict)
            and isinstance(line.get("pair"), str)
            and isinstance(line.get("caption"), str)
            and isinstance(line.get("keep"), bool)
            and type(line.get("distance")) in (int, float)
            and (line.get("goal") is None or type(line["goal"]) is int)
        ):
            raise InputError(f"{where}: is no verdict")
        yield place, line


# -- Finds pairs that resemble the shown ones, in one pass over the set.


Floats = npt.NDArray[np.float32]

NEAREST = 4


def add_neighbours(
    shown: Sequence[ShownPair],
    pieces: PairPieces,
    encoder: DualEncoder,
    *,
    nearest: int = NEAREST,
    progress: ProgressFor | None = None,
) -> list[ShownPair]:
    """Add to the shown pairs the training pairs that are nearest to them, by caption and by image.

    A pair on the same image is no neighbour: its captions are shown anyhow. By image there is one pair for each image,
    its first.

    Every image and caption is embedded once; memory grows with the shown pairs alone.

    Args:
        shown: The pairs, `n` of them.
        pieces: The set they are from.
        encoder: Measures what resembles what.
        nearest: How many neighbours of each kind.
        progress: Gives a progress callback for a named step; it counts images, twice.

    Raises:
        InputError: If an image is missing or broken.
    """
    own_text, own_image = _own(shown, pieces, encoder, progress)
    texts, images = _Nearest(len(shown), nearest), _Nearest(len(shown), nearest)
    report = progress("comparing with all pairs") if progress is not None else None
    done = 0
    for piece in pieces:
        part = piece.pairs.where(piece.in_split("train"))
        if len(part):
            text, image = embed_pairs(encoder, prepare_pixels(encoder, part), part)
            ids = part.images.ids[part.image]
            elsewhere = np.array([pair.image for pair in shown])[:, None] != ids[None, :]
            found = [
                Neighbour(str(c), str(i), part.root, 0.0)
                for c, i in zip(part.captions, ids, strict=True)
            ]
            texts.add(np.where(elsewhere, own_text @ text.T, -np.inf), found)
            _, first = np.unique(part.image, return_index=True)
            images.add(
                np.where(elsewhere, own_image @ image.T, -np.inf)[:, first],
                [found[row] for row in first],
            )
        done += len(piece.pairs.images)
        if report is not None:
            report(done, pieces.images if pieces.images is not None else done + 1)
    if report is not None and pieces.images is None:
        report(done, done)
    return [
        replace(pair, by_caption=texts.of(number), by_image=images.of(number))
        for number, pair in enumerate(shown)
    ]


def _own(
    shown: Sequence[ShownPair],
    pieces: PairPieces,
    encoder: DualEncoder,
    progress: ProgressFor | None,
) -> tuple[Floats, Floats]:
    """Return the unit embeddings of the shown captions and images, both of shape `(n, d)`."""
    waiting: dict[tuple[str, str], list[int]] = {}
    for number, pair in enumerate(shown):
        waiting.setdefault((pair.image, pair.caption), []).append(number)
    text: dict[int, Floats] = {}
    image: dict[int, Floats] = {}
    for piece in pieces:
        pairs = piece.pairs
        ids = pairs.images.ids[pairs.image]
        keys = list(zip(ids, pairs.captions, strict=True))
        mask = np.array([key in waiting for key in keys], dtype=bool)
        if not mask.any():
            continue
        part = pairs.where(mask)
        captions, pictures = embed_pairs(encoder, prepare_pixels(encoder, part), part, progress)
        for row, key in enumerate(key for key, wanted in zip(keys, mask, strict=True) if wanted):
            for number in waiting[key]:
                text[number], image[number] = captions[row], pictures[row]
    order = range(len(shown))
    return np.stack([text[n] for n in order]), np.stack([image[n] for n in order])


class _Nearest:
    """The nearest few of each of `n` pairs, out of all that pass by."""

    def __init__(self, count: int, nearest: int) -> None:
        self._nearest = nearest
        self._found: list[list[Neighbour]] = [[] for _ in range(count)]

    def add(self, likeness: Floats, candidates: Sequence[Neighbour]) -> None:
        """Add candidates with their similarity to each pair, shape `(n, candidates)`; -inf excludes one."""
        some = min(self._nearest, len(candidates))
        best = np.argpartition(-likeness, some - 1, axis=1)[:, :some]
        for number, columns in enumerate(best):
            new = [
                replace(candidates[column], distance=float(np.clip(1 - value, 0, 2)))
                for column in columns
                if np.isfinite(value := likeness[number, column])
            ]
            nearest = sorted([*self._found[number], *new], key=lambda pair: pair.distance)
            self._found[number] = nearest[: self._nearest]

    def of(self, number: int) -> tuple[Neighbour, ...]:
        """Return the nearest of one pair, the nearest first."""
        return tuple(self._found[number])


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
