"""Checks suspect models for poison, and trains clean models for checks that compare with some."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import write_json
from mmpoison.base.progress import RunProgress, SilentProgress
from mmpoison.base.seeding import generator
from mmpoison.defenses.catalogue import (
    CheckResult,
    Finding,
    ModelCheck,
    build_defense,
    require_clean,
)
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestSet
from mmpoison.models.checkpoint import load_checkpoint, save_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, prepare_pixels
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.table import PairDataset
from mmpoison.reporting.scan_result import ScanResult
from mmpoison.runs.cards import model_card
from mmpoison.runs.recipe import CheckPart
from mmpoison.training.loop import finetune
from mmpoison.training.settings import TrainingSettings
from mmpoison.training.states import Checkpoints

CHECK_FILE = "model-check.json"
DEFAULT_CHECK = "rank-gain"
CLEAN_SHARE = 0.8
"""Share of the clean images for each clean fine-tune, so that their data differ too."""


@dataclass(frozen=True)
class CheckedModel:
    """The result of checking one suspect.

    Attributes:
        result: The findings.
        about: The suspect, reference and data, as in `model-check.json`.
        false_alarms: Acceptable share of clean models that are flagged.
        traced: The trace: a scan for training pairs that the suspect learned; None without one.
    """

    result: CheckResult
    about: Mapping[str, Any]
    false_alarms: float
    traced: ScanResult | None = None

    def __repr__(self) -> str:
        return f"CheckedModel({self.about['suspect']!r}: {'; '.join(self.verdict())})"

    @property
    def flagged(self) -> tuple[Finding, ...]:
        """The findings that are flagged at the level `false_alarms`."""
        return self.result.flagged(self.false_alarms)

    def verdict(self) -> list[str]:
        """Describe each flagged finding in a line, or the strongest finding if none is flagged.

        If the trace found suspicious groups, they come first: they are stronger evidence.
        """
        strongest = "".join(f"; the strongest: {one}" for one in self.result.findings[:1])
        nothing = f"no finding with p <= {self.false_alarms:g}"
        flagged = [f"possible poisoning: {one}" for one in self.flagged]
        if self._taught:
            alone = flagged or [f"the model alone: {nothing}{strongest}"]
            return [f"the pairs that it was trained on: {self._taught}", *alone]
        compared = "No sign of poisoning"
        if self.traced is not None:
            compared = "No difference from this reference, which may carry the same poison"
        elif "reference" in self.about:
            compared = "No unusual difference from the reference"
        return flagged or [f"{compared} ({nothing}){strongest}"]

    @property
    def _taught(self) -> str:
        """The verdict of the trace if it found groups that may be poison, else empty."""
        found = "" if self.traced is None else self.traced.verdict
        return found if found in ("poisoning likely", "look at these groups") else ""

    def next_steps(self, model: str, data: Sequence[str], reference: str | None) -> list[str]:
        """Suggest next steps, with commands.

        Args:
            model: Name or path of the suspect, for commands.
            data: Command-line arguments that give the clean data.
            reference: Name or path of the reference, if there is one.
        """
        before = [] if reference is None else ["--reference", reference]
        same = shlex.join(["--model", model, *data, *before])
        repair = f"repair the model with clean pairs: mmpoison sterilize {same} --out candidate"
        if self._taught:
            return [
                "review the groups of the trace; then train on the pairs that it keeps, or repair the model"
            ]
        if not self.flagged and self.traced is not None:
            return [
                "if the reference was trained on all pairs, train one on the pairs that a scan keeps (scan --kept "
                "DIR), and trace again"
            ]
        if not self.flagged:
            strongest = self.result.findings[0].to_json() if self.result.findings else {}
            names = (strongest.get("captions", ""), strongest.get("images", ""))
            # without labels a kind is a list of words
            goal = "A2B" if "/" in "".join(names) or not all(names) else "2".join(names)
            which = "a suspected one in place of A2B" if goal == "A2B" else "the strongest finding"
            return [
                f"this check misses goals; measure {which}: mmpoison evaluate {same} --goal {shlex.quote(goal)}"
            ]
        trace = ["mmpoison", "check", model, "--data", "PAIRS", "--reference", reference or "MODEL"]
        taught = f"if you have its training pairs (PAIRS), find the false ones: {shlex.join(trace)} --trace traced"
        return [repair] if self.traced else [repair, taught]

    def to_pandas(self) -> Any:
        """Return the findings as a `pandas.DataFrame`, the most unusual first."""
        import pandas  # importing it takes half a second

        return pandas.DataFrame([found.to_json() for found in self.result.findings])

    def to_json(self) -> dict[str, Any]:
        """Return the content of `model-check.json`."""
        return {
            **self.about,
            **self.result.facts,
            "false_alarms": self.false_alarms,
            "flagged": [found.to_json() for found in self.flagged],
            "ranking": [found.to_json() for found in self.result.findings],
            **({} if self.traced is None else {"traced": self.traced.to_json()}),
        }


def check_model(
    pairs: PairDataset,
    suspect: DualEncoder,
    reference: DualEncoder | None = None,
    *,
    method: str = DEFAULT_CHECK,
    options: Mapping[str, Any] | None = None,
    clean: Sequence[str] = (),
    clean_runs: int = 0,
    settings: TrainingSettings | None = None,
    out: Path | None = None,
    seed: int = 0,
    false_alarms: float = 0.01,
    progress: RunProgress | None = None,
) -> CheckedModel:
    """Check a suspect on the test part of a clean data set.

    Args:
        pairs: Clean data, whose test part is used for measurements.
        suspect: The suspect.
        reference: The clean model that the suspect was fine-tuned from, or at least a clean model
            of the same architecture.
        method: A registered check.
        options: Options of the check.
        clean: Clean fine-tunes of the reference, as names or folders.
        clean_runs: Number of further clean fine-tunes to train, each on a random 80% of the images
            of split `val`.
        settings: Training settings of the clean fine-tunes; match the suspect's settings closely.
        out: Folder for `model-check.json` and, in `clean/`, the clean fine-tunes; required with
            `clean_runs`. Existing fine-tunes are reused.
        seed: Seed for all random choices.
        false_alarms: Acceptable share of clean models that are flagged, in (0, 1).
        progress: Reports progress.

    Raises:
        InputError: If the data do not suffice, the models do not match, the check cannot use an
            argument, or a clean pair is poisoned.
    """
    progress = progress or SilentProgress()
    checker: ModelCheck = build_defense("check", method, options or {}, "--set ")
    if not 0 < false_alarms < 1:
        raise InputError(f"false alarms {false_alarms} is not between 0 and 1")
    if out is not None and (out / CHECK_FILE).exists():
        raise InputError(f"{out / CHECK_FILE}: exists already: choose another --out")
    if checker.needs_reference and reference is None:
        raise InputError(
            f"check {method!r} needs --reference, the clean model that the suspect was made from"
        )
    if (clean or clean_runs) and not (checker.uses_clean_models and reference is not None):
        raise InputError(f"check {method!r} needs --reference to use clean fine-tunes")
    if reference is not None and suspect.config["model_cfg"] != reference.config["model_cfg"]:
        raise InputError(
            f"suspect {suspect.name!r} and reference {reference.name!r} have different architectures, so they "
            "cannot be compared"
        )
    test = TestSet.of(pairs)
    train = pairs.select(split="val")
    known = test.pairs
    if clean_runs:
        require_clean(train)
        if not len(train):
            raise InputError("split 'val' has no pairs for clean fine-tunes")
        known = pairs.where(pairs.in_split("val") | pairs.in_split("test"))
    start = reference or suspect
    inputs = prepare_pixels(start, known, images=test.gallery, progress=progress.progress)

    def clean_models() -> Iterator[DualEncoder]:
        for name in clean:
            yield load_encoder(name).to(start.device)
        for number in range(clean_runs):
            assert out is not None
            yield _clean_model(
                out / "clean" / str(number),
                *(start, train, inputs, settings or TrainingSettings()),
                seed=seed,
                number=number,
                progress=progress,
            )

    result = checker.apply(
        suspect,
        test,
        inputs,
        reference=reference,
        clean_models=clean_models(),
        seed=seed,
        progress=progress.progress,
    )
    about = {
        **({"check": method} if method != DEFAULT_CHECK else {}),
        "suspect": suspect.name,
        **({"reference": reference.name} if reference is not None else {}),
        "data": {"fingerprint": pairs.fingerprint},
    }
    done = CheckedModel(result, about, false_alarms)
    if out is not None:
        write_json(out / CHECK_FILE, done.to_json())
    return done


def check_models(
    models: Mapping[str, DualEncoder],
    test: TestSet,
    inputs: PairInputs,
    part: CheckPart,
    seed: int,
    progress: RunProgress,
) -> dict[str, CheckedModel]:
    """Check each model of a run with the pre-trained model as reference.

    Findings on the clean model are false alarms.

    Args:
        models: Models by name; `pretrained` is the reference.
        test: The test part.
        inputs: Prepared inputs of the test part.
        part: The check.
        seed: Seed of the run.
        progress: Reports progress.
    """
    checker: ModelCheck = build_defense("check", part.method, part.options)
    reference = models["pretrained"]
    return {
        name: CheckedModel(
            checker.apply(
                *(model, test, inputs),
                reference=reference,
                seed=seed,
                progress=progress.progress,
            ),
            {"suspect": model.name, "reference": reference.name},
            part.false_alarms,
        )
        for name, model in models.items()
        if name != "pretrained"
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
    """Fine-tune the reference on some of the clean pairs, or load the model of an earlier check."""
    if folder.is_dir():
        progress.say(f"clean model {number + 1}: read from {folder}")
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
        facts=("made for comparison with a suspect",),
    )
    save_checkpoint(result.encoder, folder, card=card)
    checkpoints.clear()
    return result.encoder
