"""The shipped encoders can be made again: each variant trains, loads, and its card says by which command."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import pretrain_openmoji
from benchmarks.pretrain_openmoji import VARIANTS

from mmpoison.models import load_encoder


def made(folder: Path, variant: str) -> str:
    pretrain_openmoji.main(variant, folder, scenes=260, captions_each=1, epochs=2, workers=1)
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow  # each draws and embeds the demo's scenes
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_made_again(tmp_path: Path, variant: str) -> None:
    card = made(tmp_path / "model", variant)
    assert f"--variant {variant} --scenes 260 --captions-each 1 --epochs 2 --out DIR" in card
    encoder = load_encoder(str(tmp_path / "model"))
    training = encoder.record.pretraining
    assert training is not None
    assert training.training.steps == 4
    assert training.seed == VARIANTS[variant]["seed"]
    if variant == "mini":  # one seed reaches everything in each of them
        made(tmp_path / "again", variant)
        assert load_encoder(str(tmp_path / "again")).digest() == encoder.digest()
