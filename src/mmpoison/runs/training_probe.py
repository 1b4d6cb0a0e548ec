"""What a model does on the test part while it trains: after each epoch (figure 3), or step by step (7 and 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.defenses.repairs.repair_watch import in_series
from mmpoison.errors import InputError
from mmpoison.evaluation.goal_target import Aim
from mmpoison.evaluation.rows import goal_row, utility_row
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.training.loop import Step


class Looks:
    """A callback of `finetune` that measures the goals and the utility, and changes nothing.

    Args:
        test: The test part.
        aims: What is measured.
        inputs: Prepared inputs that hold it.
        steps_per_epoch: Says where an epoch ends; there it always looks.
        file: Keeps what was seen, for a training that is taken up again.
        start: The model before the first step.
        within: Look after 1, 2, 5, 10, ... steps of the first epoch too.
        every: And after so many.
    """

    def __init__(
        self,
        test: TestSet,
        aims: Sequence[Aim],
        inputs: PairInputs,
        steps_per_epoch: int,
        file: Path,
        *,
        start: DualEncoder,
        within: bool = False,
        every: int | None = None,
    ) -> None:
        self._test, self._aims, self._inputs = test, tuple(aims), inputs
        self._steps_per_epoch, self._file = steps_per_epoch, file
        self._within, self._every = within, every
        self._seen: dict[int, dict[str, Any]] = {}
        if file.is_file():
            self._seen = _read(file)
        if 0 not in self._seen:
            self._look(start, {"step": 0, "epoch": 0})

    def __call__(self, step: Step, encoder: DualEncoder) -> None:
        """Look, where it is time to."""
        ends = step.step % self._steps_per_epoch == 0 or step.step == step.steps
        first = step.step < self._steps_per_epoch
        often = self._every is not None and step.step % self._every == 0
        if ends or (first and (often or (self._within and in_series(step.step)))):
            self._look(
                encoder,
                {
                    "step": step.step,
                    "epoch": step.epoch + ends,
                    "learning_rate": step.learning_rate,
                    "training_loss": step.loss,
                },
            )

    @property
    def records(self) -> list[dict[str, Any]]:
        """What was seen, by step: `step`, `epoch` (whole ones done), `test` with `goal` and `utility`."""
        return [self._seen[step] for step in sorted(self._seen)]

    def _look(self, encoder: DualEncoder, where: dict[str, Any]) -> None:
        seen = TestEmbeddings.of(encoder, self._inputs, self._test)
        self._seen[where["step"]] = {
            **where,
            "test": {
                "goal": {str(aim): goal_row(seen, self._test, aim) for aim in self._aims},
                "utility": utility_row(seen, self._test),
            },
        }
        write_json(self._file, self.records)


def _read(file: Path) -> dict[int, dict[str, Any]]:
    """The looks of a file by step.

    Raises:
        InputError: If it is broken.
    """
    looks = read_json(file)
    if not isinstance(looks, list) or not all(map(_is_look, looks)):
        raise InputError(f"{file}: not what was seen in a training: delete it and train again")
    return {look["step"]: look for look in looks}


def _is_look(look: Any) -> bool:
    if not isinstance(look, dict):
        return False
    test = look.get("test")
    return (
        type(look.get("step")) is int
        and type(look.get("epoch")) in (int, bool)
        and isinstance(test, dict)
        and isinstance(test.get("goal"), dict)
        and isinstance(test.get("utility"), dict)
    )


def looks_of(encoder: DualEncoder) -> list[dict[str, Any]]:
    """What was seen while a model was trained, as it is kept with its checkpoint; empty if nobody looked."""
    seen = encoder.config.get("mmpoison", {}).get("looks", [])
    return [look for look in seen if _is_look(look)] if isinstance(seen, list) else []


def epochs_of(models: Mapping[str, DualEncoder]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows by goal, model and number of epochs, the section `study.epochs` of `metrics.json`."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, encoder in models.items():
        for look in looks_of(encoder):
            for goal, row in look["test"]["goal"].items():
                rows.setdefault(goal, {}).setdefault(name, {})[str(look["epoch"])] = row
    return rows


def curve_of_repair(encoder: DualEncoder, learning_rate: float | None) -> dict[str, Any]:
    """`sterilize-curve.json` of a run: as of `mmpoison sterilize`, with the test part in place of held-out pairs."""
    looks = [{**look, "utility": look["test"]["utility"]} for look in looks_of(encoder)]
    return {"branches": [{"learning_rate": learning_rate, "chosen": True, "looks": looks}]}
