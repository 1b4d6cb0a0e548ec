"""Answers search queries with every model, and reports the facts of one image."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np

from mmpoison.errors import InputError
from mmpoison.images.decode import BrokenImage, read_image, read_image_bytes
from mmpoison.images.preparation import Preparation
from mmpoison.metrics import target_ranks
from mmpoison.pages.search.collection import Caption, Collection
from mmpoison.pages.search.library import Job, Library, Ranking, SearchedKind
from mmpoison.pairs.table import BoolArray

if TYPE_CHECKING:
    from mmpoison.images.preparation import Pixels
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.embedding import Embeddings


# -- Compares rankings of several models: ranks, moves relative to the first model, ranks of targets.


@dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
        item: The image, or the row of the caption.
        rank: Its rank, counted from 0.
        similarity: Cosine similarity to the query, in [-1, 1].
        target: Whether it is in the target set.
        was: Its rank under the first model; None if that rank is not known, or this is the first model.
    """

    item: int
    rank: int
    similarity: float
    target: bool
    was: int | None


@dataclass(frozen=True)
class ResultColumn:
    """The results of one model.

    Attributes:
        hits: The results shown, best first.
        known: Number of known ranks, counted from 0.
        size: Number of searched items.
        best_target: Rank of the best target, ties counted against it; None if it is not among the known ranks.
        targets_shown: Number of targets among the shown results.
        new: Number of shown results that the first model does not show; None for the first model.
    """

    hits: tuple[Hit, ...]
    known: int
    size: int
    best_target: int | None
    targets_shown: int
    new: int | None


def side_by_side(
    rankings: Mapping[str, Ranking], targets: BoolArray, shown: int, first: str | None = None
) -> dict[str, ResultColumn]:
    """Compare rankings of the same items by several models.

    Args:
        rankings: Ranking of each model.
        targets: Which items are in the target set, shape `(I,)`.
        shown: Number of results to show.
        first: The model that the others are compared with, if it has a ranking.

    Returns:
        One column per model, in the given order.
    """
    reference = rankings.get(first) if first is not None else None
    ranks = {} if reference is None else {int(i): r for r, i in enumerate(reference.items)}
    top = set() if reference is None else {int(item) for item in reference.items[:shown]}
    columns: dict[str, ResultColumn] = {}
    for name, ranking in rankings.items():
        compared = reference is not None and name != first
        mask = targets[ranking.items]
        hits = tuple(
            Hit(
                int(item),
                rank,
                round(float(ranking.similarity[rank]), 4),
                bool(mask[rank]),
                ranks.get(int(item)) if compared else None,
            )
            for rank, item in enumerate(ranking.items[:shown])
        )
        best = None
        if mask.any():
            best = int(target_ranks(np.asarray(ranking.similarity)[None], mask)[0])
        columns[name] = ResultColumn(
            hits,
            len(ranking.items),
            ranking.size,
            best,
            int(mask[:shown].sum()),
            sum(hit.item not in top for hit in hits) if compared else None,
        )
    return columns


SHOWN = 50
"""The largest number of results shown."""

QUERY_LENGTH = 1000
"""Characters of the longest query; models read about seventy tokens."""

UPLOAD_BYTES = 10 * 2**20
UPLOAD_PIXELS = 25_000_000
"""Limits of an uploaded picture."""


@dataclass(frozen=True)
class Answer:
    """The answers of all models to one query.

    Attributes:
        columns: The results of each model that is ready.
        waiting: The job of each model that is not.
    """

    columns: dict[str, ResultColumn]
    waiting: dict[str, Job]


@dataclass(frozen=True)
class PairFacts:
    """One caption of an image, and its cosine distance to the image, in [0, 2], under each loaded model."""

    caption: Caption
    distance: dict[str, float]


