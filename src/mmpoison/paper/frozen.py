"""The lines of tables 5 and 12: which encoder trained."""

from __future__ import annotations

from collections.abc import Callable

from mmpoison.paper.measured import Results, trained
from mmpoison.paper.shapes import Line


def _trained(what: str) -> Callable[[Results], Results]:
    return lambda results: results.where(lambda row: trained(row) == what, model="poisoned")


def _frozen(results: Results) -> Results:
    return results.where(model="pretrained")


LINES = (
    Line("both trained", _trained("both"), {"model": "both-trainable"}, "attack"),
    Line("image encoder", _trained("image"), {"model": "image-trainable (text frozen)"}, "attack"),
    Line("text encoder", _trained("text"), {"model": "text-trainable (image frozen)"}, "attack"),
    Line("pre-trained", _frozen, {"model": "both-frozen (pre-trained)"}),
)
