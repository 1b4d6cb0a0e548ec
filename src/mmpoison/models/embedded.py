"""The embedded dual encoders: small, trained on OpenMoji scenes, shipped with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

from mmpoison.models.catalogue import MODELS, ModelSource
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder


def load_embedded(name: str) -> DualEncoder:
    """Load one of the checkpoints inside the package."""
    with as_file(files("mmpoison.models") / "weights" / name) as folder:
        return load_checkpoint(folder, name)


for _name, _summary in (
    (
        "openmoji-small",
        "small CLIP (64 px, 128-d) pre-trained on OpenMoji scenes; the demo's victim",
    ),
    ("openmoji-mini", "smaller CLIP pre-trained on other OpenMoji scenes; the demo's filter"),
):
    MODELS.register(_name)(
        ModelSource(_name, _summary, lambda name=_name: load_embedded(name))  # type: ignore[misc]
    )
