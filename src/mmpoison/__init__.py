"""mmpoison: study, measure and defeat data poisoning of multimodal encoders.

pairs = mmpoison.load("my-pairs")
poisoned = mmpoison.poison(pairs, "sheep2aeroplane", samples=25)
trained = mmpoison.finetune("openmoji-small", poisoned)
mmpoison.evaluate(trained.encoder, poisoned)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmpoison._version import __version__

if TYPE_CHECKING:
    from mmpoison.api.data_scan import scan
    from mmpoison.api.defenses import check, sterilize
    from mmpoison.api.evaluation import evaluate
    from mmpoison.api.inputs import load, poison
    from mmpoison.api.running import run
    from mmpoison.api.training import finetune
    from mmpoison.attacks.paper import MultipleTargetLabels, SingleTargetImage, SingleTargetLabel
    from mmpoison.datasets.catalogue import load_pairs
    from mmpoison.embedded.keep_lists import keep_filter
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.loading import load_encoder
    from mmpoison.pairs.folder import save_pairs
    from mmpoison.pairs.table import PairDataset

__all__ = [
    "DualEncoder",
    "MultipleTargetLabels",
    "PairDataset",
    "SingleTargetImage",
    "SingleTargetLabel",
    "__version__",
    "check",
    "evaluate",
    "finetune",
    "keep_filter",
    "load",
    "load_encoder",
    "load_pairs",
    "poison",
    "run",
    "save_pairs",
    "scan",
    "sterilize",
]

# torch and open_clip take seconds to import: `import mmpoison` and `mmpoison --help` do not wait for them
_MODULES = {
    "DualEncoder": "mmpoison.models.dual_encoder",
    "MultipleTargetLabels": "mmpoison.attacks.paper",
    "PairDataset": "mmpoison.pairs.table",
    "SingleTargetImage": "mmpoison.attacks.paper",
    "SingleTargetLabel": "mmpoison.attacks.paper",
    "check": "mmpoison.api.defenses",
    "evaluate": "mmpoison.api.evaluation",
    "finetune": "mmpoison.api.training",
    "keep_filter": "mmpoison.embedded.keep_lists",
    "load": "mmpoison.api.inputs",
    "load_encoder": "mmpoison.models.loading",
    "load_pairs": "mmpoison.datasets.catalogue",
    "poison": "mmpoison.api.inputs",
    "run": "mmpoison.api.running",
    "save_pairs": "mmpoison.pairs.folder",
    "scan": "mmpoison.api.data_scan",
    "sterilize": "mmpoison.api.defenses",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'mmpoison' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
