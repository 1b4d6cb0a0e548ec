"""`mmpoison models`, and models named on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.models import MODELS, load_encoder


def test_list(cli: Callable[..., Any]) -> None:
    result = cli("models", "list")
    assert result.code == 0
    for name in MODELS:
        assert name in result.out
    assert "ARCHITECTURE@FILE" in result.out
    known = {entry["name"]: entry for entry in json.loads(cli("models", "list", "--json").out)}
    assert set(known) == set(MODELS)
    assert known["openmoji-small"]["on_this_machine"] is True
    for entry in known.values():
        assert entry["licence"]
        assert entry["megabytes"] > 1
        assert entry["origin"]


def test_architectures(cli: Callable[..., Any]) -> None:
    out = cli("models", "list", "--architectures", "--like", "vit-b-32", "--json").out
    known = {entry["name"]: entry for entry in json.loads(out)}
    assert known["ViT-B-32-quickgelu"]["activation"] == "QuickGELU"
    assert "openai" in known["ViT-B-32-quickgelu"]["weights"]
    # open_clip lists them here too, and would load them without a word
    assert "openai" not in known["ViT-B-32"]["weights"]
    assert "laion2b_s34b_b79k" in known["ViT-B-32"]["weights"]
    assert "ViT-L-14" not in known
    assert "ViT-B-32-quickgelu (QuickGELU): openai, " in (
        cli("models", "list", "--architectures", "--like", "ViT-B-32-q").out
    )


def test_show(cli: Callable[..., Any]) -> None:
    result = cli("models", "show", "openmoji-mini")
    assert result.code == 0
    assert "activation: GELU" in result.out
    facts = json.loads(cli("models", "show", "openmoji-mini", "--json").out)
    encoder = load_encoder("openmoji-mini")
    assert facts["digest"] == encoder.digest()
    assert facts["parameters"] == facts["image_parameters"] + facts["text_parameters"] + 1
    assert facts["image_size"] == 64


@pytest.mark.parametrize("format", ["open-clip", "safetensors"])
def test_export(cli: Callable[..., Any], checkpoint: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    result = cli("models", "export", checkpoint, "--format", format, "--out", out)
    assert (result.code, result.err) == (0, "")
    name = out / "model.safetensors" if format == "safetensors" else out
    assert load_encoder(name).digest() == load_encoder(checkpoint).digest()
    again = cli("models", "export", checkpoint, "--format", format, "--out", out)
    assert again.code == 2
    assert "already holds something" in again.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nothing"), "unknown model 'nothing'"),
        (("fetch", "hf-hub:"), "stands a repository"),
        (("export", "openmoji-mini", "--format", "onnx"), "format 'onnx': one of open-clip"),
        (("export", "openmoji-mini", "--format", "transformers"), "its image encoder is a ResNet"),
    ],
)
def test_bad_input_is_one_line(
    cli: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    extra = ("--out", tmp_path / "out") if arguments[0] == "export" else ()
    result = cli("models", *arguments, *extra)
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["train", "evaluate", "filter", "sterilize"])
def test_every_verb_takes_a_model_by_every_name(
    cli: Callable[..., Any], square_folder: Path, tmp_path: Path, verb: str
) -> None:
    """A name of the grammar gets as far as the weights, whatever the verb."""
    arguments: dict[str, tuple[Any, ...]] = {
        "train": ("--out", tmp_path / "out"),
        "sterilize": ("--out", tmp_path / "out"),
        "filter": ("--out", tmp_path / "out", "--threshold", "0.8"),
        "evaluate": ("--goal", "sheep2aeroplane"),
    }
    option = "--encoder" if verb == "filter" else "--model"
    weights = tmp_path / "weights.pt"
    name = f"ViT-B-32-quickgelu@{weights}"
    result = cli(verb, "--data", square_folder, option, name, "--trust", *arguments[verb])
    assert (result.code, result.err) == (2, f"mmpoison: {weights}: no such file of weights\n")
