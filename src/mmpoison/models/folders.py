"""Loads model folders: ours, open_clip's and transformers', on this machine or from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import plain_file, read_json
from mmpoison.errors import InputError
from mmpoison.models import hugging_face
from mmpoison.models.architectures import (
    activation_name,
)
from mmpoison.models.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILES,
    build_with_weights,
    check_usable,
    load_checkpoint,
    with_place,
)
from mmpoison.models.dual_encoder import DualEncoder, Tokenizer
from mmpoison.models.hub import hub_file, hub_folder
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    TEXT_TOWER_FOLDER,
    hugging_face_tokenizer,
    small_tokenizer,
)
from mmpoison.models.text_files import refuse_code
from mmpoison.models.weights_file import read_weights
from mmpoison.records.run_files import CheckpointRecord

_SMALL_FILES = (
    CONFIG_FILE,
    hugging_face.CONFIG_FILE,
    hugging_face.PREPROCESSOR_FILE,
    BPE_FILE,
    f"{TEXT_TOWER_FOLDER}/config.json",
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model"),
)


def load_folder(folder: Path, name: str | None = None, *, fetch: bool = False) -> DualEncoder:
    """Load a model folder: ours, open_clip's (`open_clip_config.json`) or a transformers `CLIPModel`.

    Args:
        folder: The folder. A transformers model has a `config.json`.
        name: The model's name in results.
        fetch: Allow the download of a Hugging Face text tower's config and tokenizer.

    Raises:
        InputError: If it holds no model, or a broken one.
    """
    if (folder / CONFIG_FILE).is_file() or not (folder / hugging_face.CONFIG_FILE).is_file():
        return load_checkpoint(folder, name, fetch=fetch)
    return load_transformers_folder(folder, name)


def load_transformers_folder(folder: Path, name: str | None = None) -> DualEncoder:
    """Load a transformers `CLIPModel` into an open_clip model that computes the same.

    Raises:
        InputError: If the model is not CLIP, is broken, or cannot be computed exactly.
    """
    where = plain_file(folder, hugging_face.CONFIG_FILE)
    refuse_code(folder)
    config = read_json(where)
    if not isinstance(config, dict):
        raise InputError(f"{where}: not a mapping")
    cfg = hugging_face.model_cfg_from_transformers(config, where)
    files = [folder / file for file in hugging_face.WEIGHTS_FILES if (folder / file).is_file()]
    if not files:
        raise InputError(f"{folder}: has no {hugging_face.WEIGHTS_FILES[0]}")
    tensors = read_weights(files[0]).tensors
    converted = hugging_face.weights_from_transformers(tensors)
    try:
        module = build_with_weights(
            cfg, converted, str(files[0]), f"{where.name} (as open_clip names them)"
        )
    except InputError as error:
        raise with_place(error, where, folder) from None
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise InputError(f"{where}: not a model config ({repr(error)[:200]})") from None
    tokenizer = _tokenizer(folder, cfg)
    ours = config.get("mmpoison", {})
    record = CheckpointRecord.of(ours, f"{where}: mmpoison")
    full = {
        "model_cfg": cfg,
        "preprocess_cfg": hugging_face.preprocess_cfg_from_transformers(
            folder, cfg["vision_cfg"]["image_size"]
        ),
        "mmpoison": {"source": folder.name, **ours, "activation": activation_name(cfg)},
    }
    known_as = name or (record.name or folder.name)[:200]
    try:
        return check_usable(DualEncoder(module, tokenizer, full, known_as))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _tokenizer(folder: Path, cfg: dict[str, Any]) -> Tokenizer:
    """Return open_clip's tokenizer if the folder's vocabulary is CLIP's, otherwise the folder's own."""
    from open_clip.tokenizer import SimpleTokenizer

    context = cfg["text_cfg"]["context_length"]
    if (folder / BPE_FILE).exists():
        return small_tokenizer(folder / BPE_FILE, context)
    vocabulary = _vocabulary(folder)
    clip = SimpleTokenizer(context_length=context)
    if vocabulary is None:
        if cfg["text_cfg"]["vocab_size"] != clip.vocab_size:
            raise InputError(
                f"{folder}: has no tokenizer (tokenizer.json, or vocab.json and merges.txt), and its vocabulary is not "
                "CLIP's: add the tokenizer's files"
            )
    elif {t: i for t, i in vocabulary.items() if i < clip.vocab_size - 2} != {
        t: i for t, i in clip.encoder.items() if i < clip.vocab_size - 2
    }:
        # so that a checkpoint of this model saves the tokenizer too
        cfg["text_cfg"]["hf_tokenizer_name"] = folder.name
        return hugging_face_tokenizer(folder, context)
    result: Tokenizer = clip
    return result


def _vocabulary(folder: Path) -> dict[str, int] | None:
    if (folder / "vocab.json").is_file():
        content = read_json(plain_file(folder, "vocab.json"))
    elif (folder / "tokenizer.json").is_file():
        content = read_json(plain_file(folder, "tokenizer.json"))
        content = content.get("model", {}).get("vocab") if isinstance(content, dict) else None
    else:
        return None
    if not isinstance(content, dict) or not all(isinstance(i, int) for i in content.values()):
        raise InputError(f"{folder}: its tokenizer has no table of tokens")
    return content


# -- the hub ---------------------------------------------------------------------------------------


def load_hub(repository: str, revision: str = "") -> DualEncoder:
    """Load a repository of the Hugging Face hub, in open_clip's or transformers' format; it is downloaded once.

    Raises:
        InputError: If it is not on this machine and cannot be downloaded, or has neither format.
    """
    folder = fetch_hub(repository, revision)
    return load_folder(folder, f"hf-hub:{repository}", fetch=True)


def fetch_hub(repository: str, revision: str = "") -> Path:
    """Download only the files that loading a repository needs; returns its folder in the Hugging Face cache.

    Raises:
        InputError: If it is not on this machine and cannot be downloaded, or holds no model.
    """
    folder = hub_folder(repository, _SMALL_FILES, revision=revision)
    open_clip = (folder / CONFIG_FILE).is_file()
    names = WEIGHTS_FILES if open_clip else hugging_face.WEIGHTS_FILES
    weights = hub_file(repository, names, revision=revision)
    if weights is None:
        raise InputError(
            f"model 'hf-hub:{repository}': the repository has no weights in a supported format"
        )
    if weights.name.endswith(".index.json"):
        hub_folder(repository, ["model-*.safetensors"], revision=revision)
    return folder
