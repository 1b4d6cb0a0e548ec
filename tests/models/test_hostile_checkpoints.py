"""Checkpoints that an attacker made: none runs code, contacts a server, reaches another file, or fills the memory.

Every field that reaches transformers, timm, open_clip or tokenizers is given hostile values, while an audit hook of the
interpreter watches for what must never happen.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel
from tests.conftest import nothing_happens
from tests.models.conftest import CONFIG, edit_json

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_encoder
from mmpoison.models.architectures import architectures
from mmpoison.models.checkpoint import save_checkpoint
from mmpoison.models.model_config import PreprocessConfig, check_model_cfg, model_config
from mmpoison.models.text_files import MAX_MERGES_BYTES, read_merges

EVIL = "open({canary!r}, 'w').write('ran'); raise SystemExit('code of a checkpoint ran')"


@pytest.fixture(scope="module")
def heads_checkpoint(
    make_heads_encoder: Callable[..., DualEncoder], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint with both towers of others; shared, so never write into it."""
    folder = tmp_path_factory.mktemp("heads") / "checkpoint"
    return save_checkpoint(make_heads_encoder(), folder, card="")


@pytest.fixture
def hostile(heads_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of it, with code in every place that was ever looked at."""
    return with_code(heads_checkpoint, tmp_path)


@pytest.fixture(scope="module")
def hostile_once(heads_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a copy for all tests that put back what they change."""
    return with_code(heads_checkpoint, tmp_path_factory.mktemp("hostile"))


def with_code(checkpoint: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    code = EVIL.format(canary=str(tmp_path / "canary-ran"))
    evil = folder / "evil"
    evil.mkdir()
    (tmp_path / "canary-secret").write_text("nobody's business")
    for place in (folder, evil, folder / "text_tower", tmp_path):
        for name in ("tok.py", "modeling_evil.py", "configuration_evil.py", "hubconf.py"):
            (place / name).write_text(code)
    for file in folder.glob("tokenizer*.json"):
        shutil.copy(file, evil / file.name)
    return folder


def loads_or_is_refused(folder: Path) -> str | None:
    """The refusal, or None where the model was loaded; nothing else may happen."""
    said = None
    with nothing_happens(folder):
        try:
            load_encoder(folder)
        except InputError as error:
            said = str(error)
    if said is not None:
        assert len(said.splitlines()) == 1
        assert len(said) < 2000
    return said


def test_the_checkpoint_is_loaded_as_it_is(hostile: Path) -> None:
    assert loads_or_is_refused(hostile) is None


# -- code ------------------------------------------------------------------------------------------

AUTO_MAP = {"auto_map": {"AutoTokenizer": ["tok.Evil", "tok.Evil"], "AutoConfig": "tok.Evil"}}


def test_arguments_of_the_tokenizer_run_nothing(hostile: Path) -> None:
    """The hole of 0.1.0: a subfolder whose tokenizer names code, with `trust_remote_code` from the config."""
    edit_json(hostile / "evil" / "tokenizer_config.json", lambda c: c.update(AUTO_MAP))
    edit_json(
        hostile / CONFIG,
        lambda c: c["model_cfg"]["text_cfg"].update(
            tokenizer_kwargs={"trust_remote_code": True, "subfolder": "evil"}
        ),
    )
    assert "names code to run" in str(loads_or_is_refused(hostile))
    edit_json(hostile / "evil" / "tokenizer_config.json", lambda c: c.pop("auto_map"))
    said = str(loads_or_is_refused(hostile))
    assert "model_cfg.text_cfg.tokenizer_kwargs.trust_remote_code: unknown key" in said


def test_configuration_files_of_other_versions_run_nothing(hostile: Path) -> None:
    """transformers reads `config.4.0.0.json` where `configuration_files` names it."""
    tower = hostile / "text_tower"
    edit_json(tower / "config.json", lambda c: c.update(configuration_files=["config.4.0.0.json"]))
    shutil.copy(tower / "config.json", tower / "config.4.0.0.json")
    edit_json(tower / "config.4.0.0.json", lambda c: c.update(AUTO_MAP))
    assert "auto_map" in str(loads_or_is_refused(hostile))


@pytest.mark.parametrize(
    "place",
    ["tokenizer.json", "text_tower/config.json", "evil/deep/er/x.json"],
)
def test_code_named_anywhere_is_refused(hostile: Path, place: str) -> None:
    file = hostile / place
    file.parent.mkdir(parents=True, exist_ok=True)
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**value, "nested": [AUTO_MAP]}))
    assert "names code to run (auto_map)" in str(loads_or_is_refused(hostile))


