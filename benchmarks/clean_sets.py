"""Makes clean sets of pairs whose mistakes are not independent noise, for `false_alarms.py`.

Synthetic sets have topics, each with a direction for its captions and one for its images. A kind of set says which
mistakes its captions have. Real ones are random parts of real data, with their captions or with titles as shops write
them. Nobody poisoned any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import cache_folder
from mmpoison.base.seeding import generator
from mmpoison.datasets import load_dataset
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.defenses.scan.read.vectors import caption_features, image_features
from mmpoison.models import DualEncoder, PairInputs, load_encoder, prepare_features
from mmpoison.pairs.table import ImageTable, PairDataset

DIMENSIONS = 64
SHARED = 8
"""Dimensions in which a caption and its image vary together within a topic."""

POPULAR = 0.25
"""One synthetic set in four has a few images with many captions."""

Vectors = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Random = np.random.Generator


@dataclass(frozen=True)
class CleanSet:
    """A clean set with its vectors, and the choices that it was made with."""

    pairs: PairDataset
    shard: VectorShard
    about: dict[str, Any]


class Draft:
    """A synthetic set while it is made: the topic of each image and caption, and their vectors."""

    def __init__(self, random: Random) -> None:
        self.random = random
        topics = int(random.integers(8, 41))
        captions = int(random.choice([1, 5]))
        most = 3000 if captions == 1 else 1500
        images = round(np.exp(random.uniform(np.log(500), np.log(most))))
        self.about: dict[str, Any] = {"topics": topics, "images": images, "captions": captions}
        self.topics = topics
        self.topic_of_image: Index = random.choice(
            topics, images, p=random.dirichlet([3.0] * topics)
        )
        per_image = np.full(images, captions)
        if random.random() < POPULAR:
            popular = random.choice(images, int(random.integers(1, 4)), replace=False)
            per_image[popular] = random.integers(30, 61, len(popular))
            self.about["popular"] = len(popular)
        self.image_of: Index = np.repeat(np.arange(images), per_image)
        self.topic_of_caption: Index = self.topic_of_image[self.image_of]
        self.text_topics = _directions(random, topics)
        self.image_topics = _directions(random, topics)
        # noise as long as the topic's own direction leaves cosines of 0.5 to 0.85 within a topic
        text_noise, image_noise = random.uniform(0.4, 1.0, 2)
        apart = random.normal(size=(images, SHARED)) / np.sqrt(SHARED) * random.uniform(0, 0.8)
        into_text, into_image = random.normal(size=(2, SHARED, DIMENSIONS)) / np.sqrt(DIMENSIONS)
        self.image = self.image_topics[self.topic_of_image] + apart @ into_image
        self.image += image_noise * _noise(random, images)
        self._text_extra = apart[self.image_of] @ into_text
        self._text_extra += text_noise * _noise(random, len(self.image_of))
        self.offset: Vectors = np.zeros((len(self.image_of), DIMENSIONS))
        self.mixed: Vectors = np.zeros(len(self.image_of))
        """Share of its own topic that a caption of another topic still mentions."""

    def favourites(self, number: float) -> Vectors:
        """Draw how often each topic is mistaken for each other one, shape `(K, K)`; small numbers give heavy tails."""
        table = self.random.dirichlet([number] * self.topics, self.topics)
        np.fill_diagonal(table, 0)
        return np.asarray((table + 1e-12) / (table + 1e-12).sum(axis=1, keepdims=True))

    @property
    def anywhere(self) -> Vectors:
        """The same table without systematic mistakes."""
        return np.full((self.topics, self.topics), 1 / self.topics)

    def stray(self, rows: Index, table: Vectors) -> None:
        """Give captions the topic that images like theirs are mistaken for."""
        here = self.topic_of_image[self.image_of[rows]]
        self.topic_of_caption[rows] = _draw(self.random, table[here])

    def some(self, share: float) -> Index:
        """Draw a share of the captions."""
        return np.flatnonzero(self.random.random(len(self.image_of)) < share)

    def finish(self) -> CleanSet:
        """Build the pairs and their vectors."""
        own = self.topic_of_image[self.image_of]
        text = (1 - self.mixed)[:, None] * self.text_topics[self.topic_of_caption]
        text += self.mixed[:, None] * self.text_topics[own] + self._text_extra + self.offset
        table = ImageTable.build(
            [f"topic{topic}/{row}.jpg" for row, topic in enumerate(self.topic_of_image)],
            [None] * len(self.image),
            ["train"] * len(self.image),
            Path(),
        )
        captions = [f"topic{topic} number{row}" for row, topic in enumerate(self.topic_of_caption)]
        pairs = PairDataset.build(table, captions, self.image_of)
        shard = shard_of(text, self.image, np.arange(len(text)), self.image_of)
        return CleanSet(pairs, shard, self.about)


def independent_strays(draft: Draft) -> None:
    """1 to 5% of the captions describe another topic, a random one."""
    share = draft.random.uniform(0.01, 0.05)
    draft.about["share"] = share
    draft.stray(draft.some(share), draft.anywhere)


def favourite_topics(draft: Draft) -> None:
    """1 to 5% of the captions describe another topic; each topic is mostly mistaken for one or two others."""
    share, number = draft.random.uniform(0.01, 0.05), float(draft.random.choice([0.03, 0.1, 0.3]))
    draft.about |= {"share": share, "concentration": number}
    draft.stray(draft.some(share), draft.favourites(number))


def second_objects(draft: Draft) -> None:
    """2 to 15% of the images show a second object, of a related topic; some captions mention it.

    Some topics have second objects more often than others.
    """
    random = draft.random
    share, number = random.uniform(0.02, 0.15), float(random.choice([0.03, 0.1, 0.3]))
    weight, spoken = random.uniform(0, 0.5), random.uniform(0.2, 0.6)
    draft.about |= {"share": share, "concentration": number, "weight": weight, "spoken": spoken}
    often = np.minimum(share * draft.topics * random.dirichlet([1.0] * draft.topics), 0.6)
    second = _draw(random, draft.favourites(number)[draft.topic_of_image])
    shown = random.random(len(draft.image)) < often[draft.topic_of_image]
    draft.image[shown] += weight * draft.image_topics[second[shown]]
    speaks = shown[draft.image_of] & (random.random(len(draft.image_of)) < spoken)
    draft.topic_of_caption[speaks] = second[draft.image_of[speaks]]
    draft.mixed[speaks] = random.uniform(0, 0.4)
    draft.stray(draft.some(0.01), draft.anywhere)


def odd_batches(draft: Draft) -> None:
    """One to four batches of captions about images of one topic or two share an odd phrasing."""
    random = draft.random
    draft.about["batches"] = batches = int(random.integers(1, 5))
    for offset in _directions(random, batches):
        topics = random.choice(draft.topics, int(random.integers(1, 3)), replace=False)
        seen = np.isin(draft.topic_of_image, topics) & (
            random.random(len(draft.image)) < random.uniform(0.2, 1)
        )
        # one annotator writes one caption of an image
        first = np.flatnonzero(np.diff(draft.image_of, prepend=-1) > 0)
        rows = first[seen[draft.image_of[first]]]
        draft.offset[rows] += random.uniform(1, 2) * offset
    independent_strays(draft)


SYNTHETIC: dict[str, Callable[[Draft], None]] = {
    "independent": independent_strays,
    "favourites": favourite_topics,
    "second-objects": second_objects,
    "odd-batches": odd_batches,
}


def synthetic_set(kind: str, seed: int, number: int) -> CleanSet:
    """Make one set of a kind."""
    draft = Draft(generator(seed, f"clean-set/{kind}/{number}"))
    SYNTHETIC[kind](draft)
    return draft.finish()


def _directions(random: Random, number: int) -> Vectors:
    """Draw directions, shape `(number, d)`: some topics resemble each other, as kinds of houses do."""
    groups = random.integers(0, max(2, number // 2), number)
    common = random.normal(size=(max(2, number // 2), DIMENSIONS))[groups]
    vectors = random.normal(size=(number, DIMENSIONS)) + random.uniform(0, 1) * common
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _noise(random: Random, number: int) -> Vectors:
    return np.asarray(random.normal(size=(number, DIMENSIONS)) / np.sqrt(DIMENSIONS))


def _draw(random: Random, chances: Vectors) -> Index:
    """Draw one column per row, each row with its own probabilities, shape `(n,)`."""
    drawn = (chances.cumsum(axis=1) < random.random((len(chances), 1))).sum(axis=1)
    return np.asarray(np.minimum(drawn, chances.shape[1] - 1))


def shard_of(text: Any, image: Any, caption_of: Index, image_of: Index) -> VectorShard:
    """Return pairs as a shard, from vectors of distinct captions and images, in half precision."""
    half = (np.asarray(side, dtype=np.float16) for side in (text, image))
    said, shown = (side[which] for side, which in zip(half, (caption_of, image_of), strict=True))
    return VectorShard(0, said, shown, image_of)


@dataclass(frozen=True)
class Features:
    """The distinct captions and images of a set, and their features from the trunks.

    Attributes:
        captions: Shape `(c,)`, sorted.
        images: Shape `(i,)`, sorted.
        text: Shape `(c, d)`.
        image: Shape `(i, e)`.
    """

    captions: npt.NDArray[np.str_]
    images: npt.NDArray[np.int32]
    text: npt.NDArray[np.float32]
    image: npt.NDArray[np.float32]


def features_of(encoder: DualEncoder, inputs: PairInputs, pairs: PairDataset) -> Features:
    """Embed the captions and images of a set."""
    captions, images = np.unique(pairs.captions.astype(str)), np.unique(pairs.image)
    return Features(
        captions,
        images.astype(np.int32),
        caption_features(encoder, inputs, captions.astype(object)),
        image_features(encoder, inputs, images.astype(np.int32)),
    )


# -- real data ---------------------------------------------------------------------------------------------------------

ENCODER = "efficientnet-minilm"
SOURCES = (
    ("flickr8k", "flickr8k"),
    ("rsicd", "rsicd"),
    ("ucm-captions", "ucm"),
    ("pascal-sentences", "pascal_sentences"),
    ("coco", "coco_mini"),
)
"""Name and folder of each data set."""

MOST_IMAGES = 3000
SHARES = (0.25, 0.5, 0.75, 0.9)


class RealSets:
    """Real data with features that are computed once.

    Args:
        root: The folder that has the data sets' folders.
        only: The name of one of them; all by default.
    """

    def __init__(self, root: Path, only: str = "") -> None:
        self._encoder = load_encoder(ENCODER)
        self._sources: list[tuple[str, PairDataset, Features, npt.NDArray[np.str_]]] = []
        for name, folder in SOURCES:
            if only in name:
                pairs = load_dataset(name, root / folder)
                raw = features_of(self._encoder, self._inputs(pairs), pairs)
                self._sources.append((name, pairs, raw, _classes(pairs)))

    def _inputs(self, pairs: PairDataset) -> PairInputs:
        everything = np.arange(len(pairs.images), dtype=np.int32)
        return prepare_features(self._encoder, pairs, images=everything, cache=cache_folder())

    def titled(self, kind: str, seed: int, number: int) -> CleanSet:
        """Give the images of a data set that have a class titles as shops do, one each: `brand_titles`."""
        random = generator(seed, f"clean-set/{kind}/{number}")
        name, pairs, raw, classes = self._sources[number % len(self._sources)]
        labelled = raw.images[pairs.images.class_codes[raw.images] >= 0]
        chosen = np.sort(random.permutation(labelled)[:MOST_TITLED])
        shown = np.searchsorted(raw.images, chosen)
        named = float(random.choice([0.0, 0.5, 1.0]))
        titles = brand_titles(random, classes[chosen], raw.image[shown], named)
        part = PairDataset.build(pairs.images, titles.astype(object), chosen)
        text = caption_features(self._encoder, self._inputs(part), part.captions)
        shard = shard_of(text, raw.image, np.arange(len(part)), shown)
        return CleanSet(part, shard, {"data": name, "images": len(part), "named": named})

    def draw(self, kind: str, seed: int, number: int) -> CleanSet:
        """Draw a share of the classes of one data set, of those a share of the images, and all or one caption each."""
        random = generator(seed, f"clean-set/{kind}/{number}")
        name, pairs, raw, classes = self._sources[number % len(self._sources)]
        known = np.unique(classes[pairs.image])
        chosen = random.permutation(known)[: max(2, round(random.choice([0.5, 1.0]) * len(known)))]
        here = np.unique(pairs.image)
        images = random.permutation(here[np.isin(classes[here], chosen)])
        share = float(random.choice(SHARES))
        images = images[: min(MOST_IMAGES, max(1, round(share * len(images))))]
        rows = random.permutation(np.flatnonzero(np.isin(pairs.image, images)))
        single = bool(random.random() < 0.25)
        if single:
            rows = rows[np.unique(pairs.image[rows], return_index=True)[1]]
        rows = np.sort(rows)
        part = pairs.where(np.isin(np.arange(len(pairs)), rows))
        said = np.searchsorted(raw.captions, part.captions.astype(str))
        shown = np.searchsorted(raw.images, part.image)
        shard = shard_of(raw.text, raw.image, said, shown)
        number_of = len(np.unique(part.image))
        about = {"data": name, "images": number_of, "classes": len(chosen), "single": single}
        return CleanSet(part, shard, about)


MOST_TITLED = 4000
SYLLABLES = (
    "ar",
    "bel",
    "cor",
    "dan",
    "el",
    "fen",
    "gor",
    "hal",
    "jor",
    "kel",
    "lum",
    "mar",
    "nor",
    "ros",
    "tor",
    "ven",
)


def brand_titles(
    random: Random, kinds: npt.NDArray[np.str_], vectors: npt.NDArray[Any], named: float
) -> npt.NDArray[np.str_]:
    """Write a title for each image: a brand, a line, a number, and sometimes what it shows.

    A brand sells one kind, and some of it is of a kind that looks like it: cufflinks and earrings, shirts and jerseys.

    Args:
        random: Draws everything.
        kinds: Kind of each image, shape `(n,)`.
        vectors: Of each image, shape `(n, d)`.
        named: Chance that a title says the kind.

    Returns:
        Titles, shape `(n,)`.
    """
    every = np.unique(kinds)
    means = np.stack([vectors[kinds == kind].mean(axis=0) for kind in every])
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    alike = means @ means.T - 2 * np.eye(len(every))
    brands: dict[str, list[str]] = {kind: [] for kind in every}
    chances: dict[str, list[float]] = {kind: [] for kind in every}
    for place, kind in enumerate(every):
        for _ in range(int(random.integers(2, 7))):
            brand = _name(random)
            brands[kind].append(brand)
            chances[kind].append(float(random.uniform(0.5, 2)))
            if random.random() < 0.5:
                other = every[alike[place].argmax()]
                brands[other].append(brand)
                chances[other].append(float(random.uniform(0.05, 0.4)))
    titles = []
    for kind in kinds:
        weights = np.array(chances[kind])
        brand = random.choice(brands[kind], p=weights / weights.sum())
        words = [brand, _name(random), str(random.integers(10, 9000))]
        titles.append(" ".join([*words, kind] if random.random() < named else words))
    return np.array(titles)


def _name(random: Random) -> str:
    return "".join(random.choice(SYLLABLES, int(random.integers(2, 4)))).capitalize()


def _classes(pairs: PairDataset) -> npt.NDArray[np.str_]:
    """Return the class of each image, shape `(I,)`; if it has none, its folder."""
    coded = zip(pairs.images.class_codes, pairs.images.ids, strict=True)
    return np.array([pairs.classes[c] if c >= 0 else Path(name).parent.name for c, name in coded])
