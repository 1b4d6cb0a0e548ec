"""mmpoison: study, measure and defeat data poisoning of multimodal encoders."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmpoison._version import __version__

if TYPE_CHECKING:
    from mmpoison.attacks import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel
    from mmpoison.datasets import PairDataset, load_pairs, save_pairs
    from mmpoison.models import DualEncoder, load_encoder

__all__ = [
    "DualEncoder",
    "MultipleTargetLabels",
    "PairDataset",
    "SingleTargetImage",
    "SingleTargetLabel",
    "__version__",
    "load_encoder",
    "load_pairs",
    "save_pairs",
]

# torch and open_clip take seconds to import: `import mmpoison` and `mmpoison --help` do not wait for them
_HOMES = {
    "DualEncoder": "mmpoison.models",
    "PairDataset": "mmpoison.datasets",
    "MultipleTargetLabels": "mmpoison.attacks",
    "SingleTargetImage": "mmpoison.attacks",
    "SingleTargetLabel": "mmpoison.attacks",
    "load_encoder": "mmpoison.models",
    "load_pairs": "mmpoison.datasets",
    "save_pairs": "mmpoison.datasets",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mmpoison' has no attribute {name!r}")
