"""Writes the pairs that a filter accepts as a pairs folder, with a verdict for every judged pair."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_folder
from mmpoison.base.untrusted import read_json
from mmpoison.defenses.filters.pair_pieces import PairPieces, Piece
from mmpoison.defenses.unreadable import write_unreadable
from mmpoison.errors import InputError
from mmpoison.pairs.folder import (
    CAPTIONS_FILE,
    MANIFEST_FILE,
    ImagePolicy,
    append_pairs,
    copy_notices,
    write_data_card,
)
from mmpoison.pairs.table import BoolArray, PairDataset

# -- Names the files that a filter writes about its result, and reads back what a review shows of them.


GOALS_FILE = "suspected-goals.json"
REPORT_FOLDER = "filter-report"
FACTS_FILE = "filter.json"


@dataclass(frozen=True)
class GoalNote:
    """A suspected goal as a person reads it.

    Attributes:
        sentence: What is suspected.
        why: What is suspicious about it.
        other_explanations: What else could explain it, the likeliest first.
    """

    sentence: str
    why: str
    other_explanations: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilterFacts:
    """What a filter says of its result.

    Attributes:
        score_name: What the score of a pair is.
        data: The set as the filter was given it; None if it does not say.
        data_path: The set's path from the result's folder; None for a set without a path.
        goals: The suspected goals, in the order of `suspected-goals.json`.
    """

    score_name: str = "score"
    data: str | None = None
    data_path: str | None = None
    goals: tuple[GoalNote, ...] = ()

    def source(self, filtered: Path) -> str:
        """Find the set that was filtered, whatever the current folder is.

        Args:
            filtered: The result's folder.

        Raises:
            InputError: If the result does not say which set it was, or that is no longer there.
        """
        if self.data is None:
            raise InputError(
                f"{filtered}: does not say which set was filtered: name it with --data"
            )
        if self.data_path is None:
            return self.data
        found = Path(os.path.normpath(filtered.resolve() / self.data_path))
        # of a result that was moved, the path as it was given may still be right
        for path in (str(found), self.data):
            if os.path.exists(path):  # noqa: PTH110  -- a path that is too long is just not there
                return path
        raise InputError(
            f"{filtered}: the set that was filtered is not at {found} (any more): name it with --data"
        )


def data_pointer(source: str, out: Path) -> dict[str, str]:
    """Return the path of a filtered set from the result's folder, for `filter.json`; nothing for a set without a path.

    The two may be moved together, and are found from any folder.

    Args:
        source: The set as it was given: a path or the name of a data set.
        out: The result's folder.

    Example:
        >>> data_pointer("no-such-path", Path("kept"))
        {}
    """
    if not os.path.exists(source):  # noqa: PTH110  -- a name that is no path is no error
        return {}
    return {"data_path": os.path.relpath(Path(source).resolve(), out.resolve())}


def read_filter_facts(filtered: Path) -> FilterFacts:
    """Read what a filter says of its result; a result without `filter.json` says nothing.

    Raises:
        InputError: If one of the files is broken.
    """
    facts = _object(filtered / REPORT_FOLDER / FACTS_FILE)
    listed = _object(filtered / GOALS_FILE).get("goals", [])
    where = filtered / GOALS_FILE
    if not isinstance(listed, list):
        raise InputError(f"{where}: goals must be a list")
    return FilterFacts(
        _text(facts, "score_name") or _score_name(_text(facts, "method")),
        _text(facts, "data"),
        _text(facts, "data_path"),
        tuple(_goal(goal, f"{where}: goal {number}") for number, goal in enumerate(listed)),
    )


def _object(file: Path) -> Mapping[str, Any]:
    if not file.exists():
        return {}
    value = read_json(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: an object is needed")
    return value


def _text(facts: Mapping[str, Any], key: str) -> str | None:
    value = facts.get(key)
    return value if isinstance(value, str) and "\0" not in value else None


def _score_name(method: str | None) -> str:
    """Return what a registered method calls its score, for results that do not say it themselves."""
    from mmpoison.defenses.catalogue import DEFENSES

    known = DEFENSES[method] if method is not None and method in DEFENSES else None
    return getattr(known, "score_name", FilterFacts.score_name)


def _goal(value: Any, where: str) -> GoalNote:
    if not isinstance(value, dict):
        raise InputError(f"{where}: an object is needed")
    sentence, why = _text(value, "sentence"), _text(value, "why")
    others = value.get("other_explanations", [])
    if sentence is None or why is None or not isinstance(others, list):
        raise InputError(f"{where}: a sentence, why and other_explanations are needed")
    return GoalNote(sentence, why, tuple(map(str, others)))


VERDICTS_FILE = "verdicts.jsonl"


def save_filtered(
    pieces: PairPieces,
    keep: BoolArray,
    scores: npt.NDArray[np.floating[Any]],
    facts: Mapping[str, Any],
    out: Path,
    *,
    split: str = "train",
    goals: Sequence[npt.NDArray[np.integer[Any]]] = (),
    images: ImagePolicy = "link",
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Write the pairs that stay, the pairs that were not judged, and `verdicts.jsonl`.

    Where the poison is known the manifest is copied, reduced to the poisoned pairs that the filter accepted.
    Images that `pieces` leaves out are left out with all their pairs and named in `unreadable.jsonl`.

    Args:
        pieces: The set.
        keep: Verdict for each judged pair in the order of the stream, shape `(N,)`.
        scores: Their scores, shape `(N,)`.
        facts: What a manifest will say of the filter.
        out: New folder.
        split: Which pairs were judged.
        goals: The pairs of each suspected goal, as rows of the judged pairs; their verdicts name the goal, from 0.
        images: As in `save_pairs`.
        also: Writes more files into the folder, before it gets its name.

    Raises:
        InputError: If `out` holds something already.
    """
    manifest, left_out = pieces.manifest, pieces.left_out
    listed = manifest.pairs if manifest is not None else ()
    named = {name for pair in listed for name in (pair.clean_image, pair.poisoned_image)}
    names: dict[str, str] = {}
    left: set[int] = set()
    unreadable: list[PairDataset] = []
    goal_of = {int(row): number for number, rows in reversed([*enumerate(goals)]) for row in rows}
    start = train = total = 0
    with atomic_folder(out) as folder:
        with (
            (folder / CAPTIONS_FILE).open("w", encoding="utf-8") as captions,
            (folder / VERDICTS_FILE).open("w", encoding="utf-8") as verdicts,
        ):
            for piece in pieces:
                judged = piece.in_split(split)
                part = slice(start, start + int(judged.sum()))
                start = part.stop
                found = {
                    row - part.start: goal_of[row]
                    for row in range(part.start, part.stop)
                    if row in goal_of
                }
                _write_verdicts(verdicts, piece, judged, keep[part], scores[part], found)
                stays = ~judged
                stays[judged] = keep[part]
                left.update(piece.entry[stays & piece.poisoned].tolist())
                total += int(stays.sum())
                train += int((piece.in_split("train") & stays).sum())
                rest = piece.pairs.where(stays)
                if left_out:
                    rest, without = _parted(rest, left_out)
                    unreadable.append(without)
                written = append_pairs(rest, folder, captions, images)
                for old, new in zip(rest.images.ids, written.images.ids, strict=True):
                    if old in named:
                        names[old] = new
                root = piece.pairs.root
            added = {}
            if manifest is not None:
                carriers = {listed[number].poisoned_image for number in left}
                added = {n: new for n, new in manifest.added_images.items() if n in carriers}
                # an image that the manifest still names keeps its line: no caption, no file
                needed = {
                    *(listed[number].clean_image for number in left),
                    *manifest.target_images.values(),
                    *manifest.dropped_images,
                    *(new.made_from for new in added.values()),
                }
                for without in unreadable:
                    append_pairs(_parted(without, needed)[1], folder, captions, "none")
        if manifest is not None:
            kept = tuple(
                replace(
                    pair,
                    clean_image=names.get(pair.clean_image, pair.clean_image),
                    poisoned_image=names.get(pair.poisoned_image, pair.poisoned_image),
                )
                for number, pair in enumerate(listed)
                if number in left
            )
            added = {
                names.get(name, name): replace(
                    new, made_from=names.get(new.made_from, new.made_from)
                )
                for name, new in added.items()
            }
            manifest = replace(
                manifest, pairs=kept, added_images=added, training_pairs=train, filtered=facts
            )
            manifest.write(folder / MANIFEST_FILE)
        copy_notices(root, folder)
        if manifest is not None:
            write_data_card(folder, manifest, total)
        write_unreadable(folder, left_out)
        if also is not None:
            also(folder)
    return out


