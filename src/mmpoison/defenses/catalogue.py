"""The contract that every defence keeps, and the registry that finds them."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from mmpoison.registry import Registry

Kind = Literal["pre-training", "in-training", "post-training"]


class Defense(Protocol):
    """What every defence says of itself; what it does depends on its kind.

    A pre-training defence has `apply(pairs, encoder, inputs) -> FilterResult`; a post-training defence has
    `apply(encoder, clean_pairs, inputs, *, seed) -> TrainingResult`.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    source: ClassVar[str]
    summary: ClassVar[str]


DEFENSES: Registry[type[Defense]] = Registry("defence", "mmpoison.defenses")
