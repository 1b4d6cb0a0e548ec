"""Copies the text files of a checkpoint after checking them: the config of a text tower, and a tokenizer.

transformers runs code, opens files and contacts servers if a config or tokenizer tells it to. It therefore never sees a
checkpoint's own files. It reads a temporary folder with a config rewritten from a list of known keys, and with the
tokenizer files that contain only data.
"""

from __future__ import annotations

import json
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from mmpoison.base.extras import require
from mmpoison.base.untrusted import MAX_JSON_BYTES, parse_json, plain_file, read_bytes, read_json
from mmpoison.errors import InputError
from mmpoison.models.model_config import Epsilon, Language, checked, options_model

CONFIG_FILE = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""A folder with one of these files has a tokenizer."""
MAX_MERGES_BYTES = 16 << 20
"""Largest unpacked size; CLIP's own table of merges has 3 MB."""

_JSON_FILES = ("tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json")
_TEXT_FILES = ("vocab.txt", "merges.txt")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_MAX_JSON_FILES = 500

_TOKENIZERS = frozenset(
    f"{name}{fast}"
    for name in (
        *("Bert", "DistilBert", "MPNet", "Roberta", "XLMRoberta", "Albert", "GPT2", "CLIP"),
        *("T5", "MT5", "Nllb", "M2M100", "Siglip", "Siglip2", "Gemma"),
    )
    for fast in ("Tokenizer", "TokenizerFast")
) | {"PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"}
_TOKENIZER_TYPES = frozenset(
    {
        *("bert", "distilbert", "mpnet", "roberta", "xlm-roberta", "albert", "gpt2", "clip"),
        *("t5", "mt5", "m2m_100", "siglip", "siglip2", "gemma"),
    }
)

_Activation = Literal["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish"]
_Towers = Literal["bert", "roberta", "xlm-roberta", "mt5", "m2m_100"]


class _TextTower(BaseModel):
    """Keys common to all text towers' configs. Keys outside the tower's own config class are dropped."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_type: _Towers
    # other values would compute something different from the supported towers
    position_embedding_type: Literal["absolute"] | None = None


_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("is_decoder", "add_cross_attention"), Literal[False]),
    **dict.fromkeys(("hidden_act", "activation_function"), _Activation),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon"), Epsilon),
    "feed_forward_proj": Literal[
        "relu", "gelu", "gelu_new", "gated-gelu", "gated-silu", "gated-relu"
    ],
}
"""Types of text tower options that are not numbers, or numbers with special bounds."""


class _AddedToken(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    content: str
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False
    special: bool = False


_OneToken = str | _AddedToken | None


class _TokenizerConfig(BaseModel):
    """The keys of a tokenizer's config that are passed on; all others are dropped."""

    model_config = ConfigDict(extra="ignore", strict=True)

    tokenizer_class: str | None = None
    model_max_length: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    do_lower_case: bool | None = None
    do_basic_tokenize: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    add_prefix_space: bool | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool | None = None
    legacy: bool | None = None
    trim_offsets: bool | None = None
    keep_accents: bool | None = None
    remove_space: bool | None = None
    errors: Literal["strict", "replace", "ignore"] | None = None
    padding_side: Literal["left", "right"] | None = None
    truncation_side: Literal["left", "right"] | None = None
    extra_ids: Annotated[int, Field(ge=0, le=10_000)] | None = None
    src_lang: Language | None = None
    tgt_lang: Language | None = None
    bos_token: _OneToken = None
    eos_token: _OneToken = None
    unk_token: _OneToken = None
    sep_token: _OneToken = None
    pad_token: _OneToken = None
    cls_token: _OneToken = None
    mask_token: _OneToken = None
    additional_special_tokens: list[str | _AddedToken] | None = None
    extra_special_tokens: list[str | _AddedToken] | dict[str, str] | None = None
    added_tokens_decoder: dict[str, _AddedToken] | None = None


# -- copies ----------------------------------------------------------------------------------------


@contextmanager
def vetted_text_tower(source: Path) -> Iterator[Path]:
    """Yield a temporary folder with only the checked config of a text tower.

    Args:
        source: A folder with the tower's `config.json`.

    Raises:
        InputError: If open_clip does not support the tower, the config names code, or a value is out of range.
    """
    where = plain_file(source, CONFIG_FILE)
    config = read_mapping(where)
    model_type = config.get("model_type")
    if model_type not in get_args(_Towers):
        raise InputError(
            f"{where}: text tower {str(model_type)[:40]!r} is not supported, only {', '.join(get_args(_Towers))}"
        )
    transformers = require("transformers", "a Hugging Face tower needs transformers")
    theirs = type(transformers.AutoConfig.for_model(model_type))
    options = options_model(_TextTower, _OPTIONS, theirs)
    with tempfile.TemporaryDirectory(prefix="mmpoison-text-") as name:
        folder = Path(name)
        _write(folder / CONFIG_FILE, checked(options, config, f"{where}: text tower"))
        yield folder


