"""Scans, trains, traces and retrains: drops poison that the scan missed but a model has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Unpack

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.csv import write_csv
from pydantic import Field

from mmpoison.base.files import atomic_file
from mmpoison.base.options import options
from mmpoison.base.progress import ProgressFor, silent
from mmpoison.base.text import count_of
from mmpoison.defenses.catalogue import DEFENSES, DefenseKind, TrainingServices
from mmpoison.defenses.scan.cut.judging import Given, Judgement, judge_pairs
from mmpoison.defenses.scan.cut.score_filter import ScoreFilter, SuspiciousGroups
from mmpoison.defenses.scan.cut.trace import Trace
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.defenses.scan.read.vectors import memory_shard
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.training.loop import TrainingResult, finetune
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints

DROPPED = "dropped.csv"
"""File in the log folder: pairs that the last training did not see, and the steps that dropped them."""

MOST_ROUNDS = 10


@DEFENSES.register("scan-trace")
@options
class ScanTrace:
    """Scan the pairs, train without dropped pairs, and also drop what only a model trained on all pairs has learned.

    1. `suspicious-groups` scans the pairs with the encoder's trunks and drops a share of them, groups first.
    2. One model is trained on all pairs, another on the remaining pairs.
    3. `Trace` compares the two. Groups of pairs that only the first has learned are also dropped.
    4. The second model is trained again on what remains. Steps 3 and 4 repeat until nothing is found.

    The result is the last trained model. Its training record says what each step dropped, and `dropped.csv`, next to
    the log, lists the pairs.
    """

    name: ClassVar[str] = "scan-trace"
    kind: ClassVar[DefenseKind] = "in-training"
    source: ClassVar[str] = "mmpoison, docs/decisions/0035-filters.md"
    summary: ClassVar[str] = (
        "scans, trains with and without the dropped pairs, and drops what only the first model learned"
    )
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str] = "trains at least two more models; loses clean pairs that the scan drops"

    lose: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of the pairs that the scan drops; a larger one catches more poison at first "
            "and costs more clean pairs",
        ),
    ] = 0.02
    rounds: Annotated[
        int,
        Field(
            ge=1,
            le=MOST_ROUNDS,
            description="maximum number of comparisons; each finds more of the remaining poison and costs "
            "one more training",
        ),
    ] = 2

    def apply(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        inputs: PairInputs,
        settings: TrainingSettings,
        *,
        seed: int,
        **services: Unpack[TrainingServices],
    ) -> TrainingResult:
        """Train a copy of an encoder; see `RobustTraining`."""
        progress, log = services.get("progress"), services.get("log")
        train = partial(finetune, encoder, pairs, inputs, settings, seed=seed)
        trainings = _Trainings(train, services)
        scan = SuspiciousGroups(clean_loss=self.lose)
        shard = memory_shard(encoder, inputs, pairs, scan.joint, progress)
        judged = _judged(scan, encoder.name, shard, seed, progress)
        drop = ~judged.joined()[1]
        notes = [f"scan: {count_of(int(drop.sum()), 'pair')} dropped"]
        by = np.where(drop, "scan", "").astype(object)
        every = trainings.run("all", np.zeros_like(drop)).encoder
        suspect = memory_shard(every, inputs, pairs, True, progress)
        result = trainings.run("kept", drop)
        for number in range(1, self.rounds + 1):
            found, said = traced(suspect, result.encoder, pairs, inputs, seed, progress)
            new = found & ~drop
            notes.append(f"trace {number}: {count_of(int(new.sum()), 'pair')} dropped{said}")
            if not new.any():
                break
            by[new] = f"trace {number}"
            drop |= new
            result = trainings.run(f"kept-{number}", drop)
        if log is not None:
            _write(log.folder / DROPPED, pairs, by)
        trainings.clear()
        return replace(
            result, steps=trainings.steps, resumed_from=trainings.resumed_from, notes=tuple(notes)
        )


class _Trainings:
    """Trains the same encoder on several subsets of the same pairs, one after another.

    Args:
        train: Trains it, given the pairs to skip and the services.
        services: Services of the run, for each training.

    Attributes:
        steps: Steps done in all training runs.
        resumed_from: The step at which the last interrupted training resumed, counted over all of them.
    """

    def __init__(self, train: Callable[..., TrainingResult], services: TrainingServices) -> None:
        self._train, self._services = train, services
        self._states: list[Checkpoints] = []
        self.steps = self.resumed_from = 0

    def run(self, name: str, skip: BoolArray) -> TrainingResult:
        """Train without some pairs. A killed run resumes every training; finished ones resume at their end."""
        services = self._services.copy()
        begun, on_step = self.steps, services.get("on_step")
        if on_step is not None:
            services["on_step"] = lambda step, model: on_step(
                replace(step, step=begun + step.step, steps=begun + step.steps), model
            )
        if (states := services.get("checkpoints")) is not None:
            own = replace(states, folder=states.folder / name)
            services["checkpoints"] = own
            self._states.append(own)
        result = self._train(skip=skip, **services)
        if result.resumed_from:
            self.resumed_from = begun + result.resumed_from
        self.steps += result.steps
        return result

    def clear(self) -> None:
        """Delete the saved states of all training runs."""
        for one in self._states:
            one.clear()


def traced(
    suspect: VectorShard,
    reference: DualEncoder,
    pairs: PairDataset,
    inputs: PairInputs,
    seed: int,
    progress: ProgressFor | None = None,
) -> tuple[BoolArray, str]:
    """Find pairs that a suspect has learned and a reference has not.

    Args:
        suspect: The pairs, embedded by the suspect.
        reference: A model that was trained without some of the pairs.
        pairs: The pairs that the suspect was trained on.
        inputs: Inputs of the pairs, preprocessed for the reference.
        seed: Seed for all random choices.
        progress: Returns a progress callback for a named step.

    Returns:
        A mask of the pairs in groups called poisoning, shape `(N,)`; and the groups in words.
    """
    shard = memory_shard(reference, inputs, pairs, Trace.joint, progress)
    found = _judged(Trace(suspect), reference.name, shard, seed, progress)
    said = [str(one) for one in (found.described() or ())[: len(found.likely or ())]]
    return ~found.joined()[1], "".join(f"; {one}" for one in said)


def _judged(
    method: ScoreFilter, model: str, shard: VectorShard, seed: int, progress: ProgressFor | None
) -> Judgement:
    """Judge all pairs, whatever their split, in a model's embeddings."""
    read = read_memory(shard, seed, progress or silent)
    return judge_pairs(read, method, model, Given())


def _write(file: Path, pairs: PairDataset, by: npt.NDArray[np.object_]) -> None:
    rows = np.flatnonzero(by != "")
    table = {
        "image": [pairs.images.ids[image] for image in pairs.image[rows]],
        "caption": pairs.captions[rows].tolist(),
        "dropped_by": by[rows].tolist(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary:
        write_csv(
            pa.table({name: pa.array(column, pa.string()) for name, column in table.items()}),
            temporary,
        )
