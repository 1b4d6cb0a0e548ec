"""Describes a checkpoint before it is built, builds it, and saves and loads checkpoint folders.

Every format (an open_clip folder, a transformers `CLIPModel`, a bare file, an architecture with weights) is read into
one `Checkpoint`; only `Checkpoint.build` makes a model from it, after checking that all of it fits together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mmpoison.base.files import atomic_folder, write_json
from mmpoison.base.untrusted import plain_file, read_json
from mmpoison.errors import InputError
from mmpoison.models.architectures import (
    activation_name,
    without_text_prefix,
)
from mmpoison.models.dual_encoder import DualEncoder, Tokenizer
from mmpoison.models.open_clip_build import (
    build_module,
    build_tokenizer,
    save_text_files,
)
from mmpoison.models.text_files import refuse_code
from mmpoison.models.weights_file import read_weights
from mmpoison.records.run_files import CheckpointRecord

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "README.md"

WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""Names that open_clip itself gives weights, best first."""

_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """A model before it is built, in open_clip's terms whatever its format. Nothing is checked yet.

    Attributes:
        config: `{"model_cfg": ..., "preprocess_cfg": ..., "mmpoison": ...}`.
        tensors: open_clip's names to weights; the text encoder's names may have the prefix `text.` or not.
        weights: The file of the weights, for messages.
        where: The file of the config, for messages.
        what: Name of the config, for messages.
        folder: Contains the files of its text encoder and tokenizer; the config then cannot name any other file of this
            machine. None for an architecture of open_clip.
        fetch: Allow the download of a Hugging Face text tower's config and tokenizer, if the folder lacks them.
        tokenizer: The tokenizer, if it is not the one that the config names.
    """

    config: Any
    tensors: Mapping[str, Tensor]
    weights: Path
    where: Path
    what: str = "the config"
    folder: Path | None = None
    fetch: bool = False
    tokenizer: Tokenizer | None = None

    def build(self, name: str | None = None) -> DualEncoder:
        """Build the model, with all of its weights and nothing else.

        The weights are compared with the config before its memory is allocated: a config of a few lines can describe a
        model of terabytes, while the weights of a file take no more memory than the file.

        Args:
            name: Its name in results; by default the one in the config, or the folder's name.

        Raises:
            InputError: If the config is invalid or contradictory, a weight is missing, unknown or has the wrong shape,
                or the model cannot embed a caption.
        """
        try:
            record = CheckpointRecord.of(self.config.get("mmpoison", {}), "mmpoison")
            cfg = self.config["model_cfg"]
            activation = activation_name(cfg)
            if record.activation not in (None, activation):
                raise InputError(
                    f"the model was saved with {str(record.activation)[:40]} and the config now says {activation}"
                )
            outline = build_module(cfg, folder=self.folder, fetch=self.fetch, weightless=True)
            given = self._fitting(outline)
            module = build_module(cfg, folder=self.folder, fetch=self.fetch)
            with torch.no_grad():
                module.load_state_dict(given, strict=True)
            tokenizer = self.tokenizer or build_tokenizer(cfg, self.folder, fetch=self.fetch)
            known_as = name or (record.name or self.where.parent.name)[:200]
            encoder = DualEncoder(module, tokenizer, self.config, known_as)
            _check_usable(encoder)
        except InputError as error:
            named = tuple(str(path) for path in (self.folder, self.weights) if path is not None)
            said = str(error)
            raise InputError(said if said.startswith(named) else f"{self.where}: {said}") from None
        except (
            # errors of open_clip and torch for invalid numbers and names
            *(LookupError, TypeError, ValueError, AttributeError, RuntimeError),
            *(AssertionError, ArithmeticError, OSError),
        ) as error:
            raise InputError(f"{self.where}: not a model config ({repr(error)[:200]})") from None
        return encoder

    def _fitting(self, module: nn.Module) -> dict[str, Tensor]:
        """Rename weights to a module's names, and check their shapes.

        open_clip would silently resize position embeddings for another image size or context; this function refuses
        them.

        Raises:
            InputError: If a weight is missing, unknown or has the wrong shape.
        """
        wanted = module.state_dict()
        given = _as_the_module_has_them(module, wanted, self.tensors)
        kinds = {
            "missing": [name for name in wanted if name not in given],
            "unknown": [name for name in given if name not in wanted],
            "of another shape": [
                f"{name} {_shape(given[name])} for {_shape(wanted[name])}"
                for name in wanted
                if name in given and given[name].shape != wanted[name].shape
            ],
        }
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for kind, names in kinds.items()
            if names
        ]
        if parts:
            raise InputError(
                f"{self.weights}: weights do not match {self.what}: {'; '.join(parts)}"
            )
        return given


