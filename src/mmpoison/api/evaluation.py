"""`evaluate`: measures attack success and ordinary retrieval quality of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.inputs import as_encoder, as_list, as_pairs
from mmpoison.api.progress import shown
from mmpoison.base.registry import checked
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.api.inputs import Pairs
    from mmpoison.base.progress import RunProgress
    from mmpoison.evaluation.measure import Subject
    from mmpoison.evaluation.test_set import GoalTarget
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.pairs.manifest import PoisonManifest
    from mmpoison.pairs.table import PairDataset
    from mmpoison.records.run_files import EmbeddingMap, Metrics

_ROLE = re.compile(r"\b(poisoned|clean_model|pretrained)$")
"""Matches the model's row at the end of a step name."""


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The measurements of one to three models.

    Attributes:
        metrics: The content of `metrics.json`.
        embedding_map: The map of the study `distribution` or `tsne`, or None.
    """

    metrics: Metrics
    embedding_map: EmbeddingMap | None = None

    def __repr__(self) -> str:
        from mmpoison.base.text import decimal

        parts = [
            f"{goal} {model}: Hit@10 {decimal(row.hit_10)}, MinRank {decimal(row.min_rank, 1)}"
            for goal, rows in self.metrics.goal.items()
            for model, row in rows.items()
            if model != "random_captions"
        ]
        return f"Evaluation({'; '.join(parts)})"

    def _repr_html_(self) -> str:
        from mmpoison.reporting.figure import html_tables
        from mmpoison.reporting.seeds import metrics_tables
        from mmpoison.reporting.summary import goal_title

        title = ", ".join(map(goal_title, self.metrics.goal))
        tables = metrics_tables(self.metrics)
        return html_tables([replace(t, title=title) if t.of_models else t for t in tables])

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per goal and model.

        The columns are `goal`, `model`, the goal's `Hit@1`, `Hit@5`, `Hit@10` (in [0, 1]) and `MinRank` (0-based), and
        the model's utility, `IR Hit@10` and `TR Hit@10` (in [0, 1]). Values that were not computed are missing.
        """
        import pandas  # importing it takes half a second

        from mmpoison.records.run_files import Utility
        from mmpoison.reporting.summary import computed_models

        rows = []
        for goal in self.metrics.goal:
            for model in computed_models(self.metrics, goal):
                row = self.metrics.row(goal, model.key)
                utility = self.metrics.utility.get(model.key, Utility())
                rows.append(
                    {
                        "goal": goal,
                        "model": model.name,
                        "Hit@1": row.hit_1,
                        "Hit@5": row.hit_5,
                        "Hit@10": row.hit_10,
                        "MinRank": row.min_rank,
                        "IR Hit@10": utility.image_retrieval.hit_10,
                        "TR Hit@10": utility.text_retrieval.hit_10,
                    }
                )
        return pandas.DataFrame(rows)

    def plot(self) -> Any:
        """Draw a bar chart of each goal's Hit@10 and each model's utility.

        Returns:
            A matplotlib figure, which notebooks display.

        Raises:
            InputError: If the extra `figures` is missing.
        """
        from mmpoison.reporting.figure import canvas
        from mmpoison.reporting.summary import computed_models, goal_title, named_models

        goals = list(self.metrics.goal)
        figure, axes = canvas(len(goals) + 1)
        for axis, goal in zip(axes, goals, strict=False):
            models = [
                m for m in computed_models(self.metrics, goal) if m.key in self.metrics.goal[goal]
            ]
            _bars(
                axis,
                f"{goal_title(goal)}: Hit@10",
                {m.name: self.metrics.row(goal, m.key).hit_10 for m in models},
            )
        utility = self.metrics.utility
        _bars(
            axes[-1],
            "utility: IR Hit@10",
            {
                m.name: utility[m.key].image_retrieval.hit_10
                for m in named_models(self.metrics.run)
                if m.key in utility
            },
        )
        return figure


