"""A local page that shows suspicious pairs one by one, and records the verdicts keep, drop and unsure.

The page identifies pairs and images by number. A verdict is on disk before the page receives a response.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from mmpoison.base.progress import ProgressFor
from mmpoison.base.text import spelled
from mmpoison.datasets.catalogue import NamedData
from mmpoison.defenses.scan.cut.labels import (
    LabelFile,
    Neighbour,
    ReviewVerdict,
    ShownPair,
    StaleVerdict,
    pairs_to_label,
    shown_pairs,
)
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.defenses.scan.write.tables import ScoreTable
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import prepare_pixels
from mmpoison.pages.local_app import LOCAL, STATIC, create_app, image_response
from mmpoison.records.data_scan import DataScan

# -- Finds a scan's grouped pairs and its most suspicious other pairs, with all captions of their images.


def as_scanned(scan: DataScan, result: Path, given: NamedData | None = None) -> NamedData:
    """Return the scanned set and how to read it, independent of the current folder.

    Args:
        scan: The scan record.
        result: Its result folder.
        given: The user's options, which take precedence.

    Raises:
        InputError: If the set no longer exists.
    """

    def placed(path: str) -> Path:
        return Path(os.path.normpath(result.resolve() / path.replace("\0", "")))

    given = given or NamedData("")
    root, source = given.root, scan.source
    if root is None and scan.data_root is not None:
        root = placed(scan.data_root)
    if scan.data_path is not None:
        found = str(placed(scan.data_path))
        # if the result was moved, the path as given may still be valid
        there = [path for path in (found, source) if os.path.exists(path)]  # noqa: PTH110  -- any text may be a path
        if not there:
            raise InputError(
                f"{result}: the scanned set is no longer at {found}: give it with --data"
            )
        source = there[0]
    options = {**scan.data_options, **given.options}
    return NamedData(source, root, given.format or scan.data_format, options)


def scanned_pairs(
    result: Path, pieces: PairPieces, count: int, *, random: bool = False
) -> list[ShownPair]:
    """Find a scan's pairs to review: those in groups first, then dropped pairs, then by score.

    Args:
        result: The result folder of `mmpoison scan`.
        pieces: The scanned set.
        count: Number of pairs; fewer if there are fewer.
        random: Choose pairs across all scores instead, with `pairs_to_label`.

    Raises:
        InputError: If the folder has no pair scores, they are broken, or they belong to another set.
    """
    table = ScoreTable(result)
    usable = np.flatnonzero(~np.isnan(table.score))
    group = np.where(table.group[usable] < 0, np.inf, table.group[usable])
    order = np.lexsort((usable, -table.score[usable], ~table.drop[usable], group))[:count]
    places = usable[pairs_to_label(table.score[usable], count) if random else order]
    if not len(places):
        raise InputError(f"{table.file}: it has no pair that could be scored")
    names = table.texts(places)
    shown = shown_pairs(pieces, "train", places, np.nan_to_num(table.score))
    found = []
    for place, (name, caption), pair in zip(
        places, names, [*shown, *[None] * len(places)], strict=False
    ):
        if pair is None or (pair.pair, pair.caption) != (name, caption):
            raise InputError(
                f"{pieces.name}: is not the set that was scanned for {result} (pair {name!r:.80} differs): give that "
                "set with --data"
            )
        number = int(table.group[place])
        found.append(replace(pair, kept=not table.drop[place], goal=None if number < 0 else number))
    return found


def group_members(result: Path) -> list[list[str]]:
    """Return the pair names of each group of a scan, in the order of `scan.json`.

    Raises:
        InputError: If the scores are broken.
    """
    table = ScoreTable(result)
    return [
        [name for name, _ in table.texts(np.flatnonzero(table.group == number))]
        for number in range(int(table.group.max(initial=-1)) + 1)
    ]


# -- Finds pairs similar to the shown ones, in one pass over the set.


Floats = npt.NDArray[np.float32]

NEAREST = 4
"""Number of neighbours shown per kind."""


def add_neighbours(
    shown: Sequence[ShownPair],
    pieces: PairPieces,
    encoder: DualEncoder,
    *,
    progress: ProgressFor | None = None,
) -> list[ShownPair]:
    """Add the nearest training pairs, by caption and by image, to the shown pairs.

    Pairs on the same image are not neighbours, because its captions are shown anyway. By image, only the first pair of
    each image is listed.

    Every image and caption is embedded once. A pair takes a few kilobytes of memory.

    Args:
        shown: The `n` shown pairs.
        pieces: The set they are from.
        encoder: The encoder that measures similarity.
        progress: Returns a progress callback, which counts images, for a named step.

    Raises:
        InputError: If an image is missing or broken.
    """
    report = progress("comparing with all pairs") if progress is not None else None
    every: list[Neighbour] = []
    parts: list[tuple[Floats, Floats]] = []
    done = 0
    for piece in pieces:
        part = piece.pairs.where(piece.in_split("train"))
        if len(part):
            ids = part.images.ids[part.image]
            pairs = zip(part.captions, ids, strict=True)
            every += [Neighbour(str(text), str(image), part.root, 0.0) for text, image in pairs]
            parts.append(embed_pairs(encoder, prepare_pixels(encoder, part), part))
        done += len(piece.pairs.images)
        if report is not None:
            report(done, pieces.images if pieces.images is not None else done + 1)
    if report is not None and pieces.images is None:
        report(done, done)
    rows = {(one.image, one.caption): row for row, one in enumerate(every)}
    image_of = np.array([one.image for one in every])
    once = np.sort(np.unique(image_of, return_index=True)[1])
    texts, images = (np.concatenate(side) for side in zip(*parts, strict=True))

    def alike(
        pair: ShownPair, vectors: Floats, among: npt.NDArray[np.intp]
    ) -> tuple[Neighbour, ...]:
        others = among[image_of[among] != pair.image]
        distance = 1 - vectors[others] @ vectors[rows[pair.image, pair.caption]]
        best = np.argsort(distance, kind="stable")[:NEAREST]
        return tuple(
            replace(every[others[i]], distance=float(np.clip(distance[i], 0, 2))) for i in best
        )

    return [
        replace(
            pair,
            by_caption=alike(pair, texts, np.arange(len(every))),
            by_image=alike(pair, images, once),
        )
        for pair in shown
    ]


SIDES = {"large": 900, "small": 240}


class Decision(BaseModel):
    """A request from the page: a verdict on a pair.

    Attributes:
        pair: Name of the pair that the page shows under this number.
        verdict: The new verdict.
        was: The verdict that the page shows.
    """

    model_config = ConfigDict(extra="forbid")

    pair: str
    verdict: ReviewVerdict
    was: ReviewVerdict


class GroupDecision(BaseModel):
    """A request from the page: a verdict on all undecided pairs of a group; an empty verdict revokes it."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["keep", "drop", ""]


