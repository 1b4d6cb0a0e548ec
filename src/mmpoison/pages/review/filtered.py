"""Finds the most suspicious pairs of a filter's result, with the other captions of their images."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.untrusted import parse_json, read_lines
from mmpoison.defenses.filters.filtered_folder import VERDICTS_FILE
from mmpoison.defenses.filters.pair_labels import ShownPair, shown_pairs
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.unreadable import read_unreadable
from mmpoison.errors import InputError


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
