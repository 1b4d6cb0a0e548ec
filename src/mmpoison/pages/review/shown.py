"""Records of what the page shows of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmpoison.defenses.filters.pair_labels import ShownPair


@dataclass(frozen=True)
class Neighbour:
    """Another pair that resembles the shown one.

    Attributes:
        caption: Its caption.
        image: Id of its image.
        root: Folder that the id starts from.
        distance: Cosine distance of the two captions, or of the two images, in [0, 2].
    """

    caption: str
    image: str
    root: Path
    distance: float


@dataclass(frozen=True)
class ReviewPair:
    """One pair to be reviewed.

    Attributes:
        name: Its name in the file of labels.
        caption: Its caption.
        image: Id of its image.
        root: Folder that the id starts from.
        distance: Its score; None where it must not be seen, for it would be the answer.
        kept: What a filter decided; None where none has, or it must not be seen.
        others: The other captions of its image.
        by_caption: Pairs whose captions are nearest to its caption, the nearest first.
        by_image: Pairs whose images are nearest to its image, one for each image, the nearest first.
    """

    name: str
    caption: str
    image: str
    root: Path
    distance: float | None = None
    kept: bool | None = None
    others: tuple[str, ...] = ()
    by_caption: tuple[Neighbour, ...] = ()
    by_image: tuple[Neighbour, ...] = ()


def from_shown(pair: ShownPair) -> ReviewPair:
    """A pair that is asked for without its distance."""
    return ReviewPair(pair.pair, pair.caption, pair.image, pair.root, others=pair.others)
