"""Measures a model during training: after 1, 2, 5, 10, ... steps of the first epoch, and after every epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mmpoison.base.files import write_json
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.records.run_files import ProbeRecord
from mmpoison.training.loop import Step

Measure = Callable[[DualEncoder, Mapping[str, float]], ProbeRecord]
"""Measures a model, given `step`, `epoch`, and the step's learning rate and loss."""


class Probes:
    """A callback of `finetune` that measures the model after some steps without changing it.

    Args:
        measure: Measures.
        start: Returns the measurement before the first step.
        steps_per_epoch: Steps per epoch; each epoch ends with a measurement. None (unknown) treats all steps as one
            epoch.
        file: File that stores the records for a resume; None stores none.
        within: Also measure after 1, 2, 5, 10, ... steps of the first epoch.
        every: Also measure after every N steps.

    Raises:
        InputError: If the file is broken.
    """

    def __init__(
        self,
        measure: Measure,
        start: Callable[[], ProbeRecord],
        steps_per_epoch: int | None,
        file: Path | None = None,
        *,
        within: bool = False,
        every: int | None = None,
    ) -> None:
        self._measure, self._steps_per_epoch, self._file = measure, steps_per_epoch, file
        self._within, self._every = within, every
        self._by_step = {} if file is None else {one.step: one for one in _read(file)}
        if 0 not in self._by_step:
            self._keep(start())

    def __call__(self, step: Step, encoder: DualEncoder) -> None:
        """Measure if the step is due."""
        if self.due(step):
            place = {
                "step": step.step,
                "epoch": step.epoch + self._ends(step),
                "learning_rate": step.learning_rate,
                "training_loss": step.loss,
            }
            self._keep(self._measure(encoder, place))

    def due(self, step: Step) -> bool:
        """Check whether to measure at a step."""
        first = step.step < (self._steps_per_epoch or step.steps)
        return (
            self._ends(step)
            or (self._every is not None and step.step % self._every == 0)
            or (self._within and first and in_series(step.step))
        )

    def _ends(self, step: Step) -> bool:
        """Check whether a step ends an epoch or the training."""
        return step.step == step.steps or step.step % (self._steps_per_epoch or step.steps) == 0

    def finish(self, encoder: DualEncoder, steps: int) -> list[ProbeRecord]:
        """Return all records. If nothing was measured during training, measure now."""
        if len(self._by_step) > 1:
            return self.records
        # a repair without steps ends at its start
        return [*self.records, self._measure(encoder, {"step": steps})]

    @property
    def records(self) -> list[ProbeRecord]:
        """The measurements in step order."""
        return [self._by_step[step] for step in sorted(self._by_step)]

    def _keep(self, record: ProbeRecord) -> None:
        self._by_step[record.step] = record
        if self._file is not None:
            write_json(self._file, [one.to_json() for one in self.records])


def in_series(step: int) -> bool:
    """Check whether a step is 1, 2 or 5 times a power of ten.

    >>> tuple(step for step in range(1, 300) if in_series(step))
    (1, 2, 5, 10, 20, 50, 100, 200)
    """
    while step % 10 == 0 and step:
        step //= 10
    return step in (1, 2, 5)


def _read(file: Path) -> list[ProbeRecord]:
    if not file.is_file():
        return []
    try:
        return ProbeRecord.read_list(file)
    except InputError as error:
        raise InputError(f"{error}: delete the file and train again") from None
