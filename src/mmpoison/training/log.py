"""Logs a training run: one JSON line per step, and optionally TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import Any

from mmpoison.base.extras import is_installed
from mmpoison.base.files import atomic_file
from mmpoison.base.untrusted import parse_json, read_lines
from mmpoison.errors import InputError, ResultError

LINES_FILE = "steps.jsonl"
TRACKERS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow",), "wandb": ("wandb",)}
EVERY = 10
"""Trackers receive every tenth step and the last one: some take longer per value than a small model per step."""


@dataclass(frozen=True)
class LogOptions:
    """The destinations of a training log.

    Attributes:
        folder: Folder for `steps.jsonl` and the files of trackers.
        trackers: Any of `tensorboard`, `mlflow`, `wandb`, used through accelerate.
    """

    folder: Path
    trackers: Sequence[str] = ()

    def check(self) -> None:
        """Refuse unknown trackers and trackers that are not installed.

        Raises:
            InputError: If a tracker is unknown or not installed.
        """
        for name in self.trackers:
            if name not in TRACKERS:
                raise InputError(f"unknown tracker {name!r}: choose one of {', '.join(TRACKERS)}")
            if not all(map(is_installed, TRACKERS[name])):
                raise InputError(f"tracker {name} is not installed: pip install 'mmpoison[{name}]'")


class StepLog:
    """Writes one JSON line per step. When a training resumes, later lines are dropped.

    Args:
        options: The destinations.
        after: Step that the training resumes from.
        config: Settings of the training, for the trackers.
    """

    def __init__(self, options: LogOptions, after: int, config: Mapping[str, Any]) -> None:
        options.check()
        options.folder.mkdir(parents=True, exist_ok=True)
        path = options.folder / LINES_FILE
        earlier = [line for line in _lines(path) if line["step"] <= after]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in earlier), "utf-8")
        self._file: TextIOBase = path.open("a", encoding="utf-8")
        self._accelerator: Any = None
        if options.trackers:
            from accelerate import Accelerator

            self._accelerator = Accelerator(
                log_with=list(options.trackers), project_dir=options.folder
            )
            self._accelerator.init_trackers(
                "mmpoison",
                config={key: _plain(value) for key, value in config.items()},
                init_kwargs={"tensorboard": {"purge_step": after + 1}},
            )

    def write(self, line: Mapping[str, float], *, last: bool) -> None:
        """Log one step."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        step = int(line["step"])
        if self._accelerator is not None and (step % EVERY == 0 or step == 1 or last):
            values = {f"train/{key}": value for key, value in line.items() if key != "step"}
            self._accelerator.log(values, step=step)

    def close(self) -> None:
        """Finish the files and runs."""
        self._file.close()
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:
                tracker.finish()


def _lines(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for raw in read_lines(path) if path.is_file() else ():
        with suppress(InputError):  # the incomplete last line of a killed process
            line = parse_json(raw, path)
            if isinstance(line, dict) and type(line.get("step")) in (int, float):
                lines.append(line)
    return lines


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool) else str(value)


# -- Stops a training run whose loss becomes NaN or explodes.


WINDOW = 20


class DivergedError(ResultError):
    """Raised if the loss becomes NaN or explodes."""


@dataclass
class LossGuard:
    """Watches the loss of every step.

    Args:
        batch_size: Its logarithm is the loss of an encoder that cannot distinguish pairs.
        factor: Multiple of the usual loss that counts as exploded.
    """

    batch_size: int
    factor: float
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)

    def check(self, loss: float, step: int) -> None:
        """Check the loss of one step.

        Raises:
            DivergedError: If the loss is not finite, or the mean of the last 20 losses has exploded.
        """
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {step}")
        if len(self.first) < WINDOW:
            self.first.append(loss)
            return
        self.last = [*self.last[-WINDOW + 1 :], loss]
        usual = max(math.log(self.batch_size), sum(self.first) / WINDOW)
        mean = sum(self.last) / len(self.last)
        if len(self.last) == WINDOW and mean > self.factor * usual:
            raise DivergedError(
                f"the loss has exploded: {mean:.3g} on average over the last {WINDOW} steps, at step {step}; "
                f"usually {usual:.3g}"
            )