@contextmanager
def vetted_tokenizer(source: Path) -> Iterator[Path]:
    """Yield a temporary folder with the data of a Hugging Face tokenizer and its checked config.

    Args:
        source: A folder with `tokenizer.json`, `vocab.txt` or a `*.model`.

    Raises:
        InputError: If a file is not data, is too large, points outside the folder, or names code.
    """
    with tempfile.TemporaryDirectory(prefix="mmpoison-text-") as name:
        folder = Path(name)
        for file in _JSON_FILES:
            if (source / file).exists():
                path = plain_file(source, file)
                content = read_bytes(path)
                _refuse_code_in(parse_json(content, path), path)
                (folder / file).write_bytes(content)
        tables = [source / file for file in _TEXT_FILES]
        tables += sorted(source.glob("*.model"))[:4]
        for table in tables:
            if table.exists():
                content = read_bytes(plain_file(source, table.name), MAX_JSON_BYTES)
                (folder / table.name).write_bytes(content)
        if (source / _TOKENIZER_CONFIG).exists():
            where = plain_file(source, _TOKENIZER_CONFIG)
            _write(folder / _TOKENIZER_CONFIG, _tokenizer_config(where))
        if (source / CONFIG_FILE).exists():
            where = plain_file(source, CONFIG_FILE)
            model_type = read_mapping(where).get("model_type")
            if isinstance(model_type, str) and model_type in _TOKENIZER_TYPES:
                # the only hint at the tokenizer's kind, if nothing else names it
                _write(folder / CONFIG_FILE, {"model_type": model_type})
        yield folder


def read_merges(file: Path) -> bytes:
    """Read a packed table of byte-pair merges of bounded size.

    Args:
        file: `bpe_merges.txt.gz`: a header line, then two symbols per line.

    Returns:
        The file's own bytes, checked to unpack to at most `MAX_MERGES_BYTES` of UTF-8.

    Raises:
        InputError: If it is missing, points outside its folder, is not gzip, truncated, too large or invalid.
    """
    packed = read_bytes(plain_file(file.parent, file.name), MAX_MERGES_BYTES)
    unpacked = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        text = unpacked.decompress(packed, MAX_MERGES_BYTES + 1)
        if len(text) > MAX_MERGES_BYTES:
            raise InputError(f"{file}: unpacks to more than {MAX_MERGES_BYTES >> 20} MiB")
        if not unpacked.eof or unpacked.unused_data:
            raise ValueError("cut off, or more than one part")
        lines = text.decode("utf-8").split("\n")
    except (zlib.error, ValueError) as error:
        raise InputError(f"{file}: broken table of merges ({str(error)[:120]})") from None
    bad = next((n for n, line in enumerate(lines[1:], 2) if line and len(line.split()) != 2), None)
    if bad is not None:
        raise InputError(f"{file}, line {bad}: not a table of merges: write two symbols per line")
    return packed


# -- checks ----------------------------------------------------------------------------------------


def refuse_code(folder: Path) -> None:
    """Refuse a folder in which any JSON file names its own Python code (`auto_map`).

    A checkpoint's code is never run; a checkpoint that needs its code would compute wrong results without it.

    Raises:
        InputError: If a file names code.
    """
    for number, file in enumerate(sorted(folder.rglob("*.json"))):
        if number == _MAX_JSON_FILES:
            return
        try:
            content = read_json(file)
        except InputError:
            continue  # the file's reader refuses it
        _refuse_code_in(content, file)


def _refuse_code_in(content: Any, where: Path) -> None:
    values = [content]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if value.get("auto_map"):
                raise InputError(f"{where}: names code to run (auto_map), which is refused")
            values += value.values()
        elif isinstance(value, list):
            values += value


def read_mapping(where: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        InputError: If the file cannot be read, is not a JSON object, or names code.
    """
    value = read_json(where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: not a mapping")
    _refuse_code_in(value, where)
    return value


def _tokenizer_config(where: Path) -> dict[str, Any]:
    config = checked(_TokenizerConfig, read_mapping(where), f"{where}: tokenizer")
    name = config.get("tokenizer_class")
    if name is not None and name not in _TOKENIZERS:
        raise InputError(f"{where}: tokenizer {name[:60]!r} is not supported")
    longest = config.pop("model_max_length", None)
    if longest is not None and longest < 1e9:  # a larger value means "no limit"
        config["model_max_length"] = int(longest)
    if any(not re.fullmatch(r"\d{1,9}", key) for key in config.get("added_tokens_decoder", {})):
        raise InputError(f"{where}: added_tokens_decoder: its keys must be token numbers")
    return config


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")
