"""How often the scan of a suspect model finds the poison, and how often it raises an alarm on clean models.

    python benchmarks/model_scan.py rsicd-ucm --root DIR --seeds 5-9 --models scan-models --json OUT
    python benchmarks/model_scan.py openmoji-heads --seeds 5-9 --models scan-models --json OUT

Trunks are frozen: a model takes seconds. Each seed has its own data, start and goals, and fine-tunes of the same start:

- 12 clean suspects: 4 trained with other seeds, 4 on other 80% of the images, 4 for half and twice the epochs;
- 12 poisoned suspects of attack II: 25, 10 and 5 samples, carrier existing and own, two random goals each;
- clean models to compare with, none of which is a suspect: `same` (the suspects' clean pairs and settings, other seeds:
  nobody but the trainer has these), `val` (80% of split `val` each, about as many steps as the suspects), `short` (the
  same for about half the steps).

What is measured on a model is cached in `--models`; a run that was stopped resumes. An interval is the exact binomial
one over models (Clopper and Pearson); models of one seed share a start, so it is somewhat too narrow.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.goal import Goal, random_goals
from mmpoison.attacks.settings import Carrier
from mmpoison.base.files import cache_folder, write_json
from mmpoison.base.seeding import generator
from mmpoison.base.untrusted import read_json
from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.defenses.checks.canary import Kinds, association
from mmpoison.defenses.checks.rank_gain import check_tables
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.metrics import hit_at_k
from mmpoison.models import DualEncoder, PairInputs, load_encoder, prepare_features
from mmpoison.runs.check_model import CLEAN_SHARE
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.statistics import clustered_share
from mmpoison.training import finetune

LEVELS = (0.001, 0.01, 0.05, 0.1)
NULLS = ("none", "same", "val", "short")
SAMPLES = (25, 10, 5)
CARRIERS: tuple[Carrier, ...] = ("existing", "own")
GOALS_EACH = 2
SUSPECTS_OF_A_KIND = 4
NULL_MODELS = 5
POISONED = "poisoned"
START = "start"
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
    "rsicd-ucm": Plan(unlabelled=400, epochs=5, val_epochs=2, short_epochs=1),
    "openmoji-heads": Plan(unlabelled=None, epochs=4, val_epochs=24, short_epochs=12),
}


class Models:
    """Models of one seed: each is made once, and what is measured on it cached."""

    def __init__(self, recipe: Recipe, plan: Plan, folder: Path) -> None:
        self.recipe, self.plan, self.folder = recipe, plan, folder
        data = recipe.data
        self.pairs = load_dataset(data.name, data.root, seed=recipe.seed, options=data.options)
        self.few = some_unlabelled(self.pairs, plan.unlabelled, recipe.seed)
        self.test = TestSet.of(self.pairs)
        codes = self.pairs.images.class_codes[self.test.gallery]
        names = self.pairs.classes
        # as `Kinds.find` with labels; it needs no embeddings for them
        shares = (codes == np.arange(len(names))[:, None]).astype(np.float64)
        shares /= shares.sum(axis=1, keepdims=True)
        self.kinds = Kinds(shares, codes.astype(np.intp), names, names, "classes")

    def jobs(self) -> Iterator[tuple[str, PairDataset, int, int]]:
        """Give name, training pairs, epochs and seed of each model."""
        seed, epochs = self.recipe.seed, self.plan.epochs
        train, val = self.few.select(split="train"), self.pairs.select(split="val")
        for number in range(SUSPECTS_OF_A_KIND):
            yield f"clean-seed-{number}", train, epochs, 100 + number
            some = some_images(train, seed, f"model-scan/clean/{number}")
            yield f"clean-subset-{number}", some, epochs, 200 + number
            other = max(1, epochs // 2) if number % 2 else 2 * epochs
            yield f"clean-epochs-{number}", train, other, 300 + number
        for samples, carrier, goal in self.attacks():
            attack = SingleTargetLabel(goal=goal, samples=samples, carrier=carrier)
            poisoned = attack.poison(self.few, seed).select(split="train")
            yield f"{POISONED}-{goal}-{samples}-{carrier}", poisoned, epochs, seed
        for number in range(NULL_MODELS):
            yield f"same-{number}", train, epochs, 400 + number
            some = some_images(val, seed, f"model-scan/{number}")
            yield f"val-{number}", some, self.plan.val_epochs, 500 + number
            yield f"short-{number}", some, self.plan.short_epochs, 600 + number

    def attacks(self) -> Iterator[tuple[int, Carrier, str]]:
        """Give amount, carrier and goal of each poisoned model."""
        kinds = [(n, carrier) for n in SAMPLES for carrier in CARRIERS for _ in range(GOALS_EACH)]
        goals = random_goals(self.pairs.classes, len(kinds), self.recipe.seed)
        for (samples, carrier), (original, target) in zip(kinds, goals, strict=True):
            yield samples, carrier, f"{original}2{target}"

    def measured(self) -> dict[str, Any]:
        """Return what was measured on the start and on each model; make the models that are missing."""
        jobs = list(self.jobs())
        missing = [job for job in jobs if not self._path(job[0]).is_file()]
        if missing or not self._path(START).is_file():
            start = load_encoder(self.recipe.model.name)
            everything = np.arange(len(self.pairs.images), dtype=np.int32)
            inputs = prepare_features(start, self.pairs, images=everything, cache=cache_folder())
            if (align := self.recipe.model.align) is not None:
                val = self.pairs.select(split="val")
                start = finetune(start, val, inputs, align, seed=self.recipe.seed).encoder
            self._measure(START, start, inputs)
            for name, pairs, epochs, seed in track(missing, f"seed {self.recipe.seed}"):
                settings = self.recipe.training.model_copy(update={"epochs": epochs})
                model = finetune(start, pairs, inputs, settings, seed=seed).encoder
                self._measure(name, model, inputs)
        return {name: read_json(self._path(name)) for name in (START, *(job[0] for job in jobs))}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _measure(self, name: str, model: DualEncoder, inputs: PairInputs) -> None:
        embeddings = TestEmbeddings.of(model, inputs, self.test)
        found: dict[str, Any] = {"ranks": association(embeddings, self.test, self.kinds).tolist()}
        if name.startswith(POISONED):
            goal = Goal.parse(name.split("-")[1], self.pairs.classes)
            queries, targets = self.test.queries(goal.original), self.test.targets(goal.target)
            found["hit@10"] = hit_at_k(embeddings.ranks(queries, targets)[0], 10)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), found)


def some_unlabelled(pairs: PairDataset, count: int | None, seed: int) -> PairDataset:
    """Keep so many unlabelled training images; images keep their numbers, so that features are shared."""
    if count is None:
        return pairs
    train = pairs.select(split="train")
    images = train.used_images()
    images = images[pairs.images.class_codes[images] < 0]
    dropped = generator(seed, "model-scan/unlabelled").permutation(images)[count:]
    return pairs.where(~np.isin(pairs.image, dropped))


def some_images(pairs: PairDataset, seed: int, stream: str) -> PairDataset:
    """Keep the pairs of a random 80% of the images, as `evaluate --suspect --clean-runs` does."""
    images = pairs.used_images()
    chosen = generator(seed, stream).permutation(images)[: round(CLEAN_SHARE * len(images))]
    return pairs.where(np.isin(pairs.image, chosen))


def scan_all(found: Mapping[str, Any], kinds: Kinds, null: str, seed: int) -> list[dict[str, Any]]:
    """Scan each suspect of a seed with one kind of clean models; a row each."""
    ranks = {name: np.array(one["ranks"]) for name, one in found.items()}
    clean = [table for name, table in ranks.items() if name.startswith(f"{null}-")]
    rows = []
    for name, table in ranks.items():
        if not name.startswith((POISONED, "clean")):
            continue
        result = check_tables(ranks[START], table, clean, kinds)
        goal = name.split("-")[1] if name.startswith(POISONED) else None
        findings = [one.to_json() for one in result.findings]
        named = [f"{one['captions']}2{one['images']}" for one in findings]
        p_values = [one.p_value for one in result.findings]
        place = named.index(goal) if goal in named else None
        rows.append(
            {
                "seed": seed,
                "model": name,
                "null": null,
                "hit@10": found[name].get("hit@10"),
                "place": place,
                "p_of_goal": 1.0 if place is None else p_values[place],
                "smallest_p": min(p_values, default=1.0),
                "first": named[0] if named else None,
            }
        )
    return rows


def share(hits: Sequence[bool]) -> str:
    """Phrase a share with its exact interval."""
    if len(hits) < 2:
        return "too few"
    one = clustered_share(hits, np.arange(len(hits)))
    assert one.low is not None
    assert one.high is not None
    return f"{one.value:.0%} ({one.low:.0%}–{one.high:.0%}) of {len(hits)}"


def summaries(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates of one null at each level."""
    clean = [row for row in rows if row["hit@10"] is None]
    bad = [row for row in rows if row["hit@10"] is not None]
    took = [row for row in bad if row["hit@10"] >= TOOK]
    return {
        f"{rows[0]['null']}, p <= {level}": {
            "clean models flagged": share([row["smallest_p"] <= level for row in clean]),
            "goal flagged, poison took": share([row["p_of_goal"] <= level for row in took]),
            "goal flagged, all": share([row["p_of_goal"] <= level for row in bad]),
            "goal first, poison took": share([row["place"] == 0 for row in took]),
        }
        for level in LEVELS
    }


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", choices=PLANS)
    parser.add_argument("--root", type=Path, help="Holds rsicd/ and ucm/.")
    parser.add_argument("--models", type=Path, required=True, help="Folder for what is measured.")
    parser.add_argument("--seeds", default="5-9", help="First and last, or one.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    first, _, last = options.seeds.partition("-")
    rows: list[dict[str, Any]] = []
    for seed in range(int(first), int(last or first) + 1):
        changes = {"seed": seed} | ({"data.root": str(options.root)} if options.root else {})
        recipe = load_recipe(options.recipe, changes)
        folder = options.models / options.recipe / str(seed)
        models = Models(recipe, PLANS[options.recipe], folder)
        found = models.measured()
        for null in NULLS:
            rows += scan_all(found, models.kinds, null, seed)
    nulls: dict[str, Any] = {}
    for null in NULLS:
        nulls |= summaries([row for row in rows if row["null"] == null])
    for name, line in nulls.items():
        print(name, line)
    if options.json:
        write_json(options.json, {"recipe": options.recipe, "nulls": nulls, "rows": rows})


if __name__ == "__main__":
    main()
