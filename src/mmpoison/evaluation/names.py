"""Names of the optional parts of an evaluation. This module imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError

STUDIES: Mapping[str, str] = {
    "queries": "search with test captions, captions of the poison, other train captions and random captions",
    "query-length": "search with each caption written once, twice and three times in a row (table 15)",
    "collateral": "how the ranks of every class change: its own images and the target set",
    "distribution": "silhouette by class of texts and images, and a map by PCA",
    "tsne": "as distribution, with a map by t-SNE",
    "epochs": "the goals after each epoch of the clean and the poisoned training (figure 3; in runs only)",
    "order-drift": "drift of two clean models, one in the poisoned model's order (in runs only; one more training)",
}
"""Optional parts of an evaluation: name, and what it measures."""

COSTLY = ("tsne", "epochs", "order-drift")
"""Studies that `all` leaves out."""


def parse_studies(names: Iterable[str]) -> tuple[str, ...]:
    """Parse study names. `all` means all except t-SNE, epochs and order-drift, which cost most.

    Raises:
        InputError: If there is no such study. The message suggests the nearest name.

    Example:
        >>> parse_studies(["all"])
        ('queries', 'query-length', 'collateral', 'distribution')
        >>> parse_studies(["query-lenght"])
        Traceback (most recent call last):
        mmpoison.errors.InputError: unknown study 'query-lenght': did you mean 'query-length'? known: all, ...
    """
    wanted: list[str] = []
    for name in names:
        if name == "all":
            wanted.extend(known for known in STUDIES if known not in COSTLY)
        elif name in STUDIES:
            wanted.append(name)
        else:
            raise InputError(unknown_name("study", name, ["all", *STUDIES]))
    return tuple(name for name in STUDIES if name in wanted)
