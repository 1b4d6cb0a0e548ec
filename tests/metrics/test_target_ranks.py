"""Ranks of target images against a sort in plain Python."""

import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmpoison.errors import InputError
from mmpoison.metrics import _ranks, constant_rows, target_ranks, tie_count

Case = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]


def slow_rank(scores: list[float], is_target: list[bool]) -> int:
    """Position of the first target once all are sorted, non-targets first among equals."""
    ordered = sorted(zip(scores, is_target, strict=True), key=lambda entry: (-entry[0], entry[1]))
    return next(place for place, (_, target) in enumerate(ordered) if target)


def slow_ties(scores: list[float], is_target: list[bool]) -> bool:
    best = max(s for s, t in zip(scores, is_target, strict=True) if t)
    return best in [s for s, t in zip(scores, is_target, strict=True) if not t]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A similarity matrix, often tied, with one target set a query or one for all."""
    queries, gallery = draw(st.integers(0, 6)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8]))
    tied = st.integers(0, 3)
    wide = st.floats(-100, 100, width=16) | st.sampled_from([np.inf, -np.inf])
    values = draw(st.sampled_from([tied, wide])) if np.dtype(dtype).kind == "f" else tied
    scores = draw(hnp.arrays(dtype, (queries, gallery), elements=values))
    shape = draw(st.sampled_from([(gallery,), (queries, gallery)]))
    mask = draw(hnp.arrays(np.bool_, shape))
    mask[..., draw(st.integers(0, gallery - 1))] = True
    return scores, mask


@given(cases(), st.integers(1, 30))
def test_equals_a_sort_at_every_chunk_size(case: Case, chunk: int) -> None:
    scores, mask = case
    rows = np.broadcast_to(mask, scores.shape).tolist()
    expected = [slow_rank(s, t) for s, t in zip(scores.tolist(), rows, strict=True)]
    ties = sum(slow_ties(s, t) for s, t in zip(scores.tolist(), rows, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranks, "_CHUNK_VALUES", chunk)
        ranks = target_ranks(scores, mask)
        assert tie_count(scores, mask) == ties
    assert ranks.dtype == np.int64
    assert ranks.tolist() == expected
    assert target_ranks(scores, mask).tolist() == expected


def test_inputs_are_left_alone() -> None:
    scores, mask = np.eye(4), np.eye(4, dtype=bool)
    target_ranks(scores, mask)
    tie_count(scores, mask)
    assert (scores == np.eye(4)).all()
    assert (mask == np.eye(4, dtype=bool)).all()


def test_float16_is_compared_without_overflow_and_int64_without_rounding_to_float32() -> None:
    assert target_ranks(np.array([[60000, 65504]], np.float16), [True, False]).tolist() == [1]
    assert target_ranks(np.array([[16777217, 16777216]]), [True, False]).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read(dtype: torch.dtype) -> None:
    scores = torch.tensor([[0.25, 0.5, 0.75]], dtype=dtype, requires_grad=True)
    assert target_ranks(scores, torch.tensor([True, False, False])).tolist() == [2]


@pytest.mark.parametrize("function", [target_ranks, tie_count])
@pytest.mark.parametrize(
    ("similarity", "targets", "message"),
    [
        (np.zeros(3), [True] * 3, r"shape \(Q, G\), not \(3,\)"),
        (np.zeros((2, 0)), np.zeros(0, bool), r"no columns: shape \(2, 0\)"),
        (np.zeros((2, 3)), [True] * 4, r"shape \(4,\) do not match similarity of shape \(2, 3\)"),
        (np.zeros((2, 3)), np.ones((3, 2), bool), r"shape \(3, 2\) do not match .* \(2, 3\)"),
        (np.zeros((2, 3)), np.array(True), r"shape \(\) do not match"),
        (np.zeros((2, 3)), [0, 1, 0], r"boolean mask .*int64 of shape \(3,\)"),
        (np.zeros((2, 3)), [False] * 3, r"no target image in targets of shape \(3,\)"),
        (np.zeros((0, 3)), [False] * 3, "no target image"),
        (np.zeros((2, 2)), [[True, True], [False, False]], "no target image for query 1"),
        ([[0.0, 1.0], [0.0, float("nan")]], [True, False], r"query 1 contain NaN; shape \(2, 2\)"),
        ([[float("nan"), 1.0]], [True, False], "query 0 contain NaN"),
        ([[float("nan"), 1.0]], [[False, True]], "query 0 contain NaN"),
        (np.zeros((1, 2), complex), [True, False], "real numbers, not complex128"),
        (np.zeros((1, 2), bool), [True, False], "real numbers, not bool"),
        ([["a", "b"]], [True, False], "real numbers"),
        ([[0.1, 0.2], [0.3]], [True, False], "similarity cannot be read as an array"),
    ],
)
def test_bad_input(function: Any, similarity: Any, targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        function(similarity, targets)
    assert "\n" not in str(caught.value)


def test_nan_names_its_query_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ranks, "_CHUNK_VALUES", 4)
    scores = np.zeros((9, 2))
    scores[7, 1] = np.nan
    for call in (lambda: target_ranks(scores, [True, False]), lambda: constant_rows(scores)):
        with pytest.raises(InputError, match="query 7 contain NaN"):
            call()


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 2)
    ),
    st.integers(1, 12),
)
def test_constant_rows_counts_rows_of_one_value(scores: npt.NDArray[Any], chunk: int) -> None:
    expected = sum(len(set(row)) == 1 for row in scores.tolist()) / len(scores)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ranks, "_CHUNK_VALUES", chunk)
        assert constant_rows(scores) == expected


def test_constant_rows_forgives_rounding_only() -> None:
    one = np.float32(1)
    assert constant_rows([[one, np.nextafter(one, np.float32(2))]]) == 1.0
    assert constant_rows([[1.0, 1.0 + 1e-5]]) == 0.0
    assert constant_rows([[1e-9, 2e-9]]) == 0.0
    assert constant_rows([[0.0, 0.0]]) == 1.0
    assert constant_rows([[np.inf, np.inf], [np.inf, -np.inf], [np.inf, 0.0]]) == 1 / 3


def test_constant_rows_of_no_query() -> None:
    with pytest.raises(InputError, match=r"no queries: shape \(0, 3\)"):
        constant_rows(np.zeros((0, 3)))


def test_metrics_import_without_torch() -> None:
    code = "import sys, mmpoison.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
