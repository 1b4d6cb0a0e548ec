"""The registry of the paper's tables and figures: how each is built from the rows of runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.paper import figures, image_sheets, tables
from mmpoison.paper.figures import Curves
from mmpoison.paper.measured import (
    ATTACK_1,
    ATTACK_2,
    ATTACK_3,
    Results,
    attack_2,
    is_balanced,
    with_model,
)
from mmpoison.paper.page import Page
from mmpoison.paper.paper_values import paper
from mmpoison.paper.tables import DEEP_HITS, DEFENDED, FROZEN, DriftTable, HitTable

Render = Callable[[Results, Page], None]


@dataclass(frozen=True)
class Entry:
    """One table or figure.

    Attributes:
        name: `table-3`, `figure-5a`.
        title: What it is of.
        short: The same in a few words.
        needs: What the runs must hold, for a reader who has none.
        render: Puts its tables and figures on a page.
    """

    name: str
    title: str
    short: str
    needs: str
    render: Render


def _of(attack: Callable[..., bool], *, balanced: bool = False, **keys: str) -> tables.Pick:
    """Pick the rows of an attack, on whole data or on balanced data."""

    def pick(results: Results) -> Results:
        runs = results.where(attack, **keys)
        return runs.where(is_balanced) if balanced else runs.whole_data()

    return pick


OTHER_GOALS = "Goals that are not the paper's are paired with its goals in order."
NO_BASELINE = "The paper prints no baseline in this table."
LESS_IS_BETTER = "The defence: ▲ where it leaves less of the attack than the paper's."
ORDER = "Not all of it is poison: clean pairs in another order make the models drift too (study order-drift)."
BY, AFTER = (
    "Hit@10 and MinRank {}.",
    "Hit@10 and MinRank of the attack after so many {} of the repair.",
)
BY_EPOCH, BY_STEP = (partial(figures.by_repair, column=column) for column in ("epoch", "x"))

RENDERERS: dict[str, Render] = {
    "table-1": tables.utility_of_attacks,
    "table-2": HitTable(_of(ATTACK_1)),
    "table-3": HitTable(_of(ATTACK_2)),
    "table-4": HitTable(_of(ATTACK_3), note=OTHER_GOALS),
    "table-5": HitTable(_of(attack_2), FROZEN, DEEP_HITS, varies=("training.trainable",)),
    "table-6": tables.transfer,
    "table-7": tables.utility_after_repair,
    "table-8": tables.repair_rates,
    "table-9": tables.data_sizes,
    "table-10": tables.model_sizes,
    "table-11": DriftTable(_of(ATTACK_2, model="poisoned"), ORDER, tested=True),
    "table-12": tables.frozen_over_seeds,
    "table-13": HitTable(_of(ATTACK_2, balanced=True), note=NO_BASELINE),
    "table-14": DriftTable(
        _of(ATTACK_2, balanced=True, model="poisoned"), f"The paper's are of one run. {ORDER}"
    ),
    "table-15": tables.query_lengths,
    "table-16": HitTable(
        lambda results: with_model(_of(ATTACK_2)(results), "filtered"),
        DEFENDED,
        keep=("filter",),
        note=LESS_IS_BETTER,
    ),
    "figure-1": figures.drift_bars,
    "figure-2": Curves(
        figures.by_rate, "poisoning rate (%)", BY.format("against the poisoning rate")
    ),
    "figure-3": Curves(figures.by_epoch, "epochs", BY.format("after each epoch of one training")),
    "figure-4": Curves(figures.by_encoder, "model", BY.format("for each model"), named=True),
    "figure-5a": Curves(
        figures.by_size, "training pairs", BY.format("against the size of the data")
    ),
    "figure-5b": figures.goal_map,
    "figure-6": figures.distances,
    "figure-7": Curves(BY_EPOCH, "epochs", AFTER.format("epochs")),
    "figure-8": figures.embedding_maps,
    "figure-9": Curves(BY_STEP, "steps", AFTER.format("steps"), log=True),
    "figure-10": image_sheets.confusing_images,
    "rank-lists": image_sheets.rank_lists,
}

PAPER = {
    name: Entry(
        name, paper()[name]["title"], paper()[name]["short"], paper()[name]["needs"], render
    )
    for name, render in RENDERERS.items()
}
"""The tables and figures by name, in the order of the paper: tables first."""


def find_entry(name: str) -> Entry:
    """Return the table or figure of a name.

    Raises:
        InputError: If there is none.
    """
    if name not in PAPER:
        raise InputError(unknown_name("table or figure", name, PAPER))
    return PAPER[name]
