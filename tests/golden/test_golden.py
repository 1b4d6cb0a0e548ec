"""The net under a large change: main jobs at a small size give what was recorded, on every machine.

What comes from a seed alone is compared exactly. What was computed in floating point is compared within a
share of itself (`cases.py`): one processor adds in another order than the next, and one release of a library too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import PIL
import pytest
from tests.golden import cases, layouts
from tests.golden.cases import CASES, EXACT, WITHIN
from tests.golden.make_golden import EXPECTED
from tests.golden.work import LONG, Work

MOVED = 6
"""How many places a line of a list that is sorted by a score may move; three lines describe a pair."""
BY_SCORE = re.compile("ranking|suspicious|drop")
"""Where lists are sorted by a score."""
DRAWN = (
    *("run-openmoji", "run-defended", "data", "attacks", "filters"),
    *("repairs", "scans", "measures", "sweeps", "matrix"),
)
"""Cases on drawn scenes, whose images are other ones before Pillow 13."""
PILLOW = int(PIL.__version__.partition(".")[0])
NUMBER = re.compile(r"(?<![\w.#/])(-?(?:\d{1,3}(?:,\d{3})+|\d+)\.\d+(?:e[+-]?\d+)?)(?!\w)")
"""A number with a decimal point within a text."""


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """A folder in which the cases share their inputs."""
    return Work(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("name", [name for name in CASES if PILLOW >= 13 or name not in DRAWN])
def test_a_main_job_gives_what_was_recorded(name: str, work: Work) -> None:
    expected = json.loads((EXPECTED / f"{name}.json").read_text("utf-8"))
    found = json.loads(json.dumps(CASES[name](work)))
    lines = list(Comparison(WITHIN[name]).differences(expected, found, name))
    if lines:
        more = f"\n... {len(lines) - 40} more" if len(lines) > 40 else ""
        pytest.fail("\n".join(lines[:40]) + more)


def test_every_plug_in_is_in_the_net(work: Work) -> None:
    """A new attack, defence, format, data set or model is recorded too."""
    from mmpoison.attacks import ATTACKS
    from mmpoison.datasets import DATASETS
    from mmpoison.defenses import DEFENSES
    from mmpoison.defenses.scan import EMBEDDED_FORMATS

    # the control is recorded with the matrix: it has no goal, which `poison` needs
    assert set(ATTACKS) == {*cases.ATTACKS, "no-poison"}
    assert set(DEFENSES) == set(cases.DEFENSES)
    assert set(DATASETS) == {*layouts.FORMATS, *cases.PUBLISHED, *cases.MADE}
    assert set(EMBEDDED_FORMATS) == set(cases.EMBEDDED)
    models = {one["name"] for one in json.loads(work("models list --json"))}
    assert models == {*cases.MODELS, *cases.LISTED_MODELS}
    assert {file.stem for file in EXPECTED.iterdir()} == set(CASES)


class Comparison:
    """Compares JSON values.

    Args:
        within: How far a number may be from the expected one, as a share of it; near 0 a tenth of that.
    """

    def __init__(self, within: float) -> None:
        self.within = within

    def differences(self, expected: Any, found: Any, where: str) -> Iterator[str]:
        """Give a line for each place where two values differ."""
        if isinstance(expected, dict) and isinstance(found, dict):
            keys = {*expected, *found}
            if BY_SCORE.search(where) and "in any order" in keys:
                keys -= {"texts", "first"}
            for key in sorted(keys):
                inside = (expected.get(key, "absent"), found.get(key, "absent"))
                yield from self.differences(*inside, f"{where} / {key}")
        elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
            if not (BY_SCORE.search(where) and self.moved(expected, found)):
                for place, inside in enumerate(zip(expected, found, strict=True)):
                    yield from self.differences(*inside, f"{where} / {place}")
        elif not self.same(expected, found):
            yield f"{where}: expected {expected!r}, found {found!r}"

    def moved(self, expected: list[Any], found: list[Any]) -> bool:
        """Return whether two lists have the same values, some a few places apart, as near ties have."""
        return len(expected) > LONG and all(
            any(self.same(one, other) for other in there[max(0, place - MOVED) : place + MOVED + 1])
            for here, there in ((expected, found), (found, expected))
            for place, one in enumerate(here)
        )

    def same(self, expected: Any, found: Any) -> bool:
        """Return whether two scalars are the same; numbers within texts may differ as numbers may."""
        if isinstance(expected, str) and isinstance(found, str):
            theirs, ours = NUMBER.split(expected), NUMBER.split(found)
            return theirs[::2] == ours[::2] and all(map(self._near_text, theirs[1::2], ours[1::2]))
        numbers = [type(each) in (int, float) for each in (expected, found)]
        if all(numbers) and float in (type(expected), type(found)):
            return self.near(expected, found)
        return type(expected) is type(found) and bool(expected == found)

    def near(self, expected: float, found: float, unit: float = 0.0) -> bool:
        """Return whether two numbers agree but for the order of floating-point operations."""
        return abs(expected - found) <= max(self.within * max(0.1, abs(expected)), unit)

    def _near_text(self, expected: str, found: str) -> bool:
        # the last digit that is printed may be rounded up or down
        digits = len(expected.partition("e")[0].partition(".")[2])
        unit = 1.01 * 10.0**-digits if "e" not in expected and self.within > EXACT else 0.0
        return self.near(float(expected.replace(",", "")), float(found.replace(",", "")), unit)
