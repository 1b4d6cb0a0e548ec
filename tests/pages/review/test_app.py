"""The review's server: pairs and images by number, verdicts that are on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.scan_results import write_scan_result

from mmpoison.datasets import PairDataset
from mmpoison.defenses.scan.cut.labels import LabelFile, Neighbour, ShownPair, read_labels
from mmpoison.pages.review import review_app
from mmpoison.records.data_scan import DataScan, read_scan


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def pairs_of(squares: PairDataset) -> list[ShownPair]:
    ids, root = squares.images.ids, squares.root
    return [
        ShownPair(
            f"{ids[n]}#0",
            ids[n],
            f"caption {n}\x1b[31m",
            root,
            0.5,
            by_image=(Neighbour("near", ids[n + 1], root, 0.12345),),
        )
        for n in range(3)
    ]


def empty_scan(folder: Path) -> DataScan:
    return read_scan(write_scan_result(folder / "empty", []))


@pytest.fixture
def client(squares: PairDataset, file: Path) -> Iterator[TestClient]:
    pairs = pairs_of(squares)
    with LabelFile(file, [pair.pair for pair in pairs]) as labels:
        app = review_app(pairs, labels, title="a\nb", scan=empty_scan(file.parent))
        yield TestClient(app, base_url="http://127.0.0.1")


def decide(client: TestClient, number: int, verdict: str, was: str = "") -> tuple[int, list[str]]:
    name = client.get(f"/api/pairs/{number}").json()["name"]
    answer = client.post(
        f"/api/pairs/{number}/verdict", json={"pair": name, "verdict": verdict, "was": was}
    )
    return answer.status_code, answer.json().get("verdicts")


def test_the_goal_and_its_reason_are_with_the_pair(squares: PairDataset, tmp_path: Path) -> None:
    first, second, third = pairs_of(squares)
    pairs = [replace(first, goal=0, kept=False), replace(second, goal=9), third]
    group = {"sentence": "about\x1b[1m sheep", "other_explanations": ["chance", "a\nb"]}
    scan = read_scan(write_scan_result(tmp_path, [], groups=[group], score_name="evidence\n"))
    with LabelFile(tmp_path / "x.csv", [pair.pair for pair in pairs]) as labels:
        app = review_app(pairs, labels, title="t", scan=scan)
        client = TestClient(app, base_url="http://127.0.0.1")
        review = client.get("/api/review").json()
        found = [client.get(f"/api/pairs/{number}").json()["goal"] for number in range(3)]
    assert review["score_name"] == r"evidence\n"
    # of a group that the scan does not list nothing is said
    assert found == [0, None, None]
    assert review["goals"] == [
        {
            "grade": "poisoning likely",
            "pairs": 2,
            "sentence": r"about\x1b[1m sheep",
            "why": "31 alike",
            "other_explanations": ["chance", r"a\nb"],
        }
    ]


def test_one_verdict_decides_on_a_group(squares: PairDataset, tmp_path: Path) -> None:
    """On all of its pairs that nobody has decided on, shown or not; it can be taken back."""
    pairs = [replace(pair, goal=0, kept=False) for pair in pairs_of(squares)]
    names = [pair.pair for pair in pairs]
    scan = read_scan(write_scan_result(tmp_path, [], groups=[{}]))
    file = tmp_path / "x.csv"
    with LabelFile(file, names) as labels:
        app = review_app(pairs, labels, title="t", scan=scan, members=[[*names, "more.png#0"]])
        client = TestClient(app, base_url="http://127.0.0.1")
        assert decide(client, 1, "keep")[0] == 200
        inside = client.get("/api/groups/0").json()
        assert [one["place"] for one in inside] == [0, 1, 2]
        assert inside[1]["caption"] == r"caption 1\x1b[31m"
        assert client.get("/api/groups/1").json() == []
        answer = client.post("/api/groups/0/verdict", json={"verdict": "drop"})
        assert answer.json() == {"verdicts": ["drop", "keep", "drop"], "count": 3}
        assert read_labels(file) == {
            **dict(zip(names, ["drop", "keep", "drop"], strict=True)),
            "more.png#0": "drop",
        }
        answer = client.post("/api/groups/0/verdict", json={"verdict": ""})
        assert answer.json()["verdicts"] == ["", "keep", ""]
        assert client.post("/api/groups/1/verdict", json={"verdict": "drop"}).status_code == 404
        answer = client.post("/api/groups/0/verdict", json={"verdict": "unsure"})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/api/pairs/3",
        "/api/pairs/-1",
        "/images/4/large",
        "/images/-1/large",
        "/images/0/huge",
        "/images/..%2f..%2fetc%2fpasswd/large",
    ],
)
def test_what_there_is_not(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 422)


def test_a_verdict_is_in_the_file_when_the_answer_comes(client: TestClient, file: Path) -> None:
    assert decide(client, 1, "drop") == (200, ["", "drop", ""])
    assert list(read_labels(file).values()) == ["", "drop", ""]
    # somebody whose page is out of date changes nothing, and learns how it is
    assert decide(client, 1, "keep") == (409, ["", "drop", ""])
    assert list(read_labels(file).values()) == ["", "drop", ""]
    assert decide(client, 1, "", was="drop") == (200, ["", "", ""])


def test_a_page_of_another_review_changes_nothing(client: TestClient, file: Path) -> None:
    answer = client.post(
        "/api/pairs/0/verdict", json={"pair": "other.png#0", "verdict": "drop", "was": ""}
    )
    assert answer.status_code == 410
    assert set(read_labels(file).values()) == {""}


def test_a_file_that_somebody_broke_is_said(client: TestClient, file: Path) -> None:
    file.write_text("pair,verdict\nx#0,perhaps\n")
    answer = client.get("/api/review")
    assert answer.status_code == 400
    assert "line 2: verdict 'perhaps'" in answer.json()["error"]