def review_app(
    pairs: Sequence[ShownPair],
    labels: LabelFile,
    *,
    title: str,
    host: str = LOCAL,
    scan: DataScan,
    members: Sequence[Sequence[str]] = (),
) -> FastAPI:
    """Build the application of a review.

    Args:
        pairs: The pairs to show, in order.
        labels: File for the verdicts, with one line per pair.
        title: A short description of the reviewed data.
        host: The address that it will listen on.
        scan: The scan record, with the name of the score and the groups.
        members: Pair names of each group.
    """
    app = create_app("mmpoison review", STATIC / "review", text=spelled, host=host)
    numbers: dict[tuple[Path, str], int] = {}
    groups = scan.groups
    shown = [_facts(pair, numbers, len(groups)) for pair in pairs]
    decided: dict[int, list[str]] = {}  # pairs decided by a verdict on their group
    places = list(numbers)  # images that the page may request, by number
    # several threads handle requests
    lock = threading.Lock()

    def verdicts() -> list[ReviewVerdict]:
        return [labels[pair.pair] for pair in pairs]

    @app.get("/api/review")
    def review() -> dict[str, Any]:
        with lock:
            labels.refresh()
            return {
                "title": title,
                "file": labels.file.name,
                "score_name": scan.score_name,
                "goals": [{name: getattr(group, name) for name in GROUP_FACTS} for group in groups],
                "verdicts": verdicts(),
            }

    @app.get("/api/pairs/{number}")
    def pair(number: int) -> dict[str, Any]:
        if not 0 <= number < len(shown):
            raise HTTPException(404, "no such pair")
        return shown[number]

    @app.get("/api/groups/{number}")
    def group(number: int) -> list[dict[str, Any]]:
        return [{**one, "place": place} for place, one in enumerate(shown) if one["goal"] == number]

    @app.get("/images/{number}/{side}")
    def image(number: int, side: str) -> Response:
        if not 0 <= number < len(places) or side not in SIDES:
            raise HTTPException(404, "no such image")
        return image_response(*places[number], SIDES[side])

    @app.post("/api/pairs/{number}/verdict")
    def decide(number: int, decision: Decision, response: Response) -> dict[str, Any]:
        if not 0 <= number < len(pairs):
            raise HTTPException(404, "no such pair")
        if decision.pair != spelled(pairs[number].pair):
            # a page opened for another review at this address
            raise HTTPException(410, "another review is open here now: reload the page")
        with lock:
            try:
                labels.set(pairs[number].pair, decision.verdict, was=decision.was)
            except StaleVerdict:
                response.status_code = 409
            return {"verdicts": verdicts()}

    @app.post("/api/groups/{number}/verdict")
    def decide_group(number: int, decision: GroupDecision) -> dict[str, Any]:
        if not 0 <= number < min(len(groups), len(members)):
            raise HTTPException(404, "no such group")
        with lock:
            labels.refresh()
            if decision.verdict:
                known = labels.labels()
                decided[number] = [name for name in members[number] if not known.get(name)]
            labels.set_all(decided.get(number, []), decision.verdict)
            return {"verdicts": verdicts(), "count": len(decided.get(number, []))}

    return app


GROUP_FACTS = ("grade", "sentence", "why", "other_explanations", "pairs")
"""Facts about a scan's group that the page shows."""


def _facts(pair: ShownPair, numbers: dict[tuple[Path, str], int], groups: int) -> dict[str, Any]:
    """Return the facts that the page shows about a pair. Its images get the next free `numbers`."""

    def shown(one: ShownPair | Neighbour, digits: int) -> dict[str, Any]:
        image = numbers.setdefault((one.root, one.image), len(numbers))
        return {"caption": one.caption, "image": image, "distance": round(one.distance, digits)}

    named = pair.goal is not None and 0 <= pair.goal < groups
    return {
        **shown(pair, 4),
        "name": pair.pair,
        "kept": pair.kept,
        "goal": pair.goal if named else None,
        "others": pair.others,
        "by_caption": [shown(other, 3) for other in pair.by_caption],
        "by_image": [shown(other, 3) for other in pair.by_image],
    }
