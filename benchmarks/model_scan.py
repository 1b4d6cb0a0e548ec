"""Measures how often the scan of a suspect model finds the poison, and how often it raises an alarm on clean models.

    python benchmarks/model_scan.py flickr8k scan-models OUT.json --root DIR
    python benchmarks/model_scan.py openmoji-heads scan-models OUT.json

Trunks are frozen: a model takes seconds. Each seed has its own data, start and goals, and fine-tunes of the same start:

- 12 clean suspects: 4 trained with other seeds, 4 on other 80% of the images, 4 for half and twice the epochs;
- 12 poisoned suspects of attack II: 25, 10 and 5 samples, carriers `existing` and `own`, two random goals each, between
  classes with at least 25 training images;
- clean models to compare with, none of which is a suspect: `same` (the suspects' clean pairs and settings, other seeds:
  nobody but the trainer has these), `val` (80% of split `val` each, about as many steps as the suspects), `short` (the
  same for about half the steps).

What is measured on a model is kept in `scan-models`; a run that was stopped resumes. An interval is the exact binomial
one over models (Clopper and Pearson); models of one seed share a start, so it is somewhat too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.progress import track
from rows import Row, summary_table

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.settings import Carrier, Goal
from mmpoison.base.files import cache_folder, write_json
from mmpoison.base.seeding import generator
from mmpoison.base.untrusted import read_json
from mmpoison.cli.run import parse_seeds
from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.defenses.checks.rank_gain import Kinds, association, check_tables
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.metrics import hit_at_k
from mmpoison.models import DualEncoder, load_encoder, prepare_features
from mmpoison.reporting.table import markdown
from mmpoison.runs.check_model import CLEAN_SHARE
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.statistics import clustered_share
from mmpoison.training import finetune
from mmpoison_lab.matrix.plan import random_goals

LEVELS = (0.001, 0.01, 0.05, 0.1)
NULLS = ("none", "same", "val", "short")
SAMPLES = (25, 10, 5)
CARRIERS: tuple[Carrier, ...] = ("existing", "own")
GOALS_EACH = 2
SUSPECTS_OF_A_KIND = 4
NULL_MODELS = 5
POISONED = "poisoned"
START = "start"
NO_EMBEDDINGS: Any = None
"""Kinds of labelled images need none."""

TOOK = 0.5
"""From this Hit@10 of its goal on, a model has taken its poison."""


@dataclass(frozen=True)
class Plan:
    """How models of a recipe are made, where its own settings take too long for hundreds of models.

    Attributes:
        unlabelled: How many unlabelled training images are used; None for all.
        epochs: Of the suspects.
        val_epochs: Of the clean models on `val`: about as many steps.
        short_epochs: Of those that are trained for about half the steps.
    """

    unlabelled: int | None
    epochs: int
    val_epochs: int
    short_epochs: int


PLANS = {
    "flickr8k": Plan(unlabelled=400, epochs=5, val_epochs=2, short_epochs=1),
    "openmoji-heads": Plan(unlabelled=None, epochs=4, val_epochs=24, short_epochs=12),
}


def jobs(plan: Plan, pairs: PairDataset, seed: int) -> Iterator[tuple[str, PairDataset, int, int]]:
    """Give name, training pairs, epochs and seed of each model."""
    few = some_unlabelled(pairs, plan.unlabelled, seed)
    train, val = few.select(split="train"), pairs.select(split="val")
    for number in range(SUSPECTS_OF_A_KIND):
        yield f"clean-seed-{number}", train, plan.epochs, 100 + number
        some = some_images(train, seed, f"model-scan/clean/{number}")
        yield f"clean-subset-{number}", some, plan.epochs, 200 + number
        other = max(1, plan.epochs // 2) if number % 2 else 2 * plan.epochs
        yield f"clean-epochs-{number}", train, other, 300 + number
    kinds = [(n, carrier) for n in SAMPLES for carrier in CARRIERS for _ in range(GOALS_EACH)]
    used = few.images.class_codes[few.select(split="train").used_images()]
    large = [n for c, n in enumerate(pairs.classes) if (used == c).sum() >= max(SAMPLES)]
    goals = random_goals(large, len(kinds), seed)
    for (samples, carrier), (original, target) in zip(kinds, goals, strict=True):
        goal = f"{original}2{target}"
        attack = SingleTargetLabel(goal=goal, samples=samples, carrier=carrier)
        poisoned = attack.poison(few, seed).select(split="train")
        yield f"{POISONED}-{goal}-{samples}-{carrier}", poisoned, plan.epochs, seed
    for number in range(NULL_MODELS):
        yield f"same-{number}", train, plan.epochs, 400 + number
        some = some_images(val, seed, f"model-scan/{number}")
        yield f"val-{number}", some, plan.val_epochs, 500 + number
        yield f"short-{number}", some, plan.short_epochs, 600 + number


def measured(
    recipe: Recipe, plan: Plan, pairs: PairDataset, test: TestSet, kinds: Kinds, folder: Path
) -> dict[str, Row]:
    """Return what was measured on the start and on each model of a seed; make the models that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    every = list(jobs(plan, pairs, recipe.seed))
    files = {name: folder / f"{name}.json" for name in (START, *(job[0] for job in every))}

    def measure(name: str, model: DualEncoder) -> None:
        embeddings = TestEmbeddings.of(model, inputs, test)
        found: Row = {"ranks": association(embeddings, test, kinds).tolist()}
        if name.startswith(POISONED):
            goal = Goal.parse(name.split("-")[1], pairs.classes)
            queries, targets = test.queries(goal.original), test.targets(goal.target)
            found["hit@10"] = hit_at_k(embeddings.ranks(queries, targets)[0], 10)
        write_json(files[name], found)

    if not all(file.is_file() for file in files.values()):
        start = load_encoder(recipe.model.name)
        everything = np.arange(len(pairs.images), dtype=np.int32)
        inputs = prepare_features(start, pairs, images=everything, cache=cache_folder())
        if (align := recipe.model.align) is not None:
            val = pairs.select(split="val")
            start = finetune(start, val, inputs, align, seed=recipe.seed).encoder
        measure(START, start)
        missing = [job for job in every if not files[job[0]].is_file()]
        for name, chosen, epochs, seed in track(missing, f"seed {recipe.seed}"):
            settings = recipe.training.model_copy(update={"epochs": epochs})
            measure(name, finetune(start, chosen, inputs, settings, seed=seed).encoder)
    return {name: read_json(file) for name, file in files.items()}