@pytest.mark.parametrize("key", ["hf_model_name", "hf_tokenizer_name"])
@pytest.mark.parametrize("name", ["{evil}", "evil", "../checkpoint/evil", "hf-hub:evil/evil"])
def test_other_folders_cannot_be_named(hostile: Path, key: str, name: str) -> None:
    """Without its own files a checkpoint names no folder of this machine, and no repository."""
    text = {key: name.format(evil=hostile / "evil")}
    edit_json(
        hostile / "evil" / "tokenizer_config.json", lambda c: c.update(tokenizer_class="Evil")
    )
    edit_json(hostile / CONFIG, lambda c: c["model_cfg"]["text_cfg"].update(text))
    shutil.rmtree(hostile / "text_tower")
    for file in hostile.glob("tokenizer*.json"):
        file.unlink()
    said = str(loads_or_is_refused(hostile))
    assert "a checkpoint may not download anything" in said or "not on this machine" in said


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_cfg", {"hf_model_name": "pypi:this"}),
        ("vision_cfg", {"timm_model_name": "test_resnet", "timm_model_pretrained": True}),
    ],
)
def test_a_config_fetches_and_imports_nothing(
    hostile: Path, part: str, change: dict[str, Any]
) -> None:
    if part == "text_cfg":  # without its own files it would have to look for them
        shutil.rmtree(hostile / "text_tower")
    edit_json(hostile / CONFIG, lambda c: c["model_cfg"][part].update(change))
    # the image encoder's own weights are there
    assert (loads_or_is_refused(hostile) is None) == (part == "vision_cfg")
    assert "this" not in sys.modules


@pytest.mark.parametrize("tokenizer_class", ["Evil", "BertJapaneseTokenizer", "os.system", 3, ""])
def test_tokenizers_of_other_kinds_are_refused(hostile: Path, tokenizer_class: Any) -> None:
    edit_json(
        hostile / "tokenizer_config.json", lambda c: c.update(tokenizer_class=tokenizer_class)
    )
    assert "tokenizer" in str(loads_or_is_refused(hostile))


def test_links_out_of_the_checkpoint_are_refused(hostile: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "text_tower/config.json", CONFIG):
        file = hostile / name
        kept = file.read_bytes()
        file.unlink()
        file.symlink_to(hostile.parent / "canary-secret")
        assert "points outside its folder" in str(loads_or_is_refused(hostile)), name
        file.unlink()
        file.write_bytes(kept)
    assert loads_or_is_refused(hostile) is None


# -- every field -----------------------------------------------------------------------------------


