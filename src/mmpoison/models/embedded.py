"""Registers the dual encoders that ship with the package: small, trained on OpenMoji scenes."""

from __future__ import annotations

from importlib.resources import as_file, files

from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder

LICENCE = "Apache-2.0; the drawings it was trained on CC BY-SA 4.0"


def load_embedded(name: str) -> DualEncoder:
    """Load one of the checkpoints inside the package."""
    with as_file(files("mmpoison.models") / "weights" / name) as folder:
        return load_checkpoint(folder, name)


for _name, _summary, _megabytes in (
    (
        "openmoji-small",
        "small CLIP (64 px, 128-d) pre-trained on OpenMoji scenes; the demo's victim",
        14.0,
    ),
    (
        "openmoji-mini",
        "smaller CLIP pre-trained on other OpenMoji scenes; the demo's filter",
        9.4,
    ),
    (
        "openmoji-vit",
        "small CLIP with a vision transformer, pre-trained on other OpenMoji scenes",
        5.0,
    ),
):
    MODELS.register(_name)(
        ModelSource(
            name=_name,
            summary=_summary,
            load=lambda name=_name: load_embedded(name),  # type: ignore[misc]
            megabytes=_megabytes,
            licence=LICENCE,
            origin="comes with the package",
        )
    )
