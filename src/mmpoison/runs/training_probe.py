"""Evaluation during training: the goals and the utility after each epoch (figure 3), or by step (figures 7 and 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mmpoison.evaluation.rows import goal_row, utility_row
from mmpoison.evaluation.test_set import GoalTarget, TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.records.run_files import (
    GoalRow,
    ProbedTest,
    ProbeRecord,
    RepairBranch,
    RepairCurve,
)
from mmpoison.training.probes import Measure


def measure_of_test(
    test: TestSet, goal_targets: Sequence[GoalTarget], inputs: PairInputs
) -> Measure:
    """Return what measures the goals and the utility on a test part.

    Args:
        test: The test part.
        goal_targets: What is measured.
        inputs: Prepared inputs that hold it.
    """

    def measure(encoder: DualEncoder, place: Mapping[str, float]) -> ProbeRecord:
        embeddings = TestEmbeddings.of(encoder, inputs, test)
        measured = ProbedTest(
            goal={str(target): goal_row(embeddings, test, target) for target in goal_targets},
            utility=utility_row(embeddings, test),
        )
        return ProbeRecord.of({**place, "test": measured})

    return measure


def epoch_rows(
    probes: Mapping[str, Iterable[ProbeRecord]],
) -> dict[str, dict[str, dict[str, GoalRow]]]:
    """Arrange rows by goal, model and number of epochs: the section `study.epochs` of `metrics.json`.

    Args:
        probes: The records of each model's training.
    """
    rows: dict[str, dict[str, dict[str, GoalRow]]] = {}
    for name, records in probes.items():
        for record in records:
            for goal, row in record.test.goal.items():
                rows.setdefault(goal, {}).setdefault(name, {})[str(record.epoch)] = row
    return rows


def repair_curve(probes: Iterable[ProbeRecord], learning_rate: float | None) -> RepairCurve:
    """Build the content of `sterilize-curve.json` of a run, measured on the test part.

    Args:
        probes: The records of the repair.
        learning_rate: Of the repair; None where it has none.
    """
    probes = [
        ProbeRecord.of({**record.to_json(), "utility": record.test.utility}) for record in probes
    ]
    return RepairCurve(
        branches=[RepairBranch(learning_rate=learning_rate, chosen=True, looks=probes)]
    )
