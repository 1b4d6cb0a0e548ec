"""The page of a scan of a data set: what data say is shown, and does nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from mmpoison.records.data_scan import DataScan
from mmpoison.reporting.scan_result import SHARDS_SHOWN, write_scan_page

EVIL = '<script>alert("x")</script>\x1b[31m'


def made(**more: Any) -> DataScan:
    group = {
        "sentence": f"captions about {EVIL}",
        "grade": "poisoning likely",
        "pairs": 30,
        "images": 29,
        "false_alarms": 0.002,
        "score": 50.0,
        "why": "30 conflicting pairs are alike",
        "other_explanations": ["chance", "a mistake"],
        "examples": [
            {"id": "one", "caption": EVIL, "address": "https://example.org/a.jpg"},
            {"id": "two", "caption": "a", "address": "javascript:alert(1)"},
            {"id": "three", "caption": "b", "picture": "https://example.org/track.png"},
            {"id": "four", "caption": "c", "picture": "data:image/png;base64,AAAA"},
        ],
    }
    value = {
        "source": EVIL,
        "format": "clip-retrieval",
        "pairs": 100_000,
        "verdict": "poisoning likely",
        "summary": ["1 group"],
        "next_steps": ["look at it"],
        "groups": [group],
        "histogram": {"edges": [0.0, 0.5, 1.0], "own": [3, 9], "shuffled": [9, 3]},
        "planted": [{"images": 25, "planted": 6, "found": 5}],
        "sample": 5000,
        "shards": [{"shard": f"{n:03}", "pairs": 10, "dropped": n} for n in range(50)],
        "failed": [{"shard": "017", "reason": "is truncated"}],
    }
    return DataScan.of({**value, **more})


def test_nothing_of_the_data_runs_or_loads(tmp_path: Path) -> None:
    page = write_scan_page(tmp_path / "scan.html", made()).read_text(encoding="utf-8")
    # the one script is the page's own, and nothing else may run
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; base-uri 'none'" in page
    assert "javascript:" not in page
    assert "\x1b" not in page
    assert "track.png" not in page
    assert re.findall(r'src="(?!data:)', page) == []
    assert page.count('href="https://example.org/a.jpg" rel="noopener noreferrer"') == 1
    assert "data:image/png;base64,AAAA" in page


def test_what_the_scan_says_is_on_the_page(tmp_path: Path) -> None:
    page = write_scan_page(tmp_path / "scan.html", made()).read_text(encoding="utf-8")
    for text in (
        "Poisoning likely",
        "1. Poisoning likely: ",
        "100,000 pairs",
        "look at it",
        "5,000",
        "is truncated",
        '<polyline points="25.00,27.00 75.00,1.00"/>',
    ):
        assert text in page, text
    # the worst shards first, and how many are left out
    assert page.index(">049<") < page.index(">048<")
    assert ">009<" not in page
    assert f"{SHARDS_SHOWN} of 50 shards shown" in page
    assert "4 of 30 pairs shown" in page


def test_the_plot_shows_the_threshold_and_what_is_dropped(tmp_path: Path) -> None:
    counts = {"edges": [0.0, 0.5, 1.0], "own": [9, 3], "dropped": [0, 2]}
    scan = made(histogram=counts, dropped=2, cut={"value": 0.6, "rule": "loss"})
    page = write_scan_page(tmp_path / "scan.html", scan).read_text(encoding="utf-8")
    for text in (
        '<polygon class="gone" points="0,40 25.00,40.00 75.00,31.33 100,40"/>',
        '<line class="cut" x1="60.0" x2="60.0" y2="40"/>',
        '<rect class="above" x="60.0" width="40.0" height="40"/>',
        "threshold: 0.6000, dropped above",
        "2 dropped",
    ):
        assert text in page, text
    # a scan that drops whole groups has no threshold on the scores
    scan = made(histogram=counts, cut={"value": 0.6, "rule": "false-alarms"})
    page = write_scan_page(tmp_path / "scan.html", scan).read_text(encoding="utf-8")
    assert 'class="gone" points' in page
    assert "threshold" not in page


def test_the_power_of_a_scan_is_drawn_against_the_size_of_a_goal(tmp_path: Path) -> None:
    sizes = [{"images": 10, "planted": 6, "found": 0}, {"images": 1250, "planted": 6, "found": 5}]
    page = write_scan_page(tmp_path / "scan.html", made(planted=sizes)).read_text(encoding="utf-8")
    # Clopper and Pearson: nothing of six is up to 1 - 0.025 ** (1 / 6)
    for text in (
        "<td>0%</td><td>0–46%</td>",
        "<td>83%</td><td>36–100%</td>",
        '<line x1="0.0%" y1="25.0%" x2="45.93%" y2="25.0%"/>',
        '<circle cx="83.33%" cy="75.0%" r="5"/>',
        "<bdi>1,250 images</bdi>",
    ):
        assert text in page, text
    # one size is a number and no curve
    page = write_scan_page(tmp_path / "scan.html", made()).read_text(encoding="utf-8")
    assert "Power of the scan" not in page


def test_a_scan_without_findings_has_no_empty_sections(tmp_path: Path) -> None:
    scan = made(verdict="nothing stands out", groups=[], planted=[], failed=[], shards=[])
    page = write_scan_page(tmp_path / "scan.html", scan).read_text(encoding="utf-8")
    assert "Nothing stands out" in page
    for heading in ("the strongest first", "test goals", "What limits", ">Shards<"):
        assert heading not in page
