"""The verb `defenses`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmpoison.defenses import DEFENSES


def test_all_are_listed(cli: Callable[..., Any]) -> None:
    lines = cli("defenses").out.splitlines()
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert sorted(names) == sorted(DEFENSES)
    shown = " ".join(cli("defenses", "--all").out.split())
    assert "local-density (pre-training)" in shown
    assert "clean-finetune (post-training)" in shown
