"""Evaluation during training: the goals and the utility after each epoch (figure 3), or by step (figures 7 and 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmpoison.base.files import write_json
from mmpoison.defenses.repairs.repair_watch import in_series
from mmpoison.errors import InputError
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
from mmpoison.training.loop import Step


class TrainingProbe:
    """A callback of `finetune` that measures the goals and the utility on the test part, and changes nothing.

    Args:
        test: The test part.
        goal_targets: What is measured.
        inputs: Prepared inputs that hold it.
        steps_per_epoch: Steps of an epoch; each epoch ends with a measurement.
        file: Stores the records, for a training that is resumed.
        start: The model before the first step.
        within: Also measure after 1, 2, 5, 10, ... steps of the first epoch.
        every: Also measure after each so many steps of the first epoch.

    Raises:
        InputError: If the file is broken.
    """

    def __init__(
        self,
        test: TestSet,
        goal_targets: Sequence[GoalTarget],
        inputs: PairInputs,
        steps_per_epoch: int,
        file: Path,
        *,
        start: DualEncoder,
        within: bool = False,
        every: int | None = None,
    ) -> None:
        self._test, self._goal_targets, self._inputs = test, tuple(goal_targets), inputs
        self._steps_per_epoch, self._file = steps_per_epoch, file
        self._within, self._every = within, every
        self._by_step: dict[int, ProbeRecord] = {}
        if file.is_file():
            self._by_step = {record.step: record for record in _read(file)}
        if 0 not in self._by_step:
            self._measure(start, {"step": 0, "epoch": 0})

    def __call__(self, step: Step, encoder: DualEncoder) -> None:
        """Measure, if the step is one of those to measure at."""
        ends = step.step % self._steps_per_epoch == 0 or step.step == step.steps
        first = step.step < self._steps_per_epoch
        often = self._every is not None and step.step % self._every == 0
        if ends or (first and (often or (self._within and in_series(step.step)))):
            self._measure(
                encoder,
                {
                    "step": step.step,
                    "epoch": step.epoch + ends,
                    "learning_rate": step.learning_rate,
                    "training_loss": step.loss,
                },
            )

    @property
    def records(self) -> list[ProbeRecord]:
        """The measurements in the order of the steps."""
        return [self._by_step[step] for step in sorted(self._by_step)]

    def _measure(self, encoder: DualEncoder, place: Mapping[str, float]) -> None:
        embeddings = TestEmbeddings.of(encoder, self._inputs, self._test)
        test = ProbedTest(
            goal={str(t): goal_row(embeddings, self._test, t) for t in self._goal_targets},
            utility=utility_row(embeddings, self._test),
        )
        record = ProbeRecord.of({**place, "test": test})
        self._by_step[record.step] = record
        write_json(self._file, [record.to_json() for record in self.records])


def _read(file: Path) -> list[ProbeRecord]:
    try:
        return ProbeRecord.read_list(file)
    except InputError as error:
        raise InputError(f"{error}: delete the file and train again") from None


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
