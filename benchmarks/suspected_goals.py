"""How much poison `suspicious-groups` removes, attacker by attacker, and how often it names the true goal first.

    python benchmarks/suspected_goals.py flickr8k --root DIR --seeds 0-4 choose.json   # to choose on
    python benchmarks/suspected_goals.py flickr8k --root DIR --seeds 5-7 print.json    # to print
    python benchmarks/suspected_goals.py rsicd --root DIR/rsicd print.json             # satellite photos
    python benchmarks/suspected_goals.py openmoji --encoder openmoji-mini print.json

Features are computed once and cached. Every attacker of `attackers.py` gets the same random goals of each seed, but for
`nearest-assigned`, whose B is one of A's five nearest classes. A row an attack goes into the JSON file; a second call
with the same file runs what remains. `oracle` is the share caught by a linear classifier that knows the poison, on the
same vectors: what the features allow. `recall` and `precision` are those of the goal's groups that are worth a look.
`relevance-filter` is the share caught by the distance at 2% lost, where the
encoder is aligned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer
from attackers import ATTACKERS, Attacker
from clean_sets import features_of, shard_of
from rows import Row, resumed

from mmpoison.attacks import VectorSurrogate
from mmpoison.attacks.catalogue import build_attack, run_attack
from mmpoison.base.files import cache_folder
from mmpoison.base.seeding import generator
from mmpoison.cli.run import parse_seeds
from mmpoison.datasets import load_dataset
from mmpoison.defenses.scan.cut.result import auroc
from mmpoison.defenses.scan.cut.score_filter import SuspiciousGroups
from mmpoison.defenses.scan.groups.levels import FEWEST_IMAGES, false_alarms_at
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vector_shard import Space, VectorShard
from mmpoison.defenses.scan.read.vectors import caption_features
from mmpoison.errors import InputError
from mmpoison.metrics import cosine_distance
from mmpoison.models import MODELS, PairInputs, load_encoder, prepare_features, prepare_pixels
from mmpoison.models.embedding import embed_captions, embed_images
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.run_measures import recall_at
from mmpoison.statistics import clustered_share
from mmpoison_lab.attacks.matching import nearest_classes
from mmpoison_lab.matrix.plan import random_goals

LIKELY, LOOK = 0.01, 0.1
CAUGHT = {f"caught at {loss:.1%}": loss for loss in (0.001, 0.01, 0.02, 0.05)}
COLUMNS = (
    *(*CAUGHT, "relevance-filter", "oracle", "auroc", "first", "look", "likely", "false goals"),
    *("recall", "precision"),
)
NEAREST = 5
FOLDS = 5


class Prepared:
    """A clean set with the features of its captions and images."""

    def __init__(self, pairs: PairDataset, encoder_name: str) -> None:
        # images of the gallery too: attack I puts captions on one of them
        known = pairs.where(pairs.in_split("train") | pairs.in_split("test"))
        self.encoder, self.pairs = load_encoder(encoder_name), pairs
        everything = np.arange(len(pairs.images), dtype=np.int32)  # as runs of recipes do
        inputs = self._prepare(pairs, known, everything)
        self.raw = features_of(self.encoder, inputs, known)
        self.captions, self.images = self.raw.captions, self.raw.images
        self.embedded: tuple[Any, Any] | None = None
        if MODELS[encoder_name].aligned:
            self.embedded = (
                embed_captions(self.encoder, self.captions.tolist()),
                embed_images(self.encoder, inputs, self.images.astype(np.int32)),
            )
        self.surrogate = VectorSurrogate(
            self.captions.tolist(),
            Space.fit(self.raw.text).reduce(self.raw.text),
            self.images,
            Space.fit(self.raw.image).reduce(self.raw.image),
        )

    def _prepare(self, pairs: PairDataset, known: PairDataset, images: Any) -> PairInputs:
        try:
            return prepare_features(self.encoder, pairs, images=images, cache=cache_folder())
        except InputError:  # no projections apart from the trunks
            return prepare_pixels(self.encoder, known)

    def shard_of(self, train: PairDataset) -> VectorShard:
        """Return a poisoned version of the set as the filter sees it; captions that are new to it are embedded."""
        captions = train.captions.astype(str)
        known, text = self.captions, self.raw.text
        new = np.setdiff1d(captions, known)
        if len(new):
            written = train.where(np.isin(captions, new))
            inputs = self._prepare(written, written, written.used_images())
            known = np.concatenate([known, new])
            text = np.concatenate(
                [text, caption_features(self.encoder, inputs, new.astype(object))]
            )
            order = np.argsort(known, kind="stable")
            known, text = known[order], text[order]
        shown = np.searchsorted(self.images, train.image)
        return shard_of(text, self.raw.image, np.searchsorted(known, captions), shown)

    def distances(self, train: PairDataset) -> npt.NDArray[np.float64] | None:
        """Return the distance of each pair, as `relevance-filter` takes it; None for towers that are not aligned."""
        if self.embedded is None:
            return None
        captions, text = train.captions.astype(str), self.embedded[0]
        new = np.setdiff1d(captions, self.captions)
        if len(new):
            text = np.concatenate([text, embed_captions(self.encoder, new.tolist())])
        row = {name: place for place, name in enumerate((*self.captions, *new))}
        said = text[[row[caption] for caption in captions]]
        shown = self.embedded[1][np.searchsorted(self.images, train.image)]
        return np.asarray(cosine_distance(said, shown))

    def goals(self, attacker: Attacker, number: int, seed: int) -> list[list[str]]:
        """Draw the goals of each attack of an attacker; a set of goals has one target class."""
        near = nearest_classes(self.pairs, self.surrogate, NEAREST) if attacker.near else None
        classes = self.pairs.classes
        drawn: list[list[str]] = []
        for first, target in random_goals(classes, number, seed, near):
            others = [name for name in classes if name not in (first, target)]
            more = generator(seed, f"benchmark-goals/{first}2{target}").permutation(others)
            names = [first, *more[: attacker.goals - 1]]
            drawn.append([f"{name}2{target}" for name in names])
        return drawn


def one_caption_an_image(pairs: PairDataset, seed: int) -> PairDataset:
    """Return a set with one of the captions of each image, drawn at random."""
    order = generator(seed, "benchmark-single").permutation(len(pairs))
    first = order[np.unique(pairs.image[order], return_index=True)[1]]
    return pairs.where(np.isin(np.arange(len(pairs)), first))


def measure(clean: Prepared, attacker: Attacker, goals: list[str], seed: int) -> Row:
    """Poison, scan, and compare with the truth; an attack that is not possible on the set is an `error`."""
    pairs = one_caption_an_image(clean.pairs, seed) if attacker.single else clean.pairs
    attack = build_attack(attacker.attack, goals, attacker.options)
    try:
        poisoned = run_attack(attack, pairs, seed, lambda _: clean.surrogate)
    except InputError as error:  # too few images of a class, say
        return {"error": str(error)}
    train = poisoned.select(split="train")
    shard = clean.shard_of(train)
    start = time.perf_counter()
    # the scan is not told the truth
    found = SuspiciousGroups().score(read_memory(shard))
    scores = np.nan_to_num(found.of(0))
    seconds = time.perf_counter() - start
    bad = train.poisoned & _of_goals(poisoned, train)  # decoys are not what is measured
    good = ~train.poisoned
    groups = found.groups or ()
    true = [bool(bad[group.rows[0]].mean() > 0.5) for group in groups]
    named = [
        group.rows[0]
        for group, own in zip(groups, true, strict=True)
        if own and reaches(LOOK, group.strength, group.images, group.crowded)
    ]
    members = np.unique(np.concatenate(named)) if named else None
    distances = clean.distances(train)
    return {
        "poisoned": int(bad.sum()),
        "clean": int(good.sum()),
        **{name: recall_at(scores[bad], scores[good], loss) for name, loss in CAUGHT.items()},
        "relevance-filter": None
        if distances is None
        else recall_at(distances[bad], distances[good], 0.02),
        "auroc": auroc(scores[bad], scores[good]),
        "oracle": oracle(shard, bad, good, 0.02),
        "first": bool(true and true[0]),
        "recall": None if members is None else float(bad[members].sum() / bad.sum()),
        "precision": None if members is None else float(bad[members].mean()),
        "scores": [
            [g.strength, g.images, g.crowded, own] for g, own in zip(groups, true, strict=True)
        ],
        "seconds": round(seconds, 2),
    }


def oracle(
    shard: VectorShard, bad: npt.NDArray[np.bool_], good: npt.NDArray[np.bool_], loss: float
) -> float | None:
    """Return what a linear classifier catches that learns from the poison itself, across folds of images.

    None where all poison is in one fold, as on the one image of attack I.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    rows = np.flatnonzero(bad | good)
    sides = (Space.fit(side).reduce(side) for side in (shard.text, shard.image))
    x = np.nan_to_num(np.concatenate(list(sides), axis=1)[rows])
    fold, truth = shard.owner[rows] % FOLDS, bad[rows]
    if len(np.unique(fold[truth])) < 2:
        return None
    judge = RidgeClassifier(class_weight="balanced")
    folds = PredefinedSplit(fold)
    scores = cross_val_predict(judge, x, truth, cv=folds, method="decision_function")
    return recall_at(scores[truth], scores[~truth], loss)


