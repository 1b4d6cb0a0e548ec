"""The shipped encoders can be made again: each has the architecture that is made, and a card says by which command."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import pretrain_openmoji
from benchmarks.pretrain_openmoji import VARIANTS

from mmpoison.models import load_encoder
from mmpoison.models.open_clip_build import BPE_FILE


@pytest.mark.slow  # embeds the demo's scenes
def test_one_is_made(tmp_path: Path) -> None:
    out = tmp_path / "model"
    pretrain_openmoji.main("mini", out, scenes=260, captions_each=1, epochs=2, workers=1)
    encoder = load_encoder(str(out))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "--variant mini --scenes 260 --captions-each 1 --epochs 2 --out DIR" in card
    training = encoder.record.pretraining
    assert training is not None
    assert training.training.steps == 4
    assert training.seed == VARIANTS["mini"]["seed"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_is_the_one_that_is_shipped(tmp_path: Path, variant: str) -> None:
    merges = pretrain_openmoji.write_merges(tmp_path / BPE_FILE)
    encoder = pretrain_openmoji.random_encoder(variant, merges)
    shipped = load_encoder(f"openmoji-{variant}")
    assert {name: w.shape for name, w in encoder.module.state_dict().items()} == {
        name: w.shape for name, w in shipped.module.state_dict().items()
    }
    captions = ["a sheep on a hill", "two aeroplanes, 1st of May"]
    assert encoder.tokenizer(captions).tolist() == shipped.tokenizer(captions).tolist()