def _as_the_module_has_them(
    module: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    given: dict[str, Tensor] = convert_state_dict(module, dict(tensors))
    if "text.positional_embedding" in wanted:
        given = convert_to_custom_text_state_dict(given)
    elif "positional_embedding" in wanted:
        given = without_text_prefix(given)
    # some save it as a number, others as a row with one entry
    for name in ("logit_scale", "logit_bias"):
        if name in given and name in wanted and given[name].numel() == wanted[name].numel() == 1:
            given[name] = given[name].reshape(wanted[name].shape)
    # a constant that old transformers releases saved with the weights
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in wanted:
        given.pop(position_ids, None)
    return given


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _check_usable(encoder: DualEncoder) -> None:
    """Refuse a model that loads but cannot embed a caption.

    Examples: the tokenizer of another model, or a temperature that is not a number.

    Raises:
        InputError: If a caption that fills the context cannot be embedded, or the temperature is not a finite number.
    """
    if not torch.isfinite(encoder.logit_scale.detach().exp()).all():
        raise InputError("logit_scale is out of range: the temperature would not be a number")
    tokens = encoder.tokens(["a " * 500])
    try:
        with torch.no_grad():
            encoder.encode_text(tokens)
    except (RuntimeError, LookupError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"its text encoder fails on a caption ({repr(error)[:200]})") from None


# -- checkpoint folders: safetensors weights, open_clip's config, merges, a model card


def save_checkpoint(
    encoder: DualEncoder,
    out: Path,
    *,
    card: str,
    metadata: Mapping[str, object] | None = None,
    half: bool = False,
    also: Callable[[Path], object] | None = None,
) -> Path:
    """Write a checkpoint folder atomically.

    Args:
        encoder: The encoder to save.
        out: New folder.
        card: The model card (Markdown): how the model was made and on what data.
        metadata: Machine-readable facts (fields of `CheckpointRecord`), stored in the config.
        half: Save weights as 16-bit floats, at half the size. Normalisation statistics stay 32-bit.
        also: Writes further files to the folder before it gets its final name.

    Raises:
        InputError: If `out` is not empty.
    """
    with model_folder(out, card) as folder:
        write_json(folder / CONFIG_FILE, config_to_save(encoder, metadata))
        tensors = weights_to_save(encoder, half=half)
        safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        save_text_files(encoder.module, encoder.tokenizer, folder)
        if also is not None:
            also(folder)
    return out


@contextmanager
def model_folder(out: Path, card: str) -> Iterator[Path]:
    """Yield a new folder with a model card. It gets its final name when the block ends without error.

    Raises:
        InputError: If `out` is not empty.
    """
    with atomic_folder(out) as folder:
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        yield folder
        # safetensors writes private files; give weights the permissions of their card
        for file in folder.glob("*.safetensors"):
            shutil.copymode(folder / CARD_FILE, file)


def config_to_save(
    encoder: DualEncoder, metadata: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the config of a model with the facts about it, as a checkpoint stores them."""
    record = CheckpointRecord.of(
        {
            **encoder.record.to_json(),
            **(metadata or {}),
            "name": encoder.name,
            "activation": activation_name(encoder.config["model_cfg"]),
        }
    )
    return {**encoder.config, "mmpoison": record.to_json()}


def weights_to_save(encoder: DualEncoder, *, half: bool = False) -> dict[str, Tensor]:
    """Copy all weights and statistics to the CPU. Normalisation statistics stay 32-bit."""
    return {
        name: (
            tensor.half()
            if half and tensor.is_floating_point() and "running_" not in name
            else tensor
        )
        .detach()
        .cpu()
        .contiguous()
        for name, tensor in encoder.module.state_dict().items()
    }


def load_checkpoint(folder: Path, name: str | None = None, *, fetch: bool = False) -> DualEncoder:
    """Load a checkpoint folder written by `save_checkpoint`, or an open_clip folder. Nothing is unpickled.

    Args:
        folder: Folder with `open_clip_config.json` and weights.
        name: Its name in results; by default the name it was saved under.
        fetch: Allow the download of a Hugging Face text tower's config and tokenizer, if the folder lacks them.

    Raises:
        InputError: If a file is missing or broken, the weights do not match the config, or a weight is not finite.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: has no {CONFIG_FILE}, so it is not a checkpoint of a dual encoder"
        )
    weights = next((folder / file for file in WEIGHTS_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise InputError(f"{folder}: has no {WEIGHTS_FILE}")
    tensors = read_weights(weights).tensors
    return open_clip_checkpoint(folder, weights, tensors, fetch=fetch).build(name)


def open_clip_checkpoint(
    folder: Path, weights: Path, tensors: Mapping[str, Tensor], *, fetch: bool = False
) -> Checkpoint:
    """Describe weights by their folder's `open_clip_config.json`.

    Raises:
        InputError: If the config cannot be read, or a file of the folder names code.
    """
    where = plain_file(folder, CONFIG_FILE)
    config = read_json(where)
    refuse_code(folder)
    return Checkpoint(config, tensors, weights, where, folder=folder, fetch=fetch)
