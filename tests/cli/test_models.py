"""`mmpoison models`, and models named on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpoison.models import load_encoder


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


@pytest.mark.slow
def test_a_poisoned_model_is_taken_to_transformers(
    cli: Callable[..., Any], square_folder: Path, tmp_path: Path
) -> None:
    """From a transformers folder through poisoning and training back to one, by the commands of the docs."""
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        text_config={**tower, "num_attention_heads": 2},
        vision_config={**tower, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path / "start")
    start, data, model = tmp_path / "start", tmp_path / "data", tmp_path / "model"
    for arguments in (
        ("poison", square_folder, "--goal", "sheep2aeroplane", "--samples", "2", "--out", data),
        ("train", "--data", data, "--model", start, "--out", model, "--set", "epochs=1"),
        ("models", "export", model, "--to", "transformers", "--out", tmp_path / "hf"),
    ):
        result = cli(*arguments)
        assert result.code == 0, result.err
    assert "POISONED ON PURPOSE" in (tmp_path / "hf" / "README.md").read_text()
    trained = load_encoder(tmp_path / "hf")
    assert trained.digest() == load_encoder(model).digest()
    assert trained.digest() != load_encoder(start).digest()
    assert trained.config["mmpoison"]["activation"] == "QuickGELU"
    assert trained.config["mmpoison"]["source"] == "start"
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "hf")
    tokens = trained.tokens(["a sheep", "an aeroplane in the sky"])
    with torch.no_grad():
        output = theirs(input_ids=tokens, pixel_values=torch.zeros(1, 3, 32, 32))
        torch.testing.assert_close(
            trained.encode_text(tokens), output.text_embeds, atol=1e-5, rtol=0
        )
