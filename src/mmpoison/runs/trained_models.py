"""Stores trained models and filter verdicts in the cache; of a model, only the changed tensors."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from mmpoison.base.content_cache import read_arrays
from mmpoison.base.files import atomic_file, write_json
from mmpoison.base.untrusted import read_json
from mmpoison.defenses.scan.cut.result import FilterResult
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.pairs.table import BoolArray
from mmpoison.records.run_files import ProbeRecord, TrainingRecord
from mmpoison.training.loop import TrainingResult

WEIGHTS, FACTS = "changed.safetensors", "training.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model, with the records of its training.

    Attributes:
        encoder: The model.
        training: Record of the training; None if it is unknown.
        probes: Records of `Probes`, measured during the training.
    """

    encoder: DualEncoder
    training: TrainingRecord | None = None
    probes: list[ProbeRecord] = field(default_factory=list)

    @classmethod
    def of_checkpoint(cls, encoder: DualEncoder) -> TrainedModel:
        """Create it from a loaded checkpoint and its records.

        Raises:
            InputError: If the checkpoint's records are broken.
        """
        record = encoder.record
        probes = [ProbeRecord.of(probe, f"{encoder.name}: looks") for probe in record.looks]
        return cls(encoder, record.training, probes)


def store_model(
    folder: Path, start: DualEncoder, result: TrainingResult, probes: list[ProbeRecord]
) -> None:
    """Write the tensors that the training changed (few with frozen trunks), and its records."""
    before = start.module.state_dict()
    changed = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in result.encoder.module.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    with atomic_file(folder / WEIGHTS, renames=True) as temporary:
        safetensors.torch.save_file(changed, temporary)
    facts = {f: getattr(result, f) for f in result.__dataclass_fields__ if f != "encoder"}
    records = [record.to_json() for record in probes]
    write_json(folder / FACTS, {"result": facts, "looks": records})


def read_model(
    folder: Path, start: DualEncoder, name: str
) -> tuple[TrainingResult, list[ProbeRecord]]:
    """Read a model written by `store_model`.

    Raises:
        InputError: If it is broken, or was trained from another model than `start`.
    """
    facts = read_json(folder / FACTS)
    if not isinstance(facts, dict) or not isinstance(facts.get("looks"), list):
        raise InputError(f"{folder / FACTS}: not of a trained model")
    try:
        changed = safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: cannot be read ({error})") from None
    encoder = start.copy(name)
    state = encoder.module.state_dict()
    with torch.no_grad():
        for key, tensor in changed.items():
            if key not in state or state[key].shape != tensor.shape:
                raise InputError(f"{folder / WEIGHTS}: {key} does not belong to this model")
            state[key].copy_(tensor)
    try:
        result = TrainingResult(encoder=encoder, **facts["result"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FACTS}: not of a trained model ({error!r:.200})") from None
    return result, [ProbeRecord.of(probe, folder / FACTS) for probe in facts["looks"]]


def link_log(folder: Path, out: Path) -> None:
    """Put the log of a training into a run folder, as hard links if the disk allows them."""
    for file in sorted(folder.glob("log/*")):
        target = out / file.name
        if file.is_file() and not target.exists():
            out.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, target)


# -- Writes and reads the verdicts of a filter in the cache.


ARRAYS, VERDICT_FACTS = "verdicts.npz", "facts.json"


@dataclass(frozen=True)
class Verdicts:
    """The verdicts of a filter on `N` pairs.

    Attributes:
        keep: Mask of the kept pairs, shape `(N,)`.
        distances: Score of each pair, shape `(N,)`; higher is more suspicious.
        facts: Facts about the filter, for `metrics.json`.
    """

    keep: BoolArray
    distances: npt.NDArray[np.float64]
    facts: dict[str, Any]


def store_verdicts(folder: Path, result: FilterResult) -> None:
    """Write the verdicts of a filter."""
    with atomic_file(folder / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, keep=result.keep, distances=result.scores)
    write_json(folder / VERDICT_FACTS, result.facts())


def read_verdicts(folder: Path, pairs: int) -> Verdicts:
    """Read verdicts on the given number of pairs.

    Raises:
        InputError: If they are broken, or on another number of pairs.
    """
    found = read_arrays(folder / ARRAYS, "keep", "distances")
    facts = read_json(folder / VERDICT_FACTS)
    if found is None or not isinstance(facts, dict):
        raise InputError(f"{folder / ARRAYS}: missing or damaged")
    verdicts = Verdicts(found[0], found[1], facts)
    if not len(verdicts.keep) == len(verdicts.distances) == pairs:
        raise InputError(f"{folder / ARRAYS}: belongs to other pairs")
    return verdicts
