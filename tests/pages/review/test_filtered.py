"""The most suspicious pairs of a filter's result, and what resembles them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.filtered_folder import read_filter_facts

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.defenses import DEFENSES
from mmpoison.defenses.cut import Cut
from mmpoison.defenses.filters.filter_result import PairScores, SuspectedGoal
from mmpoison.defenses.filters.judging import filter_pairs
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, prepare_pixels
from mmpoison.pages.review import add_neighbours, filtered_pairs


@pytest.fixture(scope="module")
def judge(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    return make_encoder(7)


@pytest.fixture(scope="module")
def kept(square_folder: Path, judge: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filtered") / "kept"
    filter_pairs(square_folder, judge, out=out, clean_loss=0.1, images="none")
    return out


def test_the_most_distant_come_first(kept: Path, square_folder: Path) -> None:
    lines = [json.loads(line) for line in (kept / "verdicts.jsonl").read_text().splitlines()]
    shown = filtered_pairs(kept, PairPieces(square_folder, images_at_once=5), 30)
    worst = sorted(lines, key=lambda line: -line["distance"])[:30]
    assert [pair.pair for pair in shown] == [line["pair"] for line in worst]
    assert [pair.distance for pair in shown] == [line["distance"] for line in worst]
    assert [pair.kept for pair in shown] == [line["keep"] for line in worst]
    assert not shown[0].kept
    assert shown[-1].kept
    captions = load_pairs(square_folder)
    for pair in shown[:3]:
        assert len(pair.others) == 4
        assert pair.caption not in pair.others
        assert pair.caption in captions.captions
    assert len(filtered_pairs(kept, PairPieces(square_folder), 10_000)) == len(lines)


METHODS = [name for name, found in DEFENSES.items() if found.kind == "pre-training"]


@pytest.mark.parametrize("method", METHODS)
def test_the_result_of_every_method(
    method: str,
    square_folder: Path,
    judge: DualEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is found from any folder; dropped pairs come first; the score has its own name."""
    cut: dict[str, Any] = {} if method == "gmm-split" else {"clean_loss": 0.1}
    monkeypatch.chdir(square_folder.parent)
    out = tmp_path / "there" / "kept"
    out.parent.mkdir()
    done = filter_pairs(square_folder.name, judge, method, out=out, images="none", **cut)
    monkeypatch.chdir(tmp_path)
    kept = Path("there/kept")
    facts = read_filter_facts(kept)
    assert Path(facts.source(kept)) == square_folder.resolve()
    assert facts.score_name == DEFENSES[method].score_name  # type: ignore[attr-defined]
    assert ("distance" in facts.score_name) == (method == "relevance-filter")
    shown = filtered_pairs(kept, PairPieces(facts.source(kept)), 10_000)
    dropped = int((~done.keep).sum())
    assert dropped
    assert [pair.kept for pair in shown] == [False] * dropped + [True] * int(done.keep.sum())
    for part in (shown[:dropped], shown[dropped:]):
        scores = [pair.distance for pair in part]
        assert scores == sorted(scores, reverse=True)


class TwoGoals(ScoreFilter):
    """Suspects what it is told to; scores rise from the first pair to the last."""

    name = "two-goals"
    kind = "pre-training"
    source = summary = cost = "a test"
    parameters: ClassVar[dict[str, str]] = {}
    finds_groups = True
    default_cut = Cut(false_alarms=0.01)

    def score(self, pairs: PairDataset, *_: Any, **__: Any) -> PairScores:
        def goal(rows: list[int], score: float, false_alarms: float = 0.001) -> SuspectedGoal:
            rows_of = np.array(rows)
            return SuspectedGoal(
                ("sheep",), ("plane",), rows_of, 9, 9, 9, 2, false_alarms, 1.0, score, (), ()
            )

        goals = (goal([3, 7, 9], 1.0), goal([20, 7, 4], 2.0), goal([11], 3.0, false_alarms=0.5))
        return PairScores(np.arange(len(pairs)) / 1000, goals=goals)


