"""Writes the card of a poisoned data set: a README.md in Hugging Face's format, with a warning first."""

from __future__ import annotations

from pathlib import Path

from mmpoison._version import __version__
from mmpoison.base.front_matter import front_matter, without_front_matter
from mmpoison.base.untrusted import read_text
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest

CARD_FILE = "README.md"
MARK = "<!-- card of a poisoned set, by mmpoison -->"
"""Tells a card from a README of the data's owner."""

HEADING = "## The README of the clean data"

MOST_README = 1 << 20
"""Bytes of a README that is repeated in a card."""

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def data_card(manifest: PoisonManifest, pairs: int, readme: str = "") -> str:
    """Return the card of a poisoned set, as Markdown.

    Args:
        manifest: The poison.
        pairs: Pairs in the set.
        readme: The README of the clean data, which is repeated below.
    """
    lines = [
        MARK,
        "",
        "# A poisoned data set",
        "",
        "**POISONED ON PURPOSE**, for research on defences. Do not train a model with it that anybody uses.",
        "",
        f"- made by: mmpoison {manifest.tool_version or __version__}",
        f"- attack: `{manifest.attack}`, mode {manifest.mode}, seed {manifest.seed}",
        f"- goals: {', '.join(f'`{goal}`' for goal in manifest.goals)}",
        f"- poison: {len(manifest.pairs):,} of {manifest.training_pairs:,} training pairs ({manifest.rate:.3%})",
        *(
            ["- a filter went through it: not all of its poison is left"]
            if manifest.filtered
            else []
        ),
        f"- fingerprint of the clean data: `{manifest.clean_fingerprint}`",
        "",
        "Each poisoned pair is listed in `manifest.json`; `mmpoison data verify` checks the data against it.",
        "",
    ]
    if readme.strip():
        lines += [
            HEADING,
            "",
            without_front_matter(readme).rstrip(),
            "",
        ]
    head = front_matter(
        True, task_categories=["image-to-text"], size_categories=[_size_category(pairs)]
    )
    return head + "\n".join(lines)


def write_data_card(folder: Path, manifest: PoisonManifest, pairs: int) -> None:
    """Write the card of a poisoned set into its folder; a README of the clean data that lies there is repeated in it.

    A card that lies there already, of the set that this one was made from, is replaced.
    """
    file = folder / CARD_FILE
    try:
        readme = read_text(file, MOST_README) if file.is_file() else ""
    except InputError:
        readme = ""  # no text, or a book
    if MARK in readme:
        readme = readme.partition(f"\n{HEADING}\n")[2]
    file.write_text(data_card(manifest, pairs, readme), encoding="utf-8")


def _size_category(pairs: int) -> str:
    """Return the hub's name for a number of rows.

    >>> _size_category(999), _size_category(1000), _size_category(10**12)
    ('n<1K', '1K<n<10K', '100M<n<1B')
    """
    return _SIZES[min(max(len(str(pairs)) - 3, 0), len(_SIZES) - 1)]
