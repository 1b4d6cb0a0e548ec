"""Shares data sets, models and prepared inputs between the runs of a process, and trained models through the cache."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from mmpoison.attacks.catalogue import VectorSurrogate
from mmpoison.attacks.settings import goal_classes
from mmpoison.base.content_cache import read_arrays
from mmpoison.base.files import atomic_file, cache_folder, write_json
from mmpoison.base.progress import ProgressFor
from mmpoison.base.untrusted import read_json
from mmpoison.datasets.catalogue import DATASETS, load_dataset
from mmpoison.defenses.scan.cut.result import FilterResult
from mmpoison.errors import InputError
from mmpoison.evaluation.measure import ModelMeasurement
from mmpoison.images.sources import States, file_states, refuse_changed
from mmpoison.models.compute_environment import encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_captions, embed_images, embed_texts
from mmpoison.models.inputs import (
    PairInputs,
    add_missing,
    files_digest,
    prepare_features,
    prepare_pixels,
)
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset
from mmpoison.records.run_files import ProbeRecord, TrainingRecord
from mmpoison.runs.recipe import DataPart, Recipe
from mmpoison.training.loop import TrainingResult

T = TypeVar("T")


class RunCache:
    """An in-memory cache of the last data sets, models and inputs, for reuse by the next run.

    Args:
        keep: Number of entries of each kind.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._loaded: dict[str, OrderedDict[str, Any]] = {}

    def pairs(self, part: DataPart, seed: int) -> PairDataset:
        """Load a data set."""
        return self._get(
            "pairs",
            [part.model_dump(mode="json"), seed],
            lambda: load_dataset(part.name, part.root, seed=seed, options=part.options),
        )

    def poisoned(
        self, recipe: Recipe, pairs: PairDataset, make: Callable[[], PairDataset]
    ) -> PairDataset:
        """Return a recipe's poisoned set, which runs with different defences share.

        Args:
            recipe: The recipe; its attack, seed and model, a possible surrogate, identify the set.
            pairs: The clean set.
            make: Poisons the clean set.
        """
        how = recipe.model_dump(mode="json", include={"seed", "attack", "model", "share_features"})
        return self._get("poisoned", [how, pairs.fingerprint, str(pairs.root)], make)

    def files(self, pairs: PairDataset) -> str:
        """Return a digest of the state of a set's image files."""
        return self._get(
            "files", [pairs.fingerprint, str(pairs.root)], lambda: _files_digest(pairs)
        )

    def watch(self, pairs: PairDataset) -> States:
        """Return the states of a set's image files as of the first call; see `refuse_changed`."""
        return self._get(
            "watch",
            [pairs.fingerprint, str(pairs.root)],
            lambda: file_states(pairs.root, pairs.images.ids),
        )

    def refuse_changed(self, pairs: PairDataset) -> None:
        """Refuse a set whose files have changed since it was loaded or first watched.

        Raises:
            InputError: If a file has changed.
        """
        if pairs.tables is not None:
            pairs.tables.check()
        refuse_changed(pairs.root, pairs.images.ids, self.watch(pairs))

    def encoder(self, name: str, *, device: torch.device) -> DualEncoder:
        """Load a model; callers must not change it."""
        return self._get("encoder", [name, str(device)], lambda: load_encoder(name).to(device))

    def identity(self, encoder: DualEncoder) -> dict[str, Any]:
        """Return the `encoder_identity` of a model, which distinguishes it from others."""
        return self._get(
            "identity",
            [id(encoder), encoder.name],
            lambda: encoder_identity(encoder),
            # keep the encoder, so that no other object gets its id
            holding=encoder,
        )

    def inputs(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        poisoned: PairDataset | None = None,
        *,
        on_features: bool,
        progress: ProgressFor | None = None,
        reuse_from: PairInputs | None = None,
    ) -> PairInputs:
        """Prepare all inputs of a set for a model: pixels and tokens, or the outputs of its trunks.

        Args:
            encoder: The model.
            pairs: The clean set; its inputs serve all poisoned sets made from it.
            poisoned: The poisoned set, whose new captions and images are added.
            on_features: Prepare outputs of the trunks instead of pixels and tokens.
            progress: Returns a progress callback for a named step.
            reuse_from: Inputs of the same set for another model, whose pixels are reused if they
                fit.
        """
        # also images without a caption: they are in the gallery, and an attack may use them
        everything = np.arange(len(pairs.images), dtype=np.int32)

        def prepare() -> PairInputs:
            return prepare_inputs(
                encoder,
                pairs,
                everything,
                on_features=on_features,
                progress=progress,
                reuse_from=reuse_from,
            )

        identity = self.identity(encoder)
        where = [identity, str(encoder.device), on_features, pairs.fingerprint, str(pairs.root)]
        known = self._get("inputs", where, prepare)
        if poisoned is None:
            return known
        return self._get(
            "poisoned inputs",
            [*where, poisoned.fingerprint],
            lambda: add_missing(known, encoder, poisoned, progress=progress),
        )

    def surrogate(
        self,
        name: str,
        pairs: PairDataset,
        *,
        progress: ProgressFor | None = None,
    ) -> VectorSurrogate:
        """Embed all images and captions of a clean set with a model, as an attack's surrogate.

        Args:
            name: Name of the model.
            pairs: The clean set.
            progress: Returns a progress callback for a named step.
        """
        encoder = self.encoder(name, device=torch.device("cpu"))

        def embed() -> VectorSurrogate:
            inputs = self.inputs(encoder, pairs, on_features=encoder.has_heads, progress=progress)
            captions = inputs.captions
            images = np.arange(len(pairs.images), dtype=np.int32)
            return VectorSurrogate(
                captions,
                embed_texts(encoder, inputs, np.array(captions, dtype=object)),
                images,
                embed_images(encoder, inputs, images),
                lambda new: embed_captions(encoder, new),
            )

        return self._get("surrogate", [name, pairs.fingerprint, str(pairs.root)], embed)

    def measured(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        make: Callable[[], ModelMeasurement],
        **how: Any,
    ) -> ModelMeasurement:
        """Return the measurements of a model on the test part that do not depend on a goal.

        Args:
            encoder: The model; equal models share their measurements.
            pairs: The set.
            make: Measures the model.
            how: Everything else that affects the numbers.
        """
        identity = self.identity(encoder)
        key = [identity, pairs.fingerprint, self.files(pairs), str(encoder.device), how]
        return self._get("measured", key, make)

    def _get(self, kind: str, key: Any, make: Callable[[], T], holding: Any = None) -> T:
        loaded = self._loaded.setdefault(kind, OrderedDict())
        text = json.dumps(key, sort_keys=True, default=str)
        if text not in loaded:
            loaded[text] = (make(), holding)
            while len(loaded) > self._keep:
                loaded.popitem(last=False)
        loaded.move_to_end(text)
        value: T = loaded[text][0]
        return value


