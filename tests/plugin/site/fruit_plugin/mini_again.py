"""A model: that of the package under another name."""

from __future__ import annotations

from mmpoison.models import MODELS, load_encoder
from mmpoison.models.architectures import ModelSource

MODELS.register("mini-again")(
    ModelSource(
        name="mini-again",
        summary="openmoji-mini under another name",
        load=lambda: load_encoder("openmoji-mini"),
    )
)
