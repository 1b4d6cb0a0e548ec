"""A data set on the search page: galleries, target sets, suggested queries, marks from the manifest."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.settings import Goal
from mmpoison.base.registry import unknown_name
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import SPLITS, BoolArray, IntArray, PairDataset

ALL = "all"
"""The gallery of every image of the data set."""

SUGGESTED = 4
"""Number of suggested captions of a class."""


@dataclass(frozen=True)
class Caption:
    """A caption of one image.

    Attributes:
        text: The caption.
        goal: The goal it was misused for, or None.
        source: The image it was written for, if poison put the caption on this image.
        misused_on: The images that poison put the caption on, if it is the image's own.
    """

    text: str
    goal: str | None = None
    source: int | None = None
    misused_on: tuple[int, ...] = ()

    @property
    def poisoned(self) -> bool:
        """Whether the manifest lists it as false on this image."""
        return self.source is not None

    @property
    def linked(self) -> tuple[int, ...]:
        """The other images that it is or was on."""
        return self.misused_on if self.source is None else (*self.misused_on, self.source)


@dataclass(frozen=True)
class ShownGoal:
    """A goal of the manifest; `image` is its target image (attack I), or None."""

    original: str
    target: str
    image: int | None


@dataclass(frozen=True)
class DistinctCaptions:
    """The distinct captions of a gallery, which an image query searches.

    Attributes:
        texts: Shape `(C,)`, dtype object.
        image: An image that carries each, the first in the table, shape `(C,)`.
        class_codes: Class of that image, -1 without one, shape `(C,)`.
        misused: Whether the manifest names the caption, shape `(C,)`.
    """

    texts: npt.NDArray[np.object_]
    image: IntArray
    class_codes: IntArray
    misused: BoolArray


@dataclass(frozen=True, eq=False)
class Collection:
    """One data set on the page.

    Attributes:
        name: The name shown.
        pairs: The pairs; the manifest says which are false.
        manifest: The poison in the pairs, or in what a model was trained on; None if unknown.
    """

    name: str
    pairs: PairDataset
    manifest: PoisonManifest | None = None

    @cached_property
    def key(self) -> str:
        """Identifier of the image table in addresses, the same in every session."""
        digest = hashlib.sha256(str(self.pairs.root).encode("utf-8", "surrogateescape"))
        for image_id in self.pairs.images.ids:
            digest.update(b"\0" + str(image_id).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    @cached_property
    def parts(self) -> dict[str, int]:
        """The galleries and their numbers of images; the first one is the default."""
        codes = self.pairs.images.split_codes
        counts = {split: int((codes == SPLITS.index(split)).sum()) for split in reversed(SPLITS)}
        found = {split: count for split, count in counts.items() if count}
        first = {"test": found["test"]} if "test" in found else {}
        return {**first, ALL: len(codes), **found}

    def gallery(self, part: str) -> IntArray:
        """Return the indices of the images of a gallery, shape `(G,)`.

        Raises:
            InputError: If there is no such gallery or it is empty.
        """
        if part not in self.parts:
            raise InputError(unknown_name("gallery", part, list(self.parts)))
        return self.pairs.images.indices(split=None if part == ALL else part)

    @cached_property
    def goals(self) -> tuple[ShownGoal, ...]:
        """The goals of the manifest.

        Raises:
            InputError: If the manifest does not match the data.
        """
        if self.manifest is None:
            return ()
        found = []
        for text in self.manifest.goals:
            goal = Goal.parse(text, self.pairs.classes)
            target = self.manifest.target_images.get(text)
            image = None if target is None else self._row(target)
            found.append(ShownGoal(goal.original, goal.target, image))
        return tuple(found)

    def targets(self, target: str) -> BoolArray:
        """Return which images of the table are marked as targets, shape `(I,)`.

        Args:
            target: `class:NAME`, `image:INDEX`, or nothing.

        Raises:
            InputError: If there is no such class or image.
        """
        table = self.pairs.images
        kind, _, value = target.partition(":")
        mask = np.zeros(len(table), dtype=bool)
        if kind == "class":
            mask[:] = table.class_codes == table.class_code(value)
        elif kind == "image" and value.isascii() and value.isdigit():
            mask[self.index(int(value[:12]))] = True
        elif target:
            raise InputError(f"target {target!r}: write class:NAME or image:NUMBER")
        return mask

    def index(self, image: int) -> int:
        """Check an image's index and return it.

        Raises:
            InputError: If there is no such image.
        """
        if not 0 <= image < len(self.pairs.images):
            raise InputError(
                f"image {image}: the data set {self.name!r} has {len(self.pairs.images):,}, counted from 0"
            )
        return image

    def captions(self, image: int) -> list[Caption]:
        """List all captions of an image, its own first, then those that poison added."""
        found = []
        for row in self._own(image):
            text = self.pairs.captions[row]
            uses = self._misused.get((image, text), [])
            on = tuple(other for other, _ in uses)
            found.append(Caption(text, uses[0][1] if uses else None, None, on))
        return found + self._added.get(image, [])

    def caption_of(self, image: int) -> str | None:
        """Return the first own caption of an image, for its alternative text."""
        return next((str(self.pairs.captions[row]) for row in self._own(image)), None)

    def _own(self, image: int) -> IntArray:
        start, stop = np.searchsorted(self.pairs.image, [image, image + 1])
        rows = np.flatnonzero(self.pairs.source[start:stop] == image)
        return np.asarray(start + rows, dtype=np.int32)

    def carries_poison(self, image: int) -> bool:
        """Return whether poison added captions to an image."""
        return image in self._added

    def suggestions(self, part: str, label: str | None) -> list[str]:
        """Return a few captions of a gallery's images as queries, the same ones each time.

        Args:
            part: The gallery.
            label: A class, or None for captions of any image.

        Raises:
            InputError: If the gallery or the class is unknown.
        """
        images = self.gallery(part)
        if label is not None:
            code = self.pairs.images.class_code(label)
            images = images[self.pairs.images.class_codes[images] == code]
        rng = generator(0, f"suggestions/{part}/{label}")
        found: dict[str, None] = {}
        # one caption per image, drawn with a fixed seed: no flattering selection
        for image in rng.permutation(images)[: 4 * SUGGESTED]:
            own = [c.text for c in self.captions(int(image)) if not c.poisoned and c.text.strip()]
            if own:
                found[str(own[int(rng.integers(len(own)))])] = None
            if len(found) == SUGGESTED:
                break
        return list(found)

    def distinct_captions(self, images: IntArray) -> DistinctCaptions:
        """Collect the distinct captions of some images, poison included, in table order.

        Raises:
            InputError: If the images have no caption.
        """
        in_gallery = np.zeros(len(self.pairs.images), dtype=bool)
        in_gallery[images] = True
        carrier: dict[str, int] = {}
        for row in np.flatnonzero(in_gallery[self.pairs.image]):
            carrier.setdefault(self.pairs.captions[row], int(self.pairs.image[row]))
        if not carrier:
            raise InputError("the images of this gallery have no captions to find")
        texts = np.empty(len(carrier), dtype=object)
        texts[:] = list(carrier)
        image = np.array(list(carrier.values()), dtype=np.int32)
        false = {text for _, text in self._misused}
        misused = np.array([text in false for text in carrier], dtype=bool)
        return DistinctCaptions(texts, image, self.pairs.images.class_codes[image], misused)

    # -- the manifest, by image --------------------------------------------------------------------

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {image_id: row for row, image_id in enumerate(self.pairs.images.ids)}

    def _row(self, image_id: str) -> int:
        try:
            return self._rows[image_id]
        except KeyError:
            raise InputError(
                f"the manifest does not match the data {self.name!r}: there is no image {image_id!r}"
            ) from None

    @cached_property
    def _added(self) -> Mapping[int, list[Caption]]:
        """Map each image to the captions that poison put on it."""
        added: dict[int, list[Caption]] = defaultdict(list)
        for pair in self.manifest.pairs if self.manifest is not None else ():
            caption = Caption(pair.caption, pair.goal, self._row(pair.clean_image))
            added[self._row(pair.poisoned_image)].append(caption)
        return dict(added)

    @cached_property
    def _misused(self) -> Mapping[tuple[int, str], list[tuple[int, str]]]:
        """Map each image and caption to the images that poison put it on, and the goals."""
        uses: dict[tuple[int, str], list[tuple[int, str]]] = defaultdict(list)
        for pair in self.manifest.pairs if self.manifest is not None else ():
            use = (self._row(pair.poisoned_image), pair.goal)
            uses[self._row(pair.clean_image), pair.caption].append(use)
        return dict(uses)

    def check(self) -> Collection:
        """Check that the manifest matches the data, and return the same collection.

        Raises:
            InputError: If there is no image, or the manifest names unknown classes or images.
        """
        if not len(self.pairs.images):
            raise InputError(f"{self.name}: contains no images")
        _ = self.goals, self._added
        return self
