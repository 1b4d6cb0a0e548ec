"""The verb `defenses`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mmpoison.defenses import DEFENSES


def test_all_are_listed(cli: Callable[..., Any]) -> None:
    known = json.loads(cli("defenses", "--json").out)
    assert {defense["name"] for defense in known} == set(DEFENSES)
    assert all(defense["source"] and defense["cost"] for defense in known)
    lines = cli("defenses").out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert sorted(names) == sorted(DEFENSES)
    assert "post-training: mmpoison sterilize --method NAME" in lines
    shown = " ".join(cli("defenses", "--all").out.split())
    assert "local-density (pre-training)" in shown
    assert "Huang et al., ICLR 2025" in shown
    assert "parameter k: number of neighbours" in shown
    assert "default 16" in shown
    assert "default cut: clean_loss 0.02" in shown
    assert "cuts: threshold, clean_loss, labels, false_alarms" in shown
    one = cli("defenses", "clean-finetune").out
    assert "post-training" in one
    assert "pre-training" not in one
