"""Own columns: names that do not clash, values that can be written, and pairs that keep theirs."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal

from mmpoison.pairs.builder import ImageEntry, PairsBuilder
from mmpoison.pairs.labels import label_by_keyword
from mmpoison.pairs.table import (
    MOST_CHARACTERS,
    RESERVED_NAMES,
    PairDataset,
    add_kinds,
    check_own,
    column_value,
    common_columns,
    own_keys,
    own_names,
    own_values,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(st.sampled_from(["image", "label", "n", " n", "", "n_", "key"]), max_size=8))
def test_names_are_different_and_never_ours(names: list[str]) -> None:
    found = list(own_names(names, ["image"]).values())
    assert len(found) == len(set(found)) == len(names) - ("image" in names)
    assert not RESERVED_NAMES & set(found)


def test_values_of_other_kinds_become_text() -> None:
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    assert own_values({"a": moment, "b": Decimal("1.50"), "c": float("inf"), "d": b"x"}) == {
        "a": "2020-01-02 03:04:05",
        "b": "1.50",
        "c": "inf",
    }
    assert own_keys({"image": 1, "key": 2, "n": 3}, ["image"]) == {"key_": 2, "n": 3}


def test_what_cannot_be_written_is_refused() -> None:
    check_own({"a": "x" * (MOST_CHARACTERS - 20)})
    assert "own columns exceed" in refusal(check_own, {"a": "x" * MOST_CHARACTERS})
    assert "not UTF-8 text" in refusal(check_own, {"a": ["\udcff"]})


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.booleans()), max_size=4)
)
def test_common_columns_say_the_same_as_all_rows(rows: list[dict[str, Any]]) -> None:
    common, rest = common_columns(rows)
    again = [{**common, **one} for one in rest or [{}] * len(rows)]
    assert [json.dumps(r, sort_keys=True) for r in again] == [
        json.dumps(r, sort_keys=True) for r in rows
    ]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES.filter(lambda v: v is not None))))
def test_a_column_holds_all_its_values(rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    rows = [own_values(row) for row in rows]
    kinds: dict[str, Any] = {}
    add_kinds(kinds, rows)
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    for name, kind in kinds.items():
        cells = [column_value(row.get(name), kind) for row in rows]
        assert len(pa.array(cells, types[kind])) == len(rows)


# -- in a table of pairs ---------------------------------------------------------------------------


@pytest.fixture
def pairs() -> PairDataset:
    builder = PairsBuilder(Path("root"))
    captions = ["a sheep", "a cow", "\udcff", "a dog"]
    own = [{"id": 0}, {"id": 1}, {"id": 2}, {"id": 3}]
    builder.add(ImageEntry("b.jpg", captions, "line 1", own={"by": "Ann"}, own_captions=own))
    builder.add(ImageEntry("a.jpg", ["a cat"], "line 2"))
    builder.add(ImageEntry("c.jpg", ["a plane"], "line 3", own={"by": "Bo"}))
    return builder.build("x")


def _shown(pairs: PairDataset) -> list[tuple[str, str, Any, Any]]:
    assert pairs.images.own_columns is not None
    assert pairs.own_columns is not None
    return [
        (pair.image, pair.caption, pairs.images.own_columns[pairs.image[n]], pairs.own_columns[n])
        for n, pair in enumerate(pairs)
    ]


ALL = [
    ("b.jpg", "a sheep", {"by": "Ann"}, {"id": 0}),
    ("b.jpg", "a cow", {"by": "Ann"}, {"id": 1}),
    ("b.jpg", "a dog", {"by": "Ann"}, {"id": 3}),
    ("a.jpg", "a cat", None, None),
    ("c.jpg", "a plane", {"by": "Bo"}, None),
]


def test_every_caption_keeps_its_own(pairs: PairDataset) -> None:
    assert _shown(pairs) == ALL
    assert _shown(pairs.where(np.array([False, True, False, True, True]))) == [
        ALL[n] for n in (1, 3, 4)
    ]
    assert _shown(pairs.piece([0, 2])) == [ALL[n] for n in (0, 1, 2, 4)]
    assert _shown(label_by_keyword(pairs, {"sheep": ["sheep"]})) == ALL


def test_lines_have_them_where_they_are_asked_for(pairs: PairDataset) -> None:
    plain, own = list(pairs.lines()), list(pairs.lines(own_columns=True))
    assert own[0] == {
        **plain[0], "by": "Ann", "caption_columns": [{"id": 0}, {"id": 1}, {"id": 3}],
    }  # fmt: skip
    assert own[1:] == [plain[1], {**plain[2], "by": "Bo"}]
    # a fingerprint is of the pairs alone
    bare = PairDataset.build(pairs.images, pairs.captions, pairs.image, problems=pairs.problems)
    assert bare.fingerprint == pairs.fingerprint
