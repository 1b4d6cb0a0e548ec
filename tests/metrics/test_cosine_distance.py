"""Cosine distance against exact sums in plain Python."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mmpoison.errors import InputError
from mmpoison.metrics import _drift, cosine_distance, drift


def slow_distance(a: list[float], b: list[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / (math.hypot(*a) * math.hypot(*b))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6)))
    values = st.floats(-8, 8, width=16).filter(lambda v: v == 0 or abs(v) > 1e-2)
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16]))
    a, b = (draw(hnp.arrays(dtype, shape, elements=values)) for _ in range(2))
    a[~a.any(axis=1), 0] = 1
    b[~b.any(axis=1), -1] = -1
    return a, b


@given(pairs(), st.integers(1, 12))
def test_equals_the_definition_at_every_chunk_size(
    pair: tuple[npt.NDArray[Any], npt.NDArray[Any]], chunk: int
) -> None:
    a, b = pair
    expected = [slow_distance(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_drift, "_CHUNK_VALUES", chunk)
        distances = cosine_distance(a, b)
    assert distances.dtype == np.float64
    assert distances.tolist() == pytest.approx(expected, abs=1e-12)
    assert ((distances >= 0) & (distances <= 2)).all()
    assert drift(a, b) == pytest.approx(sum(expected) / len(expected), abs=1e-12)
    assert cosine_distance(b, a).tolist() == distances.tolist()
    assert cosine_distance(a, a).tolist() == [0.0] * len(a)


def test_tiny_distances_keep_their_digits() -> None:
    angle = 1e-9
    distance = cosine_distance([[1.0, 0.0]], [[math.cos(angle), math.sin(angle)]])
    assert distance.tolist() == pytest.approx([angle**2 / 2], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_length_does_not_matter(scale: float) -> None:
    assert cosine_distance([[scale, scale]], [[1, 0]]).tolist() == pytest.approx([1 - 0.5**0.5])


def test_tensors_and_no_rows() -> None:
    a = torch.ones((2, 3), dtype=torch.bfloat16, requires_grad=True)
    assert cosine_distance(a, -a).tolist() == [2.0, 2.0]
    assert cosine_distance(np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)
    with pytest.raises(InputError, match=r"no embeddings: shape \(0, 3\)"):
        drift(np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize("function", [cosine_distance, drift])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 0.0], [1.0, 0.0], r"a must have shape \(N, d\), not \(2,\)"),
        (np.ones((2, 3)), np.ones((3, 3)), r"a and b differ: \(2, 3\) and \(3, 3\)"),
        (np.ones((1, 3)), np.ones((2, 3)), "shapes of a and b differ"),
        (np.ones((2, 0)), np.ones((2, 0)), r"no columns: shape \(2, 0\)"),
        ([[1.0, 0.0], [0.0, 0.0]], np.ones((2, 2)), "a row 1 is a zero vector"),
        (np.ones((2, 2)), [[0.0, 0.0], [1.0, 0.0]], "b row 0 is a zero vector"),
        ([[1.0, float("nan")]], [[1.0, 1.0]], "a row 0 contains NaN"),
        ([[1.0, 1.0]], [[1.0, float("inf")]], "b row 0 contains NaN or infinity"),
        ([["x"]], [[1.0]], "real numbers"),
    ],
)
def test_bad_input(function: Any, a: Any, b: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(a, b)


def test_zero_vector_names_its_row_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_drift, "_CHUNK_VALUES", 4)
    a = np.ones((9, 2))
    a[7] = 0
    with pytest.raises(InputError, match="a row 7 is a zero vector"):
        cosine_distance(a, np.ones((9, 2)))
