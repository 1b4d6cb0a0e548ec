"""The contract that every defence keeps, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

from mmpoison.registry import Registry

Kind = Literal["pre-training", "in-training", "post-training"]


class Defense(Protocol):
    """What every defence says of itself; what it does depends on its kind.

    A pre-training defence has `apply(pairs, encoder, inputs) -> FilterResult`; a post-training defence has
    `apply(encoder, clean_pairs, inputs, *, seed) -> TrainingResult`.

    Attributes:
        name: Registered name.
        kind: When it acts.
        source: Where it was published.
        summary: One line: what it does.
        knobs: What can be set, by the name of the constructor's parameter, each with one line on what it trades.
        cost: One line: what it costs in computation, in clean data, in quality.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    source: ClassVar[str]
    summary: ClassVar[str]
    knobs: ClassVar[Mapping[str, str]]
    cost: ClassVar[str]


DEFENSES: Registry[type[Defense]] = Registry("defence", "mmpoison.defenses")