def fields_of(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The dotted keys of a model and of the models inside it."""
    for name, field in model.model_fields.items():
        yield (*before, name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields_of(kind, (*before, name))


ALL = "MMPOISON_FAULT_POINTS" in os.environ
"""Whether every field gets every value, as `make faults` wants it; else a third, another one for the next field."""

HOSTILE_VALUES: list[Any] = [
    "hf-hub:evil/evil",
    "tok.Evil",
    "{folder}/evil",
    "{folder}/../canary-secret",
    "https://example.invalid/x",
    "\x00",
    "x" * 100_000,
    10**9,
    -1,
    0,
    float("1e300"),
    True,
    None,
    [],
    [1, 2, 3, 4],
    {"trust_remote_code": True, "subfolder": "evil", "auto_map": {"AutoModel": "tok.Evil"}},
    {"bpe_path": "{folder}/../canary-secret"},
]


def _set(config: Any, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            return
    if isinstance(config, dict):
        config[path[-1]] = value


MODEL_FIELDS = [
    *(("model_cfg", *path) for path in fields_of(model_config())),
    ("model_cfg", "text_cfg", "tokenizer_kwargs", "bpe_path"),
    ("model_cfg", "text_cfg", "tokenizer_kwargs", "trust_remote_code"),
    ("model_cfg", "no_such_key"),
    *(("preprocess_cfg", *path) for path in fields_of(PreprocessConfig)),
    ("mmpoison",),
    ("mmpoison", "activation"),
    ("mmpoison", "name"),
]
TOWER_KEYS = {
    *("model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "hidden_act", "vocab_size", "type_vocab_size", "layer_norm_eps"),
    *("max_position_embeddings", "pad_token_id", "position_embedding_type", "is_decoder"),
    *("add_cross_attention", "torch_dtype", "dtype", "_name_or_path", "attn_implementation"),
    *("_attn_implementation", "quantization_config", "use_pretrained_backbone", "backbone"),
    *("use_timm_backbone", "backbone_config", "auto_map", "custom_pipelines", "tokenizer_class"),
    *("configuration_files", "transformers_version", "base_model_tp_plan", "trust_remote_code"),
}
TOKENIZER_KEYS = {
    *("tokenizer_class", "model_max_length", "auto_map", "do_lower_case", "added_tokens_decoder"),
    *("extra_special_tokens", "chat_template", "additional_special_tokens", "pad_token"),
    *("unk_token", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "backend"),
    *("sp_model_kwargs", "fix_mistral_regex", "trust_remote_code", "tokenizer_object"),
    *("processor_class", "src_lang", "errors"),
}


FIELDS = [
    *((CONFIG, path) for path in MODEL_FIELDS),
    *(("text_tower/config.json", (key,)) for key in sorted(TOWER_KEYS)),
    *(("tokenizer_config.json", (key,)) for key in sorted(TOKENIZER_KEYS)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "file", "path"), [(n, *each) for n, each in enumerate(FIELDS)])
def test_every_field(hostile_once: Path, place: int, file: str, path: tuple[str, ...]) -> None:
    folder = hostile_once
    before = (folder / file).read_text()
    begun = time.process_time()
    for value in HOSTILE_VALUES if ALL else HOSTILE_VALUES[place % 3 :: 3]:
        text = json.dumps(value).replace("{folder}", str(folder))
        config = json.loads(before)
        _set(config, path, json.loads(text))
        (folder / file).write_text(json.dumps(config))
        try:
            loads_or_is_refused(folder)
        finally:
            (folder / file).write_text(before)
    assert time.process_time() - begun < 60


@pytest.mark.parametrize(
    "model_type", ["dpt", "clip", "timm_backbone", "vision-encoder-decoder", "rag", "gpt2", "x"]
)
def test_towers_that_would_fetch_more_are_refused(hostile: Path, model_type: str) -> None:
    edit_json(
        hostile / "text_tower" / "config.json",
        lambda c: c.update(
            model_type=model_type, use_pretrained_backbone=True, backbone="hf-hub:evil/evil"
        ),
    )
    assert f"text tower {model_type!r} is not supported" in str(loads_or_is_refused(hostile))


# -- size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_cfg", {"layers": 1_000_000}),
        ("text_cfg", {"vocab_size": 10**12}),
        ("vision_cfg", {"timm_model_name": None, "layers": 1_000_000}),
        ("vision_cfg", {"timm_model_name": None, "layers": [10**6] * 4}),
        # within every range, and a model of 40 GB: the weights do not fit, which is known before it is built
        ("vision_cfg", {"timm_model_name": None, "layers": 128, "width": 8192}),
        ("vision_cfg", {"timm_model_name": "eva02_enormous_patch14_clip_224"}),
    ],
)
def test_a_huge_model_is_refused_before_it_is_built(
    hostile: Path, part: str, change: dict[str, Any]
) -> None:
    edit_json(hostile / CONFIG, lambda c: c["model_cfg"][part].update(change))
    begun = time.process_time()
    before = torch.get_rng_state()
    assert loads_or_is_refused(hostile) is not None
    assert time.process_time() - begun < 20
    assert torch.equal(before, torch.get_rng_state())


def test_a_huge_text_tower_is_refused_before_it_is_built(hostile: Path) -> None:
    edit_json(
        hostile / "text_tower" / "config.json",
        lambda c: c.update(hidden_size=16_384, num_hidden_layers=100, intermediate_size=65_536),
    )
    assert "do not match" in str(loads_or_is_refused(hostile))


def test_merges_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bpe_merges.txt.gz"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        for _ in range(40):
            stream.write(b"\n" * (1 << 20))
    with pytest.raises(InputError, match="unpacks to more than 16 MiB"):
        read_merges(file)
    file.write_bytes(b"\x1f\x8b" + b"\x00" * (MAX_MERGES_BYTES + 1))
    with pytest.raises(InputError, match="larger than the limit of 16 MiB"):
        read_merges(file)


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"header\na b\n" * 100, mtime=0)[:-12],
        gzip.compress(b"header\n\xff\xff b\n", mtime=0),
        gzip.compress(b"header\na b c\n", mtime=0),
        gzip.compress(b"header\na b\n", mtime=0) + gzip.compress(b"c d\n", mtime=0),
    ],
    ids=["no-gzip", "cut", "no-utf8", "three-symbols", "two-parts"],
)
def test_broken_merges_are_one_line(
    make_encoder: Callable[..., DualEncoder], tmp_path: Path, content: bytes
) -> None:
    folder = save_checkpoint(make_encoder(), tmp_path / "checkpoint", card="")
    (folder / "bpe_merges.txt.gz").write_bytes(content)
    assert "bpe_merges.txt.gz" in str(loads_or_is_refused(folder))


# -- nothing that is published is lost ---------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(architectures()))
def test_every_architecture_of_open_clip_passes(name: str) -> None:
    check_model_cfg(architectures()[name])
