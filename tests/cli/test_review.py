"""The verb `review`, and the page of `filter --label`."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from mmpoison.defenses.filters.pair_labels import read_labels, shown_pairs
from mmpoison.defenses.filters.pair_pieces import PairPieces


def test_labels_from_a_page(
    square_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numpy as np

    import mmpoison.cli.review as module

    pairs = shown_pairs(PairPieces(square_folder), "train", [3, 0], np.zeros(200))
    file = tmp_path / "labels.csv"
    seen: list[Any] = []

    def post(address: str, path: str, body: dict[str, str]) -> None:
        request = urllib.request.Request(
            address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=20).close()

    def person(address: str) -> None:
        with urllib.request.urlopen(f"{address}api/pairs/0", timeout=20) as answer:
            seen.append(json.load(answer))
        post(
            address,
            "api/pairs/0/verdict",
            {"pair": seen[0]["name"], "verdict": "drop", "was": ""},
        )
        post(address, "api/finish", {})

    def announce(address: str, **_: Any) -> None:
        threading.Thread(target=person, args=(address,)).start()

    monkeypatch.setattr(module, "announce", announce)
    module.ask_on_page(pairs, file, title="t", port=0)
    assert read_labels(file) == {pairs[0].pair: "drop", pairs[1].pair: ""}
    # the distance would be the answer
    assert seen[0]["distance"] is seen[0]["kept"] is None
    assert len(seen[0]["others"]) == 4
    assert "0 keep, 1 drop, 0 unsure, 1 open" in capsys.readouterr().out
