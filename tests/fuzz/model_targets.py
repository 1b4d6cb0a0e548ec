"""Targets that read checkpoints: configs, tokenizers and weights, of models that are built in milliseconds."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from tests.fuzz import tokens
from tests.fuzz.target import Case, Target

MERGES = 200
CONTEXT = 12
MEAN_STD = {"mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.28]}
CAPTIONS = ["a sheep", "two sofas! 3 words", ""]
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sheep", "two", "sofas", "!", "3")

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def _config(text: dict[str, Any] | None = None) -> dict[str, Any]:
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    own = {"context_length": CONTEXT, "vocab_size": 512 + MERGES + 2}
    own |= {"width": 16, "heads": 2, "layers": 1}
    return {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text or own},
        "preprocess_cfg": {"size": 16, **MEAN_STD},
    }


def _save(folder: Path, config: dict[str, Any], merges: Path | None) -> None:
    import torch

    from mmpoison.models import DualEncoder, save_checkpoint
    from mmpoison.models.open_clip_build import build_module, build_tokenizer, small_tokenizer

    module = build_module(config["model_cfg"], seed=0)
    assert isinstance(module, torch.nn.Module)
    tokenizer = small_tokenizer(merges, CONTEXT) if merges else build_tokenizer(config["model_cfg"])
    encoder = DualEncoder(module, tokenizer, config, "tiny")
    save_checkpoint(encoder, folder, card="# tiny\n")


def _merges(target: Path) -> Path:
    from open_clip.tokenizer import default_bpe

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as stream:
        lines = [stream.readline() for _ in range(MERGES + 1)]
    target.write_bytes(gzip.compress("".join(lines).rstrip("\n").encode(), mtime=0))
    return target


def _clip(folder: Path) -> None:
    """A checkpoint with CLIP's own text encoder and a small table of merges."""
    merges = _merges(folder / "all.gz")
    _save(folder / "input", _config(), merges)
    merges.unlink()


