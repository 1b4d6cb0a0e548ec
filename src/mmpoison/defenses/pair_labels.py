"""Labels that people give to pairs: which pairs to look at, and the file that keeps what they said.

The file is a CSV with the columns `pair` and `verdict`. A pair is named by its image and its place among the image's
captions, from 0 (`sheep/0001.jpg#3`), as in `verdicts.jsonl`; a verdict is `keep` or `drop`, or empty where nobody has
looked yet. Other columns are let be.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmpoison.datasets.builder import is_text
from mmpoison.defenses.filtered_folder import judged_rows
from mmpoison.defenses.pair_pieces import PairPieces
from mmpoison.errors import InputError
from mmpoison.files import atomic_file
from mmpoison.seeding import generator

Verdict = Literal["keep", "drop", ""]
COLUMNS = ("pair", "verdict")
MAX_BYTES = 100 * 2**20

BANDS = ((0.0, 0.25), (0.9, 0.25), (0.98, 0.5))
"""From which quantile of the distances on, and what share of the pairs to look at comes from there."""


@dataclass(frozen=True)
class ShownPair:
    """A pair that somebody will look at.

    Attributes:
        pair: Its name.
        image: Id of its image.
        caption: Its caption.
        root: Folder that image ids start from.
        distance: Its cosine distance.
        poisoned: What the manifest says, None where there is none.
    """

    pair: str
    image: str
    caption: str
    root: Path
    distance: float
    poisoned: bool | None = None


def pairs_to_label(
    distances: npt.NDArray[np.floating[Any]], count: int, *, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Random pairs whose labels tell most about a threshold, in random order.

    Half of them come from the most distant 2 %, a quarter from the 8 % before, the rest from the other 90 %; a plain
    random subset would hold hardly a poisoned pair. `label_threshold` allows for it.

    Args:
        distances: Shape `(N,)`.
        count: How many; fewer where there are fewer pairs.
        seed: Seed of the choice.

    Returns:
        Places, shape `(n,)`.
    """
    rng = generator(seed, "filter/label")
    order = np.argsort(distances, kind="stable")
    bounds = [round(start * len(order)) for start, _ in BANDS] + [len(order)]
    bands = [rng.permutation(order[low:high]) for low, high in pairwise(bounds)]
    quotas = [max(1, round(share * count)) for _, share in BANDS]
    # a band that has too few leaves the rest to the others
    spare = np.concatenate([band[quota:] for band, quota in zip(bands, quotas, strict=True)])
    first = np.concatenate([band[:quota] for band, quota in zip(bands, quotas, strict=True)])
    chosen = np.concatenate([first, rng.permutation(spare)])[:count]
    return np.asarray(rng.permutation(chosen))


def shown_pairs(
    pieces: PairPieces,
    split: str,
    places: Iterable[int],
    distances: npt.NDArray[np.floating[Any]],
) -> list[ShownPair]:
    """What there is to show of some judged pairs, in the order given.

    Args:
        pieces: The set.
        split: Which of its pairs were judged.
        places: Places of the pairs in the order of the stream.
        distances: Of all judged pairs, shape `(N,)`.
    """
    wanted = {int(place): number for number, place in enumerate(places)}
    found: dict[int, ShownPair] = {}
    for place, piece, row, name in judged_rows(pieces, split):
        if place in wanted:
            pairs = piece.pairs
            found[wanted[place]] = ShownPair(
                name,
                str(pairs.images.ids[pairs.image[row]]),
                str(pairs.captions[row]),
                pairs.root,
                float(distances[place]),
                bool(piece.poisoned[row]) if pieces.manifest is not None else None,
            )
    return [found[number] for number in sorted(found)]


def labelled_places(
    pieces: PairPieces, split: str, labels: Mapping[str, Verdict], file: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Places of the labelled pairs in the order of the stream, and which of them are to be dropped, shape `(n,)`.

    Raises:
        InputError: If a labelled pair is not among the judged ones.
    """
    waiting = {name: verdict == "drop" for name, verdict in labels.items() if verdict}
    places: list[int] = []
    bad: list[bool] = []
    for place, _, _, name in judged_rows(pieces, split):
        if name in waiting:
            places.append(place)
            bad.append(waiting.pop(name))
    if waiting:
        raise InputError(
            f"{file}: {len(waiting)} labelled pairs are not among the judged ones, "
            f"the first: {next(iter(waiting))!r:.80}"
        )
    return np.asarray(places, dtype=np.int64), np.asarray(bad, dtype=np.bool_)


def read_labels(file: Path) -> dict[str, Verdict]:
    """Read a file of labels.

    Raises:
        InputError: If it is missing or broken, a verdict is none, or a pair has two.
    """
    labels: dict[str, Verdict] = {}
    try:
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: larger than {MAX_BYTES >> 20} MB, that is no list of labels")
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, strict=True)
            names = rows.fieldnames or []
            if not set(COLUMNS) <= set(names):
                raise InputError(
                    f"{file} line 1: the columns {' and '.join(COLUMNS)} are needed, "
                    f"it has {', '.join(names) or 'none'}"
                )
            for row in rows:
                where = f"{file} line {rows.line_num}"
                name, verdict = row["pair"], (row["verdict"] or "").strip().lower()
                if not name or not is_text(name):
                    raise InputError(f"{where}: names no pair")
                if verdict not in ("keep", "drop", ""):
                    raise InputError(f"{where}: verdict {verdict!r:.40} is neither keep nor drop")
                if labels.get(name) and verdict and labels[name] != verdict:
                    raise InputError(f"{where}: pair {name!r:.80} has two verdicts")
                labels[name] = verdict or labels.get(name, "")  # type: ignore[assignment]
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; `--label` asks for labels and writes it") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV file in UTF-8 ({error})") from None
    return labels


def write_labels(file: Path, labels: Mapping[str, Verdict]) -> None:
    """Write a file of labels, whole or not at all."""
    with (
        atomic_file(file) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(labels.items())
