"""The short part of `make fuzz`: a few changed examples for every parser, always the same ones."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from tests.fuzz import misbehaving_targets
from tests.fuzz.campaign import Figures, fuzz, replay
from tests.fuzz.mutate import mutate
from tests.fuzz.registry import all_targets

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of memory and time are those of Linux"
)
MISBEHAVING = "tests.fuzz.misbehaving_targets:all_targets"


def _check(done: list[Figures], inputs: int) -> None:
    found = [
        f"{one.target}: {signature} (python -m tests.fuzz --replay {file})"
        for one in done
        for signature, file in one.findings.items()
    ]
    assert not found, "\n".join(found)
    for one in done:
        assert one.inputs >= inputs, one.line()
        # the example itself is read
        assert one.accepted, one.line()


# -- every parser ----------------------------------------------------------------------------------


def test_no_changed_data_get_through(tmp_path: Path) -> None:
    names = [name for name, target in all_targets().items() if not target.models]
    _check(fuzz(names, tmp_path, inputs=20), 20)


@pytest.mark.slow
def test_no_changed_model_gets_through(tmp_path: Path) -> None:
    names = [name for name, target in all_targets().items() if target.models]
    _check(fuzz(names, tmp_path, inputs=5), 5)


# -- the harness -----------------------------------------------------------------------------------


def test_the_harness_sees_what_no_parser_may_do(tmp_path: Path) -> None:
    expected = misbehaving_targets.EXPECTED
    done = fuzz(list(expected), tmp_path, inputs=2, limit=1, registry=MISBEHAVING)
    assert [one.target for one in done] == list(expected)
    for one in done:
        said = expected[one.target]
        assert one.accepted >= 1 or one.target == "dies", one
        if said is None:
            assert one.refused == 2, one
            assert not one.findings
            continue
        assert len(one.findings) == 1, one
        signature, file = next(iter(one.findings.items()))
        assert signature.startswith(said), one
        # and it is there to be tried again
        if one.target in ("crashes", "connects"):
            assert replay(Path(file), MISBEHAVING)["signature"] == signature


def test_a_seed_gives_the_same_changes() -> None:
    target = all_targets()["recipe"]
    raw = b"seed: 1\nname: x\n"

    def made(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [mutate(raw, "yaml", target.keys, [raw], rng) for _ in range(50)]

    assert made(1) == made(1) != made(2)
    assert len(set(made(1))) > 30