def _parted(pairs: PairDataset, images: Container[str]) -> tuple[PairDataset, PairDataset]:
    """Split a table into the images outside a list, and those in it, each with their pairs."""
    found = np.fromiter((i in images for i in pairs.images.ids), bool, len(pairs.images))
    return pairs.piece(np.flatnonzero(~found)), pairs.piece(np.flatnonzero(found))


def verdict_line(
    pair: str, image: str, caption: str, score: float, *, keep: bool, goal: int | None
) -> dict[str, Any]:
    """Return a line of `verdicts.jsonl`; a pair of no goal has no key `goal`."""
    line = {
        "pair": pair,
        "image": image,
        "caption": caption,
        "distance": round(score, 6),
        "keep": keep,
    }
    return line if goal is None else {**line, "goal": goal}


def _write_verdicts(
    stream: TextIO,
    piece: Piece,
    judged: BoolArray,
    keep: BoolArray,
    scores: npt.NDArray[np.floating[Any]],
    goal_of: Mapping[int, int],
) -> None:
    names = piece.pair_ids()
    pairs = piece.pairs
    for place, row in enumerate(np.flatnonzero(judged)):
        line = verdict_line(
            names[row],
            pairs.images.ids[pairs.image[row]],
            pairs.captions[row],
            float(scores[place]),
            keep=bool(keep[place]),
            goal=goal_of.get(place),
        )
        stream.write(json.dumps(line) + "\n")


def judged_rows(pieces: PairPieces, split: str) -> Iterator[tuple[int, Piece, int, str]]:
    """Yield each judged pair: its index in the stream, its piece, its row there, and its name."""
    place = 0
    for piece in pieces:
        names = piece.pair_ids()
        for row in np.flatnonzero(piece.in_split(split)):
            yield place, piece, int(row), names[row]
            place += 1