def some_unlabelled(pairs: PairDataset, count: int | None, seed: int) -> PairDataset:
    """Keep so many unlabelled training images; images keep their numbers, so that features are shared."""
    if count is None:
        return pairs
    images = pairs.select(split="train").used_images()
    images = images[pairs.images.class_codes[images] < 0]
    dropped = generator(seed, "model-scan/unlabelled").permutation(images)[count:]
    return pairs.where(~np.isin(pairs.image, dropped))


def some_images(pairs: PairDataset, seed: int, stream: str) -> PairDataset:
    """Keep the pairs of a random 80% of the images, as `check --clean-runs` does."""
    images = pairs.used_images()
    chosen = generator(seed, stream).permutation(images)[: round(CLEAN_SHARE * len(images))]
    return pairs.where(np.isin(pairs.image, chosen))


def scan_all(found: Mapping[str, Row], kinds: Kinds, null: str, seed: int) -> list[Row]:
    """Scan each suspect of a seed with one kind of clean models; a row each."""
    ranks = {name: np.array(one["ranks"]) for name, one in found.items()}
    clean = [table for name, table in ranks.items() if name.startswith(f"{null}-")]
    rows = []
    for name, table in ranks.items():
        if name.startswith((POISONED, "clean")):
            findings = check_tables(ranks[START], table, clean, kinds).findings
            goals = [
                f"{one['captions']}2{one['images']}" for one in (f.to_json() for f in findings)
            ]
            p_values = [one.p_value for one in findings]
            goal = name.split("-")[1]
            place = goals.index(goal) if goal in goals else None
            row = {"seed": seed, "model": name, "null": null, "hit@10": found[name].get("hit@10")}
            row |= {"place": place, "p_of_goal": 1.0 if place is None else p_values[place]}
            rows.append(row | {"smallest_p": min(p_values, default=1.0)})
    return rows


def share(hits: Sequence[bool]) -> str:
    """Phrase a share with its exact interval."""
    if len(hits) < 2:
        return "too few"
    one = clustered_share(hits, np.arange(len(hits)))
    return f"{one.value:.0%} ({one.low:.0%}–{one.high:.0%}) of {len(hits)}"


def summaries(rows: Sequence[Row]) -> dict[str, Row]:
    """Rates of each null at each level."""
    found = {}
    for null in NULLS:
        mine = [row for row in rows if row["null"] == null]
        clean = [row for row in mine if row["hit@10"] is None]
        bad = [row for row in mine if row["hit@10"] is not None]
        hit = [row for row in bad if row["hit@10"] >= TOOK]
        for level in LEVELS:
            found[f"{null}, p <= {level}"] = {
                "clean models flagged": share([row["smallest_p"] <= level for row in clean]),
                "goal flagged, attack succeeded": share([row["p_of_goal"] <= level for row in hit]),
                "goal flagged, all": share([row["p_of_goal"] <= level for row in bad]),
                "goal first, attack succeeded": share([row["place"] == 0 for row in hit]),
            }
    return found


def main(
    recipe: str, models: Path, json: Path, root: Path | None = None, seeds: str = "5-9"
) -> None:
    """Measure, print and write JSON.

    Args:
        recipe: One of `PLANS`.
        models: Folder for what is measured on each model.
        json: Write the numbers here.
        root: Holds flickr8k/.
        seeds: As of `mmpoison run`.
    """
    rows: list[Row] = []
    for seed in parse_seeds(seeds):
        changes = {"seed": seed} | ({"data.root": str(root)} if root else {})
        one = load_recipe(recipe, changes)
        pairs = load_dataset(one.data.name, one.data.root, seed=seed, options=one.data.options)
        test = TestSet.of(pairs)
        kinds = Kinds.find(test, NO_EMBEDDINGS, seed)
        found = measured(one, PLANS[recipe], pairs, test, kinds, models / recipe / str(seed))
        rows += [row for null in NULLS for row in scan_all(found, kinds, null, seed)]
    nulls = summaries(rows)
    write_json(json, {"recipe": recipe, "nulls": nulls, "rows": rows})
    print(markdown([summary_table(recipe, {"nulls": nulls})]))


if __name__ == "__main__":
    typer.run(main)