def goal_classes_of(part: DataPart, seed: int) -> Sequence[str]:
    """List the classes that goals can use; a data set with known classes is not loaded."""
    if part.name in DATASETS and (known := DATASETS[part.name].classes):
        return known
    return goal_classes(RunCache().pairs(part, seed))


def _files_digest(pairs: PairDataset) -> str:
    return files_digest(pairs, np.arange(len(pairs.images), dtype=np.int32))


def prepare_inputs(
    encoder: DualEncoder,
    pairs: PairDataset,
    images: IntArray,
    *,
    on_features: bool,
    progress: ProgressFor | None = None,
    reuse_from: PairInputs | None = None,
) -> PairInputs:
    """Prepare a set's inputs for a model as in `RunCache.inputs`, also of images without pairs."""
    if on_features:
        return prepare_features(
            encoder, pairs, images=images, cache=cache_folder(), progress=progress
        )
    pixels = getattr(reuse_from, "pixels", None)
    return prepare_pixels(encoder, pairs, images=images, pixels=pixels, progress=progress)


def shared_cache(shared: dict[str, Any]) -> RunCache:
    """Return the `RunCache` shared by a worker's tasks (`mmpoison.base.workers.Task`)."""
    if "runs" not in shared:
        if (threads := shared.get("threads")) is not None:
            torch.set_num_threads(threads)
        shared["runs"] = RunCache()
    cache: RunCache = shared["runs"]
    return cache


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
