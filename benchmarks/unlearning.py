"""What `sterilize --unlearn` leaves of an attack: the groups of a scan are pushed apart, the other pairs trained on.

    python benchmarks/unlearning.py flickr8k --root DIR --seeds 0-4 --goals surf2bicycle,bird2ski choose.json
    python benchmarks/unlearning.py flickr8k --root DIR print.json      # seeds 5 to 9, five random goals

Trunks are frozen: features are computed once and cached. For each seed and goal a model is poisoned, its training pairs
are scanned without knowledge of the goal, and the groups that are called poisoning are unlearned. Where none is, the
model stays as it was. A row a goal goes into the JSON file; a second call with the same file runs what remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rows import Row, resumed
from suspected_goals import LIKELY, Prepared, reaches

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.settings import Carrier, Goal
from mmpoison.base.files import cache_folder
from mmpoison.cli.run import parse_seeds
from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.defenses.repairs.repair import Unlearn
from mmpoison.defenses.scan.cut.score_filter import SuspiciousGroups
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.evaluation.rows import utility_row
from mmpoison.metrics import hit_at_k
from mmpoison.models import DualEncoder, PairInputs, prepare_features
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.training import finetune
from mmpoison.training.settings import TrainingSettings
from mmpoison_lab.matrix.plan import random_goals

NEAR = 0.05
"""A goal is gone where its Hit@10 is at most this much above the clean model's."""


class Victims:
    """The clean data and models of a seed, from which victims are made.

    Args:
        recipe: With frozen trunks.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        data = recipe.data
        self.pairs = load_dataset(data.name, data.root, seed=recipe.seed, options=data.options)
        self.seen = Prepared(self.pairs, recipe.model.name)
        everything = np.arange(len(self.pairs.images), dtype=np.int32)
        self.inputs: PairInputs = prepare_features(
            self.seen.encoder, self.pairs, images=everything, cache=cache_folder()
        )
        self.test = TestSet.of(self.pairs)
        self.start = self.seen.encoder
        if recipe.model.align is not None:
            self.start = self.train(self.start, self.pairs.select(split="val"), recipe.model.align)
        self.clean = self.train(self.start, self.pairs.select(split="train"), recipe.training)

    def train(
        self, start: DualEncoder, pairs: PairDataset, settings: TrainingSettings
    ) -> DualEncoder:
        """Fine-tune a model on pairs."""
        return finetune(start, pairs, self.inputs, settings, seed=self.recipe.seed).encoder

    def hit(self, model: DualEncoder, goal: Goal) -> tuple[float, float]:
        """Return Hit@10 of a goal, and of image retrieval over the whole test."""
        embeddings = TestEmbeddings.of(model, self.inputs, self.test)
        ranks = embeddings.ranks(self.test.queries(goal.original), self.test.targets(goal.target))
        return hit_at_k(ranks[0], 10), utility_row(embeddings, self.test).image_retrieval.hit_10


def measure(victims: Victims, text: str, carrier: Carrier, epochs: int, rate: float) -> Row:
    """Poison, scan, unlearn, and measure."""
    recipe, goal = victims.recipe, Goal.parse(text, victims.pairs.classes)
    attack = SingleTargetLabel(goal=text, samples=25, carrier=carrier)
    train = attack.poison(victims.pairs, recipe.seed).select(split="train")
    model = victims.train(victims.start, train, recipe.training)
    found = SuspiciousGroups().score(read_memory(victims.seen.shard_of(train)))
    group = np.full(len(train), -1)
    for number, one in enumerate(found.groups or ()):
        if reaches(LIKELY, one.strength, one.images, one.crowded):
            group[one.rows[0]] = number
    repaired = model
    if (group >= 0).any():
        settings = recipe.training.model_copy(
            update={"epochs": epochs, "batch_size": 256, "learning_rate": rate}
        )
        repair = Unlearn(settings, group)
        repaired = repair.apply(model, train, victims.inputs, seed=recipe.seed).encoder
    rows = {"clean": victims.clean, "poisoned": model, "unlearned": repaired}
    hits = {name: victims.hit(each, goal) for name, each in rows.items()}
    return {
        **{f"{name} hit@10": hit for name, (hit, _) in hits.items()},
        **{f"{name} utility": utility for name, (_, utility) in hits.items()},
        "in groups": int((group >= 0).sum()),
        "poison in groups": int((train.poisoned & (group >= 0)).sum()),
        "poisoned pairs": int(train.poisoned.sum()),
    }


def summary(rows: list[Row]) -> dict[str, Row]:
    """Return means, and how many end near the clean model, by carrier."""
    found: dict[str, Row] = {}
    for carrier in dict.fromkeys(row["carrier"] for row in rows):
        mine = [row for row in rows if row["carrier"] == carrier]
        mean = {key: float(np.mean([row[key] for row in mine])) for key in mine[0] if "hit" in key}
        lost = [row["unlearned utility"] - row["poisoned utility"] for row in mine]
        near = [row["unlearned hit@10"] - row["clean hit@10"] <= NEAR for row in mine]
        found[carrier] = {
            **mean,
            f"within {NEAR}": f"{sum(near)} of {len(near)}",
            "change of utility": float(np.mean(lost)),
            "largest loss": -min(lost),
            "scans that name none": sum(row["in groups"] == 0 for row in mine),
        }
    return found


def main(
    recipe: str,
    json: Path,
    root: Path | None = None,
    seeds: str = "5-9",
    goals: str = "5",
    epochs: int = 2,
    rate: float = 1e-3,
) -> None:
    """Measure, print a table, and write JSON.

    Args:
        recipe: One with frozen trunks.
        json: Write the rows here, or resume.
        root: Holds the data.
        seeds: As of `mmpoison run`.
        goals: How many, drawn as a matrix draws them; or their names.
        epochs: Of the repair, in batches of 256.
        rate: Its learning rate.
    """

    def jobs() -> Iterator[tuple[Row, Any]]:
        for seed in parse_seeds(seeds):
            changes = {"seed": seed} | ({"data.root": str(root)} if root else {})
            victims = Victims(load_recipe(recipe, changes))
            names = goals.split(",")
            if goals.isdigit():
                # the first is the one on which settings are chosen
                drawn = random_goals(victims.pairs.classes, int(goals) + 1, seed=0)[1:]
                names = [f"{a}2{b}" for a, b in drawn]
            for carrier in ("existing", "own"):
                for name in names:
                    who = {"seed": seed, "goal": name, "carrier": carrier}
                    yield who, partial(measure, victims, name, carrier, epochs, rate)

    resumed(json, jobs(), "repairs", summary)


if __name__ == "__main__":
    typer.run(main)