def test_pairs_of_suspected_goals_come_first_and_name_their_goal(
    square_folder: Path, judge: DualEncoder, tmp_path: Path
) -> None:
    out = tmp_path / "kept"
    filter_pairs(square_folder, judge, TwoGoals(), out=out, images="none")
    lines = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    # the stronger goal is the first in the list; the third is not significant
    named = {place: line["goal"] for place, line in enumerate(lines) if "goal" in line}
    assert named == {20: 0, 7: 0, 4: 0, 3: 1, 9: 1}
    shown = filtered_pairs(out, PairPieces(square_folder, images_at_once=3), 7)
    assert [pair.goal for pair in shown] == [0, 1, 0, 0, 1, None, None]
    assert [pair.kept for pair in shown] == [False] * 5 + [True] * 2
    facts = read_filter_facts(out)
    assert len(facts.goals) == 2
    assert (
        "9 of 9 images conflict with what similar images are captioned with" in facts.goals[0].why
    )
    assert facts.score_name == "score"


def test_another_set_is_refused(kept: Path, own_square_folder: Path) -> None:
    file = own_square_folder / "captions.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[5:] + lines[:5]) + "\n")
    with pytest.raises(InputError, match=r"is not the set that .* was filtered from"):
        filtered_pairs(kept, PairPieces(own_square_folder), 30)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no such file; `mmpoison filter --out"),
        ("", "no verdict in it"),
        ("{", "line 1: not valid JSON"),
        ('{"pair": "a#0"}\n', "line 1: is no verdict"),
        (
            '{"pair": "a#0", "caption": "c", "keep": true, "distance": 1, "goal": "x"}\n',
            "line 1: is no verdict",
        ),
        ("[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_broken_verdicts(tmp_path: Path, square_folder: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "verdicts.jsonl").write_text(text)
    with pytest.raises(InputError) as error:
        filtered_pairs(tmp_path, PairPieces(square_folder), 5)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"image": 3}\n', "an object with image and reason is needed"),
    ],
)
def test_a_broken_list_of_unreadable_images(
    kept: Path, tmp_path: Path, square_folder: Path, text: str, says: str
) -> None:
    (tmp_path / "verdicts.jsonl").write_bytes((kept / "verdicts.jsonl").read_bytes())
    assert filtered_pairs(tmp_path, PairPieces(square_folder), 5)
    (tmp_path / "unreadable.jsonl").write_text(text)
    with pytest.raises(InputError, match=f"unreadable.jsonl line 1: {says}"):
        filtered_pairs(tmp_path, PairPieces(square_folder), 5)


def test_neighbours_are_the_nearest_on_other_images(
    kept: Path, square_folder: Path, squares: PairDataset, judge: DualEncoder
) -> None:
    pieces = PairPieces(square_folder, images_at_once=7)
    shown = add_neighbours(filtered_pairs(kept, pieces, 6), pieces, judge, nearest=3)
    train = squares.select(split="train")
    text, image = embed_pairs(judge, prepare_pixels(judge, train), train)
    ids = train.images.ids[train.image]
    for pair in shown:
        row = next(
            n
            for n in range(len(train))
            if (ids[n], train.captions[n]) == (pair.image, pair.caption)
        )
        for found, vectors in ((pair.by_caption, text), (pair.by_image, image)):
            distance = np.where(ids == pair.image, np.inf, 1 - vectors @ vectors[row])
            if found is pair.by_image:
                distance = distance[np.unique(train.image, return_index=True)[1]]
            np.testing.assert_allclose(
                [other.distance for other in found],
                np.clip(np.sort(distance)[:3], 0, 2),
                atol=1e-5,
            )
            assert pair.image not in [other.image for other in found]
        assert len({other.image for other in pair.by_image}) == 3