def _hugging_face(folder: Path) -> None:
    """A checkpoint with a text tower and a tokenizer of transformers, and code that nobody may run."""
    bert = folder / "tiny-bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(WORDS))
    about: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    about["model_max_length"] = CONTEXT
    (bert / "tokenizer_config.json").write_text(json.dumps(about))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 16, "pad_token_id": 0}
    tower = {"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 16, **sizes}
    (bert / "config.json").write_text(json.dumps(tower))
    named = {"hf_model_name": str(bert), "hf_tokenizer_name": str(bert)}
    _save(folder / "input", _config({**_TEXT, **named}), None)
    shutil.rmtree(bert)
    config = json.loads((folder / "input" / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] = _TEXT
    (folder / "input" / CONFIG).write_text(json.dumps(config))
    _code(folder / "input")


def _code(folder: Path) -> None:
    """Configs that name a Python file beside them, which says so when it is run."""
    evil = {
        "auto_map": {"AutoTokenizer": ["tok.Tok", None], "AutoConfig": "tok.Config"},
        "tokenizer_class": "Tok",
        "model_type": "evil",
        # a folder is refused where we read that it names code; transformers reads this number, we do not
        "unread": float("nan"),
    }
    (folder / "evil").mkdir()
    for place in (folder, folder / "evil"):
        (place / "tok.py").write_text(tokens.CANARY_CODE + "class Tok: ...\nclass Config: ...\n")
    for name in ("tokenizer_config.json", "config.json"):
        (folder / "evil" / name).write_text(json.dumps(evil))
    (folder / "config.4.0.0.json").write_text(json.dumps(evil))


def _config_examples() -> list[Case]:
    """Configs of other kinds of models, which do not fit the weights, and configs that ask for what is not theirs."""
    timm = {"timm_model_name": "test_resnet", "timm_model_pretrained": False, "image_size": 32}
    timm |= {"timm_pool": "avg", "timm_proj": "linear"}
    resnet = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 4}
    configs = [_config(), _config(), _config(), _config()]
    configs[1]["model_cfg"]["vision_cfg"] = timm
    configs[2]["model_cfg"]["vision_cfg"] = resnet
    configs[3]["model_cfg"]["custom_text"] = True
    for part, key in _FETCHING:
        for value in tokens.CONFIG_KEYS[key]:
            config = _config(dict(_TEXT))
            (config["model_cfg"][part] if part else config)[key] = value
            configs.append(config)
    return [{f"input/{CONFIG}": json.dumps(config).encode()} for config in configs]


_TEXT = {
    "hf_model_name": "bert",
    "hf_tokenizer_name": "bert",
    "hf_pooler_type": "mean_pooler",
    "hf_proj_type": "mlp",
    "context_length": CONTEXT,
}
_FETCHING = (
    ("", "auto_map"),
    ("text_cfg", "tokenizer_kwargs"),
    ("text_cfg", "hf_tokenizer_name"),
    ("text_cfg", "hf_model_name"),
    ("vision_cfg", "timm_model_name"),
    ("vision_cfg", "timm_model_pretrained"),
)
"""Where configs ask for code or for files from elsewhere; each is tried in its place."""


def _tower_examples() -> list[Case]:
    """Towers whose config asks for weights of another, for code, or for more than fits into memory."""
    other = {"use_pretrained_backbone": True, "use_timm_backbone": True}
    towers: list[dict[str, Any]] = [
        {"model_type": "dpt", "backbone": "hf-hub:timm/resnet18", **other},
        {"model_type": "dpt", "use_pretrained_backbone": True},
        {"model_type": "timm_backbone", "backbone": "hf-hub:timm/resnet18", **other},
        {"model_type": "evil", "auto_map": {"AutoConfig": "tok.Config", "AutoModel": "tok.Tok"}},
        {"model_type": "bert", "num_hidden_layers": 1_000_000, "hidden_size": 16},
        {"model_type": "bert", "vocab_size": 10**9, "hidden_size": 16},
    ]
    return [{"input/text_tower/config.json": json.dumps(tower).encode()} for tower in towers]


def _tokenizer_examples() -> list[Case]:
    """Tokenizers that name code, or a file that is not theirs."""
    named: list[dict[str, Any]] = [
        {"auto_map": {"AutoTokenizer": ["tok.Tok", None]}, "tokenizer_class": "Tok"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "tokenizer_file": "../canary/secret.json"},
        {"tokenizer_class": "BertTokenizer", "vocab_file": "/etc/passwd"},
    ]
    return [{"input/tokenizer_config.json": json.dumps(one).encode()} for one in named]


def _load(place: Path) -> None:
    """As `models show` and `evaluate` load it, and two captions and an image through it."""
    import numpy as np
    import torch

    from mmpoison.models import load_encoder
    from mmpoison.models.export import encoder_facts

    encoder = load_encoder(place)
    json.dumps(encoder_facts(encoder), allow_nan=False)
    with torch.no_grad():
        encoder.encode_text(encoder.tokens(CAPTIONS))
        size = encoder.image_size
        encoder.encode_image(encoder.image_input(np.zeros((1, size, size, 3), dtype=np.uint8)))


def _read_folder(folder: Path) -> None:
    _load(folder / "input")


def _bare(folder: Path) -> None:
    """One file with its config in the header."""
    from mmpoison.models import export_model, load_encoder

    _clip(folder)
    export_model(load_encoder(folder / "input"), folder / "bare", "safetensors")
    shutil.rmtree(folder / "input")
    _code(folder / "bare")


def _torch(folder: Path) -> None:
    import safetensors.torch
    import torch

    _clip(folder)
    state = safetensors.torch.load_file(folder / "input" / WEIGHTS)
    torch.save(state, folder / "input" / "open_clip_pytorch_model.bin")
    (folder / "input" / WEIGHTS).unlink()


class _Runs:
    def __reduce__(self) -> Any:
        return exec, (tokens.CANARY_CODE,)


def _torch_examples() -> list[Case]:
    """Pickles that run code where something unpickles them."""
    import io

    import torch

    made = []
    for zipped in (True, False):
        stream = io.BytesIO()
        content = {"a": torch.zeros(2), "b": _Runs()}
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        made.append(stream.getvalue())
        stream = io.BytesIO()
        torch.save({"a": torch.zeros(2)}, stream, _use_new_zipfile_serialization=zipped)
        made.append(stream.getvalue())
    made.append(pickle.dumps(_Runs()))
    return [{"input/open_clip_pytorch_model.bin": content} for content in made]


def _transformers(folder: Path) -> None:
    from mmpoison.models import export_model, load_encoder

    _clip(folder)
    export_model(load_encoder(folder / "input"), folder / "exported", "transformers")
    shutil.rmtree(folder / "input")
    (folder / "exported").rename(folder / "input")
    _code(folder / "input")


def targets() -> list[Target]:
    """Every target that loads a model."""
    keys = tokens.CONFIG_KEYS
    tokenizer = {f"input/{name}": "json" for name in ("tokenizer.json", "tokenizer_config.json")}
    return [
        Target(
            "open-clip-config",
            _hugging_face,
            {f"input/{CONFIG}": "json"},
            _read_folder,
            keys,
            models=True,
            examples=_config_examples,
        ),
        Target(
            "text-tower-config",
            _hugging_face,
            {"input/text_tower/config.json": "json"},
            _read_folder,
            keys,
            models=True,
            examples=_tower_examples,
        ),
        Target(
            "tokenizer-files",
            _hugging_face,
            tokenizer,
            _read_folder,
            keys,
            models=True,
            examples=_tokenizer_examples,
        ),
        Target(
            "bpe-merges",
            _clip,
            {"input/bpe_merges.txt.gz": "merges.gz"},
            _read_folder,
            models=True,
        ),
        Target(
            "safetensors",
            _clip,
            {f"input/{WEIGHTS}": "safetensors"},
            _read_folder,
            keys,
            models=True,
        ),
        Target(
            "safetensors-alone",
            _bare,
            {"bare/model.safetensors": "safetensors"},
            lambda folder: _load(folder / "bare" / "model.safetensors"),
            keys,
            models=True,
        ),
        Target(
            "torch-weights",
            _torch,
            {"input/open_clip_pytorch_model.bin": "bytes"},
            _read_folder,
            models=True,
            examples=_torch_examples,
        ),
        Target(
            "transformers-config",
            _transformers,
            {"input/config.json": "json", "input/preprocessor_config.json": "json"},
            _read_folder,
            keys,
            models=True,
        ),
    ]
