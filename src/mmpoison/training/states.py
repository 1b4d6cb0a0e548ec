"""Stores training states, so that training resumes with bit-identical results.

Each state is one safetensors file, written under a temporary name and renamed, so a kill at any moment leaves the
previous state intact. Random states need no saving, because they derive from the seed and the step number.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mmpoison.base.files import DiskFull, atomic_file, remove_all_dead
from mmpoison.base.untrusted import parse_json
from mmpoison.errors import InputError

PREFIX, SUFFIX = "step-", ".safetensors"
LEAST_SHARE = 20
"""Saving at time intervals takes at most 1 / LEAST_SHARE of the time."""


@dataclass(frozen=True)
class Checkpoints:
    """The folder for training states, and the interval between them.

    Attributes:
        folder: The states' own folder.
        keep: Number of most recent states to keep.
        seconds: Seconds between two states; longer if writing is slow. A state is also stored after every epoch.
        steps: Store a state after every N steps instead.
    """

    folder: Path
    keep: int = 2
    seconds: float = 60.0
    steps: int | None = None

    def tidy(self) -> None:
        """Delete incomplete files of a killed process."""
        remove_all_dead(self.folder)

    def clear(self) -> None:
        """Delete the states, and their folder if nothing else is in it."""
        self.tidy()
        for path in self.folder.glob(f"{PREFIX}*{SUFFIX}"):
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def copy_logs(work: Path, logs: Path, *, without: Sequence[str] = ()) -> None:
    """Copy the files of a training, except its states.

    Args:
        work: The folder of its states and logs; nothing is copied if it does not exist.
        logs: New folder.
        without: Patterns of further names to leave out.
    """
    if not work.is_dir():
        return
    skipped = (f"{PREFIX}*{SUFFIX}", ".*", *without)
    shutil.copytree(work, logs, ignore=shutil.ignore_patterns(*skipped), dirs_exist_ok=True)


@dataclass
class TrainingState:
    """The state of a training between two steps.

    Attributes:
        step: Steps done.
        tensors: Trained weights, statistics and optimiser moments, by name.
        values: Plain JSON values.
    """

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


@dataclass
class StateFolder:
    """Reads and writes the states of one training.

    Args:
        checkpoints: Folder and interval.
        job: Description of the training, as plain values. States of other training jobs are refused.
    """

    checkpoints: Checkpoints
    job: dict[str, Any]
    _last: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    @property
    def folder(self) -> Path:
        """The folder of the states."""
        return self.checkpoints.folder

    def paths(self) -> list[Path]:
        """List the states, newest first."""
        return sorted(self.folder.glob(f"{PREFIX}*{SUFFIX}"), reverse=True)

    def latest(self) -> TrainingState | None:
        """Return the newest complete state, or None.

        Raises:
            InputError: If the state belongs to another training.
        """
        for path in self.paths():
            try:
                with safetensors.safe_open(path, framework="pt") as file:
                    values = _header(file.metadata(), path)
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (safetensors.SafetensorError, OSError, InputError):
                continue  # a broken disk, not a kill
            self._check(values.pop("job"), path)
            return TrainingState(values.pop("step"), tensors, values)
        return None

    def due(self, step: int, *, end_of_epoch: bool) -> bool:
        """Check whether to save a state after this step."""
        if self.checkpoints.steps is not None:
            return step % self.checkpoints.steps == 0
        waited = time.monotonic() - self._last
        soon = waited < LEAST_SHARE * self._cost
        return not soon and (end_of_epoch or waited >= self.checkpoints.seconds)

    def save(self, state: TrainingState) -> None:
        """Write a state, and delete the oldest.

        Raises:
            InputError: If the disk is full or not writable.
        """
        begun = time.monotonic()
        target = self.folder / f"{PREFIX}{state.step:09d}{SUFFIX}"
        text = json.dumps({**state.values, "step": state.step, "job": self.job})
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()
        }
        try:
            with atomic_file(target, renames=True) as temporary:
                safetensors.torch.save_file(tensors, temporary, metadata={"mmpoison": text})
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
        except (OSError, safetensors.SafetensorError, DiskFull) as error:
            saved = self.paths()
            resumes = (
                f"the same command resumes at {saved[0].stem}" if saved else "no state is saved"
            )
            kind = DiskFull if isinstance(error, DiskFull) else InputError
            raise kind(
                f"the state of step {state.step} cannot be saved ({error}); {resumes}"
            ) from None
        for old in self.paths()[self.checkpoints.keep :]:
            old.unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - begun

    def _check(self, job: dict[str, Any], path: Path) -> None:
        here = parse_json(json.dumps(self.job), "this training")
        for key in sorted(here.keys() | job.keys()):
            if here.get(key) != job.get(key):
                raise InputError(
                    f"{path}: belongs to another training ({key} is {_short(job.get(key))} there and "
                    f"{_short(here.get(key))} here): give the same one, choose another --out, or delete {self.folder}"
                )


def _header(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    """Collect the plain values of a state.

    Raises:
        InputError: If they are not those of a state.
    """
    values = parse_json((metadata or {}).get("mmpoison", "null"), path)
    if (
        not isinstance(values, dict)
        or not isinstance(values.get("job"), dict)
        or type(values.get("step")) is not int
    ):
        raise InputError(f"{path}: not a training state")
    return values


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


# -- content of a state ----------------------------------------------------------------------------


def collect(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect everything that a step may change: trained weights, statistics and optimiser moments."""
    tensors = {f"model/{name}": tensor for name, tensor in _changing(module).items()}
    for name, parameter in module.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{slot}/{name}"] = value
    return tensors


def restore(
    module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Restore a result of `collect`."""
    with torch.no_grad():
        for name, tensor in _changing(module).items():
            tensor.copy_(tensors[f"model/{name}"])
        moments = {name: value for name, value in tensors.items() if name.startswith("optimizer/")}
        parameters = dict(module.named_parameters())
        for key, value in moments.items():
            _, slot, name = key.split("/", 2)
            parameter = parameters[name]
            # moments have their parameter's memory layout; the step count stays where it is
            moment = torch.zeros_like(parameter) if value.ndim else torch.zeros_like(value)
            if not value.ndim and optimizer.defaults.get("fused"):
                moment = moment.to(parameter.device)
            optimizer.state[parameter][slot] = moment.copy_(value)


def all_finite(tensors: dict[str, Tensor]) -> bool:
    """Check whether every number of a state is finite."""
    return all(bool(t.isfinite().all()) for t in tensors.values() if t.is_floating_point())


def _changing(module: nn.Module) -> dict[str, Tensor]:
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    fixed = {name for name, _ in module.named_parameters()} - trained
    return {
        name: tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        if name not in fixed
    }
