"""Pairs on the terminal, one after the other, and a key for each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from mmpoison.errors import InputError
from mmpoison.reporting.text import visible

if TYPE_CHECKING:
    from mmpoison.defenses.filters.pair_labels import LabelFile, ShownPair, Verdict

KEYS = "k keep · d drop · u unsure · s skip · b back · q stop"
WIDTH = 48


def check_terminal() -> None:
    """Refuse to ask where nobody can answer.

    Raises:
        InputError: If keys cannot be read.
    """
    if not sys.stdin.isatty():
        raise InputError(
            "--label needs a terminal (or --page, a browser); elsewhere write the file of --labels yourself, "
            "with the columns pair and verdict (keep or drop)"
        )


def label_pairs(
    pairs: Sequence[ShownPair],
    file: Path,
    *,
    console: Console,
    read_key: Callable[[], str] | None = None,
) -> None:
    """Ask for a verdict on each pair; the file is written after every key, and answers in it are not asked for again.

    The distance is not shown, for it would be the answer.

    Args:
        pairs: What to show, in order.
        file: The CSV of labels.
        console: Where.
        read_key: Gives the next key; the keyboard by default.
    """
    from mmpoison.defenses.filters.pair_labels import LabelFile

    if read_key is None:
        from click import getchar

        read_key = getchar
    with LabelFile(file, (pair.pair for pair in pairs)) as labels:
        _ask(pairs, labels, console, read_key)
        given = list(labels.labels().values())
    console.print(
        f"{file}: {given.count('keep')} keep, {given.count('drop')} drop, "
        f"{given.count('unsure')} unsure, {given.count('')} open",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _ask(
    pairs: Sequence[ShownPair], labels: LabelFile, console: Console, read_key: Callable[[], str]
) -> None:
    answers: dict[str, Verdict] = {"k": "keep", "d": "drop", "u": "unsure", "s": ""}
    place = 0
    back = False
    while place < len(pairs):
        pair = pairs[place]
        if labels[pair.pair] and not back:
            place += 1
            continue
        console.print(picture(pair))
        console.print(Text(visible(pair.caption), style="bold"), soft_wrap=True)
        console.print(Text(f"{place + 1} of {len(pairs)}   {KEYS}", style="dim"))
        key = read_key().lower()
        back = key == "b"
        if key in ("q", "\x03", "\x04"):
            break
        if back:
            place = max(place - 1, 0)
        elif key in answers:
            labels.set(pair.pair, answers[key])
            place += 1


def picture(pair: ShownPair, width: int = WIDTH) -> Text:
    """An image in half blocks, two pixels a character; what cannot be read is said instead."""
    from mmpoison.images.decode import BrokenImage, read_image

    try:
        pixels = read_image(pair.root, pair.image, width)
    except BrokenImage as error:
        return Text(visible(str(error)))
    text = Text()
    for top, bottom in zip(pixels[0::2], pixels[1::2], strict=True):
        for upper, lower in zip(top, bottom, strict=True):
            style = "#{:02x}{:02x}{:02x} on #{:02x}{:02x}{:02x}".format(*upper, *lower)
            text.append("▀", style)
        text.append("\n")
    return text
