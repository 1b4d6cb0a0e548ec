"""How often the scan for suspected goals names the true goal first, what it removes, and what it says of clean data.

    python benchmarks/suspected_goals.py rsicd-ucm --root DIR --seed 1 --goals 24 --json OUT
    python benchmarks/suspected_goals.py openmoji --encoder openmoji-mini --goals 24 --json OUT

Features are computed once and kept in the cache folder; captions and images are clustered once, for an attack adds
none to them. Then a goal takes about a second. Goals are drawn at random from all pairs of classes; `--leave-out` names
goals on which settings were chosen.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.attacks import ATTACKS
from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import write_json
from mmpoison.base.seeding import generator
from mmpoison.datasets import load_dataset
from mmpoison.defenses.filter_result import FilterResult, PairScores, auroc
from mmpoison.defenses.filters.decide import decide
from mmpoison.defenses.filters.suspicious_groups import (
    SuspiciousGroups,
    Views,
    clusterings,
    views_of,
)
from mmpoison.errors import InputError
from mmpoison.models import PairInputs, load_encoder, prepare_features, prepare_pixels
from mmpoison.pairs.table import PairDataset

ATTACKS_RUN = (
    ("single-target-label", "add"),
    ("single-target-label", "replace"),
    ("single-target-image", "add"),
    ("single-target-image", "replace"),
)
CLEAN_SUBSETS = 20


class Prepared:
    """A clean set with its vectors and clusterings."""

    def __init__(self, pairs: PairDataset, encoder_name: str) -> None:
        self.pairs = pairs
        # images of the gallery too: attack I puts captions on one of them
        known = pairs.where(pairs.in_split("train") | pairs.in_split("test"))
        encoder = load_encoder(encoder_name)
        everything = np.arange(len(pairs.images), dtype=np.int32)  # as runs of recipes do
        try:
            inputs: PairInputs = prepare_features(
                encoder, pairs, images=everything, cache=cache_folder()
            )
        except InputError:  # no projections apart from the trunks
            inputs = prepare_pixels(encoder, known)
        self.views = views_of(known, encoder, inputs)
        self.clusterings = clusterings(self.views, seed=0)
        self.caption = {text: row for row, text in enumerate(np.unique(known.captions.astype(str)))}
        self.image = {int(image): row for row, image in enumerate(np.unique(known.image))}

    def score(self, train: PairDataset) -> PairScores:
        """Scan a poisoned version of the set."""
        views = Views(
            self.views.text,
            self.views.image,
            np.array([self.caption[caption] for caption in train.captions]),
            np.array([self.image[int(image)] for image in train.image]),
        )
        return SuspiciousGroups().score_views(train, views, prepared=self.clusterings)

    def judge_some(self, train: PairDataset, share: float, seed: int) -> FilterResult:
        """Scan the pairs of a random share of the images, with vectors and clusterings of their own."""
        images = np.unique(train.image)
        chosen = generator(seed, "clean-subset").random(len(images)) < share
        part = train.where(np.isin(train.image, images[chosen]))
        captions, caption_of = np.unique(part.captions.astype(str), return_inverse=True)
        used, image_of = np.unique(part.image, return_inverse=True)
        views = Views.of(
            self.views.text[[self.caption[caption] for caption in captions]],
            self.views.image[[self.image[int(image)] for image in used]],
            caption_of,
            image_of,
        )
        method = SuspiciousGroups()
        return decide(method, method.score_views(part, views, seed=seed), "benchmark")


def measure_goal(
    clean: Prepared, attack: str, mode: str, goal: str, samples: int, seed: int, lose: float
) -> dict[str, Any]:
    """Poison, scan, and compare with the truth."""
    plug_in: Any = ATTACKS[attack]
    poisoned = plug_in(goal=goal, samples=samples, mode=mode).poison(clean.pairs, seed)
    train = poisoned.select(split="train")
    start = time.perf_counter()
    # the scan gets the pairs as a stranger would
    stranger = replace(train, source=train.image, manifest=None)
    found = clean.score(stranger)
    result = decide(SuspiciousGroups(), found, "benchmark")
    seconds = time.perf_counter() - start
    keep = decide(SuspiciousGroups(clean_loss=lose), found, "benchmark").keep
    bad, goals = train.poisoned, result.goals or ()
    groups = [*goals, *result.unproven]
    true = [bool(bad[group.rows].mean() > 0.5) for group in groups]
    return {
        "attack": attack,
        "mode": mode,
        "goal": goal,
        "first": bool(true and true[0]),
        "found": any(true[: len(goals)]),
        "false_goals": sum(not one for one in true[: len(goals)]),
        "p_value": groups[0].p_value if groups else 1.0,
        "auroc": auroc(found.scores[bad], found.scores[~bad]),
        "poisoned": int(bad.sum()),
        "caught": int((~result.keep & bad).sum()),
        "clean_lost": int((~result.keep & ~bad).sum()),
        "caught_with_loss": int((~keep & bad).sum()),
        "clean_lost_with_loss": int((~keep & ~bad).sum()),
        "clean": int((~bad).sum()),
        "sentence": str(groups[0]) if groups else "",
        "seconds": round(seconds, 2),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over goals, one attack and mode."""
    caught = np.array([row["caught"] / row["poisoned"] for row in rows])
    return {
        "goals": len(rows),
        "first": float(np.mean([row["first"] for row in rows])),
        "found": float(np.mean([row["found"] for row in rows])),
        "sets_with_false_goals": sum(row["false_goals"] > 0 for row in rows),
        "auroc_mean": float(np.mean([row["auroc"] for row in rows])),
        "caught_mean": float(caught.mean()),
        "caught_median": float(np.median(caught)),
        "caught_with_loss_mean": float(
            np.mean([row["caught_with_loss"] / row["poisoned"] for row in rows])
        ),
        "clean_lost_with_loss_mean": float(
            np.mean([row["clean_lost_with_loss"] / row["clean"] for row in rows])
        ),
        "clean_lost_mean": float(np.mean([row["clean_lost"] / row["clean"] for row in rows])),
        "clean_lost_max": float(np.max([row["clean_lost"] / row["clean"] for row in rows])),
        "seconds_median": float(np.median([row["seconds"] for row in rows])),
    }