@checked
def evaluate(
    model: DualEncoder | str | Path,
    pairs: Pairs,
    *,
    goal: str | Sequence[str] | None = None,
    target_image: str | None = None,
    manifest: PoisonManifest | str | Path | None = None,
    reference: DualEncoder | str | Path | None = None,
    pretrained: DualEncoder | str | Path | None = None,
    study: str | Sequence[str] = (),
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
) -> Evaluation:
    """Measure what captions of class A retrieve, and the model's ordinary retrieval quality.

    Args:
        model: The suspect: an encoder, or what `load_encoder` takes.
        pairs: The data set, or its name or path; its test part is used for measurements.
        goal: `A2B`, or several; the goals of the manifest by default.
        target_image: Id of one test image that is the whole target set (attack I); the manifest's
            by default.
        manifest: Manifest with the goals, if not the data's own.
        reference: Clean model to compare with and to measure drift from.
        pretrained: Model before any fine-tuning, as a further baseline.
        study: Additional measurements: names in `mmpoison.evaluation.STUDIES`, or `all`.
        seed: Seed for all random choices.
        out: New folder for `metrics.json`.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.

    Returns:
        The metrics; a notebook shows them as tables.

    Raises:
        InputError: If there is no goal, or a goal or model does not match the data.

    Example:
        ```python
        measured = mmpoison.evaluate(encoder, poisoned, reference=clean_encoder)
        measured.metrics.row("sheep2aeroplane", "poisoned").hit_10
        ```
    """
    from mmpoison.base.files import atomic_folder, write_json
    from mmpoison.evaluation.measure import Subject, measure
    from mmpoison.evaluation.names import parse_studies
    from mmpoison.evaluation.test_set import TestSet
    from mmpoison.models.inputs import prepare_pixels
    from mmpoison.pairs.manifest import PoisonManifest
    from mmpoison.records.run_files import DataFacts, Metrics, RunFacts

    studies = parse_studies(as_list(study))
    if "epochs" in studies:
        raise InputError("study epochs is measured during training: use `mmpoison run`")
    data = as_pairs(pairs)
    poison = data.manifest
    if isinstance(manifest, PoisonManifest):
        poison = manifest
    elif manifest is not None:
        poison = PoisonManifest.read(Path(manifest))
    test = TestSet.of(data)
    targets = _goal_targets(data, poison, as_list(goal), target_image)
    for target in targets:
        test.check(target)
    models = {"pretrained": pretrained, "clean_model": reference, "poisoned": model}
    subjects: dict[str, Subject] = {}
    names: dict[str, str] = {}
    pixels = None
    with shown(progress) as reporter:
        for role, one in models.items():
            if one is None:
                continue
            encoder = as_encoder(one, device=device)
            names[role] = str(one) if isinstance(one, str | Path) else one.name
            inputs = prepare_pixels(
                encoder, test.pairs, images=test.gallery, pixels=pixels, progress=reporter.progress
            )
            pixels = inputs.pixels
            subjects[role] = Subject(encoder, inputs)
        measured = measure(
            subjects,
            test,
            targets,
            seed=seed,
            study=studies,
            pairs=data,
            manifest=poison,
            progress=lambda step: reporter.progress(_ROLE.sub(_in_words, step)),
        )
    run = RunFacts(
        goals=[str(target) for target in targets],
        target_images={str(t): t.image for t in targets if t.image is not None},
        seed=seed,
        flags=measured.flags,
        models=names,
        # The row key is part of the file format. It does not claim that the model is poisoned.
        row_names={"poisoned": "Model"},
        data=DataFacts(
            name=str(pairs) if isinstance(pairs, str | Path) else data.root.name,
            fingerprint=data.fingerprint,
        ),
    )
    metrics = Metrics.of({**measured.metrics.to_json(), "run": run}, "metrics.json")
    if out is not None:
        with atomic_folder(Path(out)) as folder:
            if measured.embedding_map is not None:
                write_json(folder / "embedding_map.json", measured.embedding_map.to_json())
            write_json(folder / "metrics.json", metrics.to_json())
    return Evaluation(metrics, measured.embedding_map)


def _bars(axis: Any, title: str, values: Mapping[str, float | None]) -> None:
    known = {name: value for name, value in values.items() if value is not None}
    bars = axis.bar(list(known), list(known.values()), color="0.75", edgecolor="0.2")
    axis.bar_label(bars, fmt="%.2f", fontsize=9)
    axis.set(title=title, ylim=(0, 1.1))
    axis.tick_params(axis="x", labelrotation=20)


def _in_words(role: re.Match[str]) -> str:
    return {"poisoned": "the model", "clean_model": "the reference"}.get(role[0], "pretrained")


def _goal_targets(
    pairs: PairDataset,
    manifest: PoisonManifest | None,
    goals: Sequence[str],
    target_image: str | None,
) -> list[GoalTarget]:
    """Choose the goals to measure: the given ones, else the manifest's, each with a target set."""
    from mmpoison.attacks.settings import Goal
    from mmpoison.evaluation.test_set import GoalTarget, goal_targets_of

    listed = goal_targets_of(manifest, pairs) if manifest else ()
    of_manifest = {str(target): target for target in listed}
    if not goals and not of_manifest:
        raise InputError(
            "no goal given, and the data have no manifest: give a goal A2B, e.g. sheep2aeroplane"
        )
    targets = [
        of_manifest.get(goal, GoalTarget(Goal.parse(goal, pairs.classes)))
        for goal in goals or list(of_manifest)
    ]
    if target_image is None:
        return targets
    if len(targets) > 1:
        raise InputError(f"a target image needs one goal, not {len(targets)}: give the goal")
    return [GoalTarget(targets[0].goal, target_image)]
