"""How often the scan of a suspect model ranks the poison's goal first, and what it says of clean fine-tunes.

    python benchmarks/model_scan.py --root DIR --seed 2 --goals 20 --models scan-models --json OUT

Makes, or takes from `--models`, one poisoned model a goal (recipe `rsicd-ucm`, attack II, 25 samples added), clean
fine-tunes of the same start on the same clean pairs and on those of the split `val`, and scans each of them with
either kind of clean fine-tune, and with none, as what is usual. A clean model is compared with the other clean ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from suspected_goals import random_goals

from mmpoison.attacks import SingleTargetLabel
from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import write_json
from mmpoison.base.seeding import generator
from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.defenses.scans.canary import Kinds, Table, association
from mmpoison.defenses.scans.rank_gain import scan_tables
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.models import (
    DualEncoder,
    load_checkpoint,
    load_encoder,
    prepare_features,
    save_checkpoint,
)
from mmpoison.runs.recipe import load_recipe
from mmpoison.training import TrainingSettings, finetune

ALARM = 0.01


class Models:
    """Models by name, made once and kept."""

    def __init__(self, folder: Path, pairs: PairDataset) -> None:
        self.folder = folder
        start = load_encoder("efficientnet-minilm")
        everything = np.arange(len(pairs.images), dtype=np.int32)
        self.inputs = prepare_features(start, pairs, images=everything, cache=cache_folder())
        self.start = start

    def get(
        self,
        name: str,
        start: DualEncoder,
        train: PairDataset,
        settings: TrainingSettings,
        seed: int,
    ) -> DualEncoder:
        """Fine-tune, unless it is there."""
        path = self.folder / name
        if not path.is_dir():
            made = finetune(start, train, self.inputs, settings, seed=seed, name=name).encoder
            save_checkpoint(
                made, path, card=f"# {name}\n\nMade to measure a scan; may be poisoned.\n"
            )
            print("made", name, flush=True)
        return load_checkpoint(path)


def measure(
    suspects: dict[str, Table], reference: Table, clean: dict[str, Table], kinds: Kinds
) -> list[dict[str, Any]]:
    """A row a suspect; a clean one is not compared with itself."""
    rows = []
    for name, table in suspects.items():
        usual = [other for key, other in clean.items() if key != name]
        found = scan_tables(reference, table, usual, kinds)
        p_values = {
            f"{row['captions']}2{row['images']}": row["p_value"]
            for row in (finding.to_json() for finding in found.findings)
        }
        goals = list(p_values)
        flagged = {goal: value for goal, value in p_values.items() if value <= ALARM}
        rows.append(
            {
                "model": name,
                "rank": goals.index(name) if name in goals else None,
                "flagged": flagged,
                "smallest_p": min(p_values.values(), default=1.0),
            }
        )
    return rows


def summary(rows: Sequence[dict[str, Any]], goals: Sequence[str]) -> dict[str, Any]:
    """Shares over poisoned and over clean models."""
    bad = [row for row in rows if row["model"] in goals]
    good = [row for row in rows if row["model"] not in goals]
    return {
        "poisoned_models": len(bad),
        "goal_first": float(np.mean([row["rank"] == 0 for row in bad])),
        "goal_flagged": float(np.mean([row["model"] in row["flagged"] for row in bad])),
        "other_pairs_flagged": sum(len(set(row["flagged"]) - {row["model"]}) for row in bad),
        "clean_models": len(good),
        "clean_models_flagged": sum(bool(row["flagged"]) for row in good),
    }


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="Holds rsicd/ and ucm/.")
    parser.add_argument("--models", type=Path, required=True, help="Folder for the models.")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--goals", type=int, default=20)
    parser.add_argument("--clean", type=int, default=6, help="Clean fine-tunes of each kind.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    recipe = load_recipe("rsicd-ucm", {"seed": options.seed, "data.root": str(options.root)})
    assert recipe.model.align is not None
    pairs = load_dataset("rsicd-ucm", options.root, seed=options.seed)
    train, val = pairs.select(split="train"), pairs.select(split="val")
    models = Models(options.models / f"seed{options.seed}", pairs)
    start = models.get("pretrained", models.start, val, recipe.model.align, options.seed)
    goals = random_goals(pairs.classes, options.goals, options.seed, set())
    made: dict[str, DualEncoder] = {}
    for goal in goals:
        poisoned = SingleTargetLabel(goal=goal, samples=25, mode="add").poison(pairs, options.seed)
        made[goal] = models.get(
            goal, start, poisoned.select(split="train"), recipe.training, options.seed
        )
    for number in range(options.clean):
        made[f"clean{number}"] = models.get(
            f"clean{number}", start, train, recipe.training, 100 + number
        )
        images = val.used_images()
        order = generator(options.seed, f"model-scan/{number}").permutation(images)
        some = val.where(np.isin(val.image, order[: round(0.8 * len(images))]))
        made[f"val{number}"] = models.get(
            f"val{number}", start, some, recipe.training, options.seed + number
        )
    test = TestSet.of(pairs)
    before = TestEmbeddings.of(start, models.inputs, test)
    kinds = Kinds.find(test, before, 0)
    tables = {
        name: association(TestEmbeddings.of(encoder, models.inputs, test), test, kinds)
        for name, encoder in made.items()
    }
    found: dict[str, Any] = {"seed": options.seed, "goals": goals, "nulls": {}}
    for null in ("clean", "val", "none"):
        usual = {name: table for name, table in tables.items() if name.startswith(null)}
        kept = {n: t for n, t in tables.items() if n in goals or n.startswith("clean")}
        rows = measure(kept, association(before, test, kinds), usual, kinds)
        found["nulls"][null] = {**summary(rows, goals), "rows": rows}
        print(null, summary(rows, goals), flush=True)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