class Engine:
    """Answers queries over the galleries of a library.

    Args:
        library: Models, data sets and galleries.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        # more threads than cores would only slow each other down
        self._cores = threading.BoundedSemaphore(os.cpu_count() or 1)

    def images_for(
        self, collection: Collection, part: str, query: str, *, shown: int, target: str = ""
    ) -> Answer:
        """Find the best images for a text.

        Args:
            collection: The data set.
            part: The gallery.
            query: The text to search for.
            shown: Number of images, at most `SHOWN`.
            target: The targets to mark, as for `Collection.targets`.

        Raises:
            InputError: If the query is empty or too long, or a name is unknown.
        """
        query = query.strip()
        if not query:
            raise InputError("the query is empty: type what the pictures should show")
        if len(query) > QUERY_LENGTH:
            raise InputError(
                f"the query has {len(query):,} characters: at most {QUERY_LENGTH:,} are allowed"
            )
        targets = collection.targets(target)
        return self._search(
            collection,
            part,
            "images",
            lambda encoder: _embed_texts(encoder, [query]),
            lambda: targets,
            shown,
        )

    def captions_for(
        self,
        collection: Collection,
        part: str,
        picture: int | bytes,
        *,
        shown: int,
        original: str = "",
    ) -> Answer:
        """Find the best captions for a picture; items are rows of `library.captions`.

        Args:
            collection: The data set.
            part: The gallery whose captions are searched.
            picture: An image of the data set, or the bytes of a file.
            shown: Number of captions, at most `SHOWN`.
            original: The class whose captions are marked.

        Raises:
            InputError: If the picture cannot be read, or a name is unknown.
        """
        code = collection.pairs.images.class_code(original) if original else None
        if isinstance(picture, int):
            collection.index(picture)
        read = cache(partial(_read, collection, picture))

        def targets() -> BoolArray:
            codes = self.library.captions[collection.name, part].class_codes
            return np.asarray(codes == code) if original else np.zeros(len(codes), dtype=bool)

        answer = self._search(
            collection,
            part,
            "captions",
            lambda encoder: _embed(encoder, read(encoder.preparation)),
            targets,
            shown,
        )
        if isinstance(picture, bytes) and not answer.columns:
            read(Preparation(1))  # report a bad picture at once
        return answer

    def _search(
        self,
        collection: Collection,
        part: str,
        kind: SearchedKind,
        embed: Callable[[DualEncoder], Embeddings],
        targets: Callable[[], BoolArray],
        shown: int,
    ) -> Answer:
        """Search with the query's embedding under each model that is ready, and compare the rankings."""
        if not 1 <= shown <= SHOWN:
            raise InputError(f"{shown} results requested: ask for 1 to {SHOWN}")
        rankings: dict[str, Ranking] = {}
        waiting: dict[str, Job] = {}
        for name in self.library.model_names:
            index = self.library.indexed(collection, part, name, kind)
            if isinstance(index, Job):
                waiting[name] = index
            else:
                with self._cores:
                    rankings[name] = index.search(embed(self.library.encoders[name]))
        first = self.library.model_names[0]
        columns = side_by_side(rankings, targets(), shown, first) if rankings else {}
        return Answer(columns, waiting)

    def pair_facts(self, collection: Collection, image: int) -> tuple[list[PairFacts], str]:
        """Compute the distances of an image's captions.

        If the image cannot be read, there are no distances, and the second value says why.

        Raises:
            InputError: If there is no such image.
        """
        captions = collection.captions(collection.index(image))
        distances: dict[str, list[float]] = {}
        fault = ""
        for name, encoder in list(self.library.encoders.items()):
            try:
                pixels = _read(collection, image, encoder.preparation)
            except BrokenImage as error:
                fault = str(error)
                break
            if not captions:
                break
            with self._cores:
                texts = _embed_texts(encoder, [caption.text for caption in captions])
                distances[name] = (1 - texts @ _embed(encoder, pixels)[0]).tolist()
        facts = [
            PairFacts(caption, {name: round(values[row], 4) for name, values in distances.items()})
            for row, caption in enumerate(captions)
        ]
        return facts, fault


def _read(collection: Collection, picture: int | bytes, preparation: Preparation) -> Pixels:
    """Read a picture as RGB, shape `(1, size, size, 3)`."""
    if isinstance(picture, bytes):
        if len(picture) > UPLOAD_BYTES:
            raise InputError(
                f"the picture has {len(picture):,} bytes: at most {UPLOAD_BYTES:,} are allowed"
            )
        return read_image_bytes(
            picture, preparation, name="your picture", max_pixels=UPLOAD_PIXELS
        )[None]
    image_id = collection.pairs.images.ids[collection.index(picture)]
    return read_image(collection.pairs.root, image_id, preparation)[None]


def _embed_texts(encoder: DualEncoder, texts: list[str]) -> Embeddings:
    # imported only when there is an encoder: torch takes seconds
    from mmpoison.models.embedding import embed_captions

    return embed_captions(encoder, texts)


def _embed(encoder: DualEncoder, pixels: Pixels) -> Embeddings:
    from mmpoison.models.embedding import embed_pixels

    return embed_pixels(encoder, pixels)