def _of_goals(poisoned: PairDataset, train: PairDataset) -> npt.NDArray[np.bool_]:
    """Return which training pairs serve the goals of the attack itself."""
    manifest = poisoned.manifest
    assert manifest is not None
    own = {(p.caption, p.poisoned_image) for p in manifest.pairs if p.goal in manifest.goals}
    ids = train.images.ids[train.image].astype(str)
    return np.array([pair in own for pair in zip(train.captions.astype(str), ids, strict=True)])


def value(row: Row, name: str) -> Any:
    """Return a column of a row; grades are by the levels that the filter has now."""
    level, wanted = {
        "look": (LOOK, True),
        "likely": (LIKELY, True),
        "false goals": (LIKELY, False),
    }.get(name, (None, None))
    if level is None:
        return row[name]
    return any(
        reaches(level, score, images, crowded)
        for score, images, crowded, true in row["scores"]
        if true == wanted
    )


def reaches(level: float, strength: float, images: int, crowded: bool) -> bool:
    """Say whether a group has a grade: it is large enough, and clean sets have one so strong at most this often."""
    return (images >= FEWEST_IMAGES or crowded) and false_alarms_at(strength) <= level


def summary(rows: list[Row]) -> dict[str, Row]:
    """Return the means over goals of each attacker, by its name; None where no row has a value."""
    found: dict[str, Row] = {}
    for attacker in ATTACKERS:
        every = [row for row in rows if row["attacker"] == attacker.name]
        mine = [row for row in every if "error" not in row]
        if not mine:
            continue
        first = clustered_share([row["first"] for row in mine], range(len(mine)))
        found[attacker.name] = {"goals": len(mine), "not possible": len(every) - len(mine)}
        for name in (*COLUMNS, "seconds"):
            values = [each for row in mine if (each := value(row, name)) is not None]
            found[attacker.name][name] = float(np.mean(values)) if values else None
        found[attacker.name] |= {"first from": first.low, "first to": first.high}
    return found


def main(
    data: str,
    json: Path,
    root: Path | None = None,
    encoder: str = "efficientnet-minilm",
    seeds: str = "5-7",
    goals: int = 3,
    only: list[str] | None = None,
) -> None:
    """Measure, print a table, and write JSON.

    Args:
        data: A data set's name.
        json: Write the rows here, or resume.
        root: The folder of the data, where it needs one.
        encoder: What the scan judges by.
        seeds: As of `mmpoison run`.
        goals: Of each seed.
        only: Names of attackers, all unless given.
    """

    def jobs() -> Iterator[tuple[Row, Any]]:
        for seed in parse_seeds(seeds):
            clean = Prepared(load_dataset(data, root, seed=seed), encoder)
            for attacker in (one for one in ATTACKERS if not only or one.name in only):
                for own in clean.goals(attacker, goals, seed):
                    who = {"attacker": attacker.name, "seed": seed, "goals": own}
                    yield who, partial(measure, clean, attacker, own, seed)

    resumed(json, jobs(), "attacks", summary)


if __name__ == "__main__":
    typer.run(main)
