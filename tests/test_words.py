"""Private words and idioms do not come back: code, docs and messages use the words of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

INSTEAD = {
    r"hang(s|ing)? (on|together)": "depend(s) on; correlated",
    r"beside": "next to; comparison with; besides",
    r"what is kept": "cache; cached",
    r"let(s|ting)? go of|letting[ _]go": "evict, delete; no longer retrieve(s)",
    r"go(es)? on where|went on after|(is|are|be) gone on with|taken up again": "resume(s), resumed",
    r"do(es)? what is missing": "runs what remains",
    r"tell(s|ing)? apart|told apart|tell(s|ing)? \S+ from": "distinguish(es)",
    r"(is|are) told": "receives; is called with",
    r"knobs?": "parameter(s)",
    r"(hand|hands|handed|handing) (over|on)": "save; pass on",
    r"(in|at) hand|at home": "given; available; expected",
    r"strangers?": "untrusted; unlabeled input",
    r"mak(e|es|ing) ready|made ready": "prepare(s), prepared",
    r"heaps?": "suspicious cluster(s)",
    r"push(es|ed)? captions|(whom|goals that) the data push": "possible poisoning: captions about A with images of B",
    r"come(s)? apart|came nearer": "associations weakened; unusual rank changes",
    r"stand(s)? here for": "shown for",
    r"others rely on": "file formats; that every ... must have",
    r"(in the store|to make)(?=,| \(|:)": "cached; to run",
    r"reckon(ed|s)?": "estimate(d)",
    r"so many times": "k times",
    r"thousand million": "billion",
    r"and its kin": "such as",
    r"without a word": "silently; without an error",
    r"anew": "again; from the beginning",
    r"failed after 1 tries": "failed after 1 attempt",
    r"as good as": "nearly",
}
"""A phrase that is never right here, as a pattern, and what to write instead."""

PERCENT = r"\d+ %"

GENERATED = ("lab/docs/results/paper/",)
"""Pages that quote captions."""


def texts() -> list[Path]:
    """Every text that a reader sees: source, templates, scripts of pages, docs, README."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    for folder, kinds in (
        ("src", ("*.py", "*.html", "*.js", "*.yaml", "*.j2")),
        ("docs", ("*.md",)),
        ("lab", ("*.py", "*.yaml", "*.j2", "*.md")),
    ):
        found += [path for kind in kinds for path in sorted((ROOT / folder).rglob(kind))]
    return [path for path in found if not str(path.relative_to(ROOT)).startswith(GENERATED)]


@pytest.mark.parametrize("phrase", [*INSTEAD, PERCENT])
def test_no_text_has_a_private_phrase(phrase: str) -> None:
    pattern = re.compile(rf"(?<!\w)(?:{phrase})(?!\w)", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r} -> {INSTEAD.get(phrase, 'no space: 5%')}"
        for path in texts()
        # in code it is also the modulo
        if phrase != PERCENT or path.suffix == ".md"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := pattern.search(line))
    ]
    assert not found, "\n" + "\n".join(found)