def random_goals(
    classes: tuple[str, ...], number: int, seed: int, leave_out: set[str]
) -> list[str]:
    """Different goals, drawn from all ordered pairs of classes."""
    every = [f"{a}2{b}" for a in classes for b in classes if a != b and f"{a}2{b}" not in leave_out]
    chosen = generator(seed, "benchmark-goals").permutation(len(every))[:number]
    return [every[index] for index in chosen]


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", help="A data set's name.")
    parser.add_argument("--root", type=Path, help="The folder of the data, where it needs one.")
    parser.add_argument("--encoder", default="efficientnet-minilm")
    parser.add_argument("--goals", type=int, default=24)
    parser.add_argument("--lose", type=float, default=0.02, help="clean_loss of a second scan.")
    parser.add_argument("--samples", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1, help="Of the data, goals and attacks.")
    parser.add_argument("--leave-out", default="", help="Goals that are not drawn, with commas.")
    parser.add_argument("--json", type=Path, help="Write the numbers here.")
    options = parser.parse_args()

    pairs = load_dataset(options.data, options.root, seed=options.seed)
    clean = Prepared(pairs, options.encoder)
    train = pairs.select(split="train")
    whole = decide(SuspiciousGroups(), clean.score(train), "benchmark")
    alarms = [
        min((goal.p_value for goal in (*(some.goals or ()), *some.unproven)), default=1.0)
        for some in (
            clean.judge_some(train, (0.25, 0.5, 0.75, 0.9)[number % 4], number)
            for number in range(CLEAN_SUBSETS)
        )
    ]
    found: dict[str, Any] = {
        "data": options.data,
        "encoder": options.encoder,
        "seed": options.seed,
        "pairs": len(train),
        "clean_goals": [str(goal) for goal in whole.goals or ()],
        "clean_subsets_smallest_p": sorted(alarms),
        "clean_subsets_with_goals": sum(p <= 0.01 for p in alarms),
        "attacks": {},
        "rows": [],
    }
    print(
        "clean:",
        found["clean_goals"] or "no goal",
        "| subsets with goals:",
        sum(p <= 0.01 for p in alarms),
        sorted(alarms)[:4],
    )
    goals = random_goals(
        pairs.classes, options.goals, options.seed, set(options.leave_out.split(","))
    )
    for attack, mode in ATTACKS_RUN:
        rows = []
        for goal in goals:
            row = measure_goal(
                clean, attack, mode, goal, options.samples, options.seed, options.lose
            )
            rows.append(row)
            print(
                f"{attack} {mode} {goal}: first {row['first']}, caught {row['caught']}/{row['poisoned']}, "
                f"with {options.lose:.0%} lost {row['caught_with_loss']}, AUROC {row['auroc']:.4f}, "
                f"lost {row['clean_lost']}, {row['sentence']}",
                flush=True,
            )
        found["rows"].extend(rows)
        found["attacks"][f"{attack}/{mode}"] = summary(rows)
        print(attack, mode, found["attacks"][f"{attack}/{mode}"], flush=True)
        if options.json:
            write_json(options.json, found)


if __name__ == "__main__":
    main()
