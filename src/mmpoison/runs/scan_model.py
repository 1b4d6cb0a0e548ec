"""The scan of a suspect model: make clean fine-tunes to compare with, measure all, and name what stands out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import write_json
from mmpoison.base.seeding import generator
from mmpoison.defenses.repairs.clean_finetune import refuse_poisoned
from mmpoison.defenses.scans.canary import Kinds, association
from mmpoison.defenses.scans.model_scan import ModelScan, scan_tables
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.checkpoint import load_checkpoint, save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, prepare_pixels
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.cards import model_card
from mmpoison.runs.progress import RunProgress
from mmpoison.training.loop import finetune
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints

SCAN_FILE = "model-scan.json"
CLEAN_SHARE = 0.8
"""Share of the clean images that each clean fine-tune is trained on: they differ in their data too."""


def scan_model(
    pairs: PairDataset,
    suspect: DualEncoder,
    reference: DualEncoder,
    *,
    clean: Sequence[str] = (),
    clean_runs: int = 0,
    settings: TrainingSettings | None = None,
    clean_split: str = "val",
    out: Path | None = None,
    seed: int = 0,
    false_alarms: float = 0.01,
    trust: bool = False,
    progress: RunProgress,
) -> ModelScan:
    """Compare a suspect with the model that it was made from, on the test part of a clean set.

    Args:
        pairs: Clean data: their test part is what is measured on. With classes, captions of each class against images
            of each other class; without, kinds that the reference's own embeddings hold together.
        suspect: The suspect.
        reference: A model without poison, from which the suspect was made, or that at least has its architecture.
        clean: Clean fine-tunes of the reference, as names or folders.
        clean_runs: How many more to make here, each on a random 80 % of the images of the clean split.
        settings: How to fine-tune; the more like the suspect's, the better.
        clean_split: Split of clean pairs to fine-tune on.
        out: Folder for `model-scan.json` and, in `clean/`, the models that were made; needed with `clean_runs`. Those
            that are there already are taken.
        seed: Seed of everything random.
        false_alarms: For the file: which are flagged.
        trust: As for `load_encoder`.
        progress: Reports the progress.

    Raises:
        InputError: If the data have no test part or too few kinds, the models do not fit, or a clean pair is poisoned.
    """
    if not 0 < false_alarms < 1:
        raise InputError(f"false alarms {false_alarms} is not between 0 and 1")
    if out is not None and (out / SCAN_FILE).exists():
        raise InputError(f"{out / SCAN_FILE}: is there already: choose another --out")
    if clean_runs and out is None:
        raise InputError(
            "clean fine-tunes take time and are kept: say where with --out (a second try takes them from there)"
        )
    if suspect.config["model_cfg"] != reference.config["model_cfg"]:
        raise InputError(
            f"suspect {suspect.name!r} and reference {reference.name!r} are of different architectures: "
            "a model says nothing about another one's poison"
        )
    test = TestSet.of(pairs)
    train = pairs.select(split=clean_split)
    if clean_runs:
        refuse_poisoned(train)
        if not len(train):
            raise InputError(f"split {clean_split!r} has no pairs for clean fine-tunes")
    known = (
        pairs.where(pairs.in_split(clean_split) | pairs.in_split("test"))
        if clean_runs
        else test.pairs
    )
    inputs = prepare_pixels(reference, known, images=test.gallery, progress=progress.progress)

    def embed(encoder: DualEncoder, what: str) -> TestEmbeddings:
        return TestEmbeddings.of(encoder, inputs, test, progress.progress(f"embedding with {what}"))

    before = embed(reference, "the reference")
    kinds = Kinds.find(test, before, seed)
    suspected = association(embed(suspect, "the suspect"), test, kinds)
    tables = []
    for number, name in enumerate(clean):
        encoder = load_encoder(name, trust=trust).to(reference.device)
        tables.append(association(embed(encoder, f"clean model {number + 1}"), test, kinds))
    for number in range(clean_runs):
        assert out is not None
        encoder = _clean_model(
            out / "clean" / str(number),
            reference,
            train,
            inputs,
            settings or TrainingSettings(),
            seed=seed,
            number=number,
            progress=progress,
        )
        tables.append(association(embed(encoder, f"clean model {number + 1}"), test, kinds))
    scan = scan_tables(association(before, test, kinds), suspected, tables, kinds)
    if out is not None:
        write_json(out / SCAN_FILE, scan_json(scan, suspect, reference, pairs, false_alarms))
    return scan


def scan_json(
    scan: ModelScan,
    suspect: DualEncoder,
    reference: DualEncoder,
    pairs: PairDataset,
    false_alarms: float,
) -> dict[str, Any]:
    """What a scan found, as plain values."""
    return {
        "suspect": suspect.name,
        "reference": reference.name,
        "data": {"fingerprint": pairs.fingerprint},
        "null": scan.null,
        "clean_models": scan.clean_models,
        "pairs_of_kinds": scan.cells,
        "false_alarms": false_alarms,
        "flagged": [push.to_json() for push in scan.flagged(false_alarms)],
        "ranking": [push.to_json() for push in scan.pushes],
    }


def _clean_model(
    folder: Path,
    reference: DualEncoder,
    clean: PairDataset,
    inputs: PairInputs,
    settings: TrainingSettings,
    *,
    seed: int,
    number: int,
    progress: RunProgress,
) -> DualEncoder:
    if folder.is_dir():
        progress.say(f"clean model {number + 1}: taken from {folder}")
        return load_checkpoint(folder).to(reference.device)
    images = clean.used_images()
    order = generator(seed, f"model-scan/{number}").permutation(images)
    some = clean.where(np.isin(clean.image, order[: max(2, round(CLEAN_SHARE * len(images)))]))
    checkpoints = Checkpoints(folder.with_name(f"{folder.name}.training"))
    result = finetune(
        reference,
        some,
        inputs,
        settings,
        seed=seed + number,
        name=f"{reference.name}-clean-{number}",
        on_step=progress.training(f"clean fine-tune {number + 1}"),
        checkpoints=checkpoints,
        progress=progress.progress,
    )
    card = model_card(
        result.encoder,
        "trained",
        started_from=reference.name,
        data=some,
        settings=settings,
        result=result,
        facts=("made to compare a suspect with",),
    )
    save_checkpoint(result.encoder, folder, card=card)
    checkpoints.clear()
    return result.encoder
